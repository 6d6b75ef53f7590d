//! The command line: one file a subcommand.

mod demo;
mod failure;
mod logging;
mod serve;
mod settings;
mod units;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

pub(crate) use failure::Failure;

/// Joins Python, Node.js and Rust processes as if they were one program.
#[derive(Debug, Parser)]
#[command(name = "ipc", version, arg_required_else_help = true, max_term_width = 80)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::Serve>),
}

fn is_a_fault(error: &clap::Error) -> bool {
    error.use_stderr() && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

/// What clap says over several lines, as one sentence.
fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.take_while(|line| !line.starts_with("Usage:")).collect::<Vec<_>>().join("; ")
}

pub(crate) fn run() -> Result<ExitCode, Failure> {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if is_a_fault(&error) => return Err(Failure::usage(one_line(&error))),
        // Help or the version, which clap prints by itself.
        Err(shown) => shown.exit(),
    };
    match cli.command {
        Command::Serve(serve) => serve.run(),
    }
}
