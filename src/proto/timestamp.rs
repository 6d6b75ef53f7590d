use std::time::Duration;

/// Writes seconds since the epoch as JSON text. Between two messages of the same second only the
/// six digits behind the point are written anew, and nothing between two of the same turn.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timestamp {
    of: Duration,
    text: TimeText,
}

/// Seconds with six digits behind the point.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TimeText {
    bytes: [u8; TEXT_BYTES_MAX],
    length: u8,
}

const SECONDS_BYTES_MAX: usize = 20;
const TEXT_BYTES_MAX: usize = SECONDS_BYTES_MAX + 1 + MICROS_DIGITS;
const MICROS_DIGITS: usize = 6;

impl TimeText {
    #[inline]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl Timestamp {
    #[inline]
    pub(crate) fn text(&mut self, unix: Duration) -> TimeText {
        if self.of != unix || self.text.length == 0 {
            self.write(unix);
        }
        self.text
    }

    fn write(&mut self, unix: Duration) {
        if self.of.as_secs() != unix.as_secs() || self.text.length == 0 {
            let mut seconds = itoa::Buffer::new();
            let seconds = seconds.format(unix.as_secs()).as_bytes();
            self.text.bytes[..seconds.len()].copy_from_slice(seconds);
            self.text.bytes[seconds.len()] = b'.';
            self.text.length = (seconds.len() + 1 + MICROS_DIGITS) as u8;
        }
        self.of = unix;
        let end = usize::from(self.text.length);
        if let Some(digits) = self.text.bytes[..end].last_chunk_mut() {
            *digits = micros_digits(unix.subsec_micros());
        }
    }
}

/// The six digits of a number of microseconds below a second.
#[inline]
fn micros_digits(micros: u32) -> [u8; MICROS_DIGITS] {
    let pair = |number: u32| PAIRS[number as usize % PAIRS.len()];
    let (first, second, third) = (pair(micros / 10_000), pair(micros / 100), pair(micros));
    [first[0], first[1], second[0], second[1], third[0], third[1]]
}

/// The numbers below a hundred in two digits.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let mut number = 0;
    while number < pairs.len() {
        pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    pairs
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_has_microseconds() {
        let mut timestamp = Timestamp::default();
        for (unix, text) in [
            (Duration::ZERO, "0.000000"),
            (Duration::from_millis(1_500), "1.500000"),
            (Duration::from_micros(1_000_007), "1.000007"),
            (Duration::from_micros(1_999_999), "1.999999"),
            (Duration::from_secs(10), "10.000000"),
            (Duration::from_micros(9_123_456), "9.123456"),
            (Duration::from_nanos(1_764_422_345_123_456_999), "1764422345.123456"),
            (Duration::MAX, "18446744073709551615.999999"),
        ] {
            assert_eq!(timestamp.text(unix).as_bytes(), text.as_bytes());
            assert_eq!(timestamp.text(unix).as_bytes(), text.as_bytes());
        }
    }
}
