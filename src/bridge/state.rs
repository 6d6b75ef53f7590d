//! What both halves of the machine use: the settings, the clock, the queue to NATS and the commands.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::control::Control;
use super::events::{Command, Level, LinkId};
use super::outbox::Outbox;
use super::packet::{Kind, Origin, Packet};
use super::settings::Settings;
use super::stats::BridgeStats;
use super::subjects::Subjects;

/// A link that ended, or a tunnel that broke, is made again after so long.
pub(crate) const RETRY: Duration = Duration::from_millis(500);
/// The same complaint is in the log once in so long.
const COMPLAINT_EVERY: Duration = Duration::from_secs(60);
/// The complaints that are remembered for that.
const COMPLAINTS_MAX: usize = 256;
/// Writes to one link are put together up to so many bytes.
const WRITE_BYTES_MAX: usize = 64 << 10;
/// No smaller `max_payload` of another server is believed: it would stop everything here.
pub(crate) const MAX_PAYLOAD_MIN: usize = 1_024;

/// What NATS takes where nobody changed it. It is believed until the first connection.
const MAX_PAYLOAD_USUAL: usize = 1 << 20;

/// See above.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) settings: Settings,
    pub(crate) subjects: Subjects,
    pub(crate) control: Control,
    pub(crate) outbox: Outbox,
    pub(crate) stats: BridgeStats,
    pub(crate) now: Duration,
    /// The number of the last publication.
    pub(crate) sequence: u64,
    pub(crate) is_connected: bool,
    /// The own server takes nothing new, and closes its links when nothing of theirs is in flight.
    pub(crate) is_draining: bool,
    /// The machine has been told to end.
    pub(crate) is_ending: bool,
    /// The largest body of a frame that the own server takes, and the largest that it ever took.
    pub(crate) frame_bytes_max: usize,
    pub(crate) frame_bytes_most: usize,
    /// The smallest of all servers that are there, or were while there was a connection.
    pub(crate) max_payload: usize,
    commands: VecDeque<Command>,
    links: u64,
    subscriptions: u64,
    complaints: BTreeMap<String, Duration>,
}

impl State {
    pub(crate) fn new(settings: Settings, now: Duration) -> Self {
        Self {
            subjects: Subjects::new(&settings.prefix),
            control: Control::new(settings.id),
            outbox: Outbox::new(settings.queue_bytes),
            frame_bytes_max: settings.max_frame_bytes,
            frame_bytes_most: settings.max_frame_bytes,
            settings,
            stats: BridgeStats::default(),
            now,
            sequence: 0,
            is_connected: false,
            is_draining: false,
            is_ending: false,
            max_payload: MAX_PAYLOAD_USUAL,
            commands: VecDeque::new(),
            links: 0,
            subscriptions: 0,
            complaints: BTreeMap::new(),
        }
    }

    /// Who this server is in packets.
    pub(crate) fn me(&self) -> Origin {
        Origin { id: self.settings.id, incarnation: self.settings.incarnation }
    }

    pub(crate) fn new_link(&mut self) -> LinkId {
        self.links += 1;
        LinkId(self.links)
    }

    /// Opens a link and introduces it.
    pub(crate) fn open_link(&mut self, application: &str, name: &str) -> (LinkId, usize) {
        let link = self.new_link();
        self.commands.push_back(Command::OpenLink { link });
        let connect = self.control.connect(application, name);
        (link, self.write_link(link, &connect))
    }

    /// Writes whole frames to a link, and returns how many bytes.
    pub(crate) fn write_link(&mut self, link: LinkId, frames: &[u8]) -> usize {
        match self.commands.back_mut() {
            Some(Command::WriteLink { link: last, bytes })
                if *last == link && bytes.len() + frames.len() <= WRITE_BYTES_MAX =>
            {
                bytes.extend_from_slice(frames);
            }
            _ => self.command(Command::WriteLink { link, bytes: frames.to_vec() }),
        }
        frames.len()
    }

    pub(crate) fn command(&mut self, command: Command) {
        self.commands.push_back(command);
    }

    pub(crate) fn subscribe(&mut self, subject: String) -> u64 {
        self.subscriptions += 1;
        self.command(Command::Subscribe { id: self.subscriptions, subject });
        self.subscriptions
    }

    /// Sends what is no publication.
    pub(crate) fn send(&mut self, kind: Kind, to: Option<[u8; 16]>, body: &[u8]) {
        let subject = match to {
            Some(id) => self.subjects.server(id),
            None => self.subjects.all().to_owned(),
        };
        let packet = Packet::encode(kind, self.me(), 0, body);
        if kind == Kind::Presence {
            self.outbox.presence(subject, packet, self.now);
        } else {
            self.outbox.tunnel(subject, packet, self.now);
        }
    }

    /// Sends a last word to all, behind the last answers.
    pub(crate) fn send_last(&mut self, presence: &[u8]) {
        let packet = Packet::encode(Kind::Presence, self.me(), 0, presence);
        self.outbox.tunnel(self.subjects.all().to_owned(), packet, self.now);
    }

    /// Tells the operator, but the same thing not again and again. The key is what makes it the same.
    pub(crate) fn complain(&mut self, level: Level, key: &str, text: String) {
        let now = self.now;
        if self.complaints.len() >= COMPLAINTS_MAX && !self.complaints.contains_key(key) {
            self.complaints.retain(|_, told| now.saturating_sub(*told) < COMPLAINT_EVERY);
            if self.complaints.len() >= COMPLAINTS_MAX {
                return;
            }
        }
        let last = self.complaints.get(key);
        if last.is_none_or(|told| now.saturating_sub(*told) >= COMPLAINT_EVERY) {
            self.complaints.insert(key.to_owned(), now);
            self.log(level, text);
        }
    }

    pub(crate) fn log(&mut self, level: Level, text: String) {
        self.command(Command::Log { level, text });
    }

    /// Another limit holds from now on. What waits and is over it would end the connection.
    pub(crate) fn limit_payloads(&mut self, max_payload: usize) {
        if max_payload < self.max_payload {
            self.stats.too_large += self.outbox.drop_larger(max_payload);
        }
        self.max_payload = max_payload;
        self.stats.max_payload = max_payload;
    }

    /// Counts a message that is not what it should be, and says why.
    pub(crate) fn refuse(&mut self, why: &'static str) {
        self.stats.refused += 1;
        self.complain(Level::Warn, why, format!("refused a message from NATS: {why}"));
    }

    /// Returns what is to be done next. What was published before a link is written to goes on first only
    /// if it was queued first: the two have no common order.
    pub(crate) fn next_command(&mut self) -> Option<Command> {
        self.commands.pop_front().or_else(|| self.outbox.next(self.now))
    }
}
