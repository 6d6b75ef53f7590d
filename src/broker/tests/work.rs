//! Much work for one peer is spread over turns, in which the others are served.

use super::*;
use crate::broker::turn_limits::{CROWD_WORK_PARTS, LIGHT_WORK_PARTS};

const LIGHT_WORK_MAX: usize = WORK_PER_TURN_MAX / LIGHT_WORK_PARTS;
const CROWD_WORK_MAX: usize = WORK_PER_TURN_MAX / CROWD_WORK_PARTS;
/// Publications to a crowd that one turn has room for.
const CROWD_TURN: usize = CROWD_WORK_PARTS;

impl World {
    /// The rest of a turn in which some was received: sends what came of it, and looks again at
    /// those who were not done. Returns the work of it.
    fn end_turn(&mut self, work_before: u64) -> usize {
        let resumed = std::mem::take(&mut self.resumed);
        for key in resumed {
            self.broker.receive(key, &[]);
        }
        self.act_once();
        let now = self.now.monotonic;
        self.broker.end_turn(|| now);
        (self.broker.core.turn.work_done() - work_before) as usize
    }

    fn subscribers(&mut self, channel: &str, count: usize) -> Vec<ConnectionKey> {
        let connect = |at| {
            let key = self.connected("app", &format!("{channel}-{at}"));
            self.subscribe(key, "app", channel);
            key
        };
        (0..count).map(connect).collect()
    }

    /// Makes channels with names of 40 bytes, and returns who named them.
    fn owner_of(&mut self, channels: usize) -> ConnectionKey {
        let owner = self.connected("app", "owner");
        for at in 0..channels {
            self.subscribe(owner, "app", &format!("{at:040}"));
        }
        owner
    }

    fn ask(&mut self, from: ConnectionKey, action: &str) {
        let payload = json!({"action": action});
        self.send(from, &message("app", "request", "system", action, &payload));
    }
}

fn of_each(messages: &[Value], who: &str) -> usize {
    messages.iter().filter(|message| message["payload"] == who).count()
}

#[test]
fn publications_to_many_are_spread_over_turns_and_nobody_waits_for_them() {
    const MANY: usize = LIGHT_WORK_MAX + 1;
    const FEW: usize = 10;
    let mut world = World::new(Limits::default());
    let crowd = world.subscribers("loud", MANY);
    let few = world.subscribers("soft", FEW);
    let [one, other] = ["one", "other"].map(|id| {
        let key = world.connected("app", id);
        (
            key,
            framed(&message("app", "publish", "loud", "p", &json!(id))).repeat(FRAMES_PER_TURN_MAX),
        )
    });
    let soft = world.connected("app", "soft");
    let whisper = framed(&message("app", "publish", "soft", "p", &json!("soft")));
    let ping = framed(&message("app", "request", "system", "p", &json!({"action": "ping"})));

    let mut heard = Vec::new();
    let mut turns = 0;
    while heard.len() < 2 * FRAMES_PER_TURN_MAX {
        let before = world.broker.core.turn.work_done();
        if turns == 0 {
            for (key, burst) in [&one, &other] {
                world.broker.receive(*key, burst);
            }
        }
        world.broker.receive(soft, &[&whisper[..], &ping].concat());
        let work = world.end_turn(before);
        assert!(work <= WORK_PER_TURN_MAX + FEW, "{work} in turn {turns}");
        heard.extend(world.take(crowd[MANY - 1]));
        for key in &few {
            assert_eq!(world.take(*key).len(), 1, "in turn {turns}");
        }
        assert_eq!(world.take(soft).len(), 1, "in turn {turns}");
        let (of_one, of_other) = (of_each(&heard, "one"), of_each(&heard, "other"));
        let a_turn = WORK_PER_TURN_MAX / MANY;
        assert!(of_one.abs_diff(of_other) <= a_turn, "{of_one} and {of_other} in turn {turns}");
        turns += 1;
    }
    assert_eq!(turns, (2 * FRAMES_PER_TURN_MAX).div_ceil(WORK_PER_TURN_MAX / MANY), "none is idle");
    assert!(!world.broker.core.turn.is_awaited());
    assert_eq!(world.broker.core.counters.publications_unheard, 0);
}

#[test]
fn eight_publications_to_a_crowd_share_a_turn() {
    let mut world = World::new(Limits::default());
    let crowd = world.subscribers("loud", 3 * CROWD_WORK_MAX / 2);
    let publisher = world.connected("app", "publisher");
    let burst = framed(&message("app", "publish", "loud", "p", &json!(0))).repeat(20);
    for expected in [8, 8, 4] {
        let before = world.broker.core.turn.work_done();
        if before == 0 {
            world.broker.receive(publisher, &burst);
        }
        world.end_turn(before);
        assert_eq!(world.take(crowd[0]).len(), expected);
    }
}

/// Publications of a handler count for the connection that called it, and end its turn.
#[test]
fn what_a_handler_publishes_counts_for_who_called_it() {
    const MANY: usize = 2_000;
    let mut world = World::new(Limits::default());
    world.subscribers("loud", MANY);
    world.broker.fallback().on_request(|mut request| {
        request.context().publish("app", "loud", &1)?;
        request.reply(&2)
    });
    let asks = world.connected("app", "asks");
    let burst = framed(&message("app", "request", "shout", "q", &json!(0))).repeat(64);
    let before = world.broker.core.turn.work_done();
    world.broker.receive(asks, &burst);
    let work = world.end_turn(before);
    assert!((WORK_PER_TURN_MAX..WORK_PER_TURN_MAX + MANY).contains(&work), "{work}");
    world.act();
    assert_eq!(world.take(asks).len(), 64);
}

#[test]
fn a_turn_makes_one_long_listing_and_answers_everybody_else() {
    let mut world = World::new(Limits::default());
    let owner = world.owner_of(4_000);
    let quiet = world.connected("app", "quiet");
    let ping = framed(&message("app", "request", "system", "p", &json!({"action": "ping"})));
    for action in ["list_channels", "list_applications", "get_latency"] {
        const TIMES: usize = 10;
        let payload = json!({"action": action});
        let burst = framed(&message("app", "request", "system", "l", &payload)).repeat(TIMES);
        let mut answered = 0;
        for turn in 0..TIMES {
            let before = world.broker.core.turn.work_done();
            if turn == 0 {
                world.broker.receive(owner, &burst);
            }
            world.broker.receive(quiet, &ping);
            world.end_turn(before);
            answered += world.take(owner).len();
            assert_eq!((answered, world.take(quiet).len()), (turn + 1, 1), "{action}");
        }
    }
    assert!(!world.broker.core.turn.is_awaited());
}

#[test]
fn a_listing_that_is_too_long_is_refused_before_anything_is_listed() {
    let mut world = World::new(Limits { frame_bytes_max: 64 << 10, ..Limits::default() });
    let owner = world.owner_of(2_000);
    let before = world.broker.core.turn.work_done();
    for action in ["list_channels", "list_applications"] {
        world.ask(owner, action);
        world.expect_error(owner, "limit_exceeded", action);
    }
    assert_eq!(world.broker.core.turn.work_done(), before);
}

/// The length that is known of an answer before it is made is never more than it takes.
#[test]
fn a_listing_that_just_fits_is_answered() {
    let names = ["", "a", "\"", "\\\u{1}\n", "grün", "\u{1f600}"];
    let populated = |frame_bytes_max| {
        let mut world = World::new(Limits { frame_bytes_max, ..Limits::default() });
        for at in 0..20 {
            let app = format!("{}{at}", names[at % names.len()]);
            // The shortest name that there is.
            world.broker.context().create_application(&app, Some(""));
            let key = world.connected(&app, "me");
            for at in 0..at {
                world.subscribe(key, &app, &format!("{at}{}", names[at % names.len()]));
            }
        }
        world
    };
    for action in ["list_applications", "list_channels"] {
        let asked = |frame_bytes_max| {
            let mut world = populated(frame_bytes_max);
            let key = world.connected("\\\u{1}\n15", "asks");
            let list = message("\\\u{1}\n15", "request", "system", "l", &json!({"action": action}));
            world.send(key, &list);
            let body_bytes = world.received[&key].len() - 4;
            (body_bytes, world.take(key).remove(0)["payload"]["code"].clone())
        };
        let (body_bytes, code) = asked(16 << 20);
        assert_eq!(code, Value::Null);
        assert_eq!(asked(body_bytes), (body_bytes, Value::Null), "{action}");
        assert_eq!(asked(body_bytes - 1).1, "limit_exceeded", "{action}");
    }
}

#[test]
fn who_leaves_while_it_waits_makes_room_for_the_next() {
    let mut world = World::new(Limits::default());
    let owner = world.owner_of(4_000);
    let list =
        framed(&message("app", "request", "system", "l", &json!({"action": "list_channels"})));
    let ids = ["first", "leaves", "taken over", "last"];
    let asks = ids.map(|id| world.connected("app", id));
    let before = world.broker.core.turn.work_done();
    world.broker.receive(owner, &list);
    for key in asks {
        world.broker.receive(key, &list);
        assert!(!world.broker.wants_read(key));
    }
    world.end_turn(before);
    // One is due, and leaves like the one behind it.
    world.broker.hang_up(asks[0], HangUp::Reset);
    world.broker.hang_up(asks[1], HangUp::Reset);
    let newer = world.connected("app", ids[2]);
    world.act();
    assert_eq!(world.take(asks[3]).len(), 1);
    world.expect_error(asks[2], "taken_over", Value::Null);
    world.ask(newer, "ping");
    assert_eq!(world.take(newer).len(), 1);
    assert!(!world.broker.core.turn.is_awaited());
    assert!(world.broker.wants_read(asks[3]));
}

/// Nobody else begins any work, by whose end the lane would go on.
#[test]
fn who_leaves_when_it_is_due_makes_room_for_the_next() {
    for how in [HangUp::Reset, HangUp::EndOfStream] {
        let mut world = World::new(Limits::default());
        let owner = world.owner_of(4_000);
        let list =
            framed(&message("app", "request", "system", "l", &json!({"action": "list_channels"})));
        let [due, next] = ["due", "next"].map(|id| world.connected("app", id));
        let before = world.broker.core.turn.work_done();
        for key in [owner, due, next] {
            world.broker.receive(key, &list);
        }
        world.end_turn(before);
        assert!(world.connection(due).is_due);
        assert!(matches!(world.connection(next).held, Held::Work(_)));
        world.broker.hang_up(due, how);
        world.act();
        assert_eq!(world.take(next).len(), 1);
        assert!(!world.broker.core.turn.is_awaited());
    }
}

/// A publication that waits for work may find its subscribers gone, and is none then.
#[test]
fn a_connection_whose_work_is_gone_when_it_is_due_has_its_idle_timeout_again() {
    const CROWD: usize = WORK_PER_TURN_MAX / 2;
    let idle_timeout = Some(Duration::from_secs(60));
    let limits = Limits { idle_timeout, ..Limits::default() };
    let mut world = World::new(limits);
    let crowd = world.subscribers("loud", CROWD);
    let [first, second] = ["first", "second"].map(|id| world.connected("app", id));
    let burst = framed(&message("app", "publish", "loud", "p", &json!(0))).repeat(CROWD_TURN);
    let before = world.broker.core.turn.work_done();
    world.broker.receive(first, &burst);
    world.broker.receive(second, &burst[..burst.len() / CROWD_TURN]);
    assert!(matches!(world.connection(second).held, Held::Work(_)));
    world.end_turn(before);
    assert!(world.connection(second).is_due);
    for key in crowd {
        world.broker.hang_up(key, HangUp::Reset);
    }
    world.act();
    assert!(!world.connection(second).is_due && world.broker.wants_read(second));
    world.pass(Duration::from_secs(60));
    assert!(world.closed.contains(&second), "it was silent for a minute");
}

#[test]
fn sessions_are_counted_as_they_come_and_go() {
    let mut world = World::new(Limits::default());
    world.accept();
    let first = world.connected("app", "me");
    let second = world.connected("other", "me");
    world.connected("app", "me");
    assert_eq!(world.broker.context().stats().total_connections, 2);
    world.hang_up(second);
    world.hang_up(first);
    assert_eq!(world.broker.context().stats().total_connections, 1);
}

/// Its socket was not read while it waited, and may have come to its end.
#[test]
fn who_is_superseded_while_it_waits_for_work_is_read_again() {
    let mut world = World::new(Limits::default());
    let owner = world.owner_of(4_000);
    let list =
        framed(&message("app", "request", "system", "l", &json!({"action": "list_channels"})));
    let waits = world.connected_apart("app", "waits");
    let newer = world.accept();
    let connect = json!({"action": "connect", "connection_id": "waits"});
    world.broker.receive(owner, &list);
    world.broker.receive(waits, &list);
    assert!(!world.broker.wants_read(waits));
    let connect = framed(&message("app", "request", "system", "c", &connect));
    world.broker.receive(newer, &connect);
    assert!(matches!(world.connection(waits).state(), State::Superseded));
    let actions: Vec<Action> = std::iter::from_fn(|| world.broker.next_action()).collect();
    assert!(actions.contains(&Action::Resume(waits)), "{actions:?}");
}

/// Whoever asks for less does not overtake those who wait, even if the turn has room for it.
#[test]
fn whoever_waits_for_work_is_served_in_the_order_in_which_it_came() {
    let mut world = World::new(Limits::default());
    for (app, channels) in [("large", 1_200), ("small", 300)] {
        for at in 0..channels {
            world.broker.context().create_channel(app, &format!("{at:040}"));
        }
    }
    let list = |app: &str| {
        let payload = json!({"action": "list_channels", "app_id": app});
        framed(&message("app", "request", "system", app, &payload))
    };
    let asks = [("first", "large"), ("second", "large"), ("third", "small"), ("fourth", "small")];
    let keys = asks.map(|(id, _)| world.connected("app", id));
    let before = world.broker.core.turn.work_done();
    for (key, (_, app)) in keys.iter().zip(asks) {
        world.broker.receive(*key, &list(app));
    }
    let work = world.end_turn(before);
    assert!((WORK_PER_TURN_MAX / 2..WORK_PER_TURN_MAX / 8 * 7).contains(&work), "{work}");
    assert_eq!(keys.map(|key| world.take(key).len()), [1, 0, 0, 0]);
    let before = world.broker.core.turn.work_done();
    world.end_turn(before);
    assert_eq!(keys.map(|key| world.take(key).len()), [0, 1, 1, 1]);
    assert!(!world.broker.core.turn.is_awaited());
}

/// Other threads ask for it, and it is sent to many.
#[test]
fn all_that_other_threads_send_to_many_is_spread_over_turns() {
    const MANY: usize = WORK_PER_TURN_MAX / CROWD_WORK_PARTS;
    const TIMES: usize = 3 * CROWD_TURN;
    type Send = fn(&crate::Handle);
    let sends: [(&str, Send); 3] = [
        ("publish", |handle| handle.publish("app", "loud", &1).unwrap()),
        ("publish_to", |handle| handle.publish_to("app", "loud", notice()).unwrap()),
        ("broadcast", |handle| handle.broadcast_to_application(notice()).unwrap()),
    ];
    for (name, send) in sends {
        let mut world = World::new(Limits::default());
        let crowd = world.subscribers("loud", MANY);
        let handle = world.broker.handle();
        (0..TIMES).for_each(|_| send(&handle));
        let mut heard = Vec::new();
        for _ in 0..TIMES {
            world.broker.begin_turn(world.now);
            let progress = world.broker.run_mailbox();
            world.act();
            heard.push(world.take(crowd[0]).len());
            if !progress.has_more {
                break;
            }
        }
        assert_eq!(heard.iter().sum::<usize>(), TIMES, "{name}");
        assert!(heard.iter().all(|count| *count <= CROWD_TURN + 1), "{name}: {heard:?}");
    }
}

fn notice() -> Message {
    let payload = crate::Json::from_serialize(&1).unwrap();
    Message::new(crate::MessageType::Publish, "app".to_owned(), "loud".to_owned(), payload)
}
