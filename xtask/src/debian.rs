//! Installs Debian packages for the tests, which need their programs but no running services: nothing is started and no
//! cluster created, and settings changed for that are restored.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Script that packages ask before they start a service.
const SERVICE_POLICY: &str = "/usr/sbin/policy-rc.d";
/// Exit code 101 means "not allowed".
const NO_SERVICES: &str = "#!/bin/sh\nexit 101\n";
const EXECUTABLE: u32 = 0o755;
/// Package with the file below; it creates no cluster itself.
const CLUSTER_TOOLS: &str = "postgresql-common";
/// Setting that the server's package reads before it creates a cluster. The last of two lines wins.
const CLUSTER_SETTINGS: &str = "/etc/postgresql-common/createcluster.conf";
const NO_CLUSTER: &str = "\ncreate_main_cluster = false\n";
/// Packages whose services start at boot once installed, and those services.
const SERVICES: [(&str, &str); 5] = [
    ("nginx", "nginx"),
    ("pgbouncer", "pgbouncer"),
    ("haproxy", "haproxy"),
    ("etcd-server", "etcd"),
    ("patroni", "patroni"),
];

/// Installs the packages as root; for other users the error lists the commands.
pub fn install(packages: &[&str]) -> Result<()> {
    if !is_root()? || !Path::new("/usr/bin/apt-get").exists() {
        bail!("{}", commands(packages));
    }
    println!("installing {}", packages.join(" "));
    apt_get(&["update"])?;
    let _no_services = Replaced::with(SERVICE_POLICY, EXECUTABLE, |_| NO_SERVICES.to_owned())?;
    let is_server = packages.contains(&"postgresql");
    if is_server {
        apt_get_install(&[CLUSTER_TOOLS])?;
    }
    let _no_cluster = if is_server {
        let settings = Replaced::with(CLUSTER_SETTINGS, 0o644, |before| before.to_owned() + NO_CLUSTER)?;
        Some(settings)
    } else {
        None
    };
    apt_get_install(packages)?;
    for service in services(packages) {
        leave_at_boot(service)?;
    }
    Ok(())
}

pub fn is_root() -> Result<bool> {
    let id = Command::new("id").arg("-u").output().context("run id")?;
    Ok(id.stdout.trim_ascii() == b"0")
}

/// Returns the commands that a person would run instead.
fn commands(packages: &[&str]) -> String {
    let names = packages.join(" ");
    let mut text = format!("the tests need {names}; on Debian:\n  sudo apt-get update\n");
    if packages.contains(&"postgresql") {
        text += &format!(
            "  sudo apt-get install -y {CLUSTER_TOOLS}\n  \
             echo 'create_main_cluster = false' | sudo tee -a {CLUSTER_SETTINGS}  # no server on the standard port\n"
        );
    }
    text += &format!("  sudo apt-get install -y --no-install-recommends {names}\n");
    for service in services(packages) {
        text += &format!("  sudo systemctl disable --now {service}\n");
    }
    text
}

fn services(packages: &[&str]) -> impl Iterator<Item = &'static str> {
    SERVICES
        .into_iter()
        .filter(|(package, _)| packages.contains(package))
        .map(|(_, service)| service)
}

fn apt_get_install(packages: &[&str]) -> Result<()> {
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

/// Disables a service at boot under systemd; elsewhere nothing starts it by itself.
fn leave_at_boot(service: &str) -> Result<()> {
    if !Path::new("/usr/bin/systemctl").exists() {
        return Ok(());
    }
    let status = Command::new("systemctl")
        .args(["disable", service])
        .status()
        .context("run systemctl")?;
    if !status.success() {
        bail!("systemctl disable {service} failed: {status}");
    }
    Ok(())
}

/// A file with a temporary text; restored on drop.
struct Replaced {
    path: PathBuf,
    /// `None` if the file did not exist.
    before: Option<(String, fs::Permissions)>,
}

impl Replaced {
    fn with(path: &str, mode: u32, text: impl FnOnce(&str) -> String) -> Result<Replaced> {
        let path = PathBuf::from(path);
        let before = match fs::read_to_string(&path) {
            Ok(text) => Some((text, fs::metadata(&path)?.permissions())),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let new_text = text(before.as_ref().map_or("", |(text, _)| text));
        let replaced = Replaced { path, before };
        replaced
            .put(&new_text, fs::Permissions::from_mode(mode))
            .with_context(|| format!("write {}", replaced.path.display()))?;
        Ok(replaced)
    }

    fn put(&self, text: &str, permissions: fs::Permissions) -> std::io::Result<()> {
        fs::write(&self.path, text)?;
        fs::set_permissions(&self.path, permissions)
    }
}

impl Drop for Replaced {
    fn drop(&mut self) {
        let put_back = match &self.before {
            Some((text, permissions)) => self.put(text, permissions.clone()),
            None => fs::remove_file(&self.path),
        };
        if let Err(error) = put_back {
            eprintln!("xtask: cannot restore {}: {error}", self.path.display());
        }
    }
}
