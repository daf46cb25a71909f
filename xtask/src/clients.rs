//! Tools that work with the OpenAPI document, for the tests of it: from the registries of Python and Node.js, into `target`,
//! in the versions that stand beside the tests. What they are run with is left to the tests.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// Beside the tests: which tools, and how they are set up.
const LISTS: &str = "tests/it/clients";
/// Where the tests look for them.
const TOOLS: &str = "target/clients";

/// Installs what is missing, or was installed from another list.
pub fn bring(root: &Path) -> Result<()> {
    let (lists, tools) = (root.join(LISTS), root.join(TOOLS));
    fs::create_dir_all(&tools).context("make a folder for the tools")?;
    unless_installed(
        &lists.join("requirements.txt"),
        &tools.join("python-installed"),
        |list| {
            let folder = tools.join("python");
            run(Command::new("python3")
                .args(["-m", "venv", "--clear"])
                .arg(&folder))?;
            let install = [
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "-r",
            ];
            run(Command::new(folder.join("bin/python")).args(install).arg(list))
        },
    )?;
    unless_installed(
        &lists.join("package-lock.json"),
        &tools.join("node-installed"),
        |_| {
            for file in ["package.json", "package-lock.json"] {
                fs::copy(lists.join(file), tools.join(file)).with_context(|| format!("copy {file}"))?;
            }
            // Exactly what the lock file names, or nothing.
            let install = ["ci", "--no-audit", "--no-fund", "--loglevel=error"];
            run(Command::new("npm").args(install).current_dir(&tools))
        },
    )
}

/// `installed` is a copy of the list that was installed last.
fn unless_installed(list: &Path, installed: &Path, install: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let wanted = fs::read_to_string(list).with_context(|| format!("read {}", list.display()))?;
    if fs::read_to_string(installed).is_ok_and(|done| done == wanted) {
        return Ok(());
    }
    println!("installing what {} names", list.display());
    install(list)?;
    fs::write(installed, wanted).with_context(|| format!("write {}", installed.display()))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    anyhow::ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}
