//! A request on its way, and what becomes of its answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ipc_framework::client::{Error, Execution, Position};
use ipc_framework::{ErrorCode, Message};

use super::errors::Failure;
use super::inbox::{Answer, Inbox, Item};
use super::waiter::Room;

/// Where an answer goes.
pub(super) enum Place {
    /// To the thread that waits for it.
    Room(Arc<Room>),
    Inbox(Arc<Inbox>, String),
}

/// Takes the answer. It counts the request until then, or until it is dropped without an answer.
pub(super) struct Asked {
    place: Place,
    count: Arc<AtomicUsize>,
    is_ending: Arc<AtomicBool>,
    /// The end of the time that the server was told.
    deadline: Option<Instant>,
}

impl Asked {
    pub(super) fn new(
        place: Place,
        count: &Arc<AtomicUsize>,
        is_ending: &Arc<AtomicBool>,
        told: Option<Duration>,
    ) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        let deadline = told.and_then(|told| Instant::now().checked_add(told));
        Self { place, count: Arc::clone(count), is_ending: Arc::clone(is_ending), deadline }
    }

    pub(super) fn take(self, answer: Result<Message, Error>) {
        let answer = match answer {
            Ok(message) => match self.own_deadline(&message) {
                Some(error) => Err(error),
                None => Ok(Answer::Message(message)),
            },
            Err(error) => Err(error),
        };
        self.settle(answer);
    }

    /// Takes the place of a publication in its channel's history.
    pub(super) fn take_place(self, place: Result<Option<Position>, Error>) {
        self.settle(place.map(Answer::Place));
    }

    fn settle(&self, answer: Result<Answer, Error>) {
        let answer = answer.map_err(|error| match error {
            Error::Lost { execution: Execution::Possible, .. }
                if self.is_ending.load(Ordering::SeqCst) =>
            {
                Failure::of_closed()
            }
            error => Failure::from(&error),
        });
        match &self.place {
            Place::Room(room) => room.fill(answer),
            Place::Inbox(inbox, message_id) => {
                inbox.put(Item::Answer { message_id: message_id.clone(), answer });
            }
        }
    }

    /// Returns the error that this answer stands for if the server says that the requester's own time
    /// is over, a moment before this client does.
    fn own_deadline(&self, message: &Message) -> Option<Error> {
        let is_over = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
        if !is_over || !message.payload.as_str().contains("\"timeout\"") {
            return None;
        }
        let mut members: HashMap<String, String> = message.payload.decode().ok()?;
        let is_error = members.get("status")? == "error" && members.get("code")? == "timeout";
        let text = members.remove("error").filter(|_| is_error)?;
        Some(Error::Answered { code: ErrorCode::Timeout, text })
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::SeqCst);
    }
}
