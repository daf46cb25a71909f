//! Statements that a transaction executes for every order or run of orders. Each is looked up once per transaction, because
//! finding a prepared statement by its text costs about as much as a row does in SQLite.

use rusqlite::{CachedStatement, Connection};

use crate::store::columns::order_columns;

#[derive(Clone, Copy)]
pub(super) enum HotStatement {
    InsertOrder,
    InsertEvent,
    InsertEvents,
    ReadPending,
    Start,
    ReadPendingRun,
    StartRun,
    ReadAttempt,
    EndAttempt,
    ReadAttempts,
    CompleteRun,
}

impl HotStatement {
    const COUNT: usize = HotStatement::CompleteRun as usize + 1;

    fn text(self) -> &'static str {
        match self {
            HotStatement::InsertOrder => {
                "insert into orders (order_id, status, version, attempts, generation, crashes, fence, created_at,
                                     user_id, total_amount, item_ids, reference, metadata, turn, user_name, currency, lines,
                                     start_after, held_at, hold_reason, deadline)
                 values (?1, 0, 1, 0, 0, 0, 0, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)"
            }
            HotStatement::InsertEvent => {
                "insert into events (position, order_id, version, kind, status, at, attempt, node, error, detail)
                 values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
            }
            HotStatement::InsertEvents => include_str!("insert_events.sql"),
            HotStatement::ReadPending => concat!(
                "select ",
                order_columns!(),
                ", fence, crashes from orders where order_id = ?1"
            ),
            HotStatement::Start => {
                "update orders set status = 1, version = ?2, attempts = ?3, fence = ?4, node = ?5,
                        lease_expires_at = ?6, processing_at = ?7, outside = ?8, handed_out = ?9
                 where order_id = ?1 and status = 0"
            }
            HotStatement::ReadPendingRun => concat!(
                "select ",
                order_columns!(),
                ", fence, crashes from orders where order_id between ?1 and ?2 order by order_id"
            ),
            HotStatement::StartRun => include_str!("start_run.sql"),
            HotStatement::ReadAttempt => {
                "select version, attempts, processing_at, user_id from orders
                 where order_id = ?1 and fence = ?2 and status = 1"
            }
            HotStatement::EndAttempt => include_str!("end_attempt.sql"),
            HotStatement::ReadAttempts => include_str!("read_attempts.sql"),
            HotStatement::CompleteRun => include_str!("complete_run.sql"),
        }
    }
}

pub(super) struct Statements<'c> {
    connection: &'c Connection,
    found: [Option<CachedStatement<'c>>; HotStatement::COUNT],
}

impl<'c> Statements<'c> {
    pub fn new(connection: &'c Connection) -> Statements<'c> {
        Statements {
            connection,
            found: [const { None }; HotStatement::COUNT],
        }
    }

    pub fn get(&mut self, statement: HotStatement) -> Result<&mut CachedStatement<'c>, rusqlite::Error> {
        let place = &mut self.found[statement as usize];
        match place {
            Some(statement) => Ok(statement),
            None => Ok(place.insert(self.connection.prepare_cached(statement.text())?)),
        }
    }
}
