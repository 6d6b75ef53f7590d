//! Requests that come at a given rate, whether or not the earlier ones are answered.
//!
//! A latency counts from the moment at which the request was due. This corrects coordinated
//! omission, so the histogram must not correct it again.

use std::time::Duration;

use super::closed::Clients;
use super::connection::Connection;
use super::recorder::{Outcome, Phases, Recorder};
use crate::poller::{Ready, Wait};
use crate::wire::Wire;

/// The times at which requests are due: at equal intervals, beginning at once.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    interval_nanos: f64,
    end: u64,
}

impl Schedule {
    fn new(per_second: f64, length: Duration) -> Self {
        Self { interval_nanos: 1e9 / per_second, end: length.as_nanos() as u64 }
    }

    fn due(self, number: u64) -> Option<u64> {
        let due = (number as f64 * self.interval_nanos) as u64;
        (due < self.end).then_some(due)
    }
}

/// Sends `per_second` requests, over the connections in turn. The generator never sleeps, because
/// it would wake up late.
pub(crate) fn open_loop(
    connections: Vec<Connection>,
    wire: &dyn Wire,
    per_second: f64,
    phases: Phases,
) -> Result<Outcome, String> {
    let mut clients = Clients::new(connections, wire)?;
    let count = clients.all.len() as u64;
    let schedule = Schedule::new(per_second, phases.warm_up + phases.measure);
    let mut recorder = Recorder::new(phases);
    let mut sent = 0;
    loop {
        let now = recorder.now();
        recorder.is_over(now);
        let next = schedule.due(sent);
        if let Some(due) = next.filter(|due| *due <= now) {
            let index = (sent % count) as usize;
            clients.queue(index, due);
            clients.send(index)?;
            sent += 1;
        }
        if next.is_none() && clients.outstanding == 0 && recorder.is_over(now) {
            return Ok(recorder.finish());
        }
        let events = clients.poller.wait(Wait::Spin)?;
        for at in 0..events {
            let Ready { token, readable, writable } = clients.poller.ready(at);
            if readable {
                clients.receive(token, wire, &mut recorder, Recorder::record_due)?;
            }
            if writable {
                clients.send(token)?;
            }
        }
        clients.check_silence(now)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_at_even_intervals_until_the_end() {
        let schedule = Schedule::new(1_000.0, Duration::from_millis(3));
        let due: Vec<_> = (0..4).map(|number| schedule.due(number)).collect();
        assert_eq!(due, [Some(0), Some(1_000_000), Some(2_000_000), None]);
    }
}
