//! Settings of the server under test.

use std::time::Duration;

use orderly::money::Currency;
use orderly::order::OrderDefaults;

use super::Api;

/// Settings of the server.
pub struct Setup<'a> {
    pub api_key: Option<&'a str>,
    pub local_only: bool,
    pub heartbeat: Duration,
    /// True when external workers process the orders.
    pub pull: bool,
    pub defaults: OrderDefaults,
}

impl Default for Setup<'_> {
    /// Streams send no heartbeats.
    fn default() -> Self {
        Setup {
            api_key: None,
            local_only: false,
            heartbeat: Duration::from_hours(1),
            pull: false,
            defaults: OrderDefaults::default(),
        }
    }
}

impl Api {
    /// Another server on the same store, with `ORDERLY_CURRENCY`.
    pub async fn again_with_currency(self, code: &str) -> Api {
        let setup = Setup {
            defaults: OrderDefaults {
                currency: Some(Currency::parse(code).unwrap()),
            },
            ..Setup::default()
        };
        self.draining.cancel();
        self.live.ended().await.expect("the feed task does not panic");
        Api::before(self.harness, |store| store, &setup)
    }
}
