//! Two publishers, and subscribers that come and go. From the acknowledgement of its subscription
//! on, each subscriber gets every publication once, and all get them in the same order.

use serde_json::Value;

use super::super::account::kind;
use super::super::context::{Context, Random, UNREAD_BYTES_MAX};
use super::super::peer::{Peer, excerpt};

const PARTS: usize = 10;

/// The number of subscribers at a time, and the bytes for each.
struct Size {
    least: usize,
    most: usize,
    unread_bytes_max: usize,
}

pub(super) fn publications(context: &Context<'_>, random: &mut Random) -> Result<(), String> {
    let size = Size { least: 2, most: 9, unread_bytes_max: UNREAD_BYTES_MAX };
    round(context, random, &size)
}

/// Runs the same round with many subscribers.
pub(super) fn fan_out(context: &Context<'_>, random: &mut Random) -> Result<(), String> {
    let size = Size { least: 50, most: 50, unread_bytes_max: UNREAD_BYTES_MAX / 20 };
    round(context, random, &size)
}

struct Subscriber {
    peer: Peer,
    id: String,
}

fn round(context: &Context<'_>, random: &mut Random, size: &Size) -> Result<(), String> {
    let channel = &context.round;
    let mut publishers = Vec::new();
    for index in 0..2 {
        publishers.push(context.connect(random, &format!("{channel}-publisher-{index}"))?);
    }
    publishers[0].publish(channel, &Value::Null)?;
    publishers[0].expect_nothing_else()?;
    context.account.borrow_mut().lost(kind::PUBLICATION, "nobody had subscribed", 1);
    context.expect("publications_unheard", 1);

    let mut subscribers: Vec<Subscriber> = Vec::new();
    for part in 0..PARTS {
        let wanted = size.least + random.below(size.most - size.least + 1);
        while subscribers.len() < wanted {
            let id = format!("{channel}-subscriber-{part}-{}", subscribers.len());
            let mut peer = context.connect(random, &id)?;
            peer.subscribe(channel, &id)?;
            subscribers.push(Subscriber { peer, id });
        }
        let mut room_bytes = size.unread_bytes_max;
        let mut sent: [Vec<Value>; 2] = [Vec::new(), Vec::new()];
        for number in 0..=random.below(10) {
            for (publisher, sent) in publishers.iter_mut().zip(&mut sent) {
                let payload = random.payload(number, &mut room_bytes);
                publisher.publish(channel, &payload)?;
                sent.push(payload);
            }
        }
        let count = sent[0].len() + sent[1].len();
        context.sent(kind::DELIVERY, count * subscribers.len());
        hear(channel, &sent, &mut subscribers)?;
        context.done(kind::PUBLICATION, count);
        publishers.iter_mut().try_for_each(Peer::expect_nothing_else)?;
        leave(context, random, &mut subscribers, &mut publishers[0])?;
    }
    Ok(())
}

/// Checks that all subscribers see the same order, and that it keeps each publisher's own.
fn hear(
    channel: &str,
    sent: &[Vec<Value>; 2],
    subscribers: &mut [Subscriber],
) -> Result<(), String> {
    let count = sent[0].len() + sent[1].len();
    let mut order: Option<Vec<Value>> = None;
    for subscriber in &mut *subscribers {
        let mut got = Vec::with_capacity(count);
        for _ in 0..count {
            let mut message = subscriber.peer.receive()?;
            if message["message_type"] != "publish" || message["channel_id"] != channel {
                return Err(format!("no publication: {}", excerpt(&message)));
            }
            got.push(message["payload"].take());
        }
        if order.as_ref().is_some_and(|order| *order != got) {
            return Err("two subscribers saw different orders".to_owned());
        }
        order.get_or_insert(got);
    }
    for sent in sent {
        let got = order.iter().flatten().filter(|payload| sent.contains(payload));
        if !got.eq(sent) {
            return Err("publications were lost, doubled or out of order".to_owned());
        }
    }
    subscribers.iter_mut().try_for_each(|subscriber| subscriber.peer.expect_nothing_else())
}

/// Lets one subscriber leave: it unsubscribes, closes its connection, or resets it.
fn leave(
    context: &Context<'_>,
    random: &mut Random,
    subscribers: &mut Vec<Subscriber>,
    witness: &mut Peer,
) -> Result<(), String> {
    let Subscriber { mut peer, id } = subscribers.swap_remove(random.below(subscribers.len()));
    let how = random.below(3);
    if how == 0 {
        peer.unsubscribe(&context.round, &id)?;
    } else {
        context.fault("a subscriber gone");
        peer.hang_up(how == 1)?;
    }
    witness.until_subscribers(&context.round, subscribers.len() as u64)
}
