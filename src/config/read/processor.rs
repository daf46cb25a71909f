//! Reads the choice of processor and its settings.

use std::time::Duration;

use super::{DAY, HOUR, Reader, SPEED_MAX};
use crate::config::service::{HttpService, ServiceUrl, SigningKey};
use crate::config::{ProcessorChoice, values};

/// Shorter than any round trip to another machine; a smaller value is a mistake in the unit.
const TIMEOUT_MIN: Duration = Duration::from_millis(10);

#[derive(Clone, Copy)]
enum Kind {
    Simulated,
    Http,
    Pull,
}

impl Reader<'_> {
    /// Reads the settings of the other processors too, so that all mistakes are reported at once.
    pub(super) fn processor(&mut self) -> Option<ProcessorChoice> {
        let speed = self.number("simulated_speed", 0.0..=SPEED_MAX);
        let failure_rate = self.number("simulated_failure_rate", 0.0..=1.0);
        let service = self.http_service();
        let kinds = [
            ("simulated", Kind::Simulated),
            ("http", Kind::Http),
            ("pull", Kind::Pull),
        ];
        match self.required("processor", |text| values::choice(text, &kinds))? {
            Kind::Simulated => {
                self.warn_of_no_service("processing is simulated");
                Some(ProcessorChoice::Simulated {
                    speed: speed?,
                    failure_rate: failure_rate?,
                })
            }
            Kind::Pull => {
                self.warn_of_no_service("external workers pull the orders");
                Some(ProcessorChoice::Pull)
            }
            Kind::Http => {
                if self.layers.get("processor_url").is_none() {
                    let problem = "`http` needs ORDERLY_PROCESSOR_URL, the URL of the service that processes the orders";
                    self.problem("processor", problem);
                }
                self.warn_of_no_signature();
                Some(ProcessorChoice::Http(Box::new(service?)))
            }
        }
    }

    fn http_service(&mut self) -> Option<HttpService> {
        let url = self.optional("processor_url", ServiceUrl::parse);
        let signing_keys = self.optional("processor_secret", SigningKey::parse_all);
        let connect_timeout = self.duration("processor_connect_timeout", TIMEOUT_MIN..=HOUR);
        let response_timeout = self.duration("processor_response_timeout", TIMEOUT_MIN..=DAY);
        Some(HttpService {
            url: url?,
            signing_keys: signing_keys.unwrap_or_default(),
            connect_timeout: connect_timeout?,
            response_timeout: response_timeout?,
        })
    }

    /// Warns of an unused service: orders would be completed without it.
    fn warn_of_no_service(&mut self, instead: &str) {
        for key in ["processor_url", "processor_secret"] {
            if self.layers.get(key).is_some() {
                let name = self.name(key);
                self.warnings.push(format!(
                    "{name} is set, but {instead}: ORDERLY_PROCESSOR=http sends the orders to a service"
                ));
            }
        }
    }

    fn warn_of_no_signature(&mut self) {
        if self.layers.get("processor_secret").is_none() {
            self.warnings.push(
                "ORDERLY_PROCESSOR_SECRET is not set: deliveries are unsigned, so the service cannot verify their sender"
                    .to_owned(),
            );
        }
    }
}
