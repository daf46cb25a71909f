//! Default certificate authorities for TLS connections.

use rustls::RootCertStore;

/// Returns the authorities of the machine, or of the file or folder in `SSL_CERT_FILE` and `SSL_CERT_DIR`; if there are
/// none, as in a minimal container, the public ones. Reads files, so it blocks for some milliseconds.
pub fn roots_of_machine() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "cannot read some root certificates of this machine");
    }
    let mut roots = RootCertStore::empty();
    let (_, unusable) = roots.add_parsable_certificates(found.certs);
    if unusable > 0 {
        tracing::debug!(unusable, "cannot use some root certificates of this machine");
    }
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}
