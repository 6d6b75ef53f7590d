//! The bridge as a state machine: it is told what happened, and says what is to be done.

use std::time::Duration;

use super::events::{
    Command, Denied, Level, LinkId, LocalEvent, LocalInterest, LocalSubject, NatsEvent,
};
use super::packet::{Kind, Packet, PacketError};
use super::publications::Publications;
use super::servers::Servers;
use super::settings::Settings;
use super::state::State;
use super::stats::{self, BridgeStats};
use super::subjects::{Subject, hex};

/// See above. Between two events, all commands have to be taken.
#[derive(Debug)]
pub(crate) struct Machine {
    state: State,
    publications: Publications,
    servers: Servers,
    /// Of the connection alone.
    max_payload: usize,
    sessions: u64,
    /// Publications that NATS did not allow, and that no mark or end of the connection has covered so far.
    denied: u64,
}

impl Machine {
    /// A bridge without a connection. `now` and all later times are since any one moment.
    pub(crate) fn new(settings: Settings, now: Duration) -> Self {
        Self {
            state: State::new(settings, now),
            publications: Publications::default(),
            servers: Servers::default(),
            max_payload: 0,
            sessions: 0,
            denied: 0,
        }
    }

    /// It is so late. To be called before each event or batch, and at the deadline.
    pub(crate) fn tick(&mut self, now: Duration) {
        self.state.now = self.state.now.max(now);
        if !self.state.is_ending {
            self.publications.tick(&mut self.state);
            self.servers.tick(&mut self.state, self.max_payload);
        }
    }

    /// The own server takes frames of up to so many bytes from now on.
    pub(crate) fn limit_frames(&mut self, body_bytes_max: usize) {
        let state = &mut self.state;
        if state.frame_bytes_max != body_bytes_max {
            state.frame_bytes_max = body_bytes_max;
            state.frame_bytes_most = state.frame_bytes_most.max(body_bytes_max);
            self.servers.announce_now(state);
        }
    }

    /// Names a link that the server has opened.
    pub(crate) fn new_link(&mut self) -> LinkId {
        self.state.new_link()
    }

    /// Something happened here.
    pub(crate) fn local(&mut self, event: LocalEvent<'_>) {
        let state = &mut self.state;
        match event {
            LocalEvent::Interest(LocalInterest { application, subject, is_wanted }) => {
                match subject {
                    LocalSubject::Application => {
                        self.publications.application(state, &application, is_wanted);
                    }
                    LocalSubject::Channel(_) | LocalSubject::Pattern(_) => {
                        if !state.is_ending {
                            self.publications.interest(state, application, subject, is_wanted);
                        }
                    }
                    LocalSubject::Workers(channel) => {
                        self.servers.workers(state, &application, &channel, is_wanted);
                    }
                }
            }
            LocalEvent::BusOpened { link, application } => {
                self.publications.opened(state, link, application);
            }
            LocalEvent::LinkBytes { link, bytes } if self.publications.has(link) => {
                self.publications.link_bytes(state, link, bytes);
            }
            LocalEvent::LinkBytes { link, bytes } => self.servers.link_bytes(state, link, bytes),
            LocalEvent::LinkTook { link, bytes } => {
                self.publications.took(link, bytes);
                self.servers.took(state, link, bytes);
            }
            LocalEvent::Loads(loads) => self.servers.loads(state, loads, self.max_payload),
            LocalEvent::LinkClosed(link) => {
                self.publications.link_closed(state, link);
                self.servers.link_closed(state, link);
            }
        }
    }

    /// Something happened at NATS.
    #[expect(clippy::needless_pass_by_value, reason = "an event is told once")]
    pub(crate) fn nats(&mut self, event: NatsEvent<'_>) {
        let state = &mut self.state;
        match event {
            NatsEvent::Connected { max_payload } => {
                self.sessions += 1;
                state.stats.reconnects = self.sessions - 1;
                self.max_payload = max_payload;
                state.is_connected = true;
                state.outbox.connected();
                let own = state.subjects.server(state.settings.id);
                state.subscribe(own);
                let all = state.subjects.all().to_owned();
                state.subscribe(all);
                self.publications.connected(state);
                self.servers.connected(state, max_payload);
            }
            NatsEvent::Disconnected => {
                state.is_connected = false;
                // Those that NATS did not allow were counted when it said so.
                let lost = state.outbox.disconnected().saturating_sub(self.denied);
                self.denied = 0;
                state.stats.lost += lost;
                let text = match lost {
                    0 => "the connection to NATS is gone".to_owned(),
                    _ => format!("the connection to NATS is gone; publications lost: {lost}"),
                };
                state.log(Level::Warn, text);
                self.publications.disconnected(state);
                self.servers.disconnected(state);
            }
            NatsEvent::Message { subject, payload } => self.message(subject, payload),
            NatsEvent::Drained => self.publications.drained(state),
            NatsEvent::Confirmed { mark } => {
                let confirmed = state.outbox.confirmed(mark);
                let denied = self.denied.min(confirmed);
                self.denied -= denied;
                state.stats.published += confirmed - denied;
            }
            NatsEvent::SlowConsumer => {
                state.stats.slow += 1;
                let text = "messages from NATS were dropped, because they came faster than they were taken";
                state.complain(Level::Warn, text, text.to_owned());
                self.servers.slow(state);
            }
            NatsEvent::Denied { what, subject } => self.denied(what, subject),
        }
    }

    fn denied(&mut self, what: Denied, subject: &str) {
        let state = &mut self.state;
        state.stats.denied += 1;
        let read = state.subjects.read(subject);
        if what == Denied::Publish && matches!(read, Some(Subject::Publication { .. })) {
            self.denied += 1;
            state.stats.lost += 1;
        }
        let (action, so) = match what {
            Denied::Publish => ("publish on", "what is sent there reaches no other server"),
            Denied::Subscribe => ("subscribe to", "nothing that others send there comes here"),
        };
        let prefix = &state.settings.prefix;
        let text = format!(
            "NATS does not allow this server to {action} {subject}, so that {so}: allow its user to publish \
             on and to subscribe to {prefix}-pub.>, {prefix}-srv.> and {prefix}-all, or share fewer channels"
        );
        state.complain(Level::Error, &format!("{action} {subject}"), text);
    }

    fn message(&mut self, subject: &str, payload: &[u8]) {
        let state = &mut self.state;
        if state.is_ending {
            return;
        }
        let packet = match Packet::decode(payload) {
            Ok(packet) => packet,
            Err(PacketError::Foreign) => {
                state.refuse("a message that is not the bridge's on one of its subjects");
                return;
            }
            Err(PacketError::Version { version, id }) => {
                state.stats.refused += 1;
                let id = id.map_or_else(|| "of an unknown id".to_owned(), hex);
                let text = format!(
                    "the server {id} speaks version {version} of the bridge and this one another: they do \
                     not work together until both have the same release"
                );
                state.complain(Level::Error, &format!("version {id}"), text);
                return;
            }
        };
        let me = state.me();
        if packet.origin == me {
            return;
        }
        if packet.origin.id == me.id {
            state.stats.refused += 1;
            let text =
                format!("another server has this one's id, {}: give each its own", hex(me.id));
            state.complain(Level::Error, "own id", text);
            return;
        }
        match (state.subjects.read(subject), packet.kind) {
            (Some(Subject::Publication { .. }), Kind::Publication)
                if !self.servers.may_have_published(packet.origin, packet.sequence) =>
            {
                state.refuse("a publication with a number that its server has not come to");
            }
            (Some(Subject::Publication { application, channel }), Kind::Publication) => {
                self.publications.arrived(state, application, &channel, &packet);
            }
            (Some(Subject::Server(id)), Kind::Tunnel) if id == me.id => {
                self.servers.piece(state, &packet, self.max_payload);
            }
            (Some(Subject::Server(id)), Kind::Presence) if id == me.id => self.presence(&packet),
            (Some(Subject::All), Kind::Presence) => self.presence(&packet),
            _ => state.refuse("a message on a subject that is not for it"),
        }
    }

    fn presence(&mut self, packet: &Packet<'_>) {
        let published = self.servers.presence(&mut self.state, packet, self.max_payload);
        if let Some(published) = published {
            self.publications.announced(packet.origin, published);
        }
    }

    /// Returns what is to be done next.
    pub(crate) fn next_command(&mut self) -> Option<Command> {
        let state = &mut self.state;
        let command = state.next_command();
        if self.servers.resume(state) && command.is_none() {
            return state.next_command();
        }
        command
    }

    /// When [`tick`](Self::tick) has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let mark = self.state.outbox.deadline();
        if self.state.is_ending {
            return mark;
        }
        let servers = if self.state.is_connected { self.servers.deadline() } else { None };
        [mark, self.publications.deadline(), servers].into_iter().flatten().min()
    }

    /// The server drains: other servers get to know that there are no workers here any more, and nothing more
    /// of theirs is subscribed to. What is in flight goes on.
    pub(crate) fn drain(&mut self) {
        self.state.is_draining = true;
        self.servers.drain();
        self.publications.unsubscribe(&mut self.state);
    }

    /// The server ends: all links are closed and the other servers told. What waits for NATS still goes there;
    /// take commands until [`is_finished`](Self::is_finished), or no longer than there is time.
    pub(crate) fn finish(&mut self) {
        if self.state.is_ending {
            return;
        }
        self.publications.unsubscribe(&mut self.state);
        self.publications.close(&mut self.state);
        self.servers.finish(&mut self.state);
        self.state.is_ending = true;
        self.state.outbox.hurry();
    }

    /// Returns whether no tunnel has anything left to send, once all links are closed by a server that has
    /// drained.
    pub(crate) fn is_idle(&self) -> bool {
        !self.state.is_connected || self.servers.tunnels() == 0
    }

    /// Returns whether nothing is left to do after [`finish`](Self::finish).
    pub(crate) fn is_finished(&self) -> bool {
        self.state.is_ending && (!self.state.is_connected || self.state.outbox.is_empty())
    }

    /// How the workers of a server stand here.
    #[cfg(test)]
    pub(crate) fn standings(
        &self,
        id: [u8; 16],
        application: &str,
    ) -> std::collections::BTreeMap<String, super::standing::Standing> {
        self.servers.standings(id, application).cloned().unwrap_or_default()
    }

    /// What was counted, and how it is now.
    pub(crate) fn stats(&self) -> BridgeStats {
        let state = match (self.state.is_ending, self.state.is_connected) {
            (true, _) => stats::State::Stopped,
            (false, true) => stats::State::Connected,
            (false, false) => stats::State::Away,
        };
        BridgeStats {
            state,
            peers: self.servers.peers(),
            tunnels: self.servers.tunnels(),
            queued_bytes: self.state.outbox.queued_bytes(),
            lag: self.state.outbox.lag(self.state.now),
            ..self.state.stats
        }
    }
}
