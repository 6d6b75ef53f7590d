//! `ipc connections`

use std::process::ExitCode;
use std::time::SystemTime;

use bytesize::ByteSize;
use clap::Args;
use serde_json::json;

use super::answers::{self, Connections as Answer};
use super::document;
use super::failure::Failure;
use super::failure::with_exit_codes;
use super::output::{Output, printable, table};
use super::target::Target;
use super::units::shown_age;

/// List the connections of a server.
#[derive(Args, Debug)]
#[command(after_help = with_exit_codes!("\
For the operator: over a Unix socket, as the user who runs the server.

Examples:
  ipc connections --unix /run/ipc.sock
  ipc connections --unix /run/ipc.sock --json"))]
pub(super) struct Connections {
    /// Show the server's whole answer, as a JSON document of one line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl Connections {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let output = Output::new(self.json);
        let mut connection = self.target.connect_for("list of connections")?;
        if self.json {
            let answer = connection.system(&json!({"action": "list_connections"}))?;
            output.line(document::one_line(answer.payload.as_str()))?;
            return Ok(ExitCode::SUCCESS);
        }
        let Answer { connections } = answers::ask(&mut connection, "list_connections")?;
        let now = SystemTime::now();
        let header = [
            "address",
            "user",
            "application",
            "connected",
            "queued",
            "subscriptions",
            "patterns",
            "serves",
        ];
        let rows = connections.iter().map(|one| {
            vec![
                printable(&one.address).into_owned(),
                one.user.map_or("-".to_owned(), |user| user.to_string()),
                printable(&one.app).into_owned(),
                shown_age(now, one.connected_at),
                ByteSize(one.queued_bytes).to_string(),
                one.subscriptions.to_string(),
                one.patterns.to_string(),
                match &one.serves[..] {
                    [] => "-".to_owned(),
                    names => printable(&names.join(", ")).into_owned(),
                },
            ]
        });
        output.line(table(output, &header, &rows.collect::<Vec<_>>()))?;
        Ok(ExitCode::SUCCESS)
    }
}
