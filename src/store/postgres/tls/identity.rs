//! The client certificate and its key.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::Identity;

/// The permissions that others must not have on a key of the user's own, and on one owned by root.
const FORBIDDEN_MODE: u32 = 0o077;
const FORBIDDEN_MODE_OF_ROOT: u32 = 0o037;

/// Reads both files. Errors name the files and show nothing of their contents.
pub(super) fn read(
    identity: &Identity,
) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let reading = |path: &Path| format!("read the client certificate in {}", path.display());
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&identity.certificate)
        .and_then(Iterator::collect)
        .with_context(|| reading(&identity.certificate));
    let certificates = certificates?;
    ensure!(
        !certificates.is_empty(),
        "there is no certificate in {}",
        identity.certificate.display()
    );
    let reading_key = || {
        format!(
            "read the key of the client certificate in {}",
            identity.key.display()
        )
    };
    check_permissions(&identity.key).with_context(reading_key)?;
    let key = PrivateKeyDer::from_pem_file(&identity.key).with_context(reading_key)?;
    Ok((certificates, key))
}

/// Refuses a key that others can read, as libpq does.
fn check_permissions(path: &Path) -> anyhow::Result<()> {
    let found = std::fs::metadata(path)?;
    let (forbidden, mode_max) = match found.uid() {
        0 => (FORBIDDEN_MODE_OF_ROOT, "0640"),
        _ => (FORBIDDEN_MODE, "0600"),
    };
    ensure!(
        found.mode() & forbidden == 0,
        "others can use it: its mode must be {mode_max} or less"
    );
    Ok(())
}
