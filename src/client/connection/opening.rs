//! Connecting: the turns of the servers, and the handshake with one of them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::served::Served;
use super::sharing::Sharing;
use super::{Connection, Encoder, Wait};
use crate::client::endpoint::Endpoint;
use crate::client::error::{Error, Execution};
use crate::client::options::Options;
use crate::client::servers::{Servers, is_about_server};
use crate::client::wire::answer::{self, Welcome};
use crate::client::wire::encoder::{Heading, check_id};
use crate::client::wire::frames::front;
use crate::client::wire::read_buffer::ReadBuffer;
use crate::client::wire::socket::Socket;
#[cfg(feature = "tls")]
use crate::client::wire::tls_failure;
use crate::proto::system::{Connect, SYSTEM};
use crate::proto::{Extensions, MessageType};
use crate::token::Token;

/// The extensions that the clients speak.
const SPOKEN: Extensions = Extensions::CALL.or(Extensions::BINARY).or(Extensions::TOPIC);
/// Time that the server has for its welcome, however long connecting took.
const WELCOME_TIME_MIN: Duration = Duration::from_millis(100);

impl Options {
    /// Connects and completes the handshake. Of several servers, each gets one try, until one welcomes
    /// the client.
    ///
    /// # Errors
    /// [`Error::NoServer`] if none of several servers can be used, with the error of each; otherwise
    /// [`Error::Unreachable`] if nothing listens there, [`Error::Answered`] if the server
    /// refuses (a wrong token, no room), [`Error::Deadline`] if it does not answer,
    /// [`Error::BadId`] for an empty or too long id; with TLS, `Error::Tls` if the TLS handshake
    /// fails.
    pub fn connect(&self) -> Result<Connection, Error> {
        let mut servers = Servers::new(self)?;
        connect(self, &mut servers)
    }
}

/// Gives the servers that are left in this round their try, until one of them welcomes the client.
pub(in crate::client) fn connect(
    options: &Options,
    servers: &mut Servers,
) -> Result<Connection, Error> {
    let begin = Instant::now();
    while let Some((endpoint, share)) = servers.take() {
        let connect_timeout = if servers.has_several() {
            whole_millis(options.connect_timeout.saturating_sub(begin.elapsed()) / share)
        } else {
            options.connect_timeout
        };
        let options =
            Options { endpoint, alternatives: Vec::new(), connect_timeout, ..options.clone() };
        match Connection::open(&options) {
            Err(error) if is_about_server(&error) => {
                servers.failed(error);
            }
            done => return done,
        }
    }
    Err(servers.begin_round())
}

/// Returns a share of the time as people read it in an error.
fn whole_millis(share: Duration) -> Duration {
    let millis = share.as_millis().min(u64::MAX.into()) as u64;
    if millis == 0 { share } else { Duration::from_millis(millis) }
}

impl Connection {
    fn open(options: &Options) -> Result<Self, Error> {
        let begin = Instant::now();
        let mut encoder = Encoder::new(&options.app_id, options.frame_bytes_max)?;
        let connection_id = match &options.connection_id {
            Some(id) => check_id("connection_id", id).map(|()| id.clone())?,
            None => encoder.fresh_id().to_string(),
        };
        let unreachable =
            |source| Error::Unreachable { endpoint: options.endpoint.clone(), source };
        // A timeout that no clock can express means no timeout.
        let deadline = begin.checked_add(options.connect_timeout);
        let deadline = deadline.unwrap_or(begin + Duration::from_secs(u32::MAX.into()));
        #[cfg(feature = "tls")]
        let session = match &options.tls {
            Some(tls) => Some(
                tls.session(&options.endpoint)
                    .map_err(|what| tls_failure::of_caller(&options.endpoint, what))?,
            ),
            None => None,
        };
        #[cfg_attr(not(feature = "tls"), expect(unused_mut, reason = "TLS changes it"))]
        let mut socket = Socket::connect(&options.endpoint, deadline).map_err(unreachable)?;
        #[cfg(feature = "tls")]
        if let Some(session) = session {
            let failed = |source: std::io::Error| tls_failure::of_handshake(&source, options);
            socket.secure(session, deadline).map_err(failed)?;
        }
        // A timeout of zero would mean none.
        let timeout = options.timeout.max(Duration::from_micros(1));
        socket.set_write_timeout(timeout).map_err(Error::system("a write timeout"))?;
        let mut connection = Self {
            socket,
            encoder,
            buffer: ReadBuffer::new(options.frame_bytes_max),
            kept: VecDeque::new(),
            kept_bytes: 0,
            kept_messages_max: options.kept_messages_max,
            endpoint: options.endpoint.clone(),
            id: connection_id,
            welcome: Welcome::default(),
            timeout,
            spin: options.spin,
            has_cancelled: false,
            served: Served::default(),
            torn: false,
        };
        connection.introduce(options, deadline)?;
        let may_share = cfg!(target_os = "linux")
            && matches!(options.endpoint, Endpoint::Unix(_))
            && !connection.welcome.extensions.is_empty();
        if options.shared_memory && may_share && connection.share(deadline)? == Sharing::Failed {
            drop(connection);
            return Self::open(&Options { shared_memory: false, ..options.clone() });
        }
        Ok(connection)
    }

    fn introduce(&mut self, options: &Options, deadline: Instant) -> Result<(), Error> {
        let heading = Heading::new(MessageType::Request, SYSTEM);
        let token = options.token.as_ref().map(Token::secret);
        let connect = Connect::new(&self.id, token).extensions(SPOKEN);
        self.encoder.value(heading, &connect)?;
        match self.send() {
            // A server that refuses the connection may close it before all is sent. Its reason can
            // still be read.
            Err(error) if !matches!(error, Error::Lost { .. }) => return Err(error),
            _ => {}
        }
        // If the process was stopped until after the deadline, the server is not to blame, and gets
        // a moment for its welcome.
        let left = deadline.saturating_duration_since(Instant::now()).max(WELCOME_TIME_MIN);
        let came = self.await_frame(&mut Wait::at_most(left), Execution::Never);
        #[cfg(feature = "tls")]
        let came = came.map_err(|error| tls_failure::of_welcome(error, options));
        if !came? {
            let waited = options.connect_timeout;
            return Err(Error::deadline("the server's welcome", waited));
        }
        let envelope = front(&self.buffer, self.welcome.extensions)?;
        let frame_bytes = envelope.frame_bytes;
        let welcome = answer::check_connected(&envelope);
        self.buffer.consume(frame_bytes);
        self.welcome = welcome?;
        Ok(())
    }
}
