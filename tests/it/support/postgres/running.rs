//! The server program: created, started, stopped and restarted by blocking calls. Databases are left to `database.rs`.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::supervised::{StartSigns, Supervised};
use super::{Options, SUPERUSER, Stop, programs};

/// Attempts, since another program may take a port between the check and its use.
const PORTS_TRIED: usize = 5;
/// Below the system's ephemeral ports, so that no other program gets a port while its server is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Killed processes are gone long before.
const KILLED_GONE_IN: Duration = Duration::from_secs(10);
/// Message of a server that starts before they are gone.
const KILLED_STILL_THERE: &str = "pre-existing shared memory block";

const START_SIGNS: StartSigns = StartSigns {
    // A standby prints "read-only connections".
    ready: "database system is ready to accept",
    // Includes the process: a client refused in the meantime is FATAL too, but no failed start.
    failed: "postmaster FATAL",
};

/// The standby's name in `synchronous_standby_names`.
pub const STANDBY_NAME: &str = "standby";

/// Settings of every server; those of a test come later and take precedence.
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
max_connections = 300
shared_buffers = 64MB
log_line_prefix = '%m %b '
# What a test stores need not survive the machine. Sessions see the settings that a 201 rests on all the same.
fsync = off
synchronous_commit = on
full_page_writes = on
# Files in its own folder, gone with that even when it was killed.
dynamic_shared_memory_type = mmap
# The clock of the tests stands before PostgreSQL's own, in every session and through every pooler.
search_path = 'test_clock, pg_catalog, public'
";

pub struct Running {
    supervised: Supervised,
    pub port: u16,
    pub password: Option<String>,
    /// The `postgres` program with its arguments.
    command: Vec<String>,
}

impl Running {
    pub fn start(options: &Options) -> Result<Running, String> {
        let programs = programs::server().ok_or("its programs are not installed")?;
        let supervised = Supervised::new("postgres", Stop::Immediate.signal())?;
        let data = supervised.folder().join("data");
        supervised.run(&initdb(&supervised, &programs, &data, options)?)?;
        let settings = settings(&supervised, options)?;
        Running::serve(supervised, &programs, &data, &settings, options.password.clone())
    }

    /// Starts a standby that streams from this server as [`STANDBY_NAME`].
    pub fn start_standby(&self) -> Result<Running, String> {
        let programs = programs::server().ok_or("its programs are not installed")?;
        let supervised = Supervised::new("standby", Stop::Immediate.signal())?;
        let data = supervised.folder().join("data");
        supervised.run(&[
            programs.join("pg_basebackup").display().to_string(),
            format!("--host={}", self.folder().display()),
            format!("--port={}", self.port),
            format!("--username={SUPERUSER}"),
            format!("--pgdata={}", data.display()),
            "--checkpoint=fast".to_owned(),
            "--no-sync".to_owned(),
        ])?;
        supervised.run(&[
            "touch".to_owned(),
            data.join("standby.signal").display().to_string(),
        ])?;
        let conninfo = format!(
            "host={} port={} user={SUPERUSER} application_name={STANDBY_NAME}",
            self.folder().display(),
            self.port
        );
        let options = Options::default()
            .setting("primary_conninfo", &conninfo)
            // A restarted standby reconnects to its primary soon.
            .setting("wal_retrieve_retry_interval", "100ms");
        let settings = settings(&supervised, &options)?;
        Running::serve(supervised, &programs, &data, &settings, self.password.clone())
    }

    fn serve(
        supervised: Supervised,
        programs: &Path,
        data: &Path,
        settings: &str,
        password: Option<String>,
    ) -> Result<Running, String> {
        let settings = supervised.write("settings.conf", settings)?;
        let (port, command) = on_a_free_port(|port| {
            let command = vec![
                programs.join("postgres").display().to_string(),
                "-D".to_owned(),
                data.display().to_string(),
                format!("--config-file={}", settings.display()),
                format!("--port={port}"),
            ];
            supervised.start(&command, &START_SIGNS).map(|()| command)
        })?;
        Ok(Running {
            supervised,
            port,
            password,
            command,
        })
    }

    pub fn signal(&self, signal: &str) -> Result<(), String> {
        self.supervised.signal(signal)
    }

    pub fn stop(&self, how: Stop) -> Result<(), String> {
        self.supervised.end(how.signal())
    }

    pub fn start_again(&self) -> Result<(), String> {
        let deadline = Instant::now() + KILLED_GONE_IN;
        loop {
            match self.supervised.start(&self.command, &START_SIGNS) {
                Err(error) if error.contains(KILLED_STILL_THERE) && Instant::now() < deadline => {}
                started => return started,
            }
        }
    }

    /// The folder of its socket.
    pub fn folder(&self) -> &Path {
        self.supervised.folder()
    }
}

fn initdb(
    supervised: &Supervised,
    programs: &Path,
    data: &Path,
    options: &Options,
) -> Result<Vec<String>, String> {
    let mut command = vec![
        programs.join("initdb").display().to_string(),
        format!("--pgdata={}", data.display()),
        format!("--username={SUPERUSER}"),
        "--encoding=UTF8".to_owned(),
        "--no-locale".to_owned(),
        "--no-sync".to_owned(),
        // Access for the harness itself.
        "--auth-local=trust".to_owned(),
    ];
    match &options.password {
        Some(password) => {
            let file = supervised.write("password", password)?;
            command.push("--auth-host=scram-sha-256".to_owned());
            command.push(format!("--pwfile={}", file.display()));
        }
        None => command.push("--auth-host=trust".to_owned()),
    }
    Ok(command)
}

fn settings(supervised: &Supervised, options: &Options) -> Result<String, String> {
    let mut text = SETTINGS.to_owned();
    let mut set = |name: &str, value: &str| {
        writeln!(text, "{name} = '{}'", value.replace('\'', "''")).expect("a string takes all text");
    };
    set(
        "unix_socket_directories",
        &supervised.folder().display().to_string(),
    );
    if let Some(certificate) = &options.certificate {
        let path = |written: PathBuf| written.display().to_string();
        set("ssl", "on");
        set(
            "ssl_cert_file",
            &path(supervised.write("server.crt", &certificate.chain)?),
        );
        set(
            "ssl_key_file",
            &path(supervised.write("server.key", &certificate.key)?),
        );
    }
    for (name, value) in &options.settings {
        set(name, value);
    }
    Ok(text)
}

/// Starts something on a free port, and on another one if the port was taken meanwhile.
pub fn on_a_free_port<T>(start: impl Fn(u16) -> Result<T, String>) -> Result<(u16, T), String> {
    let mut failure = String::new();
    for _ in 0..PORTS_TRIED {
        let port = free_port()?;
        match start(port) {
            Ok(started) => return Ok((port, started)),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn free_port() -> Result<u16, String> {
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    (0..PORTS.len())
        .map(|_| rand::random_range(PORTS))
        .find(is_free)
        .ok_or_else(|| "no port is free".to_owned())
}
