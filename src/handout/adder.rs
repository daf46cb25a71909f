//! Adds the orders that this node accepted to the stream, after their commit and apart from the answer to the client.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::stream::Stream;
use crate::order::OrderId;
use crate::store::Wakeups;

/// Orders that wait to be added; more are left to claims from the store.
const WAITING_MAX: usize = 16_384;
/// Orders that one command adds.
const ADD_MAX: usize = 1_000;

pub(super) struct Adder(mpsc::Sender<OrderId>, Arc<Stream>);

impl Adder {
    pub fn start(
        stream: Arc<Stream>,
        wakeups: Arc<Wakeups>,
        tasks: &TaskTracker,
        closing: CancellationToken,
    ) -> Adder {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        tasks.spawn(run(stream.clone(), receiver, wakeups, closing));
        Adder(sender, stream)
    }

    /// Adds orders soon. Never waits.
    pub fn add(&self, order_ids: &[OrderId]) {
        for id in order_ids {
            if self.0.try_send(*id).is_err() {
                self.1.note_dropped();
                return;
            }
        }
    }
}

async fn run(
    stream: Arc<Stream>,
    mut waiting: mpsc::Receiver<OrderId>,
    wakeups: Arc<Wakeups>,
    closing: CancellationToken,
) {
    let mut order_ids = Vec::new();
    loop {
        let received = tokio::select! {
            biased;
            received = waiting.recv_many(&mut order_ids, ADD_MAX) => received,
            () = closing.cancelled() => return,
        };
        if received == 0 {
            return;
        }
        stream.add(&order_ids).await;
        // A claim that came before them found nothing.
        wakeups.notify_work();
        order_ids.clear();
    }
}
