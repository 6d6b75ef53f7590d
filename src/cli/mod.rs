//! The command line, with one file for each subcommand.

mod answers;
mod applications;
mod attach;
mod audience;
mod bench;
mod channels;
mod chat;
mod comeback;
mod completions;
mod connections;
mod demo;
mod demo_applications;
mod document;
mod failure;
mod feed;
mod following;
mod interrupt;
mod latency;
mod man;
mod notify;
mod output;
mod payload;
mod ping;
mod program;
mod publish;
mod purge;
mod request;
mod sending;
mod serve;
mod stats;
mod subscribe;
mod target;
mod tls;
mod token;
mod top;
mod units;
mod worker;

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use failure::Failure;
pub(crate) use output::printable;

/// Joins Python, Node.js and Rust processes as if they were one program.
#[derive(Debug, Parser)]
#[command(name = "ipc", version, arg_required_else_help = true, max_term_width = 80)]
#[command(after_help = failure::with_exit_codes!("\
Examples:
  ipc serve --demo
  ipc request echo '{\"a\": 1}' --app bench
  ipc demo"))]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::Serve>),
    Request(request::Request),
    Publish(Box<publish::Publish>),
    Purge(purge::Purge),
    Notify(notify::Notify),
    Subscribe(subscribe::Subscribe),
    Worker(worker::Worker),
    Ping(ping::Ping),
    Stats(stats::Stats),
    Applications(applications::Applications),
    Channels(channels::Channels),
    Connections(connections::Connections),
    Top(top::Top),
    Bench(bench::Bench),
    Chat(chat::Chat),
    Demo(demo::Demo),
    Completions(completions::Completions),
    Man(man::Manual),
}

fn is_a_fault(error: &clap::Error) -> bool {
    error.use_stderr() && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

/// Turns clap's error of several lines into one sentence.
fn one_line(error: &clap::Error) -> String {
    let text = name_variable(error, error.render().to_string());
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let said = lines.take_while(|line| {
        !line.starts_with("Usage:") && !line.starts_with("For more information")
    });
    // A line that ends with a colon is joined with the next.
    let said = said.collect::<Vec<_>>().join("; ").replace(":; ", ": ");
    let known = Cli::command();
    let named = std::env::args_os().nth(1).and_then(|name| known.find_subcommand(name));
    let subcommand = named.map_or_else(String::new, |it| format!("{} ", it.get_name()));
    // Only `ipc worker` takes what follows `--`.
    let is_command = subcommand == "worker "
        && error.kind() == ErrorKind::UnknownArgument
        && std::env::args_os().all(|word| word != "--");
    let hint = if is_command { "; write `--` before the command" } else { "" };
    format!("{said}{hint}; see `ipc {subcommand}--help`")
}

/// Names the variable of the environment in place of the flag, if the value came from there.
fn name_variable(error: &clap::Error, text: String) -> String {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return text;
    };
    let flag = argument.split([' ', '[']).next().unwrap_or_default();
    let mut typed = std::env::args_os().skip(2);
    if typed.any(|word| word.to_string_lossy().split('=').next() == Some(flag)) {
        return text;
    }
    let program = Cli::command();
    let named = std::env::args_os().nth(1).and_then(|name| program.find_subcommand(name));
    let mut arguments = named.into_iter().flat_map(clap::Command::get_arguments);
    let is_blamed = |known: &&clap::Arg| known.get_long() == flag.strip_prefix("--");
    match arguments.find(is_blamed).and_then(clap::Arg::get_env) {
        Some(variable) => {
            let variable = variable.to_string_lossy();
            if error.get(ContextKind::InvalidValue) == Some(&ContextValue::String(String::new())) {
                return format!("{variable} is empty; give it a value, or unset it");
            }
            text.replace(&format!("'{argument}'"), &variable)
        }
        None => text,
    }
}

pub(crate) fn run() -> Result<ExitCode, Failure> {
    let command = program::with_help_as_typed(Cli::command());
    let parsed = command.try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) if is_a_fault(&error) => return Err(Failure::usage(one_line(&error))),
        // This is help or the version, which clap prints itself.
        Err(shown) => shown.exit(),
    };
    match cli.command {
        Command::Serve(serve) => serve.run(),
        Command::Request(request) => request.run(),
        Command::Publish(publish) => publish.run(),
        Command::Purge(purge) => purge.run(),
        Command::Notify(notify) => notify.run(),
        Command::Subscribe(subscribe) => subscribe.run(),
        Command::Worker(worker) => worker.run(),
        Command::Ping(ping) => ping.run(),
        Command::Stats(stats) => stats.run(),
        Command::Applications(applications) => applications.run(),
        Command::Channels(channels) => channels.run(),
        Command::Connections(connections) => connections.run(),
        Command::Top(top) => top.run(),
        Command::Bench(bench) => bench.run(),
        Command::Chat(chat) => chat.run(),
        Command::Demo(demo) => demo.run(),
        Command::Completions(completions) => completions.run(&mut Cli::command()),
        Command::Man(manual) => manual.run(Cli::command()),
    }
}
