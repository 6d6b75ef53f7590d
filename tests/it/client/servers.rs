//! A client that may use several servers, some of which end, refuse, drain or never answer.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use ipc_framework::client::{
    AddressOrder, Client, ClientOptions, Endpoint, Error, Event, Fault, Options, Reconnect,
    SubscribeOptions,
};
use ipc_framework::{Config, ErrorCode, HistoryRule, Limits, UnixSocket};
use serde_json::json;

use super::many_threads::value;
use super::scripted::{Scripted, failure, patient, picked};
use crate::scratch::Scratch;
use crate::support::{HANG, TestServer, eventually, install_echo, serve, serve_echo};

/// A pause that a test would not survive.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3_600);

fn at(port: u16) -> Endpoint {
    Endpoint::tcp("127.0.0.1", port)
}

fn of(server: &TestServer) -> Endpoint {
    at(server.address.port())
}

/// Returns the options of a client of these servers.
fn options(servers: &[Endpoint]) -> ClientOptions {
    let mut options = patient("app", servers[0].clone());
    options.connection.alternatives = servers[1..].to_vec();
    options
}

/// A port at which nothing listens, and at which nobody can begin to.
struct Refusing(TcpListener);

impl Refusing {
    fn new() -> Self {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        Self(socket.into())
    }

    fn endpoint(&self) -> Endpoint {
        at(self.0.local_addr().unwrap().port())
    }
}

/// A port at which the kernel drops attempts to connect, as a firewall does.
struct BlackHole(TcpListener, Vec<TcpStream>);

impl BlackHole {
    fn new() -> Self {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().unwrap();
        let soon = Duration::from_millis(500);
        let queued = std::iter::from_fn(|| TcpStream::connect_timeout(&address, soon).ok());
        let queued = queued.take(100).collect();
        Self(listener, queued)
    }

    fn endpoint(&self) -> Endpoint {
        assert!(self.1.len() < 100, "its queue is full");
        at(self.0.local_addr().unwrap().port())
    }
}

#[derive(Debug, PartialEq)]
enum Told {
    Lost(Endpoint),
    Leaving,
    Back(Endpoint),
    Nowhere,
}

fn changes(client: &Client) -> Receiver<Told> {
    picked(client, |event| match event {
        Event::Disconnected { endpoint, .. } => Some(Told::Lost(endpoint.clone())),
        Event::Leaving => Some(Told::Leaving),
        Event::Connected { endpoint, .. } => Some(Told::Back(endpoint.clone())),
        Event::Unreachable { .. } => Some(Told::Nowhere),
        _ => None,
    })
}

fn next(told: &Receiver<Told>) -> Told {
    told.recv_timeout(HANG).expect("a change")
}

/// The first server welcomes everybody, until the test drops its connections.
#[test]
fn what_a_client_subscribes_to_and_serves_goes_on_at_the_next_server() {
    let script = Scripted::new();
    let (second, third) = (serve_echo(), serve_echo());
    let first = at(script.address().port());
    let (client, side) = script.connect_with(&options(&[first.clone(), of(&second), of(&third)]));
    let told = changes(&client);
    assert_eq!(client.connection_info().endpoint, first);
    let mut news = client.subscribe("news").unwrap();
    // As a power failure would.
    drop((script, side));
    assert_eq!(next(&told), Told::Lost(first.clone()));
    assert_eq!(next(&told), Told::Back(of(&second)));
    client.serve("mine", 1, |request| Ok(value(request))).unwrap();
    client.publish("news", &"at the second").unwrap();
    assert_eq!(value(&news.next().unwrap()), "at the second");
    assert_eq!(client.connection_info().endpoint, of(&second));

    let gone = of(&second);
    second.stop();
    assert_eq!(next(&told), Told::Leaving);
    assert_eq!(next(&told), Told::Lost(gone.clone()));
    assert_eq!(next(&told), Told::Back(of(&third)));
    // What a subscription and a served channel need is asked for before this.
    assert_eq!(value(&client.request("mine", &"at the third").unwrap()), "at the third");
    client.publish("news", &"at the third").unwrap();
    assert_eq!(value(&news.next().unwrap()), "at the third");

    // It stays there, although the second is back, and goes to the first when its turn comes.
    let port = serve_at(&gone);
    let back = TcpListener::bind(("127.0.0.1", port_of(&first))).unwrap();
    assert_eq!(client.connection_info().endpoint, of(&third));
    let gone = of(&third);
    third.stop();
    assert_eq!(next(&told), Told::Leaving);
    assert_eq!(next(&told), Told::Lost(gone));
    let (asked, _) = back.accept().unwrap();
    drop((asked, back));
    assert_eq!(next(&told), Told::Back(of(&port)));
    client.close().unwrap();
}

fn port_of(endpoint: &Endpoint) -> u16 {
    match endpoint {
        Endpoint::Tcp { port, .. } => *port,
        other => panic!("{other:?}"),
    }
}

fn serve_at(endpoint: &Endpoint) -> TestServer {
    crate::support::serve_as_told(Config::default().port(port_of(endpoint)), install_echo)
}

#[test]
fn each_server_is_tried_before_a_pause_also_one_that_welcomes_and_closes() {
    let (refusing, script) = (Refusing::new(), Scripted::new());
    let welcoming = at(script.address().port());
    let server = serve_echo();
    let mut options = options(&[welcoming.clone(), refusing.endpoint(), of(&server)]);
    options.reconnect = Some(Reconnect::new(FOR_EVER, FOR_EVER));
    let (client, side) = script.connect_with(&options);
    let told = changes(&client);
    drop(side);
    assert_eq!(next(&told), Told::Lost(welcoming));
    assert_eq!(next(&told), Told::Back(of(&server)));
    assert_eq!(client.connection_info().failures, 0);
    assert_eq!(value(&client.request("echo", &1).unwrap()), 1);
}

#[test]
fn a_pause_comes_when_all_have_failed_and_its_bound_doubles() {
    let scripts = [Scripted::new(), Scripted::new()];
    let all = scripts.each_ref().map(|script| at(script.address().port()));
    let mut options = options(&all);
    // A connection that lasts as long as the longest pause would count as of use.
    options.reconnect = Some(Reconnect::new(Duration::from_millis(1), HANG));
    options.connection.connect_timeout = HANG;
    let (client, side) = scripts[0].connect_with(&options);
    let failures = || client.connection_info().failures;
    drop(side);
    for round in 0..3 {
        // A welcome alone is of no use.
        drop(scripts[1].accept());
        eventually("another round", || (failures() == round + 1).then_some(()));
        drop(scripts[0].accept());
    }
    let mut side = scripts[1].accept();
    let news = client.subscribe("news").unwrap();
    side.send("publish", "news", json!("of use"));
    assert_eq!(value(&news.next_timeout(HANG).unwrap()), "of use");
    drop(side);
    let _side = scripts[0].accept();
    assert_eq!(failures(), 0);
}

#[test]
fn a_server_that_never_answers_leaves_time_for_the_others() {
    let (hole, script, server) = (BlackHole::new(), Scripted::new(), serve_echo());
    let mute = at(script.address().port());
    let mut options = options(&[mute, hole.endpoint(), of(&server)]);
    options.connection.connect_timeout = Duration::from_secs(3);
    let connection = options.connection.connect().unwrap();
    assert_eq!(*connection.endpoint(), of(&server));
    options.connection.alternatives.pop();
    let error = options.connection.connect().unwrap_err();
    let Error::NoServer { failures } = &error else { panic!("{error:?}") };
    // It accepted, and said nothing for its share of the time.
    let Error::Deadline { waited, .. } = failures[0].1 else { panic!("{error:?}") };
    assert!(waited <= options.connection.connect_timeout / 2, "{error}");
    assert!(matches!(failures[1].1, Error::Unreachable { .. }), "{error}");
}

#[test]
fn the_error_says_of_each_server_why_it_cannot_be_used() {
    let (first, second) = (Refusing::new(), Refusing::new());
    let all = [first.endpoint(), second.endpoint()];
    let error = options(&all).connect().unwrap_err();
    assert_eq!(error.fault(), Fault::Server);
    for endpoint in &all {
        let part = format!("{endpoint} (Connection refused");
        assert!(error.to_string().contains(&part), "{part}: {error}");
    }
    let mut mixed = options(&all);
    mixed.connection.alternatives.push(Endpoint::unix("/run/ipc.sock"));
    assert!(matches!(mixed.connect(), Err(Error::BadAddresses { .. })));
    // An id is as bad for all of them.
    let mut nameless = options(&all);
    nameless.connection.connection_id = Some(String::new());
    assert!(matches!(nameless.connect(), Err(Error::BadId { .. })));
}

fn refuse_one(script: &Scripted, code: &str) {
    let mut side = script.accept_bare();
    let connect = side.receive();
    side.answer(&connect, failure(code));
}

#[test]
fn a_server_that_refuses_is_passed_over_and_the_client_ends_where_all_refuse_its_token() {
    let (first, second, server) = (Scripted::new(), Scripted::new(), serve_echo());
    let refusing = [at(first.address().port()), at(second.address().port())];
    std::thread::scope(|scope| {
        scope.spawn(|| refuse_one(&first, "auth_failed"));
        scope.spawn(|| refuse_one(&second, "server_full"));
        let all = [&refusing[..], &[of(&server)]].concat();
        let client = options(&all).connect().unwrap();
        assert_eq!(client.connection_info().endpoint, of(&server));
    });
    let (client, side) = first.connect_with(&options(&refusing));
    let end = picked(&client, |event| match event {
        Event::Closed { error, .. } => Some(error.as_ref().map(ToString::to_string)),
        _ => None,
    });
    std::thread::scope(|scope| {
        scope.spawn(|| {
            refuse_one(&second, "auth_failed");
            // One that may take it the next time.
            refuse_one(&first, "server_full");
            refuse_one(&second, "auth_failed");
            refuse_one(&first, "auth_failed");
            refuse_one(&second, "auth_failed");
        });
        drop(side);
        let end = end.recv_timeout(HANG).unwrap().unwrap();
        assert_eq!(end.matches(ErrorCode::AuthFailed.as_str()).count(), 2, "{end}");
    });
}

fn with_history() -> TestServer {
    let rule = HistoryRule::new("app", "kept").messages(100);
    serve(Config::default().limits(Limits::default().histories([rule])), |_| {})
}

#[test]
fn what_a_second_server_does_not_know_is_a_gap() {
    let (first, second) = (with_history(), with_history());
    let publisher = options(&[of(&second)]).connect().unwrap();
    let there = publisher.publish_acknowledged("kept", &"before it came").unwrap().unwrap();
    let client = options(&[of(&first), of(&second)]).connect().unwrap();
    let gaps = picked(&client, |event| match event {
        Event::Gap { seen, newest, missed, .. } => Some((seen.clone(), newest.clone(), *missed)),
        Event::Resumed { .. } => panic!("{event:?}"),
        _ => None,
    });
    let last = SubscribeOptions::default().last(1);
    let kept = client.subscribe_with("kept", &last).unwrap();
    let here = client.publish_acknowledged("kept", &"here").unwrap();
    assert_eq!(value(&kept.next_timeout(HANG).unwrap()), "here");
    first.stop();
    assert_eq!(gaps.recv_timeout(HANG).unwrap(), (here, Some(there), None));
    publisher.publish("kept", &"live").unwrap();
    let next = || value(&kept.next_timeout(HANG).unwrap());
    assert_eq!((next(), next()), (json!("before it came"), json!("live")));
    assert_eq!(gaps.try_iter().count(), 0);
}

#[test]
fn random_orders_spread_clients_and_unix_sockets_may_be_several() {
    let servers = [serve_echo(), serve_echo()];
    let mut options = Options::new("app");
    (options.endpoint, options.alternatives) = (of(&servers[0]), vec![of(&servers[1])]);
    options.address_order = AddressOrder::Random;
    let all: Vec<_> = (0..60).map(|_| options.connect().unwrap()).collect();
    for server in &servers {
        // All but with a chance of one in 2^59.
        assert!(all.iter().any(|connection| *connection.endpoint() == of(server)));
    }
    let scratch = Scratch::new("servers");
    let path = scratch.0.join("there.sock");
    let _server = serve(Config::default().unix(UnixSocket::at(&path)), |_| {});
    let mut options = Options::new("app");
    options.endpoint = Endpoint::unix(scratch.0.join("missing.sock"));
    options.alternatives = vec![Endpoint::unix(&path)];
    assert_eq!(*options.connect().unwrap().endpoint(), Endpoint::unix(&path));
}
