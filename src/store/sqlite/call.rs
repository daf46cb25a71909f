//! Calls that wait for the writer: their work, which of them one statement can carry out together, and their answers after
//! the commit.

use tokio::sync::oneshot;

use super::failure::SqliteFailure;
use super::group::{CallError, Group};
use super::settle;
use crate::lease::{LeaseKey, Outcome};
use crate::store::{Settled, StoreError};

/// A call that waits for the writer and keeps its result until the commit. It may be carried out more than once: if its group
/// fails, it is tried again in a smaller one.
pub(super) trait Call: Send {
    fn kind(&self) -> CallKind;
    fn carry_out(&mut self, group: &mut Group<'_>) -> Result<(), rusqlite::Error>;
    /// Sets the result of a [`CallKind::Complete`] call that was carried out together with others.
    fn set_settled(&mut self, settled: Settled);
    fn answer(self: Box<Self>, failure: Option<&SqliteFailure>);
}

/// The kind of a call. Neighbouring calls of a kind can share statements.
#[derive(Clone, Copy)]
pub(super) enum CallKind {
    /// Only stores new orders.
    Accept,
    /// Completes this attempt without a result document.
    Complete(LeaseKey),
    Other,
}

impl CallKind {
    fn completed_lease(self) -> Option<LeaseKey> {
        match self {
            CallKind::Complete(key) => Some(key),
            CallKind::Accept | CallKind::Other => None,
        }
    }
}

/// Description of a settling call, for errors.
pub(super) const SETTLE: &str = "settle an attempt";

struct Completion {
    key: LeaseKey,
    settled: Option<Settled>,
    answer: oneshot::Sender<Result<Settled, StoreError>>,
}

impl Call for Completion {
    fn kind(&self) -> CallKind {
        CallKind::Complete(self.key)
    }

    fn carry_out(&mut self, group: &mut Group<'_>) -> Result<(), rusqlite::Error> {
        self.settled = Some(settle::settle(group, self.key, &Outcome::COMPLETED)?);
        Ok(())
    }

    fn set_settled(&mut self, settled: Settled) {
        self.settled = Some(settled);
    }

    fn answer(self: Box<Self>, failure: Option<&SqliteFailure>) {
        // Fails only if the caller is gone.
        let _ = self
            .answer
            .send(final_answer(SETTLE, failure, self.settled.map(Ok)));
    }
}

/// Creates a call that completes an attempt without a result document.
pub(super) fn completion(key: LeaseKey) -> (Box<dyn Call>, oneshot::Receiver<Result<Settled, StoreError>>) {
    let (answer, receiver) = oneshot::channel();
    let call = Completion {
        key,
        settled: None,
        answer,
    };
    (Box::new(call), receiver)
}

struct PendingCall<T, W> {
    attempted: &'static str,
    kind: CallKind,
    work: W,
    result: Option<Result<T, StoreError>>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

/// Creates a call that runs `work`; `attempted` describes it in errors.
pub(super) fn pending_call<T: Send + 'static>(
    attempted: &'static str,
    kind: CallKind,
    work: impl FnMut(&mut Group<'_>) -> Result<T, CallError> + Send + 'static,
) -> (Box<dyn Call>, oneshot::Receiver<Result<T, StoreError>>) {
    let (answer, receiver) = oneshot::channel();
    let call = PendingCall {
        attempted,
        kind,
        work,
        result: None,
        answer,
    };
    (Box::new(call), receiver)
}

impl<T, W> Call for PendingCall<T, W>
where
    T: Send,
    W: FnMut(&mut Group<'_>) -> Result<T, CallError> + Send,
{
    fn kind(&self) -> CallKind {
        self.kind
    }

    fn carry_out(&mut self, group: &mut Group<'_>) -> Result<(), rusqlite::Error> {
        self.result = Some(match (self.work)(group) {
            Ok(value) => Ok(value),
            Err(CallError::Refused(refusal)) => Err(refusal),
            Err(CallError::Sqlite(error)) => return Err(error),
        });
        Ok(())
    }

    fn set_settled(&mut self, _: Settled) {
        unreachable!("only completions are carried out together with others");
    }

    fn answer(self: Box<Self>, failure: Option<&SqliteFailure>) {
        // Fails only if the caller is gone.
        let _ = self
            .answer
            .send(final_answer(self.attempted, failure, self.result));
    }
}

/// The answer to a call once its group has been committed or has failed.
fn final_answer<T>(
    attempted: &'static str,
    failure: Option<&SqliteFailure>,
    result: Option<Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match (failure, result) {
        (None, Some(result)) => result,
        // Overrides a refusal of this call, which may depend on what another call of the group wrote.
        (Some(failure), _) => Err(failure.to_error(attempted)),
        (None, None) => unreachable!("a group commits only when each of its calls was carried out"),
    }
}

/// Carries out the first call, or as many of the first calls as can be carried out together. Returns their number.
pub(super) fn carry_out_next(
    calls: &mut [Box<dyn Call>],
    group: &mut Group<'_>,
) -> (usize, Result<(), rusqlite::Error>) {
    if !matches!(calls[0].kind(), CallKind::Accept)
        && let Err(error) = group.write_accepted_events()
    {
        return (1, Err(error));
    }
    let kinds = calls.iter().map(|call| call.kind());
    let keys: Vec<LeaseKey> = kinds.map_while(CallKind::completed_lease).collect();
    if keys.is_empty() {
        return (1, calls[0].carry_out(group));
    }
    let carried_out = settle::complete(group, &keys).map(|settled| {
        for (call, settled) in calls.iter_mut().zip(settled) {
            call.set_settled(settled);
        }
    });
    (keys.len(), carried_out)
}
