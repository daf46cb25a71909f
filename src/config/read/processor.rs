//! Reads the choice of processor and its settings.

use super::Reader;
use crate::config::{HttpService, ProcessorChoice};

/// Value of the setting `processor`.
#[derive(Clone, Copy)]
pub enum ProcessorName {
    Simulated,
    Http,
    Pull,
}

impl Reader<'_> {
    /// Reads the settings of the other processors too, so that all mistakes are reported at once.
    pub(super) fn processor_choice(&mut self) -> Option<ProcessorChoice> {
        let (speed, failure_rate) = (self.simulated_speed(), self.simulated_failure_rate());
        let service = self.http_service();
        match self.processor()? {
            ProcessorName::Simulated => {
                self.warn_of_no_service("processing is simulated");
                Some(ProcessorChoice::Simulated {
                    speed: speed?,
                    failure_rate: failure_rate?,
                })
            }
            ProcessorName::Pull => {
                self.warn_of_no_service("external workers pull the orders");
                Some(ProcessorChoice::Pull)
            }
            ProcessorName::Http => {
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
        let (url, signing_keys) = (self.processor_url(), self.processor_secret());
        let connect_timeout = self.processor_connect_timeout();
        let response_timeout = self.processor_response_timeout();
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
