//! Parsers of durations such as `500ms`, sizes such as `16MiB`, and modes such as `0660`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// Parses a duration with its unit; `0` and `never` mean zero.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if text == "never" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text)
        .map_err(|_| "give a number with its unit, such as 500ms, 5s or 2min".to_owned())
}

/// A timeout that can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimeoutOrNever(pub(super) Option<Duration>);

pub(super) fn timeout_or_never(text: &str) -> Result<TimeoutOrNever, String> {
    if text == "never" {
        return Ok(TimeoutOrNever(None));
    }
    match timeout(text) {
        Ok(timeout) => Ok(TimeoutOrNever(Some(timeout))),
        Err(text) => Err(format!("{text}, or say never")),
    }
}

/// Parses a number of things of which there must be one at least.
pub(super) fn count(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| *count > 0);
    count.ok_or_else(|| "give a number from 1 on".to_owned())
}

/// Parses a timeout, which must not be zero.
pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("give it some time, such as 500ms, 5s or 2min".to_owned()),
        timeout => Ok(timeout),
    }
}

/// Parses a number of bytes, with or without a unit.
pub(super) fn size(text: &str) -> Result<usize, String> {
    let parsed = text.parse::<bytesize::ByteSize>().ok();
    parsed
        .and_then(|size| usize::try_from(size.as_u64()).ok())
        .ok_or_else(|| "give a number of bytes, such as 65536, 64KiB or 16MiB".to_owned())
}

/// Parses permission bits in octal.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| "give permission bits in octal, such as 0600 or 0660".to_owned())
}

/// A value in the file, written as on the command line or as a plain number.
#[derive(Deserialize)]
#[serde(untagged, expecting = "give text in quotes, such as \"5s\" or \"16MiB\"")]
enum Written {
    Text(String),
    Number(u64),
}

fn read<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    parse: fn(&str) -> Result<T, String>,
) -> Result<Option<T>, D::Error> {
    let text = match Written::deserialize(deserializer)? {
        Written::Text(text) => text,
        Written::Number(number) => number.to_string(),
    };
    parse(&text).map(Some).map_err(de::Error::custom)
}

pub(super) fn read_duration<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    read(d, duration)
}

pub(super) fn read_timeout<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    read(d, timeout)
}

pub(super) fn read_timeout_or_never<'de, D: Deserializer<'de>>(
    d: D,
) -> Result<Option<TimeoutOrNever>, D::Error> {
    read(d, timeout_or_never)
}

pub(super) fn read_count<'de, D: Deserializer<'de>>(d: D) -> Result<Option<usize>, D::Error> {
    read(d, count)
}

pub(super) fn read_size<'de, D: Deserializer<'de>>(d: D) -> Result<Option<usize>, D::Error> {
    read(d, size)
}

pub(super) fn read_mode<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u32>, D::Error> {
    let text = String::deserialize(d)?;
    mode(&text).map(Some).map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_as_people_write_them() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2min"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("never"), Ok(Duration::ZERO));
        assert!(duration("5").is_err(), "a number without a unit means nothing");
        assert_eq!(timeout_or_never("never"), Ok(TimeoutOrNever(None)));
        assert_eq!(timeout_or_never("5s"), Ok(TimeoutOrNever(Some(Duration::from_secs(5)))));
        assert!(timeout_or_never("0").unwrap_err().ends_with("or say never"));
        assert_eq!((count("1"), count("0").is_err(), count("-1").is_err()), (Ok(1), true, true));
        assert_eq!(size("16MiB"), Ok(16 << 20));
        assert_eq!(size("65536"), Ok(65536));
        assert!(size("big").is_err());
        assert_eq!(mode("0660"), Ok(0o660));
        assert!(mode("8").is_err());
        assert!(mode("1777").is_err());
    }
}
