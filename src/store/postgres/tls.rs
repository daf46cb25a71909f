//! TLS to PostgreSQL: the checks of the server's certificate that each `sslmode` demands, as in libpq. The driver
//! decides by the configuration whether to encrypt at all.

use std::path::Path;
use std::sync::Arc;

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

use crate::certificates::{Peer, notice_after};
use crate::config::{PostgresUrl, Roots, TlsMode, TlsVersions};
use crate::log_lines::Latch;
use crate::tls_roots::roots_of_machine;

mod identity;
mod public_key;
#[cfg(test)]
mod tests;

/// The protocol name for servers that speak TLS from the first byte (`sslnegotiation=direct`).
const ALPN: &[u8] = b"postgresql";

/// Makes the TLS connector for `url`. Call it once for each URL, because it warns once. Reads the root certificates,
/// so it blocks for some milliseconds; fails when the file of `sslrootcert` cannot be read.
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

/// The check of a server's certificate.
#[derive(Debug)]
enum Demand {
    Nothing,
    /// Nothing is refused, but the log says when the certificate does not verify.
    Advice {
        anchors: Anchors,
        /// The database, as logs name it.
        location: String,
        logged: Latch,
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
                logged: Latch::default(),
            },
            TlsMode::VerifyCa => Demand::Chain(Anchors::of(&url.roots)?),
            TlsMode::VerifyFull => Demand::ChainAndName(Anchors::of(&url.roots)?),
        })
    }
}

/// The authorities whose signatures count.
#[derive(Debug)]
struct Anchors {
    roots: RootCertStore,
    /// Certificates that the operator named. A server that presents one of them needs no other signature.
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
        ensure!(!named.is_empty(), "the file has no certificate");
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

/// The certificates that a server presented, and the current time.
#[derive(Clone, Copy)]
struct Presented<'a> {
    certificate: &'a CertificateDer<'a>,
    intermediates: &'a [CertificateDer<'a>],
    now: UnixTime,
}

impl Verifier {
    fn check_chain(&self, anchors: &Anchors, presented: Presented) -> Result<(), rustls::Error> {
        let chain = verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(presented.certificate)?,
            &anchors.roots,
            presented.intermediates,
            presented.now,
            self.algorithms.all,
        );
        match chain {
            // Self-signed certificates are mostly marked as those of an authority, which a server's should not be.
            // libpq accepts them.
            Err(error) if anchors.named.contains(presented.certificate) && !is_out_of_date(&error) => Ok(()),
            result => result,
        }
    }

    fn note_end(&self, anchors: &Anchors, presented: Presented) {
        let later = Presented {
            now: notice_after(presented.now),
            ..presented
        };
        Peer::Database.set_ends_soon(self.check_chain(anchors, later).is_err());
    }

    fn check_all(
        &self,
        anchors: &Anchors,
        presented: Presented,
        name: &ServerName<'_>,
    ) -> Result<(), rustls::Error> {
        self.check_chain(anchors, presented)?;
        verify_server_name(&ParsedCertificate::try_from(presented.certificate)?, name)
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
        let presented = Presented {
            certificate,
            intermediates,
            now,
        };
        match &self.demand {
            Demand::Nothing => {}
            Demand::Advice {
                anchors,
                location,
                logged,
            } => match self.check_all(anchors, presented, name) {
                Ok(()) => self.note_end(anchors, presented),
                Err(error) if logged.set() => tracing::warn!(
                    "the connection to {location} is encrypted, but its certificate does not verify ({error}): \
                         an attacker in between could pose as the database; set sslmode=verify-full and sslrootcert \
                         to prevent that"
                ),
                Err(_) => {}
            },
            Demand::Chain(anchors) => {
                self.check_chain(anchors, presented)?;
                self.note_end(anchors, presented);
            }
            Demand::ChainAndName(anchors) => {
                self.check_all(anchors, presented, name)?;
                self.note_end(anchors, presented);
            }
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

    /// PostgreSQL's manual makes certificates of version 1, which the library cannot parse. They must work where no
    /// certificate is checked, so their key is extracted by hand.
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
