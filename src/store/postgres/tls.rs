//! TLS to PostgreSQL: what each `sslmode` demands of the server's certificate, as libpq demands it. Whether to encrypt
//! at all is left to the driver beneath, which the configuration has told.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, ensure};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::version::{TLS12, TLS13};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::config::SslNegotiation;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::{PostgresUrl, Roots, TlsMode, TlsVersions};
use crate::tls_roots::roots_of_machine;

mod identity;
mod public_key;
#[cfg(test)]
mod tests;

/// What a server is asked for that speaks TLS from the first byte (`sslnegotiation=direct`).
const ALPN: &[u8] = b"postgresql";

/// What encrypts the connections to `url`. To be made once for each URL: it warns once. Reads the roots, so it blocks
/// for some milliseconds, and fails when the file of `sslrootcert` cannot be read.
pub fn connector(url: &PostgresUrl) -> anyhow::Result<MakeRustlsConnect> {
    client_config(url).map(MakeRustlsConnect::new)
}

fn client_config(url: &PostgresUrl) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier {
        demand: Demand::of(url)?,
        algorithms: provider.signature_verification_algorithms,
    };
    let versions: &[_] = match url.tls_versions {
        TlsVersions::From12 => &[&TLS13, &TLS12],
        TlsVersions::Only12 => &[&TLS12],
        TlsVersions::Only13 => &[&TLS13],
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .context("choose the versions of TLS")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &url.identity {
        Some(identity) => {
            let (certificates, key) = identity::read(identity)?;
            let config = config.with_client_auth_cert(certificates, key);
            config.context("use the client certificate of sslcert and sslkey")?
        }
        None => config.with_no_client_auth(),
    };
    config.enable_sni = url.sends_name;
    if url.server.get_ssl_negotiation() == SslNegotiation::Direct {
        config.alpn_protocols = vec![ALPN.to_vec()];
    }
    Ok(config)
}

/// What is asked of a server's certificate.
#[derive(Debug)]
enum Demand {
    Nothing,
    /// Nothing either; but whoever reads the log should know when it does not verify.
    Advice {
        anchors: Anchors,
        /// For people.
        location: String,
        told: AtomicBool,
    },
    Chain(Anchors),
    ChainAndName(Anchors),
}

impl Demand {
    fn of(url: &PostgresUrl) -> anyhow::Result<Demand> {
        Ok(match url.tls {
            TlsMode::Disable | TlsMode::Prefer => Demand::Nothing,
            TlsMode::Require => Demand::Advice {
                anchors: Anchors::of(&url.roots)?,
                location: url.location.clone(),
                told: AtomicBool::new(false),
            },
            TlsMode::VerifyCa => Demand::Chain(Anchors::of(&url.roots)?),
            TlsMode::VerifyFull => Demand::ChainAndName(Anchors::of(&url.roots)?),
        })
    }
}

/// Whose signatures count.
#[derive(Debug)]
struct Anchors {
    roots: RootCertStore,
    /// Certificates an operator named: a server that shows one of these needs no signature of another.
    named: Vec<CertificateDer<'static>>,
}

impl Anchors {
    fn of(roots: &Roots) -> anyhow::Result<Anchors> {
        match roots {
            Roots::System => Ok(Anchors {
                roots: roots_of_machine(),
                named: Vec::new(),
            }),
            Roots::File(path) => Anchors::of_file(path)
                .with_context(|| format!("read the root certificates in {}", path.display())),
        }
    }

    fn of_file(path: &Path) -> anyhow::Result<Anchors> {
        let named = CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>()?;
        ensure!(!named.is_empty(), "there are none");
        let mut roots = RootCertStore::empty();
        for certificate in &named {
            roots.add(certificate.clone())?;
        }
        Ok(Anchors { roots, named })
    }
}

#[derive(Debug)]
struct Verifier {
    demand: Demand,
    algorithms: WebPkiSupportedAlgorithms,
}

/// What a server showed, and when.
#[derive(Clone, Copy)]
struct Shown<'a> {
    certificate: &'a CertificateDer<'a>,
    intermediates: &'a [CertificateDer<'a>],
    now: UnixTime,
}

impl Verifier {
    fn check_chain(&self, anchors: &Anchors, shown: Shown) -> Result<(), rustls::Error> {
        let chain = verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(shown.certificate)?,
            &anchors.roots,
            shown.intermediates,
            shown.now,
            self.algorithms.all,
        );
        match chain {
            // Self-signed ones are mostly marked as an authority's, which no server's should be. libpq takes them.
            Err(error) if anchors.named.contains(shown.certificate) && !is_out_of_date(&error) => Ok(()),
            judged => judged,
        }
    }

    fn check_all(&self, anchors: &Anchors, shown: Shown, name: &ServerName<'_>) -> Result<(), rustls::Error> {
        self.check_chain(anchors, shown)?;
        verify_server_name(&ParsedCertificate::try_from(shown.certificate)?, name)
    }
}

fn is_out_of_date(error: &rustls::Error) -> bool {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    let rustls::Error::InvalidCertificate(error) = error else {
        return false;
    };
    matches!(
        error,
        Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }
    )
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = Shown {
            certificate,
            intermediates,
            now,
        };
        match &self.demand {
            Demand::Nothing => {}
            Demand::Advice {
                anchors,
                location,
                told,
            } => {
                if let Err(error) = self.check_all(anchors, shown, name)
                    && !told.swap(true, Ordering::Relaxed)
                {
                    tracing::warn!(
                        "the connection to {location} is encrypted, but its certificate does not verify ({error}): \
                         somebody in between could pass for the database; sslmode=verify-full with sslrootcert \
                         makes sure"
                    );
                }
            }
            Demand::Chain(anchors) => self.check_chain(anchors, shown)?,
            Demand::ChainAndName(anchors) => self.check_all(anchors, shown, name)?,
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    /// The manual of PostgreSQL makes certificates of version 1, which the library does not read. Where no certificate
    /// is asked for they must do, so their key is taken from them by hand.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if let Err(error) = ParsedCertificate::try_from(certificate) {
            let key = public_key::of(certificate).ok_or(error)?;
            return verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms);
        }
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
