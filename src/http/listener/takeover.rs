//! Takes over a connection after its 101 answer (RFC 9110 section 7.8). The connection keeps its task, and is counted
//! and ended like any other.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use hyper::upgrade::{OnUpgrade, Upgraded};

/// Put by a route into the extensions of its answer, which must be `Clone`.
#[derive(Clone)]
pub struct Takeover(Arc<Mutex<Option<Plan>>>);

struct Plan {
    switched: OnUpgrade,
    run: Box<dyn FnOnce(Upgraded) -> BoxFuture<'static, ()> + Send>,
}

impl Takeover {
    /// Plans a takeover; `switched` belongs to the answered request.
    pub fn new<F>(switched: OnUpgrade, run: impl FnOnce(Upgraded) -> F + Send + 'static) -> Takeover
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Takeover(Arc::new(Mutex::new(Some(Plan {
            switched,
            run: Box::new(move |upgraded| Box::pin(run(upgraded))),
        }))))
    }

    /// Runs the takeover to the end of the connection, which has been served up to its 101 answer.
    pub(super) async fn carry_out(self) {
        let plan = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A connection that ended before its answer was sent is not taken over.
        if let Some(plan) = plan
            && let Ok(upgraded) = plan.switched.await
        {
            (plan.run)(upgraded).await;
        }
    }
}
