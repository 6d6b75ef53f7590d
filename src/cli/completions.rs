//! `ipc completions`

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::Shell;

use super::failure::Failure;

/// Write the script with which a shell completes commands and flags.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  ipc completions bash > ~/.local/share/bash-completion/completions/ipc
  ipc completions zsh > ~/.zfunc/_ipc
  ipc completions fish > ~/.config/fish/completions/ipc.fish")]
pub(super) struct Completions {
    /// Shell to write for
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    /// Writes the completions of `program`.
    pub(super) fn run(&self, program: &mut Command) -> Result<ExitCode, Failure> {
        // Written to a buffer first, because the generator panics on a write error.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, program, "ipc", &mut script);
        std::io::stdout().write_all(&script).map_err(Failure::writing)?;
        Ok(ExitCode::SUCCESS)
    }
}
