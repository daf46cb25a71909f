//! Isolation of the trials: separate namespaces for network, processes and mounts, with their own `/run`. The kernel ends
//! every process and removes every namespace inside as soon as this program exits, however it exits.

use std::env;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// Variable set inside, which keeps the command from being run by mistake.
const INSIDE: &str = "XTASK_HA_INSIDE";
/// Process 1 of the namespace: reaps exited processes, including Patroni's PostgreSQL, as `init` does. Two commands, so
/// that the shell stays.
const INIT: &str = r#""$@"; exit $?"#;

/// Runs this program again, inside, with these arguments.
pub fn enter(arguments: &[&str]) -> Result<ExitCode> {
    let program = env::current_exe().context("find this program")?;
    let status = Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .args(["unshare", "--net", "--mount", "--pid", "--fork"])
        .args(["--kill-child=KILL", "--mount-proc"])
        .args(["sh", "-c", INIT, "init"])
        .arg(program)
        .args(arguments)
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .status()
        .context("run unshare")?;
    match status.code() {
        Some(0) => Ok(ExitCode::SUCCESS),
        Some(_) => Ok(ExitCode::FAILURE),
        None => bail!("the trials were ended by signal {:?}", status.signal()),
    }
}

/// Prepares the namespaces for the trials; an error outside of them.
pub fn prepare() -> Result<()> {
    ensure!(
        env::var_os(INSIDE).is_some(),
        "this runs only in the namespaces of `cargo xtask ha`"
    );
    // For the names of network namespaces, the sockets and the data.
    let status = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "mode=755", "none", "/run"])
        .status()
        .context("run mount")?;
    ensure!(status.success(), "mount a /run: {status}");
    fs::create_dir("/run/netns").context("create /run/netns")
}

/// Returns the processes inside other than `init` and this program.
pub fn processes_left() -> Result<Vec<String>> {
    let own = std::process::id().to_string();
    let mut left = Vec::new();
    for entry in fs::read_dir("/proc").context("read /proc")? {
        let name = entry?.file_name();
        let Some(id) = name
            .to_str()
            .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        else {
            continue;
        };
        if id == "1" || id == own {
            continue;
        }
        // A process that has just exited is not left.
        let command = fs::read_to_string(Path::new("/proc").join(id).join("comm"));
        left.extend(command.map(|command| format!("{} ({id})", command.trim())));
    }
    Ok(left)
}
