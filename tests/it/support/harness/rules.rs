//! Rules that an operator put into the database, which refuse what orderly stores.

use super::{Harness, Home};

impl Harness {
    /// From now on the database refuses each change of an order's row for which the condition over `old` and `new` holds.
    pub async fn refuse_updates(&self, condition: &str) {
        self.rule("update", condition).await;
    }

    /// The same for each new order.
    pub async fn refuse_inserts(&self, condition: &str) {
        self.rule("insert", condition).await;
    }

    async fn rule(&self, event: &str, condition: &str) {
        match &self.home {
            Home::Folder { .. } => self.embedded(&format!(
                "create trigger no_{event} before {event} on orders when {condition}
                 begin select raise(abort, 'not with us'); end"
            )),
            Home::Postgres(database) => {
                let admin = database.admin().await;
                let rule = format!(
                    "create or replace function refuse() returns trigger language plpgsql as $$
                     begin raise exception 'not with us'; end $$;
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
