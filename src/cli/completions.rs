//! `orderly completions`: prints a shell's completion script.

use clap::CommandFactory;
use clap_complete::Shell;

use super::failure::Failure;
use super::{Cli, Verdict, output};

#[derive(clap::Args)]
pub struct Args {
    shell: Shell,
}

pub fn run(args: &Args) -> Result<Verdict, Failure> {
    // Into memory first: the generator panics if it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "orderly", &mut script);
    let script = String::from_utf8(script).map_err(|error| Failure::failed("read the script", error))?;
    output::result(script.trim_end())?;
    Ok(Verdict::Good)
}
