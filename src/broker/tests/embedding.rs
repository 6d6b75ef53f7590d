//! Handlers, filters, hooks and other threads, of a broker without any loop around it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use super::*;
use crate::{Blob, HandleError, Json, Measure, MessageType, TurnLimits, Verdict};

impl World {
    fn answer_to(&mut self, key: ConnectionKey, channel: &str, payload: &Value) -> Value {
        self.send(key, &message("app", "request", channel, "q", payload));
        let answers = self.take(key);
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers[0]["payload"].clone()
    }

    fn run_mailbox(&mut self) {
        self.broker.begin_turn(self.now);
        self.broker.run_mailbox();
        self.act();
    }
}

#[test]
fn handlers_a_filter_and_hooks_need_no_loop() {
    let mut world = World::new(Limits::default());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (came, went) = (seen.clone(), seen.clone());
    world.broker.on_connect(move |info, context| {
        came.lock().unwrap().push(format!("{} came", info.connection_id));
        context.subscribe(info.key, "news");
    });
    world.broker.on_disconnect(move |info, _| {
        went.lock().unwrap().push(format!("{} went", info.connection_id));
    });
    world.broker.filter(|delivery| match delivery.json().as_str() {
        "\"secret\"" => Err("not this".into()),
        _ => Ok(Verdict::CarryOut),
    });
    let mut app = world.broker.application("app", "The App");
    app.channel("double").on_request(|request| {
        let x: f64 = request.payload()?;
        request.reply(&(2.0 * x))
    });
    app.channel("news").on_notification(|mut note| {
        let payload: Value = note.payload()?;
        note.publish("news", &payload)?;
        Ok(())
    });
    world.broker.fallback().on_request(|request| request.reply(&"anything"));
    let key = world.connected("app", "ann");
    assert_eq!(world.answer_to(key, "double", &json!(21)), 42.0);
    assert_eq!(world.answer_to(key, "else", &json!(1)), "anything");
    world.send(key, &message("app", "notification", "news", "n", &json!("it works")));
    assert_eq!(payloads(&world.take(key)), [json!("it works")]);
    world.send(key, &message("app", "publish", "news", "p", &json!("secret")));
    world.expect_error(key, "forbidden", "p");
    world.broker.hang_up(key, HangUp::EndOfStream);
    world.act();
    assert_eq!(*seen.lock().unwrap(), ["ann came", "ann went"]);
}

#[test]
fn a_handler_may_be_set_while_any_of_them_runs() {
    let mut world = World::new(Limits::default());
    world.broker.on_connect(|info, context| {
        let mut app = context.application(info.app_id, "The App");
        app.channel("grow").on_request(|mut request| {
            let id: String = request.payload()?;
            let context = request.context();
            let mut app = context.application("app", "The App");
            // It replaces itself, and another one.
            app.channel("grow").on_request(|request| request.reply(&"grown"));
            app.channel(&id).on_request(|request| request.reply(&"new"));
            context.fallback().on_request(|request| request.reply(&"fallback"));
            request.reply(&"growing")
        });
    });
    let key = world.connected("app", "ann");
    // The messages that use what the first one sets are in the same read.
    let ask = |channel: &str, payload: Value| {
        framed(&message("app", "request", channel, channel, &payload))
    };
    let bytes = [
        ask("grow", json!("branch")),
        ask("branch", json!(0)),
        ask("grow", json!(0)),
        ask("other", json!(0)),
    ];
    world.deliver(key, &bytes.concat());
    let answers = payloads(&world.take(key));
    assert_eq!(answers, [json!("growing"), json!("new"), json!("grown"), json!("fallback")]);
    // A removed channel takes its handlers along, in the order in which things were asked for.
    let mut context = world.broker.context();
    context.remove_channel("app", "branch");
    context.application("app", "The App").channel("leaf").on_request(|_| Err("gone".into()));
    assert!(context.remove_channel("app", "leaf"));
    let mut app = context.application("app", "The App");
    app.channel("leaf").on_request(|request| request.reply(&"leaf"));
    assert_eq!(world.answer_to(key, "branch", &json!(0)), "fallback");
    assert_eq!(world.answer_to(key, "leaf", &json!(0)), "leaf");
}

#[test]
fn other_threads_publish_ask_and_set_handlers() {
    let mut world = World::new(Limits::default());
    let woken = Arc::new(AtomicUsize::new(0));
    let count = woken.clone();
    world.broker.set_waker(move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let key = world.connected("app", "ann");
    world.subscribe(key, "app", "news");
    world.take(key);
    let handle = world.broker.handle();
    let publisher = handle.publisher("app", "news");
    assert_eq!((publisher.app_id(), publisher.channel_id()), ("app", "news"));
    let asking = std::thread::spawn(move || {
        handle.publish("app", "news", &1).unwrap();
        publisher.publish(&2).unwrap();
        publisher.clone().publish_json(Json::parse("[3]").unwrap()).unwrap();
        handle.publish("app", "nobody listens", &4).unwrap();
        handle
            .post(|context| {
                let mut app = context.application("app", "The App");
                app.channel("late").on_request(|request| request.reply(&"in time"));
            })
            .unwrap();
        handle.post(|_| panic!("caught")).unwrap();
        handle.with(|context| context.connections_of("app").len()).unwrap()
    });
    while !asking.is_finished() {
        world.run_mailbox();
    }
    assert_eq!(asking.join().unwrap(), 1);
    assert_eq!(payloads(&world.take(key)), [json!(1), json!(2), json!([3])]);
    assert_eq!(world.answer_to(key, "late", &json!(0)), "in time");
    assert_eq!(world.broker.core.counters.handler_panics, 1);
    assert!((1..=7).contains(&woken.load(Ordering::Relaxed)), "{woken:?}");
}

#[test]
fn a_publisher_finds_the_channel_that_has_the_name_now() {
    let mut world = World::new(Limits::default());
    let key = world.connected("app", "ann");
    let publisher = world.broker.handle().publisher("app", "a \"name\"");
    let mut heard = Vec::new();
    for round in 0..4 {
        publisher.publish(&round).unwrap();
        world.run_mailbox();
        heard.extend(payloads(&world.take(key)));
        let kind = if round % 2 == 0 { "subscribe" } else { "unsubscribe" };
        world.send(key, &message("app", kind, "a \"name\"", "s", &json!({})));
        world.take(key);
        if round == 1 {
            // Another one takes the place of the channel that was forgotten.
            world.subscribe(key, "app", "other");
        }
    }
    assert_eq!(heard, [json!(1), json!(3)]);
    let message = Json::parse("5").unwrap();
    world.subscribe(key, "app", "a \"name\"");
    publisher.publish_json(message).unwrap();
    world.run_mailbox();
    let sent = world.take(key);
    assert_eq!((&sent[0]["channel_id"], &sent[0]["payload"]), (&json!("a \"name\""), &json!(5)));
    assert_eq!(sent[0]["message_type"], MessageType::Publish.as_str());
}

/// It was not there when a peer last sent something.
#[test]
fn the_time_of_what_a_thread_publishes_begins_with_its_turn() {
    let mut world = World::new(Limits::default());
    let key = world.connected("app", "ann");
    world.subscribe(key, "app", "news");
    world.pass(Duration::from_secs(60));
    world.broker.handle().publish("app", "news", &1).unwrap();
    world.run_mailbox();
    assert_eq!(world.take(key).len(), 1);
    let mut longest = Vec::new();
    world.broker.context().for_each_histogram(|of, nanos| {
        if of.measure == Measure::Publication {
            longest.push(nanos.max());
        }
    });
    assert_eq!(longest, [0]);
}

#[test]
fn an_answer_that_just_fits_is_sent() {
    for is_json in [false, true] {
        let asked = |frame_bytes_max| {
            let mut world = World::new(Limits { frame_bytes_max, ..Limits::default() });
            world.broker.application("app", "The App").channel("large").on_request(
                move |request| {
                    let text = "x".repeat(1_000);
                    if is_json {
                        request.reply_json(&Json::from_serialize(&text).unwrap())
                    } else {
                        request.reply(&text)
                    }
                },
            );
            let key = world.connected("app", "ann");
            world.send(key, &message("app", "request", "large", "q", &json!(0)));
            let body_bytes = world.received[&key].len() - 4;
            (body_bytes, world.take(key).remove(0)["payload"]["code"].clone())
        };
        let (body_bytes, code) = asked(16 << 20);
        assert_eq!(code, Value::Null);
        assert_eq!(asked(body_bytes), (body_bytes, Value::Null));
        assert_ne!(asked(body_bytes - 1).1, Value::Null);
    }
}

#[test]
fn a_handler_that_waits_for_its_own_loop_is_told_so() {
    let mut world = World::new(Limits::default());
    let handle = world.broker.handle();
    let (sender, errors) = mpsc::channel();
    let inner = handle.clone();
    world.broker.fallback().on_request(move |request| {
        sender.send(inner.stats().map(drop)).unwrap();
        request.reply(&0)
    });
    let key = world.connected("app", "ann");
    world.broker.begin_turn(world.now);
    world.answer_to(key, "any", &json!(0));
    assert!(matches!(errors.recv().unwrap(), Err(HandleError::OnLoopThread)));
    // Whoever asks between two turns on another thread is answered.
    let asking = std::thread::spawn(move || handle.stats().map(drop));
    while !asking.is_finished() {
        world.run_mailbox();
    }
    asking.join().unwrap().unwrap();
}

#[test]
fn who_waits_for_a_broker_that_ends_is_told_so() {
    for closes in [true, false] {
        let mut world = World::new(Limits::default());
        let handle = world.broker.handle();
        let publisher = handle.publisher("app", "news");
        let waiting = std::thread::spawn(move || handle.with(|_| ()));
        while world.broker.mailbox.is_empty() {
            std::thread::yield_now();
        }
        if closes {
            world.broker.close_mailbox();
        } else {
            drop(world);
        }
        assert!(matches!(waiting.join().unwrap(), Err(HandleError::Stopped)));
        assert!(matches!(publisher.publish(&1), Err(HandleError::Stopped)));
    }
}

/// They may hold files, locks or whole programs.
#[test]
fn handlers_that_were_removed_are_dropped_without_another_message() {
    let mut world = World::new(Limits::default());
    let held = Arc::new(());
    for _ in 0..3 {
        let kept = held.clone();
        world
            .broker
            .application("app", "App")
            .channel("work")
            .on_request(move |request| request.reply(&Arc::strong_count(&kept)));
        world.pass(Duration::ZERO);
        assert_eq!(Arc::strong_count(&held), 2);
        assert!(world.broker.context().remove_channel("app", "work"));
        world.pass(Duration::ZERO);
        assert_eq!(Arc::strong_count(&held), 1);
        assert!(world.broker.core.agenda.handler_changes.is_empty());
    }
}

#[test]
fn a_request_whose_handler_removes_the_channel_is_answered_all_the_same() {
    let mut world = World::new(Limits::default());
    let set = |world: &mut World| {
        world.broker.application("app", "App").channel("once").on_request(|mut request| {
            request.context().remove_channel("app", "once");
            let (reply, responder) = request.defer()?;
            responder.reply(&1)?;
            Ok(reply)
        });
    };
    set(&mut world);
    let key = world.connected("app", "me");
    let ask = message("app", "request", "once", "q", &json!(1));
    world.send(key, &ask);
    world.broker.run_mailbox();
    world.act();
    world.expect_error(key, "no_handler", "q");
    assert_eq!(world.broker.core.requests.len(), 0);
    world.send(key, &ask);
    world.expect_error(key, "no_handler", "q");
    // If somebody else uses the channel, it outlives its handler.
    world.subscribe(key, "app", "once");
    set(&mut world);
    world.serve(key, "app", "once");
    world.send(key, &ask);
    world.broker.run_mailbox();
    world.act();
    assert_eq!(payloads(&world.take(key)), [json!(1)]);
}

#[test]
fn the_rest_of_a_full_mailbox_is_due_at_once_and_in_order() {
    let turn = TurnLimits { commands_max: 3, ..TurnLimits::default() };
    let mut world = World::new(Limits { turn, ..Limits::default() });
    let key = world.connected("app", "ann");
    world.subscribe(key, "app", "news");
    world.take(key);
    let handle = world.broker.handle();
    (0..7).for_each(|at| handle.publish("app", "news", &at).unwrap());
    for (count, has_more) in [(3, true), (3, true), (1, false)] {
        world.broker.begin_turn(world.now);
        let progress = world.broker.run_mailbox();
        assert_eq!((progress.steps, progress.has_more), (count, has_more));
        world.act();
    }
    assert_eq!(payloads(&world.take(key)), (0..7).map(|at| json!(at)).collect::<Vec<_>>());
}

/// A frame holds the parts and what stands around them, too.
#[test]
fn parts_that_fit_into_no_frame_with_their_head_are_too_many() {
    let limits = Limits { frame_bytes_max: 2 << 10, ..Limits::default() };
    let mut world = World::new(limits);
    let mut app = world.broker.application("app", "The App");
    app.channel("parts").on_request(|request| {
        let (reply, mut parts) = request.stream()?;
        for _ in 0..20 {
            let sent = parts.try_send(&"x".repeat(97));
            if sent.is_err() {
                return Ok(reply);
            }
        }
        parts.end();
        Ok(reply)
    });
    let key = world.connected("app", "ann");
    world.send(key, &message("app", "request", "parts", "q", &json!(1)));
    world.run_mailbox();
    world.expect_error(key, "limit_exceeded", "q");
}

#[test]
fn attachments_stand_in_their_parts_of_an_answer_that_is_no_stream() {
    let mut world = World::new(Limits::default());
    let mut app = world.broker.application("app", "The App");
    app.channel("parts").on_request(|request| {
        let (reply, mut parts) = request.stream()?;
        for number in [1, 2] {
            parts.try_send(&number)?;
            parts.try_send(&Blob::new(vec![number]))?;
        }
        parts.end();
        Ok(reply)
    });
    let key = world.connected("app", "ann");
    world.send(key, &message("app", "request", "parts", "q", &json!(null)));
    world.run_mailbox();
    let blob = |base64: &str| json!({"$base64": base64, "dtype": null, "shape": null});
    let expected = json!([1, blob("AQ=="), 2, blob("Ag==")]);
    assert_eq!(payloads(&world.take(key)), [expected]);
}

/// Publications that come with one read are delivered together, but for those that a filter sees.
#[test]
fn what_a_filter_publishes_stands_before_the_publication_and_behind_the_ones_before_it() {
    let mut world = World::new(Limits::default());
    world.broker.filter(|delivery| {
        if delivery.message().message_type() == MessageType::Publish {
            let about: u32 = delivery.payload()?;
            delivery.publish("news", &json!({ "about": about }))?;
        }
        Ok(Verdict::CarryOut)
    });
    let hears = world.connected("app", "hears");
    world.subscribe(hears, "app", "news");
    let publisher = world.connected("app", "publisher");
    let burst = [1, 2, 3].map(|at| framed(&message("app", "publish", "news", "p", &json!(at))));
    world.deliver(publisher, &burst.concat());
    let expected = [1, 2, 3].map(|at| [json!({ "about": at }), json!(at)]);
    assert_eq!(payloads(&world.take(hears)), expected.concat());
}

#[test]
fn a_filter_is_asked_once_about_a_publication_that_has_to_wait() {
    const HIGH_WATER_BYTES: usize = 4_000;
    let limits = Limits { queue_high_water_bytes: HIGH_WATER_BYTES, ..Limits::default() };
    let mut world = World::new(limits);
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    world.broker.filter(move |delivery| {
        let is_publication = delivery.message().message_type() == MessageType::Publish;
        count.fetch_add(usize::from(is_publication), Ordering::Relaxed);
        Ok(Verdict::CarryOut)
    });
    let slow = world.connected("app", "slow");
    world.subscribe(slow, "app", "feed");
    world.stalled.push(slow);
    let publisher = world.connected("app", "publisher");
    let text = "x".repeat(HIGH_WATER_BYTES);
    for id in ["first", "second"] {
        world.send(publisher, &message("app", "publish", "feed", id, &json!(text)));
    }
    assert!(world.is_parked(publisher));
    assert_eq!(asked.load(Ordering::Relaxed), 1, "the second one is not carried out yet");
    world.relieve(slow);
    world.act();
    assert!(!world.is_parked(publisher));
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

/// The loop may have had its last look into the mailbox by then.
#[test]
fn what_is_posted_while_the_mailbox_is_emptied_wakes_the_loop_again() {
    let mut world = World::new(Limits::default());
    let woken = Arc::new(AtomicUsize::new(0));
    let count = woken.clone();
    world.broker.set_waker(move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let handle = world.broker.handle();
    let later = handle.clone();
    handle.post(move |_| later.post(|_| ()).unwrap()).unwrap();
    assert_eq!(woken.load(Ordering::Relaxed), 1);
    world.run_mailbox();
    assert_eq!(woken.load(Ordering::Relaxed), 2);
}

#[test]
fn a_connection_that_is_taken_over_has_gone_before_the_newer_one_comes() {
    let mut world = World::new(Limits::default());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (came, went) = (seen.clone(), seen.clone());
    world.broker.on_connect(move |info, _| came.lock().unwrap().push(("came", info.key)));
    world.broker.on_disconnect(move |info, _| went.lock().unwrap().push(("went", info.key)));
    let older = world.connected("app", "same");
    let newer = world.connected("app", "same");
    assert_eq!(*seen.lock().unwrap(), [("came", older), ("went", older), ("came", newer)]);
}
