//! A tunnel: for one application and one other server, what the own server sends over the link for the
//! other one, and the other way round, as a stream of bytes in each direction.
//!
//! A stream is cut into numbered chunks. Credit bounds what is under way, so that NATS never keeps more than
//! a window for anybody. A chunk that is missing, or of another epoch, breaks the tunnel, and both ends close
//! their links: the servers then say `worker_lost`, as for any worker.

use std::collections::BTreeMap;
use std::time::Duration;

use super::events::LinkId;
use super::frames::Frames;
use super::packet::Reader;
use super::standing::Standing;

/// What may be under way in each direction, in bytes.
pub(crate) const WINDOW: u64 = 1 << 20;
/// The largest chunk.
pub(crate) const CHUNK_BYTES_MAX: usize = 256 << 10;
/// What a chunk has around it: headers, an application of 256 bytes.
pub(crate) const AROUND_BYTES: usize = 384;
/// The link is not read while so much waits for credit.
const WAITING_BYTES_MAX: usize = 1 << 20;
/// Waiting bytes are moved to the front once so many before them were sent.
const SENT_BYTES_MAX: usize = 256 << 10;
/// An end of a tunnel that is not answered says it once more after so long.
pub(crate) const OPEN_EVERY: Duration = Duration::from_secs(1);
/// Behind the last chunk, the other end is told once how many there were, so that it misses a lost one.
pub(crate) const PROBE_AFTER: Duration = Duration::from_millis(500);
/// A tunnel that nobody needs any more stays for what is in flight.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(60);

/// What a message of a tunnel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// An end is there. `to` is 0 while it does not know the other one.
    Open = 1,
    /// A piece of the stream.
    Chunk = 2,
    /// How many chunks were sent, and what credit was given.
    Status = 3,
    /// The end `to` has no other end.
    Close = 4,
}

/// A message of a tunnel, borrowed from its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece<'a> {
    pub(crate) about: About,
    pub(crate) application: &'a str,
    /// The epoch of the end that sends this.
    pub(crate) from: u64,
    /// The epoch of the end that it is for.
    pub(crate) to: u64,
    /// The number of a chunk, or how many there were.
    pub(crate) number: u64,
    /// How many bytes the receiver may have sent since the beginning.
    pub(crate) granted: u64,
    pub(crate) bytes: &'a [u8],
}

impl<'a> Piece<'a> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.application.len() + self.bytes.len());
        out.push(self.about as u8);
        // An application has at most 256 bytes.
        out.extend_from_slice(&(self.application.len() as u16).to_be_bytes());
        out.extend_from_slice(self.application.as_bytes());
        for number in [self.from, self.to, self.number, self.granted] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(self.bytes);
        out
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let about = match reader.array()? {
            [1] => About::Open,
            [2] => About::Chunk,
            [3] => About::Status,
            [4] => About::Close,
            _ => return None,
        };
        let application = reader.text()?;
        let [from, to, number, granted] =
            [reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?];
        Some(Self { about, application, from, to, number, granted, bytes: reader.0 })
    }
}

/// The stream to the other server.
#[derive(Debug, Default)]
struct Outgoing {
    waiting: Vec<u8>,
    /// How many of them were sent.
    sent: usize,
    chunks: u64,
    /// All bytes since the beginning.
    bytes: u64,
    granted: u64,
    probe_at: Option<Duration>,
}

/// The stream from the other server.
#[derive(Debug, Default)]
struct Incoming {
    frames: Frames,
    chunks: u64,
    bytes: u64,
    granted: u64,
}

/// One end of a tunnel.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) link: LinkId,
    /// The epoch of this end; no two of a process are the same.
    pub(crate) mine: u64,
    /// The epoch of the other one, once it was heard.
    pub(crate) theirs: Option<u64>,
    pub(crate) opened_at: Duration,
    pub(crate) used_at: Duration,
    /// The channels that the link serves, with what it has said about the other end's workers.
    pub(crate) served: BTreeMap<String, Standing>,
    /// What the own server sent.
    pub(crate) local: Frames,
    /// The own server has closed the link, and what it sent before still has to go.
    pub(crate) is_ending: bool,
    is_reading: bool,
    /// What was written to the link and not taken by its socket.
    written: usize,
    outgoing: Outgoing,
    incoming: Incoming,
}

/// The tunnel is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) &'static str);

impl Tunnel {
    pub(crate) fn new(link: LinkId, mine: u64, now: Duration) -> Self {
        Self {
            link,
            mine,
            theirs: None,
            opened_at: now,
            used_at: now,
            served: BTreeMap::new(),
            local: Frames::default(),
            is_ending: false,
            is_reading: true,
            written: 0,
            outgoing: Outgoing { granted: WINDOW, ..Outgoing::default() },
            incoming: Incoming { granted: WINDOW, ..Incoming::default() },
        }
    }

    /// A message without bytes to the other end.
    pub(crate) fn piece<'a>(&self, about: About, application: &'a str) -> Piece<'a> {
        Piece {
            about,
            application,
            from: self.mine,
            to: self.theirs.unwrap_or_default(),
            number: self.outgoing.chunks,
            granted: self.incoming.granted,
            bytes: &[],
        }
    }

    /// Takes a frame for the other server.
    pub(crate) fn send(&mut self, frame: &[u8], now: Duration) {
        self.outgoing.waiting.extend_from_slice(frame);
        self.used_at = now;
    }

    /// Returns the next chunk, if there are bytes and credit for it.
    pub(crate) fn chunk<'a>(
        &'a mut self,
        application: &'a str,
        bytes_max: usize,
        now: Duration,
    ) -> Option<Piece<'a>> {
        self.theirs?;
        let out = &mut self.outgoing;
        if out.sent >= out.waiting.len() {
            out.waiting.clear();
            out.sent = 0;
        } else if out.sent > SENT_BYTES_MAX {
            out.waiting.drain(..out.sent);
            out.sent = 0;
        }
        let credit = usize::try_from(out.granted.saturating_sub(out.bytes)).unwrap_or(usize::MAX);
        let bytes = (out.waiting.len() - out.sent).min(credit).min(bytes_max);
        if bytes == 0 {
            return None;
        }
        let start = out.sent;
        out.sent += bytes;
        out.bytes += bytes as u64;
        out.probe_at = Some(now + PROBE_AFTER);
        let number = out.chunks;
        out.chunks += 1;
        let piece = self.piece(About::Chunk, application);
        let bytes = &self.outgoing.waiting[start..start + bytes];
        Some(Piece { number, bytes, ..piece })
    }

    /// Returns whether bytes wait for credit, or for less to be under way to NATS.
    pub(crate) fn waits(&self) -> bool {
        self.outgoing.sent < self.outgoing.waiting.len()
    }

    /// Says whether the link is read from now on, if that changes.
    pub(crate) fn reading(&mut self) -> Option<bool> {
        let waiting = self.outgoing.waiting.len() - self.outgoing.sent;
        let is_on =
            waiting < if self.is_reading { WAITING_BYTES_MAX } else { WAITING_BYTES_MAX / 2 };
        (is_on != self.is_reading).then(|| {
            self.is_reading = is_on;
            is_on
        })
    }

    /// Takes what the other end says about the streams.
    pub(crate) fn status(&mut self, piece: &Piece<'_>) -> Result<(), Broken> {
        // A window beyond what is under way is no credit of ours.
        let most = self.outgoing.bytes.saturating_add(WINDOW);
        self.outgoing.granted = self.outgoing.granted.max(piece.granted.min(most));
        if piece.about == About::Status && piece.number != self.incoming.chunks {
            return Err(Broken("chunks were lost"));
        }
        Ok(())
    }

    /// Takes a chunk.
    pub(crate) fn receive(&mut self, piece: &Piece<'_>, now: Duration) -> Result<(), Broken> {
        self.status(piece)?;
        let incoming = &mut self.incoming;
        if piece.number != incoming.chunks {
            return Err(Broken("chunks were lost"));
        }
        incoming.chunks += 1;
        incoming.bytes += piece.bytes.len() as u64;
        if incoming.bytes > incoming.granted {
            return Err(Broken("the other server sent more than it may"));
        }
        incoming.frames.push(piece.bytes);
        self.used_at = now;
        Ok(())
    }

    /// Returns the next whole frame of the other server.
    pub(crate) fn frame(&mut self, body_bytes_max: usize) -> Result<Option<&[u8]>, Broken> {
        let too_large = |_| Broken("the other server sent a frame that is too large here");
        self.incoming.frames.next(body_bytes_max).map_err(too_large)
    }

    /// Returns whether so much waits for the own server that what it is told can wait, too.
    pub(crate) fn is_behind(&self) -> bool {
        self.written >= WINDOW as usize / 2
    }

    /// So many bytes were written to the link.
    pub(crate) fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
    }

    /// The link's socket took so many.
    pub(crate) fn took(&mut self, bytes: usize) {
        self.written = self.written.saturating_sub(bytes);
    }

    /// Returns whether the other end has to be given more credit: once it has used a quarter of the window,
    /// and the own server takes what it got. Half a frame is no reason to wait.
    pub(crate) fn grants(&mut self) -> bool {
        let incoming = &mut self.incoming;
        let wanted = incoming.bytes + WINDOW;
        let grants = self.written < WINDOW as usize && wanted >= incoming.granted + WINDOW / 4;
        if grants {
            incoming.granted = wanted;
        }
        grants
    }

    /// Returns whether the number of chunks has to be told.
    pub(crate) fn probes(&mut self, now: Duration) -> bool {
        self.outgoing.probe_at.take_if(|at| *at <= now).is_some()
    }

    /// When that is.
    pub(crate) fn probe_at(&self) -> Option<Duration> {
        self.outgoing.probe_at
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    fn pair() -> (Tunnel, Tunnel) {
        let mut one = Tunnel::new(LinkId(1), 11, NOW);
        let mut other = Tunnel::new(LinkId(2), 22, NOW);
        one.theirs = Some(22);
        other.theirs = Some(11);
        (one, other)
    }

    /// Moves chunks, and returns how many.
    fn pass(one: &mut Tunnel, other: &mut Tunnel) -> usize {
        let mut count = 0;
        while let Some(piece) = one.chunk("a", 100_000, NOW) {
            let bytes = piece.encode();
            other.receive(&Piece::decode(&bytes).unwrap(), NOW).unwrap();
            count += 1;
        }
        count
    }

    #[test]
    fn a_frame_of_many_windows_passes_and_no_more_than_a_window_is_under_way() {
        let (mut one, mut other) = pair();
        let frame = [&(5_u32 << 20).to_be_bytes()[..], &vec![b'x'; 5 << 20]].concat();
        one.send(&frame, NOW);
        assert_eq!(one.reading(), Some(false));
        let mut rounds = 0;
        loop {
            assert!(pass(&mut one, &mut other) <= 11);
            if let Some(found) = other.frame(16 << 20).unwrap() {
                assert_eq!(found, frame);
                break;
            }
            assert!(other.grants());
            let status = other.piece(About::Status, "a");
            one.status(&status).unwrap();
            rounds += 1;
        }
        assert_eq!(rounds, 5);
        assert_eq!(one.reading(), Some(true));
        // Without credit nothing goes, and none comes while the link takes nothing.
        other.wrote(frame.len());
        assert!(!other.grants());
        other.took(frame.len());
        one.send(&frame, NOW);
        pass(&mut one, &mut other);
        assert!(other.grants());
    }

    #[test]
    fn a_lost_chunk_is_missed_by_the_next_one_or_by_the_status() {
        let (mut one, mut other) = pair();
        one.send(b"ab", NOW);
        assert!(one.chunk("a", 1, NOW).is_some());
        let second = one.chunk("a", 1, NOW).unwrap().encode();
        let second = Piece::decode(&second).unwrap();
        assert_eq!(other.receive(&second, NOW), Err(Broken("chunks were lost")));
        assert!(
            !one.probes(NOW) && one.probes(NOW + PROBE_AFTER) && !one.probes(NOW + PROBE_AFTER)
        );
        let status = one.piece(About::Status, "a");
        assert_eq!(other.status(&status), Err(Broken("chunks were lost")));
    }

    #[test]
    fn who_sends_without_credit_breaks_the_tunnel() {
        let (one, mut other) = pair();
        let bytes = vec![0; WINDOW as usize + 1];
        let piece = Piece { bytes: &bytes, ..one.piece(About::Chunk, "a") };
        assert!(other.receive(&piece, NOW).is_err());
        // Credit that was never owed is not believed.
        let (mut one, other) = pair();
        let piece = Piece { granted: u64::MAX, ..other.piece(About::Open, "a") };
        one.status(&piece).unwrap();
        one.send(&vec![0; 3 << 20], NOW);
        let sent: usize =
            std::iter::from_fn(|| one.chunk("a", 1 << 30, NOW).map(|p| p.bytes.len())).sum();
        assert_eq!(sent, WINDOW as usize);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(piece) = Piece::decode(&bytes) {
                prop_assert_eq!(piece.encode(), bytes);
            }
        }
    }
}
