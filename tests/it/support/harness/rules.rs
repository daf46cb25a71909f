//! Database triggers that refuse changes by orderly, like those an operator might install.

use orderly::order::OrderId;

use super::{Harness, Home};

/// The way a trigger refuses a change.
#[derive(Clone, Copy)]
enum Refusal {
    /// The trigger raises its own message.
    Said,
    /// The trigger itself fails, for lack of a privilege or because of unreadable data.
    Fails,
}

/// The tables of a shared store between which an open order moves.
const PLACES_IN_LINE: [&str; 4] = ["first_line", "second_line", "blocked", "leases"];

impl Harness {
    /// Refuses changes of an order's row for which the condition over `old` and `new` holds. A shared store changes the
    /// row when an attempt or action ends, an embedded one at every step.
    pub async fn refuse_updates(&self, condition: &str) {
        self.rule("update", "orders", "update", condition, Refusal::Said)
            .await;
    }

    /// Does the same with a failing trigger.
    pub async fn fail_updates(&self, condition: &str) {
        self.rule("update", "orders", "update", condition, Refusal::Fails)
            .await;
    }

    /// Refuses new orders for which the condition holds.
    pub async fn refuse_inserts(&self, condition: &str) {
        self.rule("insert", "orders", "insert", condition, Refusal::Said)
            .await;
    }

    /// Refuses to delete orders for which the condition holds.
    pub async fn refuse_deletes(&self, condition: &str) {
        self.rule("delete", "orders", "delete", condition, Refusal::Said)
            .await;
    }

    /// Refuses to move these scheduled orders into their line.
    pub async fn refuse_to_enter_line(&self, ids: &[OrderId]) {
        let these = among("new", ids);
        let (table, event, condition) = match &self.home {
            Home::Folder { .. } => (
                "orders",
                "update",
                format!("{these} and new.status = 0 and old.turn is 2 and new.turn is not 2"),
            ),
            Home::Postgres(_) => ("second_line", "insert", these),
        };
        self.rule("enter", table, event, &condition, Refusal::Said).await;
    }

    /// Refuses to start these orders.
    pub async fn refuse_starts(&self, ids: &[OrderId]) {
        self.rule_for_starts(ids, Refusal::Said).await;
    }

    /// Does the same with a failing trigger.
    pub async fn fail_starts(&self, ids: &[OrderId]) {
        self.rule_for_starts(ids, Refusal::Fails).await;
    }

    async fn rule_for_starts(&self, ids: &[OrderId], refusal: Refusal) {
        let these = among("new", ids);
        match &self.home {
            Home::Folder { .. } => {
                let condition = format!("{these} and new.status = 1");
                self.rule("start", "orders", "update", &condition, refusal).await;
            }
            Home::Postgres(_) => self.rule("start", "leases", "insert", &these, refusal).await,
        }
    }

    /// Refuses all changes of these orders, including their places in line.
    pub async fn refuse_changes(&self, ids: &[OrderId]) {
        self.rule("change", "orders", "update", &among("new", ids), Refusal::Said)
            .await;
        if self.is_embedded() {
            return;
        }
        for table in PLACES_IN_LINE {
            for (event, row) in [("insert", "new"), ("update", "new"), ("delete", "old")] {
                self.rule("change", table, event, &among(row, ids), Refusal::Said)
                    .await;
            }
        }
    }

    /// Refuses to extend the leases of these orders.
    pub async fn refuse_renewals(&self, ids: &[OrderId]) {
        let table = if self.is_embedded() { "orders" } else { "leases" };
        self.rule("renewal", table, "update", &among("new", ids), Refusal::Said)
            .await;
    }

    async fn rule(&self, name: &str, table: &str, event: &str, condition: &str, refusal: Refusal) {
        match &self.home {
            Home::Folder { .. } => {
                let refuses = match refusal {
                    Refusal::Said => "raise(abort, 'not with us')",
                    Refusal::Fails => "json('{')",
                };
                self.embedded(&format!(
                    "create trigger no_{name} before {event} on {table} when {condition} begin select {refuses}; end"
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
                     create trigger no_{name}_{event} before {event} on orderly.{table} for each row when ({condition})
                     execute function refuse()"
                );
                admin
                    .batch_execute(&rule)
                    .await
                    .expect("the trigger is valid SQL");
            }
        }
    }

    /// Removes the trigger.
    pub async fn allow_updates(&self) {
        self.allow("update").await;
    }

    pub async fn allow_inserts(&self) {
        self.allow("insert").await;
    }

    pub async fn allow_deletes(&self) {
        self.allow("delete").await;
    }

    pub async fn allow_starts(&self) {
        self.allow("start").await;
    }

    pub async fn allow_changes(&self) {
        self.allow("change").await;
    }

    pub async fn allow_renewals(&self) {
        self.allow("renewal").await;
    }

    async fn allow(&self, name: &str) {
        match &self.home {
            Home::Folder { .. } => self.embedded(&format!("drop trigger no_{name}")),
            Home::Postgres(database) => {
                let admin = database.admin().await;
                let rules = format!(
                    "select format('drop trigger %I on %s', tgname, tgrelid::regclass) from pg_trigger
                     where tgname like 'no\\_{name}\\_%'"
                );
                let rules = admin.query(&rules, &[]).await.expect("triggers are listed");
                assert!(!rules.is_empty(), "no such trigger");
                let drops: Vec<String> = rules.iter().map(|row| row.get(0)).collect();
                admin
                    .batch_execute(&drops.join("; "))
                    .await
                    .expect("a trigger can be dropped");
            }
        }
    }

    fn embedded(&self, statements: &str) {
        let connection = rusqlite::Connection::open(self.file()).expect("the file can be opened");
        // The store's own writer may be busy.
        let patience = std::time::Duration::from_secs(10);
        connection.busy_timeout(patience).expect("the timeout is set");
        connection
            .execute_batch(statements)
            .expect("the trigger is valid SQL");
    }
}

/// The condition that the row `new` or `old` belongs to one of these orders.
fn among(row: &str, ids: &[OrderId]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    format!("{row}.order_id in ({})", ids.join(", "))
}
