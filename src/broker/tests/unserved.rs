//! The error for a request on a channel that nobody serves names what exists instead.

use super::*;
use crate::Token;

/// Sends a request on a channel that nobody serves, and returns the sentence of the error.
fn refused(world: &mut World, from: ConnectionKey, app_id: &str, channel: &str) -> String {
    world.send(from, &message(app_id, "request", channel, "q", &json!(1)));
    let answers = world.take(from);
    let payload = &answers.last().expect("an answer")["payload"];
    assert_eq!(payload["code"], "no_handler", "{payload}");
    payload["error"].as_str().unwrap().to_owned()
}

#[test]
fn a_wrong_channel_is_told_those_that_are_served() {
    let mut world = World::new(Limits::default());
    world.broker.application("shop", "The Shop").channel("price").on_request(|r| r.reply(&9.5));
    let worker = world.connected("shop", "worker");
    world.serve(worker, "shop", "stock");
    let asks = world.connected("shop", "asks");
    world.subscribe(asks, "shop", "only heard");
    world.take(asks);
    assert_eq!(
        refused(&mut world, asks, "shop", "prise"),
        "nobody serves requests on channel \"prise\" of application \"shop\", which serves \
         \"price\", \"stock\"; check the name, or start the worker that serves it"
    );
    // It exists, and nobody serves it.
    assert!(refused(&mut world, asks, "shop", "only heard").contains("\"price\", \"stock\""));
}

#[test]
fn a_wrong_application_is_told_the_others_unless_there_are_tokens() {
    let mut world = World::new(Limits::default());
    let worker = world.connected("bench", "worker");
    world.serve(worker, "bench", "echo");
    let asks = world.connected("bensch", "asks");
    let said = refused(&mut world, asks, "bensch", "echo");
    assert!(
        said.starts_with("nobody serves requests on channel \"echo\" of application \"bensch\"")
    );
    assert!(
        said.ends_with(
            "which serves no channel; check both names, or start the worker that \
                            serves it; other applications here are \"bench\""
        ),
        "{said}"
    );
    for access in [
        Access::default().token(Token::new("secret")),
        Access::default().application("other", Token::new("secret")),
    ] {
        flow::reload::reconfigure(&mut world.broker.core, Limits::default(), access);
        let said = refused(&mut world, asks, "bensch", "echo");
        assert!(!said.contains("\"bench\"") && said.contains("check both names"), "{said}");
    }
}

/// An attacker can ask for unknown channels in a loop, and choose all names.
#[test]
fn the_error_stays_short_and_its_search_bounded() {
    let mut world = World::new(Limits::default());
    let asks = world.connected("asks", "asks");
    let hostile = "\u{1b}\"\\\n\u{202e}".repeat(60);
    let hostile: String = hostile.chars().take(150).collect();
    for at in 0..100 {
        let name = format!("{at:03}{hostile}").chars().take(120).collect::<String>();
        let key = world.connected(&name, "c");
        world.serve(key, &name, "work");
    }
    let said = refused(&mut world, asks, "asks", &hostile);
    assert!(said.len() < 10_000 && said.contains(" and 55 more"), "{} B: {said}", said.len());
    assert!(!said.contains(char::is_control), "{said}");

    let worker = world.connected("app", "worker");
    let asks = world.connected("app", "asks");
    for at in 0..64 {
        world.serve(worker, "app", &format!("{at:03}{}", "n".repeat(200)));
    }
    let said = refused(&mut world, asks, "app", "other");
    assert!(said.len() < 1_200 && said.contains(" and 56 more"), "{} B: {said}", said.len());
    world.serve(worker, "app", "one more");
    let said = refused(&mut world, asks, "app", "other");
    assert!(said.contains("which has 65 channels") && said.contains("list_channels"), "{said}");
    // The table keeps its size, and nobody looks through its empty places.
    for at in 0..64 {
        let name = format!("{at:03}{}", "n".repeat(200));
        let stop = json!({"action": "stop_serving", "channel": name});
        world.send(worker, &message("app", "request", "system", "stop", &stop));
    }
    let crowd = world.connected("app", "crowd");
    for at in 0..150 {
        world.subscribe(crowd, "app", &format!("c{at}"));
    }
    world.hang_up(crowd);
    let said = refused(&mut world, asks, "app", "other");
    assert!(said.contains("list_channels") || said.contains("\"one more\""), "{said}");
}
