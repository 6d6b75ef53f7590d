//! The command line: one file a subcommand.

mod demo;
mod failure;
mod logging;
mod serve;
mod settings;
mod units;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub(crate) use failure::Failure;

/// Joins Python, Node.js and Rust processes as if they were one program.
#[derive(Debug, Parser)]
#[command(name = "ipc", version, arg_required_else_help = true, max_term_width = 96)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::Serve>),
}

pub(crate) fn run() -> Result<ExitCode, Failure> {
    match Cli::parse().command {
        Command::Serve(serve) => serve.run(),
    }
}
