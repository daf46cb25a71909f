//! Installs the tools that the tests of the OpenAPI document use, from the registries of Python and Node.js into
//! `target`, in the versions pinned beside the tests.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// Folder of the lists of tools.
const LISTS: &str = "tests/it/clients";
/// Folder where the tests expect the tools.
const TOOLS: &str = "target/clients";

/// Installs tools that are missing or were installed from another list.
pub fn bring(root: &Path) -> Result<()> {
    let (lists, tools) = (root.join(LISTS), root.join(TOOLS));
    fs::create_dir_all(&tools).context("create a folder for the tools")?;
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
            // Installs exactly the versions of the lock file.
            let install = ["ci", "--no-audit", "--no-fund", "--loglevel=error"];
            run(Command::new("npm").args(install).current_dir(&tools))
        },
    )
}

/// Installs a list unless `installed`, a copy of the list installed last, equals it.
fn unless_installed(list: &Path, installed: &Path, install: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let wanted = fs::read_to_string(list).with_context(|| format!("read {}", list.display()))?;
    if fs::read_to_string(installed).is_ok_and(|done| done == wanted) {
        return Ok(());
    }
    println!("installing the tools of {}", list.display());
    install(list)?;
    fs::write(installed, wanted).with_context(|| format!("write {}", installed.display()))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    anyhow::ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}
