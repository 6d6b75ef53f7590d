//! Properties of the parsers, checked with the inputs of a fuzzer.

use arbitrary::{Arbitrary, Unstructured};

pub(crate) use super::attachments::fuzzing::attachments;
use super::frame::{self, Frame};
use super::oracle::Reading;
use super::recv_buffer::{Inbound, Next};
use super::{BufferPool, Envelope, Meta, RecvBuffer, fields, parse};

/// A stream and the way in which it arrives.
#[derive(Arbitrary, Debug)]
struct Arrival<'a> {
    body_bytes_max: u16,
    /// The sizes of the reads, repeated over and over. Zero counts as one.
    reads: [u8; 4],
    /// A factor for these sizes. Zero counts as one.
    scale: u8,
    /// Frames that a turn takes. Zero counts as one.
    frames_per_turn: u8,
    stream: &'a [u8],
}

/// The frames that are found in a stream.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    bodies: Vec<Vec<u8>>,
    too_large: Option<usize>,
    left_over: usize,
}

/// The frame decoder finds the same frames in a stream that comes whole, in pieces, or byte by byte.
pub(crate) fn frames(input: &[u8]) {
    let Ok(arrival) = Arrival::arbitrary_take_rest(Unstructured::new(input)) else { return };
    let expected = arrival.expected();
    let sizes =
        arrival.reads.map(|size| usize::from(size.max(1)) * usize::from(arrival.scale.max(1)));
    for sizes in [[arrival.stream.len().max(1); 4], sizes, [1; 4]] {
        assert_eq!(arrival.received(sizes), expected, "in reads of {sizes:?}");
    }
}

impl Arrival<'_> {
    /// The frames by their definition.
    fn expected(&self) -> Outcome {
        let mut outcome = Outcome::default();
        let mut rest = self.stream;
        while let Some((header, behind)) = rest.split_first_chunk::<4>() {
            let body_bytes = u32::from_be_bytes(*header) as usize;
            if body_bytes > usize::from(self.body_bytes_max) {
                outcome.too_large = Some(body_bytes);
                break;
            }
            let Some((body, next)) = behind.split_at_checked(body_bytes) else { break };
            outcome.bodies.push(body.to_vec());
            rest = next;
        }
        outcome.left_over = rest.len();
        outcome
    }

    /// The frames that the server finds, with a bounded number of them in each turn.
    fn received(&self, sizes: [usize; 4]) -> Outcome {
        let mut outcome = Outcome::default();
        let mut pool = BufferPool::default();
        let mut kept = RecvBuffer::default();
        let mut rest = self.stream;
        for size in sizes.into_iter().cycle() {
            let (mut chunk, mut behind) = rest.split_at(size.min(rest.len()));
            if size % 2 == 1 && kept.lacks(1) {
                let room = kept.room();
                let bytes = room.len().min(chunk.len());
                room[..bytes].copy_from_slice(&chunk[..bytes]);
                kept.add(bytes);
                (chunk, behind) = (&[], &rest[bytes..]);
            }
            rest = behind;
            kept = self.turns(kept, chunk, &mut outcome, &mut pool);
            let is_header = matches!(
                frame::decode(kept.unread(), usize::MAX),
                Frame::Partial { frame_bytes } if kept.len() == 4 && frame_bytes > 4
            );
            assert_eq!(kept.is_bare_header(), is_header);
            self.check_memory(&kept, &pool);
            if rest.is_empty() || outcome.too_large.is_some() {
                break;
            }
        }
        outcome.left_over = kept.len() + rest.len();
        kept.release(&mut pool);
        assert_eq!(pool.gauge().bytes(), 0, "memory is lost");
        outcome
    }

    /// Takes turns until one of them finds less than it may take.
    fn turns(
        &self,
        mut kept: RecvBuffer,
        mut chunk: &[u8],
        outcome: &mut Outcome,
        pool: &mut BufferPool,
    ) -> RecvBuffer {
        loop {
            let mut inbound = Inbound::new(kept, std::mem::take(&mut chunk));
            let mut is_done = false;
            for _ in 0..self.frames_per_turn.max(1) {
                match inbound.peek(self.body_bytes_max.into(), pool) {
                    Next::Frame { body, frame_bytes } => {
                        outcome.bodies.push(body.to_vec());
                        inbound.consume(frame_bytes, pool);
                        continue;
                    }
                    Next::TooLarge { body_bytes } => outcome.too_large = Some(body_bytes),
                    Next::Nothing => {}
                }
                is_done = true;
                break;
            }
            kept = inbound.finish(pool);
            if is_done {
                return kept;
            }
        }
    }

    /// Checks that memory follows the bytes that have arrived, and not a length prefix.
    fn check_memory(&self, kept: &RecvBuffer, pool: &BufferPool) {
        let earned = (4 << 10) + 4 * kept.len();
        assert!(kept.capacity() <= earned, "{} for {} bytes", kept.capacity(), kept.len());
        assert_eq!(pool.gauge().bytes(), kept.capacity());
        assert!(kept.len() <= self.stream.len());
    }
}

/// The envelope scanner and `serde_json` accept the same messages and read the same fields. The quick
/// way to read a message reads what the general way does.
pub(crate) fn envelope(body: &[u8]) {
    let text = std::str::from_utf8(body).unwrap_or_default();
    if let Some(envelope) = parse::usual(text) {
        assert_eq!(fields::read(text, false), Ok(envelope));
    }
    if let Some(envelope) = parse::usual_extended(text) {
        assert_eq!(fields::read(text, true), Ok(envelope));
    }
    meta(body, text);
    assert_eq!(Reading::ours(body), Reading::by_serde_json(body));
}

/// A message with a `meta` is the same message without it, and what is read of the `meta` is what
/// `serde_json` reads.
fn meta(body: &[u8], text: &str) {
    let (plain, extended) = (Envelope::parse(body), Envelope::parse_extended(body));
    let Ok(extended) = extended else { return assert!(plain.is_err(), "{text}") };
    let Some(json) = extended.meta() else { return assert_eq!(plain, Ok(extended), "{text}") };
    assert!(plain.is_err(), "{text}");
    let Ok(meta) = Meta::parse(json.as_str()) else { return };
    let value: serde_json::Value = serde_json::from_str(json.as_str()).expect("it is JSON");
    let number = |key: &str| value.get(key).and_then(serde_json::Value::as_u64);
    assert_eq!(meta.ttl_millis.map(u64::from), number("ttl"), "{text}");
    assert_eq!(meta.stream.map(u64::from), number("stream"), "{text}");
    assert_eq!(meta.seq, number("seq"), "{text}");
    assert_eq!(meta.end, value.get("end") == Some(&true.into()), "{text}");
    let mut written = Vec::new();
    meta.append_to(&mut written);
    let written = String::from_utf8(written).expect("it is UTF-8");
    assert_eq!(Meta::parse(&written), Ok(meta), "{text}");
}
