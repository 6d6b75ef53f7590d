//! `ipc`: the server as a program of its own.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(code) => code,
        Err(failure) => {
            // A closed stderr leaves nobody to tell.
            let _ =
                std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("ipc: {failure}\n"));
            failure.exit_code()
        }
    }
}
