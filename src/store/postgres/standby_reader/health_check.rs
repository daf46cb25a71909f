//! Checks the standby at the start and after each failure, until it serves. Meanwhile no caller waits for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::super::await_answer::no_answer_text;
use super::super::query::{END_AND_PLACE, end_of};
use super::{Fallback, READ_TIME_MAX, STATEMENT_TIME_MAX, StandbyReader, StandbyStatus};

/// The shortest and longest pause before the next check; it doubles in between.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(10);

impl StandbyReader {
    /// Notes that the standby failed. It is not asked until a check succeeds.
    pub(super) fn record_failure(&self, reason: &str) {
        self.sessions.drop_idle();
        let mut status = self.status();
        status.serves = false;
        if status.logged.set() {
            tracing::warn!(
                "DATABASE_READ_URL leads to no server that serves reads; lists and feed pages come from the primary: {reason}. `orderly doctor` says what to do"
            );
        }
        self.failed.notify_one();
    }

    /// Checks the standby until the store closes.
    pub(super) async fn keep_checking(self: Arc<Self>) {
        let closing = self.shared.closing.clone();
        tokio::select! {
            () = closing.cancelled() => {}
            () = self.check_after_failures() => {}
        }
        self.sessions.close();
    }

    async fn check_after_failures(&self) {
        loop {
            let mut pause = PAUSE_MIN;
            while let Err(reason) = self.check().await {
                self.record_failure(&reason);
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            self.record_success();
            while self.status().serves {
                self.failed.notified().await;
            }
            sleep(PAUSE_MIN).await;
        }
    }

    /// Checks whether the standby can serve. Fails with the reason why not.
    async fn check(&self) -> Result<(), String> {
        let primary = loop {
            match self.primary_feed().await {
                Some(primary) => break primary,
                // The primary is away; its own callers report that.
                None => sleep(PAUSE_MIN).await,
            }
        };
        let session = match self.sessions.checkout().await {
            Ok(Some(session)) => session,
            // The connections in use were opened before it failed, and end soon.
            Ok(None) => return Err(Fallback::Busy.reason().to_owned()),
            Err(failure) => return Err(failure.text().to_owned()),
        };
        let read = async {
            let found = session.begin(STATEMENT_TIME_MAX, END_AND_PLACE, &[]).await?;
            primary.check(&end_of(&found)?, false)?;
            session.end().await?;
            Ok(())
        };
        match timeout(READ_TIME_MAX, read).await {
            Ok(checked) => checked.map_err(|fallback: Fallback| fallback.reason().to_owned()),
            Err(_) => Err(no_answer_text(READ_TIME_MAX)),
        }
    }

    /// Notes that the standby serves, and logs it if the log said otherwise.
    fn record_success(&self) {
        let mut status = self.status();
        let was_logged = status.logged.clear();
        *status = StandbyStatus {
            serves: true,
            ..StandbyStatus::default()
        };
        if was_logged {
            tracing::info!("the server of DATABASE_READ_URL serves lists and feed pages again");
        }
    }
}
