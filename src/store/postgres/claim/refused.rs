//! Claims around orders whose start the database refuses: a rule that an operator made, or one that fails at them.

use std::sync::LazyLock;

use tokio_postgres::SimpleQueryMessage;

use super::super::failure::Failure;
use super::super::functions::named;
use super::super::locks::CLAIM_LOCK;
use super::super::message::{with_ids, with_numbers};
use super::super::settle::micros;
use super::super::{probe, rows, turns};
use super::answer::Answer;
use super::{ANSWER_SLACK, Asked, Claimer, FULL_LOOK_TIME_MAX};
use crate::order::OrderId;
use crate::store::RefusedOrder;
use crate::store::postgres::shared::Shared;

const ATTEMPTED: &str = "start an order";

static TRY_STARTS: LazyLock<String> = LazyLock::new(|| named(include_str!("../try_starts.sql")));

impl Claimer {
    /// Claims around the orders known to be refused. Where the database refuses the claim for what may be one order's fault,
    /// finds those orders and claims around them.
    pub(super) async fn claim_around_refused(
        &mut self,
        asked: Asked<'_>,
        shared: &Shared,
    ) -> Result<Answer, Failure> {
        let around = shared.refusals.to_step_around();
        let given = asked.choice.given();
        let failure = match self.send(asked, &around, shared).await {
            Err(failure) if failure.may_be_of_one() && asked.places > 0 => failure,
            Err(failure) => return Err(failure),
            Ok(answer) => {
                // A claim that looked at no order says nothing of any.
                if answer.seen.is_some() && asked.places > 0 {
                    shared.refusals.claimed(&around, given, Vec::new());
                }
                return Ok(answer);
            }
        };
        let refused = self.refused_starts(asked, &around, &failure).await?;
        if refused.is_empty() {
            return Err(failure);
        }
        // Also around those for which there is no room to remember them.
        let mut wider = around.clone();
        wider.extend(refused.iter().map(|order| order.order_id));
        wider.sort_unstable();
        shared.refusals.claimed(&around, given, refused);
        self.send(asked, &wider, shared).await
    }

    /// Finds the orders to blame for the failure of a claim, among those that it looked at and did not step around.
    async fn refused_starts(
        &mut self,
        asked: Asked<'_>,
        around: &[OrderId],
        failure: &Failure,
    ) -> Result<Vec<RefusedOrder>, Failure> {
        let Asked {
            request,
            choice,
            places,
        } = asked;
        let time_ms = i64::try_from(FULL_LOOK_TIME_MAX.as_millis()).unwrap_or(i64::MAX);
        let arrays = [(":stepped_around", Some(around)), (":wanted", choice.given())];
        let message = with_numbers(
            &with_ids(&TRY_STARTS, &arrays),
            &[
                (":time_ms", time_ms),
                (":lock", CLAIM_LOCK),
                (":floor", self.floor_used),
                (":places", rows::limit(places)),
                (":spare", rows::limit(self.spare)),
                (":node", rows::node_code(request.node)),
                (":lease_micros", micros(request.lease)),
                (":outside", request.outside().into()),
                (":handed_out", request.hands_out().into()),
                (":unseen_max", turns::UNSEEN_MAX),
            ],
        );
        let answer = self.link.fly(&message, FULL_LOOK_TIME_MAX + ANSWER_SLACK).await?;
        let mut refused = Vec::new();
        let mut may_be_the_store = false;
        for message in answer {
            let SimpleQueryMessage::Row(row) = message else {
                continue;
            };
            let (Ok(Some(id)), Ok(Some(code)), Ok(Some(text))) = (
                row.try_get("refused_order_id"),
                row.try_get("code"),
                row.try_get("message"),
            ) else {
                continue;
            };
            let order_id = id
                .parse()
                .map_err(|_| Failure::undecodable("an order that it refuses", id))?;
            let failure = Failure::of_answer(code, text);
            if !failure.may_be_of_one() {
                return Err(failure);
            }
            may_be_the_store |= !matches!(failure, Failure::Rejected { .. });
            refused.push(failure.of_order(OrderId(order_id), ATTEMPTED));
        }
        if may_be_the_store && !probe::passes(&mut self.link).await {
            return Err(failure.clone());
        }
        Ok(refused)
    }
}
