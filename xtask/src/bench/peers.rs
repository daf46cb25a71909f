//! `cargo xtask bench peers`: compares the rates at which this program and fast PostgreSQL queues drain the same number
//! of no-op jobs, in turns on one server.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::{Subject, build, compare, new_folder, printed_rate, rate_of_bench};
use crate::needs;
use crate::server::Server;

const JOBS: &str = "100000";
/// Folder of the scripts that run the peers, and of their package list.
const SCRIPTS: &str = "benches/peers";
/// Folder where their packages are installed.
const PACKAGES: &str = "target/peers";
/// Names of scripts for Node.js; ratios are relative to the first.
const PEERS: [&str; 2] = ["graphile-worker", "pg-boss"];
/// Numbers of slots that this program is measured with.
const SLOTS: [usize; 2] = [100, 1_000];

pub fn bench(root: &Path, rounds: usize) -> Result<()> {
    needs::bring_for_bench()?;
    let (scripts, packages) = (root.join(SCRIPTS), root.join(PACKAGES));
    bring_packages(&scripts, &packages)?;
    build(["--bin", "orderly"])?;
    let server = &Server::start(&new_folder(root)?.join("server"))?;
    let peers = PEERS.map(|name| {
        let (script, packages) = (scripts.join(format!("{name}.mjs")), &packages);
        Subject::new(name, move || {
            server.with_database(|url| {
                let mut command = Command::new("node");
                command.current_dir(packages).arg(&script).args([url, JOBS]);
                printed_rate(&mut command)
            })
        })
    });
    let own = SLOTS.map(|slots| {
        Subject::new(&format!("orderly, {slots} slots"), move || {
            let slots = format!("ORDERLY_CONCURRENCY={slots}");
            let database = server.url("postgres");
            let arguments = [
                "drain",
                "--orders",
                JOBS,
                "--set",
                &slots,
                "--database-url",
                &database,
            ];
            rate_of_bench(root, &[&arguments[..], &["--duration", "1s"]].concat())
        })
    });
    let subjects: Vec<Subject<'_>> = peers.into_iter().chain(own).collect();
    let (title, heading) = (format!("{JOBS} jobs drained"), format!("against {}", PEERS[0]));
    compare(&title, &heading, |first, own| own / first, &subjects, rounds)
}

fn bring_packages(lists: &Path, packages: &Path) -> Result<()> {
    fs::create_dir_all(packages).context("create a folder for the peers")?;
    for list in ["package.json", "package-lock.json"] {
        fs::copy(lists.join(list), packages.join(list)).with_context(|| format!("copy {list}"))?;
    }
    let mut install = Command::new("npm");
    install.args(["ci", "--no-audit", "--no-fund", "--loglevel=error"]);
    install.current_dir(packages).stdout(Stdio::null());
    let status = install.status().context("run npm")?;
    ensure!(status.success(), "npm cannot install the peers: {status}");
    Ok(())
}
