//! The answer to a claim's message, decoded from the text of its rows.

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use super::super::failure::PgFailure;
use super::super::lower_bound::ClaimObservation;
use super::super::rows::StoredRequest;
use super::super::{rows, turns};
use crate::epoch::EpochIdentity;
use crate::lease::{Lease, NodeId, ProcessorKind};
use crate::order::{Order, OrderId, OrderStatus, Ordering};
use crate::store::{Epochs, SUSPECT_CRASHES, codes};
use crate::time::Timestamp;

/// An order that a claim started: the numbers that the function `start` returns for it, in its order.
#[derive(Deserialize)]
pub(super) struct Granted {
    pub order_id: i64,
    pub fence: i64,
    version: i64,
    attempts: i64,
    generation: i64,
    crashes: i64,
    user_id: i64,
    minor_units: i64,
    created_micros: i64,
    started_micros: i64,
    start_after_micros: i64,
    deadline_micros: i64,
    overdue: i64,
}

/// Returns a time; the lowest number stands for none.
fn time(micros: i64) -> Option<Timestamp> {
    (micros != i64::MIN).then(|| Timestamp::from_micros(micros))
}

/// The texts of an order: codes, reference, metadata, last error, user's name, currency, lines, milestone.
type Texts = [Option<String>; 8];

impl Granted {
    fn lease(
        &self,
        node: NodeId,
        epochs: &Epochs,
        [
            codes,
            reference,
            metadata,
            last_error,
            user_name,
            currency,
            lines,
            milestone,
        ]: Texts,
    ) -> Result<Lease, PgFailure> {
        let order = Order {
            order_id: OrderId(self.order_id),
            status: OrderStatus::Processing,
            version: count(self.version)?,
            attempts: count(self.attempts)?,
            generation: count(self.generation)?,
            created_at: Timestamp::from_micros(self.created_micros),
            processing_at: Some(Timestamp::from_micros(self.started_micros)),
            finished_at: None,
            next_attempt_at: None,
            held_at: None,
            milestone: rows::milestone(milestone.as_deref())?,
            overdue: self.overdue != 0,
            request: rows::request(StoredRequest {
                user: (self.user_id, user_name.as_deref()),
                amount: (self.minor_units, currency.as_deref()),
                items: (codes.as_deref().unwrap_or_default(), lines.as_deref()),
                reference: reference.as_deref(),
                metadata,
                start_after: time(self.start_after_micros),
                deadline: time(self.deadline_micros),
                held: false,
                hold_reason: None,
            })?,
            last_error,
            result: None,
        };
        let suspect = count(self.crashes)? >= SUSPECT_CRASHES;
        Ok(epochs.lease(order, self.fence.cast_unsigned(), node, suspect))
    }
}

fn count(number: i64) -> Result<u32, PgFailure> {
    u32::try_from(number).map_err(|_| PgFailure::undecodable("a count", number))
}

/// The answer to a claim's message.
pub(super) struct Answer {
    pub granted: Vec<Granted>,
    /// The texts of the orders; `None` when they were too long for the answer.
    texts: Option<Vec<Texts>>,
    /// The claim's view of the lines; `None` while the queue is paused, when it reads none.
    pub seen: Option<ClaimObservation>,
    /// Orders of either line that another session has locked.
    pub locked: Vec<OrderId>,
    /// The number of refused orders that the claim saw and stepped around.
    pub refused: usize,
    pub next_due_in: Option<Duration>,
    pub idle: bool,
    /// The newest epoch, as the claim found it.
    pub epoch: EpochIdentity,
    /// The store's ordering. A claim by another starts nothing.
    pub ordering: Ordering,
    /// The store's processor. A claim for another starts nothing.
    pub processor: ProcessorKind,
}

impl Answer {
    /// Decodes the rows of the message's statements. Their columns have distinct names.
    pub fn read(messages: &[SimpleQueryMessage], stepped_around: &[OrderId]) -> Result<Answer, PgFailure> {
        let missing = || PgFailure::undecodable("a claim", "a part of it");
        let values = Values::of(messages);
        let granted: Vec<Granted> = values.json("started")?.unwrap_or_default();
        let texts: Option<Vec<Texts>> = values.json("texts")?;
        if texts.as_ref().is_some_and(|texts| texts.len() != granted.len()) {
            return Err(missing());
        }
        let mut passed_over = values.numbers("passed_first")?;
        let first_passed_over = passed_over.first().copied();
        passed_over.extend(values.numbers("passed_second")?);
        let seen = ClaimObservation {
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
        // There may be turns among the changes that this claim did not process.
        let more_turns = values.number("unseen")? == Some(turns::UNSEEN_MAX);
        Ok(Answer {
            granted,
            texts,
            seen: (values.number("running")? == Some(1)).then_some(seen),
            locked,
            refused: refused.len(),
            next_due_in: if more_turns {
                Some(Duration::ZERO)
            } else {
                next_due_in
            },
            idle: values.number("open_orders")? == Some(0),
            epoch: values
                .number("epoch_identity")?
                .map(|bits| EpochIdentity(bits.cast_unsigned()))
                .ok_or_else(missing)?,
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

impl Answer {
    /// Takes the leases out of the answer; `None` when their texts are not in it.
    pub fn leases(&mut self, node: NodeId, epochs: &Epochs) -> Result<Option<Vec<Lease>>, PgFailure> {
        let Some(texts) = self.texts.take() else {
            return Ok(None);
        };
        let leases = self.granted.iter().zip(texts);
        leases
            .map(|(granted, texts)| granted.lease(node, epochs, texts))
            .collect::<Result<_, _>>()
            .map(Some)
    }
}

/// The rows of a message's statements, one each.
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

    fn number(&self, name: &str) -> Result<Option<i64>, PgFailure> {
        self.text(name).map(number).transpose()
    }

    fn json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, PgFailure> {
        let value = self.text(name).map(serde_json::from_str).transpose();
        value.map_err(|error| PgFailure::undecodable("a part of a claim", error))
    }

    /// Reads an array of numbers, as in `{1,2}`.
    fn numbers(&self, name: &str) -> Result<Vec<i64>, PgFailure> {
        let text = self.text(name).unwrap_or_default();
        let numbers = text.trim_matches(['{', '}']).split(',');
        numbers.filter(|text| !text.is_empty()).map(number).collect()
    }
}

fn number(text: &str) -> Result<i64, PgFailure> {
    text.parse().map_err(|_| PgFailure::undecodable("a number", text))
}
