//! Bus links, which a broker that is joined with others opens itself.

use super::*;
use crate::broker::state::buses::{BUS_IDLE_MAX, BUSES_MAX};
use crate::broker::{Context, HangUp, Peer};

fn join(context: &mut Context<'_>) {
    context.join(["a.>".to_owned(), "b".to_owned()], |_| ());
}

/// A broker that shares the channels `a.>` and `b` with others.
fn joined(limits: Limits) -> World {
    let mut world = World::new(limits);
    join(&mut world.broker.context());
    world
}

impl World {
    /// The links that were opened since the last time.
    fn opened(&mut self) -> Vec<ConnectionKey> {
        std::mem::take(&mut self.attached)
    }

    fn is_open(&self, key: ConnectionKey) -> bool {
        self.broker.core.connections.session(key).is_some()
    }
}

fn connect(app_id: &str, id: &str) -> Value {
    message(app_id, "request", "system", "c", &json!({"action": "connect", "connection_id": id}))
}

fn publish(channel: &str, payload: &Value) -> Value {
    message("app", "publish", channel, "p", payload)
}

#[test]
fn what_is_pipelined_behind_the_first_connect_reaches_the_bus_link() {
    let mut world = joined(Limits::default());
    let client = world.accept();
    let said = [
        connect("app", "1"),
        publish("a.x", &json!(1)),
        publish("c", &json!(2)),
        publish("b", &json!(3)),
    ];
    world.deliver(client, &said.iter().flat_map(framed).collect::<Vec<_>>());
    let [bus] = world.opened()[..] else { panic!("one link") };
    // A driver sends what waits once the link has a socket, and is told to by nothing else.
    world.relieve(bus);
    assert_eq!(payloads(&world.take(bus)), [json!(1), json!(3)]);
    // From then on it is told as of any connection.
    world.send(client, &publish("b", &json!(4)));
    assert_eq!(payloads(&world.take(bus)), [json!(4)]);
    // The other way round, it publishes at once.
    world.subscribe(client, "app", "news");
    world.take(client);
    world.send(bus, &publish("news", &json!("from elsewhere")));
    assert_eq!(payloads(&world.take(client)), [json!("from elsewhere")]);
}

#[test]
fn each_application_has_one_bus_link_also_those_from_before() {
    let mut world = World::new(Limits::default());
    let early = world.connected("early", "1");
    world.broker.application("own", "the process's");
    join(&mut world.broker.context());
    world.act();
    let opened = world.opened();
    assert_eq!(opened.len(), 2);
    world.connected("early", "2");
    world.connected("late", "1");
    world.act();
    assert_eq!(world.opened().len(), 1);
    world.hang_up(early);
    let of = |key| world.broker.application_of(key).unwrap();
    let mut applications: Vec<_> = opened.iter().map(|key| of(*key)).collect();
    applications.sort();
    assert_eq!(applications, ["early".into(), "own".into()]);
    // Those who come over a handshake are refused while there is one.
    let second = world.broker.accept_from(Peer::Link).unwrap();
    world.send(second, &connect("late", "$link/bus"));
    world.expect_error(second, "forbidden", "c");
    assert!(!world.is_open(second));
}

#[test]
fn a_bus_link_ends_a_while_after_the_last_client_and_is_opened_for_the_next_first_one() {
    let mut world = joined(Limits::default());
    let first = world.connected("app", "1");
    let [bus] = world.opened()[..] else { panic!("one link") };
    world.relieve(bus);
    world.hang_up(first);
    world.pass(BUS_IDLE_MAX / 2);
    let second = world.connected("app", "2");
    world.pass(BUS_IDLE_MAX * 2);
    assert!(world.is_open(bus) && world.opened().is_empty());
    world.hang_up(second);
    world.pass(BUS_IDLE_MAX);
    assert!(!world.is_open(bus));
    assert_eq!(world.shut, [bus]);
    world.connected("app", "3");
    assert_eq!(world.opened().len(), 1);
    world.hang_up(bus);
    assert_eq!(world.broker.context().list_applications().len(), 1);
}

#[test]
fn one_that_was_lost_is_opened_by_a_handshake_or_for_the_next_first_client() {
    let mut world = joined(Limits::default());
    let client = world.connected("app", "1");
    let [bus] = world.opened()[..] else { panic!("one link") };
    world.broker.hang_up(bus, HangUp::Reset);
    world.act();
    world.connected("app", "2");
    assert!(world.opened().is_empty(), "the application has not got its first client");
    let anew = world.broker.accept_from(Peer::Link).unwrap();
    world.send(anew, &connect("app", "$link/bus"));
    assert_eq!(world.take(anew)[0]["payload"]["status"], "connected");
    world.send(anew, &message("app", "subscribe", "b", "s", &json!({"pattern": true})));
    world.send(client, &publish("b", &json!(1)));
    assert_eq!(payloads(&world.take(anew)), [json!(1)]);
    world.hang_up(client);
    world.connected("app", "2");
    assert!(world.opened().is_empty() && world.is_open(anew));
}

#[test]
fn there_are_so_many_and_the_one_that_is_idle_for_longest_makes_room() {
    let mut world = joined(Limits { connections_max: 3_000, ..Limits::default() });
    let clients: Vec<_> = (0..BUSES_MAX)
        .map(|number| {
            let key = world.accept();
            world.broker.receive(key, &framed(&connect(&format!("app {number}"), "1")));
            key
        })
        .collect();
    world.act();
    let buses = world.opened();
    assert_eq!(buses.len(), BUSES_MAX);
    world.connected("one too many", "1");
    assert_eq!(world.opened(), []);
    let by_handshake = world.broker.accept_from(Peer::Link).unwrap();
    world.send(by_handshake, &connect("one too many", "$link/bus"));
    world.expect_error(by_handshake, "limit_exceeded", "c");
    for idle in [7, 3] {
        world.hang_up(clients[idle]);
        world.pass(Duration::from_secs(1));
    }
    world.connected("another", "1");
    assert_eq!(world.opened().len(), 1);
    assert!(!world.is_open(buses[7]) && world.is_open(buses[3]) && world.is_open(buses[8]));
}

/// Without memory for its subscriptions it is closed, so that its other end opens another one later.
#[test]
fn a_bus_link_that_memory_is_too_short_for_is_closed() {
    let mut world = joined(Limits::default());
    let client = world.accept();
    world.broker.core.budget.pressure = crate::broker::MemoryPressure::Refusing;
    world.broker.receive(client, &framed(&connect("app", "1")));
    while let Some(action) = world.broker.next_action() {
        match action {
            Action::Attach(key) => world.attached.push(key),
            Action::Close(key) => world.closed.push(key),
            _ => {}
        }
    }
    let opened = world.opened();
    assert_eq!((opened.len(), &world.closed), (1, &opened));
    assert!(world.is_open(client));
}

#[test]
fn a_server_that_drains_opens_none() {
    let mut world = joined(Limits::default());
    world.broker.begin_drain();
    world.broker.application("own", "the process's");
    world.act();
    assert_eq!(world.opened(), []);
}
