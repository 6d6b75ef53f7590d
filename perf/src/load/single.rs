//! One client with one request outstanding: as little as a client can do.

use super::connection::Received;
use super::{Connection, Outcome, Phases, Recorder, SILENCE_MAX, Wait};
use crate::wire::{self, Wire};

/// Sends a request, waits for its answer, and again. A blocking client sleeps in `read`.
pub(crate) fn one_client(
    connection: &mut Connection,
    wire: &dyn Wire,
    wait: Wait,
    phases: Phases,
) -> Result<Outcome, String> {
    let message = wire.message(0);
    if wait == Wait::Spin {
        connection.set_nonblocking()?;
    }
    let silence_max = SILENCE_MAX.as_nanos() as u64;
    let mut recorder = Recorder::new(phases);
    let mut number = 0;
    let mut begin = recorder.now();
    while !recorder.is_over(begin) {
        let id = wire::id(number);
        number = number.wrapping_add(1);
        connection.queue(&message, id);
        connection.send()?;
        let answered = loop {
            if let Some(answered) = connection.next(wire)? {
                break answered;
            }
            if connection.receive(message.bytes().len())? == Received::Nothing
                && recorder.now() - begin > silence_max
            {
                return Err(format!("no answer within {} s", SILENCE_MAX.as_secs()));
            }
        };
        let end = recorder.now();
        if answered != id {
            return Err(super::mixed_up(id, answered));
        }
        recorder.record(begin, end);
        begin = end;
    }
    Ok(recorder.finish())
}
