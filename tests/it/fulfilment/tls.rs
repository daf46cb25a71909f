//! Services behind TLS: trusted and untrusted certificates.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use orderly::config::HttpService;
use orderly::processor::ProcessingError;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::fixture::{Fixture, service};
use super::receiver::{self, Receiver};
use crate::support::client::http;
use crate::support::postgres::{Authority, Certificate};
use crate::support::process::{Process, orderly};
use crate::support::until;

/// A service that completes every order over TLS; stopped when dropped.
pub struct Secured {
    pub address: SocketAddr,
    _end: DropGuard,
}

impl Secured {
    pub async fn start(certificate: &Certificate) -> Secured {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = CertificateDer::pem_slice_iter(certificate.chain.as_bytes());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                chain.collect::<Result<_, _>>().unwrap(),
                PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap(),
            )
            .unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let end = CancellationToken::new();
        let serving = serve(listener, TlsAcceptor::from(Arc::new(config)));
        let ended = end.clone();
        tokio::spawn(async move { ended.run_until_cancelled(serving).await });
        Secured {
            address,
            _end: end.drop_guard(),
        }
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // A client that does not trust the certificate closes the connection.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                return;
            };
            while let Ok(Some(_)) = receiver::read(&mut stream).await {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{\"result\":\"tls\"}";
                if stream.write_all(answer).await.is_err() {
                    return;
                }
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_with_an_untrusted_certificate_gets_no_orders() {
    let secured = Secured::start(&Certificate::self_signed(&["127.0.0.1"])).await;
    let plain = Receiver::start().await;
    let silent = HttpService {
        connect_timeout: Duration::from_millis(300),
        ..service(&format!("https://{}/", plain.address))
    };
    for (service, message) in [
        (
            service(&format!("https://{}/", secured.address)),
            "the service cannot be reached: invalid peer certificate: UnknownIssuer",
        ),
        // This service waits for the end of an HTTP head, which a handshake never contains.
        (silent, "the service cannot be reached: "),
    ] {
        let fixture = Fixture::open(service, |config| config.retry.attempts_max = 1).await;
        let id = fixture.order("it").await;
        // An attempt in progress counts until it is given back.
        until("the order is given back without an attempt", async || {
            let order = fixture.now(id).await;
            order["last_error"].is_string() && order["status"] == "Pending" && order["attempts"] == 0
        })
        .await;
        let error = fixture.failures(id).remove(0);
        assert!(matches!(error, ProcessingError::Unreachable { .. }), "{error:?}");
        assert!(error.to_string().starts_with(message), "{error}");
        fixture.act(id, "cancel").await;
        fixture.close().await;
    }
    assert!(plain.deliveries().is_empty());
    // The reverse: plain HTTP against a TLS port.
    let fixture = Fixture::open(service(&format!("http://{}/", secured.address)), |config| {
        config.retry.attempts_max = 1;
    })
    .await;
    let id = fixture.order("it").await;
    assert_eq!(fixture.ended(id).await["status"], "Failed");
    assert!(matches!(fixture.failures(id)[0], ProcessingError::Ailing { .. }));
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configured_certificate_authority_is_trusted() {
    let authority = Authority::new();
    let good = Secured::start(&authority.certificate_for(&["127.0.0.1"])).await;
    let other_name = Secured::start(&authority.certificate_for(&["shop.example"])).await;
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root.pem");
    std::fs::write(&root, authority.root()).unwrap();
    for (address, completes, message) in [
        (good.address, true, ""),
        (other_name.address, false, "not valid for name"),
    ] {
        let home = tempfile::tempdir().unwrap();
        let mut command = orderly(home.path());
        command.envs([
            ("ORDERLY_PROCESSOR", "http"),
            ("ORDERLY_PROCESSOR_URL", &format!("https://{address}/orders")),
            ("ORDERLY_MAX_ATTEMPTS", "1"),
        ]);
        command.env("SSL_CERT_FILE", &root);
        let server = Process::start(command).await;
        let order = order_with_reason(&server.url).await;
        // A breaker probe may be running.
        assert_eq!(order["status"] == "Completed", completes, "{order}");
        assert!(
            order["last_error"].as_str().unwrap_or_default().contains(message),
            "{order}"
        );
        assert_eq!(server.terminate().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_reports_an_untrusted_certificate() {
    let authority = Authority::new();
    let good = Secured::start(&authority.certificate_for(&["127.0.0.1"])).await;
    let other_name = Secured::start(&authority.certificate_for(&["shop.example"])).await;
    let self_signed = Secured::start(&Certificate::self_signed(&["127.0.0.1"])).await;
    let plain = in_the_clear().await;
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root.pem");
    std::fs::write(&root, authority.root()).unwrap();
    for (address, state, order_with_reason) in [
        (good.address, "ok", "takes connections"),
        (other_name.address, "fail", "not valid for name"),
        (self_signed.address, "fail", "certificate"),
        (plain, "fail", "does not speak TLS"),
    ] {
        let mut command = orderly(folder.path());
        command.args(["doctor", "--json"]);
        command.envs([
            ("ORDERLY_PROCESSOR", "http"),
            ("ORDERLY_PROCESSOR_URL", &format!("https://{address}/orders")),
        ]);
        command.env("SSL_CERT_FILE", &root);
        let output = command.output().await.unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let mut checks = report["checks"].as_array().unwrap().iter();
        let check = checks.find(|check| check["name"] == "processor").unwrap();
        assert_eq!(check["state"], state, "{check}");
        assert!(
            check["finding"].as_str().unwrap().contains(order_with_reason),
            "{check}"
        );
    }
}

/// Starts a plain HTTP server that refuses every request.
async fn in_the_clear() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let refusal = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";
        stream.write_all(refusal).await.unwrap();
        // Reads to the end: closing early would discard the answer.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    address
}

/// Waits until the order is completed or shows why it waits, and returns it.
async fn order_with_reason(url: &str) -> Value {
    let order = json!({"user_id": 104, "item_ids": 7, "total_amount": 1});
    let answer = http().post(format!("{url}/orders")).json(&order).send().await;
    assert_eq!(answer.unwrap().status(), 201);
    let read = async || -> Value {
        let answer = http().get(format!("{url}/orders/1")).send().await;
        answer.unwrap().json().await.unwrap()
    };
    until("the order is completed or shows an error", async || {
        let order = read().await;
        order["status"] == "Completed" || order["last_error"].is_string()
    })
    .await;
    read().await
}
