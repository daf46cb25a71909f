//! A scripted processor.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use orderly::order::{Order, OrderId};
use orderly::processor::{Attempt, Processed, ProcessingError, Processor};
use tokio::time::Instant;

/// The course of an attempt.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Complete,
    Take(Duration),
    Fail,
    /// The service is unreachable.
    Refuse,
    /// The service denies access.
    Deny,
    /// The service is unavailable.
    Unavailable,
    /// The service is unavailable and requests a wait.
    AskForTime(Duration),
    FailForGood,
    Panic,
    Hang,
}

/// A processor that follows a script and records its calls.
#[derive(Default)]
pub struct Script {
    /// Steps for the next attempts of an order. Without steps it completes at once.
    steps: Mutex<HashMap<OrderId, VecDeque<Step>>>,
    otherwise: Mutex<Option<Step>>,
    started: Mutex<Vec<Started>>,
    under_way: Mutex<UnderWay>,
}

/// The start of an attempt.
#[derive(Clone, Copy, Debug)]
pub struct Started {
    pub at: Instant,
    pub order_id: OrderId,
    pub number: u32,
}

#[derive(Clone, Copy, Default)]
struct UnderWay {
    now: usize,
    most: usize,
}

impl Script {
    pub fn order(&self, id: OrderId, steps: &[Step]) {
        self.steps
            .lock()
            .unwrap()
            .insert(id, steps.iter().copied().collect());
    }

    pub fn otherwise(&self, step: Step) {
        *self.otherwise.lock().unwrap() = Some(step);
    }

    /// Orders by the start of their attempts.
    pub fn started(&self) -> Vec<OrderId> {
        self.attempts().iter().map(|started| started.order_id).collect()
    }

    /// All attempts by their start.
    pub fn attempts(&self) -> Vec<Started> {
        self.started.lock().unwrap().clone()
    }

    pub fn attempts_since(&self, since: Instant) -> usize {
        let started = self.started.lock().unwrap();
        started.iter().filter(|started| started.at >= since).count()
    }

    pub fn attempts_of(&self, id: OrderId) -> Vec<u32> {
        let started = self.attempts().into_iter();
        started
            .filter(|started| started.order_id == id)
            .map(|started| started.number)
            .collect()
    }

    pub fn most_at_once(&self) -> usize {
        self.under_way.lock().unwrap().most
    }

    pub fn now(&self) -> usize {
        self.under_way.lock().unwrap().now
    }

    fn next(&self, id: OrderId) -> Step {
        let mut steps = self.steps.lock().unwrap();
        let next = steps.get_mut(&id).and_then(VecDeque::pop_front);
        next.or(*self.otherwise.lock().unwrap()).unwrap_or(Step::Complete)
    }
}

struct Counted<'s>(&'s Script);

impl<'s> Counted<'s> {
    fn new(script: &'s Script) -> Counted<'s> {
        let mut under_way = script.under_way.lock().unwrap();
        under_way.now += 1;
        under_way.most = under_way.most.max(under_way.now);
        Counted(script)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.under_way.lock().unwrap().now -= 1;
    }
}

#[async_trait]
impl Processor for Script {
    async fn process(&self, order: &Order, attempt: Attempt) -> Result<Processed, ProcessingError> {
        let _counted = Counted::new(self);
        self.started.lock().unwrap().push(Started {
            at: Instant::now(),
            order_id: order.order_id,
            number: attempt.number,
        });
        match self.next(order.order_id) {
            Step::Complete => Ok(Processed::COMPLETED),
            Step::Take(span) => {
                tokio::time::sleep(span).await;
                Ok(Processed::COMPLETED)
            }
            Step::Fail => Err(ProcessingError::Transient {
                error: "no stock answer".into(),
                retry_after: None,
            }),
            Step::Refuse => Err(ProcessingError::Unreachable {
                error: "no service there".into(),
            }),
            Step::Deny => Err(ProcessingError::Denied {
                error: "no such secret".into(),
            }),
            Step::Unavailable => Err(ProcessingError::Unavailable {
                error: "customer 4711 is on holiday".into(),
                retry_after: None,
            }),
            Step::AskForTime(span) => Err(ProcessingError::Unavailable {
                error: "come back later".into(),
                retry_after: Some(span),
            }),
            Step::FailForGood => Err(ProcessingError::Permanent {
                error: "no such item".into(),
            }),
            Step::Panic => panic!("a bug in the processor"),
            Step::Hang => std::future::pending().await,
        }
    }
}
