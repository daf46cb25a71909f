//! Programs that the tests need, and where they are found. `debian.rs` installs them.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::debian;

/// Programs and their Debian packages.
const PROGRAMS: [(&str, &str); 14] = [
    // Injects failures of system calls: a sync, a write.
    ("strace", "strace"),
    // Gives a server a small disk for a test to fill.
    ("unshare", "util-linux"),
    ("mount", "mount"),
    // Creates the private databases of the tests.
    ("initdb", "postgresql"),
    // Runs between nodes and some of them.
    ("pgbouncer", "pgbouncer"),
    // Hands out the work of some nodes.
    ("redis-server", "redis-server"),
    // Runs as reverse proxy, configured as in docs/OPERATIONS.md.
    ("nginx", "nginx"),
    // Evaluate the alerts.
    ("promtool", "prometheus"),
    ("prometheus", "prometheus"),
    // Follows the feed as browsers do, driven by chromedriver.
    ("chromium", "chromium"),
    ("chromedriver", "chromium-driver"),
    // Run tools that read the OpenAPI document, and the generated clients.
    ("python3", "python3"),
    ("node", "nodejs"),
    ("npm", "npm"),
];
/// Programs for the trials with a highly available PostgreSQL.
const PROGRAMS_FOR_HA: [(&str, &str); 7] = [
    ("ip", "iproute2"),
    // Isolates the processes of the trials.
    ("unshare", "util-linux"),
    ("initdb", "postgresql"),
    ("patroni", "patroni"),
    ("etcd", "etcd-server"),
    ("haproxy", "haproxy"),
    ("pgbouncer", "pgbouncer"),
];
/// Programs for the measurements.
const PROGRAMS_FOR_BENCH: [(&str, &str); 5] = [
    ("initdb", "postgresql"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("pgbouncer", "pgbouncer"),
    ("redis-server", "redis-server"),
];
/// Package for `python3 -m venv` if Python itself lacks its files.
const VENV_PACKAGE: &str = "python3-venv";
/// Folder of programs that may be missing from the path.
const SYSTEM_PROGRAMS: &str = "/usr/sbin";
/// Parent folder of the PostgreSQL versions.
const POSTGRES_VERSIONS: &str = "/usr/lib/postgresql";

/// Method by which the tests get the right to mount a disk; the disk-full test mounts a tmpfs.
#[derive(Clone, Copy)]
pub enum Mounts {
    Allowed,
    /// Run in user namespaces, where any user is root.
    InNamespaces,
}

impl Mounts {
    /// Returns the program that starts the tests, with its arguments.
    pub fn wrapper(self) -> &'static [&'static str] {
        match self {
            Mounts::Allowed => &["unshare", "--mount"],
            Mounts::InNamespaces => &["unshare", "--map-root-user", "--mount"],
        }
    }
}

/// Installs missing packages if possible; otherwise the error says what to install.
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

/// Installs missing packages for the trials of `ha`.
pub fn bring_for_ha() -> Result<()> {
    bring_these(&PROGRAMS_FOR_HA)
}

/// Installs missing packages for the measurements of `bench`.
pub fn bring_for_bench() -> Result<()> {
    bring_these(&PROGRAMS_FOR_BENCH)
}

fn bring_these(programs: &[(&str, &'static str)]) -> Result<()> {
    let packages = missing(programs);
    if packages.is_empty() {
        return Ok(());
    }
    debian::install(&packages)
}

/// Returns the packages of missing programs.
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

/// Returns the folder with the programs of the newest PostgreSQL.
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
            "the disk-full test mounts a tmpfs, but root may not mount here: CAP_SYS_ADMIN is missing, as \
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
