//! Simulated processor, the default: takes time by the number of items and does nothing else.

use std::time::Duration;

use async_trait::async_trait;

use super::{Attempt, Processed, ProcessingError, Processor};
use crate::lease::ProcessorKind;
use crate::order::Order;

/// Takes 2 s for fewer than 3 items, 5 s for 3 to 10 and 10 s for more, divided by `speed`.
pub struct Simulated {
    /// Divisor of the times; 0 means at once.
    pub speed: f64,
    /// Share of failing attempts, 0 to 1.
    pub failure_rate: f64,
}

impl Simulated {
    fn duration(&self, item_count: u64) -> Duration {
        if self.speed == 0.0 {
            return Duration::ZERO;
        }
        let seconds = match item_count {
            0..3 => 2.0,
            3..=10 => 5.0,
            _ => 10.0,
        };
        Duration::try_from_secs_f64(seconds / self.speed).unwrap_or(Duration::MAX)
    }
}

#[async_trait]
impl Processor for Simulated {
    async fn process(&self, order: &Order, _attempt: Attempt) -> Result<Processed, ProcessingError> {
        let duration = self.duration(order.request.items.count());
        if !duration.is_zero() {
            tokio::time::sleep(duration).await;
        }
        if self.failure_rate > 0.0 && rand::random::<f64>() < self.failure_rate {
            return Err(ProcessingError::Transient {
                error: "simulated failure".into(),
                retry_after: None,
            });
        }
        Ok(Processed::COMPLETED)
    }

    fn kind(&self) -> ProcessorKind {
        ProcessorKind::Simulated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_depends_on_the_number_of_items() {
        let at = |speed| Simulated {
            speed,
            failure_rate: 0.0,
        };
        let seconds = |items| at(1.0).duration(items).as_secs();
        assert_eq!([1, 2, 3, 10, 11, 1000].map(seconds), [2, 2, 5, 5, 10, 10]);
        assert_eq!(at(2.0).duration(3), Duration::from_millis(2500));
        assert_eq!(at(0.0).duration(3), Duration::ZERO);
    }
}
