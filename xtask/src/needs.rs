//! What the tests need from the machine, and how to get it on Debian. What a test does with it is left to the test.

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A program, and the Debian package that brings it.
const PROGRAMS: [(&str, &str); 3] = [
    // Fails chosen system calls of a server: a sync, a write.
    ("strace", "strace"),
    // Gives a server a small disk of its own, which a test fills.
    ("unshare", "util-linux"),
    ("mount", "mount"),
];

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
    let packages: Vec<&str> = PROGRAMS
        .into_iter()
        .filter(|(program, _)| !is_on_path(program))
        .map(|(_, package)| package)
        .collect();
    if !packages.is_empty() {
        install(&packages)?;
    }
    private_mounts()
}

fn is_on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn install(packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    if !is_root()? || !Path::new("/usr/bin/apt-get").exists() {
        bail!("the tests need {names}; on Debian: sudo apt-get update && sudo apt-get install -y {names}");
    }
    println!("installing {names}");
    apt_get(&["update"])?;
    apt_get(&[&["install", "-y", "--no-install-recommends"], packages].concat())
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status()
        .context("run apt-get")?;
    if !status.success() {
        bail!("apt-get {} failed: {status}", arguments.join(" "));
    }
    Ok(())
}

fn is_root() -> Result<bool> {
    let id = Command::new("id").arg("-u").output().context("run id")?;
    Ok(id.stdout.trim_ascii() == b"0")
}

fn private_mounts() -> Result<Mounts> {
    for mounts in [Mounts::Allowed, Mounts::InNamespaces] {
        if can_mount(mounts)? {
            return Ok(mounts);
        }
    }
    if is_root()? {
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
