//! What the process is told about who is there.

use std::sync::{Arc, Mutex};

use super::*;
use crate::HistoryRule;
use crate::broker::{Interest, InterestIn, Peer};

/// What the hook was told since the last look, as `+` or `-`, the application, and what of it.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    fn listen(world: &mut World) -> Self {
        let told = Self::default();
        world.broker.on_interest(told.hook());
        told
    }

    fn hook(&self) -> impl FnMut(&Interest<'_>) + Send + 'static {
        let list = self.0.clone();
        move |interest| {
            let sign = if interest.is_wanted { '+' } else { '-' };
            let what = match interest.subject {
                InterestIn::Application => String::new(),
                InterestIn::Channel(id) => format!(" hears {id}"),
                InterestIn::Pattern(pattern) => format!(" hears all {pattern}"),
                InterestIn::Workers(id) => format!(" serves {id}"),
            };
            list.lock().unwrap().push(format!("{sign}{}{what}", interest.application));
        }
    }

    #[track_caller]
    fn expect(&self, expected: &[&str]) {
        assert_eq!(std::mem::take(&mut *self.0.lock().unwrap()), expected);
    }
}

/// A connection with the extension `topic`.
fn topical(world: &mut World, id: &str) -> ConnectionKey {
    let key = world.accept();
    let connect = json!({"action": "connect", "connection_id": id, "extensions": ["topic"]});
    world.send(key, &message("app", "request", "system", "c", &connect));
    assert_eq!(world.take(key)[0]["payload"]["status"], "connected");
    key
}

fn change(world: &mut World, key: ConnectionKey, kind: &str, channel: &str, payload: &Value) {
    world.send(key, &message("app", kind, channel, "s", payload));
}

#[test]
fn the_first_and_the_last_are_told_and_nobody_between() {
    let mut world = World::new(Limits::default());
    let told = Told::listen(&mut world);
    told.expect(&[]);
    let [one, two] = ["1", "2"].map(|id| world.connected("app", id));
    told.expect(&["+app"]);
    world.subscribe(one, "app", "news");
    world.subscribe(one, "app", "news");
    world.subscribe(two, "app", "news");
    told.expect(&["+app hears news"]);
    world.serve(one, "app", "work");
    world.serve(two, "app", "work");
    told.expect(&["+app serves work"]);
    change(&mut world, one, "unsubscribe", "news", &json!({}));
    world.hang_up(one);
    told.expect(&[]);
    world.hang_up(two);
    told.expect(&["-app hears news", "-app serves work", "-app"]);
}

#[test]
fn patterns_and_conflation_are_told() {
    let mut world = World::new(Limits::default());
    let told = Told::listen(&mut world);
    let [one, two] = ["1", "2"].map(|id| topical(&mut world, id));
    told.expect(&["+app"]);
    change(&mut world, one, "subscribe", "news.*", &json!({"pattern": true}));
    change(&mut world, two, "subscribe", "news.*", &json!({"pattern": true, "conflate": true}));
    change(&mut world, two, "subscribe", "news.>", &json!({"pattern": true}));
    told.expect(&["+app hears all news.*", "+app hears all news.>"]);
    change(&mut world, one, "subscribe", "x", &json!({"conflate": true}));
    change(&mut world, two, "subscribe", "x", &json!({}));
    told.expect(&["+app hears x"]);
    change(&mut world, one, "unsubscribe", "x", &json!({}));
    change(&mut world, one, "unsubscribe", "news.*", &json!({"pattern": true}));
    told.expect(&[]);
    change(&mut world, two, "unsubscribe", "news.*", &json!({"pattern": true}));
    told.expect(&["-app hears all news.*"]);
    change(&mut world, two, "unsubscribe", "x", &json!({}));
    told.expect(&["-app hears x"]);
    world.hang_up(two);
    told.expect(&["-app hears all news.>"]);
}

/// Whoever is still sent what was kept is a subscriber, unless it hears the channel by a pattern.
#[test]
fn a_subscriber_of_what_was_kept_is_told_once() {
    let rule = HistoryRule::new("app", "news").messages(100);
    let limits = Limits { queue_high_water_bytes: 100_000, ..Limits::default() };
    let mut world = World::new(limits.histories([rule]));
    let publisher = topical(&mut world, "p");
    for id in 0..50 {
        let text = "x".repeat(10_000);
        change(&mut world, publisher, "publish", "news", &json!({"id": id, "text": text}));
    }
    let told = Told::listen(&mut world);
    told.expect(&["+app"]);
    let [one, two] = ["1", "2"].map(|id| topical(&mut world, id));
    world.stalled = vec![one, two];
    change(&mut world, two, "subscribe", "*", &json!({"pattern": true, "last": 100}));
    told.expect(&["+app hears all *"]);
    change(&mut world, one, "subscribe", "news", &json!({"last": 100}));
    assert!(world.connection(one).is_replaying && world.connection(two).is_replaying);
    told.expect(&["+app hears news"]);
    change(&mut world, one, "unsubscribe", "news", &json!({}));
    told.expect(&["-app hears news"]);
    world.stalled.clear();
    change(&mut world, publisher, "subscribe", "news", &json!({"last": 100}));
    assert!(!world.connection(publisher).is_replaying);
    told.expect(&["+app hears news"]);
    world.hang_up(publisher);
    told.expect(&["-app hears news"]);
    world.hang_up(one);
    world.hang_up(two);
    told.expect(&["-app hears all *", "-app"]);
}

#[test]
fn what_the_process_itself_has_is_told() {
    let mut world = World::new(Limits::default());
    let told = Told::listen(&mut world);
    world.broker.application("app", "App");
    world.broker.application("app", "App").channel("quiet").on_notification(|_| Ok(()));
    told.expect(&["+app"]);
    for _ in 0..2 {
        world.broker.application("app", "A").channel("price").on_request(|it| it.reply(&1));
    }
    world.broker.fallback().on_request(|request| request.reply(&2));
    told.expect(&["+app serves price"]);
    let worker = world.connected("app", "w");
    world.serve(worker, "app", "price");
    world.broker.context().remove_channel("app", "price");
    told.expect(&[]);
    world.hang_up(worker);
    told.expect(&["-app serves price"]);
    world.broker.application("app", "A").channel("gone").on_request(|it| it.reply(&1));
    world.broker.context().remove_channel("app", "gone");
    told.expect(&["+app serves gone", "-app serves gone"]);
    let subscriber = world.connected("app", "s");
    world.broker.context().subscribe(subscriber, "news");
    told.expect(&["+app hears news"]);
    world.broker.context().remove_channel("app", "news");
    told.expect(&["-app hears news"]);
}

#[test]
fn a_hook_is_told_what_is_there_and_a_later_one_again() {
    let mut world = World::new(Limits::default());
    let key = topical(&mut world, "1");
    world.subscribe(key, "app", "news");
    change(&mut world, key, "subscribe", ">", &json!({"pattern": true}));
    world.serve(key, "app", "work");
    for _ in 0..2 {
        let told = Told::listen(&mut world);
        let mut there = std::mem::take(&mut *told.0.lock().unwrap());
        assert_eq!(there[0], "+app", "it comes before what is wanted of it");
        there.sort_unstable();
        let all = ["+app", "+app hears all >", "+app hears news", "+app serves work"];
        assert_eq!(there, all);
        world.subscribe(key, "app", "news");
        told.expect(&[]);
    }
}

#[test]
fn a_take_over_ends_what_the_older_wanted_and_not_its_application() {
    let mut world = World::new(Limits::default());
    let told = Told::listen(&mut world);
    let older = world.connected("app", "1");
    world.subscribe(older, "app", "news");
    told.expect(&["+app", "+app hears news"]);
    let newer = world.connected("app", "1");
    told.expect(&["-app hears news"]);
    world.subscribe(newer, "app", "news");
    told.expect(&["+app hears news"]);
    world.broker.begin_drain();
    world.act();
    told.expect(&["-app hears news", "-app"]);
}

#[test]
fn a_reload_and_a_purge_tell_nothing() {
    let rule = HistoryRule::new("app", "news").messages(100);
    let limits = Limits { histories: vec![rule], ..Limits::default() };
    let mut world = World::new(limits.clone());
    let told = Told::listen(&mut world);
    let key = topical(&mut world, "1");
    world.subscribe(key, "app", "news");
    change(&mut world, key, "publish", "news", &json!(1));
    told.expect(&["+app", "+app hears news"]);
    world.broker.reconfigure(Limits { histories: Vec::new(), ..limits.clone() }, Access::default());
    world.broker.reconfigure(limits, Access::default());
    world.broker.set_user(0);
    world.act();
    told.expect(&[]);
}

#[test]
fn links_want_nothing() {
    let mut world = World::new(Limits::default());
    let told = Told::listen(&mut world);
    let link = world.broker.accept_from(Peer::Link).unwrap();
    let connect = json!({"action": "connect", "connection_id": "$link/1"});
    world.send(link, &message("app", "request", "system", "c", &connect));
    change(&mut world, link, "subscribe", ">", &json!({"pattern": true}));
    world.take(link);
    world.serve(link, "app", "work");
    told.expect(&[]);
    let key = world.connected("app", "1");
    world.hang_up(key);
    told.expect(&["+app", "-app"]);
}

#[test]
fn the_hook_of_the_process_and_that_of_a_bridge_stand_side_by_side() {
    let mut world = World::new(Limits::default());
    let own = Told::listen(&mut world);
    let one = world.connected("app", "1");
    own.expect(&["+app"]);
    let bridge = Told::default();
    world.broker.context().join([], bridge.hook());
    own.expect(&[]);
    bridge.expect(&["+app"]);
    world.subscribe(one, "app", "news");
    own.expect(&["+app hears news"]);
    bridge.expect(&["+app hears news"]);
    let later = Told::listen(&mut world);
    later.expect(&["+app", "+app hears news"]);
    bridge.expect(&[]);
    world.hang_up(one);
    for told in [later, bridge] {
        told.expect(&["-app hears news", "-app"]);
    }
    own.expect(&[]);
}

#[test]
fn a_hook_that_panics_is_counted() {
    let mut world = World::new(Limits::default());
    world.broker.on_interest(|_| panic!("as the test wants"));
    let key = world.connected("app", "1");
    world.subscribe(key, "app", "news");
    assert_eq!(world.broker.core.counters.handler_panics, 2);
}
