//! Publications on a channel with a history, to readers that are there and to readers that come for what
//! was kept, and beside them a client that has nothing to do with it.

use super::connection::{Connection, INBOX_BYTES_SUBSCRIBER, Received, mixed_up};
use super::recorder::{Outcome, Phases, Recorder};
use crate::poller::{Interest, Poller, Ready, Wait};
use crate::wire::{self, Exchange, HISTORY_MESSAGES, Ipc, Template, Until, Wire};

/// The publications that readers get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Those of a publisher that has [`IN_FLIGHT`] of them in flight.
    Live,
    /// The kept ones. All readers subscribe at once, and again when the last one has all.
    Kept,
}

/// Publications in flight while the readers are there.
const IN_FLIGHT: u32 = 100;

/// The connections of a run.
#[derive(Debug)]
pub(crate) struct Parties {
    pub(crate) publisher: Connection,
    pub(crate) readers: Vec<Connection>,
    /// Asks the server something, over and over. Its latencies are those of the outcome.
    pub(crate) bystander: Connection,
}

#[derive(Debug)]
struct Reader {
    connection: Connection,
    expected: u32,
    again: Template,
}

/// What was published and read.
#[derive(Debug)]
struct Progress {
    reading: Reading,
    /// Live publications, those that all readers have, and how many readers each of those in flight is
    /// missing at.
    published: u32,
    finished: u32,
    missing: [usize; IN_FLIGHT as usize],
    /// Readers that do not have all that is kept yet.
    unfinished: usize,
    /// Publications that readers got in the measured time.
    deliveries: u64,
}

impl Progress {
    fn new(reading: Reading) -> Self {
        let missing = [0; IN_FLIGHT as usize];
        Self { reading, published: 0, finished: 0, missing, unfinished: 0, deliveries: 0 }
    }

    /// Gives the readers something to read, once they have what they were given before.
    fn go_on(
        &mut self,
        publisher: &mut Connection,
        message: &Template,
        readers: &mut [Reader],
    ) -> Result<(), String> {
        match self.reading {
            Reading::Live => {
                while self.published - self.finished < IN_FLIGHT {
                    self.missing[(self.published % IN_FLIGHT) as usize] = readers.len();
                    publisher.queue(message, wire::id(self.published));
                    self.published += 1;
                }
            }
            Reading::Kept if self.unfinished == 0 => {
                self.unfinished = readers.len();
                for reader in readers {
                    reader.expected = 0;
                    reader.connection.queue(&reader.again, wire::id(0));
                    reader.connection.send()?;
                }
            }
            Reading::Kept => {}
        }
        Ok(())
    }

    /// Takes the publications that one reader was sent.
    fn take(&mut self, reader: &mut Reader, wire: &Ipc, recorder: &Recorder) -> Result<(), String> {
        if reader.connection.receive(INBOX_BYTES_SUBSCRIBER)? == Received::Nothing {
            return Ok(());
        }
        let is_measured = recorder.is_measured(recorder.now());
        while let Some(id) = reader.connection.next(wire)? {
            let expected = wire::id(reader.expected);
            if id != expected {
                return Err(mixed_up(expected, id));
            }
            self.deliveries += u64::from(is_measured);
            if self.reading == Reading::Live {
                let missing = &mut self.missing[(reader.expected % IN_FLIGHT) as usize];
                *missing -= 1;
                self.finished += u32::from(*missing == 0);
            }
            reader.expected += 1;
            if self.reading == Reading::Kept && reader.expected == HISTORY_MESSAGES {
                self.unfinished -= 1;
            }
        }
        Ok(())
    }
}

/// A client that asks the server something, over and over.
#[derive(Debug)]
struct Bystander {
    connection: Connection,
    question: Template,
    number: u32,
    asked_at: Option<u64>,
}

impl Bystander {
    fn ask(&mut self, now: u64) -> Result<(), String> {
        if self.asked_at.is_some() {
            return Ok(());
        }
        self.asked_at = Some(now);
        self.connection.queue(&self.question, wire::id(self.number));
        self.connection.send()
    }

    fn take(&mut self, wire: &Ipc, recorder: &mut Recorder) -> Result<(), String> {
        if self.connection.receive(0)? == Received::Nothing {
            return Ok(());
        }
        let expected = wire::id(self.number);
        match self.connection.next(wire)? {
            Some(id) if id != expected => return Err(mixed_up(expected, id)),
            Some(_) => self.number += 1,
            None => return Ok(()),
        }
        if let Some(begin) = self.asked_at.take() {
            recorder.record(begin, recorder.now());
        }
        Ok(())
    }
}

/// Runs the load. Returns the bystander's latencies, and the publications that readers got in the measured
/// time.
pub(crate) fn history(
    parties: Parties,
    [wire, asked]: [&Ipc; 2],
    reading: Reading,
    phases: Phases,
) -> Result<(Outcome, u64), String> {
    let Parties { mut publisher, readers, bystander } = parties;
    let message = wire.message(0);
    let mut bystander =
        Bystander { connection: bystander, question: asked.message(0), number: 0, asked_at: None };
    if reading == Reading::Kept {
        (0..HISTORY_MESSAGES).for_each(|number| publisher.queue(&message, wire::id(number)));
        publisher.send()?;
        // The server keeps all of them before it answers.
        let send = bystander.question.bytes().to_vec();
        publisher.exchange(&Exchange { send, until: Until::FrameWith(b"\"response\"") })?;
    }
    let mut poller = Poller::new()?;
    let add = |connection: &Connection, token| {
        connection.set_nonblocking()?;
        poller.add(connection, token)
    };
    let from_publisher = readers.len();
    let from_bystander = from_publisher + 1;
    add(&publisher, from_publisher)?;
    add(&bystander.connection, from_bystander)?;
    let mut readers: Vec<Reader> = (0..)
        .zip(readers)
        .map(|(at, connection)| {
            add(&connection, at)?;
            Ok(Reader { connection, expected: 0, again: wire.read_again(at + 1) })
        })
        .collect::<Result<_, String>>()?;
    let mut recorder = Recorder::new(phases);
    let mut progress = Progress::new(reading);
    let mut is_writable_wanted = false;
    while !recorder.is_over(recorder.now()) {
        progress.go_on(&mut publisher, &message, &mut readers)?;
        publisher.send()?;
        if publisher.is_sent() == is_writable_wanted {
            is_writable_wanted = !is_writable_wanted;
            let interest = if is_writable_wanted { Interest::Both } else { Interest::Read };
            poller.set_interest(&publisher, from_publisher, interest)?;
        }
        bystander.ask(recorder.now())?;
        for at in 0..poller.wait(Wait::Block)? {
            let Ready { token, readable, .. } = poller.ready(at);
            if !readable {
                continue;
            }
            if let Some(reader) = readers.get_mut(token) {
                progress.take(reader, wire, &recorder)?;
            } else if token == from_bystander {
                bystander.take(asked, &mut recorder)?;
            } else {
                publisher.receive(0)?;
                publisher.discard();
            }
        }
    }
    Ok((recorder.finish(), progress.deliveries))
}
