//! Whose signatures on a server's certificate count, where nobody says otherwise. Checking certificates is left to whoever
//! connects.

use rustls::RootCertStore;

/// Those of the machine, or of the file or folder that `SSL_CERT_FILE` and `SSL_CERT_DIR` name; the public ones where there
/// are none, as in a container that holds little more than this program. Reads files, so it blocks for some milliseconds.
pub fn roots_of_machine() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "some root certificates of this machine could not be read");
    }
    let mut roots = RootCertStore::empty();
    let (_, unusable) = roots.add_parsable_certificates(found.certs);
    if unusable > 0 {
        tracing::debug!(unusable, "some root certificates of this machine cannot be used");
    }
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}
