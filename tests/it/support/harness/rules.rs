//! Rules that an operator put into the database, which refuse what orderly stores.

use super::{Harness, Home};

/// The way a rule refuses a change.
#[derive(Clone, Copy)]
enum Refusal {
    /// With the words of the rule's author.
    Said,
    /// The rule itself fails, as one does that lacks a right or reads what it cannot.
    Fails,
}

impl Harness {
    /// From now on the database refuses each change of an order's row for which the condition over `old` and `new` holds.
    pub async fn refuse_updates(&self, condition: &str) {
        self.rule("update", condition, Refusal::Said).await;
    }

    /// Does the same by a rule that fails instead of refusing.
    pub async fn fail_updates(&self, condition: &str) {
        self.rule("update", condition, Refusal::Fails).await;
    }

    /// The same for each new order.
    pub async fn refuse_inserts(&self, condition: &str) {
        self.rule("insert", condition, Refusal::Said).await;
    }

    /// The same for each order that is taken out.
    pub async fn refuse_deletes(&self, condition: &str) {
        self.rule("delete", condition, Refusal::Said).await;
    }

    async fn rule(&self, event: &str, condition: &str, refusal: Refusal) {
        match &self.home {
            Home::Folder { .. } => {
                let refuses = match refusal {
                    Refusal::Said => "raise(abort, 'not with us')",
                    Refusal::Fails => "json('{')",
                };
                self.embedded(&format!(
                    "create trigger no_{event} before {event} on orders when {condition} begin select {refuses}; end"
                ));
            }
            Home::Postgres(database) => {
                let admin = database.admin().await;
                let code = match refusal {
                    Refusal::Said => "P0001",
                    Refusal::Fails => "42501",
                };
                let rule = format!(
                    "create or replace function refuse() returns trigger language plpgsql as $$
                     begin raise exception 'not with us' using errcode = '{code}'; end $$;
                     create trigger no_{event} before {event} on orderly.orders for each row when ({condition})
                     execute function refuse()"
                );
                admin.batch_execute(&rule).await.expect("the rule is one");
            }
        }
    }

    /// Takes the rule away.
    pub async fn allow_updates(&self) {
        self.allow("update").await;
    }

    pub async fn allow_inserts(&self) {
        self.allow("insert").await;
    }

    pub async fn allow_deletes(&self) {
        self.allow("delete").await;
    }

    async fn allow(&self, event: &str) {
        match &self.home {
            Home::Folder { .. } => self.embedded(&format!("drop trigger no_{event}")),
            Home::Postgres(database) => {
                let admin = database.admin().await;
                let drop = format!("drop trigger no_{event} on orderly.orders");
                admin.batch_execute(&drop).await.expect("there is a rule");
            }
        }
    }

    fn embedded(&self, statements: &str) {
        let connection = rusqlite::Connection::open(self.file()).expect("the file opens");
        // While the store's own writer is at it.
        let patience = std::time::Duration::from_secs(10);
        connection.busy_timeout(patience).expect("a time is set");
        connection.execute_batch(statements).expect("the rule is one");
    }
}
