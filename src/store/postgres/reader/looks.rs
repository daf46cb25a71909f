//! Looks at a standby at the start and whenever it failed, until it serves. Meanwhile no caller waits for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::super::answered::hung_text;
use super::super::query::{END_AND_PLACE, end_of};
use super::{READ_TIME_MAX, Reader, STATEMENT_TIME_MAX, Standing, Unserved};

/// The pause before the next look; doubles from the first to the last.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(10);

impl Reader {
    /// Notes that the standby failed: it is asked no more until it was looked at.
    pub(super) fn fails(&self, reason: &str) {
        self.sessions.distrust();
        let mut standing = self.standing();
        standing.serves = false;
        if !standing.told {
            standing.told = true;
            tracing::warn!(
                "DATABASE_READ_URL leads to no server that serves reads; lists and feed pages come from the primary: {reason}"
            );
        }
        self.failed.notify_one();
    }

    /// Looks until the store closes.
    pub(super) async fn look_after(self: Arc<Self>) {
        let closing = self.shared.closing.clone();
        tokio::select! {
            () = closing.cancelled() => {}
            () = self.look_whenever_it_failed() => {}
        }
        self.sessions.close();
    }

    async fn look_whenever_it_failed(&self) {
        loop {
            let mut pause = PAUSE_MIN;
            while let Err(reason) = self.look().await {
                self.fails(&reason);
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            self.serves();
            while self.standing().serves {
                self.failed.notified().await;
            }
            sleep(PAUSE_MIN).await;
        }
    }

    /// Finds out whether the standby serves, or why not.
    async fn look(&self) -> Result<(), String> {
        let known = loop {
            match self.known().await {
                Some(known) => break known,
                // The primary is away: its own callers hear of that.
                None => sleep(PAUSE_MIN).await,
            }
        };
        let session = match self.sessions.lend().await {
            Ok(Some(session)) => session,
            // Those in use were opened before it failed, and end soon.
            Ok(None) => return Err(Unserved::Busy.reason().to_owned()),
            Err(failure) => return Err(failure.text().to_owned()),
        };
        let look = async {
            let found = session.begin(STATEMENT_TIME_MAX, END_AND_PLACE, &[]).await?;
            known.check(&end_of(&found)?, false)?;
            session.end().await?;
            Ok(())
        };
        match timeout(READ_TIME_MAX, look).await {
            Ok(looked) => looked.map_err(|unserved: Unserved| unserved.reason().to_owned()),
            Err(_) => Err(hung_text(READ_TIME_MAX)),
        }
    }

    fn serves(&self) {
        let mut standing = self.standing();
        let told = standing.told;
        *standing = Standing {
            serves: true,
            ..Standing::default()
        };
        if told {
            tracing::info!("the server of DATABASE_READ_URL serves lists and feed pages again");
        }
    }
}
