//! The other servers: who is there, what they have workers for, and the tunnels to them.
//!
//! A tunnel leads to each server for each application in which that server has workers, also while no client
//! of that application is here: the first one finds them. Its end here is a link that serves these channels.
//! The other end is a link, too, which asks on behalf of the clients here. If both have workers, the same two
//! links do both.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::crossing::{goes_out, over_limit, pass_in};
use super::events::{Command, Level, LinkId};
use super::frames::OWN_FRAME_BYTES_MAX;
use super::loads::Loads;
use super::packet::{Kind, Origin, Packet};
use super::presence::{self, Announced, BEAT, Heard, Peers, Word};
use super::standing::Standing;
use super::state::{RETRY, State};
use super::subjects::hex;
use super::too_large::Instead;
use super::tunnel::{
    AROUND_BYTES, About, Broken, CHUNK_BYTES_MAX, IDLE_MAX, OPEN_EVERY, Piece, Tunnel,
};
use crate::broker::ChannelLoad;
use crate::proto::frame::HEADER_BYTES;

/// The most tunnels.
pub(crate) const TUNNELS_MAX: usize = 4_096;
/// Tunnels send nothing while so much of them waits for NATS.
const WAITING_BYTES_MAX: usize = 8 << 20;

/// An application and a server.
type Key = (String, [u8; 16]);

/// See above.
#[derive(Debug, Default)]
pub(crate) struct Servers {
    peers: Peers,
    announced: Announced,
    loads: Loads,
    tunnels: BTreeMap<Key, Tunnel>,
    links: BTreeMap<LinkId, Key>,
    /// Not before then is a tunnel made again.
    retries: BTreeMap<Key, Duration>,
    epochs: u64,
    session: u64,
    beat_at: Duration,
    /// Some tunnel waits until less waits for NATS.
    is_held: bool,
}

impl Servers {
    /// A channel has local workers, or none any more.
    pub(crate) fn workers(&mut self, state: &State, application: &str, channel: &str, is_on: bool) {
        if state.settings.is_shared(channel) && !state.is_ending {
            self.announced.set(application, channel, is_on);
        }
    }

    /// Announces nothing any more.
    pub(crate) fn drain(&mut self) {
        self.announced.clear();
    }

    /// There is a connection.
    pub(crate) fn connected(&mut self, state: &mut State, max_payload: usize) {
        self.session += 1;
        self.peers = Peers::default();
        state.limit_payloads(max_payload);
        let own = self.about(state, max_payload);
        state.send(Kind::Presence, None, &Word::Hello(own).encode());
        self.beat_at = state.now + BEAT;
    }

    /// The connection is gone, and with it all that was under way.
    pub(crate) fn disconnected(&mut self, state: &mut State) {
        self.peers = Peers::default();
        self.break_all(state, "the connection to NATS is gone");
    }

    /// Messages were dropped; nobody knows which.
    pub(crate) fn slow(&mut self, state: &mut State) {
        self.break_all(state, "NATS dropped messages that were not taken in time");
    }

    /// Says goodbye.
    pub(crate) fn finish(&mut self, state: &mut State) {
        self.break_all(state, "the server ends");
        state.send_last(&Word::Bye.encode());
        self.peers = Peers::default();
    }

    fn break_all(&mut self, state: &mut State, why: &'static str) {
        for key in self.tunnels.keys().cloned().collect::<Vec<_>>() {
            self.break_tunnel(state, &key, why, true);
        }
    }

    fn about(&self, state: &State, max_payload: usize) -> presence::About {
        let (name, version) = (state.settings.name.clone(), self.announced.version);
        let max_frame_bytes = Some(state.frame_bytes_max);
        let (session, published) = (self.session, Some(state.sequence));
        presence::About { name, max_payload, session, version, max_frame_bytes, published }
    }

    /// Says without delay what has changed of what the next beat says.
    pub(crate) fn announce_now(&mut self, state: &State) {
        self.beat_at = self.beat_at.min(state.now);
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, state: &mut State, max_payload: usize) {
        if !state.is_connected {
            return;
        }
        let now = state.now;
        for (id, peer) in self.peers.silent(now) {
            let text =
                format!("the server {} ({}) is gone: it was silent", peer.about.name, hex(id));
            state.log(Level::Warn, text);
            self.gone(state, id, max_payload);
        }
        if self.announced.deadline().is_some_and(|at| at <= now) {
            let channels = self.announced.take_changes(now);
            self.loads.note_changes(&channels, now);
            let about = self.about(state, max_payload);
            state.send(Kind::Presence, None, &Word::Change { about, channels }.encode());
        }
        if self.beat_at <= now {
            self.beat_at = now + BEAT;
            self.loads.look(now);
            let own = self.about(state, max_payload);
            state.send(Kind::Presence, None, &Word::Beat(own).encode());
            self.upkeep(state);
        }
        let due = self.retries.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone());
        for key in due.collect::<Vec<_>>() {
            self.retries.remove(&key);
            self.sync(state, &key.0, key.1);
        }
        for ((application, id), tunnel) in &mut self.tunnels {
            if tunnel.probes(now) {
                let status = tunnel.piece(About::Status, application).encode();
                state.send(Kind::Tunnel, Some(*id), &status);
            }
        }
        for id in self.peers.known.keys().copied().collect::<Vec<_>>() {
            self.converse(state, id, max_payload);
        }
        if !self.peers.known.is_empty()
            && let Some(names) = self.loads.ask(&self.announced, now)
        {
            state.command(Command::AskLoads(names));
        }
    }

    /// Takes how busy the local workers are, and tells the others what has changed.
    pub(crate) fn loads(&mut self, state: &mut State, loads: Vec<ChannelLoad>, max_payload: usize) {
        let parts = self.loads.take(loads, &self.announced, state.now);
        if state.is_ending || !state.is_connected {
            return;
        }
        for channels in parts {
            let about = self.about(state, max_payload);
            state.send(Kind::Presence, None, &Word::Load { about, channels }.encode());
        }
    }

    /// What the beat does for each tunnel.
    fn upkeep(&mut self, state: &mut State) {
        let now = state.now;
        self.open_again(state, |_, tunnel| now >= tunnel.opened_at + OPEN_EVERY);
        for key in self.tunnels.keys().cloned().collect::<Vec<_>>() {
            self.sync(state, &key.0, key.1);
        }
    }

    /// Asks a server for a snapshot, or sends it one, where that is due.
    fn converse(&mut self, state: &mut State, id: [u8; 16], max_payload: usize) {
        let about = self.about(state, max_payload);
        let Some(peer) = self.peers.known.get_mut(&id) else { return };
        if peer.asks(state.now) {
            state.send(Kind::Presence, Some(id), &Word::Ask(about.clone()).encode());
        }
        if peer.is_answered(state.now) {
            let parts = self.announced.parts(|name| self.loads.told(name));
            let count = parts.len();
            for (part, channels) in parts.into_iter().enumerate() {
                let word = Word::Part { about: about.clone(), part, parts: count, channels };
                state.send(Kind::Presence, Some(id), &word.encode());
            }
            // It may not have known this server when these came, and comes to know it by the snapshot.
            self.open_again(state, |key, _| key.1 == id);
        }
    }

    /// Says once more where the ends of tunnels are whose other ends have not been heard.
    fn open_again(&mut self, state: &mut State, is_meant: impl Fn(&Key, &Tunnel) -> bool) {
        let now = state.now;
        for (key, tunnel) in &mut self.tunnels {
            if tunnel.theirs.is_none() && is_meant(key, tunnel) {
                tunnel.opened_at = now;
                let open = tunnel.piece(About::Open, &key.0).encode();
                state.send(Kind::Tunnel, Some(key.1), &open);
            }
        }
    }

    /// When something is due.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let probes = self.tunnels.values().filter_map(Tunnel::probe_at);
        let retries = self.retries.values().copied();
        let loads = self.loads.deadline().filter(|_| !self.peers.known.is_empty());
        let others = [Some(self.beat_at), self.announced.deadline(), self.peers.deadline(), loads];
        probes.chain(retries).chain(others.into_iter().flatten()).min()
    }

    /// Takes what a server says about itself. Returns the number of its last publication, where it says that.
    pub(crate) fn presence(
        &mut self,
        state: &mut State,
        packet: &Packet<'_>,
        max_payload: usize,
    ) -> Option<u64> {
        let Some(word) = Word::decode(packet.body) else {
            state.refuse("a presence that is none");
            return None;
        };
        let id = packet.origin.id;
        let me = hex(state.settings.id);
        let Heard { is_new, is_anew, is_gone, is_changed, loads, published, refused } =
            self.peers.hear(packet.origin, word, state.now, &me);
        if let Some(why) = refused {
            state.refuse(why);
        }
        if is_gone {
            state.log(Level::Info, format!("the server {} is gone: it said goodbye", hex(id)));
            self.gone(state, id, max_payload);
            return None;
        }
        let peer = self.peers.known.get(&id)?;
        if is_new {
            state
                .log(Level::Info, format!("the server {} ({}) is there", peer.about.name, hex(id)));
        }
        let mut changed: BTreeSet<String> = BTreeSet::new();
        if is_changed {
            changed.extend(peer.applications().cloned());
            changed.extend(self.tunnels.keys().filter(|key| key.1 == id).map(|key| key.0.clone()));
        }
        self.limit(state, max_payload);
        if is_anew {
            for key in self.tunnels.keys().filter(|key| key.1 == id).cloned().collect::<Vec<_>>() {
                self.break_tunnel(
                    state,
                    &key,
                    "the other server has a new connection to NATS",
                    true,
                );
            }
        }
        for application in changed {
            self.sync(state, &application, id);
        }
        for (application, channel) in loads {
            self.stand(state, &(application, id), &channel);
        }
        self.converse(state, id, max_payload);
        published
    }

    fn limit(&self, state: &mut State, own: usize) {
        state.limit_payloads(self.peers.max_payload().map_or(own, |others| others.min(own)));
    }

    /// A server is gone.
    fn gone(&mut self, state: &mut State, id: [u8; 16], max_payload: usize) {
        for key in self.tunnels.keys().filter(|key| key.1 == id).cloned().collect::<Vec<_>>() {
            self.break_tunnel(state, &key, "the other server is gone", false);
        }
        self.limit(state, max_payload);
    }

    /// Makes the tunnel that is needed, serves what is to be served, and ends the one that is not needed.
    fn sync(&mut self, state: &mut State, application: &str, id: [u8; 16]) {
        if state.is_ending || !state.is_connected {
            return;
        }
        let key = (application.to_owned(), id);
        let channels = self.peers.known.get(&id).and_then(|peer| peer.channels(application));
        let wanted: BTreeMap<&String, Standing> = channels
            .into_iter()
            .flatten()
            .filter(|(channel, _)| state.settings.is_shared(channel))
            .map(|(channel, standing)| (channel, *standing))
            .collect();
        if !self.tunnels.contains_key(&key) {
            if wanted.is_empty() || self.retries.contains_key(&key) || state.is_draining {
                return;
            }
            let Some(tunnel) = open(state, &mut self.epochs, &mut self.links, &key) else { return };
            let piece = tunnel.piece(About::Open, application).encode();
            state.send(Kind::Tunnel, Some(id), &piece);
            self.tunnels.insert(key.clone(), tunnel);
        }
        let Some(tunnel) = self.tunnels.get_mut(&key) else { return };
        let gone: Vec<String> =
            tunnel.served.keys().filter(|channel| !wanted.contains_key(channel)).cloned().collect();
        for channel in gone {
            tunnel.served.remove(&channel);
            let stop = state.control.stop_serving(application, &channel);
            tunnel.wrote(state.write_link(tunnel.link, &stop));
        }
        for (channel, standing) in wanted {
            serve(state, tunnel, application, channel, standing);
        }
        let is_needed = !tunnel.served.is_empty() || self.announced.serves(application);
        if !is_needed && state.now >= tunnel.used_at + IDLE_MAX {
            self.close_tunnel(state, &key, Command::CloseLink);
        }
    }

    /// Tells the own server how busy the workers behind a link are.
    fn stand(&mut self, state: &mut State, key: &Key, channel: &str) {
        let peer = self.peers.known.get(&key.1);
        let standing = peer.and_then(|peer| peer.channels(&key.0)?.get(channel).copied());
        if let Some(standing) = standing
            && let Some(tunnel) = self.tunnels.get_mut(key)
            && tunnel.served.contains_key(channel)
        {
            serve(state, tunnel, &key.0, channel, standing);
        }
    }

    /// Closes both ends.
    fn close_tunnel(&mut self, state: &mut State, key: &Key, end: fn(LinkId) -> Command) -> bool {
        let Some(tunnel) = self.tunnels.remove(key) else { return false };
        self.links.remove(&tunnel.link);
        state.command(end(tunnel.link));
        if tunnel.theirs.is_some() {
            let close = tunnel.piece(About::Close, &key.0).encode();
            state.send(Kind::Tunnel, Some(key.1), &close);
        }
        true
    }

    /// Closes both ends because of what happened, which ends the requests in flight.
    fn break_tunnel(&mut self, state: &mut State, key: &Key, why: &'static str, is_retried: bool) {
        if self.close_tunnel(state, key, Command::CloseLink) {
            self.note_broken(state, key, why, is_retried);
        }
    }

    fn note_broken(&mut self, state: &mut State, key: &Key, why: &'static str, is_retried: bool) {
        state.stats.broken_tunnels += 1;
        let text = format!("the tunnel to server {} for {:?} broke: {why}", hex(key.1), key.0);
        state.complain(Level::Warn, why, text);
        if is_retried {
            self.retries.insert(key.clone(), state.now + RETRY);
        } else {
            self.retries.remove(key);
        }
    }

    /// Takes a message of a tunnel.
    pub(crate) fn piece(&mut self, state: &mut State, packet: &Packet<'_>, max_payload: usize) {
        let Some(piece) = Piece::decode(packet.body) else {
            state.refuse("a piece of a tunnel that is none");
            return;
        };
        let id = packet.origin.id;
        let is_known = self
            .peers
            .known
            .get(&id)
            .is_some_and(|peer| peer.incarnation == packet.origin.incarnation);
        let key = (piece.application.to_owned(), id);
        if !is_known {
            // It comes by another subject than what the server says about itself, and may overtake that. Asked
            // who it is, the server says where the tunnel's end is once more.
            if piece.about == About::Open && self.peers.asks_stranger(id, state.now) {
                let about = self.about(state, max_payload);
                state.send(Kind::Presence, Some(id), &Word::Ask(about).encode());
            }
            return;
        }
        if piece.from == 0 {
            state.refuse("a piece of a tunnel without an epoch");
            return;
        }
        match piece.about {
            About::Open => self.opened(state, &key, &piece),
            About::Close => {
                let tunnel = self.tunnels.get(&key).filter(|tunnel| tunnel.mine == piece.to);
                let Some(tunnel) = tunnel else { return };
                // Otherwise only the other one needed it.
                let is_broken = !tunnel.served.is_empty();
                // What came before this goes to the own server.
                self.close_tunnel(state, &key, Command::FinishLink);
                if is_broken {
                    self.note_broken(state, &key, "the other server closed it", true);
                }
            }
            About::Chunk | About::Status => self.streamed(state, &key, &piece),
        }
    }

    fn opened(&mut self, state: &mut State, key: &Key, piece: &Piece<'_>) {
        let theirs = self.tunnels.get(key).map(|tunnel| tunnel.theirs);
        if let Some(Some(theirs)) = theirs
            && theirs != piece.from
        {
            self.break_tunnel(state, key, "the other server began anew", true);
        }
        if !self.tunnels.contains_key(key) {
            let is_new = piece.to == 0
                && self.announced.serves(&key.0)
                && !state.is_ending
                && !state.is_draining;
            let tunnel =
                if is_new { open(state, &mut self.epochs, &mut self.links, key) } else { None };
            let Some(tunnel) = tunnel else {
                refuse_end(state, key, piece);
                return;
            };
            self.retries.remove(key);
            self.tunnels.insert(key.clone(), tunnel);
        }
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        if piece.to != 0 && piece.to != tunnel.mine {
            refuse_end(state, key, piece);
            return;
        }
        tunnel.theirs = Some(piece.from);
        if piece.to == 0 {
            let open = tunnel.piece(About::Open, &key.0).encode();
            state.send(Kind::Tunnel, Some(key.1), &open);
        }
        // The credit of a whole window is where both begin.
        self.pump(state, key);
        self.sync(state, &key.0, key.1);
    }

    fn streamed(&mut self, state: &mut State, key: &Key, piece: &Piece<'_>) {
        let tunnel = self.tunnels.get_mut(key);
        let is_ours =
            |tunnel: &&mut Tunnel| tunnel.mine == piece.to && tunnel.theirs == Some(piece.from);
        let Some(tunnel) = tunnel.filter(is_ours) else {
            refuse_end(state, key, piece);
            return;
        };
        let taken = match piece.about {
            About::Chunk => tunnel.receive(piece, state.now),
            _ => tunnel.status(piece),
        };
        match taken.and_then(|()| pass_in(state, &key.0, tunnel, &mut self.loads)) {
            Ok(()) => {
                self.grant(state, key);
                self.pump(state, key);
            }
            Err(Broken(why)) => self.break_tunnel(state, key, why, true),
        }
    }

    fn grant(&mut self, state: &mut State, key: &Key) {
        if let Some(tunnel) = self.tunnels.get_mut(key)
            && tunnel.grants()
        {
            let status = tunnel.piece(About::Status, &key.0).encode();
            state.send(Kind::Tunnel, Some(key.1), &status);
        }
    }

    /// Sends what there is credit and room for.
    fn pump(&mut self, state: &mut State, key: &Key) {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        let bytes_max = state.max_payload.saturating_sub(AROUND_BYTES).min(CHUNK_BYTES_MAX);
        loop {
            if state.outbox.tunnel_bytes() >= WAITING_BYTES_MAX {
                self.is_held = true;
                break;
            }
            let now = state.now;
            let Some(chunk) = tunnel.chunk(&key.0, bytes_max, now) else { break };
            let chunk = chunk.encode();
            state.send(Kind::Tunnel, Some(key.1), &chunk);
        }
        if tunnel.is_ending && !tunnel.waits() {
            self.close_tunnel(state, key, Command::CloseLink);
        } else if let Some(is_on) = tunnel.reading() {
            state.command(Command::ReadLink { link: tunnel.link, is_on });
        }
    }

    /// Goes on once less waits for NATS. Returns whether anything waited for that.
    pub(crate) fn resume(&mut self, state: &mut State) -> bool {
        if !self.is_held || state.outbox.tunnel_bytes() >= WAITING_BYTES_MAX / 2 {
            return false;
        }
        self.is_held = false;
        for key in self.tunnels.keys().cloned().collect::<Vec<_>>() {
            self.pump(state, &key);
        }
        true
    }

    /// Takes what the own server sent over a server link.
    pub(crate) fn link_bytes(&mut self, state: &mut State, link: LinkId, bytes: &[u8]) {
        let Some(key) = self.links.get(&link).cloned() else { return };
        let Some(tunnel) = self.tunnels.get_mut(&key) else { return };
        let their_max = self.peers.known.get(&key.1).and_then(|peer| peer.about.max_frame_bytes);
        let their_max = their_max.unwrap_or(usize::MAX);
        let mut frames = std::mem::take(&mut tunnel.local);
        frames.push(bytes);
        let end = loop {
            match frames.next(OWN_FRAME_BYTES_MAX) {
                Ok(Some(frame)) => match goes_out(state, frame) {
                    Ok(true) if frame.len() - HEADER_BYTES > their_max => {
                        let Instead { back, on } = over_limit(state, frame, their_max);
                        tunnel.wrote(state.write_link(link, &back));
                        tunnel.send(&on, state.now);
                    }
                    Ok(true) => tunnel.send(frame, state.now),
                    Ok(false) => {}
                    Err(Broken(why)) => break Err(why),
                },
                Ok(None) => break Ok(()),
                Err(_) => break Err("the own server sent a frame that is too large"),
            }
        };
        tunnel.local = frames;
        match end {
            Ok(()) => self.pump(state, &key),
            Err(why) => self.break_tunnel(state, &key, why, true),
        }
    }

    pub(crate) fn took(&mut self, state: &mut State, link: LinkId, bytes: usize) {
        let Some(key) = self.links.get(&link).cloned() else { return };
        if let Some(tunnel) = self.tunnels.get_mut(&key) {
            tunnel.took(bytes);
            self.grant(state, &key);
        }
    }

    pub(crate) fn link_closed(&mut self, state: &mut State, link: LinkId) {
        let Some(key) = self.links.remove(&link) else { return };
        if !state.is_draining {
            self.break_tunnel(state, &key, "the own server closed its link", true);
        } else if let Some(tunnel) = self.tunnels.get_mut(&key) {
            // Its last answers may wait for credit.
            tunnel.is_ending = true;
            self.pump(state, &key);
        }
    }

    /// How the workers of a server stand here.
    #[cfg(test)]
    pub(crate) fn standings(
        &self,
        id: [u8; 16],
        application: &str,
    ) -> Option<&BTreeMap<String, Standing>> {
        self.peers.known.get(&id)?.channels(application)
    }

    /// Returns whether a server may have published so much by now.
    pub(crate) fn may_have_published(&self, origin: Origin, sequence: u64) -> bool {
        self.peers.may_have_published(origin, sequence)
    }

    pub(crate) fn peers(&self) -> usize {
        self.peers.known.len()
    }

    pub(crate) fn tunnels(&self) -> usize {
        self.tunnels.len()
    }
}

fn open(
    state: &mut State,
    epochs: &mut u64,
    links: &mut BTreeMap<LinkId, Key>,
    key: &Key,
) -> Option<Tunnel> {
    if links.len() >= TUNNELS_MAX {
        let text =
            format!("no more than {TUNNELS_MAX} tunnels to other servers are open at a time");
        state.complain(Level::Error, "tunnels", text);
        return None;
    }
    *epochs += 1;
    let (link, written) = state.open_link(&key.0, &hex(key.1));
    links.insert(link, key.clone());
    let mut tunnel = Tunnel::new(link, *epochs, state.now);
    tunnel.wrote(written);
    Some(tunnel)
}

/// Has a link serve a channel, unless it has said the same. That others are more or less busy can wait.
fn serve(
    state: &mut State,
    tunnel: &mut Tunnel,
    application: &str,
    channel: &str,
    standing: Standing,
) {
    let told = tunnel.served.get(channel);
    if told == Some(&standing) || told.is_some() && tunnel.is_behind() {
        return;
    }
    tunnel.served.insert(channel.to_owned(), standing);
    let serve = state.control.serve(application, channel, &standing);
    tunnel.wrote(state.write_link(tunnel.link, &serve));
}

/// Tells the other server that its end has no other one.
fn refuse_end(state: &mut State, (application, id): &Key, piece: &Piece<'_>) {
    let (from, to) = (piece.to.max(1), piece.from);
    let about = About::Close;
    let close = Piece { about, application, from, to, number: 0, granted: 0, bytes: &[] };
    state.send(Kind::Tunnel, Some(*id), &close.encode());
}
