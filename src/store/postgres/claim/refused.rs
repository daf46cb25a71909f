//! Claims around orders that the database refuses to start, because an operator's rule forbids it or fails.

use std::sync::LazyLock;

use tokio_postgres::SimpleQueryMessage;

use super::super::advisory_locks::CLAIM_LOCK;
use super::super::failure::PgFailure;
use super::super::functions::named;
use super::super::message::{with_ids, with_numbers};
use super::super::settle::micros;
use super::super::{probe, rows, turns};
use super::answer::Answer;
use super::{ANSWER_SLACK, ClaimParameters, Claimer, FULL_SCAN_TIME_MAX};
use crate::order::OrderId;
use crate::store::RefusedOrder;
use crate::store::postgres::shared::Shared;

const ATTEMPTED: &str = "start an order";

static TRY_STARTS: LazyLock<String> = LazyLock::new(|| named(include_str!("../try_starts.sql")));

impl Claimer {
    /// Claims around the orders known to be refused. When the database refuses the claim and one order may be to
    /// blame, finds such orders and claims around them.
    pub(super) async fn claim_around_refused(
        &mut self,
        parameters: ClaimParameters<'_>,
        shared: &Shared,
    ) -> Result<Answer, PgFailure> {
        let around = shared.refusals.excluded_from_claims();
        let given = parameters.choice.given();
        let failure = match self.send(parameters, &around, shared).await {
            Err(failure) if failure.may_concern_one_call() && parameters.places > 0 => failure,
            Err(failure) => return Err(failure),
            Ok(answer) => {
                // A claim that looked at no order shows nothing about any.
                if answer.seen.is_some() && parameters.places > 0 {
                    shared.refusals.record_starts(&around, given, Vec::new());
                }
                return Ok(answer);
            }
        };
        let refused = self.refused_starts(parameters, &around, &failure).await?;
        if refused.is_empty() {
            return Err(failure);
        }
        // Includes orders that the list of refused orders has no room for.
        let mut wider = around.clone();
        wider.extend(refused.iter().map(|order| order.order_id));
        wider.sort_unstable();
        shared.refusals.record_starts(&around, given, refused);
        self.send(parameters, &wider, shared).await
    }

    /// Finds the orders to blame for the failure of a claim, among those that it looked at and did not step around.
    async fn refused_starts(
        &mut self,
        parameters: ClaimParameters<'_>,
        around: &[OrderId],
        failure: &PgFailure,
    ) -> Result<Vec<RefusedOrder>, PgFailure> {
        let ClaimParameters {
            request,
            choice,
            places,
        } = parameters;
        let time_ms = i64::try_from(FULL_SCAN_TIME_MAX.as_millis()).unwrap_or(i64::MAX);
        let arrays = [(":stepped_around", Some(around)), (":wanted", choice.given())];
        let message = with_numbers(
            &with_ids(&TRY_STARTS, &arrays),
            &[
                (":time_ms", time_ms),
                (":lock", CLAIM_LOCK),
                (":lower_bound", self.lower_bound_used),
                (":places", rows::limit(places)),
                (":spare", rows::limit(self.spare)),
                (":node", rows::node_code(request.node)),
                (":lease_micros", micros(request.lease)),
                (":outside", request.is_external().into()),
                (":handed_out", request.hands_out().into()),
                (":unseen_max", turns::UNSEEN_MAX),
            ],
        );
        let answer = self
            .connection
            .send_message_once(&message, FULL_SCAN_TIME_MAX + ANSWER_SLACK)
            .await?;
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
                .map_err(|_| PgFailure::undecodable("the id of a refused order", id))?;
            let failure = PgFailure::of_answer(code, text);
            if !failure.may_concern_one_call() {
                return Err(failure);
            }
            may_be_the_store |= !matches!(failure, PgFailure::Rejected { .. });
            refused.push(failure.refusal_of_order(OrderId(order_id), ATTEMPTED));
        }
        if may_be_the_store && !probe::store_takes_orders(&mut self.connection).await {
            return Err(failure.clone());
        }
        Ok(refused)
    }
}
