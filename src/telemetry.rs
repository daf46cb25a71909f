//! Logs: where lines go, what they look like, and what happens when nobody takes them. What is logged is left to
//! whoever logs, the numbers to `metrics.rs`.

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
mod requests;

use lines::{Lines, LogFile};
use requests::NamesRequests;
pub use requests::RequestLog;

/// Days of log files kept, today's included.
const LOG_FILES_MAX: usize = 7;
/// Lines that may wait for a slow disk or reader, some 10 MB; further ones are dropped and counted, so that
/// logging never holds up an order.
const LINES_WAITING_MAX: usize = 32_768;
/// Always the newest file: a link that is set anew with every file.
const NEWEST_NAME: &str = "app.log";
/// What is logged under it is logged whatever the filter, unless that turns the log off: the line that says where
/// the server is.
pub const START_TARGET: &str = "orderly::start";

/// Keep it until the end of the process: dropping it writes what still waits.
#[derive(Default)]
pub struct Telemetry {
    guards: Vec<WorkerGuard>,
    dropped: Vec<ErrorCounter>,
    /// Lines that a disk or a reader refused.
    lost: Arc<AtomicU64>,
}

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("read the log filter")]
    Filter(#[from] ParseError),
    #[error("install the log")]
    Installed(#[from] tracing_subscriber::util::TryInitError),
}

/// Starts the log of a server: stdout and a file a day. A folder that cannot be written costs the file and a
/// warning. From here on, panics are log lines too.
pub fn start(log: &LogConfig) -> Result<Telemetry, TelemetryError> {
    let filter = filter(&log.filter)?;
    let mut telemetry = Telemetry::default();
    let stdout = stdout_layer(log.format, telemetry.unhurried("log-stdout", io::stdout()));
    let (file, refused) = match LogFile::open(&log.dir) {
        Ok(file) => (Some(json_layer(telemetry.unhurried("log-file", file))), None),
        Err(error) => (None, Some(error)),
    };
    tracing_subscriber::registry()
        .with(vec![Some(stdout), file].into_iter().flatten().collect::<Vec<_>>())
        .with(filter)
        .with(NamesRequests::for_filter(&log.filter))
        .try_init()?;
    if let Some(error) = refused {
        tracing::warn!(
            "no log file: the folder {} cannot be written: {error}",
            log.dir.display()
        );
    }
    panic::set_hook(Box::new(log_panic));
    Ok(telemetry)
}

/// Starts the log of a command: warnings and errors, on stderr, beside its messages.
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
    /// Lines lost since the start: whoever takes them was slower, or took them no more.
    pub fn lost_lines(&self) -> u64 {
        let dropped = self.dropped.iter().map(|counter| counter.dropped_lines() as u64);
        dropped.sum::<u64>() + self.lost.load(Ordering::Relaxed)
    }

    /// A writer that never makes a caller wait.
    fn unhurried(&mut self, thread_name: &str, writer: impl Write + Send + 'static) -> NonBlocking {
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

/// One object a line: timestamp, level, target, message, the event's fields beside them, its spans as a list.
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

/// `app.2026-11-22.log` and so on, days in UTC.
fn daily_file(dir: &Path) -> Result<RollingFileAppender, anyhow::Error> {
    // The link holds the folder's path as it is given here: a relative one would lead nowhere.
    let dir = std::path::absolute(dir)?;
    // Made beforehand: the appender complains on stderr about a missing folder before it makes one.
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

/// <https://no-color.org>
fn takes_colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let message = info.payload_as_str().unwrap_or("a value that is no text");
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
    fn a_restart_on_the_same_day_goes_on_in_the_same_file() {
        let dir = tempfile::tempdir().unwrap();
        line(&mut daily_file(dir.path()).unwrap(), "before");
        line(&mut daily_file(dir.path()).unwrap(), "after");
        assert_eq!(newest(dir.path()), "before\nafter\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_link_to_an_old_or_lost_file_is_set_anew() {
        let dir = tempfile::tempdir().unwrap();
        let old = dir.path().join("app.2020-01-01.log");
        fs::write(&old, "old\n").unwrap();
        for target in [old, dir.path().join("lost.log")] {
            let link = dir.path().join(NEWEST_NAME);
            // It is missing the first time.
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
    fn a_folder_that_is_a_file_gives_no_log_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(daily_file(file.path()).is_err());
    }

    #[test]
    fn old_files_go_and_seven_stay() {
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
    fn the_start_is_told_whatever_the_filter_unless_the_log_is_off() {
        let told = |directives: &str| {
            let dir = tempfile::tempdir().unwrap();
            let mut telemetry = Telemetry::default();
            let layer = json_layer(telemetry.unhurried("test", daily_file(dir.path()).unwrap()));
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
        assert_eq!(told("info"), (true, true));
        assert_eq!(told("warn"), (true, false));
        assert_eq!(told("error,orderly=off,orderly::start=off"), (true, false));
        assert_eq!(told("off"), (false, false));
    }

    #[test]
    fn a_json_line_has_its_fields_beside_its_message_and_its_spans() {
        let dir = tempfile::tempdir().unwrap();
        let mut telemetry = Telemetry::default();
        let writer = telemetry.unhurried("test", daily_file(dir.path()).unwrap());
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
