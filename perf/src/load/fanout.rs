//! One publisher, many subscribers, and a fixed number of publications in flight.

use super::connection::{Connection, INBOX_BYTES_SUBSCRIBER, Received, mixed_up};
use super::recorder::{Outcome, Phases, Recorder};
use crate::poller::{Interest, Poller, Ready, Wait};
use crate::wire::{self, Id, Template, Wire};

/// The publications that have not reached all subscribers.
#[derive(Debug)]
struct Flights {
    slots: Vec<Flight>,
    published: u32,
    finished: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Flight {
    id: Id,
    begin: u64,
    missing: usize,
}

impl Flights {
    fn slot(&mut self, number: u32) -> &mut Flight {
        let at = number as usize % self.slots.len();
        &mut self.slots[at]
    }
}

#[derive(Debug)]
struct Subscriber {
    connection: Connection,
    expected: u32,
}

/// Keeps `window` publications in flight. One is complete when the last subscriber has it. Every
/// subscriber has to get all of them in order.
pub(crate) fn fanout(
    mut publisher: Connection,
    subscribers: Vec<Connection>,
    wire: &dyn Wire,
    wait: Wait,
    window: usize,
    phases: Phases,
) -> Result<Outcome, String> {
    let mut poller = Poller::new()?;
    publisher.set_nonblocking()?;
    let publisher_token = subscribers.len();
    poller.add(&publisher, publisher_token)?;
    let mut receivers = Vec::with_capacity(subscribers.len());
    for (index, connection) in subscribers.into_iter().enumerate() {
        connection.set_nonblocking()?;
        poller.add(&connection, index)?;
        receivers.push(Subscriber { connection, expected: 0 });
    }
    let message = wire.message(0);
    let mut flights = Flights { slots: vec![Flight::default(); window], published: 0, finished: 0 };
    let mut recorder = Recorder::new(phases);
    let (mut is_over, mut is_writable_wanted) = (false, false);
    loop {
        if !is_over {
            let begin = recorder.now();
            publish(&mut publisher, &message, &mut flights, receivers.len(), begin);
        }
        publisher.send()?;
        if publisher.is_sent() == is_writable_wanted {
            is_writable_wanted = !is_writable_wanted;
            let interest = if is_writable_wanted { Interest::Both } else { Interest::Read };
            poller.set_interest(&publisher, publisher_token, interest)?;
        }
        if is_over && flights.finished == flights.published {
            return Ok(recorder.finish());
        }
        for at in 0..poller.wait(wait)? {
            let Ready { token, readable, .. } = poller.ready(at);
            if !readable {
                continue;
            }
            if let Some(subscriber) = receivers.get_mut(token) {
                take(subscriber, wire, &mut flights, &mut recorder)?;
            } else {
                // Redis answers with the number of subscribers.
                publisher.receive(0)?;
                publisher.discard();
            }
        }
        let now = recorder.now();
        is_over = recorder.is_over(now);
    }
}

/// Publishes until the window is full.
fn publish(
    publisher: &mut Connection,
    message: &Template,
    flights: &mut Flights,
    subscribers: usize,
    begin: u64,
) {
    while ((flights.published - flights.finished) as usize) < flights.slots.len() {
        let number = flights.published;
        let id = wire::id(number);
        *flights.slot(number) = Flight { id, begin, missing: subscribers };
        flights.published += 1;
        publisher.queue(message, id);
    }
}

/// Takes the publications that one subscriber was sent.
fn take(
    subscriber: &mut Subscriber,
    wire: &dyn Wire,
    flights: &mut Flights,
    recorder: &mut Recorder,
) -> Result<(), String> {
    if subscriber.connection.receive(INBOX_BYTES_SUBSCRIBER)? == Received::Nothing {
        return Ok(());
    }
    let now = recorder.now();
    while let Some(id) = subscriber.connection.next(wire)? {
        if subscriber.expected == flights.published {
            return Err("a subscriber was sent what was not published".into());
        }
        let flight = flights.slot(subscriber.expected);
        if id != flight.id {
            return Err(mixed_up(flight.id, id));
        }
        subscriber.expected += 1;
        flight.missing -= 1;
        if flight.missing == 0 {
            recorder.record(flight.begin, now);
            // Publications complete in order, because every subscriber gets them in order.
            flights.finished += 1;
        }
    }
    Ok(())
}
