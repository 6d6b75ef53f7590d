//! How a server joins others over NATS.

use std::path::{Path, PathBuf};

use async_nats::ServerAddr;

use crate::proto::pattern;
use crate::setters::setters;
use crate::tls::{read_identity, read_roots};
use crate::{Error, secret_file};

/// The longest prefix. It is a part of every subject.
const PREFIX_BYTES_MAX: usize = 32;
/// A publication waits whole in the queue, and NATS lets one have 1 MiB unless it is told otherwise.
const QUEUE_BYTES_MIN: usize = 1 << 20;

/// The NATS servers by which a server reaches others, and what it shares with them, see
/// [`Server::join_nats`](crate::Server::join_nats).
///
/// ```
/// use ipc_framework::NatsOptions;
///
/// let options = NatsOptions::new(["nats://10.0.0.1", "nats://10.0.0.2:4222"])
///     .channels(["prices.>".to_owned(), "orders".to_owned()])
///     .queue_bytes(16 << 20);
/// assert_eq!(options.prefix, "ipc");
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NatsOptions {
    /// The addresses of NATS servers of one cluster, such as `nats://host:4222` or `tls://host`.
    /// The port is 4222 unless the address names one. An address may contain a name and a password,
    /// or a token, as `nats://name:password@host`; a file of credentials is better.
    pub servers: Vec<String>,
    /// A file of credentials, as the `nsc` tool makes them: a JWT and the seed of its key. It is
    /// read once, when the server joins.
    pub credentials: Option<PathBuf>,
    /// Certificates in PEM: the authorities that have signed those of the NATS servers. It turns TLS
    /// on. Without it, those of the system are trusted.
    pub ca: Option<PathBuf>,
    /// A certificate with its chain, and its private key, both in PEM, for NATS servers that ask for
    /// one. It turns TLS on.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// What all subjects begin with, `ipc` by default. Servers with different prefixes do not see
    /// each other. It consists of letters, digits, `-` and `_`.
    pub prefix: String,
    /// Patterns of the channels that are shared, in all applications. The default is `>`: all but
    /// those whose names begin with `$`.
    pub channels: Vec<String>,
    /// The bytes of publications that may wait for NATS, 64 MiB by default. What comes when the
    /// queue is full is lost, and counted.
    pub queue_bytes: usize,
}

setters! {
    NatsOptions {
        into [credentials: Option<PathBuf>]
        into [ca: Option<PathBuf>]
        into [certificate: Option<(PathBuf, PathBuf)>]
        into [prefix: String]
        into [channels: Vec<String>]
        [queue_bytes: usize]
    }
}

/// Shows no address, because it may contain a password.
impl std::fmt::Debug for NatsOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NatsOptions")
            .field("prefix", &self.prefix)
            .field("channels", &self.channels)
            .field("queue_bytes", &self.queue_bytes)
            .finish_non_exhaustive()
    }
}

impl NatsOptions {
    /// Returns the options for these addresses, with the default of everything else.
    pub fn new(servers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            servers: servers.into_iter().map(Into::into).collect(),
            credentials: None,
            ca: None,
            certificate: None,
            prefix: "ipc".to_owned(),
            channels: vec![">".to_owned()],
            queue_bytes: 64 << 20,
        }
    }

    /// Returns everything that is wrong with the options. The files are read for that, and no
    /// connection is made.
    ///
    /// ```
    /// use ipc_framework::NatsOptions;
    ///
    /// let problems = NatsOptions::new(["http://host"]).prefix("a.b").problems();
    /// assert_eq!(problems.len(), 2);
    /// assert!(problems[0].to_string().contains("begin with nats:// or tls://"));
    /// ```
    pub fn problems(&self) -> Vec<Error> {
        let mut texts = Vec::new();
        if self.servers.is_empty() {
            texts.push("no NATS server is named; give an address such as nats://host".to_owned());
        }
        texts.extend(self.servers.iter().enumerate().filter_map(|(at, server)| {
            let why = address(server).err()?;
            // The address itself may contain a password.
            Some(format!("NATS address {} {why}", at + 1))
        }));
        let is_plain = |char: char| char.is_ascii_alphanumeric() || char == '-' || char == '_';
        let is_prefix = (1..=PREFIX_BYTES_MAX).contains(&self.prefix.len())
            && self.prefix.chars().all(is_plain);
        if !is_prefix {
            texts.push(format!(
                "the NATS prefix {:?} is no prefix; give 1 to {PREFIX_BYTES_MAX} letters, digits, \
                 - or _",
                self.prefix
            ));
        }
        if self.channels.is_empty() {
            texts.push("no channel is shared over NATS; give a pattern such as >".to_owned());
        }
        texts.extend(self.channels.iter().filter_map(|channel| {
            let why = pattern::fault(channel)?;
            Some(format!("the pattern {channel:?} of channels shared over NATS is none: {why}"))
        }));
        if self.queue_bytes < QUEUE_BYTES_MIN {
            texts.push(format!(
                "{} bytes are too few for the queue to NATS; give {QUEUE_BYTES_MIN} or more",
                self.queue_bytes
            ));
        }
        let files = [
            self.credentials.as_deref().and_then(|path| credentials(path).err()),
            self.ca.as_deref().and_then(|path| read_roots(path).err()),
            self.certificate.as_ref().and_then(|(chain, key)| read_identity(chain, key).err()),
        ];
        texts.into_iter().map(Error::Config).chain(files.into_iter().flatten()).collect()
    }

    /// Returns whether TLS is asked for by more than the addresses.
    pub(super) fn asks_for_tls(&self) -> bool {
        self.ca.is_some() || self.certificate.is_some()
    }
}

/// Parses an address, or says what is wrong with it without repeating it.
pub(super) fn address(text: &str) -> Result<ServerAddr, String> {
    let parsed: ServerAddr = text
        .parse()
        .map_err(|_| "is none; addresses begin with nats:// or tls://, and name a host")?;
    match parsed.scheme() {
        "nats" | "tls" if !parsed.host().is_empty() => Ok(parsed),
        "nats" | "tls" => Err("names no host".to_owned()),
        _ => Err("asks for WebSocket; addresses begin with nats:// or tls://".to_owned()),
    }
}

/// Reads a file of credentials, and checks that both parts are in it.
pub(super) fn credentials(path: &Path) -> Result<String, Error> {
    let text = secret_file::read(path, true)?;
    let has = |what: &str| text.contains(&format!("-----BEGIN {what}-----"));
    if has("NATS USER JWT") && has("USER NKEY SEED") {
        return Ok(text);
    }
    Err(Error::Config(format!(
        "{} holds no credentials of NATS, which are a JWT and a seed; make them with `nsc generate \
         creds`",
        path.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(options: &NatsOptions) -> Vec<String> {
        options.problems().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn sound_options_have_no_problems() {
        for server in ["nats://host", "host", "host:4223", "tls://10.0.0.1:1", "nats://a:b@[::1]"] {
            assert_eq!(texts(&NatsOptions::new([server])), [""; 0], "{server}");
        }
        let options = NatsOptions::new(["a", "b"]).prefix("A-z_9").channels(["$x.*".to_owned()]);
        assert_eq!(texts(&options), [""; 0]);
    }

    #[test]
    fn each_problem_is_told_and_no_password_with_it() {
        let options = NatsOptions::new(["ws://name:s3cr3t@host", "nats://name:s3cr3t@host:x"])
            .prefix("a b")
            .channels(["a.>.b".to_owned()])
            .queue_bytes(5)
            .credentials(PathBuf::from("/nowhere/a"))
            .ca(PathBuf::from("/nowhere/b"))
            .certificate((PathBuf::from("/nowhere/c"), PathBuf::from("/nowhere/d")));
        let found = texts(&options);
        let wanted = ["WebSocket", "address 2", "prefix", "a.>.b", "queue", "/a", "/b", "/c"];
        assert_eq!(found.len(), wanted.len(), "{found:?}");
        for (found, wanted) in found.iter().zip(wanted) {
            assert!(found.contains(wanted) && !found.contains("s3cr3t"), "{found}");
        }
        assert!(!format!("{options:?}").contains("s3cr3t"));
        let nothing = NatsOptions::new([""; 0]).channels([]).prefix("");
        assert_eq!(nothing.problems().len(), 3);
        let long = NatsOptions::new(["host"]).prefix("a".repeat(PREFIX_BYTES_MAX + 1));
        assert_eq!(long.problems().len(), 1);
    }
}
