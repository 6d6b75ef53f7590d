use std::time::Duration;

/// Seconds since the epoch as JSON text, written once for all messages of the same
/// moment, such as those of a turn of the server's.
#[derive(Debug, Default)]
pub(crate) struct Timestamp {
    of: Duration,
    text: String,
}

impl Timestamp {
    pub(crate) fn text(&mut self, unix: Duration) -> &str {
        if self.text.is_empty() || self.of != unix {
            self.of = unix;
            self.text.clear();
            // Microseconds in six digits: those of a million more, without the one.
            self.text.push_str(itoa::Buffer::new().format(unix.as_secs()));
            self.text.push('.');
            let micros = unix.subsec_micros() + 1_000_000;
            self.text.push_str(&itoa::Buffer::new().format(micros)[1..]);
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_has_microseconds() {
        let mut timestamp = Timestamp::default();
        assert_eq!(timestamp.text(Duration::from_millis(1_500)), "1.500000");
        assert_eq!(timestamp.text(Duration::from_micros(1_000_007)), "1.000007");
    }
}
