//! Parsers of numbers, durations such as `500ms`, sizes such as `16MiB`, and modes such as `0660`. Their
//! errors say what is expected, because the standard library's only say what is wrong.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

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

/// Returns a parser of whole numbers in this range.
pub(super) fn number<T: FromStr + PartialOrd + Display>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone
where
    RangeInclusive<T>: Clone,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("give a number from {} to {}", range.start(), range.end()))
    }
}

/// Returns a parser of whole numbers from `first` on.
pub(super) fn at_least<T: FromStr + PartialOrd + Display + Clone>(
    first: T,
) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|number| *number >= first);
        number.ok_or_else(|| format!("give a number from {first} on"))
    }
}

/// Parses a number of things of which there must be one at least.
pub(super) fn count(text: &str) -> Result<usize, String> {
    at_least(1)(text)
}

/// Parses a number of things of which there may be none.
pub(super) fn count_or_none(text: &str) -> Result<usize, String> {
    if text == "none" { Ok(0) } else { count(text).map_err(|text| format!("{text}, or say none")) }
}

/// Parses the number of a user or group.
pub(super) fn user(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "give its number, which `id NAME` prints".to_owned())
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
    read_number(d, count)
}

pub(super) fn read_count_or_none<'de, D: Deserializer<'de>>(
    d: D,
) -> Result<Option<usize>, D::Error> {
    read_number(d, count_or_none)
}

fn read_number<'de, D: Deserializer<'de>>(
    d: D,
    parse: fn(&str) -> Result<usize, String>,
) -> Result<Option<usize>, D::Error> {
    match toml::Value::deserialize(d)? {
        toml::Value::String(text) => parse(&text),
        toml::Value::Integer(number) => parse(&number.to_string()),
        _ => parse(""),
    }
    .map(Some)
    .map_err(de::Error::custom)
}

pub(super) fn read_size<'de, D: Deserializer<'de>>(d: D) -> Result<Option<usize>, D::Error> {
    read(d, size)
}

pub(super) fn read_mode<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u32>, D::Error> {
    let text = String::deserialize(d)?;
    mode(&text).map(Some).map_err(de::Error::custom)
}

/// Displays seconds for people, in whole ones.
pub(super) fn shown_seconds(seconds: f64) -> String {
    let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    humantime::format_duration(Duration::from_secs(time.as_secs())).to_string()
}

/// Displays how long ago a moment was, given in seconds since 1970.
pub(super) fn shown_age(now: SystemTime, unix_seconds: f64) -> String {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{} ago", shown_seconds(now.as_secs_f64() - unix_seconds))
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
        assert_eq!(number(1_u16..=9)("9"), Ok(9));
        for wrong in ["0", "10", "", "-1", "1.5", "many"] {
            assert_eq!(number(1_u16..=9)(wrong).unwrap_err(), "give a number from 1 to 9");
        }
        assert_eq!(at_least(0_u16)("65536").unwrap_err(), "give a number from 0 on");
        assert_eq!((user("0"), user("root").is_err()), (Ok(0), true));
        assert_eq!(size("16MiB"), Ok(16 << 20));
        assert_eq!(size("65536"), Ok(65536));
        assert!(size("big").is_err());
        assert_eq!(mode("0660"), Ok(0o660));
        assert!(mode("8").is_err());
        assert!(mode("1777").is_err());
    }
}
