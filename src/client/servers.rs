//! The servers that a client may use, and the turn of each.

use std::net::Ipv6Addr;

use chacha20::ChaCha8Rng;
use chacha20::rand_core::{Rng, SeedableRng};

use super::endpoint::{AddressOrder, Endpoint};
use super::error::Error;
use super::options::Options;

impl Endpoint {
    /// Reads addresses of TCP with commas between them. One that names no port has `port`.
    ///
    /// ```
    /// use ipc_framework::client::{Endpoint, Options};
    ///
    /// # fn main() -> Result<(), ipc_framework::client::Error> {
    /// let mut servers = Endpoint::list("one.example, two.example:9000, [::1]:9000, ::1", 8888)?;
    /// assert_eq!(servers[1], Endpoint::tcp("two.example", 9000));
    /// assert_eq!(servers[3], Endpoint::tcp("::1", 8888));
    ///
    /// let mut options = Options::new("app");
    /// options.endpoint = servers.remove(0);
    /// options.alternatives = servers;
    ///
    /// let error = Endpoint::list("one.example,,two.example", 8888).unwrap_err();
    /// assert!(error.to_string().contains("empty"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::BadAddresses`] for an empty address, a port that is none, and an address of IPv6 with a port and
    /// without brackets.
    pub fn list(addresses: &str, port: u16) -> Result<Vec<Self>, Error> {
        addresses.split(',').map(|address| one(address.trim(), port)).collect()
    }
}

fn bad(what: impl Into<String>) -> Error {
    Error::BadAddresses { what: what.into() }
}

fn one(address: &str, port: u16) -> Result<Endpoint, Error> {
    let malformed = || {
        bad(format!(
            "{address:?} is no address; give a host, or host:port, with brackets around an address of IPv6 \
             that has a port, as in [::1]:8888"
        ))
    };
    if address.is_empty() {
        return Err(bad("an address is empty; give a host or host:port between two commas"));
    }
    if address.starts_with(['/', '.']) {
        return Err(bad(format!(
            "{address:?} is the path of a Unix socket and no host; hosts and Unix sockets cannot be mixed"
        )));
    }
    if address.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
        return Err(malformed());
    }
    let is_v6 =
        |text: &str| text.split('%').next().is_some_and(|text| text.parse::<Ipv6Addr>().is_ok());
    if is_v6(address) {
        return Ok(Endpoint::tcp(address, port));
    }
    let (host, given) = if let Some(rest) = address.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(malformed)?;
        if !is_v6(host) {
            return Err(malformed());
        }
        match rest {
            "" => (host, None),
            rest => (host, Some(rest.strip_prefix(':').ok_or_else(malformed)?)),
        }
    } else {
        match address.split_once(':') {
            None => (address, None),
            Some((host, given)) => (host, Some(given)),
        }
    };
    if host.is_empty() || given.is_some_and(|given| given.contains(':')) {
        return Err(malformed());
    }
    // `parse` takes a sign, too.
    let is_number = |given: &&str| given.bytes().all(|digit| digit.is_ascii_digit());
    let port = match given {
        None => port,
        Some(given) => {
            let number = Some(given).filter(is_number).and_then(|given| given.parse().ok());
            number.filter(|port| *port != 0).ok_or_else(|| {
                bad(format!("the port of {address:?} is none; give a number from 1 to 65535"))
            })?
        }
    };
    Ok(Endpoint::tcp(host, port))
}

/// The servers in the order of their turns. In a round each of them gets one try, and then the client
/// pauses. A connection that was of use begins a new round.
#[derive(Debug)]
pub(super) struct Servers {
    ring: Vec<Endpoint>,
    next: usize,
    /// The servers that have not had their try in this round.
    left: usize,
    /// The server that has its try, or the connection.
    current: Option<Endpoint>,
    /// The failures of this round.
    failures: Vec<(Endpoint, Error)>,
}

impl Servers {
    pub(super) fn new(options: &Options) -> Result<Self, Error> {
        let mut ring = vec![options.endpoint.clone()];
        let is_unix = |endpoint: &Endpoint| matches!(endpoint, Endpoint::Unix(_));
        for endpoint in &options.alternatives {
            if ring.contains(endpoint) {
                return Err(bad(format!("{endpoint} is there twice; name each server once")));
            }
            if is_unix(endpoint) != is_unix(&options.endpoint) {
                return Err(bad(format!(
                    "{} and {endpoint} are a host and a Unix socket; give several hosts or several Unix sockets",
                    options.endpoint
                )));
            }
            ring.push(endpoint.clone());
        }
        if options.address_order == AddressOrder::Random && ring.len() > 1 {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed)
                .map_err(|error| Error::system("random bytes")(std::io::Error::other(error)))?;
            shuffle(&mut ring, &mut ChaCha8Rng::from_seed(seed));
        }
        let left = ring.len();
        Ok(Self { ring, next: 0, left, current: None, failures: Vec::new() })
    }

    pub(super) fn has_several(&self) -> bool {
        self.ring.len() > 1
    }

    /// Returns the server whose turn it is, and among how many the time for connecting is to be shared. None at
    /// the end of the round.
    pub(super) fn take(&mut self) -> Option<(Endpoint, u32)> {
        let share = u32::try_from(self.left).unwrap_or(u32::MAX);
        self.left = self.left.checked_sub(1)?;
        let endpoint = self.ring[self.next].clone();
        self.next = (self.next + 1) % self.ring.len();
        self.current = Some(endpoint.clone());
        Some((endpoint, share))
    }

    /// Notes that the current server could not be used. Returns whether it was the last one of the round.
    pub(super) fn failed(&mut self, error: Error) -> bool {
        self.failures.extend(self.current.take().map(|endpoint| (endpoint, error)));
        self.left == 0
    }

    /// Begins a new round. Returns the error of the one before, in which every server has failed.
    pub(super) fn begin_round(&mut self) -> Error {
        self.left = self.ring.len();
        let mut failures = std::mem::take(&mut self.failures);
        match failures.pop() {
            Some((_, error)) if failures.is_empty() => error,
            last => {
                failures.extend(last);
                Error::NoServer { failures }
            }
        }
    }
}

fn shuffle(ring: &mut [Endpoint], random: &mut ChaCha8Rng) {
    for at in (1..ring.len()).rev() {
        ring.swap(at, random.next_u32() as usize % (at + 1));
    }
}

/// Returns whether the error is about the server that was tried, so that another one may do better.
pub(super) fn is_about_server(error: &Error) -> bool {
    match error {
        Error::Unreachable { .. }
        | Error::Answered { .. }
        | Error::Deadline { .. }
        | Error::Lost { .. }
        | Error::Protocol { .. } => true,
        #[cfg(feature = "tls")]
        Error::Tls { .. } => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn tcp(port: u16) -> Endpoint {
        Endpoint::tcp("h", port)
    }

    fn options(count: u16) -> Options {
        let mut options = Options::new("app");
        options.endpoint = tcp(1);
        options.alternatives = (2..=count).map(tcp).collect();
        options
    }

    fn what(error: &Error) -> String {
        assert!(matches!(error, Error::BadAddresses { .. }), "{error:?}");
        error.to_string()
    }

    #[test]
    fn addresses_have_their_own_port_or_the_one_of_all() {
        let listed = |text| Endpoint::list(text, 7).unwrap();
        assert_eq!(listed("a"), [Endpoint::tcp("a", 7)]);
        assert_eq!(
            listed(" a , b:1,c:65535 ").iter().map(Endpoint::to_string).collect::<Vec<_>>(),
            ["a:7", "b:1", "c:65535"]
        );
        assert_eq!(
            listed("::1,[::1]:9,[fe80::1%eth0]:9,fe80::1%eth0"),
            [
                Endpoint::tcp("::1", 7),
                Endpoint::tcp("::1", 9),
                Endpoint::tcp("fe80::1%eth0", 9),
                Endpoint::tcp("fe80::1%eth0", 7),
            ]
        );
        for (text, expected) in [
            ("", "empty"),
            ("a,", "empty"),
            (" ,a", "empty"),
            ("a:", "port"),
            ("a:0", "port"),
            ("a:65536", "port"),
            ("a:+1", "port"),
            ("a:x", "port"),
            (":8888", "no address"),
            ("::1:8888:x", "no address"),
            ("1:2:3", "no address"),
            ("[::1", "no address"),
            ("[::1]8888", "no address"),
            ("[a]:1", "no address"),
            ("a b", "no address"),
            ("tcp://a:1", "no address"),
            ("/run/ipc.sock", "Unix socket"),
            ("./ipc.sock", "Unix socket"),
        ] {
            let said = what(&Endpoint::list(text, 7).unwrap_err());
            assert!(said.contains(expected), "{text:?}: {said}");
        }
    }

    #[test]
    fn duplicates_and_mixtures_are_refused() {
        let mut twice = options(3);
        twice.alternatives.push(tcp(2));
        assert!(what(&Servers::new(&twice).unwrap_err()).contains("h:2 is there twice"));
        let mut mixed = options(2);
        mixed.alternatives.push(Endpoint::unix("/run/ipc.sock"));
        let said = what(&Servers::new(&mixed).unwrap_err());
        assert!(said.contains("h:1") && said.contains("/run/ipc.sock"), "{said}");
    }

    fn ports(servers: &mut Servers) -> Vec<(String, u32)> {
        std::iter::from_fn(|| servers.take()).map(|(at, share)| (at.to_string(), share)).collect()
    }

    #[test]
    fn each_has_one_try_in_a_round_and_the_next_round_goes_on_behind_the_last() {
        let mut servers = Servers::new(&options(3)).unwrap();
        let of = |at: &str, share| (at.to_owned(), share);
        assert_eq!(ports(&mut servers), [of("h:1", 3), of("h:2", 2), of("h:3", 1)]);
        servers.begin_round();
        assert_eq!(servers.take().unwrap().0, tcp(1));
        assert!(!servers.failed(Error::Disconnected));
        assert_eq!(servers.take().unwrap().0, tcp(2));
        // That one was of use.
        servers.begin_round();
        assert_eq!(ports(&mut servers), [of("h:3", 3), of("h:1", 2), of("h:2", 1)]);
        assert!(servers.failed(Error::Closed));
    }

    #[test]
    fn the_error_of_a_round_names_each_server_and_that_of_one_server_is_its_own() {
        let mut servers = Servers::new(&options(2)).unwrap();
        servers.take();
        assert!(!servers.failed(Error::lost(crate::client::Execution::Never, None)));
        servers.take();
        let source = std::io::ErrorKind::ConnectionRefused.into();
        assert!(servers.failed(Error::Unreachable { endpoint: tcp(2), source }));
        let error = servers.begin_round();
        assert_eq!(
            error.to_string(),
            "none of 2 servers can be used: h:1 (it closed the connection before it did anything), h:2 \
             (connection refused); see that one of them runs, and that the addresses are right"
        );
        assert_eq!(error.repeated().to_string(), error.to_string());
        let mut one = Servers::new(&options(1)).unwrap();
        one.take();
        assert!(one.failed(Error::Closed));
        assert!(matches!(one.begin_round(), Error::Closed));
    }

    #[test]
    fn random_orders_put_every_server_first_and_lose_none() {
        let mut random = options(4);
        random.address_order = AddressOrder::Random;
        let orders: HashSet<Vec<String>> = (0..400)
            .map(|_| {
                let mut servers = Servers::new(&random).unwrap();
                ports(&mut servers).into_iter().map(|(at, _)| at).collect()
            })
            .collect();
        // All 24 but with a chance of one in a million.
        assert_eq!(orders.len(), 24);
        assert!(orders.iter().all(|order| order.iter().collect::<HashSet<_>>().len() == 4));
    }
}
