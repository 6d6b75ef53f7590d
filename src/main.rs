//! `ipc`: the server as a program of its own.

mod cli;

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(code) => code,
        Err(failure) => {
            if let Some(sentence) = failure.sentence() {
                // It may hold words of a peer. A closed stderr leaves nobody to tell.
                let _ = writeln!(std::io::stderr(), "ipc: {}", cli::printable(&sentence));
            }
            failure.exit_code()
        }
    }
}
