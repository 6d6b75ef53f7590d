//! `ipc applications`

use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use serde_json::json;

use super::answers::{self, Applications as Answer};
use super::document;
use super::failure::Failure;
use super::failure::with_exit_codes;
use super::output::{Output, printable, table};
use super::target::Target;
use super::units::shown_age;

/// List the applications of a server.
#[derive(Args, Debug)]
#[command(after_help = with_exit_codes!("\
A connection sees its own application, and all of them where the server asks nobody for a token.

Examples:
  ipc applications
  ipc applications --json"))]
pub(super) struct Applications {
    /// Show the server's whole answer, as a JSON document of one line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl Applications {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let output = Output::new(self.json);
        let mut connection = self.target.connect_for("list of applications")?;
        if self.json {
            let answer = connection.system(&json!({"action": "list_applications"}))?;
            output.line(document::one_line(answer.payload.as_str()))?;
            return Ok(ExitCode::SUCCESS);
        }
        let applications: Answer = answers::ask(&mut connection, "list_applications")?;
        let now = SystemTime::now();
        let header = ["application", "channels", "connections", "created", "active"];
        let rows = applications.iter().map(|(id, application)| {
            vec![
                printable(id).into_owned(),
                application.channels.len().to_string(),
                application.connections.to_string(),
                shown_age(now, application.created_at),
                shown_age(now, application.last_activity),
            ]
        });
        output.line(table(output, &header, &rows.collect::<Vec<_>>()))?;
        Ok(ExitCode::SUCCESS)
    }
}
