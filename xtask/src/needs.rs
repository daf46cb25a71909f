//! What the tests need from the machine, and where a test finds it. Getting it on Debian is left to `debian.rs`, what a
//! test does with it to the test.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::debian;

/// A program, and the Debian package that brings it.
const PROGRAMS: [(&str, &str); 11] = [
    // Fails chosen system calls of a server: a sync, a write.
    ("strace", "strace"),
    // Gives a server a small disk of its own, which a test fills.
    ("unshare", "util-linux"),
    ("mount", "mount"),
    // Makes the private databases of the tests.
    ("initdb", "postgresql"),
    // Stands before some of them.
    ("pgbouncer", "pgbouncer"),
    // Stands before the server, as docs/OPERATIONS.md sets it up.
    ("nginx", "nginx"),
    // Follows the feed as browsers do, and is driven by the other.
    ("chromium", "chromium"),
    ("chromedriver", "chromium-driver"),
    // Run the tools that read the OpenAPI document, and the clients they generate.
    ("python3", "python3"),
    ("node", "nodejs"),
    ("npm", "npm"),
];
/// What the trials with a highly available PostgreSQL need.
const PROGRAMS_FOR_HA: [(&str, &str); 7] = [
    ("ip", "iproute2"),
    // Keep what the trials start to themselves.
    ("unshare", "util-linux"),
    ("initdb", "postgresql"),
    ("patroni", "patroni"),
    ("etcd", "etcd-server"),
    ("haproxy", "haproxy"),
    ("pgbouncer", "pgbouncer"),
];
/// Brings what `python3 -m venv` copies into a new folder, where Python itself has it not.
const VENV_PACKAGE: &str = "python3-venv";
/// Where programs are that are on no path, or not on that of every user.
const SYSTEM_PROGRAMS: &str = "/usr/sbin";
/// One folder per version.
const POSTGRES_VERSIONS: &str = "/usr/lib/postgresql";

/// What the tests are run under so that they may mount a disk; the disk-full test mounts a tmpfs.
#[derive(Clone, Copy)]
pub enum Mounts {
    Allowed,
    /// In namespaces of their own, where a user is root.
    InNamespaces,
}

impl Mounts {
    /// The program that the tests are started with, with its arguments.
    pub fn wrapper(self) -> &'static [&'static str] {
        match self {
            Mounts::Allowed => &["unshare", "--mount"],
            Mounts::InNamespaces => &["unshare", "--map-root-user", "--mount"],
        }
    }
}

/// Installs what is missing when it may, otherwise says what to install.
pub fn bring() -> Result<Mounts> {
    let mut packages = missing(&PROGRAMS);
    if !has_venv() {
        packages.push(VENV_PACKAGE);
    }
    if !packages.is_empty() {
        debian::install(&packages)?;
    }
    private_mounts()
}

/// The same for the trials of `ha`.
pub fn bring_for_ha() -> Result<()> {
    let packages = missing(&PROGRAMS_FOR_HA);
    if packages.is_empty() {
        return Ok(());
    }
    debian::install(&packages)
}

/// The packages of the programs that are not there.
fn missing(programs: &[(&str, &'static str)]) -> Vec<&'static str> {
    let missing = programs.iter().filter(|(program, _)| !is_installed(program));
    missing.map(|(_, package)| *package).collect()
}

fn has_venv() -> bool {
    let asked = Command::new("python3")
        .args(["-c", "import ensurepip"])
        .stderr(Stdio::null())
        .status();
    asked.is_ok_and(|status| status.success())
}

fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain([PathBuf::from(SYSTEM_PROGRAMS)])
        .chain(postgres_folders())
        .any(|folder| folder.join(program).is_file())
}

fn postgres_folders() -> impl Iterator<Item = PathBuf> {
    let versions = Path::new(POSTGRES_VERSIONS).read_dir();
    versions
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|version| version.path().join("bin"))
}

/// The folder with the programs of the newest PostgreSQL.
pub fn newest_postgres() -> Result<PathBuf> {
    let version = |folder: &PathBuf| -> Option<u32> { folder.parent()?.file_name()?.to_str()?.parse().ok() };
    let newest = postgres_folders().max_by_key(version);
    newest.with_context(|| format!("no PostgreSQL in {POSTGRES_VERSIONS}"))
}

fn private_mounts() -> Result<Mounts> {
    for mounts in [Mounts::Allowed, Mounts::InNamespaces] {
        if can_mount(mounts)? {
            return Ok(mounts);
        }
    }
    if debian::is_root()? {
        bail!(
            "the disk-full test mounts a tmpfs, and root may not do so here: the right CAP_SYS_ADMIN is missing, as \
             in a container by default (docker run --cap-add SYS_ADMIN --security-opt apparmor=unconfined)"
        );
    }
    bail!(
        "the disk-full test mounts a tmpfs: run as root, or allow user namespaces \
         (sysctl kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0)"
    );
}

fn can_mount(mounts: Mounts) -> Result<bool> {
    let (unshare, arguments) = mounts.wrapper().split_first().expect("a wrapper is a program");
    let status = Command::new(unshare)
        .args(arguments)
        .args(["mount", "-t", "tmpfs", "none", "/mnt"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("run unshare")?;
    Ok(status.success())
}
