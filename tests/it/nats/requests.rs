//! Requests go to workers of other servers, and their answers come back.

use ipc_framework::HandlerError;
use serde_json::json;

use super::nats_server::NatsServer;
use super::{joined, joined_with, refused, until_served, within_a_moment};
use crate::support::eventually;
use ipc_framework::NatsOptions;

#[test]
fn requests_are_answered_by_workers_of_the_other_server_both_ways() {
    let nats = NatsServer::start();
    let servers = [joined(&nats), joined(&nats)];
    for (here, there) in [(0, 1), (1, 0)] {
        let channel = format!("of-{there}");
        let mut worker = servers[there].connected("app", "worker").serving(&channel);
        let answering = std::thread::spawn(move || {
            for _ in 0..20 {
                let task = worker.receive();
                let payload = json!({"did": task["payload"]});
                worker.answer(&task, payload);
            }
        });
        let mut asks = servers[here].connected("app", "asks");
        assert_eq!(until_served(&mut asks, &channel, &json!(0)), json!({"did": 0}));
        for number in 1..20 {
            assert_eq!(asks.request(&channel, json!(number)), json!({"did": number}));
        }
        answering.join().unwrap();
    }
}

#[test]
fn errors_of_handlers_and_channels_that_nobody_serves_are_told() {
    let nats = NatsServer::start();
    let options = NatsOptions::new([nats.url()]);
    let there = joined_with(&options, |server| {
        let mut app = server.application("app", "App");
        app.channel("fails").on_request(|_| Err(HandlerError::from("not today")));
        app.channel("echo").on_request(|request| {
            let payload = request.json();
            request.reply_json(&payload)
        });
    });
    let here = joined(&nats);
    let mut asks = here.connected("app", "asks");
    assert_eq!(until_served(&mut asks, "echo", &json!([1])), json!([1]));
    let failed = asks.request("fails", json!(1));
    assert_eq!(failed["code"], "handler_failed", "{failed}");
    assert_eq!(refused(&mut asks, "nobody"), "no_handler");
    let mut stranger = here.connected("another", "asks");
    assert_eq!(refused(&mut stranger, "echo"), "no_handler");
    drop(there);
}

#[test]
fn local_workers_come_first_and_the_other_servers_when_they_are_gone() {
    let nats = NatsServer::start();
    let (here, there) = (joined(&nats), joined(&nats));
    let mut remote = there.connected("app", "remote").serving("work");
    let mut asks = here.connected("app", "asks");
    let answers = std::thread::spawn(move || {
        let mut tasks = 0;
        while let Ok(task) = remote.try_receive() {
            remote.answer(&task, "remote");
            tasks += 1;
        }
        tasks
    });
    assert_eq!(until_served(&mut asks, "work", &json!(0)), "remote");
    let mut local = here.connected("app", "local").serving("work");
    for number in 0..20 {
        let id = asks.send("request", "work", json!(number));
        let task = local.receive();
        local.answer(&task, "local");
        asks.expect_answer(&id, "local");
    }
    drop(local);
    here.wait_until("the local worker gone", |stats| stats.total_connections == 1);
    assert_eq!(asks.request("work", json!(0)), "remote");
    drop(there);
    assert!(answers.join().unwrap() >= 2);
}

/// Nothing is answered, so that what was sent while the servers did not know of all workers is made up for.
#[test]
fn a_server_with_four_workers_gets_four_times_what_one_with_a_single_worker_gets() {
    let nats = NatsServer::start();
    let [here, four, one] = [joined(&nats), joined(&nats), joined(&nats)];
    let many: Vec<_> =
        (0..4).map(|id| four.connected("app", &format!("worker {id}")).serving("work")).collect();
    let single = one.connected("app", "single").serving("work");
    let mut asks = here.connected("app", "asks");
    let (mut sent, mut got) = (0, [0; 2]);
    eventually("requests in proportion to the workers", || {
        for _ in 0..10 {
            asks.send("request", "work", json!(sent));
            sent += 1;
        }
        // Before the workers are known, it is refused.
        while within_a_moment(&asks).is_some() {
            sent -= 1;
        }
        while got[0] + got[1] < sent {
            let before = got;
            got[0] += many.iter().filter(|worker| within_a_moment(worker).is_some()).count();
            got[1] += usize::from(within_a_moment(&single).is_some());
            if before == got {
                break;
            }
        }
        assert!(sent < 1_000, "{got:?}");
        (got[1] >= 10 && got[0].abs_diff(4 * got[1]) <= 4).then_some(())
    });
}
