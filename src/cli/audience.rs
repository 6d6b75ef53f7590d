//! Notes for a person whose message, subscription or worker meets nobody, because a name may be wrong.
//!
//! That nobody listens is no error: publications and notifications need no listener, and whoever
//! listens may come first. Programs therefore get no notes, and the server no requests for them.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};

use ipc_framework::MessageType;
use ipc_framework::client::Connection;
use serde::Deserialize;

use super::answers::{self, Channel, Channels};
use super::failure::Failure;
use super::output::printable;

/// Names that a note lists.
const NAMES_MAX: usize = 8;

/// Returns a note if nobody listens to messages of this type on the channel.
pub(super) fn of_message(
    connection: &mut Connection,
    app: &str,
    channel: &str,
    message_type: MessageType,
) -> Option<String> {
    if !is_person_told(connection) {
        return None;
    }
    let is_publication = message_type == MessageType::Publish;
    let listens = |channel: &Channel| {
        let others = if is_publication { channel.subscribers } else { channel.workers };
        channel.has_handler || others > 0
    };
    // A note that cannot be had is no failure of what was sent.
    let channels: Channels = answers::ask(connection, "list_channels").ok()?;
    if channels.get(channel).is_some_and(listens) {
        return None;
    }
    let listening = channels.iter().filter(|(_, channel)| listens(channel)).map(|(name, _)| name);
    let listening: Vec<_> = listening.collect();
    let instead = if listening.is_empty() {
        other_applications(connection, app).ok()?
    } else {
        format!("; other channels there are {}", listed(&listening))
    };
    let does = if is_publication { "subscribes to" } else { "serves" };
    Some(format!("nobody {does} channel {channel} of application {app}{instead}"))
}

/// Returns a note if an application has had no channels so far, and others have some. It is asked for
/// before the first channel is used.
pub(super) fn of_application(connection: &mut Connection, app: &str) -> Option<String> {
    if !is_person_told(connection) {
        return None;
    }
    let channels: Channels = answers::ask(connection, "list_channels").ok()?;
    let others = other_applications(connection, app).ok()?;
    (channels.is_empty() && !others.is_empty())
        .then(|| format!("application {app} had no channels before{others}"))
}

/// Returns the end of a sentence that names the other applications, as far as the server shows them.
pub(super) fn other_applications(
    connection: &mut Connection,
    app: &str,
) -> Result<String, Failure> {
    #[derive(Deserialize)]
    struct Listed {
        channels: Vec<String>,
    }
    let known: BTreeMap<String, Listed> = answers::ask(connection, "list_applications")?;
    let known = known.iter().filter(|(_, listed)| !listed.channels.is_empty());
    let others: Vec<&String> = known.map(|(id, _)| id).filter(|other| *other != app).collect();
    if others.is_empty() {
        return Ok(String::new());
    }
    Ok(format!("; other applications here are {}", listed(&others)))
}

fn listed(names: &[&String]) -> String {
    let shown = names.iter().take(NAMES_MAX).map(|name| printable(name));
    let shown = shown.collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(NAMES_MAX) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}

/// Returns whether a person reads standard error, and the server can be asked: the published one
/// knows no lists.
fn is_person_told(connection: &Connection) -> bool {
    io::stderr().is_terminal() && connection.server().is_some()
}
