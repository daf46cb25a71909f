//! Process metrics from the operating system, under the names that Prometheus' own clients use. Every scrape reads
//! `/proc`; on systems without it, these metrics are missing.

use std::fs;
use std::sync::LazyLock;
use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use rustix::time::{ClockId, clock_gettime};

/// Time of the first set of metrics, created right after the process starts.
static STARTED: LazyLock<SystemTime> = LazyLock::new(SystemTime::now);

pub(super) fn starts() {
    LazyLock::force(&STARTED);
}

pub fn registry() -> Registry {
    let mut registry = Registry::default();
    let cpu = Counter::<f64, AtomicU64>::default();
    let used = clock_gettime(ClockId::ProcessCPUTime);
    #[expect(clippy::cast_precision_loss, reason = "seconds of a processor are few")]
    cpu.inc_by(used.tv_sec as f64 + used.tv_nsec as f64 / 1e9);
    registry.register_with_unit(
        "process_cpu",
        "Processor time used, in user and system mode",
        Unit::Seconds,
        cpu,
    );
    let started = Gauge::<f64, AtomicU64>::default();
    let since_epoch = STARTED.duration_since(UNIX_EPOCH).unwrap_or_default();
    started.set(since_epoch.as_secs_f64());
    registry.register_with_unit(
        "process_start_time",
        "Start of the process since the Unix epoch",
        Unit::Seconds,
        started,
    );
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = named(&status, "VmRSS:").map(|kib| kib * 1024);
    let virtual_memory = named(&status, "VmSize:").map(|kib| kib * 1024);
    gauge(
        &mut registry,
        "process_resident_memory_bytes",
        "Resident memory",
        resident,
    );
    gauge(
        &mut registry,
        "process_virtual_memory_bytes",
        "Virtual address space",
        virtual_memory,
    );
    gauge(
        &mut registry,
        "process_threads",
        "Threads",
        named(&status, "Threads:"),
    );
    let open = fs::read_dir("/proc/self/fd").ok();
    // Without the descriptor of this directory.
    let open = open.and_then(|files| i64::try_from(files.count().saturating_sub(1)).ok());
    gauge(&mut registry, "process_open_fds", "Open file descriptors", open);
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let most = named(&limits, "Max open files");
    gauge(
        &mut registry,
        "process_max_fds",
        "Maximum number of open file descriptors",
        most,
    );
    registry
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: Option<i64>) {
    if let Some(value) = value {
        let gauge = Gauge::<i64>::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    }
}

/// Returns the first number of the line that begins with the name.
fn named(text: &str, name: &str) -> Option<i64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_from_lines_of_proc() {
        let status = "Name:\torderly\nVmSize:\t  102400 kB\nVmRSS:\t   51200 kB\nThreads:\t9\n";
        assert_eq!(named(status, "VmRSS:"), Some(51_200));
        assert_eq!(named(status, "Threads:"), Some(9));
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
            Max open files            1024                 524288               files\n";
        assert_eq!(named(limits, "Max open files"), Some(1_024));
        assert_eq!(named(status, "VmSwap:"), None);
    }
}
