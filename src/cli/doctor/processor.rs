//! Checks that the configured HTTP processor takes connections.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConnection, Error};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Finding;
use crate::config::{Config, HttpService, ProcessorChoice, without_brackets};
use crate::processor::http::tls;

/// A problem and its remedy.
type Problem = (String, &'static str);

/// Returns `None` if no external service is needed. Only opens a connection and sends no order.
pub async fn check(config: &Config) -> Option<Finding> {
    let service = match &config.processor {
        ProcessorChoice::Simulated { .. } | ProcessorChoice::Pull => return None,
        ProcessorChoice::Http(service) => service,
    };
    Some(match reach(service).await {
        Ok(()) => Finding::ok(format!(
            "{} takes connections; no order was sent to it",
            service.url
        )),
        Err((problem, advice)) => {
            Finding::fail(format!("{} cannot be reached: {problem}", service.url), advice)
        }
    })
}

async fn reach(service: &HttpService) -> Result<(), Problem> {
    const ADVICE: &str = "start the service, or correct ORDERLY_PROCESSOR_URL";
    let url = service.url.expose();
    let host = without_brackets(url.host_str().unwrap_or_default());
    let port = url.port_or_known_default().unwrap_or_default();
    let time_max = service.connect_timeout;
    let connect = timeout(time_max, TcpStream::connect((host, port))).await;
    let late = |_| (format!("no connection within {time_max:?}"), ADVICE);
    let stream = connect
        .map_err(late)?
        .map_err(|error| (error.to_string(), ADVICE))?;
    let host = host.to_owned();
    let is_plain = url.scheme() == "http";
    let time_max = if is_plain { PLAIN_TIME_MAX } else { time_max };
    let greeted = tokio::task::spawn_blocking(move || greet(stream, host, time_max)).await;
    let greeted = greeted.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
    if is_plain {
        return match greeted {
            Err(error) if !is_of_certificate(&error) => Ok(()),
            Ok(()) | Err(_) => Err((
                "it speaks TLS".to_owned(),
                "write https:// instead of http:// in ORDERLY_PROCESSOR_URL",
            )),
        };
    }
    greeted.map_err(|error| refusal(&error, time_max))
}

/// Time for a service behind `http://` to show that it speaks TLS. One that does not answers with an error at once, or waits for
/// more.
const PLAIN_TIME_MAX: Duration = Duration::from_millis(500);

fn is_of_certificate(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(inner, Some(Error::InvalidCertificate(_)))
}

/// Carries out the TLS handshake of a delivery, then disconnects.
fn greet(stream: TcpStream, host: String, time_max: Duration) -> io::Result<()> {
    let name = ServerName::try_from(host).map_err(io::Error::other)?;
    let mut connection = ClientConnection::new(Arc::new(tls()), name).map_err(io::Error::other)?;
    let mut stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(time_max))?;
    stream.set_write_timeout(Some(time_max))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    Ok(())
}

fn refusal(error: &io::Error, time_max: Duration) -> Problem {
    const CERTIFICATE: &str = "name its authority in SSL_CERT_FILE, or use a host name that its certificate holds in \
                               ORDERLY_PROCESSOR_URL";
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => (
            "its certificate is signed by no known authority".to_owned(),
            CERTIFICATE,
        ),
        Some(reason @ Error::InvalidCertificate(_)) => (reason.to_string(), CERTIFICATE),
        Some(Error::InvalidMessage(_)) => (
            "it does not speak TLS".to_owned(),
            "write http:// instead of https:// in ORDERLY_PROCESSOR_URL, or enable TLS in the service",
        ),
        // A socket timeout surfaces as either kind.
        None if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => (
            format!("no TLS handshake within {time_max:?}"),
            "check the service: it takes connections and does not answer",
        ),
        Some(_) | None => (
            format!("the TLS handshake failed: {error}"),
            "check the TLS settings of the service and of any proxy in front of it",
        ),
    }
}
