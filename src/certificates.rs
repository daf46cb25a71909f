//! Certificates of other machines that end soon, so that somebody renews them before connections fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

/// Time before the end of a certificate from which on it is reported: Let's Encrypt's are renewed 30 days before theirs.
pub const NOTICE: Duration = Duration::from_hours(14 * 24);

/// The machine that showed a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Service,
    Database,
}

impl Peer {
    pub const ALL: [Peer; 2] = [Peer::Service, Peer::Database];

    pub fn name(self) -> &'static str {
        match self {
            Peer::Service => "service",
            Peer::Database => "database",
        }
    }

    /// Reports whether its certificate ends soon, as of the latest connection of this process.
    pub fn ends_soon(self) -> bool {
        self.flag().load(Ordering::Relaxed)
    }

    /// Records what the latest connection showed.
    pub fn set_ends_soon(self, ends_soon: bool) {
        self.flag().store(ends_soon, Ordering::Relaxed);
    }

    /// Connections are made at many places, and the answer belongs to the process, like its metrics.
    fn flag(self) -> &'static AtomicBool {
        static SERVICE: AtomicBool = AtomicBool::new(false);
        static DATABASE: AtomicBool = AtomicBool::new(false);
        match self {
            Peer::Service => &SERVICE,
            Peer::Database => &DATABASE,
        }
    }
}

/// Returns the time at which a certificate must still be valid not to end soon.
pub fn notice_after(now: UnixTime) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + NOTICE)
}

/// Checks certificates like its inner verifier, and notes whether they end soon.
#[derive(Debug)]
pub struct Noting {
    pub inner: Arc<WebPkiServerVerifier>,
    pub peer: Peer,
}

impl ServerCertVerifier for Noting {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verify = |at| {
            self.inner
                .verify_server_cert(certificate, intermediates, name, ocsp_response, at)
        };
        let verified = verify(now)?;
        self.peer.set_ends_soon(verify(notice_after(now)).is_err());
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use rustls::RootCertStore;

    use super::*;

    /// Verifies a certificate that ends at the start of the year 2030, at a time before that.
    fn ends_soon(before_end: Duration) -> bool {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(vec!["shop.test".to_owned()]).unwrap();
        parameters.not_after = date_time_ymd(2030, 1, 1);
        let certificate = parameters.self_signed(&key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        let noting = Noting {
            inner: inner.build().unwrap(),
            peer: Peer::Service,
        };
        let end = UnixTime::since_unix_epoch(Duration::from_hours(525_960));
        let now = end.as_secs() - before_end.as_secs();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        let name = ServerName::try_from("shop.test").unwrap();
        noting
            .verify_server_cert(certificate.der(), &[], &name, &[], now)
            .unwrap();
        Peer::Service.ends_soon()
    }

    #[test]
    fn a_certificate_is_noted_two_weeks_before_its_end() {
        assert!(!ends_soon(NOTICE + Duration::from_hours(1)));
        assert!(ends_soon(Duration::from_hours(14 * 24 - 1)));
        assert!(!ends_soon(NOTICE * 2));
    }
}
