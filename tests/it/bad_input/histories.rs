//! Places that are none, and readers that are still sent what was kept when something happens to them, to the
//! history or to the server.

use ipc_framework::{Config, HistoryRule, Limits};
use serde_json::{Value, json};

use super::{Bystanders, topical};
use crate::support::{Peer, TestServer, code, install_echo, serve};

/// The messages of the history, each of [`TEXT_BYTES`]: together more than kernels and queue hold.
const MESSAGES: usize = 120;
const TEXT_BYTES: usize = 60_000;

fn limits(messages: usize) -> Limits {
    Limits::default()
        .histories([HistoryRule::new("app", "kept.*").messages(messages).bytes(64 << 20)])
        .queue_high_water_bytes(256 << 10)
}

fn start() -> (TestServer, Bystanders) {
    let server = serve(Config::default().limits(limits(MESSAGES)), install_echo);
    let bystanders = Bystanders::of(&server);
    (server, bystanders)
}

fn text(number: usize) -> Value {
    json!(format!("{number} {}", "x".repeat(TEXT_BYTES)))
}

/// Fills the history, and returns its epoch.
fn fill(publisher: &mut Peer) -> String {
    let mut epoch = Value::Null;
    for number in 1..=MESSAGES {
        epoch = publisher.publish_acknowledged("kept.a", &text(number))["epoch"].clone();
    }
    epoch.as_str().expect("an epoch").to_owned()
}

/// Returns one who has asked for all that is kept, and has read nothing but the answer. The server waits
/// for it to read.
fn slow_reader(server: &TestServer, id: &str) -> Peer {
    let mut peer = topical(server, id);
    peer.read_nothing_early(64 << 10);
    let answer = peer.ask("subscribe", "kept.a", json!({"last": MESSAGES}));
    assert_eq!((&answer["recovered"], &answer["messages"]), (&json!(true), &json!(MESSAGES)));
    server.wait_until("its queue is filled", |stats| stats.buffered_bytes > 0);
    peer
}

/// Reads publications, of which `read` came before, until something else comes, or the end. Returns how many
/// came by then, which must be the first ones in order, and what ended them.
fn read_on(peer: &mut Peer, epoch: &str, mut read: usize) -> (usize, Option<Value>) {
    loop {
        let Ok(body) = peer.try_receive_body() else { return (read, None) };
        let message: Value = serde_json::from_slice(&body).expect("every frame is JSON");
        if message["message_type"] != "publish" {
            return (read, Some(message));
        }
        read += 1;
        assert_eq!(message["meta"], json!({"epoch": epoch, "offset": read}));
        let expected = format!("{read} ");
        assert!(message["payload"].as_str().unwrap().starts_with(&expected), "{read}");
    }
}

#[test]
fn a_place_that_is_not_there_is_not_recovered() {
    let (server, mut bystanders) = start();
    let mut publisher = topical(&server, "writer");
    let epoch = publisher.publish_acknowledged("kept.a", &json!(1))["epoch"].clone();
    publisher.publish_acknowledged("kept.a", &json!(2));
    let mut peer = topical(&server, "peer");
    for (epoch, offset, recovered, messages) in [
        (json!("foreign"), 1, false, 0),
        (json!("foreign"), 0, false, 0),
        (json!("-_Az09"), u64::MAX, false, 0),
        (epoch.clone(), 3, false, 0),
        (epoch.clone(), u64::MAX, false, 0),
        (epoch.clone(), u64::MAX - 1, false, 0),
        (epoch.clone(), 2, true, 0),
        (epoch.clone(), 1, true, 1),
        (epoch.clone(), 0, true, 2),
    ] {
        let since = json!({"since": {"epoch": epoch, "offset": offset}});
        let answer = peer.ask("subscribe", "kept.a", since);
        assert_eq!(answer["recovered"], recovered, "{offset} of {epoch}: {answer}");
        assert_eq!((&answer["messages"], &answer["offset"]), (&json!(messages), &json!(2)));
        for offset in 3 - messages..3 {
            assert_eq!(peer.receive_extended()["meta"]["offset"], offset);
        }
        let unsubscribed = peer.ask("unsubscribe", "kept.a", json!({}));
        assert_eq!(unsubscribed["status"], "unsubscribed", "and nothing else came");
    }
    for since in [
        json!({"epoch": epoch, "offset": -1}),
        json!({"epoch": epoch, "offset": 1.5}),
        json!({"epoch": epoch, "offset": "1"}),
        json!({"epoch": "", "offset": 1}),
        json!({"epoch": "x".repeat(65), "offset": 1}),
        json!({"epoch": epoch}),
        json!({"offset": 1}),
        json!([epoch, 1]),
        Value::Null,
    ] {
        let id = peer.send("subscribe", "kept.a", json!({"since": since}));
        let refused = peer.receive_extended();
        assert_eq!((code(&refused), &refused["reply_to"]), ("bad_message", &json!(id)), "{since}");
    }
    // A place of a publisher's own is not the server's.
    let own = publisher.publish_with("kept.a", &json!(3), json!({"epoch": epoch, "offset": 3}));
    let refused = publisher.receive_extended();
    assert_eq!((code(&refused), &refused["reply_to"]), ("bad_message", &own["message_id"]));
    bystanders.go_on();
}

#[test]
fn who_reads_slowly_what_was_kept_gets_all_of_it_and_holds_nobody_back() {
    let (server, mut bystanders) = start();
    let mut publisher = topical(&server, "writer");
    let epoch = fill(&mut publisher);
    let mut slow = slow_reader(&server, "slow");
    bystanders.go_on();
    // Another one is not held back by it, nor is who asks later.
    let mut quick = topical(&server, "quick");
    let answer = quick.ask("subscribe", "kept.a", json!({"last": 1}));
    assert_eq!((&answer["recovered"], &answer["messages"]), (&json!(true), &json!(1)));
    assert_eq!(quick.receive_extended()["meta"]["offset"], MESSAGES);
    // What is asked behind the replay of a channel is answered behind it.
    slow.send("request", "system", json!({"action": "ping"}));
    let (read, pong) = read_on(&mut slow, &epoch, 0);
    assert!(read <= MESSAGES && pong.expect("an answer")["payload"]["status"] == "pong");
    let rest = MESSAGES - read;
    for at in 0..rest {
        assert_eq!(slow.receive_extended()["meta"]["offset"], read + at + 1);
    }
    slow.fence();
    assert_eq!(server.stats().counters.slow_consumers, 0);
}

#[test]
fn who_is_overtaken_by_the_ring_is_closed_and_was_told_no_lie() {
    let (server, mut bystanders) = start();
    let mut publisher = topical(&server, "writer");
    let epoch = fill(&mut publisher);
    let mut slow = slow_reader(&server, "slow");
    let mut number = MESSAGES;
    while server.stats().counters.slow_consumers == 0 {
        number += 1;
        publisher.publish_acknowledged("kept.a", &text(number));
        assert!(number < 10 * MESSAGES, "the ring has overtaken it long ago");
    }
    bystanders.go_on();
    let (read, end) = read_on(&mut slow, &epoch, 0);
    assert_eq!(end, None, "it is closed without a word");
    assert!(read < number, "it cannot have got all");
}

#[test]
fn who_takes_over_in_the_middle_goes_on_where_the_other_one_stopped() {
    let (server, mut bystanders) = start();
    let mut publisher = topical(&server, "writer");
    let epoch = fill(&mut publisher);
    let mut slow = slow_reader(&server, "reader");
    assert_eq!(slow.receive_extended()["meta"]["offset"], 1);
    let mut newer = topical(&server, "reader");
    let since = json!({"since": {"epoch": epoch, "offset": 1}});
    let answer = newer.ask("subscribe", "kept.a", since);
    assert_eq!((&answer["recovered"], &answer["messages"]), (&json!(true), &json!(MESSAGES - 1)));
    publisher.publish_acknowledged("kept.a", &json!("new"));
    for offset in 2..=MESSAGES + 1 {
        assert_eq!(newer.receive_extended()["meta"], json!({"epoch": epoch, "offset": offset}));
    }
    newer.fence();
    bystanders.go_on();
    assert_eq!(server.stats().counters.slow_consumers, 0);
}

#[test]
fn a_drain_ends_a_replay_where_it_is_and_says_so() {
    let (server, mut bystanders) = start();
    let mut publisher = topical(&server, "writer");
    let epoch = fill(&mut publisher);
    let mut slow = slow_reader(&server, "slow");
    server.handle.stop();
    // Others are told, and closed, while it does not read.
    bystanders.publisher.expect_closed("shutting_down");
    let (read, notice) = read_on(&mut slow, &epoch, 0);
    let notice = notice.expect("it is told");
    assert_eq!((code(&notice), &notice["reply_to"]), ("shutting_down", &Value::Null));
    // What was on its way by then is sent.
    let (read, end) = read_on(&mut slow, &epoch, read);
    assert_eq!(end, None);
    assert!(read < MESSAGES, "kernels and queue do not hold all of it");
}

#[test]
fn who_cannot_get_what_a_reload_took_is_closed() {
    let (server, mut bystanders) = start();
    let mut publisher = topical(&server, "writer");
    let epoch = fill(&mut publisher);
    let mut slow = slow_reader(&server, "slow");
    server.handle.reload(&Config::default().limits(limits(1))).expect("it may be changed");
    let (read, end) = read_on(&mut slow, &epoch, 0);
    assert!((1..MESSAGES).contains(&read), "{read}");
    assert_eq!(end, None, "it is closed without a word");
    server.wait_until("it is counted", |stats| stats.counters.slow_consumers == 1);
    // Who asks now is told what there is.
    let mut late = topical(&server, "late");
    let answer = late.ask("subscribe", "kept.a", json!({"since": {"epoch": epoch, "offset": 1}}));
    assert_eq!((&answer["recovered"], &answer["offset"]), (&json!(false), &json!(MESSAGES)));
    bystanders.go_on();
}
