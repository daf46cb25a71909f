//! Writes log lines: counts lost ones and recreates a deleted log file.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing_appender::rolling::RollingFileAppender;

use super::{NEWEST_NAME, daily_file};

/// Minimum time between failed attempts to recreate a file; each creates and scans folders.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);

/// Writer of whole lines. A line that cannot be written is counted and dropped: no caller waits for a disk or reader.
pub struct Lines<W> {
    writer: W,
    lost: Arc<AtomicU64>,
    /// Set when the last line was written in part, so that the next one starts on its own line.
    is_cut: bool,
}

impl<W: Write> Lines<W> {
    pub fn new(writer: W, lost: Arc<AtomicU64>) -> Lines<W> {
        Lines {
            writer,
            lost,
            is_cut: false,
        }
    }

    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_cut {
            self.writer.write_all(b"\n")?;
            self.is_cut = false;
        }
        let mut rest = line;
        while !rest.is_empty() {
            match self.writer.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            self.is_cut = !rest.is_empty();
        }
        Ok(())
    }
}

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.write_line(line).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Log file of the day, recreated after it or its folder was deleted: writing to a deleted file succeeds, but its lines
/// are lost.
pub struct LogFile {
    dir: PathBuf,
    appender: RollingFileAppender,
    reopened_at: Option<Instant>,
}

impl LogFile {
    pub fn open(dir: &Path) -> anyhow::Result<LogFile> {
        // The process may change its working directory, or that may be deleted.
        let dir = std::path::absolute(dir)?;
        let appender = daily_file(&dir)?;
        Ok(LogFile {
            dir,
            appender,
            reopened_at: None,
        })
    }

    fn is_deleted(&self) -> bool {
        // Follows the link to the newest file.
        let found = fs::metadata(self.dir.join(NEWEST_NAME));
        found.is_err_and(|error| {
            [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind())
        })
    }

    fn reopen(&mut self) -> io::Result<()> {
        if self.reopened_at.is_some_and(|at| at.elapsed() < REOPEN_INTERVAL) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.reopened_at = Some(Instant::now());
        self.appender = daily_file(&self.dir).map_err(io::Error::other)?;
        Ok(())
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_deleted() {
            self.reopen()?;
        }
        self.appender.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.appender.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(writer: impl Write, lines: &[&str]) -> u64 {
        let lost = Arc::new(AtomicU64::new(0));
        let mut writer = Lines::new(writer, lost.clone());
        for line in lines {
            writer.write_all(line.as_bytes()).unwrap();
        }
        lost.load(Ordering::Relaxed)
    }

    #[test]
    fn lines_that_a_full_disk_refuses_are_counted() {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        assert_eq!(written(full, &["one\n", "two\n"]), 2);
        assert_eq!(written(Vec::new(), &["one\n", "two\n"]), 0);
    }

    /// Accepts the listed numbers of bytes per call, and fails for 0.
    struct Slow<'a> {
        takes: Vec<usize>,
        taken: &'a mut Vec<u8>,
    }

    impl Write for Slow<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.takes.pop().unwrap_or(bytes.len()).min(bytes.len()) {
                0 => Err(io::ErrorKind::StorageFull.into()),
                some => {
                    self.taken.extend_from_slice(&bytes[..some]);
                    Ok(some)
                }
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_after_a_partial_one_starts_on_its_own_line() {
        let mut taken = Vec::new();
        let slow = Slow {
            // In reverse: a whole line, one in two parts, half a line, a failure.
            takes: vec![0, 2, 3, 2, 4],
            taken: &mut taken,
        };
        assert_eq!(written(slow, &["one\n", "two \n", "cut\n", "end\n"]), 1);
        assert_eq!(String::from_utf8(taken).unwrap(), "one\ntwo \ncu\nend\n");
    }

    #[test]
    fn a_deleted_file_or_folder_is_recreated() {
        let above = tempfile::tempdir().unwrap();
        let dir = above.path().join("logs");
        let mut file = LogFile::open(&dir).unwrap();
        file.write_all(b"one\n").unwrap();
        fs::remove_dir_all(&dir).unwrap();
        file.write_all(b"two\n").unwrap();
        let newest = || fs::read_to_string(dir.join(NEWEST_NAME)).unwrap();
        assert_eq!(newest(), "two\n");
        fs::remove_file(fs::canonicalize(dir.join(NEWEST_NAME)).unwrap()).unwrap();
        file.reopened_at = None;
        file.write_all(b"three\n").unwrap();
        assert_eq!(newest(), "three\n");
    }

    #[test]
    fn lines_without_a_folder_are_counted_until_it_can_be_recreated() {
        let above = tempfile::tempdir().unwrap();
        let dir = above.path().join("logs");
        let mut file = LogFile::open(&dir).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        fs::write(&dir, "in the way").unwrap();
        assert_eq!(written(&mut file, &["one\n", "two\n"]), 2);
        fs::remove_file(&dir).unwrap();
        file.reopened_at = None;
        assert_eq!(written(&mut file, &["three\n"]), 0);
        assert_eq!(fs::read_to_string(dir.join(NEWEST_NAME)).unwrap(), "three\n");
    }
}
