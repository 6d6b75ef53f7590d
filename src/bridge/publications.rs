//! Publications: what local clients publish goes to NATS, and what comes from there to local subscribers.
//!
//! An application with local clients has a bus link, which is subscribed to the shared channels at the own
//! server and publishes there what other servers sent. The server sends it nothing that it published itself.
//! The server opens it when the first client comes, before it hears that client. One that was closed since,
//! because it was slow or memory was short, is opened from here.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::control::{is_error, is_own_failure};
use super::events::{Command, Level, LinkId, LocalSubject};
use super::frames::{Frames, OWN_FRAME_BYTES_MAX};
use super::packet::{Kind, Origin, Packet};
use super::state::{RETRY, State};
use crate::broker::BUSES_MAX;
use crate::proto::frame::HEADER_BYTES;
use crate::proto::{Envelope, MessageType};

/// What may wait for the socket of a bus link, in bytes, unless it is one publication.
pub(crate) const BUS_BYTES_MAX: usize = 8 << 20;
/// What one batch may have, in bytes.
pub(crate) const BATCH_BYTES_MAX: usize = 64 << 20;
/// So many of the last publications of each server are remembered.
pub(crate) const RECENT_MAX: usize = 1_024;
/// The servers whose last publications are remembered.
pub(crate) const ORIGINS_MAX: usize = 1_024;
/// An application that is one too many is tried again after so long.
pub(crate) const FULL_RETRY: Duration = Duration::from_secs(5);
/// The name of a bus link.
const BUS: &str = "bus";

#[derive(Debug, Default)]
struct Bus {
    link: Option<LinkId>,
    frames: Frames,
    /// Written to the link and not taken by its socket.
    written: usize,
    /// The link is opened from here then.
    retry_at: Option<Duration>,
    /// The application has clients.
    is_wanted: bool,
}

/// A publication of another server that waits for the end of its batch.
#[derive(Debug)]
struct Arrived {
    origin: Origin,
    sequence: u64,
    application: String,
    frame: Vec<u8>,
}

/// The last publications of a server. The copies of one come one soon after the other.
#[derive(Debug, Default)]
struct Recent {
    /// The highest number of those that were delivered, but none beyond what the server has come to: otherwise a
    /// stranger who forges a number would stop all that comes after it.
    last: u64,
    order: VecDeque<u64>,
    known: BTreeSet<u64>,
    heard_at: Duration,
}

impl Recent {
    /// Returns whether it is new.
    fn insert(&mut self, fingerprint: u64) -> bool {
        if !self.known.insert(fingerprint) {
            return false;
        }
        self.order.push_back(fingerprint);
        if self.order.len() > RECENT_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

/// Returns what two copies of a publication have in common, and no two different ones, also if one has the number
/// of the other.
fn fingerprint(arrived: &Arrived) -> u64 {
    let mut hasher = DefaultHasher::new();
    (arrived.sequence, &arrived.application, &arrived.frame).hash(&mut hasher);
    hasher.finish()
}

/// See above.
#[derive(Debug, Default)]
pub(crate) struct Publications {
    buses: BTreeMap<String, Bus>,
    applications: BTreeMap<LinkId, String>,
    /// What local clients want, with the subscription at NATS where there is one.
    wanted: BTreeMap<(String, LocalSubject), Option<u64>>,
    /// What came last of each server.
    origins: BTreeMap<Origin, Recent>,
    batch: Vec<Arrived>,
    batch_bytes: usize,
}

impl Publications {
    /// The application has local clients, or none any more.
    pub(crate) fn application(&mut self, state: &mut State, application: &str, is_wanted: bool) {
        if state.is_ending || state.is_draining {
            return;
        }
        if is_wanted {
            let bus = self.buses.entry(application.to_owned()).or_default();
            bus.is_wanted = true;
            if bus.link.is_none() {
                // The server says at once that it has opened it, unless it could not.
                bus.retry_at.get_or_insert(state.now + RETRY);
            }
        } else if let Some(bus) = self.buses.get_mut(application) {
            bus.is_wanted = false;
            if bus.link.is_none() {
                self.buses.remove(application);
            }
        }
    }

    /// The server has opened a bus link.
    pub(crate) fn opened(&mut self, state: &mut State, link: LinkId, application: String) {
        if state.is_ending {
            state.command(Command::CloseLink(link));
            return;
        }
        let bus = self.buses.entry(application.clone()).or_default();
        // The server has one link of each, so that another one is closed there.
        if let Some(older) = bus.link {
            self.applications.remove(&older);
            state.command(Command::CloseLink(older));
        }
        *bus = Bus { link: Some(link), is_wanted: bus.is_wanted, ..Bus::default() };
        self.applications.insert(link, application);
    }

    fn open(&mut self, state: &mut State, application: &str) {
        let Some(bus) = self.buses.get_mut(application) else { return };
        if self.applications.len() >= BUSES_MAX {
            bus.retry_at = Some(state.now + FULL_RETRY);
            let text = format!("no more than {BUSES_MAX} applications are shared at a time");
            state.complain(Level::Error, "applications", text);
            return;
        }
        let (link, mut written) = state.open_link(application, BUS);
        for pattern in state.settings.channels.clone() {
            let subscribe = state.control.subscribe(application, BUS, &pattern);
            written += state.write_link(link, &subscribe);
        }
        *bus = Bus { link: Some(link), written, is_wanted: bus.is_wanted, ..Bus::default() };
        self.applications.insert(link, application.to_owned());
    }

    /// A channel or a pattern has local subscribers, or none any more.
    pub(crate) fn interest(
        &mut self,
        state: &mut State,
        application: String,
        subject: LocalSubject,
        is_wanted: bool,
    ) {
        let key = (application, subject);
        if is_wanted {
            if let Entry::Vacant(entry) = self.wanted.entry(key) {
                let is_on = state.is_connected;
                let subscription = if is_on { subscribe(state, entry.key()) } else { None };
                entry.insert(subscription);
            }
        } else if let Some(Some(subscription)) = self.wanted.remove(&key) {
            state.command(Command::Unsubscribe(subscription));
        }
    }

    /// Subscribes to everything that is wanted, on a new connection.
    pub(crate) fn connected(&mut self, state: &mut State) {
        for (key, subscription) in &mut self.wanted {
            *subscription = subscribe(state, key);
        }
    }

    /// All subscriptions are gone.
    pub(crate) fn disconnected(&mut self, state: &mut State) {
        self.drained(state);
        self.wanted.values_mut().for_each(|subscription| *subscription = None);
    }

    /// Ends all subscriptions.
    pub(crate) fn unsubscribe(&mut self, state: &mut State) {
        for (_, subscription) in std::mem::take(&mut self.wanted) {
            if let Some(subscription) = subscription {
                state.command(Command::Unsubscribe(subscription));
            }
        }
    }

    /// Closes all links.
    pub(crate) fn close(&mut self, state: &mut State) {
        self.applications.clear();
        for (_, bus) in std::mem::take(&mut self.buses) {
            if let Some(link) = bus.link {
                state.command(Command::CloseLink(link));
            }
        }
    }

    /// Opens the links again that have ended.
    pub(crate) fn tick(&mut self, state: &mut State) {
        let now = state.now;
        let is_due = |bus: &Bus| bus.retry_at.is_some_and(|at| at <= now);
        let due = self.buses.iter().filter(|(_, bus)| is_due(bus));
        for application in due.map(|(application, _)| application.clone()).collect::<Vec<_>>() {
            self.open(state, &application);
        }
    }

    /// When there is one to open.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.buses.values().filter_map(|bus| bus.retry_at).min()
    }

    /// Returns whether the link is a bus link.
    pub(crate) fn has(&self, link: LinkId) -> bool {
        self.applications.contains_key(&link)
    }

    pub(crate) fn took(&mut self, link: LinkId, bytes: usize) {
        if let Some(application) = self.applications.get(&link)
            && let Some(bus) = self.buses.get_mut(application)
        {
            bus.written = bus.written.saturating_sub(bytes);
        }
    }

    pub(crate) fn link_closed(&mut self, state: &mut State, link: LinkId) {
        if let Some(application) = self.applications.remove(&link)
            && let Some(bus) = self.buses.get_mut(&application)
        {
            if bus.is_wanted && !state.is_draining {
                let retry_at = Some(state.now + RETRY);
                *bus = Bus { retry_at, is_wanted: true, ..Bus::default() };
            } else {
                self.buses.remove(&application);
            }
        }
    }

    /// Takes what the own server sent over a bus link.
    pub(crate) fn link_bytes(&mut self, state: &mut State, link: LinkId, bytes: &[u8]) {
        let Some(application) = self.applications.get(&link) else { return };
        let Some(bus) = self.buses.get_mut(application) else { return };
        bus.frames.push(bytes);
        let mut is_usable = true;
        while is_usable {
            match bus.frames.next(OWN_FRAME_BYTES_MAX) {
                Ok(Some(frame)) => {
                    is_usable = publish(state, application, frame);
                }
                Ok(None) => break,
                Err(_) => is_usable = false,
            }
        }
        if !is_usable {
            state.command(Command::CloseLink(link));
            self.link_closed(state, link);
        }
    }

    /// Takes a publication from NATS.
    pub(crate) fn arrived(
        &mut self,
        state: &mut State,
        application: String,
        channel: &str,
        packet: &Packet<'_>,
    ) {
        if !self.buses.contains_key(&application) {
            // It was wanted when it was sent.
            return;
        }
        if let Err(why) = check(state, &application, channel, packet) {
            state.refuse(why);
            return;
        }
        if self.batch_bytes + packet.body.len() > BATCH_BYTES_MAX {
            state.stats.lost_here += 1;
            let text = "more publications of other servers came at once than may wait here";
            state.complain(Level::Warn, text, text.to_owned());
            return;
        }
        self.batch_bytes += packet.body.len();
        let (origin, sequence) = (packet.origin, packet.sequence);
        self.batch.push(Arrived { origin, sequence, application, frame: packet.body.to_vec() });
    }

    /// The batch is complete: everything that comes later is younger.
    pub(crate) fn drained(&mut self, state: &mut State) {
        let mut batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        batch.sort_by_key(|arrived| (arrived.origin, arrived.sequence));
        for arrived in batch {
            self.deliver(state, &arrived);
        }
    }

    /// A server says that it has come to this number. Whatever had a higher one was not its own.
    pub(crate) fn announced(&mut self, origin: Origin, published: u64) {
        if let Some(recent) = self.origins.get_mut(&origin) {
            recent.last = recent.last.min(published);
        }
    }

    fn deliver(&mut self, state: &mut State, arrived: &Arrived) {
        if !self.origins.contains_key(&arrived.origin) && self.origins.len() >= ORIGINS_MAX {
            let oldest = self.origins.iter().min_by_key(|(_, recent)| recent.heard_at);
            if let Some(oldest) = oldest.map(|(origin, _)| *origin) {
                self.origins.remove(&oldest);
            }
        }
        let recent = self.origins.entry(arrived.origin).or_default();
        recent.heard_at = state.now;
        if !recent.insert(fingerprint(arrived)) {
            state.stats.doubled += 1;
            return;
        }
        if arrived.sequence < recent.last {
            state.stats.lost_here += 1;
            let text = "a publication of another server came behind a younger one and was dropped";
            state.complain(Level::Warn, text, text.to_owned());
            return;
        }
        recent.last = arrived.sequence;
        let bus = self.buses.get_mut(&arrived.application);
        let Some((bus, link)) = bus.and_then(|bus| bus.link.map(|link| (bus, link))) else {
            state.stats.lost_here += 1;
            return;
        };
        if bus.written > 0 && bus.written + arrived.frame.len() > BUS_BYTES_MAX {
            state.stats.lost_here += 1;
            let text = "publications of other servers come faster than local subscribers take them, \
                        so that some are lost: see which subscribers are slow";
            state.complain(Level::Warn, text, text.to_owned());
            return;
        }
        bus.written += state.write_link(link, &arrived.frame);
        state.stats.received += 1;
    }
}

fn subscribe(state: &mut State, (application, subject): &(String, LocalSubject)) -> Option<u64> {
    let subject = match subject {
        LocalSubject::Channel(channel) if state.settings.is_shared(channel) => {
            state.subjects.channel(application, channel)?
        }
        LocalSubject::Pattern(pattern) => state.subjects.pattern(application, pattern)?,
        _ => return None,
    };
    Some(state.subscribe(subject))
}

/// Publishes at NATS what a local client has published. Returns whether the link is of use: it is not if
/// the server refused it a subscription.
fn publish(state: &mut State, application: &str, frame: &[u8]) -> bool {
    let Ok(envelope) = Envelope::parse_binary(&frame[HEADER_BYTES..]) else { return false };
    let channel = envelope.channel_id().decode();
    if envelope.message_type() != MessageType::Publish {
        // The answers to the handshake and to faulty publications of other servers.
        if is_error(envelope.payload_str()) {
            state.stats.refused += 1;
            let text =
                format!("the server refused what its bus link sent: {}", envelope.payload_str());
            state.complain(Level::Warn, "bus link", text);
            return !is_own_failure(&envelope);
        }
        return true;
    }
    if !state.settings.is_shared(&channel) {
        return true;
    }
    state.sequence += 1;
    let packet = Packet::encode(Kind::Publication, state.me(), state.sequence, frame);
    let max_payload = state.max_payload;
    if packet.len() > max_payload {
        state.stats.too_large += 1;
        let text = format!(
            "a publication of {} bytes on {channel:?} was not sent to other servers: with its header it is \
             over {max_payload} bytes, the smallest max_payload of all NATS servers; raise that, or send less",
            frame.len()
        );
        state.complain(Level::Warn, "too large", text);
        return true;
    }
    let Some(subject) = state.subjects.channel(application, &channel) else {
        state.stats.lost += 1;
        return true;
    };
    if !state.outbox.publication(subject, packet, state.now) {
        state.stats.lost += 1;
        let text = format!(
            "publications are lost: {} bytes wait for NATS, as many as may",
            state.settings.queue_bytes
        );
        state.complain(Level::Warn, "queue is full", text);
    }
    true
}

/// Returns why a publication from NATS is refused.
fn check(
    state: &State,
    application: &str,
    channel: &str,
    packet: &Packet<'_>,
) -> Result<(), &'static str> {
    if packet.sequence == 0 {
        return Err("a publication without a number");
    }
    if !state.settings.is_shared(channel) {
        return Err("a publication on a channel that is not shared");
    }
    let Some((length, body)) = packet.body.split_first_chunk::<HEADER_BYTES>() else {
        return Err("a publication without a frame");
    };
    if u32::from_be_bytes(*length) as usize != body.len() {
        return Err("a publication that is not one frame");
    }
    if body.len() > state.frame_bytes_max {
        return Err("a publication that is too large for this server");
    }
    let Ok(envelope) = Envelope::parse_binary(body) else {
        return Err("a publication that is no message");
    };
    if envelope.message_type() != MessageType::Publish {
        return Err("a message that is no publication on a publication's subject");
    }
    if !envelope.app_id().matches(application) || !envelope.channel_id().matches(channel) {
        return Err("a publication of another application or channel than its subject says");
    }
    match envelope.read_meta() {
        Some(Err(_)) => Err("a publication with a faulty meta"),
        Some(Ok(meta)) if meta.ack || meta.position.is_some() => {
            Err("a publication with what is between a client and its server")
        }
        _ => Ok(()),
    }
}
