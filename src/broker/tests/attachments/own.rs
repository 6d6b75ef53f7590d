//! Attachments that the process itself sends.

use super::*;
use crate::{Blob, Json, MessageType, SendError};

/// A message of the process itself with an attachment.
fn own_message(bytes: usize) -> Message {
    let payload = Json::from_serialize(&Blob::new(vec![7; bytes])).unwrap();
    Message::new(MessageType::Publish, "app", "news", payload)
}

#[test]
fn a_broadcast_reaches_everybody_for_whom_it_is_small_enough() {
    let mut world = World::new(Limits { frame_bytes_max: 10_000, ..Limits::default() });
    let mut keys = vec![world.connected("app", "a"), world.extended("b")];
    let native = [world.binary("c"), world.with("d", &["binary"])];
    keys.push(world.connected("app", "e"));
    let sent = world.broker.context().broadcast_to_application("app", &own_message(9_000));
    assert_eq!(sent.unwrap(), 2);
    world.act();
    for key in native {
        assert_eq!(world.got_one(key).data, [[7; 9_000]]);
    }
    for key in &keys {
        assert!(world.got(*key).is_empty());
    }
    assert_eq!(world.broker.core.counters.publications_too_large, 3);
    let sent = world.broker.context().broadcast_to_application("app", &own_message(30));
    assert_eq!(sent.unwrap(), 5);
    world.act();
    let expected =
        json!({"$base64": BASE64_STANDARD.encode([7; 30]), "dtype": null, "shape": null});
    for key in keys {
        assert_eq!(*world.got_one(key).payload(), expected);
    }
    // Nobody gets what fits into no frame.
    let sent = world.broker.context().broadcast_to_application("app", &own_message(10_000));
    let Err(SendError::TooLarge { body_bytes, frame_bytes_max: 10_000 }) = sent else {
        panic!("{sent:?}")
    };
    assert!(
        (10_064..10_400).contains(&body_bytes) && body_bytes.is_multiple_of(64),
        "{body_bytes}"
    );
}

#[test]
fn the_connections_of_a_broadcast_share_one_frame_of_each_form() {
    let limits = Limits { queue_high_water_bytes: 64 << 20, ..Limits::default() };
    let mut world = World::new(limits);
    for at in 0..20 {
        let native = world.binary(&format!("b{at}"));
        let plain = world.connected("app", &format!("p{at}"));
        world.stalled.extend([native, plain]);
    }
    let work = world.broker.core.turn.work_done();
    let sent = world.broker.context().broadcast_to_application("app", &own_message(1_000_000));
    assert_eq!(sent.unwrap(), 40);
    let core = &world.broker.core;
    let encoded = 1_000_000 / 3 * 4;
    let bytes = core.pool.gauge().bytes();
    assert!((1_000_000 + encoded..3_000_000 + encoded).contains(&bytes), "{bytes}");
    let done = core.turn.work_done() - work;
    let base64_work = encoded as u64 / 256;
    let least = core.turn.fan_out_work(40, 1_000_000) as u64 + base64_work;
    assert!((least..least + base64_work).contains(&done), "{done} and {least}");
}

#[test]
fn a_message_of_the_process_that_is_not_sent_is_an_error_that_says_why() {
    let mut world = World::new(Limits { frame_bytes_max: 40_000_000, ..Limits::default() });
    let native = world.binary("native");
    world.subscribe(native, "app", "news");
    let plain = world.connected("app", "plain");
    let mut faulty = own_message(10);
    faulty.message_id = "m".repeat(300);
    let mut context = world.broker.context();
    for sent in [context.publish_message(&faulty), context.broadcast_to_application("app", &faulty)]
    {
        let Err(error @ SendError::Faulty(_)) = sent else { panic!("{sent:?}") };
        assert!(error.to_string().contains("message_id is too long"), "{error}");
    }
    let sent = context.send_to_connection(plain, &own_message(31_000_000));
    let Err(error @ SendError::TooLargeInBase64 { body_bytes, .. }) = sent else {
        panic!("{sent:?}")
    };
    assert!((41_333_336..41_334_000).contains(&body_bytes), "{error}");
    assert!(error.to_string().contains("base64"), "{error}");
    let payload = json!(["x".repeat(1 << 24)]);
    let mut parts = own_message(10);
    parts.payload = Json::from_serialize(&(Blob::new(vec![7; 10]), payload)).unwrap();
    let sent = context.publish_message(&parts);
    let Err(SendError::TooMuchJson { json_bytes }) = sent else { panic!("{sent:?}") };
    assert!((1 << 24..(1 << 24) + 400).contains(&json_bytes), "{json_bytes}");
    world.act();
    assert!(world.got(native).is_empty() && world.got(plain).is_empty());
}

#[test]
fn a_handlers_answer_that_is_too_large_in_base64_is_unsupported() {
    let mut world = World::new(Limits { frame_bytes_max: 10_000, ..Limits::default() });
    let mut app = world.broker.application("app", "The App");
    app.channel("now").on_request(|request| request.reply(&Blob::new(vec![7; 9_000])));
    app.channel("later").on_request(|request| {
        let (reply, responder) = request.defer()?;
        responder.reply(&Blob::new(vec![7; 9_000]))?;
        Ok(reply)
    });
    app.channel("larger").on_request(|request| request.reply(&Blob::new(vec![7; 11_000])));
    let plain = world.connected("app", "plain");
    let native = world.binary("native");
    for (channel, code) in
        [("now", "unsupported"), ("later", "unsupported"), ("larger", "unsupported")]
    {
        world.send(plain, &message("app", "request", channel, "q", &json!(1)));
        world.broker.begin_turn(world.now);
        world.broker.run_mailbox();
        world.act();
        world.expect_error(plain, code, "q");
    }
    world.send(native, &message("app", "request", "now", "q", &json!(1)));
    assert_eq!(world.got_one(native).data, [[7; 9_000]]);
    world.send(native, &message("app", "request", "larger", "q", &json!(1)));
    world.expect_error(native, "handler_failed", "q");
}
