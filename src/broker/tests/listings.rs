//! What is told of services, applications and latencies, while something goes on.

use super::*;
use crate::Measure;

const HIGH_WATER_BYTES: usize = 16 << 10;

impl World {
    /// Asks for a list of the application `app`, or one of all applications.
    fn list(&mut self, asks: ConnectionKey, action: &str) -> Value {
        self.send(asks, &message("app", "request", "system", "l", &json!({"action": action})));
        self.take(asks).pop().expect("an answer")["payload"].clone()
    }

    fn durations(&mut self, measure: Measure) -> u64 {
        let mut count = 0;
        self.broker.context().for_each_histogram(|of, nanos| {
            count += if of.measure == measure { nanos.len() } else { 0 };
        });
        count
    }
}

#[test]
fn a_service_is_healthy_as_long_as_one_of_its_workers_keeps_up() {
    let limits = Limits { queue_high_water_bytes: HIGH_WATER_BYTES, ..Limits::default() };
    let mut world = World::new(limits);
    let asks = world.connected("app", "asks");
    let workers = ["one", "other"].map(|id| world.connected("app", id));
    for worker in workers {
        world.serve(worker, "app", "work");
        world.stalled.push(worker);
    }
    let mut seen = Vec::new();
    for number in 0..2 {
        let listed = world.list(asks, "list_services");
        seen.push((
            listed["services"][0]["healthy"].clone(),
            listed["services"][0]["workers"].clone(),
        ));
        world.request(asks, &format!("q{number}"), &json!("x".repeat(2 * HIGH_WATER_BYTES)));
    }
    let listed = world.list(asks, "list_services");
    seen.push((listed["services"][0]["healthy"].clone(), listed["services"][0]["workers"].clone()));
    assert_eq!(seen, [(json!(true), json!(2)), (json!(true), json!(2)), (json!(false), json!(2))]);
    world.relieve(workers[1]);
    world.act();
    assert_eq!(world.list(asks, "list_services")["services"][0]["healthy"], true);
}

/// A connect, a message and a new channel each are activity. Silence is none, and neither is what
/// happens in other applications.
#[test]
fn an_application_was_active_when_its_last_message_came() {
    let mut world = World::new(Limits::default());
    let asks = world.connected("app", "asks");
    let mut other = world.connected("other", "talks");
    let last_activity = |world: &mut World, second: u64, app: &str| {
        let listed = world.broker.context().list_applications();
        assert_eq!(world.now.unix.as_secs(), second);
        (listed[app].created_at, listed[app].last_activity)
    };
    world.pass(Duration::from_secs(10));
    assert_eq!(last_activity(&mut world, 10, "app"), (0.0, 0.0));
    for (at, kind) in ["publish", "notification", "request", "response"].iter().enumerate() {
        let at = at as u64 + 1;
        world.send(other, &message("other", kind, "nobody", "m", &json!({})));
        assert_eq!(last_activity(&mut world, 10 * at, "other"), (0.0, 10.0 * at as f64), "{kind}");
        world.pass(Duration::from_secs(10));
    }
    world.hang_up(other);
    other = world.connected("other", "comes back");
    world.pass(Duration::from_secs(5));
    assert_eq!(last_activity(&mut world, 55, "other"), (50.0, 50.0));
    world.subscribe(other, "other", "new");
    assert_eq!(last_activity(&mut world, 55, "other"), (50.0, 55.0));
    // A message for another application than one's own is refused.
    world.send(other, &message("app", "publish", "nobody", "m", &json!(1)));
    assert_eq!(last_activity(&mut world, 55, "app"), (0.0, 0.0));
    let listed = world.list(asks, "list_applications");
    assert_eq!(listed["app"]["last_activity"], 55.0, "to ask is activity, too");
}

#[test]
fn a_reset_forgets_all_latencies_whoever_has_them() {
    let mut world = World::new(Limits::default());
    let asks = world.connected("app", "asks");
    world.subscribe(asks, "app", "news");
    let stays = world.worker("work");
    let measures =
        [Measure::Request, Measure::Queue, Measure::Handler, Measure::Publication, Measure::Worker];
    let answered = |world: &mut World, worker| {
        world.request(asks, "q", &json!(1));
        let got = world.take(worker).pop().expect("a request");
        world.answer(worker, &got, &json!(2));
    };
    // One worker and one channel leave their durations behind.
    let leaves = world.connected("app", "leaves");
    world.serve(leaves, "app", "work");
    answered(&mut world, stays);
    answered(&mut world, leaves);
    world.hang_up(leaves);
    world.send(asks, &message("app", "publish", "news", "p", &json!(1)));
    world.send(asks, &message("app", "unsubscribe", "news", "u", &json!({})));
    assert_eq!(measures.map(|measure| world.durations(measure)), [2, 2, 2, 1, 2]);
    world.take(asks);
    assert_eq!(world.list(asks, "get_latency")["workers"][0]["round_trip"]["count"], 1);

    world.broker.context().reset_latencies();
    assert_eq!(measures.map(|measure| world.durations(measure)), [0; 5]);
    assert_eq!(world.list(asks, "get_latency"), json!({"channels": {}, "workers": []}));
    answered(&mut world, stays);
    assert_eq!(measures.map(|measure| world.durations(measure)), [1, 1, 1, 0, 1]);
}

/// A channel that went and comes back is a new one.
#[test]
fn a_channel_is_listed_with_what_it_has_and_since_when() {
    let mut world = World::new(Limits::default());
    let asks = world.connected("app", "asks");
    let worker = world.connected("app", "worker");
    world.pass(Duration::from_secs(10));
    world.serve(worker, "app", "work");
    world.pass(Duration::from_secs(10));
    world.subscribe(worker, "app", "news");
    world.subscribe(asks, "app", "news");
    world
        .broker
        .context()
        .application("app", "app")
        .channel("own")
        .on_request(|request| request.reply(&1));
    world.pass(Duration::from_secs(10));
    let listed = |subscribers: u32, created_at: f64, workers: u32, has_handler: bool| {
        json!({
            "subscribers": subscribers, "created_at": created_at, "workers": workers,
            "has_handler": has_handler, "kept_requests": 0,
        })
    };
    assert_eq!(
        world.list(asks, "list_channels"),
        json!({
            "work": listed(0, 10.0, 1, false),
            "news": listed(2, 20.0, 0, false),
            "own": listed(0, 20.0, 0, true),
        })
    );
    world.hang_up(worker);
    world.serve(asks, "app", "work");
    assert_eq!(
        world.list(asks, "list_channels"),
        json!({
            "work": listed(0, 30.0, 1, false),
            "news": listed(1, 20.0, 0, false),
            "own": listed(0, 20.0, 0, true),
        })
    );
    let listed = world.list(asks, "list_applications");
    assert_eq!(
        listed["app"],
        json!({
            "name": "app", "channels": ["news", "own", "work"], "connections": 1,
            "created_at": 0.0, "last_activity": 30.0,
        })
    );
}

/// The administrator may set it, and a machine may have a wrong one when it starts.
#[test]
fn the_wall_clock_changes_no_duration() {
    let mut world = World::new(Limits::default());
    let worker = world.worker("work");
    let asks = world.connected("app", "asks");
    for unix in [1_800_000_000, 5, 1_700_000_000].map(Duration::from_secs) {
        world.request(asks, "q", &json!(1));
        world.now.unix = unix;
        world.pass(Duration::from_secs(2));
        let got = world.take(worker).pop().expect("a request");
        world.answer(worker, &got, &json!(2));
    }
    assert_eq!(world.list(asks, "get_stats")["uptime_seconds"], 6.0);
    assert_eq!(world.list(asks, "get_time")["timestamp"], 1_700_000_002.0);
    let latency = &world.list(asks, "get_latency")["channels"]["work"]["request"];
    let seconds = ["p50_us", "max_us"].map(|of| latency[of].as_f64().unwrap() / 1e6);
    assert!(seconds.iter().all(|seconds| (seconds - 2.0).abs() < 0.02), "{seconds:?}");
}

#[test]
fn every_worker_is_listed_with_all_of_its_channels() {
    let mut world = World::new(Limits::default());
    let asks = world.connected("app", "asks");
    let channels = ["work", "play", "rest"];
    let workers = ["one", "other"].map(|id| world.connected("app", id));
    for worker in workers {
        for channel in channels {
            world.serve(worker, "app", channel);
        }
    }
    // Each channel gives its requests to its workers in turn.
    for channel in ["work", "work", "play"] {
        let asked = message("app", "request", channel, "q", &json!(1));
        world.send(asks, &asked);
        let (worker, got) = workers
            .into_iter()
            .find_map(|worker| Some((worker, world.take(worker).pop()?)))
            .expect("a worker has it");
        let mut answer = message("app", "response", channel, "r", &json!(2));
        answer["reply_to"] = got["message_id"].clone();
        world.send(worker, &answer);
    }
    world.take(asks);
    let listed = world.list(asks, "get_latency");
    let workers = listed["workers"].as_array().expect("a list");
    assert_eq!(workers.len(), 2);
    assert!(workers.iter().all(|worker| worker["channels"] == json!(channels)), "{listed}");
    assert_eq!([Measure::Worker, Measure::Request].map(|of| world.durations(of)), [3, 3]);
}

/// A publication is one frame for each of its subscribers, few or many.
#[test]
fn what_is_sent_is_counted_to_the_byte() {
    for subscribers in [1, 2, 30] {
        let mut world = World::new(Limits::default());
        let all: Vec<_> =
            (0..subscribers).map(|at| world.connected("app", &format!("c{at}"))).collect();
        for key in &all {
            world.subscribe(*key, "app", "news");
        }
        world.received.clear();
        let before = world.broker.core.counters.clone();
        world.send(all[0], &message("app", "publish", "news", "p", &json!("x".repeat(500))));
        let counters = world.broker.core.counters.clone();
        let bytes: usize = world.received.values().map(Vec::len).sum();
        let frames: usize = all.iter().map(|key| world.take(*key).len()).sum();
        assert_eq!(counters.bytes_out - before.bytes_out, bytes as u64, "{subscribers}");
        assert_eq!(counters.frames_out - before.frames_out, frames as u64, "{subscribers}");
    }
}
