//! The choice between workers with the extension and without.

use super::*;
use crate::broker::limits::WORKER_STUCK_AFTER;

/// Sends so many requests with an attachment, and returns how many of them each worker got.
fn share(
    world: &mut World,
    from: ConnectionKey,
    requests: usize,
    workers: &[ConnectionKey],
) -> Vec<usize> {
    for _ in 0..requests {
        world.send_body(from, &ask("q", &json!({}), 10).0);
    }
    workers.iter().map(|worker| world.got(*worker).len()).collect()
}

#[test]
fn a_worker_with_the_extension_is_preferred_for_attachments_and_for_nothing_else() {
    let mut world = World::new(Limits::default());
    let from = world.binary("from");
    let extensions = [&[][..], &["binary"], &["call"], &["call", "binary"]];
    let names = ["a", "b", "c", "d"];
    let workers: Vec<_> = names.iter().zip(extensions).map(|(id, of)| world.with(id, of)).collect();
    for worker in &workers {
        world.serve(*worker, "app", "work");
    }
    // They take turns, however many requests they have.
    assert_eq!(share(&mut world, from, 6, &workers), [0, 3, 0, 3]);
    for _ in 0..6 {
        world.send(from, &message("app", "request", "work", "q", &json!(1)));
    }
    let of_json: Vec<_> = workers.iter().map(|worker| world.got(*worker).len()).collect();
    assert_eq!(of_json, [3, 0, 3, 0], "the others have more to do");
    let (note, _) = image(&message("app", "notification", "work", "n", &cat()), 10);
    world.send_body(from, &note);
    world.send_body(from, &note);
    let of_notes: Vec<_> = workers.iter().map(|worker| world.got(*worker).len()).collect();
    assert_eq!(of_notes, [0, 1, 0, 1]);
}

#[test]
fn without_room_at_a_worker_with_the_extension_another_one_gets_base64() {
    let mut world = World::new(Limits::default());
    let from = world.binary("from");
    let native = world.binary("native");
    let plain = world.connected("app", "plain");
    let mut limited = json!({"action": "serve", "channel": "work", "concurrency": 1});
    world.send(native, &message("app", "request", "system", "s", &limited));
    limited["concurrency"] = json!(2);
    world.send(plain, &message("app", "request", "system", "s", &limited));
    world.take(native);
    world.take(plain);
    let (request, data) = ask("q", &json!({}), 10);
    world.send_body(from, &request);
    let first = world.got_one(native);
    assert_eq!(first.data, [&*data]);
    world.send_body(from, &request);
    let second = world.got_one(plain);
    assert_eq!(*second.payload(), in_base64(&data));
    // It answers, and is preferred again.
    world.send(native, &reply(&first, &json!({})));
    world.send_body(from, &request);
    assert_eq!(world.got_one(native).data, [&*data]);
    assert!(world.got(plain).is_empty());
    // One that is stuck is passed over.
    world.serve(native, "app", "work");
    world.answer(plain, &second.json, &json!(1));
    world.pass(WORKER_STUCK_AFTER * 2);
    world.send_body(from, &request);
    assert_eq!(*world.got_one(plain).payload(), in_base64(&data));
    assert!(world.got(native).is_empty());
}

#[test]
fn a_request_whose_worker_was_lost_prefers_one_with_the_extension_again() {
    let mut world = World::new(Limits::default());
    let from = world.binary("from");
    let [lost, native] = ["lost", "native"].map(|id| world.binary(id));
    let plain = world.connected("app", "plain");
    world.serve(lost, "app", "work");
    let (request, data) = ask("q", &json!({"idempotent": true}), 10);
    world.send_body(from, &request);
    world.got_one(lost);
    for worker in [plain, native] {
        world.serve(worker, "app", "work");
    }
    // It has more to do than the other one.
    world.send_body(from, &ask("other", &json!({}), 10).0);
    world.got_one(native);
    world.hang_up(lost);
    assert_eq!(world.got_one(native).data, [&*data]);
    assert!(world.got(plain).is_empty());
}
