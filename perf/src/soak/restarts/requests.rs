//! Requests while the server restarts.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use ipc_framework::client::{Client, Error, Execution, Responder};
use ipc_framework::{ErrorCode, Json};
use serde::{Deserialize, Serialize};

use super::super::account::kind;
use super::super::lock;
use super::Shared;

const CHANNEL: &str = "work";
/// The most requests that the worker collects before it answers them, the last one first.
const BATCH_MAX: usize = 3;
const WORK: Duration = Duration::from_micros(500);
/// The pause between two requests, so short that some are in flight whenever the server ends.
const PAUSE: Duration = Duration::from_micros(500);

const LOST_IN_A_CRASH: &str = "told: lost in a crash";
/// The request was in the network when the server closed the connection after answering all others.
pub(super) const LOST_IN_A_DRAIN: &str = "told: lost on its way to a server that drained";

#[derive(Debug, Deserialize, Serialize)]
struct Question {
    requester: usize,
    number: u64,
    text: String,
}

/// The requests that the worker has executed. Each requester has one in flight at a time.
#[derive(Debug)]
pub(super) struct Executed {
    /// The number of each requester's last request.
    last: Vec<AtomicU64>,
    /// Requests that must never be executed, because the requester was told that they were not.
    never: Mutex<HashSet<(usize, u64)>>,
}

impl Executed {
    fn note(&self, question: &Question) -> Result<(), String> {
        let Question { requester, number, .. } = *question;
        if self.last[requester].swap(number, Ordering::SeqCst) >= number {
            return Err(format!(
                "request {number} of requester {requester} came twice, or too late"
            ));
        }
        let never = lock(&self.never);
        if never.contains(&(requester, number)) {
            return Err(format!("request {number} of requester {requester} came after all"));
        }
        Ok(())
    }

    fn is_last(&self, requester: usize, number: u64) -> bool {
        self.last[requester].load(Ordering::SeqCst) == number
    }
}

/// Makes the client a worker that answers later and out of order.
pub(super) fn serve(
    client: &Client,
    shared: &Arc<Shared>,
    requesters: usize,
) -> Result<Arc<Executed>, String> {
    let last = (0..requesters).map(|_| AtomicU64::new(0)).collect();
    let executed = Arc::new(Executed { last, never: Mutex::default() });
    let (held, work) = channel();
    let (noted, of_handler) = (Arc::clone(&executed), Arc::clone(shared));
    let handler = move |message: ipc_framework::Message, responder| {
        let question = message.payload.decode().map_err(|error| error.to_string());
        if let Err(what) = question.and_then(|question| noted.note(&question)) {
            of_handler.raise(&what);
        }
        // The receiver exists as long as this sender.
        let _ = held.send((message.payload, responder));
    };
    let served = client.serve_deferred(CHANNEL, 100, handler);
    served.map_err(|error| format!("serve: {error}"))?;
    thread::spawn(move || answer(&work));
    Ok(executed)
}

/// Answers requests until the worker's client is gone.
fn answer(work: &Receiver<(Json<'static>, Responder)>) {
    while let Ok(first) = work.recv() {
        thread::sleep(WORK);
        let mut batch = vec![first];
        batch.extend(work.try_iter().take(BATCH_MAX - 1));
        for (payload, responder) in batch.into_iter().rev() {
            // If the connection is lost, the reply fails, and the requester gets an error.
            let _ = responder.reply(&payload);
        }
    }
}

/// A thread that sends requests to the handler and to the worker in turn.
#[derive(Debug)]
pub(super) struct Requester {
    index: usize,
    pub(super) client: Client,
    executed: Arc<Executed>,
    shared: Arc<Shared>,
    /// Answers of the handler and of the worker.
    answered: [AtomicU64; 2],
}

impl Requester {
    pub(super) fn new(
        index: usize,
        client: Client,
        executed: Arc<Executed>,
        shared: &Arc<Shared>,
    ) -> Self {
        Self { index, client, executed, shared: Arc::clone(shared), answered: Default::default() }
    }

    pub(super) fn progress(&self) -> impl Iterator<Item = u64> {
        self.answered.iter().map(|count| count.load(Ordering::SeqCst))
    }

    /// Sends requests until the run ends or a promise is broken.
    pub(super) fn ask(&self) {
        let mut number = 0;
        while !self.shared.is_ending() {
            number += 1;
            for (at, kind, channel) in
                [(0, kind::CLIENT_HANDLER, "echo"), (1, kind::CLIENT_WORKER, CHANNEL)]
            {
                if let Err(what) = self.ask_one(number, at, kind, channel)
                    && !self.shared.alarm.is_raised()
                {
                    self.shared.raise(&format!("requester {}, {channel}: {what}", self.index));
                }
            }
            thread::sleep(PAUSE);
        }
    }

    fn ask_one(
        &self,
        number: u64,
        at: usize,
        kind: &'static str,
        channel: &str,
    ) -> Result<(), String> {
        let text = format!("{number} ").repeat((number % 100) as usize);
        let question = Question { requester: self.index, number, text };
        let epoch = self.shared.epoch();
        self.shared.account().sent(kind, 1);
        let error = match self.client.request(channel, &question) {
            Ok(answer) => {
                let answer: Question = answer.payload.decode().map_err(|e| e.to_string())?;
                if (answer.requester, answer.number, &answer.text)
                    != (question.requester, number, &question.text)
                {
                    return Err(format!("{question:?} was answered {answer:?}"));
                }
                if at == 1 && !self.executed.is_last(self.index, number) {
                    return Err(format!("{number} was answered and not done"));
                }
                self.answered[at].fetch_add(1, Ordering::SeqCst);
                self.shared.account().done(kind, 1);
                return Ok(());
            }
            Err(error) => error,
        };
        if epoch == self.shared.epoch() && epoch.is_multiple_of(2) {
            return Err(format!("{number} failed though nobody restarted the server: {error}"));
        }
        let is_lost_in_a_drain =
            matches!(error, Error::Lost { .. }) && !self.shared.is_crash.load(Ordering::SeqCst);
        if at == 1 && is_lost_in_a_drain && self.executed.is_last(self.index, number) {
            return Err(format!("{number} was with the worker, and the drain lost it: {error}"));
        }
        if at == 1 && error.execution() == Execution::Never {
            let mut never = lock(&self.executed.never);
            never.insert((self.index, number));
            if self.executed.is_last(self.index, number) {
                return Err(format!("{number} was done, and this is said of it: {error}"));
            }
        }
        self.book(kind, &error)
    }

    /// Records an error as an outcome, if it says whether the request may have been executed.
    fn book(&self, kind: &'static str, error: &Error) -> Result<(), String> {
        let mut account = self.shared.account();
        match error {
            Error::Answered {
                code:
                    code @ (ErrorCode::NoHandler
                    | ErrorCode::ShuttingDown
                    | ErrorCode::Timeout
                    | ErrorCode::WorkerLost),
                ..
            } => account.refused(kind, code.as_str()),
            Error::Lost { .. } if self.shared.is_crash.load(Ordering::SeqCst) => {
                account.lost(kind, LOST_IN_A_CRASH, 1);
            }
            Error::Lost { .. } => account.lost(kind, LOST_IN_A_DRAIN, 1),
            other => return Err(format!("a request ended with: {other}")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_twice_or_after_all_is_seen() {
        let executed = Executed { last: vec![AtomicU64::new(0)], never: Mutex::default() };
        let question = |number| Question { requester: 0, number, text: String::new() };
        assert_eq!(executed.note(&question(1)), Ok(()));
        assert!(executed.note(&question(1)).is_err());
        lock(&executed.never).insert((0, 2));
        assert!(executed.note(&question(2)).is_err());
        assert_eq!(executed.note(&question(3)), Ok(()));
        assert!(executed.is_last(0, 3));
    }
}
