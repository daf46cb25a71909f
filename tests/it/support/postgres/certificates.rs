//! A temporary certificate authority and server certificates: signed by it for some names, or self-signed.

use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

/// A server's certificate and key, as PEM.
pub struct Certificate {
    pub chain: String,
    pub key: String,
}

impl Certificate {
    pub fn self_signed(names: &[&str]) -> Certificate {
        let key = KeyPair::generate().expect("a key");
        let certificate = params(names).self_signed(&key).expect("a certificate");
        Certificate {
            chain: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: rcgen::Certificate,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = params(&[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        // The name differs from that of the certificates it signs; otherwise OpenSSL would take them for self-signed.
        params
            .distinguished_name
            .push(DnType::CommonName, "authority of the tests");
        let key = KeyPair::generate().expect("a key");
        let root = params.self_signed(&key).expect("a certificate");
        Authority {
            root,
            issuer: Issuer::new(params, key),
        }
    }

    /// The file content for `sslrootcert`, as PEM.
    pub fn root(&self) -> String {
        self.root.pem()
    }

    /// A client that trusts only this authority and checks the host name.
    pub fn client(&self) -> MakeRustlsConnect {
        let mut roots = RootCertStore::empty();
        roots
            .add(self.root.der().clone())
            .expect("a certificate of an authority");
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring knows the versions of TLS")
            .with_root_certificates(roots)
            .with_no_client_auth();
        MakeRustlsConnect::new(config)
    }

    pub fn certificate_for(&self, names: &[&str]) -> Certificate {
        self.sign(&params(names))
    }

    /// Makes a certificate that ends at a time.
    pub fn certificate_until(&self, names: &[&str], end: SystemTime) -> Certificate {
        let mut params = params(names);
        params.not_after = end.into();
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Certificate {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Certificate {
            chain: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateParams::new(names).expect("host names and addresses")
}
