//! Claims due orders. A claim is one message with a short answer, so that the lock is held as briefly as possible and
//! never while a node reads. Orders with long texts are read by a second statement. A start of given orders is a
//! claim that does not choose. `claim/refused.rs` handles orders that the database refuses to start.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::advisory_locks::CLAIM_LOCK;
use super::class_connection::ClassConnection;
use super::classes::Class;
use super::database_state::DatabaseState;
use super::failure::{PgFailure, to_store_result};
use super::functions::named;
use super::lower_bound::LowerBoundTracker;
use super::message::{with_ids, with_numbers};
use super::pool::{Pool, PooledConnection, STARVED};
use super::processor_setting;
use super::rows;
use super::settle::micros;
use super::shared::Shared;
use super::turns;
use crate::order::{OrderId, Ordering};
use crate::store::claim::distinct_given;
use crate::store::{CLAIM_ORDERS_MAX, ClaimRequest, Claimed, StoreError, codes};

mod answer;
mod leases;
mod refused;

use answer::Answer;

/// The server's limit for a claim, including its wait for the lock.
const CLAIM_TIME_MAX: Duration = Duration::from_secs(5);
/// The limit for a claim that scans the first line from its start, past possibly many dead entries.
const FULL_SCAN_TIME_MAX: Duration = Duration::from_secs(10);
/// The code in place of a processor when the node names none.
const ANY: i16 = -1;
/// The extra time for the answer to arrive after the server's limit.
const ANSWER_SLACK: Duration = Duration::from_secs(5);
/// The fewest and most orders that a claim looks at beyond those wanted, so that it finds enough despite locked ones.
/// More locked orders than that keep the orders behind them waiting.
const SPARE_MIN: usize = 4;
const SPARE_MAX: usize = 1_000;
/// The interval between two claims while orders are locked: no notification tells when they are free.
const LOCKED_RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// The message of a claim, with its numbers left open.
static MESSAGE: LazyLock<String> = LazyLock::new(|| named(include_str!("claim_message.sql")));

/// Selects the orders that a claim may start.
#[derive(Clone, Copy)]
pub(super) enum Choice<'o> {
    /// The next orders of both lines, as the store chooses them.
    Next,
    /// Orders that the caller chose, each once.
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

/// The parameters of a claim.
#[derive(Clone, Copy)]
struct ClaimParameters<'r> {
    request: &'r ClaimRequest,
    choice: Choice<'r>,
    places: usize,
}

/// The claims of this node.
pub(super) struct Claims {
    claimer: Mutex<Claimer>,
    pool: Arc<Pool>,
    state: Arc<DatabaseState>,
    shared: Arc<Shared>,
}

impl Claims {
    pub fn new(
        pool: &Arc<Pool>,
        state: &Arc<DatabaseState>,
        shared: &Arc<Shared>,
        configured_ordering: Option<Ordering>,
    ) -> Claims {
        Claims {
            claimer: Mutex::new(Claimer::new(pool, configured_ordering)),
            pool: pool.clone(),
            state: state.clone(),
            shared: shared.clone(),
        }
    }

    /// Claims the next orders.
    pub async fn next(&self, request: &ClaimRequest) -> Result<Claimed, StoreError> {
        self.claim(Choice::Next, request, "claim orders").await
    }

    /// Starts given orders.
    pub async fn start(&self, order_ids: &[OrderId], request: &ClaimRequest) -> Result<Claimed, StoreError> {
        let given = distinct_given(order_ids);
        self.claim(Choice::Given(&given), request, "start orders").await
    }

    /// Fails without asking the database when the store takes no
    /// results, because attempts could not end.
    async fn claim(
        &self,
        choice: Choice<'_>,
        request: &ClaimRequest,
        attempted: &'static str,
    ) -> Result<Claimed, StoreError> {
        // One claim at a time per node: another would only wait for the same lock in the database.
        let mut claimer = self.claimer.lock().await;
        if self.shared.closing.is_cancelled() {
            return Err(StoreError::Closed);
        }
        // Attempts that start now could not end.
        let starved = self.pool.is_starved().then(|| STARVED.to_owned());
        if let Some(reason) = starved.or_else(|| self.state.refuses_to_store()) {
            return Err(PgFailure::Unavailable(reason.into()).to_error(attempted));
        }
        to_store_result(claimer.claim(request, choice, &self.shared).await, attempted)
    }

    /// Waits for the claim under way.
    pub async fn close(&self) {
        drop(self.claimer.lock().await);
    }
}

/// Runs the claims of this node, one after another.
pub(super) struct Claimer {
    connection: ClassConnection,
    lower_bound: LowerBoundTracker,
    /// The second line gets the odd place of the next claim when both lines have work.
    second_line_first: bool,
    /// The number of orders beyond those wanted that the next claim looks at.
    spare: usize,
    /// The ordering in this node's configuration; `None` uses the store's.
    configured_ordering: Option<Ordering>,
    /// The ordering by which this node claims.
    ordering: Ordering,
    /// The lower bound of the latest claim.
    lower_bound_used: i64,
}

impl Claimer {
    pub fn new(pool: &Arc<Pool>, configured_ordering: Option<Ordering>) -> Claimer {
        let ordering = configured_ordering.unwrap_or_default();
        Claimer {
            connection: ClassConnection::new(pool.clone(), Class::Claim),
            lower_bound: LowerBoundTracker::new(),
            second_line_first: false,
            spare: SPARE_MIN,
            configured_ordering,
            ordering,
            lower_bound_used: 0,
        }
    }

    async fn claim(
        &mut self,
        request: &ClaimRequest,
        choice: Choice<'_>,
        shared: &Shared,
    ) -> Result<Claimed, PgFailure> {
        let places = request.orders_max.min(CLAIM_ORDERS_MAX);
        let parameters = ClaimParameters {
            request,
            choice,
            places,
        };
        let answer = self.claim_around_refused(parameters, shared).await;
        let mut answer = answer.inspect_err(|failure| shared.note_possible_commit(failure))?;
        if !self.agrees(&answer, request) {
            self.agree(&answer, request, shared).await?;
            let again = self.claim_around_refused(parameters, shared).await;
            answer = again.inspect_err(|failure| shared.note_possible_commit(failure))?;
        }
        shared.locked.found(answer.locked.iter().copied());
        if !answer.granted.is_empty() {
            shared.events_committed();
        }
        let next_due_in = match choice {
            Choice::Given(_) => answer.next_due_in,
            Choice::Next => {
                // The lines alternate whether or not both had work: with only one, it makes no difference.
                self.second_line_first ^= !answer.granted.is_empty();
                self.next_claim_in(&answer, places, shared)
            }
        };
        let leases = self.leases(&mut answer, request, shared).await?;
        Ok(Claimed {
            // Not paused if the claim found nothing only because it went by other rules than the store's.
            paused: answer.seen.is_none() && self.agrees(&answer, request),
            leases,
            next_due_in,
            idle: answer.idle,
        })
    }

    /// Returns the time until the next claim. Locked and refused orders may be due, but would be passed over again.
    fn next_claim_in(&mut self, answer: &Answer, places: usize, shared: &Shared) -> Option<Duration> {
        let passed_over = answer.locked.len() + answer.refused;
        let spare_was_too_small = passed_over > self.spare && self.spare < SPARE_MAX;
        self.spare = (2 * passed_over).clamp(SPARE_MIN, SPARE_MAX);
        if spare_was_too_small && answer.granted.len() < places {
            return Some(Duration::ZERO);
        }
        if answer.seen.is_none() {
            // While the queue is paused, no claim can find out whether a refused order may start now.
            return answer.next_due_in;
        }
        if !answer.locked.is_empty() {
            return Some(LOCKED_RETRY_INTERVAL);
        }
        shared.refusals.next_claim_in(answer.next_due_in)
    }

    /// Reports whether the store has the ordering and the processor of this node.
    fn agrees(&self, answer: &Answer, request: &ClaimRequest) -> bool {
        let same_processor = request
            .processor
            .is_none_or(|processor| processor == answer.processor);
        answer.ordering == self.ordering && same_processor
    }

    /// Makes the store and this node agree on one processor and one ordering. Fails while live nodes are configured
    /// differently.
    async fn agree(
        &mut self,
        answer: &Answer,
        request: &ClaimRequest,
        shared: &Shared,
    ) -> Result<(), PgFailure> {
        let (stored, node) = (answer.ordering, request.node);
        if let Some(processor) = request
            .processor
            .filter(|processor| *processor != answer.processor)
        {
            processor_setting::set_processor(&mut self.connection, processor, node).await?;
        }
        if stored == self.ordering {
            return Ok(());
        }
        let ordering = match self.configured_ordering {
            None => stored,
            Some(configured) if turns::set_ordering(&mut self.connection, configured, node).await? => {
                configured
            }
            Some(_) => {
                let text = "other live nodes of this store have another ORDERLY_ORDERING: \
                    this one starts no order until they are gone";
                return Err(PgFailure::Unavailable(text.into()));
            }
        };
        self.ordering = ordering;
        shared.set_ordering(ordering);
        Ok(())
    }

    /// Sends a claim. When its answer is lost it is not sent again, since twice the orders would be leased, half of
    /// them to no node. The exception is an older connection that proves to be gone: most likely nothing arrived.
    async fn send(
        &mut self,
        parameters: ClaimParameters<'_>,
        stepped_around: &[OrderId],
        shared: &Shared,
    ) -> Result<Answer, PgFailure> {
        let pooled = self.connection.checkout_for_write().await?;
        let may_be_lost = pooled.is_old();
        match self.send_over(pooled, parameters, stepped_around, shared).await {
            Err(PgFailure::Unknown(_)) if may_be_lost => {
                let pooled = self.connection.checkout().await?;
                let answer = self.send_over(pooled, parameters, stepped_around, shared).await;
                // If the first claim arrived after all, no answer shows what it did.
                shared.events_committed();
                answer
            }
            answer => answer,
        }
    }

    async fn send_over(
        &mut self,
        pooled: PooledConnection,
        parameters: ClaimParameters<'_>,
        stepped_around: &[OrderId],
        shared: &Shared,
    ) -> Result<Answer, PgFailure> {
        let ClaimParameters {
            request,
            choice,
            places,
        } = parameters;
        let server = pooled.server();
        let began = Instant::now();
        // Where the orders of a user wait for their turn, one below any lower bound may get it. A start of given
        // orders does not read the line.
        let unbounded = self.ordering != Ordering::None || choice.given().is_some();
        let lower_bound = if unbounded {
            Some(0)
        } else {
            self.lower_bound.next_bound(&server, began)
        };
        let Some(lower_bound) = lower_bound else {
            let text = "the search for the oldest order timed out; the next one comes later";
            return Err(PgFailure::TimedOut(text.into()));
        };
        let time_max = if lower_bound == 0 {
            FULL_SCAN_TIME_MAX
        } else {
            CLAIM_TIME_MAX
        };
        let numbers = [
            (":places", rows::limit(places)),
            (":spare", rows::limit(self.spare)),
            (":node", rows::node_code(request.node)),
            (":lease_micros", micros(request.lease)),
            (":suspect", request.suspect.into()),
            (":outside", request.is_external().into()),
            (":handed_out", request.hands_out().into()),
            (
                ":processor",
                request.processor.map_or(ANY, codes::processor_code).into(),
            ),
            (":ordering", codes::ordering_code(self.ordering).into()),
            (":second_line_first", self.second_line_first.into()),
            (":lower_bound", lower_bound),
            (":unseen_max", turns::UNSEEN_MAX),
            (":slot", Shared::random_counter_slot().into()),
            (
                ":time_ms",
                i64::try_from(time_max.as_millis()).unwrap_or(i64::MAX),
            ),
            (":lock", CLAIM_LOCK),
        ];
        self.lower_bound_used = lower_bound;
        let arrays = [
            (":stepped_around", Some(stepped_around)),
            (":wanted", choice.given()),
        ];
        let message = with_numbers(&with_ids(&MESSAGE, &arrays), &numbers);
        let messages = self
            .connection
            .send_message_over(pooled, &message, time_max + ANSWER_SLACK)
            .await;
        if let (Err(PgFailure::TimedOut(_)), false) = (&messages, unbounded) {
            self.lower_bound.record_timeout(began, Instant::now());
        }
        let messages = messages?;
        let answer = Answer::read(&messages, stepped_around)?;
        if let Some(seen) = answer.seen.filter(|_| !unbounded) {
            self.lower_bound.record(seen, began, Instant::now());
            shared.set_lower_bound(self.lower_bound.current());
        }
        Ok(answer)
    }
}
