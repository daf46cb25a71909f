//! Paths of the PostgreSQL programs on this machine, and the user to run them as: they refuse to run as root.

use std::env;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

/// Debian's folders outside the path, one per version.
const DEBIAN_VERSIONS: &str = "/usr/lib/postgresql";
/// Not on the path of every user.
const SYSTEM_PROGRAMS: &str = "/usr/sbin";
/// Tried in this order: the dedicated user first, then one that every system has.
const UNPRIVILEGED_NAMES: [&str; 2] = ["postgres", "nobody"];

/// The folder with the programs of the newest server version.
pub fn server() -> Option<PathBuf> {
    let is_complete = |folder: &PathBuf| {
        ["initdb", "postgres"]
            .iter()
            .all(|name| folder.join(name).is_file())
    };
    let mut versions: Vec<(u32, PathBuf)> = Path::new(DEBIAN_VERSIONS)
        .read_dir()
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((
                entry.file_name().to_str()?.parse().ok()?,
                entry.path().join("bin"),
            ))
        })
        .filter(|(_, folder)| is_complete(folder))
        .collect();
    versions.sort();
    let newest = versions.pop().map(|(_, folder)| folder);
    newest.or_else(|| folders_on_path().find(is_complete))
}

/// Reports whether standbys can be created.
pub fn has_base_backup() -> bool {
    server().is_some_and(|folder| folder.join("pg_basebackup").is_file())
}

pub fn pgbouncer() -> Option<PathBuf> {
    folders_on_path()
        .chain([PathBuf::from(SYSTEM_PROGRAMS)])
        .map(|folder| folder.join("pgbouncer"))
        .find(|program| program.is_file())
}

fn folders_on_path() -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).collect::<Vec<_>>().into_iter()
}

/// The user that runs the programs.
#[derive(Clone)]
pub struct Unprivileged {
    /// The command that starts them as that user; empty when this process is not root.
    pub wrapper: Vec<String>,
    /// The owner of their files, if not the user of this process.
    pub owner: Option<(u32, u32)>,
}

pub fn unprivileged() -> Result<Unprivileged, String> {
    static FOUND: LazyLock<Result<Unprivileged, String>> = LazyLock::new(find_unprivileged);
    FOUND.clone()
}

fn find_unprivileged() -> Result<Unprivileged, String> {
    let own = Path::new("/proc/self").metadata();
    let own = own.map_err(|error| format!("read /proc/self: {error}"))?.uid();
    if own != 0 {
        return Ok(Unprivileged {
            wrapper: Vec::new(),
            owner: None,
        });
    }
    let as_user = UNPRIVILEGED_NAMES.iter().filter_map(|name| {
        let (user, group) = (id_of(name, "-u")?, id_of(name, "-g")?);
        Some(Unprivileged {
            wrapper: [
                "setpriv",
                &format!("--reuid={user}"),
                &format!("--regid={group}"),
                "--clear-groups",
            ]
            .map(str::to_owned)
            .to_vec(),
            owner: Some((user, group)),
        })
    });
    // Root inside a user namespace cannot become a user unknown to it, but is an ordinary user again in a nested
    // namespace.
    let in_namespace = Unprivileged {
        wrapper: ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
            .map(str::to_owned)
            .to_vec(),
        owner: None,
    };
    as_user
        .chain([in_namespace])
        .find(|candidate| succeeds(&candidate.wrapper))
        .ok_or_else(|| "root can neither become another user nor make a namespace".to_owned())
}

fn id_of(user: &str, which: &str) -> Option<u32> {
    let output = Command::new("id")
        .args([which, user])
        .stderr(Stdio::null())
        .output()
        .ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

fn succeeds(wrapper: &[String]) -> bool {
    let (program, arguments) = wrapper.split_first().expect("the wrapper names a program");
    let mut command = Command::new(program);
    command.args(arguments).arg("true");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
