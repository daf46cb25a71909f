//! A small private file system.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::support::required;

/// A file system of 24 MiB, unmounted when dropped.
pub struct SmallDisk {
    pub path: PathBuf,
}

impl SmallDisk {
    pub async fn mount(folder: &Path) -> Option<SmallDisk> {
        let path = folder.join("disk");
        std::fs::create_dir(&path).unwrap();
        SmallDisk::mount_over(path).await
    }

    /// Hides the contents of the folder until it is dropped.
    pub async fn mount_over(path: PathBuf) -> Option<SmallDisk> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
            .arg(&path)
            .output()
            .await;
        let works = mounted.is_ok_and(|output| output.status.success());
        required("mounting a tmpfs", works).then_some(SmallDisk { path })
    }

    /// Takes or frees space until this many bytes are left.
    pub fn leave_free(&self, bytes: u64) {
        let ballast = OpenOptions::new().create(true).append(true).open(self.ballast());
        let mut ballast = ballast.unwrap();
        let disk = rustix::fs::statvfs(&self.path).unwrap();
        let free = disk.f_bavail * disk.f_frsize;
        if let Some(missing) = bytes.checked_sub(free) {
            let held = ballast.metadata().unwrap().len();
            ballast.set_len(held - missing).unwrap();
        } else {
            let surplus = usize::try_from(free - bytes).unwrap();
            ballast.write_all(&vec![0; surplus]).unwrap();
        }
    }

    pub fn free(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    /// Makes the file system read-only; no file may be open for writing.
    pub async fn turn_read_only(&self) {
        let mut remount = Command::new("mount");
        remount.args(["-o", "remount,ro"]).arg(&self.path);
        assert!(remount.status().await.unwrap().success());
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(&self.path);
    }
}

fn unmount(path: &Path) {
    let unmounted = std::process::Command::new("umount").arg("-l").arg(path).status();
    assert!(
        unmounted.is_ok_and(|status| status.success()),
        "umount {}",
        path.display()
    );
}
