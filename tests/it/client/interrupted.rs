//! A subscription that is cut off while the server still sends what it has kept: by a connection that takes over, and
//! by a server that drains and begins anew. The reader is so slow that most of it has not come by then.

use std::sync::{Arc, Mutex, MutexGuard};

use ipc_framework::client::{Client, ClientOptions, Error, Event, Position, SubscribeOptions};
use ipc_framework::{Config, ErrorCode, HistoryRule, Limits, Message};

use super::many_threads::client_options;
use super::scripted::soon;
use crate::support::{HANG, TestServer, eventually, reserved_port, serve_as_told};

/// Publications of which the kernels of both sides and the server's queue hold only a part.
const COUNT: u64 = 600;
const BYTES: usize = 30_000;
/// The publication at which the reader stops reading.
const HELD: u64 = 5;

fn start(port: u16) -> TestServer {
    let rule = HistoryRule::new("app", "kept").messages(COUNT as usize).bytes(64 << 20);
    // No reader of these tests is closed for being slow, however long the machine takes.
    let limits = Limits::default().histories([rule]).slow_consumer_grace(2 * HANG);
    serve_as_told(Config::default().port(port).limits(limits), |_| {})
}

/// Publishes so many, and returns the place before the first one.
fn publish(publisher: &Client, count: u64) -> Position {
    let text = "x".repeat(BYTES);
    let mut first = None;
    for number in 1..=count {
        let at = publisher.publish_acknowledged("kept", &(number, &text)).unwrap().unwrap();
        first.get_or_insert(at);
    }
    let first = first.unwrap();
    Position::new(first.epoch, first.offset - 1)
}

/// What a reader is told, in the order in which it is told.
#[derive(Clone, Debug, PartialEq)]
enum Told {
    Publication(Position),
    Resumed,
    Gap { seen: Option<Position>, newest: Option<Position>, missed: Option<u64> },
    Closed(Option<ErrorCode>),
}

/// A client whose own thread stands still at one publication, until the gate opens.
struct Reader {
    client: Client,
    told: Arc<Mutex<Vec<Told>>>,
    gate: Arc<Mutex<()>>,
}

impl Reader {
    fn new(options: &ClientOptions) -> Self {
        let client = options.connect().unwrap();
        let told = Arc::<Mutex<Vec<Told>>>::default();
        let noted = Arc::clone(&told);
        client.on_event(move |event| {
            let event = match event {
                Event::Resumed { .. } => Told::Resumed,
                Event::Gap { seen, newest, missed, .. } => {
                    Told::Gap { seen: seen.clone(), newest: newest.clone(), missed: *missed }
                }
                Event::Closed { error: Some(Error::Answered { code, .. }), .. } => {
                    Told::Closed(Some(*code))
                }
                Event::Closed { .. } => Told::Closed(None),
                _ => return,
            };
            noted.lock().unwrap().push(event);
        });
        Self { client, told, gate: Arc::default() }
    }

    /// Subscribes, and returns when the reader stands still.
    fn read(&self, options: &SubscribeOptions) -> MutexGuard<'_, ()> {
        let closed = self.gate.lock().unwrap();
        let (noted, gate) = (Arc::clone(&self.told), Arc::clone(&self.gate));
        let take = move |message: Message| {
            let at = message.position().unwrap().clone();
            let is_held = at.offset == HELD;
            noted.lock().unwrap().push(Told::Publication(at));
            if is_held {
                drop(gate.lock().unwrap());
            }
        };
        self.client.on_publication_with("kept", options, take).unwrap();
        eventually("it stands still", || {
            self.publications().last().filter(|last| last.offset == HELD).map(|_| ())
        });
        closed
    }

    fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }

    fn publications(&self) -> Vec<Position> {
        let of = |told: Told| match told {
            Told::Publication(at) => Some(at),
            _ => None,
        };
        self.told().into_iter().filter_map(of).collect()
    }

    fn until(&self, what: &str, is_last: impl Fn(&Told) -> bool) {
        eventually(what, || self.told().last().filter(|last| is_last(last)).map(|_| ()));
    }
}

/// From the first one on each has come once and in order, up to one that is returned.
fn unbroken(publications: &[Position], epoch: &str) -> u64 {
    for (at, publication) in publications.iter().enumerate() {
        assert_eq!((&*publication.epoch, publication.offset), (epoch, at as u64 + 1));
    }
    publications.len() as u64
}

fn is_at(told: &Told, offset: u64) -> bool {
    matches!(told, Told::Publication(at) if at.offset == offset)
}

#[test]
fn a_connection_that_takes_over_in_the_middle_gets_all_and_the_other_one_is_told() {
    let server = start(0);
    let publisher = client_options(&server).connect().unwrap();
    let before = publish(&publisher, COUNT);
    let mut options = client_options(&server);
    options.connection.connection_id = Some("the reader".into());
    options.heartbeat = None;
    options.reconnect = Some(soon(10));
    let since = SubscribeOptions::default().since(before.clone());
    let older = Reader::new(&options);
    let closed = older.read(&since);

    let newer = Reader::new(&options);
    drop(newer.read(&since));
    newer.until("the last one", |told| is_at(told, COUNT));
    publisher.publish("kept", &"live").unwrap();
    newer.until("what is live", |told| is_at(told, COUNT + 1));
    assert_eq!(unbroken(&newer.publications(), &before.epoch), COUNT + 1);
    assert_eq!(newer.told().iter().filter(|told| **told == Told::Resumed).count(), 1);

    // The older one learns of it when it sends something.
    drop(closed);
    let _ = older.client.publish("other", &1);
    older.until("its end", |told| matches!(told, Told::Closed(_)));
    let mut told = older.told();
    assert_eq!(told.pop(), Some(Told::Closed(Some(ErrorCode::TakenOver))));
    assert!((HELD..=COUNT).contains(&unbroken(&older.publications(), &before.epoch)));
    assert_eq!(told.len(), older.publications().len() + 1, "no gap: {:?}", told.first());
    assert_eq!(older.client.connection_info().connections, 1, "it does not take over in turn");
    newer.client.close().unwrap();
}

#[test]
fn a_drain_in_the_middle_leaves_a_gap_behind_the_last_one_that_came() {
    for by_last in [false, true] {
        let port = reserved_port();
        let server = start(port);
        let publisher = client_options(&server).connect().unwrap();
        let before = publish(&publisher, COUNT);
        publisher.close().unwrap();
        let mut options = client_options(&server);
        options.reconnect = Some(soon(10));
        let reader = Reader::new(&options);
        let wish = SubscribeOptions::default();
        let wish = if by_last { wish.last(COUNT as u32) } else { wish.since(before.clone()) };
        let closed = reader.read(&wish);

        // It waits for the reader, and gives up.
        server.stop();
        let server = start(port);
        let publisher = client_options(&server).connect().unwrap();
        let anew = publish(&publisher, 3);
        drop(closed);
        eventually("the gap", || {
            reader.told().iter().any(|told| matches!(told, Told::Gap { .. })).then_some(())
        });
        let live = publisher.publish_acknowledged("kept", &"live").unwrap().unwrap();
        reader.until("what is live", |told| *told == Told::Publication(live.clone()));

        let told = reader.told();
        let gap = told.iter().position(|told| matches!(told, Told::Gap { .. })).unwrap();
        let of = |told: &[Told]| -> Vec<Position> {
            let position = |told: &Told| match told {
                Told::Publication(at) => Some(at.clone()),
                _ => None,
            };
            told.iter().filter_map(position).collect()
        };
        let (earlier, later) = (of(&told[..gap]), of(&told[gap..]));
        let came = unbroken(&earlier, &before.epoch);
        assert!((HELD..COUNT).contains(&came), "it was cut off in the middle: {came}");
        let seen = Some(Position::new(before.epoch.clone(), came));
        let newest = Some(Position::new(anew.epoch.clone(), 3));
        assert_eq!(told[gap], Told::Gap { seen, newest, missed: None });
        let offsets: Vec<u64> = later.iter().map(|at| at.offset).collect();
        assert_eq!(offsets, if by_last { vec![1, 2, 3, 4] } else { vec![4] });
        assert!(later.iter().all(|at| at.epoch == anew.epoch));
        let rest: Vec<_> =
            told.iter().filter(|told| !matches!(told, Told::Publication(_))).collect();
        assert_eq!(rest.len(), if by_last { 1 } else { 2 }, "{rest:?}");
    }
}
