//! Handing out due orders: the claim in one message, then what was claimed in another, so that the lock is held as
//! short as possible and never while somebody reads.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::types::Type;
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use super::CLAIM_LOCK;
use super::agreement;
use super::classes::Class;
use super::failure::Failure;
use super::floor::{Floor, Seen};
use super::link::Link;
use super::message::with_numbers;
use super::pool::{Lent, Pool};
use super::rows;
use super::settle::micros;
use super::shared::Shared;
use super::turns;
use crate::lease::{Lease, ProcessorKind};
use crate::order::{OrderId, Ordering};
use crate::store::columns::{ORDER_COLUMNS, order_columns};
use crate::store::{CLAIM_ORDERS_MAX, ClaimRequest, Claimed, SUSPECT_CRASHES, codes};

/// For a claim and its turn at the lock.
const CLAIM_TIME_MAX: Duration = Duration::from_secs(5);
/// The same for one without a floor, which may walk past very many dead entries.
const FULL_LOOK_TIME_MAX: Duration = Duration::from_secs(10);
/// Stands for a processor where the node names none.
const ANY: i16 = -1;
/// For the answer to arrive, once the server's own limit has passed.
const ANSWER_SLACK: Duration = Duration::from_secs(5);
/// First and longest wait before the orders of a claim are read again.
const READ_AGAIN_MIN: Duration = Duration::from_millis(100);
const READ_AGAIN_MAX: Duration = Duration::from_secs(2);

/// The fewest and most orders that a claim looks at beyond those wanted, so that it finds enough despite locked ones.
/// Locked orders beyond that keep the orders behind them waiting.
const SPARE_MIN: usize = 4;
const SPARE_MAX: usize = 1_000;
/// The interval between two looks at orders that another session has locked: no notice tells when they are free.
const LOCKED_LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// What was claimed, id by id: the planner otherwise looks through all that is or was in processing, dead entries too.
const READ_LEASES: &str = concat!(
    "select ",
    order_columns!(),
    ", token, crashes from unnest($1::int8[]) as asked (id) cross join lateral (select ",
    order_columns!(),
    ", token, crashes from orderly.orders where order_id = asked.id and status = 1 offset 0) as found"
);

/// The one connection that claims.
pub(super) struct Claimer {
    link: Link,
    floor: Floor,
    /// Gets the odd place of a claim while both lines have work.
    second_line_first: bool,
    /// The number of spare orders that the next claim looks at.
    spare: usize,
    /// What this node was told of the orders of a user; `None` goes by what the store says.
    told: Option<Ordering>,
    /// By which it claims.
    ordering: Ordering,
    /// Its message, numbers left open.
    message: Cow<'static, str>,
}

/// A lease as the claim's message tells it.
struct Granted {
    order_id: i64,
    token: i64,
}

/// What the claim's message answers.
struct Answer {
    granted: Vec<Granted>,
    /// `None` while the queue is paused: what is hidden is not gone.
    seen: Option<Seen>,
    /// Orders of either line that another session has locked.
    locked: Vec<i64>,
    next_due_in: Option<Duration>,
    idle: bool,
    /// The store's; nothing is claimed by another.
    ordering: Ordering,
    /// The store's, as well.
    processor: ProcessorKind,
}

impl Claimer {
    pub fn new(pool: &Arc<Pool>, told: Option<Ordering>) -> Claimer {
        let ordering = told.unwrap_or_default();
        Claimer {
            link: Link::new(pool.clone(), Class::Claim),
            floor: Floor::new(),
            second_line_first: false,
            spare: SPARE_MIN,
            told,
            ordering,
            message: turns::claim_message(ordering),
        }
    }

    pub async fn claim(&mut self, request: &ClaimRequest, shared: &Shared) -> Result<Claimed, Failure> {
        let places = request.orders_max.min(CLAIM_ORDERS_MAX);
        let answer = self.send(request, places, shared).await;
        let mut answer = answer.inspect_err(|failure| shared.unsure(failure))?;
        if !self.agrees(&answer, request) {
            self.agree(&answer, request, shared).await?;
            let again = self.send(request, places, shared).await;
            answer = again.inspect_err(|failure| shared.unsure(failure))?;
        }
        shared.locked.found(answer.locked.iter().copied().map(OrderId));
        if !answer.granted.is_empty() {
            shared.changed();
            // Turns whether or not both lines had work: where only one had, it makes no difference.
            self.second_line_first = !self.second_line_first;
        }
        let next_due_in = self.next_look_in(&answer, places);
        Ok(Claimed {
            // Nor does an answer say so that came by other rules than the store's.
            paused: answer.seen.is_none() && self.agrees(&answer, request),
            leases: self.read_leases(&answer.granted, request).await?,
            next_due_in,
            idle: answer.idle,
        })
    }

    /// Returns the time until the next claim. Locked orders are due, but would be passed over again.
    fn next_look_in(&mut self, answer: &Answer, places: usize) -> Option<Duration> {
        if answer.locked.is_empty() {
            self.spare = SPARE_MIN;
            return answer.next_due_in;
        }
        let looked_too_short = answer.locked.len() > self.spare && self.spare < SPARE_MAX;
        self.spare = (2 * answer.locked.len()).clamp(SPARE_MIN, SPARE_MAX);
        if looked_too_short && answer.granted.len() < places {
            return Some(Duration::ZERO);
        }
        Some(LOCKED_LOOK_INTERVAL)
    }

    /// Reports whether the store goes by what this node was told.
    fn agrees(&self, answer: &Answer, request: &ClaimRequest) -> bool {
        let same_processor = request.processor.is_none_or(|told| told == answer.processor);
        answer.ordering == self.ordering && same_processor
    }

    /// Finds one processor and one ordering for the store and this node.
    async fn agree(
        &mut self,
        answer: &Answer,
        request: &ClaimRequest,
        shared: &Shared,
    ) -> Result<(), Failure> {
        let (stored, node) = (answer.ordering, request.node);
        if let Some(told) = request.processor.filter(|told| *told != answer.processor) {
            agreement::set_processor(&mut self.link, told, node).await?;
        }
        if stored == self.ordering {
            return Ok(());
        }
        let ordering = match self.told {
            None => stored,
            Some(told) if turns::set_ordering(&mut self.link, told, node).await? => told,
            Some(_) => {
                let text = "other nodes of this store live that go by another ORDERLY_ORDERING: \
                    this one starts no order until they are gone";
                return Err(Failure::Unavailable(text.into()));
            }
        };
        self.ordering = ordering;
        self.message = turns::claim_message(ordering);
        shared.go_by(ordering);
        Ok(())
    }

    /// Not sent again when its answer is lost, or twice the orders would be leased, half of them to nobody. But when a
    /// connection proves to be gone that was open before, most likely nothing arrived.
    async fn send(
        &mut self,
        request: &ClaimRequest,
        places: usize,
        shared: &Shared,
    ) -> Result<Answer, Failure> {
        let lent = self.link.lend().await?;
        let may_be_gone = lent.is_old();
        match self.send_over(lent, request, places).await {
            Err(Failure::Unknown(_)) if may_be_gone => {
                let lent = self.link.lend().await?;
                let answer = self.send_over(lent, request, places).await;
                // What the first one did, if it arrived after all, is in no answer.
                shared.changed();
                answer
            }
            answer => answer,
        }
    }

    async fn send_over(
        &mut self,
        lent: Lent,
        request: &ClaimRequest,
        places: usize,
    ) -> Result<Answer, Failure> {
        let server = lent.server();
        let began = Instant::now();
        // Where orders wait for their turn, one below any floor may get it.
        let in_turn = self.ordering != Ordering::None;
        let floor = if in_turn {
            Some(0)
        } else {
            self.floor.of(&server, began)
        };
        let Some(floor) = floor else {
            let text = "looking for the oldest order took too long, the next look comes later";
            return Err(Failure::TimedOut(text.into()));
        };
        let time_max = if floor == 0 {
            FULL_LOOK_TIME_MAX
        } else {
            CLAIM_TIME_MAX
        };
        let numbers = [
            (":places", rows::limit(places)),
            (":spare", rows::limit(self.spare)),
            (":node", rows::node_code(request.node)),
            (":lease_micros", micros(request.lease)),
            (":suspect", request.suspect.into()),
            (":outside", request.outside().into()),
            (":handed_out", request.hands_out().into()),
            (
                ":processor",
                request.processor.map_or(ANY, codes::processor_code).into(),
            ),
            (":ordering", codes::ordering_code(self.ordering).into()),
            (":second_line_first", self.second_line_first.into()),
            (":floor", floor),
            (":slot", Shared::any_slot().into()),
            (
                ":time_ms",
                i64::try_from(time_max.as_millis()).unwrap_or(i64::MAX),
            ),
            (":lock", CLAIM_LOCK),
        ];
        let message = with_numbers(&self.message, &numbers);
        let messages = self.link.fly_over(lent, &message, time_max + ANSWER_SLACK).await;
        if let (Err(Failure::TimedOut(_)), false) = (&messages, in_turn) {
            self.floor.took_too_long(began, Instant::now());
        }
        let messages = messages?;
        let answer = Answer::read(&messages)?;
        if let Some(seen) = answer.seen.filter(|_| !in_turn) {
            self.floor.saw(seen, began, Instant::now());
        }
        Ok(answer)
    }

    /// In the order they were granted; one that was lost or cancelled since is left out.
    async fn read_leases(
        &mut self,
        granted: &[Granted],
        request: &ClaimRequest,
    ) -> Result<Vec<Lease>, Failure> {
        if granted.is_empty() {
            return Ok(Vec::new());
        }
        let order_ids: Vec<i64> = granted.iter().map(|lease| lease.order_id).collect();
        let mut pause = READ_AGAIN_MIN;
        let found = loop {
            let read = self
                .link
                .read(READ_LEASES, &[(&order_ids, Type::INT8_ARRAY)])
                .await;
            match read {
                // The leases are this node's: given up, they would have to run out.
                Err(_) if pause <= READ_AGAIN_MAX.min(request.lease / 4) => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                read => break read?,
            }
        };
        let mut leases = HashMap::new();
        for row in &found {
            let lease = Lease {
                order: rows::order(row)?,
                token: rows::large_count(row, ORDER_COLUMNS)?,
                node: request.node,
                suspect: rows::count(row, ORDER_COLUMNS + 1)? >= SUSPECT_CRASHES,
            };
            leases.insert(lease.order.order_id.0, lease);
        }
        let still_granted = |granted: &Granted| {
            let lease = leases.remove(&granted.order_id)?;
            (rows::token_code(lease.token) == granted.token).then_some(lease)
        };
        Ok(granted.iter().filter_map(still_granted).collect())
    }
}

impl Answer {
    /// From the rows of the message's statements, whose columns have names of their own.
    fn read(messages: &[SimpleQueryMessage]) -> Result<Answer, Failure> {
        let missing = || Failure::undecodable("a claim", "a part of it");
        let values = Values::of(messages);
        let order_ids = values.numbers("order_ids")?;
        let tokens = values.numbers("tokens")?;
        if order_ids.len() != tokens.len() {
            return Err(missing());
        }
        let granted = order_ids.into_iter().zip(tokens);
        let mut locked = values.numbers("locked_first")?;
        let passed_over = locked.first().copied();
        locked.extend(values.numbers("locked_second")?);
        let seen = Seen {
            last_order_id: values.number("last_order_id")?.ok_or_else(missing)?,
            oldest_running: values.number("oldest_running")?.ok_or_else(missing)?,
            transaction: values.number("transaction")?,
            claimed: values.number("claimed")?,
            exhausted: values.number("exhausted")? == Some(1),
            passed_over,
        };
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

/// What the statements of a message answered, a row each.
struct Values<'m>(Vec<&'m SimpleQueryRow>);

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

    /// Of an array, as in `{1,2}`.
    fn numbers(&self, name: &str) -> Result<Vec<i64>, Failure> {
        let text = self.text(name).unwrap_or_default();
        let numbers = text.trim_matches(['{', '}']).split(',');
        numbers.filter(|text| !text.is_empty()).map(number).collect()
    }
}

fn number(text: &str) -> Result<i64, Failure> {
    text.parse().map_err(|_| Failure::undecodable("a number", text))
}
