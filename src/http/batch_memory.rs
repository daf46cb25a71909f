//! Memory budget of batches, the largest bodies. A batch reserves memory as its bytes arrive, so a client that
//! announces much and sends little reserves little. It keeps the memory that its answer needs until the answer is sent.

use std::sync::Arc;

use axum::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::{Problem, ProblemType};

/// Budget of all batches together: seven of full size from first byte to answer, or thousands of small ones.
pub const BATCH_MEMORY_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Smallest reservation of a batch. One byte from each allowed connection (4,096 by default) leaves room for the rest.
const UNIT_BYTES: usize = 4 * 1024;

pub struct BatchMemory(Arc<Semaphore>);

impl BatchMemory {
    pub fn new(bytes: usize) -> BatchMemory {
        BatchMemory(Arc::new(Semaphore::new(bytes / UNIT_BYTES)))
    }

    /// Starts an empty share.
    pub fn share(&self) -> Share {
        Share {
            memory: self.0.clone(),
            permits: Vec::new(),
        }
    }
}

/// Memory reserved by one batch; returned on drop.
pub struct Share {
    memory: Arc<Semaphore>,
    /// Together the whole share; each growth adds one.
    permits: Vec<OwnedSemaphorePermit>,
}

impl Share {
    /// Grows the share to `bytes`, or fails because other batches hold the memory.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), Problem> {
        let missing = bytes.div_ceil(UNIT_BYTES).saturating_sub(self.units());
        let taken = u32::try_from(missing)
            .ok()
            .and_then(|missing| self.memory.clone().try_acquire_many_owned(missing).ok());
        let Some(permit) = taken else {
            return Err(Problem::new(
                ProblemType::Busy,
                "too many batches are in memory; nothing was stored",
            ));
        };
        self.permits.push(permit);
        Ok(())
    }

    /// Turns the text into an answer that keeps just the share it needs until its last byte is dropped.
    pub fn hold(mut self, text: Vec<u8>) -> Bytes {
        let mut spare = self.units().saturating_sub(text.len().div_ceil(UNIT_BYTES));
        while let Some(mut permit) = self.permits.pop() {
            if permit.num_permits() > spare {
                drop(permit.split(spare));
                self.permits.push(permit);
                break;
            }
            spare -= permit.num_permits();
        }
        Bytes::from_owner(AnswerText { text, _share: self })
    }

    fn units(&self) -> usize {
        self.permits.iter().map(OwnedSemaphorePermit::num_permits).sum()
    }
}

struct AnswerText {
    text: Vec<u8>,
    _share: Share,
}

impl AsRef<[u8]> for AnswerText {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_other_batches_is_refused_until_they_release_it() {
        let memory = BatchMemory::new(4 * UNIT_BYTES);
        let (mut first, mut second) = (memory.share(), memory.share());
        first.grow_to(1).unwrap();
        first.grow_to(UNIT_BYTES).unwrap();
        assert_eq!(memory.0.available_permits(), 3);
        first.grow_to(3 * UNIT_BYTES).unwrap();
        assert_eq!(
            second.grow_to(UNIT_BYTES + 1).unwrap_err().kind,
            ProblemType::Busy
        );
        second.grow_to(UNIT_BYTES).unwrap();
        drop(first);
        second.grow_to(4 * UNIT_BYTES).unwrap();
        assert_eq!(memory.0.available_permits(), 0);
    }

    #[test]
    fn an_answer_keeps_its_memory_until_it_is_dropped() {
        let memory = BatchMemory::new(8 * UNIT_BYTES);
        let mut share = memory.share();
        for units in [1, 3, 8] {
            share.grow_to(units * UNIT_BYTES).unwrap();
        }
        let answer = share.hold(vec![b'x'; UNIT_BYTES + 1]);
        assert_eq!(memory.0.available_permits(), 6);
        let unsent = answer.slice(10..);
        drop(answer);
        assert_eq!(memory.0.available_permits(), 6);
        drop(unsent);
        assert_eq!(memory.0.available_permits(), 8);
    }
}
