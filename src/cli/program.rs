//! The words with which this program is started. Hints, errors and help repeat them, so that they can
//! be typed as they stand there: after `cargo ipc serve`, there may be no `ipc` on the path.

use std::borrow::Cow;

use clap::Command;
use clap::builder::StyledStr;

/// Returns the way in which the user started this program. `cargo run` and its aliases name the
/// package, and the Python module calls the program by the way in which it was run itself.
pub(super) fn program() -> Cow<'static, str> {
    match std::env::var("CARGO_PKG_NAME") {
        Ok(name) if name == env!("CARGO_PKG_NAME") => return WITH_CARGO.into(),
        _ => {}
    }
    let name = std::env::args_os().next().and_then(|name| name.into_string().ok());
    name.filter(|name| name.ends_with(WITH_PYTHON)).map_or(ALONE.into(), Cow::from)
}

/// Returns a sentence with its commands, which stand in backticks, as the user types them.
pub(super) fn as_typed(sentence: &str) -> Cow<'_, str> {
    typed_with(&program(), sentence)
}

/// Returns the command with a help whose commands are those that the user types.
pub(super) fn with_help_as_typed(command: Command) -> Command {
    let program = program();
    if program == ALONE {
        return command;
    }
    help_with(&program, command)
        .bin_name(&*program)
        .mut_subcommands(|subcommand| help_with(&program, subcommand))
}

const ALONE: &str = "ipc";
const WITH_CARGO: &str = "cargo ipc";
const WITH_PYTHON: &str = " -m ipc_framework";

fn typed_with<'a>(program: &str, sentence: &'a str) -> Cow<'a, str> {
    if program == ALONE || !sentence.contains("`ipc ") {
        return sentence.into();
    }
    sentence.replace("`ipc ", &format!("`{program} ")).into()
}

fn help_with(program: &str, command: Command) -> Command {
    let typed = |help: &StyledStr| typed_with(program, &help.to_string()).into_owned();
    let command = command.mut_args(|argument| match argument.get_help().map(typed) {
        Some(help) => argument.help(help),
        None => argument,
    });
    let Some(help) = command.get_after_help().map(typed) else { return command };
    // Examples are lines of their own, or follow a pipe.
    command.after_help(["  ", "| "].into_iter().fold(help, |help, before| {
        help.replace(&format!("{before}ipc "), &format!("{before}{program} "))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_named_as_they_are_typed() {
        let text = "run `ipc serve`, or `ipc stats`; ipc is not on the path";
        assert_eq!(typed_with(ALONE, text), text);
        let typed = "run `cargo ipc serve`, or `cargo ipc stats`; ipc is not on the path";
        assert_eq!(typed_with(WITH_CARGO, text), typed);
        let command = Command::new("ipc").after_help("Examples:\n  ipc a\n  date | ipc b | ipc c");
        let adapted = help_with(WITH_CARGO, command);
        let help = adapted.get_after_help().unwrap().to_string();
        assert_eq!(help, "Examples:\n  cargo ipc a\n  date | cargo ipc b | cargo ipc c");
    }
}
