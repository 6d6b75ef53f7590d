//! The lines of a feed on their way to a server that may be restarted meanwhile.
//!
//! Lines that the server did not confirm before it went away may have arrived or not. They are not
//! sent again, because subscribers would get them twice; they are reported.

use std::collections::VecDeque;
use std::time::Instant;

use ipc_framework::client::{Connection, Error, PublishOptions};
use ipc_framework::{ErrorCode, Json, Message, MessageType};
use serde::Serialize;

use super::comeback::{self, Comeback};
use super::failure::Failure;
use super::output::{Output, tell};
use super::target::{self, Refused, Target};

/// Lines that may be unconfirmed, although more of them can be read without waiting.
const UNCONFIRMED_MAX: usize = 4_096;

/// The kind of the messages.
#[derive(Debug)]
pub(super) enum Kind {
    /// With `ack` the server says where it stands in the channel's history.
    Publication {
        options: PublishOptions,
        ack: bool,
    },
    Notification,
}

impl Kind {
    pub(super) fn message_type(&self) -> MessageType {
        match self {
            Self::Publication { .. } => MessageType::Publish,
            Self::Notification => MessageType::Notification,
        }
    }

    /// Sends a message without waiting for an answer.
    pub(super) fn send(&self, connection: &mut Connection, message: &Message) -> Result<(), Error> {
        match self {
            Self::Publication { options, .. } => connection.publish_message_with(message, options),
            Self::Notification => connection.send_message(message),
        }
    }
}

/// Messages made of lines, in the order of their numbers.
pub(super) struct Feed<'k> {
    channel: String,
    kind: &'k Kind,
    /// Set if each line gets a receipt.
    receipts: Option<Output>,
    connection: Connection,
    comeback: Comeback,
    /// Lines that no server has looked at.
    unsent: VecDeque<Line>,
    /// Lines that were sent by this connection, and not confirmed yet.
    unconfirmed: VecDeque<Line>,
    /// Set after the server said that it is about to end.
    is_leaving: bool,
    /// The id of the first line; the others count on from it.
    first_id: u128,
    lines: u64,
    lost: u64,
}

struct Line {
    number: u64,
    message: Message,
}

/// The fate of one line.
#[derive(Serialize)]
struct Receipt<'a> {
    channel: &'a str,
    #[serde(rename = "type")]
    message_type: &'static str,
    line: u64,
    confirmed: bool,
    /// The reason why it is not confirmed; absent for the published server, which confirms nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// The reason why the lines cannot be delivered by this connection.
enum Stop {
    Lost(Error),
    Failed(Failure),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        // What does not come in time may be late for ever, and is not a lost connection.
        let is_late = matches!(error, Error::Deadline { .. });
        if comeback::is_temporary(&error) && !is_late {
            Self::Lost(error)
        } else {
            Self::Failed(error.into())
        }
    }
}

impl<'k> Feed<'k> {
    pub(super) fn connect(
        target: &Target,
        channel: &str,
        kind: &'k Kind,
        receipts: Option<Output>,
    ) -> Result<Self, Failure> {
        let connection = target.connect()?;
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| {
            Failure::runtime(format!("the system has no random bytes: {error}"))
        })?;
        Ok(Self {
            channel: channel.to_owned(),
            kind,
            receipts,
            connection,
            comeback: Comeback::new(target, None),
            unsent: VecDeque::new(),
            unconfirmed: VecDeque::new(),
            is_leaving: false,
            first_id: u128::from_be_bytes(id),
            lines: 0,
            lost: 0,
        })
    }

    /// Sends a line, and waits for the server if it is away.
    pub(super) fn send(&mut self, payload: Json<'static>) -> Result<(), Failure> {
        self.lines += 1;
        let mut message =
            Message::new(self.kind.message_type(), "", self.channel.as_str(), payload);
        message.message_id = self.id_of(self.lines);
        self.unsent.push_back(Line { number: self.lines, message });
        self.deliver(self.unconfirmed.len() >= UNCONFIRMED_MAX)
    }

    /// Returns when the fate of each line is known.
    pub(super) fn confirm(&mut self) -> Result<(), Failure> {
        self.deliver(true)
    }

    /// Closes the connection, and returns an error if lines may be lost.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        self.confirm()?;
        let confirms = self.connection.server().is_some();
        // The published server shows only by closing its end that it has read everything. The other
        // one has confirmed it.
        self.connection.close().or_else(|error| if confirms { Ok(()) } else { Err(error) })?;
        match (self.lost, self.lines) {
            (0, _) => Ok(()),
            (lost, lines) => Err(Failure::runtime(format!(
                "{lost} of {lines} lines may be lost; send them again if it does no harm that some \
                 arrive twice"
            ))),
        }
    }

    fn id_of(&self, number: u64) -> String {
        let id = self.first_id.wrapping_add(number.into());
        uuid::Builder::from_random_bytes(id.to_be_bytes()).into_uuid().to_string()
    }

    fn deliver(&mut self, confirms: bool) -> Result<(), Failure> {
        loop {
            let stopped = match self.attempt(confirms) {
                Ok(()) if self.is_leaving => None,
                Ok(()) => return Ok(()),
                Err(Stop::Lost(error)) => Some(error),
                // A bad line does not affect the lines before it: they still arrive.
                Err(Stop::Failed(failure @ Failure::Usage(_))) => return Err(failure),
                Err(Stop::Failed(failure)) => {
                    self.give_up(&failure.to_string())?;
                    return Err(failure);
                }
            };
            self.come_back(stopped.as_ref())?;
        }
    }

    /// Sends what is unsent, and confirms what was sent if that is wanted or the server is about to
    /// end.
    fn attempt(&mut self, confirms: bool) -> Result<(), Stop> {
        if self.unconfirmed.is_empty() {
            // A connection that was lost before anything was sent loses no line.
            self.read_refusals()?;
        }
        while !self.is_leaving
            && let Some(line) = self.unsent.pop_front()
        {
            match self.kind.send(&mut self.connection, &line.message) {
                Ok(()) => self.unconfirmed.push_back(line),
                Err(error @ Error::TooLarge { .. }) => {
                    let text = format!("line {} cannot be sent: {error}", line.number);
                    self.receipt(line.number, Some(&text))?;
                    return Err(Stop::Failed(Failure::Usage(text)));
                }
                Err(error) => {
                    self.unsent.push_front(line);
                    return Err(error.into());
                }
            }
            self.read_refusals()?;
        }
        if self.unconfirmed.is_empty() || !(confirms || self.is_leaving) {
            return Ok(());
        }
        if self.connection.server().is_none() {
            return Ok(self.settle(false)?);
        }
        match self.connection.ping() {
            Ok(_) => {}
            // The server has looked at everything before this, and told what it refused.
            Err(Error::Answered { code: ErrorCode::ShuttingDown, .. }) => self.is_leaving = true,
            Err(error) => return Err(error.into()),
        }
        self.read_refusals()?;
        self.comeback.note_use();
        Ok(self.settle(true)?)
    }

    /// Reads the errors with which the server answered lines.
    fn read_refusals(&mut self) -> Result<(), Stop> {
        while let Some(message) = self.connection.try_receive()? {
            let Some(Refused { code, error, .. }) = target::refused(&message) else { continue };
            let reply_to = message.reply_to.as_deref().unwrap_or_default();
            let is_it = |line: &Line| line.message.message_id == reply_to;
            let at = self.unconfirmed.iter().position(is_it);
            if code == ErrorCode::ShuttingDown.as_str() {
                self.is_leaving = true;
                // The server did not look at this line.
                if let Some(line) = at.and_then(|at| self.unconfirmed.remove(at)) {
                    let at = self.unsent.partition_point(|unsent| unsent.number < line.number);
                    self.unsent.insert(at, line);
                }
                continue;
            }
            let text = format!("{error} ({code})");
            let Some(line) = at.and_then(|at| self.unconfirmed.remove(at)) else {
                return Err(Stop::Failed(Failure::runtime(text)));
            };
            self.receipt(line.number, Some(&text))?;
            let text = format!("the server refuses line {}: {text}", line.number);
            return Err(Stop::Failed(Failure::runtime(text)));
        }
        Ok(())
    }

    /// Reports the lines that were sent.
    fn settle(&mut self, confirmed: bool) -> Result<(), Failure> {
        while let Some(line) = self.unconfirmed.pop_front() {
            self.receipt_with(line.number, confirmed, None)?;
        }
        Ok(())
    }

    /// Reports the lines that were sent and may not have arrived.
    fn give_up(&mut self, why: &str) -> Result<(), Failure> {
        while let Some(line) = self.unconfirmed.pop_front() {
            self.lost += 1;
            self.receipt(line.number, Some(why))?;
        }
        Ok(())
    }

    /// Waits for the server after this connection ended.
    fn come_back(&mut self, error: Option<&Error>) -> Result<(), Failure> {
        let numbers = self.unconfirmed.front().zip(self.unconfirmed.back());
        let loss = match numbers.map(|(first, last)| (first.number, last.number)) {
            None => "no line is lost".to_owned(),
            Some((first, last)) if first == last => format!("line {first} may be lost"),
            Some((first, last)) => format!("lines {first} to {last} may be lost"),
        };
        tell(&match error {
            Some(_) => format!("the server is gone, {loss}; waiting for it"),
            None => format!("the server is about to end, {loss}; waiting for its successor"),
        });
        self.give_up("the connection was lost before the server confirmed this line")?;
        let begin = Instant::now();
        if let Some(connection) = self.comeback.connect(self.connection.endpoint(), |_| Ok(()))? {
            self.connection = connection;
            self.is_leaving = false;
            tell(&format!("the server is there again, after {}", comeback::shown_since(begin)));
        }
        Ok(())
    }

    fn receipt(&self, line: u64, error: Option<&str>) -> Result<(), Failure> {
        self.receipt_with(line, false, error)
    }

    fn receipt_with(&self, line: u64, confirmed: bool, error: Option<&str>) -> Result<(), Failure> {
        let Some(output) = self.receipts else { return Ok(()) };
        let (channel, message_type) = (self.channel.as_str(), self.kind.message_type().as_str());
        output.document(&Receipt { channel, message_type, line, confirmed, error })
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}
