//! Is somebody there where the configuration says that orders are processed?

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Check;
use crate::config::{Config, ProcessorChoice};

const NAME: &str = "processor";

/// `None` where nobody else is needed. Only opens a connection: what a service does with a request is its own affair.
pub async fn check(config: &Config) -> Option<Check> {
    let service = match &config.processor {
        ProcessorChoice::Simulated { .. } | ProcessorChoice::Pull => return None,
        ProcessorChoice::Http(service) => service,
    };
    let url = service.url.expose();
    let host = url.host_str()?.trim_matches(['[', ']']);
    let connect = TcpStream::connect((host, url.port_or_known_default()?));
    let problem = match timeout(service.connect_timeout, connect).await {
        Ok(Ok(_)) => {
            return Some(Check::ok(
                NAME,
                format!("{} takes connections; no order was sent to it", service.url),
            ));
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no connection within {:?}", service.connect_timeout),
    };
    Some(Check::fail(
        NAME,
        format!("{} cannot be reached: {problem}", service.url),
        "start the service, or correct ORDERLY_PROCESSOR_URL",
    ))
}
