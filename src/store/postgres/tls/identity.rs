//! The certificate by which a client proves who it is, and its key.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::Identity;

/// The rights that others may have on a key of the user's own, and on one that root lends.
const RIGHTS_OF_OTHERS: u32 = 0o077;
const RIGHTS_OF_OTHERS_ON_ROOTS: u32 = 0o037;

/// Reads both files. The errors name the files and show nothing of them.
pub(super) fn read(
    identity: &Identity,
) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let told = |path: &Path| format!("read the client certificate in {}", path.display());
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&identity.certificate)
        .and_then(Iterator::collect)
        .with_context(|| told(&identity.certificate));
    let certificates = certificates?;
    ensure!(
        !certificates.is_empty(),
        "there is no certificate in {}",
        identity.certificate.display()
    );
    let key_told = || {
        format!(
            "read the key of the client certificate in {}",
            identity.key.display()
        )
    };
    check_rights(&identity.key).with_context(key_told)?;
    let key = PrivateKeyDer::from_pem_file(&identity.key).with_context(key_told)?;
    Ok((certificates, key))
}

/// Refuses a key that others can read, as libpq does.
fn check_rights(path: &Path) -> anyhow::Result<()> {
    let found = std::fs::metadata(path)?;
    let (rights, told) = match found.uid() {
        0 => (RIGHTS_OF_OTHERS_ON_ROOTS, "0640"),
        _ => (RIGHTS_OF_OTHERS, "0600"),
    };
    ensure!(
        found.mode() & rights == 0,
        "others can use it: its mode must be {told} or less"
    );
    Ok(())
}
