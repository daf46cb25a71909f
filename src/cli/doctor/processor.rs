//! Is somebody there where the configuration says that orders are processed?

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConnection, Error};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Check;
use crate::config::{Config, HttpService, ProcessorChoice, without_brackets};
use crate::processor::http::tls;

const NAME: &str = "processor";

/// A problem, and advice on what to do about it.
type Problem = (String, &'static str);

/// `None` where nobody else is needed. Only opens a connection: what a service does with a request is its own affair.
pub async fn check(config: &Config) -> Option<Check> {
    let service = match &config.processor {
        ProcessorChoice::Simulated { .. } | ProcessorChoice::Pull => return None,
        ProcessorChoice::Http(service) => service,
    };
    Some(match reach(service).await {
        Ok(()) => Check::ok(
            NAME,
            format!("{} takes connections; no order was sent to it", service.url),
        ),
        Err((problem, advice)) => Check::fail(
            NAME,
            format!("{} cannot be reached: {problem}", service.url),
            advice,
        ),
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
    if url.scheme() == "http" {
        return Ok(());
    }
    let host = host.to_owned();
    let greeted = tokio::task::spawn_blocking(move || greet(stream, host, time_max)).await;
    let greeted = greeted.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
    greeted.map_err(|error| refusal(&error, time_max))
}

/// Greets the service as a delivery would, and hangs up.
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
            "no authority known here has signed its certificate".to_owned(),
            CERTIFICATE,
        ),
        Some(told @ Error::InvalidCertificate(_)) => (told.to_string(), CERTIFICATE),
        Some(Error::InvalidMessage(_)) => (
            "it does not speak TLS".to_owned(),
            "write http:// instead of https:// in ORDERLY_PROCESSOR_URL, or turn on TLS there",
        ),
        // How a timeout of a socket shows.
        None if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => (
            format!("no TLS handshake within {time_max:?}"),
            "look at the service: it takes connections and does not answer",
        ),
        Some(_) | None => (
            format!("the TLS handshake failed: {error}"),
            "look at the service's TLS, and at what stands before it",
        ),
    }
}
