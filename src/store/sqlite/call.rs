//! Calls that wait for the writer: what each does, what of them goes together, and how each is answered after the commit.

use tokio::sync::oneshot;

use super::failure::Failure;
use super::group::{CallError, Group};
use super::settle;
use crate::lease::{LeaseKey, Outcome};
use crate::store::{Settled, StoreError};

/// A call that waits for its turn and keeps its result until the commit. May be carried out more than once:
/// when its group failed, it is tried again on its own.
pub(super) trait Call: Send {
    fn kind(&self) -> Kind;
    fn carry_out(&mut self, group: &mut Group<'_>) -> Result<(), rusqlite::Error>;
    /// Of a call of the kind [`Kind::Complete`] that was carried out together with others.
    fn settled(&mut self, settled: Settled);
    fn answer(self: Box<Self>, failure: Option<&Failure>);
}

/// What calls that follow each other can be carried out together.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// Only stores new orders.
    Accept,
    /// Completes this attempt, which gave no result.
    Complete(LeaseKey),
    Other,
}

impl Kind {
    fn completes(self) -> Option<LeaseKey> {
        match self {
            Kind::Complete(key) => Some(key),
            Kind::Accept | Kind::Other => None,
        }
    }
}

/// What is attempted with a result.
pub(super) const SETTLE: &str = "settle an attempt";

struct Completion {
    key: LeaseKey,
    settled: Option<Settled>,
    answer: oneshot::Sender<Result<Settled, StoreError>>,
}

impl Call for Completion {
    fn kind(&self) -> Kind {
        Kind::Complete(self.key)
    }

    fn carry_out(&mut self, group: &mut Group<'_>) -> Result<(), rusqlite::Error> {
        self.settled = Some(settle::settle(group, self.key, &Outcome::COMPLETED)?);
        Ok(())
    }

    fn settled(&mut self, settled: Settled) {
        self.settled = Some(settled);
    }

    fn answer(self: Box<Self>, failure: Option<&Failure>) {
        // A caller that is gone wants no answer.
        let _ = self.answer.send(result(SETTLE, failure, self.settled.map(Ok)));
    }
}

/// A call that completes an attempt without a result.
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
    kind: Kind,
    work: W,
    result: Option<Result<T, StoreError>>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

pub(super) fn pending<T: Send + 'static>(
    attempted: &'static str,
    kind: Kind,
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
    fn kind(&self) -> Kind {
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

    fn settled(&mut self, _: Settled) {
        unreachable!("only completions are carried out together");
    }

    fn answer(self: Box<Self>, failure: Option<&Failure>) {
        // A caller that is gone wants no answer.
        let _ = self.answer.send(result(self.attempted, failure, self.result));
    }
}

/// What a call is answered once its group has ended.
fn result<T>(
    attempted: &'static str,
    failure: Option<&Failure>,
    result: Option<Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match (failure, result) {
        (None, Some(result)) => result,
        // A refusal too: it may rest on what another call of the group wrote.
        (Some(failure), _) => Err(failure.to_error(attempted)),
        (None, None) => unreachable!("a group commits only when each of its calls was carried out"),
    }
}

/// Carries out the first of the calls, or as many as go together; answers how many.
pub(super) fn carry_out_next(
    calls: &mut [Box<dyn Call>],
    group: &mut Group<'_>,
) -> (usize, Result<(), rusqlite::Error>) {
    if !matches!(calls[0].kind(), Kind::Accept)
        && let Err(error) = group.write_accepted()
    {
        return (1, Err(error));
    }
    let kinds = calls.iter().map(|call| call.kind());
    let keys: Vec<LeaseKey> = kinds.map_while(Kind::completes).collect();
    if keys.is_empty() {
        return (1, calls[0].carry_out(group));
    }
    let carried_out = settle::complete(group, &keys).map(|settled| {
        for (call, settled) in calls.iter_mut().zip(settled) {
            call.settled(settled);
        }
    });
    (keys.len(), carried_out)
}
