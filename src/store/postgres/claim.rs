//! Handing out due orders: the claim in one message, whose answer is short, so that the lock is held as short as possible and
//! never while somebody reads. Orders with long texts are read in another. A start of given orders is a claim that does not
//! choose. Orders whose start the database refuses are left to `claim/refused.rs`.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::agreement;
use super::classes::Class;
use super::failure::{Failure, told};
use super::floor::Floor;
use super::functions::named;
use super::link::Link;
use super::locks::CLAIM_LOCK;
use super::message::{with_ids, with_numbers};
use super::pool::{Lent, Pool, STARVED};
use super::rows;
use super::settle::micros;
use super::shared::Shared;
use super::state::State;
use super::turns;
use crate::order::{OrderId, Ordering};
use crate::store::{CLAIM_ORDERS_MAX, ClaimRequest, Claimed, StoreError, codes};

mod answer;
mod leases;
mod refused;

use answer::Answer;

/// For a claim and its turn at the lock.
const CLAIM_TIME_MAX: Duration = Duration::from_secs(5);
/// The same for one without a floor, which may walk past very many dead entries.
const FULL_LOOK_TIME_MAX: Duration = Duration::from_secs(10);
/// Stands for a processor where the node names none.
const ANY: i16 = -1;
/// For the answer to arrive, once the server's own limit has passed.
const ANSWER_SLACK: Duration = Duration::from_secs(5);
/// The fewest and most orders that a claim looks at beyond those wanted, so that it finds enough despite locked ones.
/// Locked orders beyond that keep the orders behind them waiting.
const SPARE_MIN: usize = 4;
const SPARE_MAX: usize = 1_000;
/// The interval between two looks at orders that another session has locked: no notice tells when they are free.
const LOCKED_LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// The message of a claim, numbers left open.
static MESSAGE: LazyLock<String> = LazyLock::new(|| named(include_str!("claim_message.sql")));

/// The choice of the orders that a claim may start.
#[derive(Clone, Copy)]
pub(super) enum Choice<'o> {
    /// The store's: the next ones of both lines.
    Next,
    /// The caller's, each order once.
    Given(&'o [OrderId]),
}

impl<'o> Choice<'o> {
    fn given(self) -> Option<&'o [OrderId]> {
        match self {
            Choice::Next => None,
            Choice::Given(ids) => Some(ids),
        }
    }
}

/// A claim on its way.
#[derive(Clone, Copy)]
struct Asked<'r> {
    request: &'r ClaimRequest,
    choice: Choice<'r>,
    places: usize,
}

/// The claims of this node.
pub(super) struct Claims {
    claimer: Mutex<Claimer>,
    pool: Arc<Pool>,
    state: Arc<State>,
    shared: Arc<Shared>,
}

impl Claims {
    pub fn new(pool: &Arc<Pool>, state: &Arc<State>, shared: &Arc<Shared>, told: Option<Ordering>) -> Claims {
        Claims {
            claimer: Mutex::new(Claimer::new(pool, told)),
            pool: pool.clone(),
            state: state.clone(),
            shared: shared.clone(),
        }
    }

    /// Claims, or starts given orders.
    pub async fn claim(
        &self,
        choice: Choice<'_>,
        request: &ClaimRequest,
        attempted: &'static str,
    ) -> Result<Claimed, StoreError> {
        // One at a time on this node: another would only wait for the same lock in the database.
        let mut claimer = self.claimer.lock().await;
        if self.shared.closing.is_cancelled() {
            return Err(StoreError::Closed);
        }
        // Attempts that started could not end.
        let starved = self.pool.starves().then(|| STARVED.to_owned());
        if let Some(reason) = starved.or_else(|| self.state.refuses_to_store()) {
            return Err(Failure::Unavailable(reason.into()).to_error(attempted));
        }
        told(claimer.claim(request, choice, &self.shared).await, attempted)
    }

    /// Waits for the claim under way.
    pub async fn close(&self) {
        drop(self.claimer.lock().await);
    }
}

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
    /// The bound with which it looked last.
    floor_used: i64,
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
            floor_used: 0,
        }
    }

    async fn claim(
        &mut self,
        request: &ClaimRequest,
        choice: Choice<'_>,
        shared: &Shared,
    ) -> Result<Claimed, Failure> {
        let places = request.orders_max.min(CLAIM_ORDERS_MAX);
        let asked = Asked {
            request,
            choice,
            places,
        };
        let answer = self.claim_around_refused(asked, shared).await;
        let mut answer = answer.inspect_err(|failure| shared.unsure(failure))?;
        if !self.agrees(&answer, request) {
            self.agree(&answer, request, shared).await?;
            let again = self.claim_around_refused(asked, shared).await;
            answer = again.inspect_err(|failure| shared.unsure(failure))?;
        }
        shared.locked.found(answer.locked.iter().copied());
        if !answer.granted.is_empty() {
            shared.changed();
        }
        let next_due_in = match choice {
            Choice::Given(_) => answer.next_due_in,
            Choice::Next => {
                // Turns whether or not both lines had work: where only one had, it makes no difference.
                self.second_line_first ^= !answer.granted.is_empty();
                self.next_look_in(&answer, places, shared)
            }
        };
        let leases = self.leases(&mut answer, request, shared).await?;
        Ok(Claimed {
            // Nor does an answer say so that came by other rules than the store's.
            paused: answer.seen.is_none() && self.agrees(&answer, request),
            leases,
            next_due_in,
            idle: answer.idle,
        })
    }

    /// Returns the time until the next claim. Orders that are locked or refused may be due, but would be passed over again.
    fn next_look_in(&mut self, answer: &Answer, places: usize, shared: &Shared) -> Option<Duration> {
        let passed_over = answer.locked.len() + answer.refused;
        let looked_too_short = passed_over > self.spare && self.spare < SPARE_MAX;
        self.spare = (2 * passed_over).clamp(SPARE_MIN, SPARE_MAX);
        if looked_too_short && answer.granted.len() < places {
            return Some(Duration::ZERO);
        }
        if answer.seen.is_none() {
            // A claim that starts nothing cannot find out whether a refused order may start.
            return answer.next_due_in;
        }
        if !answer.locked.is_empty() {
            return Some(LOCKED_LOOK_INTERVAL);
        }
        shared.refusals.sooner(answer.next_due_in)
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
        shared.go_by(ordering);
        Ok(())
    }

    /// Not sent again when its answer is lost, or twice the orders would be leased, half of them to nobody. But when a
    /// connection proves to be gone that was open before, most likely nothing arrived.
    async fn send(
        &mut self,
        asked: Asked<'_>,
        stepped_around: &[OrderId],
        shared: &Shared,
    ) -> Result<Answer, Failure> {
        let lent = self.link.lend_to_store().await?;
        let may_be_gone = lent.is_old();
        match self.send_over(lent, asked, stepped_around, shared).await {
            Err(Failure::Unknown(_)) if may_be_gone => {
                let lent = self.link.lend().await?;
                let answer = self.send_over(lent, asked, stepped_around, shared).await;
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
        asked: Asked<'_>,
        stepped_around: &[OrderId],
        shared: &Shared,
    ) -> Result<Answer, Failure> {
        let Asked {
            request,
            choice,
            places,
        } = asked;
        let server = lent.server();
        let began = Instant::now();
        // Where orders wait for their turn, one below any floor may get it. A start of given orders does not look at the line.
        let no_floor = self.ordering != Ordering::None || choice.given().is_some();
        let floor = if no_floor {
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
            (":unseen_max", turns::UNSEEN_MAX),
            (":slot", Shared::any_slot().into()),
            (
                ":time_ms",
                i64::try_from(time_max.as_millis()).unwrap_or(i64::MAX),
            ),
            (":lock", CLAIM_LOCK),
        ];
        self.floor_used = floor;
        let arrays = [
            (":stepped_around", Some(stepped_around)),
            (":wanted", choice.given()),
        ];
        let message = with_numbers(&with_ids(&MESSAGE, &arrays), &numbers);
        let messages = self.link.fly_over(lent, &message, time_max + ANSWER_SLACK).await;
        if let (Err(Failure::TimedOut(_)), false) = (&messages, no_floor) {
            self.floor.took_too_long(began, Instant::now());
        }
        let messages = messages?;
        let answer = Answer::read(&messages, stepped_around)?;
        if let Some(seen) = answer.seen.filter(|_| !no_floor) {
            self.floor.saw(seen, began, Instant::now());
            shared.set_floor(self.floor.known());
        }
        Ok(answer)
    }
}
