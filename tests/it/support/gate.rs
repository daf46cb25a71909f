//! A gate that blocks callers until a test opens it.

use std::sync::Arc;

use tokio::sync::Semaphore;

pub struct Gate {
    arrived: Semaphore,
    admitted: Semaphore,
}

impl Gate {
    pub fn closed() -> Arc<Gate> {
        Arc::new(Gate {
            arrived: Semaphore::new(0),
            admitted: Semaphore::new(0),
        })
    }

    /// Arrives, and waits until the gate is open.
    pub async fn pass(&self) {
        self.arrived.add_permits(1);
        // The semaphore never has a permit: the wait ends when the gate opens.
        let _ = self.admitted.acquire().await;
    }

    /// Waits until one more caller has arrived.
    pub async fn arrival(&self) {
        self.arrived.acquire().await.expect("never closed").forget();
    }

    /// Lets all callers pass from now on.
    pub fn open(&self) {
        self.admitted.close();
    }
}
