//! The channels and patterns that `ipc subscribe` follows, over restarts of the server.

use std::collections::BTreeMap;

use ipc_framework::client::{Connection, Error, Position, SubscribeOptions, Subscribed};
use ipc_framework::{Message, MessageType};
use serde::Serialize;

use super::failure::Failure;
use super::output::{Output, tell};
use super::target;

/// Channels of which the last position is kept. Of others that a pattern matches, what comes again
/// after a restart is shown again.
const POSITIONS_MAX: usize = 16 << 10;

/// The subscriptions, and how far each channel has come.
pub(super) struct Following {
    names: Vec<String>,
    options: SubscribeOptions,
    seen: BTreeMap<String, Position>,
    /// Set once the server has confirmed all of them.
    is_established: bool,
    /// What became of each channel at the last subscription.
    outcomes: Vec<Outcome>,
}

/// What a channel missed, as `--json` shows it.
#[derive(Serialize)]
struct Outcome {
    channel: String,
    /// `resumed` if nothing is missed, and otherwise `gap`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The position up to which it had come.
    seen: Option<String>,
    /// The position of the newest publication.
    newest: Option<String>,
    /// The number of publications between the two, where it is known.
    missed: Option<u64>,
}

impl Following {
    pub(super) fn new(names: Vec<String>, options: SubscribeOptions) -> Self {
        let (seen, outcomes) = (BTreeMap::new(), Vec::new());
        Self { names, options, seen, is_established: false, outcomes }
    }

    /// Subscribes to all of them, each from where it was.
    pub(super) fn subscribe(&mut self, connection: &mut Connection) -> Result<(), Error> {
        self.outcomes.clear();
        for name in &self.names {
            let since = self.seen.get(name).filter(|_| !self.options.pattern).cloned();
            let since = since.or_else(|| self.options.since.clone());
            let options = self.options.clone().since(since.clone());
            // What a server does not know after a restart is missed, and that is said.
            let does_without = self.is_established || options == SubscribeOptions::default();
            let answer = if !connection.has_topic() && does_without && !options.pattern {
                target::subscribe(connection, name)?;
                Subscribed::default()
            } else {
                connection.subscribe_with(name, &options)?
            };
            let Subscribed { position, recovered, .. } = answer;
            let is_resumed = since.is_some() && recovered == Some(true);
            let missed = match (&since, &position) {
                (Some(since), Some(newest)) if !is_resumed && since.epoch == newest.epoch => {
                    newest.offset.checked_sub(since.offset)
                }
                _ => None,
            };
            if self.is_established || since.is_some() {
                let kind = if is_resumed { "resumed" } else { "gap" };
                let text = |position: &Option<Position>| position.as_ref().map(Position::to_string);
                let (seen, newest) = (text(&since), text(&position));
                self.outcomes.push(Outcome { channel: name.clone(), kind, seen, newest, missed });
            }
            if is_resumed || self.options.pattern {
                continue;
            }
            // What `last` asks for comes next, from a place that is not known yet.
            match position.filter(|newest| newest.offset == 0 || options.last.is_none()) {
                Some(newest) => self.seen.insert(name.clone(), newest),
                None => self.seen.remove(name),
            };
        }
        self.is_established = true;
        Ok(())
    }

    /// Notes a message. Returns whether it is one of them, and has not come before.
    pub(super) fn takes(&mut self, message: &Message) -> bool {
        let is_one = if self.options.pattern {
            message.message_type == MessageType::Publish
        } else {
            // Another one may be the server's notice that it shuts down.
            self.names.contains(&message.channel_id)
        };
        let Some(position) = message.position().filter(|_| is_one) else { return is_one };
        if let Some(seen) = self.seen.get_mut(&message.channel_id) {
            if seen.epoch == position.epoch && position.offset <= seen.offset {
                return false;
            }
            *seen = position.clone();
        } else if self.seen.len() < POSITIONS_MAX {
            self.seen.insert(message.channel_id.clone(), position.clone());
        }
        true
    }

    /// Says what was missed at the last subscription. `otherwise` says it of channels without a
    /// history.
    pub(super) fn tell_missed(&self, output: Output, otherwise: &str) -> Result<(), Failure> {
        let is_known = |outcome: &&Outcome| outcome.kind == "resumed" || outcome.seen.is_some();
        let mut known = self.outcomes.iter().filter(is_known).peekable();
        if known.peek().is_none() && !otherwise.is_empty() {
            tell(&format!("subscribed again; {otherwise}"));
        }
        for Outcome { channel, kind, missed, .. } in known {
            tell(&match (*kind, missed) {
                ("resumed", _) => {
                    format!("subscribed to {channel} where it was; nothing is missed")
                }
                (_, Some(1)) => format!("subscribed to {channel}; 1 publication is missed"),
                (_, Some(missed)) => {
                    format!("subscribed to {channel}; {missed} publications are missed")
                }
                (_, None) => format!(
                    "subscribed to {channel}, whose history has begun anew; what came between is missed"
                ),
            });
        }
        if output.json {
            for outcome in &self.outcomes {
                output.document(outcome)?;
            }
        }
        Ok(())
    }

    /// Returns the position from which another run would go on, if it is one channel that has any.
    pub(super) fn position(&self) -> Option<&Position> {
        match &self.names[..] {
            [name] if !self.options.pattern => self.seen.get(name),
            _ => None,
        }
    }
}
