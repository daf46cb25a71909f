//! Facts that only the node itself sees: room on its disks, its connections, and certificates near their end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Finding, Rule, Settings, Severity, finding};
use crate::certificates::Peer;

const MEBIBYTE: u64 = 1024 * 1024;
/// Free space below which a busy store fills its disk within minutes.
pub const FREE_BYTES_FAIL: u64 = 64 * MEBIBYTE;
/// Free space below which somebody should make room.
pub const FREE_BYTES_WARN: u64 = 1024 * MEBIBYTE;

/// Time within which a disk says how much room it has, unless it hangs.
const LOOK_TIME_MAX: Duration = Duration::from_secs(1);

/// Facts about one node.
#[derive(Clone, Debug, Default)]
pub struct Local {
    /// The disk of the SQLite file; `None` if the orders are on another machine, or without a look.
    pub store: Option<Disk>,
    /// The disk of the log files; `None` without log files.
    pub log: Option<Disk>,
    /// Client connections: open ones, and how many are allowed. `None` outside a server.
    pub connections: Option<(u64, u64)>,
}

/// A folder, and the room on its disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    pub folder: PathBuf,
    /// Free bytes; the error if this user cannot write there.
    pub free: Result<u64, String>,
}

impl Local {
    /// Looks at the disks. Blocks, on a disk that hangs for as long as it hangs.
    pub fn look(settings: &Settings) -> Local {
        Local::of_disks(settings, Disk::of)
    }

    /// Says of every disk that it could not be looked at.
    pub fn unseen(settings: &Settings, reason: &str) -> Local {
        Local::of_disks(settings, |folder| Disk {
            folder: folder.to_owned(),
            free: Err(reason.to_owned()),
        })
    }

    fn of_disks(settings: &Settings, disk: impl Fn(&Path) -> Disk) -> Local {
        Local {
            store: settings.store_file.as_deref().map(|file| {
                let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
                disk(file.parent().unwrap_or(Path::new("/")))
            }),
            log: settings.log_dir.as_deref().map(disk),
            connections: None,
        }
    }
}

/// Looks at the disks of a node without waiting for one that hangs: one look is under way at a time.
#[derive(Default)]
pub struct Looker(Mutex<Option<JoinHandle<Local>>>);

impl Looker {
    /// Returns what the disks are like; of those that do not answer within [`LOOK_TIME_MAX`], that they did not.
    pub async fn look(&self, settings: &Arc<Settings>) -> Local {
        self.look_with(settings, Local::look).await
    }

    async fn look_with(
        &self,
        settings: &Arc<Settings>,
        look: impl FnOnce(&Settings) -> Local + Send + 'static,
    ) -> Local {
        let mut under_way = self.0.lock().await;
        let looking = under_way.get_or_insert_with(|| {
            let settings = settings.clone();
            tokio::task::spawn_blocking(move || look(&settings))
        });
        let Ok(looked) = timeout(LOOK_TIME_MAX, looking).await else {
            return Local::unseen(settings, &format!("no answer within {LOOK_TIME_MAX:?}"));
        };
        *under_way = None;
        looked.unwrap_or_else(|panicked| Local::unseen(settings, &panicked.to_string()))
    }
}

impl Disk {
    /// Looks at a folder, or at its nearest parent that exists: a start creates the rest.
    fn of(folder: &Path) -> Disk {
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        let nearest = folder.ancestors().find(|folder| folder.exists());
        let nearest = nearest.unwrap_or(Path::new("/"));
        let free = if nearest.is_dir() {
            room(nearest).map_err(|error| error.to_string())
        } else {
            Err("a file is in the way".to_owned())
        };
        Disk { folder, free }
    }
}

fn room(folder: &Path) -> Result<u64, rustix::io::Errno> {
    use rustix::fs::{Access, access, statvfs};
    access(folder, Access::WRITE_OK | Access::EXEC_OK)?;
    let volume = statvfs(folder)?;
    Ok(volume.f_bavail.saturating_mul(volume.f_frsize))
}

pub(super) fn judge(local: &Local, findings: &mut Vec<Finding>) {
    findings.extend(local.store.as_ref().and_then(store));
    findings.extend(local.log.as_ref().and_then(log));
    findings.extend(local.connections.and_then(connections));
    let ending = Peer::ALL.into_iter().filter(|peer| peer.ends_soon());
    findings.extend(ending.map(certificate));
}

fn store(disk: &Disk) -> Option<Finding> {
    let folder = disk.folder.display();
    let (severity, what) = match &disk.free {
        Err(error) => (Severity::Fail, format!("{folder} cannot be written: {error}")),
        Ok(free @ 0..FREE_BYTES_FAIL) => (
            Severity::Fail,
            format!("{} MiB free at {folder}", free / MEBIBYTE),
        ),
        Ok(free @ FREE_BYTES_FAIL..FREE_BYTES_WARN) => (
            Severity::Warn,
            format!("{} MiB free at {folder}", free / MEBIBYTE),
        ),
        Ok(FREE_BYTES_WARN..) => return None,
    };
    let action = match &disk.free {
        Err(_) => {
            "give this user the right to write there; if the disk hangs, the log of the kernel says why"
        }
        Ok(_) => {
            "make room on the disk: when it is full no order is accepted; ORDERLY_RETENTION removes old orders"
        }
    };
    Some(finding(Rule::DiskFilling, severity, what, action))
}

fn log(disk: &Disk) -> Option<Finding> {
    let folder = disk.folder.display();
    let what = match &disk.free {
        Err(error) => format!("no log file: {folder} cannot be written: {error}"),
        Ok(free @ 0..FREE_BYTES_FAIL) => format!(
            "{} MiB free for the log at {folder}: lines will be lost",
            free / MEBIBYTE
        ),
        Ok(FREE_BYTES_FAIL..) => return None,
    };
    Some(finding(
        Rule::LogUnwritable,
        Severity::Warn,
        what,
        "make the folder writable for this user (move away a file of that name), make room on its disk, or name another folder in \
         ORDERLY_LOG_DIR: until then the log goes to stdout only",
    ))
}

fn connections((open, allowed): (u64, u64)) -> Option<Finding> {
    (open >= allowed).then(|| {
        finding(
            Rule::ConnectionsFull,
            Severity::Fail,
            format!("all {allowed} client connections are in use, and more are refused"),
            "look at who holds them (streams of /events and /ws, or clients that never close: `ss -tnp`); raise \
             ORDERLY_MAX_CONNECTIONS or add nodes",
        )
    })
}

fn certificate(peer: Peer) -> Finding {
    finding(
        Rule::CertificateEnds,
        Severity::Warn,
        format!("the certificate of the {} ends within 14 days", peer.name()),
        "renew it: after its end no connection is made, and orders wait",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(local: &Local) -> Vec<(Rule, Severity)> {
        let mut findings = Vec::new();
        judge(local, &mut findings);
        let mut rules: Vec<_> = findings
            .iter()
            .map(|finding| (finding.rule, finding.severity))
            .collect();
        // Another test's certificate.
        rules.retain(|(rule, _)| *rule != Rule::CertificateEnds);
        rules
    }

    fn disk(free: Result<u64, String>) -> Disk {
        Disk {
            folder: "/data".into(),
            free,
        }
    }

    #[test]
    fn a_disk_is_named_before_it_is_full() {
        let of = |free| {
            rules(&Local {
                store: Some(disk(Ok(free))),
                ..Local::default()
            })
        };
        assert_eq!(of(FREE_BYTES_WARN), []);
        assert_eq!(of(FREE_BYTES_WARN - 1), [(Rule::DiskFilling, Severity::Warn)]);
        assert_eq!(of(FREE_BYTES_FAIL - 1), [(Rule::DiskFilling, Severity::Fail)]);
    }

    /// The answer to the look during which the disk hung is the answer to a later one.
    #[tokio::test]
    async fn a_disk_that_hangs_is_named_and_looked_at_once() {
        let looker = Looker::default();
        let settings = Arc::new(Settings {
            store_file: Some("/data/orderly.db".into()),
            ..Settings::default()
        });
        let (thaw, frozen) = std::sync::mpsc::channel();
        let hangs = move |settings: &Settings| {
            frozen.recv().expect("the disk thaws");
            Local::unseen(settings, "the first look")
        };
        let local = looker.look_with(&settings, hangs).await;
        assert_eq!(rules(&local), [(Rule::DiskFilling, Severity::Fail)]);
        let disk = local.store.unwrap();
        assert_eq!(disk.folder, Path::new("/data"));
        assert_eq!(disk.free, Err("no answer within 1s".to_owned()));
        thaw.send(()).unwrap();
        let never = |_: &Settings| unreachable!("a look is under way");
        let local = looker.look_with(&settings, never).await;
        assert_eq!(local.store.unwrap().free, Err("the first look".to_owned()));
    }

    #[test]
    fn a_log_without_room_or_rights_is_named() {
        for free in [Ok(0), Err("no".to_owned())] {
            let local = Local {
                log: Some(disk(free)),
                ..Local::default()
            };
            assert_eq!(rules(&local), [(Rule::LogUnwritable, Severity::Warn)]);
        }
    }

    #[test]
    fn connections_at_their_limit_are_named() {
        let of = |open| {
            rules(&Local {
                connections: Some((open, 10)),
                ..Local::default()
            })
        };
        assert_eq!(of(9), []);
        assert_eq!(of(10), [(Rule::ConnectionsFull, Severity::Fail)]);
    }

    #[test]
    fn a_folder_that_a_start_can_create_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(Disk::of(dir.path()).free.is_ok());
        assert!(Disk::of(&dir.path().join("a/b")).free.is_ok());
        assert!(Disk::of(&file).free.is_err());
        assert!(Disk::of(&file.join("logs")).free.is_err());
    }
}
