//! The statements that a transaction executes once for each order or run of orders: looked up once for all of them, since
//! finding one by its text costs about as much as SQLite takes for a row.

use rusqlite::{CachedStatement, Connection};

use crate::store::columns::order_columns;

#[derive(Clone, Copy)]
pub(super) enum Hot {
    InsertOrder,
    InsertEvent,
    InsertEvents,
    ReadWaiting,
    Start,
    ReadWaitingRun,
    StartRun,
    ReadAttempt,
    EndAttempt,
    ReadAttempts,
    CompleteRun,
}

impl Hot {
    const COUNT: usize = Hot::CompleteRun as usize + 1;

    fn text(self) -> &'static str {
        match self {
            Hot::InsertOrder => {
                "insert into orders (order_id, status, version, attempts, generation, crashes, fence, created_at,
                                     user_id, total_amount, item_ids, reference, metadata, turn)
                 values (?1, 0, 1, 0, 0, 0, 0, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"
            }
            Hot::InsertEvent => {
                "insert into events (position, order_id, version, kind, status, at, attempt, node, error)
                 values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
            }
            Hot::InsertEvents => include_str!("insert_events.sql"),
            Hot::ReadWaiting => concat!(
                "select ",
                order_columns!(),
                ", fence, crashes from orders where order_id = ?1"
            ),
            Hot::Start => {
                "update orders set status = 1, version = ?2, attempts = ?3, fence = ?4, node = ?5,
                        lease_expires_at = ?6, processing_at = ?7, outside = ?8, handed_out = ?9
                 where order_id = ?1 and status = 0"
            }
            Hot::ReadWaitingRun => concat!(
                "select ",
                order_columns!(),
                ", fence, crashes from orders where order_id between ?1 and ?2 order by order_id"
            ),
            Hot::StartRun => include_str!("start_run.sql"),
            Hot::ReadAttempt => {
                "select version, attempts, processing_at, user_id from orders
                 where order_id = ?1 and fence = ?2 and status = 1"
            }
            Hot::EndAttempt => include_str!("end_attempt.sql"),
            Hot::ReadAttempts => include_str!("read_attempts.sql"),
            Hot::CompleteRun => include_str!("complete_run.sql"),
        }
    }
}

pub(super) struct Statements<'c> {
    connection: &'c Connection,
    found: [Option<CachedStatement<'c>>; Hot::COUNT],
}

impl<'c> Statements<'c> {
    pub fn new(connection: &'c Connection) -> Statements<'c> {
        Statements {
            connection,
            found: [const { None }; Hot::COUNT],
        }
    }

    pub fn get(&mut self, hot: Hot) -> Result<&mut CachedStatement<'c>, rusqlite::Error> {
        let place = &mut self.found[hot as usize];
        match place {
            Some(statement) => Ok(statement),
            None => Ok(place.insert(self.connection.prepare_cached(hot.text())?)),
        }
    }
}
