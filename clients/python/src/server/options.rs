//! The options of a server.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use ipc_framework::{Config, HistoryRule, Limits, Spin, Token, UnixSocket};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::errors;

/// Reads the keywords of `FrameworkServer`. Returns the configuration, the number of threads, and how
/// many messages may wait for them.
pub(super) fn read(
    options: &Bound<'_, PyDict>,
    limits: &Bound<'_, PyDict>,
) -> PyResult<(Config, usize, usize)> {
    let py = options.py();
    // This is the published server's error for a wrong address.
    let cannot_start = |error: PyErr| {
        errors::connection(py, &format!("Failed to start server: {}", error.value(py)))
    };
    let mut config = Config::default();
    let host: Option<String> =
        option(options, "host", "a name or an address").map_err(cannot_start)?;
    // Sockets of Python treat an empty host like this.
    config.host = host.map(|host| if host.is_empty() { "0.0.0.0".to_owned() } else { host });
    config.port = option(options, "port", "a number from 0 to 65535").map_err(cannot_start)?;
    let mode = option(options, "unix_mode", "a file mode such as 0o600")?;
    let unix: Option<PathBuf> = option(options, "unix", "a path")?;
    config.unix = unix.map(|path| UnixSocket::at(path).mode(mode));
    let token: Option<String> = option(options, "token", "a string")?;
    config.access.default = token.map(secret).transpose()?;
    let tokens: HashMap<String, String> =
        option(options, "tokens", "a dictionary of strings by application")?;
    for (id, token) in tokens {
        config.access.applications.insert(id, secret(token)?);
    }
    config.insecure = option(options, "insecure", "a bool")?;
    config.spin = match option(options, "spin", SECONDS)? {
        None => config.spin,
        Some(f64::INFINITY) => Spin::Always,
        Some(0.0) => Spin::Never,
        Some(seconds) => Spin::AfterWork(duration("spin", seconds)?),
    };
    config.limits.connections_max = option(options, "max_connections", "a number from 1 on")?;
    if config.limits.connections_max == 0 {
        return Err(PyValueError::new_err("max_connections is a number from 1 on, not 0"));
    }
    for (name, value) in limits {
        set_limit(&mut config.limits, &name.extract::<String>()?, &value)?;
    }
    let retained_max: Option<usize> = option(options, "retained_max", "a number of bytes")?;
    if let Some(retained_max) = retained_max {
        config.limits.retained_bytes_max = retained_max;
    }
    let histories: Bound<'_, PyList> = option(options, "histories", "a list of dictionaries")?;
    config.limits.histories = histories.iter().map(|one| history(&one)).collect::<PyResult<_>>()?;
    let queue_max = option(options, "queue_max", "a number from 1 on")?;
    if queue_max == 0 {
        return Err(PyValueError::new_err("queue_max is a number from 1 on, not 0"));
    }
    Ok((config, option(options, "workers", COUNT)?, queue_max))
}

const SECONDS: &str = "a number of seconds from 0 on";
const COUNT: &str = "a number from 0 on";

/// Refuses an empty token, such as an unset environment variable, because it would keep nobody out.
fn secret(token: String) -> PyResult<Token> {
    if token.is_empty() {
        return Err(PyValueError::new_err(
            "the token is empty; give one, or None for a server that asks for none",
        ));
    }
    Ok(Token::new(token))
}

fn option<'py, T>(options: &Bound<'py, PyDict>, name: &str, what: &str) -> PyResult<T>
where
    T: for<'a> FromPyObject<'a, 'py>,
{
    extract(name, &options.as_any().get_item(name)?, what)
}

fn extract<'py, T>(name: &str, value: &Bound<'py, PyAny>, what: &str) -> PyResult<T>
where
    T: for<'a> FromPyObject<'a, 'py>,
{
    value.extract().map_err(|_| {
        // For a secret the error shows only the type.
        let given =
            if name.starts_with("token") { value.get_type().into_any() } else { value.clone() };
        PyTypeError::new_err(format!("{name} is {what}, not {given:?}"))
    })
}

const AGE: &str = "age of a history";

/// Reads one of the dictionaries of `histories`.
fn history(given: &Bound<'_, PyAny>) -> PyResult<HistoryRule> {
    let given = given.cast::<PyDict>().map_err(|_| {
        PyTypeError::new_err(format!(
            "a history is a dictionary with app and channel, not {given:?}"
        ))
    })?;
    let named = |name: &str, what: &str| -> PyResult<String> {
        let value = given.get_item(name)?.ok_or_else(|| {
            PyTypeError::new_err(format!("the history {given:?} lacks {name}, which is {what}"))
        })?;
        extract(&format!("{name} of a history"), &value, what)
    };
    let rule = HistoryRule::new(
        named("app", "the id of an application")?,
        named("channel", "the id of a channel, or a pattern")?,
    );
    given.iter().try_fold(rule, |rule, (name, value)| {
        Ok(match name.extract::<String>()?.as_str() {
            "app" | "channel" => rule,
            "messages" => {
                rule.messages(extract("messages of a history", &value, "a number from 1 on")?)
            }
            "bytes" => rule.bytes(extract("bytes of a history", &value, "a number from 1 on")?),
            "age" if value.is_none() => rule.age(None),
            "age" => rule.age(duration(AGE, extract(AGE, &value, SECONDS)?)?),
            unknown => {
                return Err(PyTypeError::new_err(format!(
                    "a history has no {unknown:?}; it has app, channel, messages, bytes and age"
                )));
            }
        })
    })
}

fn set_limit(limits: &mut Limits, name: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
    let seconds = || extract(name, value, SECONDS).and_then(|seconds| duration(name, seconds));
    let count = || extract::<usize>(name, value, COUNT);
    match name {
        "frame_bytes_max" => limits.frame_bytes_max = count()?,
        "handshake_timeout" => limits.handshake_timeout = seconds()?,
        "idle_timeout" => {
            limits.idle_timeout = if value.is_none() { None } else { Some(seconds()?) };
        }
        "request_timeout" => {
            limits.request_timeout = if value.is_none() { None } else { Some(seconds()?) };
        }
        "queue_high_water_bytes" => limits.queue_high_water_bytes = count()?,
        "slow_consumer_grace" => limits.slow_consumer_grace = seconds()?,
        "memory_bytes_max" => limits.memory_bytes_max = count()?,
        "channels_max" => limits.channels_max = count()?,
        "channels_per_connection_max" => limits.channels_per_connection_max = count()?,
        "subscriptions_per_connection_max" => limits.subscriptions_per_connection_max = count()?,
        "services_per_connection_max" => limits.services_per_connection_max = count()?,
        "pending_per_connection_max" => limits.pending_per_connection_max = count()?,
        "pending_max" => limits.pending_max = count()?,
        "drain_timeout" => limits.drain_timeout = seconds()?,
        unknown => {
            return Err(PyTypeError::new_err(format!(
                "there is no limit {unknown:?}; the class Limits of ipc_framework.server lists \
                 them all"
            )));
        }
    }
    Ok(())
}

fn duration(name: &str, seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| PyValueError::new_err(format!("{name} is {SECONDS}, not {seconds}")))
}
