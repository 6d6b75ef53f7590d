//! Notifications. They arrive in order and unaltered at the worker of the channel, and have no
//! answer.

use serde_json::{Value, json};

use super::super::account::kind;
use super::super::context::{Context, Random, UNREAD_BYTES_MAX};
use super::super::peer::excerpt;

pub(super) fn round(context: &Context<'_>, random: &mut Random) -> Result<(), String> {
    let channel = &context.round;
    let mut notifier = context.connect(random, &format!("{channel}-notifier"))?;
    notifier.notify(channel, &json!("nobody serves this yet"))?;
    notifier.expect_nothing_else()?;
    context.account.borrow_mut().lost(kind::NOTIFICATION, "nobody served the channel", 1);
    context.expect("notifications_unhandled", 1);

    let mut worker = context.connect(random, &format!("{channel}-worker"))?;
    worker.serve(channel)?;
    let mut room_bytes = UNREAD_BYTES_MAX;
    let mut due: Vec<(Option<u64>, Value)> = Vec::new();
    for number in 0..=random.below(20) {
        let payload = random.payload(number, &mut room_bytes);
        if random.below(4) == 0 {
            let number = notifier.ask(kind::WORKER, "request", channel, &payload)?;
            due.push((Some(number), payload));
        } else {
            notifier.notify(channel, &payload)?;
            due.push((None, payload));
        }
    }
    for (number, payload) in &due {
        let message = worker.receive()?;
        let is_request = message["message_type"] == "request";
        if message["payload"] != *payload || is_request != number.is_some() {
            return Err(format!("altered, or out of order: {}", excerpt(&message)));
        }
        if is_request {
            worker.respond(&message, payload)?;
        }
    }
    for (number, payload) in &due {
        if let Some(number) = number
            && notifier.answer_to(*number)? != *payload
        {
            return Err("a worker's answer was altered".to_owned());
        }
    }
    notifier.expect_nothing_else()?;
    worker.expect_nothing_else()?;
    drop((notifier, worker));
    chat(context, random)
}

/// Uses a handler inside the server that notifies the subscribers of its channel.
fn chat(context: &Context<'_>, random: &mut Random) -> Result<(), String> {
    let id = format!("{}-chat", context.round);
    let mut peer = context.connect_to(random, "chat_app", &id)?;
    peer.subscribe("general", &id)?;
    for number in 0..random.below(4) {
        let name = format!("{id}-{number}");
        context.sent(kind::DELIVERY, 1);
        peer.notify("general", &json!({"username": name}))?;
        let heard = peer.receive()?;
        if heard["payload"]["type"] != "user_joined" || heard["payload"]["username"] != name {
            return Err(format!("the chat says something else: {}", excerpt(&heard)));
        }
        context.done(kind::NOTIFICATION, 1);
        context.expect("publications", 1);
    }
    peer.unsubscribe("general", &id)
}
