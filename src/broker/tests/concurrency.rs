//! Workers that take a number of requests at a time, and the requests that are kept meanwhile.

use super::*;
use crate::TurnLimits;
use crate::broker::limits::{KEPT_MARKS_MAX, WORKER_STUCK_AFTER};

impl World {
    /// Serves `work`. Returns the answer, which comes before requests that were kept.
    pub(super) fn serve_with(&mut self, key: ConnectionKey, concurrency: &Value) -> Value {
        let before = self.received.get(&key).map_or(0, Vec::len);
        let serve = json!({"action": "serve", "channel": "work", "concurrency": concurrency});
        self.send(key, &message("app", "request", "system", "serve", &serve));
        let answer = &self.received[&key][before..];
        let (header, behind) = answer.split_first_chunk::<4>().expect("an answer");
        let body = &behind[..u32::from_be_bytes(*header) as usize];
        serde_json::from_slice::<Value>(body).expect("it is JSON")["payload"].clone()
    }

    /// Connects a worker of `work` that takes so many requests at a time.
    pub(super) fn limited(&mut self, id: &str, concurrency: u32) -> ConnectionKey {
        let key = self.connected("app", id);
        assert_eq!(self.serve_with(key, &json!(concurrency))["status"], "serving");
        self.received.remove(&key);
        key
    }

    /// Sends requests with the payloads `from..to`.
    fn ask_for(&mut self, from: ConnectionKey, numbers: std::ops::Range<usize>) {
        for at in numbers {
            self.request(from, &format!("q{at}"), &json!(at));
        }
    }

    fn kept(&self) -> usize {
        self.broker.core.requests.kept()
    }

    /// Nothing of any request or connection is left.
    pub(super) fn assert_empty(&mut self, keys: &[ConnectionKey]) {
        for key in keys {
            self.hang_up(*key);
        }
        let core = &self.broker.core;
        assert_eq!((core.requests.len(), core.requests.kept()), (0, 0));
        assert_eq!((core.router.channels.len(), core.router.applications.len()), (0, 0));
        assert_eq!((core.pool.gauge().bytes(), core.budget.tables_bytes), (0, 0));
        assert_eq!(core.timers.next_deadline(), None);
    }
}

fn numbers(messages: &[Value]) -> Vec<u64> {
    messages.iter().filter_map(|message| message["payload"].as_u64()).collect()
}

#[test]
fn a_concurrency_is_an_integer_in_its_range() {
    let mut world = World::new(Limits::default());
    for good in ["1", "4", "65536"] {
        let worker = world.connected("app", "worker");
        assert_eq!(
            world.serve_with(worker, &serde_json::from_str(good).unwrap())["status"],
            "serving"
        );
        world.received.remove(&worker);
    }
    let worker = world.connected("app", "worker");
    for bad in [
        "0",
        "65537",
        "-1",
        "1.5",
        "4.0",
        "1e1",
        "\"4\"",
        "true",
        "null",
        "[4]",
        "{}",
        "99999999999999999999",
        "4,\"c\\u006fncurrency\":4",
    ] {
        let body = [
            r#"{"message_id":"s","app_id":"app","channel_id":"system","message_type":"request","#,
            r#""payload":{"action":"serve","channel":"work","concurrency":"#,
            bad,
            r#"},"timestamp":0,"reply_to":null}"#,
        ]
        .concat();
        let mut bytes = (body.len() as u32).to_be_bytes().to_vec();
        bytes.extend_from_slice(body.as_bytes());
        world.deliver(worker, &bytes);
        let answer = world.take(worker).pop().unwrap();
        assert_eq!(
            (&answer["payload"]["code"], &answer["reply_to"]),
            (&json!("bad_message"), &json!("s")),
            "{bad}"
        );
        assert!(
            answer["payload"]["error"].as_str().unwrap().contains("from 1 to 65536"),
            "{answer}"
        );
    }
    assert_eq!(world.broker.core.router.channels.len(), 0, "nobody serves");
}

#[test]
fn a_worker_gets_as_many_as_it_takes_and_the_rest_in_order() {
    let mut world = World::new(Limits::default());
    let worker = world.limited("worker", 2);
    let asks = world.connected("app", "asks");
    world.ask_for(asks, 0..6);
    let mut tasks = world.take(worker);
    assert_eq!(numbers(&tasks), [0, 1]);
    assert_eq!(world.kept(), 4);
    for next in 2..6 {
        let task = tasks.remove(0);
        world.answer(worker, &task, &task["payload"]);
        // A second answer gives it no more room.
        world.answer(worker, &task, &task["payload"]);
        let more = world.take(worker);
        assert_eq!(numbers(&more), [next]);
        tasks.extend(more);
    }
    for task in &tasks {
        world.answer(worker, task, &task["payload"]);
    }
    let answers = world.take(asks);
    assert_eq!(numbers(&answers), [0, 1, 2, 3, 4, 5]);
    let ids = answers.iter().map(|answer| answer["reply_to"].as_str().unwrap());
    assert!(ids.eq(["q0", "q1", "q2", "q3", "q4", "q5"]));
    assert_eq!(world.broker.core.counters.forwarded, 6);
    world.assert_empty(&[worker, asks]);
}

#[test]
fn a_greater_concurrency_and_none_hand_out_what_is_kept() {
    let mut world = World::new(Limits::default());
    let worker = world.limited("worker", 1);
    let asks = world.connected("app", "asks");
    world.ask_for(asks, 0..1_000);
    assert_eq!(numbers(&world.take(worker)), [0]);
    world.serve_with(worker, &json!(3));
    assert_eq!(numbers(&world.take(worker)), [1, 2]);
    // A smaller one takes nothing back.
    world.serve_with(worker, &json!(1));
    assert!(numbers(&world.take(worker)).is_empty());
    assert_eq!(world.kept(), 997);
    let serve = json!({"action": "serve", "channel": "work"});
    world.broker.receive(worker, &framed(&message("app", "request", "system", "s", &serve)));
    // One turn hands out no more than one connection may send in it.
    let mut turns = 0;
    while world.kept() > 0 {
        let before = world.kept();
        world.act_once();
        let resumed = std::mem::take(&mut world.resumed);
        assert_eq!(resumed, [worker]);
        world.broker.receive(worker, &[]);
        assert_eq!(before - world.kept(), before.min(FRAMES_PER_TURN_MAX));
        turns += 1;
    }
    assert_eq!(turns, 997_usize.div_ceil(FRAMES_PER_TURN_MAX));
    world.act();
    assert!(numbers(&world.take(worker)).into_iter().eq(3..1_000));
    world.ask_for(asks, 1_000..1_010);
    assert_eq!(world.take(worker).len(), 10, "there is no limit any more");
    world.assert_empty(&[worker, asks]);
}

#[test]
fn a_new_worker_takes_over_what_is_kept() {
    let mut world = World::new(Limits::default());
    let first = world.limited("first", 1);
    let asks = world.connected("app", "asks");
    world.ask_for(asks, 0..10);
    let second = world.connected("app", "second");
    world.serve_with(second, &json!(4));
    assert_eq!(numbers(&world.take(second)), [1, 2, 3, 4]);
    let third = world.connected("app", "third");
    let serve = json!({"action": "serve", "channel": "work"});
    world.send(third, &message("app", "request", "system", "s", &serve));
    assert_eq!(numbers(&world.take(third)), [5, 6, 7, 8, 9]);
    assert_eq!(numbers(&world.take(first)), [0]);
    // One without a limit gets all that comes while the others are at theirs.
    world.ask_for(asks, 10..13);
    assert_eq!(numbers(&world.take(third)), [10, 11, 12]);
    world.assert_empty(&[first, second, third, asks]);
}

#[test]
fn the_least_loaded_worker_with_room_is_asked() {
    let mut world = World::new(Limits::default());
    let [one, two] = [world.limited("one", 1), world.limited("two", 3)];
    let asks = world.connected("app", "asks");
    world.ask_for(asks, 0..5);
    assert_eq!((world.take(one).len(), world.take(two).len()), (1, 3));
    assert_eq!(world.kept(), 1);
    // A notification counts for nothing and goes to one of them at once.
    for at in 0..4 {
        world.send(asks, &message("app", "notification", "work", "n", &json!(at)));
    }
    assert_eq!(world.take(one).len() + world.take(two).len(), 4);
    assert_eq!(world.kept(), 1);
    world.assert_empty(&[one, two, asks]);
}

#[test]
fn who_asked_takes_along_what_was_kept() {
    let mut world = World::new(Limits::default());
    let worker = world.limited("worker", 1);
    let leaves = world.connected("app", "leaves");
    let stays = world.connected("app", "stays");
    world.ask_for(leaves, 0..100);
    world.ask_for(stays, 100..102);
    assert_eq!(numbers(&world.take(worker)), [0]);
    world.hang_up(leaves);
    assert_eq!(world.broker.core.counters.answers_undeliverable, 100);
    // The one that the worker has is over as well, and it may never answer it.
    assert_eq!(numbers(&world.take(worker)), [100]);
    assert_eq!(world.kept(), 1);
    // A newer connection with the same id is not given the answers of the older one.
    let newer = world.connected("app", "stays");
    assert_eq!((world.kept(), world.broker.core.requests.len()), (0, 0));
    world.ask_for(newer, 200..202);
    assert_eq!(numbers(&world.take(worker)), [200]);
    world.assert_empty(&[worker, stays, newer]);
}

#[test]
fn the_time_that_a_request_is_kept_counts() {
    let mut world = World::new(Limits::default());
    let worker = world.limited("worker", 1);
    let asks = world.connected("app", "asks");
    world.ask_for(asks, 0..2);
    let task = world.take(worker).pop().unwrap();
    world.pass(Duration::from_secs(20));
    world.ask_for(asks, 2..3);
    world.answer(worker, &task, &json!("done"));
    assert_eq!(numbers(&world.take(worker)), [1]);
    world.take(asks);
    // Ten seconds after it was handed out, and thirty after it came.
    world.pass(Duration::from_secs(10));
    let answers = world.take(asks);
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(
        (&answers[0]["payload"]["code"], &answers[0]["reply_to"]),
        (&json!("timeout"), &json!("q1"))
    );
    assert!(answers[0]["payload"]["error"].as_str().unwrap().contains("check its worker"));
    // The server expects no answer to it any more.
    assert_eq!(numbers(&world.take(worker)), [2]);
    world.ask_for(asks, 3..4);
    world.pass(Duration::from_secs(20));
    world.take(asks);
    world.take(worker);
    world.ask_for(asks, 4..5);
    world.pass(Duration::from_secs(30));
    let answers = world.take(asks);
    let last = answers.last().unwrap();
    assert_eq!(last["reply_to"], "q4");
    assert!(last["payload"]["error"].as_str().unwrap().contains("was not executed"), "{last}");
    assert_eq!(world.broker.core.requests.len(), 0);
    world.assert_empty(&[worker, asks]);
}

#[test]
fn what_no_worker_got_is_safe_to_send_again() {
    let mut world = World::new(Limits::default());
    let [one, two] = ["one", "two"].map(|id| world.limited(id, 1));
    let asks = world.connected("app", "asks");
    world.ask_for(asks, 0..5);
    world.hang_up(one);
    world.expect_error(asks, "worker_lost", "q0");
    assert_eq!(world.kept(), 3, "another one serves");
    // It goes on with the request that it has, and takes no others.
    let stop = json!({"action": "stop_serving", "channel": "work"});
    world.send(two, &message("app", "request", "system", "s", &stop));
    let answers = world.take(asks);
    let codes = answers.iter().map(|answer| answer["payload"]["code"].as_str().unwrap());
    assert!(codes.eq(["no_handler"; 3]));
    let ids = answers.iter().map(|answer| answer["reply_to"].as_str().unwrap());
    assert!(ids.eq(["q2", "q3", "q4"]));
    assert!(answers[0]["payload"]["error"].as_str().unwrap().contains("was not executed"));
    let task = world.take(two).remove(0);
    world.answer(two, &task, &json!("done"));
    assert_eq!(payloads(&world.take(asks)), ["done"]);
    world.assert_empty(&[two, asks]);
}

#[test]
fn what_a_worker_has_counts_when_it_gives_a_concurrency() {
    let mut world = World::new(Limits::default());
    let worker = world.worker("work");
    world.serve(worker, "app", "other");
    let asks = world.connected("app", "asks");
    for at in 0..3 {
        world.request(asks, "q", &json!(at));
        world.send(asks, &message("app", "request", "other", "o", &json!(at)));
    }
    assert_eq!(world.take(worker).len(), 6);
    // Two more than the three of this channel.
    world.serve_with(worker, &json!(5));
    world.take(worker);
    world.ask_for(asks, 0..4);
    let tasks = world.take(worker);
    assert_eq!(numbers(&tasks), [0, 1]);
    // It stops and serves again.
    let stop = json!({"action": "stop_serving", "channel": "work"});
    let more = world.limited("more", 1);
    assert_eq!(world.kept(), 1);
    world.send(worker, &message("app", "request", "system", "s", &stop));
    world.take(worker);
    world.serve_with(worker, &json!(4));
    assert_eq!(world.take(worker).len(), 1, "the answer alone");
    world.answer(worker, &tasks[0], &json!(0));
    assert_eq!(world.take(worker).len(), 0);
    world.answer(worker, &tasks[1], &json!(0));
    assert_eq!(numbers(&world.take(worker)), [3]);
    world.assert_empty(&[worker, more, asks]);
}

#[test]
fn a_worker_that_is_stuck_gets_what_the_others_have_no_room_for() {
    let mut world = World::new(Limits::default());
    let [stuck, works] = ["stuck", "works"].map(|id| world.limited(id, 2));
    let asks = world.connected("app", "asks");
    world.ask_for(asks, 0..2);
    world.take(stuck);
    let task = world.take(works).remove(0);
    world.pass(WORKER_STUCK_AFTER * 2);
    world.answer(works, &task, &json!("done"));
    world.ask_for(asks, 2..4);
    assert_eq!((world.take(stuck).len(), world.take(works).len()), (0, 2));
    world.ask_for(asks, 4..6);
    assert_eq!((world.take(stuck).len(), world.take(works).len()), (1, 0));
    assert_eq!(world.kept(), 1);
    world.assert_empty(&[stuck, works, asks]);
}

#[test]
fn a_drain_answers_what_is_kept() {
    let mut world = World::new(Limits::default());
    let [one, two] = ["one", "two"].map(|id| world.limited(id, 1));
    let asks = world.connected("app", "asks");
    world.ask_for(asks, 0..6);
    world.broker.begin_drain();
    world.act();
    for _ in 0..3 {
        for worker in [one, two] {
            let tasks = world.take(worker);
            let task = tasks.iter().find(|task| task["message_type"] == "request").unwrap();
            world.answer(worker, task, &task["payload"]);
        }
    }
    assert_eq!(numbers(&world.take(asks)), [0, 1, 2, 3, 4, 5]);
    world.pass(limits::LINGER);
    assert!(world.broker.is_drained(), "the workers are not waited for");
}

#[test]
fn a_drain_waits_for_a_worker_that_is_to_get_what_is_kept() {
    let mut world = World::new(Limits::default());
    let worker = world.limited("worker", 1);
    let leaves = world.connected("app", "leaves");
    let asks = world.connected("app", "asks");
    world.ask_for(leaves, 0..1);
    world.ask_for(asks, 1..2);
    world.take(worker);
    world.broker.begin_drain();
    world.act();
    world.broker.hang_up(leaves, HangUp::Reset);
    // It has nothing in flight at this moment.
    world.broker.exhausted(worker);
    world.act();
    let tasks = world.take(worker);
    let task = tasks.iter().find(|task| task["message_type"] == "request").unwrap();
    world.answer(worker, task, &json!("done"));
    assert_eq!(world.take(asks).last().unwrap()["payload"], "done");
    world.pass(limits::LINGER);
    assert!(world.broker.is_drained());
}

#[test]
fn a_drain_that_takes_too_long_cuts_off_what_is_kept() {
    let mut world = World::new(Limits::default());
    let worker = world.limited("worker", 1);
    let asks = world.connected("app", "asks");
    world.ask_for(asks, 0..3);
    world.take(worker);
    world.broker.begin_drain();
    world.act();
    world.take(asks);
    world.pass(Limits::default().drain_timeout);
    let answers = world.take(asks);
    let codes = answers.iter().map(|answer| answer["payload"]["code"].as_str().unwrap());
    assert!(codes.eq(["timeout"; 3]));
    assert_eq!((world.kept(), world.broker.core.requests.len()), (0, 0));
}

/// If their requesters waited, their heartbeats would wait as well.
#[test]
fn more_than_so_many_kept_bytes_are_refused_and_nobody_is_held_back() {
    const MARK: usize = 2_000;
    let limits = Limits { queue_high_water_bytes: MARK, ..Limits::default() };
    let mut world = World::new(limits);
    let worker = world.limited("worker", 1);
    let asks = ["one", "two"].map(|id| world.connected("app", id));
    let payload = json!("x".repeat(1_000));
    let mut kept = 0;
    for at in 0..60 {
        for key in asks.into_iter().chain([worker]) {
            world.request(key, &format!("q{at}"), &payload);
            assert!(!world.is_parked(key));
        }
        kept = kept.max(world.kept());
    }
    let bytes = kept * payload.to_string().len();
    assert!((MARK * KEPT_MARKS_MAX * 3 / 4..MARK * KEPT_MARKS_MAX).contains(&bytes), "{bytes}");
    let refused = |answer: &Value| answer["payload"]["code"] == "limit_exceeded";
    for key in asks {
        assert!(world.take(key).iter().all(refused));
    }
    let (tasks, answers): (Vec<Value>, Vec<Value>) =
        world.take(worker).into_iter().partition(|message| message["message_type"] == "request");
    assert!(!answers.is_empty() && answers.iter().all(refused));
    // There is room again after an answer.
    world.answer(worker, &tasks[0], &json!("done"));
    world.request(asks[0], "again", &payload);
    assert!(!world.take(asks[0]).iter().any(refused));
}

/// A busy channel takes nothing from the others of its worker.
#[test]
fn the_channels_of_a_worker_take_turns_for_what_is_kept() {
    const EACH: usize = 4;
    let turn = TurnLimits::default().frames_per_connection_max(EACH);
    let mut world = World::new(Limits::default().turn(turn));
    let worker = world.connected("app", "worker");
    let asks = world.connected("app", "asks");
    let serve = |channel: &str, concurrency: Option<u32>| {
        let payload = json!({"action": "serve", "channel": channel, "concurrency": concurrency});
        let mut serve = message("app", "request", "system", "s", &payload);
        if concurrency.is_none() {
            serve["payload"].as_object_mut().unwrap().remove("concurrency");
        }
        framed(&serve)
    };
    let channels = ["one", "two"];
    for channel in channels {
        world.deliver(worker, &serve(channel, Some(1)));
        for at in 0..3 * EACH {
            world.send(asks, &message("app", "request", channel, &format!("q{at}"), &json!(at)));
        }
    }
    world.take(worker);
    let both = channels.map(|channel| serve(channel, None)).concat();
    world.broker.receive(worker, &both);
    let mut handed_out = Vec::new();
    for _ in 0..2 {
        world.broker.receive(worker, &[]);
        world.act_once();
        let mut got = world.take(worker);
        got.retain(|message| message["message_type"] == "request");
        assert!(
            got.len() == EACH && got.iter().all(|one| one["channel_id"] == got[0]["channel_id"])
        );
        handed_out.push(got.remove(0)["channel_id"].as_str().unwrap().to_owned());
    }
    handed_out.sort_unstable();
    assert_eq!(handed_out, channels);
}

/// Else a worker that hangs would never be closed for its silence.
#[test]
fn what_a_worker_is_handed_is_no_sign_of_its_life() {
    let idle = Duration::from_secs(60);
    let limits = Limits::default().idle_timeout(idle).request_timeout(Duration::from_secs(10));
    let mut world = World::new(limits);
    let worker = world.limited("worker", 1);
    let asks = world.connected("app", "asks");
    for at in 0..8 {
        for id in ["a", "b"] {
            world.request(asks, &format!("{id}{at}"), &json!(1));
        }
        world.pass(Duration::from_secs(10));
    }
    assert!(world.broker.core.connections.session(worker).is_none(), "it said nothing for 80 s");
}

#[test]
fn what_is_kept_counts_as_the_requesters_memory() {
    let limits = Limits {
        memory_bytes_max: 8 << 20,
        frame_bytes_max: 2 << 20,
        queue_high_water_bytes: 64 << 20,
        ..Limits::default()
    };
    let mut world = World::new(limits);
    let worker = world.limited("worker", 1);
    let [greedy, modest] = ["greedy", "modest"].map(|id| world.connected("app", id));
    world.request(modest, "m0", &json!("x".repeat(500_000)));
    world.request(modest, "m1", &json!("x".repeat(500_000)));
    world.take(worker);
    for at in 0..8 {
        if world.closed.contains(&greedy) || world.shut.contains(&greedy) {
            break;
        }
        world.request(greedy, &format!("q{at}"), &json!("x".repeat(1_000_000)));
        let held = world.broker.core.memory_bytes();
        assert!(held <= 8 << 20, "{held}");
    }
    world.expect_error(greedy, "limit_exceeded", json!(null));
    assert_eq!(world.kept(), 1, "that of who holds less");
    world.pass(Limits::default().slow_consumer_grace);
    world.assert_empty(&[worker, greedy, modest]);
}

#[test]
fn a_worker_that_reads_slowly_is_handed_nothing() {
    let limits = Limits { queue_high_water_bytes: 10_000, ..Limits::default() };
    let mut world = World::new(limits);
    let worker = world.limited("worker", 4);
    let asks = world.connected("app", "asks");
    world.stalled.push(worker);
    let payload = json!("x".repeat(6_000));
    for at in 0..2 {
        world.request(asks, &format!("q{at}"), &payload);
    }
    assert!(world.connection(worker).congested.is_some());
    // Another one is at its limit, so that requests are kept.
    let other = world.limited("other", 1);
    for at in 2..4 {
        world.request(asks, &format!("q{at}"), &json!(at));
    }
    assert_eq!((numbers(&world.take(other)), world.kept()), (vec![2], 1));
    world.stalled.clear();
    world.relieve(worker);
    world.act();
    assert_eq!(numbers(&world.take(worker)), [3], "it has room for two more");
    world.assert_empty(&[worker, other, asks]);
}

#[test]
fn a_handler_of_the_server_answers_before_anything_is_kept() {
    let mut world = World::new(Limits::default());
    let worker = world.limited("worker", 1);
    let mut context = world.broker.context();
    context.application("app", "The App").channel("work").on_request(|request| {
        let number: u64 = request.payload()?;
        if number.is_multiple_of(2) { request.reply(&"even") } else { Ok(request.pass_on()) }
    });
    world.broker.advance();
    let asks = world.connected("app", "asks");
    world.ask_for(asks, 0..6);
    assert_eq!(payloads(&world.take(asks)), ["even"; 3]);
    assert_eq!((numbers(&world.take(worker)), world.kept()), (vec![1], 2));
    assert!(world.broker.context().remove_channel("app", "work"));
    assert_eq!(world.kept(), 2, "its worker goes on");
    world.broker.advance();
    world.hang_up(worker);
    assert_eq!(world.take(asks).len(), 3);
    assert_eq!(world.broker.core.requests.len(), 0);
}

#[test]
fn who_serves_itself_leaves_nothing_kept() {
    let mut world = World::new(Limits::default());
    let both = world.limited("both", 1);
    world.ask_for(both, 0..5);
    let task = world.take(both).remove(0);
    world.answer(both, &task, &json!("done"));
    assert_eq!(world.take(both).len(), 2, "the next task, and the answer");
    assert_eq!(world.kept(), 3);
    world.assert_empty(&[both]);
}

#[test]
fn a_requester_that_pipelines_has_as_many_kept_as_it_may_have_unanswered() {
    let mut world = World::new(Limits::default());
    let worker = world.limited("worker", 8);
    let asks = world.connected("app", "asks");
    let requests: Vec<u8> = (0..10_000)
        .flat_map(|at| framed(&message("app", "request", "work", &format!("q{at}"), &json!(at))))
        .collect();
    for chunk in requests.chunks(64 << 10) {
        world.deliver(asks, chunk);
    }
    let most = Limits::default().pending_per_connection_max;
    assert_eq!((world.broker.core.requests.len(), world.kept()), (most, most - 8));
    let refused = world.take(asks);
    assert_eq!(refused.len(), 10_000 - most);
    assert!(refused.iter().all(|answer| answer["payload"]["code"] == "limit_exceeded"));
    let mut expected = 0;
    loop {
        let tasks = world.take(worker);
        if tasks.is_empty() {
            break;
        }
        for task in tasks {
            assert_eq!(task["payload"], expected);
            expected += 1;
            world.answer(worker, &task, &task["payload"]);
        }
    }
    assert!(numbers(&world.take(asks)).into_iter().eq(0..most as u64));
    world.assert_empty(&[worker, asks]);
}

#[test]
fn statistics_show_what_is_kept() {
    let mut world = World::new(Limits::default());
    let worker = world.limited("worker", 3);
    let free = world.connected("app", "free");
    world.serve(free, "app", "else");
    let asks = world.connected("app", "asks");
    world.ask_for(asks, 0..10);
    let system = |world: &mut World, action: &str| {
        world.send(asks, &message("app", "request", "system", action, &json!({"action": action})));
        world.take(asks).pop().unwrap()["payload"].clone()
    };
    assert_eq!(
        system(&mut world, "list_services"),
        json!({"services": [
            {"name": "else", "healthy": true, "workers": 1, "kept_requests": 0},
            {"name": "work", "healthy": true, "workers": 1, "concurrency": [3], "kept_requests": 7},
        ]})
    );
    assert_eq!(system(&mut world, "list_channels")["work"]["kept_requests"], 7);
    let stats = system(&mut world, "get_stats");
    assert_eq!((&stats["kept_requests"], &stats["pending_requests"]), (&json!(7), &json!(10)));
    // The first one is answered at once, and the fourth waits for that.
    let tasks = world.take(worker);
    world.pass(Duration::from_secs(1));
    world.answer(worker, &tasks[0], &json!("done"));
    let next = world.take(worker).pop().unwrap();
    world.pass(Duration::from_secs(1));
    world.answer(worker, &next, &json!("done"));
    world.take(asks);
    let latency = &system(&mut world, "get_latency")["channels"]["work"];
    let max = |measure: &str| latency[measure]["max_us"].as_f64().unwrap() / 1e6;
    assert!((max("queue") - 1.0).abs() < 0.01, "{latency}");
    assert!((max("handler") - 1.0).abs() < 0.01, "{latency}");
    assert!((max("request") - 2.0).abs() < 0.01, "{latency}");
    world.assert_empty(&[worker, free, asks]);
}
