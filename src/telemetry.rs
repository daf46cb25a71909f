//! Logs: destinations, formats, and lost lines. Metrics are in `metrics.rs`.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::panic::{self, PanicHookInfo};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::config::{LogConfig, LogFormat};

mod lines;

use lines::{Lines, LogFile};

/// Number of daily log files to keep, including today's.
const LOG_FILES_MAX: usize = 7;
/// Maximum number of lines that wait for a slow disk or reader, about 10 MB; beyond that lines are dropped and counted,
/// so that logging never delays an order.
const LINES_WAITING_MAX: usize = 32_768;
/// Symbolic link to the newest file, replaced with every new file.
const NEWEST_NAME: &str = "app.log";
/// Target of the line with the server's address, logged under any filter except `off`.
pub const START_TARGET: &str = "orderly::start";

/// Handle to keep until the end of the process: dropping it writes the waiting lines.
#[derive(Default)]
pub struct Telemetry {
    guards: Vec<WorkerGuard>,
    dropped: Vec<ErrorCounter>,
    /// Number of lines that a disk or reader refused.
    lost: Arc<AtomicU64>,
}

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("read the log filter")]
    Filter(#[from] ParseError),
    #[error("install the log")]
    Installed(#[from] tracing_subscriber::util::TryInitError),
}

/// Starts the log of a server: stdout and daily files. If the folder is not writable, there is a warning and no file.
/// Also logs panics from here on.
pub fn start(log: &LogConfig) -> Result<Telemetry, TelemetryError> {
    let filter = filter(&log.filter)?;
    let mut telemetry = Telemetry::default();
    let stdout = stdout_layer(log.format, telemetry.non_blocking("log-stdout", io::stdout()));
    let (file, refused) = match LogFile::open(&log.dir) {
        Ok(file) => (Some(json_layer(telemetry.non_blocking("log-file", file))), None),
        Err(error) => (None, Some(error)),
    };
    tracing_subscriber::registry()
        .with(vec![Some(stdout), file].into_iter().flatten().collect::<Vec<_>>())
        .with(filter)
        .try_init()?;
    if let Some(error) = refused {
        tracing::warn!(
            "no log file: cannot write to the folder {}: {error}. Make it writable or set ORDERLY_LOG_DIR",
            log.dir.display()
        );
    }
    panic::set_hook(Box::new(log_panic));
    Ok(telemetry)
}

/// Starts the log of a command: warnings and errors on stderr, beside its messages.
pub fn start_on_stderr() -> Result<(), TelemetryError> {
    let layer = fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(takes_colour(&io::stderr()))
        .without_time();
    tracing_subscriber::registry()
        .with(layer)
        .with(LevelFilter::WARN)
        .try_init()?;
    Ok(())
}

impl Telemetry {
    /// Returns the number of lines lost since the start, because a reader or disk was too slow or failed.
    pub fn lost_lines(&self) -> u64 {
        let dropped = self.dropped.iter().map(|counter| counter.dropped_lines() as u64);
        dropped.sum::<u64>() + self.lost.load(Ordering::Relaxed)
    }

    /// Returns a writer that never blocks its caller.
    fn non_blocking(&mut self, thread_name: &str, writer: impl Write + Send + 'static) -> NonBlocking {
        let (writer, guard) = NonBlockingBuilder::default()
            .buffered_lines_limit(LINES_WAITING_MAX)
            .lossy(true)
            .thread_name(thread_name)
            .finish(Lines::new(writer, self.lost.clone()));
        self.guards.push(guard);
        self.dropped.push(writer.error_counter());
        writer
    }
}

fn filter(directives: &str) -> Result<EnvFilter, ParseError> {
    let filter = EnvFilter::try_new(directives)?;
    if filter.max_level_hint() == Some(LevelFilter::OFF) {
        return Ok(filter);
    }
    Ok(filter.add_directive(format!("{START_TARGET}=info").parse()?))
}

fn stdout_layer(format: LogFormat, writer: NonBlocking) -> Box<dyn Layer<Registry> + Send + Sync> {
    let text = match format {
        LogFormat::Auto => io::stdout().is_terminal(),
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    if text {
        fmt::layer()
            .with_writer(writer)
            .with_ansi(takes_colour(&io::stdout()))
            .boxed()
    } else {
        json_layer(writer)
    }
}

/// Formats one JSON object per line: timestamp, level, target, message, the event's fields, and its spans as a list.
fn json_layer<S>(writer: NonBlocking) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(true)
        .with_writer(writer)
        .boxed()
}

/// Opens the file of the day, such as `app.2026-11-22.log`; days are in UTC.
fn daily_file(dir: &Path) -> Result<RollingFileAppender, anyhow::Error> {
    // The link holds the folder's path as given here; a relative path would be wrong.
    let dir = std::path::absolute(dir)?;
    // Created first: the appender would complain on stderr about a missing folder before creating it.
    fs::create_dir_all(&dir)?;
    let appender = RollingFileAppender::builder()
        .rotation(Rotation::DAILY)
        .filename_prefix("app")
        .filename_suffix("log")
        .latest_symlink(NEWEST_NAME)
        .max_log_files(LOG_FILES_MAX)
        .build(&dir)?;
    Ok(appender)
}

/// Reports whether the stream takes colours (<https://no-color.org>).
fn takes_colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let message = info.payload_as_str().unwrap_or("a payload that is not text");
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(
        panic.location = %location,
        panic.thread = thread.name().unwrap_or("unnamed"),
        panic.backtrace = backtrace,
        "panicked at {location}: {message}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn line(writer: &mut impl Write, text: &str) {
        writeln!(writer, "{text}").unwrap();
        writer.flush().unwrap();
    }

    fn newest(dir: &Path) -> String {
        fs::read_to_string(dir.join(NEWEST_NAME)).unwrap()
    }

    #[test]
    fn a_restart_on_the_same_day_appends_to_the_same_file() {
        let dir = tempfile::tempdir().unwrap();
        line(&mut daily_file(dir.path()).unwrap(), "before");
        line(&mut daily_file(dir.path()).unwrap(), "after");
        assert_eq!(newest(dir.path()), "before\nafter\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_link_to_an_old_or_missing_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let old = dir.path().join("app.2020-01-01.log");
        fs::write(&old, "old\n").unwrap();
        for target in [old, dir.path().join("lost.log")] {
            let link = dir.path().join(NEWEST_NAME);
            // Missing in the first round.
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(target, link).unwrap();
            line(&mut daily_file(dir.path()).unwrap(), "new");
            assert!(newest(dir.path()).ends_with("new\n"));
            assert!(!newest(dir.path()).contains("old"));
        }
    }

    #[test]
    fn the_link_of_a_relative_folder_leads_to_the_file() {
        let here = std::env::current_dir().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let up: PathBuf = here.components().skip(1).map(|_| "..").collect();
        let relative = up.join(dir.path().strip_prefix("/").unwrap()).join("logs");
        assert!(relative.is_relative());
        line(&mut daily_file(&relative).unwrap(), "found");
        assert_eq!(newest(&dir.path().join("logs")), "found\n");
    }

    #[test]
    fn a_folder_that_is_a_file_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(daily_file(file.path()).is_err());
    }

    #[test]
    fn only_the_newest_seven_files_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        for day in 1..=9 {
            fs::write(dir.path().join(format!("app.2020-01-0{day}.log")), "").unwrap();
        }
        drop(daily_file(dir.path()).unwrap());
        let files = fs::read_dir(dir.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_type().unwrap().is_file());
        assert_eq!(files.count(), LOG_FILES_MAX);
    }

    #[test]
    fn the_start_is_logged_under_any_filter_except_off() {
        let logged = |directives: &str| {
            let dir = tempfile::tempdir().unwrap();
            let mut telemetry = Telemetry::default();
            let layer = json_layer(telemetry.non_blocking("test", daily_file(dir.path()).unwrap()));
            let log = tracing_subscriber::registry()
                .with(layer)
                .with(filter(directives).unwrap());
            tracing::subscriber::with_default(log, || {
                tracing::info!(target: START_TARGET, "ready");
                tracing::info!("something else");
            });
            drop(telemetry);
            let lines = newest(dir.path());
            (lines.contains("ready"), lines.contains("something else"))
        };
        assert_eq!(logged("info"), (true, true));
        assert_eq!(logged("warn"), (true, false));
        assert_eq!(logged("error,orderly=off,orderly::start=off"), (true, false));
        assert_eq!(logged("off"), (false, false));
    }

    #[test]
    fn a_json_line_has_its_fields_at_the_top_level_and_its_spans() {
        let dir = tempfile::tempdir().unwrap();
        let mut telemetry = Telemetry::default();
        let writer = telemetry.non_blocking("test", daily_file(dir.path()).unwrap());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(json_layer(writer)), || {
            let span = tracing::info_span!("request", request.id = "r1");
            let _entered = span.enter();
            tracing::info!(order.id = 45, "order 45 accepted");
        });
        drop(telemetry);
        let line: serde_json::Value = serde_json::from_str(&newest(dir.path())).unwrap();
        assert_eq!(line["message"], "order 45 accepted");
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["order.id"], 45);
        assert_eq!(line["spans"][0]["request.id"], "r1");
        let timestamp = line["timestamp"].as_str().unwrap();
        assert_eq!(
            timestamp.len(),
            "2026-11-22T16:23:54.123456Z".len(),
            "{timestamp}"
        );
        assert!(timestamp.ends_with('Z'));
    }
}
