//! One client with one request in flight, which does as little as possible.

use super::connection::{Connection, Received, mixed_up};
use super::recorder::{Outcome, Phases, Recorder};
use crate::poller::{SILENCE_MAX, Wait};
use crate::wire::{self, Id, Wire};

/// Sends requests one after the other, each when the last one is answered. A blocking client sleeps
/// in `read`.
pub(crate) fn one_client(
    connection: &mut Connection,
    wire: &dyn Wire,
    wait: Wait,
    phases: Phases,
) -> Result<Outcome, String> {
    if wait == Wait::Spin {
        connection.set_nonblocking()?;
    }
    one_at_a_time(connection, wire, phases, |_| Ok(()))
}

/// Does the same with requests that `worker`, another connection of this thread, answers. The two
/// sleep in `read` in turn.
pub(crate) fn forwarded(
    client: &mut Connection,
    worker: &mut Connection,
    wire: &dyn Wire,
    phases: Phases,
) -> Result<Outcome, String> {
    let room = wire.message(0).bytes().len();
    one_at_a_time(client, wire, phases, |patience| {
        while !worker.answer_as_worker(wire)? {
            patience.receive(worker, room)?;
        }
        Ok(())
    })
}

/// Calls `between` after each request, before it waits for the answer.
fn one_at_a_time(
    connection: &mut Connection,
    wire: &dyn Wire,
    phases: Phases,
    mut between: impl FnMut(Patience<'_>) -> Result<(), String>,
) -> Result<Outcome, String> {
    let message = wire.message(0);
    let mut recorder = Recorder::new(phases);
    let mut number = 0;
    let mut begin = recorder.now();
    while !recorder.is_over(begin) {
        let id = wire::id(number);
        number = number.wrapping_add(1);
        connection.queue(&message, id);
        connection.send()?;
        let patience = Patience { recorder: &recorder, begin };
        between(patience)?;
        let answered = patience.answer(connection, wire, message.bytes().len())?;
        let end = recorder.now();
        if answered != id {
            return Err(mixed_up(id, answered));
        }
        recorder.record(begin, end);
        begin = end;
    }
    Ok(recorder.finish())
}

/// The way to wait for an answer.
#[derive(Clone, Copy)]
struct Patience<'a> {
    recorder: &'a Recorder,
    begin: u64,
}

impl Patience<'_> {
    fn answer(
        self,
        connection: &mut Connection,
        wire: &dyn Wire,
        room: usize,
    ) -> Result<Id, String> {
        loop {
            if let Some(answered) = connection.next(wire)? {
                return Ok(answered);
            }
            self.receive(connection, room)?;
        }
    }

    fn receive(self, connection: &mut Connection, room: usize) -> Result<(), String> {
        if connection.receive(room)? == Received::Nothing
            && self.recorder.now() - self.begin > SILENCE_MAX.as_nanos() as u64
        {
            return Err(format!("no answer within {} s", SILENCE_MAX.as_secs()));
        }
        Ok(())
    }
}
