//! The answer to a claim's message, read from the text of its rows.

use std::time::Duration;

use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use super::super::failure::Failure;
use super::super::floor::Seen;
use super::super::turns;
use crate::lease::ProcessorKind;
use crate::order::{OrderId, Ordering};
use crate::store::codes;

/// A lease as the claim's message tells it.
pub(super) struct Granted {
    pub order_id: i64,
    pub token: i64,
}

/// The answer to the claim's message.
pub(super) struct Answer {
    pub granted: Vec<Granted>,
    /// `None` while the queue is paused: what is hidden is not gone.
    pub seen: Option<Seen>,
    /// Orders of either line that another session has locked.
    pub locked: Vec<OrderId>,
    /// The number of orders that the claim saw and stepped around.
    pub refused: usize,
    pub next_due_in: Option<Duration>,
    pub idle: bool,
    /// The store's; nothing is claimed by another.
    pub ordering: Ordering,
    /// The store's, as well.
    pub processor: ProcessorKind,
}

impl Answer {
    /// Reads the rows of the message's statements, whose columns have names of their own.
    pub fn read(messages: &[SimpleQueryMessage], stepped_around: &[OrderId]) -> Result<Answer, Failure> {
        let missing = || Failure::undecodable("a claim", "a part of it");
        let values = Values::of(messages);
        let order_ids = values.numbers("order_ids")?;
        let tokens = values.numbers("tokens")?;
        if order_ids.len() != tokens.len() {
            return Err(missing());
        }
        let granted = order_ids.into_iter().zip(tokens);
        let mut passed_over = values.numbers("passed_first")?;
        let first_passed_over = passed_over.first().copied();
        passed_over.extend(values.numbers("passed_second")?);
        let seen = Seen {
            last_order_id: values.number("last_order_id")?.ok_or_else(missing)?,
            oldest_running: values.number("oldest_running")?.ok_or_else(missing)?,
            transaction: values.number("transaction")?,
            claimed: values.number("claimed")?,
            exhausted: values.number("exhausted")? == Some(1),
            passed_over: first_passed_over,
        };
        let is_refused = |id: &OrderId| stepped_around.binary_search(id).is_ok();
        let passed_over = passed_over.into_iter().map(OrderId);
        let (refused, locked): (Vec<OrderId>, Vec<OrderId>) = passed_over.partition(is_refused);
        let next_due_in = values
            .number("next_due_in_micros")?
            .map(|micros| Duration::from_micros(micros.max(0).cast_unsigned()));
        // Others may have their turn among those that this claim did not get to see to.
        let more_turns = values.number("unseen")? == Some(turns::UNSEEN_MAX);
        Ok(Answer {
            granted: granted
                .map(|(order_id, token)| Granted { order_id, token })
                .collect(),
            seen: (values.number("running")? == Some(1)).then_some(seen),
            locked,
            refused: refused.len(),
            next_due_in: if more_turns {
                Some(Duration::ZERO)
            } else {
                next_due_in
            },
            idle: values.number("open_orders")? == Some(0),
            ordering: values
                .number("stored_ordering")?
                .and_then(codes::ordering_of)
                .ok_or_else(missing)?,
            processor: values
                .number("stored_processor")?
                .and_then(codes::processor_of)
                .ok_or_else(missing)?,
        })
    }
}

/// The answers to the statements of a message, a row each.
pub(super) struct Values<'m>(Vec<&'m SimpleQueryRow>);

impl<'m> Values<'m> {
    fn of(messages: &'m [SimpleQueryMessage]) -> Values<'m> {
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Values(rows.collect())
    }

    fn text(&self, name: &str) -> Option<&'m str> {
        self.0.iter().find_map(|row| {
            let place = row.columns().iter().position(|column| column.name() == name)?;
            row.get(place)
        })
    }

    fn number(&self, name: &str) -> Result<Option<i64>, Failure> {
        self.text(name).map(number).transpose()
    }

    /// Reads an array, as in `{1,2}`.
    fn numbers(&self, name: &str) -> Result<Vec<i64>, Failure> {
        let text = self.text(name).unwrap_or_default();
        let numbers = text.trim_matches(['{', '}']).split(',');
        numbers.filter(|text| !text.is_empty()).map(number).collect()
    }
}

fn number(text: &str) -> Result<i64, Failure> {
    text.parse().map_err(|_| Failure::undecodable("a number", text))
}
