//! `cargo xtask bench yardsticks`: compares the rate of this program with its HTTP side over a store that stores nothing,
//! one INSERT per request into PostgreSQL, the store called directly, and single syncs of the disk. All but the last are
//! in `examples/yardstick`; the load generator is `orderly bench`.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{
    BUILT, ROUNDS_DEFAULT, Subject, USAGE, build, compare, new_folder, printed_rate, rate_of_bench, rounds,
};
use crate::needs;
use crate::server::Server;

/// Measuring time of the disk, whose rate stabilizes quickly.
const DISK_TIME: Duration = Duration::from_secs(1);
/// Page size of SQLite's log.
const APPEND_BYTES: usize = 4 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Load {
    name: &'static str,
    /// Load on the store that stores nothing, and so processes nothing.
    on_nothing: &'static str,
    /// Set if its rate counts stored orders, which all yardsticks have.
    stores: bool,
}

impl Load {
    const fn new(name: &'static str, on_nothing: &'static str, stores: bool) -> Load {
        Load {
            name,
            on_nothing,
            stores,
        }
    }
}

const ACCEPT: Load = Load::new("accept", "accept", true);
const BATCH: Load = Load::new("batch", "batch", true);
const LOADS: [Load; 5] = [
    ACCEPT,
    BATCH,
    Load::new("status", "status", false),
    Load::new("mixed", "mixed", false),
    Load::new("end-to-end", "accept", true),
];

#[derive(Debug, PartialEq, Eq)]
struct Options {
    loads: Vec<Load>,
    rounds: usize,
    on_postgres: bool,
    /// Values for every load generator, with the defaults of `orderly bench`.
    connections: String,
    duration: String,
    users: String,
    batch_size: String,
    /// Arguments of `orderly bench` for the server under test.
    own: Vec<String>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Options> {
        let mut options = Options {
            loads: Vec::new(),
            rounds: ROUNDS_DEFAULT,
            on_postgres: false,
            connections: "64".to_owned(),
            duration: "5s".to_owned(),
            users: "1000".to_owned(),
            batch_size: "1000".to_owned(),
            own: Vec::new(),
        };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            if let Some(load) = LOADS.iter().find(|load| load.name == word) {
                options.loads.push(*load);
                continue;
            }
            if word == "--postgres" {
                options.on_postgres = true;
                continue;
            }
            let value = words.next().with_context(|| format!("{word} needs a value"));
            match word.as_str() {
                "--rounds" => options.rounds = rounds(value?)?,
                "--connections" => options.connections.clone_from(value?),
                "--duration" => options.duration.clone_from(value?),
                "--users" => options.users.clone_from(value?),
                "--batch-size" => options.batch_size.clone_from(value?),
                "--set" | "--program" => options.own.extend([word.clone(), value?.clone()]),
                _ => bail!("no load or option {word:?}\n{USAGE}"),
            }
        }
        if options.loads.is_empty() {
            options.loads.push(ACCEPT);
        }
        Ok(options)
    }

    /// Returns the rate of a load; `others` are the arguments that name the server.
    fn rate(&self, root: &Path, load: &str, others: &[&str]) -> Result<f64> {
        let mut arguments = vec![
            load,
            "--connections",
            &self.connections,
            "--duration",
            &self.duration,
        ];
        arguments.extend(["--users", &self.users, "--batch-size", &self.batch_size]);
        arguments.extend(others);
        rate_of_bench(root, &arguments)
    }
}

pub fn bench(root: &Path, arguments: &[String]) -> Result<()> {
    let options = &Options::parse(arguments)?;
    needs::bring_for_bench()?;
    build(["--bin", "orderly"])?;
    // By itself: with the program, the packages of the tests would change how that is built.
    build(["--example", "yardstick"])?;
    let folder = &new_folder(root)?;
    let postgres = &Server::start(&folder.join("server"))?;
    let database = postgres.url("postgres");
    let nothing = &Serving::start(root, &["nothing"])?;
    let one_insert = &Serving::start(root, &["one-insert", &database])?;
    let (driver, place) = if options.on_postgres {
        ("PostgreSQL", ["--database-url".to_owned(), database])
    } else {
        ("SQLite", ["--folder".to_owned(), folder.display().to_string()])
    };
    let own: Vec<&str> = options.own.iter().chain(&place).map(String::as_str).collect();
    for load in &options.loads {
        let mut subjects = vec![
            Subject::new("orderly", || options.rate(root, load.name, &own)),
            Subject::new("nothing stored", || {
                options.rate(root, load.on_nothing, &["--url", &nothing.url])
            }),
        ];
        if load.stores {
            subjects.extend([
                Subject::new("one INSERT", || {
                    options.rate(root, ACCEPT.name, &["--url", &one_insert.url])
                }),
                Subject::new("store alone", || store(root, folder, postgres, *load, options)),
                Subject::new("disk syncs", || disk(folder)),
            ]);
        }
        let title = format!("{}, {driver}", load.name);
        compare(
            &title,
            "orderly by it",
            |own, other| own / other,
            &subjects,
            options.rounds,
        )?;
    }
    Ok(())
}

/// Returns the rate of a new store called directly.
fn store(root: &Path, folder: &Path, postgres: &Server, load: Load, options: &Options) -> Result<f64> {
    let batch_size = if load == BATCH { &options.batch_size } else { "1" };
    let rate = |url: &str| {
        let arguments = ["store", url, &options.connections, batch_size, &options.users];
        printed_rate(yardstick(root).args(arguments))
    };
    if options.on_postgres {
        return postgres.with_database(rate);
    }
    let data = folder.join("store");
    fs::create_dir(&data).context("create a folder for a store")?;
    let rate = rate(&format!("sqlite:{}", data.join("orderly.db").display()));
    fs::remove_dir_all(&data).context("remove a store")?;
    rate
}

/// Returns the rate of small appends to a growing file, each with an `fdatasync`.
fn disk(folder: &Path) -> Result<f64> {
    let path = folder.join("sync");
    let mut file = File::create(&path).context("create a file to append to")?;
    let (start, mut appends) = (Instant::now(), 0_u32);
    while start.elapsed() < DISK_TIME {
        file.write_all(&[0x5a; APPEND_BYTES])
            .context("append to a file")?;
        file.sync_data().context("sync a file")?;
        appends += 1;
    }
    let rate = f64::from(appends) / start.elapsed().as_secs_f64();
    fs::remove_file(&path).context("remove the file")?;
    Ok(rate)
}

fn yardstick(root: &Path) -> Command {
    Command::new(root.join(BUILT).join("examples/yardstick"))
}

/// A yardstick that serves HTTP; killed on drop.
struct Serving {
    process: Child,
    url: String,
}

impl Serving {
    fn start(root: &Path, arguments: &[&str]) -> Result<Serving> {
        let mut command = yardstick(root);
        // It ends when stdin closes, even if this process is killed.
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = command.spawn().with_context(|| format!("run {command:?}"))?;
        let stdout = process.stdout.take().expect("stdout is piped");
        let mut serving = Serving {
            process,
            url: String::new(),
        };
        BufReader::new(stdout).read_line(&mut serving.url)?;
        serving.url.truncate(serving.url.trim_end().len());
        ensure!(!serving.url.is_empty(), "{command:?} does not start");
        Ok(serving)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Fails only if it has already exited.
        let _ended = self.process.kill().and_then(|()| self.process.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&words)
    }

    #[test]
    fn loads_and_options_come_in_any_order() {
        let options = parse("--set A=b --users 1 batch --postgres status --rounds 7").unwrap();
        assert_eq!(options.loads, [BATCH, LOADS[2]]);
        assert_eq!((options.rounds, options.on_postgres), (7, true));
        assert_eq!(options.own, ["--set", "A=b"]);
        assert_eq!((&*options.users, &*options.connections), ("1", "64"));
        assert_eq!(parse("").unwrap().loads, [ACCEPT]);
    }

    #[test]
    fn an_invalid_command_line_is_refused() {
        for line in ["drain", "--rate 5", "--users", "--rounds 0", "--rounds 101"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
