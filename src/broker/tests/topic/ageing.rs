//! Messages that become too old, each when its own time is over.

use super::histories::keeping;
use super::*;

const AGE: Duration = Duration::from_secs(10);

fn aged(age: Duration) -> Limits {
    let mut limits = keeping(10).idle_timeout(None);
    limits.histories[0].age = Some(age);
    limits
}

/// The messages that the only channel keeps.
fn kept(world: &World) -> usize {
    let mut channels = world.broker.core.router.channels.iter();
    let topic = channels.next().and_then(|(_, channel)| channel.topic.as_ref());
    topic.and_then(|topic| topic.history.as_ref()).map_or(0, |history| history.len())
}

#[test]
fn each_message_goes_when_it_is_too_old_itself() {
    let mut world = World::new(aged(AGE));
    let from = world.topical("from");
    for number in 0..3 {
        world.publish(from, "h.a", number..number + 1);
        world.pass(AGE * 4 / 10);
    }
    // They were published after 0, 4 and 8 seconds, and 12 have passed.
    assert_eq!(kept(&world), 2);
    for (wait, left) in [(1, 2), (1, 1), (3, 1), (1, 0)] {
        world.pass(Duration::from_secs(wait));
        assert_eq!(kept(&world), left);
    }
}

#[test]
fn a_reload_that_shortens_the_age_is_for_messages_that_are_there() {
    let mut world = World::new(aged(10 * AGE));
    let from = world.topical("from");
    world.publish(from, "h.a", 1..2);
    let second = Duration::from_secs(1);
    world.pass(second);
    world.broker.reconfigure(aged(AGE), Access::default());
    world.act();
    world.pass(8 * second);
    assert_eq!(kept(&world), 1);
    world.pass(second);
    assert_eq!(kept(&world), 0);
    assert_eq!(world.broker.core.router.channels.len(), 0);
}
