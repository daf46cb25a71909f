//! Adds the id of the current request to log lines. The span with the id is created at the first line logged within a
//! request: few requests log any, and a span for each would cost as much as a point read.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as Waking, Poll};

use bytes::Bytes;
use tracing::span::{EnteredSpan, Span};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// True if the log has [`NamesRequests`] and no filter that must see a span before its lines; otherwise each request gets
/// its span at once. Set at the start.
static ON_DEMAND: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The request that this thread is working on.
    static HERE: RefCell<Option<Here>> = const { RefCell::new(None) };
}

struct Here {
    id: Bytes,
    span: Option<EnteredSpan>,
}

/// Log context of a request: lines logged [`RequestLog::within`] it carry its id.
pub struct RequestLog {
    /// Request id in visible ASCII.
    id: Bytes,
    span: Option<Span>,
}

impl RequestLog {
    /// Creates the context of a request; `id` consists of visible ASCII characters.
    pub fn new(id: Bytes) -> RequestLog {
        // The request's span must be created before any inner span, or that would appear as its parent.
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

    /// Runs the future with each poll within the request.
    pub fn follow<F: Future + Unpin>(&mut self, future: F) -> Followed<'_, F> {
        Followed { log: self, future }
    }
}

/// Restores the outer context on drop, even after a panic.
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

/// Layer that creates the request's span before its first line is written. Works only in the subscriber of the process:
/// one set for a thread takes no spans while it handles a line.
pub(super) struct NamesRequests;

impl NamesRequests {
    pub fn for_filter(directives: &str) -> NamesRequests {
        // A span filter, such as `[request{request.id=…}]=debug`.
        ON_DEMAND.store(!directives.contains('['), Ordering::Relaxed);
        NamesRequests
    }
}

impl<S: Subscriber> Layer<S> for NamesRequests {
    fn event_enabled(&self, _line: &Event<'_>, _log: Context<'_, S>) -> bool {
        // Taken out, so that nested code finds the cell free.
        if let Some(mut here) = HERE.take() {
            here.span.get_or_insert_with(|| span(&here.id).entered());
            HERE.set(Some(here));
        }
        true
    }
}

/// Target of the request spans, so that a filter can select them.
const TARGET: &str = "orderly::http::request";

/// Target of the spans of store calls, at debug level (`store/measured.rs`).
const STORE_CALLS: &str = "orderly::store::measured";

/// Creates the span at error level, so that every line that passes the filter has it.
fn span(id: &Bytes) -> Span {
    tracing::error_span!(target: TARGET, "request", request.id = text(id))
}

fn text(id: &Bytes) -> &str {
    std::str::from_utf8(id).unwrap_or_default()
}

#[cfg(test)]
mod tests;
