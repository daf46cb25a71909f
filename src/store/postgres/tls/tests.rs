//! Each `sslmode` against servers with good and bad certificates, by real handshakes in memory.

use std::io::Write;
use std::sync::Mutex;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConnection, ServerConfig, ServerConnection};

use super::*;

const HOST: &str = "db.test";

/// An authority that signs server certificates.
struct Authority {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Authority {
            certificate: params.self_signed(&key).unwrap(),
            issuer: Issuer::new(params, key),
        }
    }

    fn server(&self, params: &CertificateParams) -> Server {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Server::new(certificate.der().clone(), &key)
    }
}

fn params(name: &str) -> CertificateParams {
    CertificateParams::new([name.to_owned()]).unwrap()
}

fn expired() -> CertificateParams {
    let mut params = params(HOST);
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    params
}

/// A certificate like those of `openssl req -x509`: marked as that of an authority.
fn self_signed(mut params: CertificateParams) -> Server {
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Server::new(certificate.der().clone(), &key)
}

/// A server with a certificate and a key, which may not match.
#[derive(Clone, Debug)]
struct Server {
    certificate: CertificateDer<'static>,
    key: Arc<CertifiedKey>,
}

impl Server {
    fn new(certificate: CertificateDer<'static>, key: &KeyPair) -> Server {
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let key = ring::sign::any_supported_type(&key).unwrap();
        let chain = vec![certificate.clone()];
        Server {
            certificate,
            key: Arc::new(CertifiedKey::new(chain, key)),
        }
    }

    fn connection(&self) -> ServerConnection {
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![ALPN.to_vec()];
        ServerConnection::new(Arc::new(config)).unwrap()
    }
}

impl ResolvesServerCert for Server {
    fn resolve(&self, hello: ClientHello) -> Option<Arc<CertifiedKey>> {
        assert_eq!(hello.server_name(), Some(HOST), "the host's name is sent");
        Some(self.key.clone())
    }
}

/// A file for `sslrootcert`.
fn roots(certificates: &[&CertificateDer]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for certificate in certificates {
        use base64::Engine;
        let text = base64::engine::general_purpose::STANDARD.encode(certificate);
        writeln!(
            file,
            "-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----"
        )
        .unwrap();
    }
    file
}

fn config(parameters: &str) -> Arc<ClientConfig> {
    let (url, _) = PostgresUrl::parse(&format!("postgres://me:hunter2@{HOST}/db?{parameters}")).unwrap();
    Arc::new(client_config(&url).unwrap())
}

fn config_with(mode: &str, roots: &tempfile::NamedTempFile) -> Arc<ClientConfig> {
    config(&format!("sslmode={mode}&sslrootcert={}", roots.path().display()))
}

/// Attempts a connection between a client and a server.
fn connects(config: &Arc<ClientConfig>, server: &Server) -> Result<(), rustls::Error> {
    let name = ServerName::try_from(HOST).unwrap();
    let mut client = ClientConnection::new(config.clone(), name).unwrap();
    let mut server = server.connection();
    while client.is_handshaking() || server.is_handshaking() {
        let mut flight = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut flight).unwrap();
        }
        let mut sent = &flight[..];
        while !sent.is_empty() {
            server.read_tls(&mut sent).unwrap();
            server.process_new_packets()?;
        }
        let mut flight = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut flight).unwrap();
        }
        let mut sent = &flight[..];
        while !sent.is_empty() {
            client.read_tls(&mut sent).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok(())
}

#[test]
fn each_sslmode_takes_the_servers_that_libpq_takes() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let file = roots(&[authority.certificate.der()]);
    let good = authority.server(&params(HOST));
    let wrong_name = authority.server(&params("other.test"));
    let expired = authority.server(&expired());
    let unknown = stranger.server(&params(HOST));
    let self_signed = self_signed(params(HOST));
    for (mode, server, name, taken) in [
        ("prefer", &good, "good", true),
        ("prefer", &wrong_name, "wrong name", true),
        ("prefer", &expired, "expired", true),
        ("prefer", &unknown, "unknown", true),
        ("prefer", &self_signed, "self-signed", true),
        // With a root file this is verify-ca.
        ("require", &good, "good", true),
        ("require", &wrong_name, "wrong name", true),
        ("require", &expired, "expired", false),
        ("require", &unknown, "unknown", false),
        ("require", &self_signed, "self-signed", false),
        ("verify-ca", &good, "good", true),
        ("verify-ca", &wrong_name, "wrong name", true),
        ("verify-ca", &expired, "expired", false),
        ("verify-ca", &unknown, "unknown", false),
        ("verify-ca", &self_signed, "self-signed", false),
        ("verify-full", &good, "good", true),
        ("verify-full", &wrong_name, "wrong name", false),
        ("verify-full", &expired, "expired", false),
        ("verify-full", &unknown, "unknown", false),
        ("verify-full", &self_signed, "self-signed", false),
    ] {
        let connected = connects(&config_with(mode, &file), server);
        assert_eq!(connected.is_ok(), taken, "{mode}, {name}: {connected:?}");
    }
    for server in [&good, &wrong_name, &expired, &unknown, &self_signed] {
        connects(&config("sslmode=require"), server).unwrap();
        for mode in ["verify-ca", "verify-full"] {
            // No authority of this machine has signed them.
            connects(&config(&format!("sslmode={mode}")), server).unwrap_err();
        }
    }
}

#[test]
fn a_self_signed_certificate_is_its_own_root() {
    let right = self_signed(params(HOST));
    let wrong_name = self_signed(params("other.test"));
    let expired = self_signed(expired());
    let other = Authority::new();
    let file = roots(&[
        other.certificate.der(),
        &right.certificate,
        &wrong_name.certificate,
        &expired.certificate,
    ]);
    for (mode, server, name, taken) in [
        ("verify-ca", &right, "right", true),
        ("verify-ca", &wrong_name, "wrong name", true),
        ("verify-ca", &expired, "expired", false),
        ("verify-full", &right, "right", true),
        ("verify-full", &wrong_name, "wrong name", false),
        ("verify-full", &expired, "expired", false),
    ] {
        let connected = connects(&config_with(mode, &file), server);
        assert_eq!(connected.is_ok(), taken, "{mode}, {name}: {connected:?}");
    }
}

/// Otherwise an attacker could present a certificate that it once saw.
#[test]
fn a_server_without_the_key_of_its_certificate_is_refused_in_every_mode() {
    let authority = Authority::new();
    let file = roots(&[authority.certificate.der()]);
    let good = authority.server(&params(HOST));
    let impostor = Server::new(good.certificate, &KeyPair::generate().unwrap());
    for mode in ["prefer", "require", "verify-ca", "verify-full"] {
        connects(&config_with(mode, &file), &impostor).unwrap_err();
    }
    connects(&config("sslmode=require"), &impostor).unwrap_err();
}

#[test]
fn a_version_1_certificate_works_where_none_is_checked() {
    let key = KeyPair::generate().unwrap();
    let current = params(HOST).self_signed(&key).unwrap();
    let old = as_version_1(current.der());
    let server = Server::new(old.clone(), &key);
    let impostor = Server::new(old, &KeyPair::generate().unwrap());
    for parameters in ["", "sslmode=require"] {
        connects(&config(parameters), &server).unwrap();
        connects(&config(parameters), &impostor).unwrap_err();
    }
    connects(&config("sslmode=verify-ca"), &server).unwrap_err();
}

/// Makes a certificate without version and extensions. Its signature no longer holds, which no check here notices.
fn as_version_1(certificate: &CertificateDer) -> CertificateDer<'static> {
    /// `[0] { INTEGER 2 }`
    const VERSION_3: [u8; 5] = [0xa0, 3, 2, 1, 2];
    let key = public_key::of(certificate).unwrap();
    let at = |part: &[u8]| {
        let found = certificate.windows(part.len()).position(|window| window == part);
        found.unwrap()
    };
    let named = &certificate[at(&VERSION_3) + VERSION_3.len()..at(&key) + key.len()];
    let signature = sequence(&[0x06, 0x03, 0x2a, 0x03, 0x04]);
    let parts = [sequence(named), signature, vec![0x03, 2, 0, 0]].concat();
    CertificateDer::from(sequence(&parts))
}

fn sequence(contents: &[u8]) -> Vec<u8> {
    let length = u8::try_from(contents.len()).unwrap();
    let head: &[u8] = if length < 0x80 {
        &[0x30, length]
    } else {
        &[0x30, 0x81, length]
    };
    [head, contents].concat()
}

#[test]
fn bytes_that_are_no_certificate_have_no_key() {
    let whole = params(HOST).self_signed(&KeyPair::generate().unwrap()).unwrap();
    let whole = whole.der();
    assert!(public_key::of(whole).is_some());
    for length in 0..whole.len() {
        let cut = CertificateDer::from(&whole[..length]);
        assert!(public_key::of(&cut).is_none(), "cut at {length}");
        connects(
            &config(""),
            &Server::new(cut.into_owned(), &KeyPair::generate().unwrap()),
        )
        .unwrap_err();
    }
}

#[test]
fn require_warns_once_of_a_certificate_that_does_not_verify() {
    let server = self_signed(params(HOST));
    let written = Arc::new(Mutex::new(Vec::new()));
    let writer = Writer(written.clone());
    let log = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .finish();
    let _logged = tracing::subscriber::set_default(log);
    let warnings = || {
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert!(!text.contains("hunter2"), "{text}");
        text.matches("postgres://db.test:5432/db is encrypted, but")
            .count()
    };
    // Another thread that reaches the log line at this moment, without a subscriber, may have disabled it for all.
    while warnings() == 0 {
        tracing::callsite::rebuild_interest_cache();
        connects(&config("sslmode=require"), &server).unwrap();
    }
    let before = warnings();
    connects(&config("sslmode=prefer"), &server).unwrap();
    assert_eq!(warnings(), before);
    let require = config("sslmode=require");
    for _ in 0..3 {
        connects(&require, &server).unwrap();
        assert_eq!(warnings(), before + 1);
    }
}

#[derive(Clone)]
struct Writer(Arc<Mutex<Vec<u8>>>);

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn tls_from_the_first_byte_names_its_protocol() {
    let direct = config("sslmode=require&sslnegotiation=direct");
    assert_eq!(direct.alpn_protocols, [ALPN.to_vec()]);
    connects(&direct, &self_signed(params(HOST))).unwrap();
    assert!(config("sslmode=require").alpn_protocols.is_empty());
}

#[test]
fn an_error_names_a_bad_root_file() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "nothing").unwrap();
    let no_certificate = folder.path().join("bad.pem");
    let bad = "-----BEGIN CERTIFICATE-----\nYWJj\n-----END CERTIFICATE-----\n";
    std::fs::write(&no_certificate, bad).unwrap();
    for path in [empty, no_certificate, folder.path().join("missing.pem")] {
        let text = format!("postgres://h/db?sslmode=verify-ca&sslrootcert={}", path.display());
        let (url, _) = PostgresUrl::parse(&text).unwrap();
        let error = format!("{:#}", client_config(&url).unwrap_err());
        assert!(error.contains(&*path.display().to_string()), "{error}");
    }
}
