//! Several connections that are used as one.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chacha20::ChaCha8Rng;
use chacha20::rand_core::SeedableRng;
use serde::de::DeserializeOwned;

use super::client::Client;
use super::client_options::ClientOptions;
use super::error::Error;
use super::payload::Payload;
use super::publish_options::PublishOptions;
use super::reconnect::Reconnect;
use super::request_options::RequestOptions;
use super::request_stream::RequestStream;
use crate::proto::Message;
use crate::proto::position::Position;

/// A bounded set of [`Client`]s, for programs whose requests would wait for each other on a single
/// connection. Clones share it.
///
/// The pool begins with one connection, and adds another when all of them wait for answers, up to
/// its bound. A message is sent by the connection with the fewest requests in flight. Each
/// connection reconnects by itself and is checked by heartbeats, as the [`ClientOptions`] say;
/// meanwhile the others are preferred. A client that has ended for good is replaced, at the pauses
/// of [`ClientOptions::reconnect`]: if it had not served anything, or the pool could not connect,
/// the pool pauses before its next attempt. If no client is left during a pause, calls fail at once
/// with the error of the last attempt, or with [`Error::Disconnected`].
///
/// # Order
/// Messages sent through the pool may overtake each other, even those of one thread, because they
/// use different connections. If the order matters, take one [`client`](Self::client) and keep it;
/// subscriptions and served channels belong to such a client too.
///
/// ```
/// use ipc_framework::client::{ClientOptions, Endpoint, Pool};
/// use ipc_framework::{Config, Server};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let mut server = Server::bind(Config::default().port(0))?;
/// # server.application("app", "App").channel("echo").on_request(|request| {
/// #     let payload = request.json();
/// #     request.reply_json(&payload)
/// # });
/// # let port = server.addresses()[0].port().unwrap();
/// # let handle = server.handle();
/// # let running = std::thread::spawn(move || server.run());
/// let mut options = ClientOptions::new("app");
/// options.connection.endpoint = Endpoint::tcp("localhost", port);
/// let pool = Pool::connect(&options, 4)?;
/// assert_eq!(pool.request("echo", &"hello")?.payload.as_str(), "\"hello\"");
/// assert_eq!(pool.connections(), 1); // nobody had to wait
/// pool.close()?;
/// # handle.stop();
/// # running.join().unwrap()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Pool {
    inside: Arc<Inside>,
}

#[derive(Debug)]
struct Inside {
    options: ClientOptions,
    connections_max: usize,
    members: Mutex<Members>,
    /// Notified when a caller that was connecting is done, and when the pool is closed.
    has_grown: Condvar,
}

#[derive(Debug)]
struct Members {
    clients: Vec<Client>,
    /// A caller is connecting. Until that is done, others use the existing connections.
    is_growing: bool,
    is_closed: bool,
    /// The number of clients made so far, from which ids are numbered.
    made: usize,
    backoff: Backoff,
}

/// The pause after attempts that failed, and after clients that ended without having served
/// anything.
#[derive(Debug)]
struct Backoff {
    reconnect: Reconnect,
    random: ChaCha8Rng,
    failures: u32,
    until: Option<Instant>,
    /// The error of the last attempt, if that failed.
    error: Option<Error>,
}

impl Backoff {
    fn new(options: &ClientOptions) -> Result<Self, Error> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)
            .map_err(|error| Error::system("random bytes")(std::io::Error::other(error)))?;
        Ok(Self {
            reconnect: options.reconnect.unwrap_or_default(),
            random: ChaCha8Rng::from_seed(seed),
            failures: 0,
            until: None,
            error: None,
        })
    }

    fn is_over(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| until <= now)
    }

    fn begin(&mut self, now: Instant, error: Option<Error>) {
        let is_old = self.until.is_some_and(|until| now > until + self.reconnect.pause_max);
        let failures = if is_old { 0 } else { self.failures };
        let pause = self.reconnect.pause(failures, &mut self.random);
        self.failures = failures.saturating_add(1);
        self.until = now.checked_add(pause).or(self.until);
        self.error = error;
    }

    fn end(&mut self) {
        self.failures = 0;
        self.until = None;
        self.error = None;
    }

    /// Returns the error for a caller who comes during the pause.
    fn error(&self) -> Error {
        self.error.as_ref().map_or(Error::Disconnected, Error::repeated)
    }
}

impl Members {
    /// Removes the clients that have ended for good.
    fn remove_ended(&mut self, now: Instant) {
        let backoff = &mut self.backoff;
        self.clients.retain(|client| {
            let ended = client.ended_after_failures();
            match ended {
                None => {}
                Some(0) => backoff.end(),
                Some(_) => backoff.begin(now, None),
            }
            ended.is_none()
        });
    }
}

impl Pool {
    /// Makes the first of at most `connections_max` connections. If the options have a
    /// `connection_id`, each connection appends its number to it, because an id belongs to one
    /// connection.
    ///
    /// # Errors
    /// As [`ClientOptions::connect`].
    pub fn connect(options: &ClientOptions, connections_max: usize) -> Result<Self, Error> {
        let members = Members {
            clients: Vec::new(),
            is_growing: false,
            is_closed: false,
            made: 1,
            backoff: Backoff::new(options)?,
        };
        let inside = Inside {
            options: options.clone(),
            connections_max: connections_max.max(1),
            members: Mutex::new(members),
            has_grown: Condvar::new(),
        };
        let pool = Self { inside: Arc::new(inside) };
        let first = pool.make(0)?;
        pool.members().clients.push(first);
        Ok(pool)
    }

    /// Returns the client for the next message: the one with the fewest requests in flight, or a
    /// new one if all are busy and the bound allows it. The caller may keep it.
    ///
    /// # Errors
    /// [`Error::Closed`] after [`close`](Self::close); as [`ClientOptions::connect`], or
    /// [`Error::Disconnected`], if no client is left and a new one cannot connect or is not due.
    pub fn client(&self) -> Result<Client, Error> {
        let mut members = self.members();
        let best = loop {
            if members.is_closed {
                return Err(Error::Closed);
            }
            let now = Instant::now();
            members.remove_ended(now);
            let best = members.clients.iter().min_by_key(|client| client.load()).cloned();
            let is_idle = best.as_ref().is_some_and(|client| client.load() == (false, 0));
            let has_room = members.clients.len() < self.inside.connections_max;
            let may_grow = has_room && !members.is_growing && members.backoff.is_over(now);
            match best {
                Some(best) if is_idle || !may_grow => return Ok(best),
                // Several callers would connect more often than the bound allows.
                None if members.is_growing => members = self.wait_for_growth(members),
                None if !may_grow => return Err(members.backoff.error()),
                best => break best,
            }
        };
        members.is_growing = true;
        let number = members.made;
        members.made += 1;
        drop(members);
        let made = self.make(number);
        let mut members = self.members();
        members.is_growing = false;
        self.inside.has_grown.notify_all();
        match made {
            Ok(client) if members.is_closed => {
                drop(members);
                client.close()?;
                Err(Error::Closed)
            }
            Ok(client) => {
                members.clients.push(client.clone());
                Ok(client)
            }
            Err(error) => {
                members.backoff.begin(Instant::now(), Some(error.repeated()));
                // Without a new connection the existing ones have to do.
                best.ok_or(error)
            }
        }
    }

    fn wait_for_growth<'a>(&self, members: MutexGuard<'a, Members>) -> MutexGuard<'a, Members> {
        self.inside.has_grown.wait(members).unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Client::request`].
    ///
    /// # Errors
    /// As [`Client::request`] and [`client`](Self::client).
    pub fn request<T: Payload + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
    ) -> Result<Message, Error> {
        self.client()?.request(channel_id, payload)
    }

    /// As [`Client::request_as`].
    ///
    /// # Errors
    /// As [`Client::request_as`] and [`client`](Self::client).
    pub fn request_as<R: DeserializeOwned, T: Payload + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
    ) -> Result<R, Error> {
        self.client()?.request_as(channel_id, payload)
    }

    /// As [`Client::send_request`].
    ///
    /// # Errors
    /// As [`Client::send_request`] and [`client`](Self::client).
    pub fn send_request<T: Payload + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
        timeout: Duration,
    ) -> Result<Message, Error> {
        self.client()?.send_request(channel_id, payload, timeout)
    }

    /// As [`Client::request_with`].
    ///
    /// # Errors
    /// As [`Client::request_with`] and [`client`](Self::client).
    pub fn request_with<T: Payload + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
        options: &RequestOptions,
    ) -> Result<Message, Error> {
        self.client()?.request_with(channel_id, payload, options)
    }

    /// As [`Client::request_stream_with`].
    ///
    /// # Errors
    /// As [`Client::request_stream_with`] and [`client`](Self::client).
    pub fn request_stream_with<T: Payload + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
        options: &RequestOptions,
    ) -> Result<RequestStream, Error> {
        self.client()?.request_stream_with(channel_id, payload, options)
    }

    /// As [`Client::publish`].
    ///
    /// # Errors
    /// As [`Client::publish`] and [`client`](Self::client).
    pub fn publish<T: Payload + ?Sized>(&self, channel_id: &str, payload: &T) -> Result<(), Error> {
        self.client()?.publish(channel_id, payload)
    }

    /// As [`Client::publish_with`].
    ///
    /// # Errors
    /// As [`Client::publish_with`] and [`client`](Self::client).
    pub fn publish_with<T: Payload + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
        options: &PublishOptions,
    ) -> Result<(), Error> {
        self.client()?.publish_with(channel_id, payload, options)
    }

    /// As [`Client::publish_acknowledged_with`].
    ///
    /// # Errors
    /// As [`Client::publish_acknowledged_with`] and [`client`](Self::client).
    pub fn publish_acknowledged_with<T: Payload + ?Sized>(
        &self,
        channel_id: &str,
        payload: &T,
        options: &PublishOptions,
    ) -> Result<Option<Position>, Error> {
        self.client()?.publish_acknowledged_with(channel_id, payload, options)
    }

    /// As [`Client::notify`].
    ///
    /// # Errors
    /// As [`Client::notify`] and [`client`](Self::client).
    pub fn notify<T: Payload + ?Sized>(&self, channel_id: &str, payload: &T) -> Result<(), Error> {
        self.client()?.notify(channel_id, payload)
    }

    /// Returns the number of connections.
    pub fn connections(&self) -> usize {
        self.members().clients.len()
    }

    /// Drains and closes all connections, see [`Client::close`].
    ///
    /// # Errors
    /// The first error of [`Client::close`]; the others are closed all the same.
    /// [`Error::OnClientThread`] in a handler of one of the clients; then nothing is done.
    pub fn close(&self) -> Result<(), Error> {
        let mut members = self.members();
        if members.clients.iter().any(Client::is_own_thread) {
            return Err(Error::OnClientThread);
        }
        members.is_closed = true;
        let clients = std::mem::take(&mut members.clients);
        drop(members);
        self.inside.has_grown.notify_all();
        let mut closed = Ok(());
        for client in clients {
            closed = closed.and(client.close());
        }
        closed
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.inside.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self, number: usize) -> Result<Client, Error> {
        let mut options = self.inside.options.clone();
        if let Some(id) = &mut options.connection.connection_id {
            *id = format!("{id}-{number}");
        }
        options.connect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_long_ago_do_not_count() {
        let (soon, late) = (Duration::from_millis(10), Duration::from_secs(2));
        let mut options = ClientOptions::new("app");
        options.reconnect = Some(Reconnect::new(soon, late));
        let mut backoff = Backoff::new(&options).unwrap();
        let mut now = Instant::now();
        for count in 1..20 {
            backoff.begin(now, Some(Error::Closed));
            assert_eq!(backoff.failures, count);
            now = backoff.until.unwrap();
            assert!(backoff.is_over(now));
        }
        now += late;
        backoff.begin(now, None);
        assert_eq!(backoff.failures, 20, "the next one came as soon as it may");
        now = backoff.until.unwrap() + late + soon;
        backoff.begin(now, None);
        assert_eq!(backoff.failures, 1);
        assert!(backoff.until.unwrap() <= now + soon);
        backoff.end();
        assert!(backoff.failures == 0 && backoff.is_over(now));
    }
}
