//! A stream of bytes taken apart into messages, for those who bring their own input.

use super::buffer_pool::BufferPool;
use super::envelope::{Envelope, EnvelopeError};
use super::fault::Fault;
use super::recv_buffer::{Inbound, Next, RecvBuffer};

/// Finds the messages in a stream of bytes that arrives in pieces of any size.
///
/// Messages that arrive in one piece are read where they lie. Only the beginning of an unfinished
/// message is copied and kept, so that a decoder never holds more than about twice of what has
/// arrived of one message, whatever its length prefix promises; between messages it holds nothing.
///
/// ```
/// use ipc_framework::proto::Decoder;
///
/// let body = br#"{"message_id":"1","app_id":"shop","channel_id":"price","message_type":"publish",
///     "payload":7,"timestamp":1.5}"#;
/// let mut stream = (body.len() as u32).to_be_bytes().to_vec();
/// stream.extend_from_slice(body);
///
/// let mut decoder = Decoder::new(16 << 20);
/// let mut prices = Vec::new();
/// for chunk in stream.chunks(10) {
///     let mut messages = decoder.decode(chunk);
///     while let Some(message) = messages.next_message() {
///         prices.push(message.unwrap().payload_str().to_owned());
///     }
/// }
/// assert_eq!(prices, ["7"]);
/// ```
#[derive(Debug)]
pub struct Decoder {
    kept: RecvBuffer,
    pool: BufferPool,
    body_bytes_max: usize,
    is_lost: bool,
}

/// Buffers that are kept for the next unfinished message.
const FREE_BYTES_MAX: usize = 64 << 10;

impl Decoder {
    /// Begins a stream. A frame whose body has more than `body_bytes_max` bytes ends it.
    pub fn new(body_bytes_max: usize) -> Self {
        Self {
            kept: RecvBuffer::default(),
            pool: BufferPool::default(),
            body_bytes_max,
            is_lost: false,
        }
    }

    /// Takes the next bytes of the stream. What is left of them when the messages are dropped is
    /// kept, and comes first in the next call: take all messages, or the decoder grows.
    pub fn decode<'a>(&'a mut self, chunk: &'a [u8]) -> Messages<'a> {
        let inbound = Inbound::new(std::mem::take(&mut self.kept), chunk);
        Messages { decoder: self, inbound, taken_bytes: 0 }
    }

    /// The bytes of the stream that have arrived and belong to no message yet that was taken.
    pub fn kept_bytes(&self) -> usize {
        self.kept.len()
    }
}

/// The messages that the bytes of one [`Decoder::decode`] complete.
#[derive(Debug)]
pub struct Messages<'a> {
    decoder: &'a mut Decoder,
    inbound: Inbound<'a>,
    /// The frame of the message that was handed out last.
    taken_bytes: usize,
}

impl Messages<'_> {
    /// The next message; `None` if its end has not arrived.
    ///
    /// # Errors
    /// If a frame holds no message: the stream goes on behind it. [`Fault::TooLarge`]: the stream
    /// cannot be followed any further, and there are no more messages.
    pub fn next_message(&mut self) -> Option<Result<Envelope<'_>, EnvelopeError<'_>>> {
        let decoder = &mut *self.decoder;
        if decoder.is_lost {
            return None;
        }
        self.inbound.consume(std::mem::take(&mut self.taken_bytes), &mut decoder.pool);
        match self.inbound.peek(decoder.body_bytes_max, &mut decoder.pool) {
            Next::Nothing => None,
            Next::Frame { body, frame_bytes } => {
                self.taken_bytes = frame_bytes;
                Some(Envelope::parse(body))
            }
            Next::TooLarge { body_bytes } => {
                decoder.is_lost = true;
                let body_bytes_max = decoder.body_bytes_max;
                let fault = Fault::TooLarge { body_bytes, body_bytes_max };
                Some(Err(EnvelopeError::unreadable(fault)))
            }
        }
    }
}

impl Drop for Messages<'_> {
    fn drop(&mut self) {
        let decoder = &mut *self.decoder;
        self.inbound.consume(self.taken_bytes, &mut decoder.pool);
        let inbound =
            std::mem::replace(&mut self.inbound, Inbound::new(RecvBuffer::default(), &[]));
        decoder.kept = inbound.finish(&mut decoder.pool);
        if decoder.is_lost {
            decoder.kept.release(&mut decoder.pool);
        }
        if decoder.pool.free_bytes() > FREE_BYTES_MAX {
            decoder.pool.trim();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::ErrorCode;
    use crate::proto::scanner::tests::cases;

    fn frame(payload: &str) -> Vec<u8> {
        let body = format!(
            "{{\"message_id\":\"1\",\"app_id\":\"a\",\"channel_id\":\"c\",\
             \"message_type\":\"publish\",\"payload\":{payload},\"timestamp\":0}}"
        );
        [&(body.len() as u32).to_be_bytes(), body.as_bytes()].concat()
    }

    /// The payloads of all messages, or the codes of those that are none.
    fn decoded<'a>(
        decoder: &mut Decoder,
        chunks: impl IntoIterator<Item = &'a [u8]>,
    ) -> Vec<String> {
        let mut found = Vec::new();
        for chunk in chunks {
            let mut messages = decoder.decode(chunk);
            while let Some(message) = messages.next_message() {
                found.push(match message {
                    Ok(envelope) => envelope.payload_str().to_owned(),
                    Err(error) => error.fault.code().to_string(),
                });
            }
        }
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(cases(256)))]

        #[test]
        fn a_stream_is_the_same_messages_however_it_arrives(
            lengths in prop::collection::vec(0_usize..9_000, 0..12),
            chunk_bytes in 1_usize..9_000,
        ) {
            let payloads: Vec<_> =
                lengths.iter().map(|length| format!("\"{}\"", "x".repeat(*length))).collect();
            let stream: Vec<u8> = payloads.iter().flat_map(|payload| frame(payload)).collect();
            let mut decoder = Decoder::new(1 << 20);
            prop_assert_eq!(decoded(&mut decoder, stream.chunks(chunk_bytes)), payloads);
            prop_assert_eq!(decoder.kept_bytes(), 0);
            prop_assert_eq!(decoder.pool.gauge().bytes(), 0);
        }
    }

    #[test]
    fn what_is_no_message_does_not_end_the_stream() {
        let stream = [frame("1"), b"\0\0\0\x02[]".to_vec(), frame("2")].concat();
        let mut decoder = Decoder::new(1 << 20);
        assert_eq!(decoded(&mut decoder, [&*stream]), ["1", "bad_frame", "2"]);
    }

    #[test]
    fn a_frame_that_is_too_large_ends_the_stream() {
        let large = frame(&format!("\"{}\"", "x".repeat(100)));
        let stream = [frame("1"), large, frame("2")].concat();
        let mut decoder = Decoder::new(150);
        assert_eq!(decoded(&mut decoder, [&*stream]), ["1", "frame_too_large"]);
        assert_eq!(decoded(&mut decoder, [&*frame("3")]), [""; 0]);
        assert_eq!((decoder.kept_bytes(), decoder.pool.gauge().bytes()), (0, 0));

        let mut messages = Decoder::new(10);
        let mut messages = messages.decode(&[0, 0, 0, 11]);
        let error = messages.next_message().unwrap().unwrap_err();
        assert_eq!(error.fault, Fault::TooLarge { body_bytes: 11, body_bytes_max: 10 });
        assert_eq!(error.fault.code(), ErrorCode::FrameTooLarge);
        assert!(error.to_string().contains("11 bytes"));
    }

    #[test]
    fn messages_that_are_not_taken_come_first_later() {
        let stream = [frame("1"), frame("2"), frame("3")].concat();
        let mut decoder = Decoder::new(1 << 20);
        let mut messages = decoder.decode(&stream);
        assert_eq!(messages.next_message().unwrap().unwrap().payload_str(), "1");
        drop(messages);
        assert_eq!(decoder.kept_bytes(), 2 * frame("2").len());
        assert_eq!(decoded(&mut decoder, [&*frame("4")]), ["2", "3", "4"]);
    }

    #[test]
    fn a_promise_of_length_takes_no_memory_and_a_large_message_leaves_none() {
        let mut decoder = Decoder::new(16 << 20);
        assert_eq!(decoded(&mut decoder, [&[0, 0xff, 0xff, 0xff, b'x'][..]]), [""; 0]);
        assert!(decoder.pool.gauge().bytes() <= 4 << 10);

        let payload = format!("\"{}\"", "x".repeat(3 << 20));
        let mut decoder = Decoder::new(16 << 20);
        assert_eq!(decoded(&mut decoder, frame(&payload).chunks(60_000)), [payload]);
        assert!(decoder.pool.free_bytes() <= FREE_BYTES_MAX);
    }
}
