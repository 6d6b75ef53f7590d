//! `ipc man`

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, Command};
use clap_mangen::Man;

use super::failure::Failure;

/// Write the manual page, of the program or of one subcommand.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  ipc man > ipc.1
  ipc man bench > ipc-bench.1")]
pub(super) struct Manual {
    /// Subcommand to write about instead of the whole program
    subcommand: Option<String>,
}

impl Manual {
    /// Writes the manual page of `program`, or of one of its subcommands.
    pub(super) fn run(&self, mut program: Command) -> Result<ExitCode, Failure> {
        program.build();
        let command = match &self.subcommand {
            None => program,
            Some(name) => program.find_subcommand(name).cloned().ok_or_else(|| {
                Failure::usage(format!("there is no subcommand {name:?}; `ipc --help` lists them"))
            })?,
        };
        let mut page = Vec::new();
        let write = |error: io::Error| Failure::runtime(format!("cannot write it: {error}"));
        Man::new(command).render(&mut page).map_err(write)?;
        io::stdout().write_all(&page).map_err(Failure::writing)?;
        Ok(ExitCode::SUCCESS)
    }
}
