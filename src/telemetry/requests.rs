//! Which request a log line belongs to. The span that tells is made when the first line is logged within the request:
//! hardly any logs one, and to make a span for each costs as much as to read an order.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as Waking, Poll};

use bytes::Bytes;
use tracing::span::{EnteredSpan, Span};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// A log was started that has [`NamesRequests`], and no filter that must see a span before its lines: elsewhere each request
/// has its span from the beginning. Set at the start.
static ON_DEMAND: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The request that this thread works on at the moment.
    static HERE: RefCell<Option<Here>> = const { RefCell::new(None) };
}

struct Here {
    id: Bytes,
    span: Option<EnteredSpan>,
}

/// A request as far as the log is concerned: lines that are logged [`RequestLog::within`] it carry its id.
pub struct RequestLog {
    /// Visible ASCII.
    id: Bytes,
    span: Option<Span>,
}

impl RequestLog {
    /// `id` consists of visible ASCII characters.
    pub fn new(id: Bytes) -> RequestLog {
        // A span within must not be there before the request's, or it would seem to be around the request.
        let on_demand =
            ON_DEMAND.load(Ordering::Relaxed) && !tracing::span_enabled!(target: STORE_CALLS, Level::DEBUG);
        let span = (!on_demand).then(|| span(&id));
        RequestLog { id, span }
    }

    pub fn id(&self) -> &str {
        text(&self.id)
    }

    pub fn into_id(self) -> Bytes {
        self.id
    }

    pub fn within<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let here = Here {
            id: std::mem::take(&mut self.id),
            span: self.span.take().map(Span::entered),
        };
        let outer = HERE.replace(Some(here));
        let _left = Leave { log: self, outer };
        work()
    }

    /// Resolves to what the future does, each step of which is within.
    pub fn follow<F: Future + Unpin>(&mut self, future: F) -> Followed<'_, F> {
        Followed { log: self, future }
    }
}

/// Also when the work panicked.
struct Leave<'l> {
    log: &'l mut RequestLog,
    outer: Option<Here>,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if let Some(here) = HERE.replace(self.outer.take()) {
            self.log.id = here.id;
            self.log.span = here.span.map(EnteredSpan::exit);
        }
    }
}

pub struct Followed<'l, F> {
    log: &'l mut RequestLog,
    future: F,
}

impl<F: Future + Unpin> Future for Followed<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, waking: &mut Waking<'_>) -> Poll<F::Output> {
        let Followed { log, future } = &mut *self;
        log.within(|| Pin::new(future).poll(waking))
    }
}

/// Makes the span of the request that a line belongs to, before the line is written. Only for the subscriber of the whole
/// process: one that is set for a thread takes no spans while it takes a line.
pub(super) struct NamesRequests;

impl NamesRequests {
    pub fn for_filter(directives: &str) -> NamesRequests {
        // Such as `[request{request.id=…}]=debug`.
        ON_DEMAND.store(!directives.contains('['), Ordering::Relaxed);
        NamesRequests
    }
}

impl<S: Subscriber> Layer<S> for NamesRequests {
    fn event_enabled(&self, _line: &Event<'_>, _log: Context<'_, S>) -> bool {
        // Taken out meanwhile, so that nothing finds it borrowed.
        if let Some(mut here) = HERE.take() {
            here.span.get_or_insert_with(|| span(&here.id).entered());
            HERE.set(Some(here));
        }
        true
    }
}

/// Where requests are answered, whose lines a filter may ask for alone.
const TARGET: &str = "orderly::http::request";

/// The target of the spans of store calls, at debug (`store/measured.rs`).
const STORE_CALLS: &str = "orderly::store::measured";

/// At error, so that it is there for every line that passes the filter.
fn span(id: &Bytes) -> Span {
    tracing::error_span!(target: TARGET, "request", request.id = text(id))
}

fn text(id: &Bytes) -> &str {
    std::str::from_utf8(id).unwrap_or_default()
}

#[cfg(test)]
mod tests;
