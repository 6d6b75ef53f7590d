//! What a server is built from.

use std::path::PathBuf;
use std::time::Duration;

use ipc_framework::{Config, Limits, Spin, Token, UnixSocket};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Keywords as `FrameworkServer` passes them on.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(super) struct Options {
    host: Option<String>,
    port: u16,
    unix: Option<PathBuf>,
    unix_mode: u32,
    token: Option<String>,
    tokens: std::collections::HashMap<String, String>,
    insecure: bool,
    /// Seconds awake after work; infinite: always; `None`: the default of the machine.
    spin: Option<f64>,
    max_connections: usize,
}

impl Options {
    pub(super) fn config(self, limits: &Bound<'_, PyDict>) -> PyResult<Config> {
        let mut config = Config { host: self.host, port: self.port, ..Config::default() };
        config.unix = self.unix.map(|path| UnixSocket { path, mode: self.unix_mode });
        config.access.default = self.token.map(Token::new);
        let tokens = self.tokens.into_iter();
        config.access.applications = tokens.map(|(id, token)| (id, Token::new(token))).collect();
        config.insecure = self.insecure;
        config.spin = match self.spin {
            None => config.spin,
            Some(seconds) if seconds == f64::INFINITY => Spin::Always,
            Some(0.0) => Spin::Never,
            Some(seconds) => Spin::AfterWork(duration("spin", seconds)?),
        };
        config.limits.connections_max = self.max_connections;
        for (name, value) in limits {
            set_limit(&mut config.limits, &name.extract::<String>()?, &value)?;
        }
        Ok(config)
    }
}

fn set_limit(limits: &mut Limits, name: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
    let seconds = || value.extract().and_then(|seconds| duration(name, seconds));
    let count = || value.extract::<usize>();
    match name {
        "frame_bytes_max" => limits.frame_bytes_max = count()?,
        "handshake_timeout" => limits.handshake_timeout = seconds()?,
        "idle_timeout" => {
            limits.idle_timeout = if value.is_none() { None } else { Some(seconds()?) };
        }
        "request_timeout" => limits.request_timeout = seconds()?,
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
    Duration::try_from_secs_f64(seconds).map_err(|_| {
        PyValueError::new_err(format!("{name} is a number of seconds from 0 on, not {seconds}"))
    })
}
