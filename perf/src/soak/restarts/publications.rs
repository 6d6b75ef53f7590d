//! Publications while the server restarts and lines to it are cut, on a channel with a history.

use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use ipc_framework::client::{Client, Event};
use serde::{Deserialize, Serialize};

use super::super::account::kind;
use super::super::lock;
use super::{BACK_MAX, LOOK_INTERVAL, Shared};

pub(super) const CHANNEL: &str = "news";
const PAUSE: Duration = Duration::from_millis(1);

#[derive(Deserialize, Serialize)]
struct Publication {
    publisher: usize,
    number: u64,
    text: String,
}

fn text(number: u64) -> String {
    format!("{number} ").repeat((number % 50) as usize)
}

/// Publishes until the run ends. Every subscriber must get all publications.
pub(super) fn publish(
    publisher: usize,
    client: &Client,
    subscribers: &[Subscriber],
    shared: &Shared,
) {
    let mut number = 0;
    while !shared.is_ending() {
        number += 1;
        let publication = Publication { publisher, number, text: text(number) };
        if let Err(error) = client.publish(CHANNEL, &publication) {
            return shared.raise(&format!("a publication: {error}"));
        }
        shared.account().sent(kind::CLIENT_PUBLICATION, subscribers.len() as u64);
        for subscriber in subscribers {
            subscriber.lock().of[publisher].sent = number;
        }
        thread::sleep(PAUSE);
    }
}

/// A subscriber. Its callbacks run on the client's thread, where messages and events are ordered.
#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) client: Client,
    heard: Arc<Mutex<Heard>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Heard {
    /// The number of gaps that the client reported.
    gaps: u64,
    /// The number of times that it went on without one.
    resumed: u64,
    /// The publications of each publisher.
    of: Vec<FromOne>,
}

#[derive(Clone, Debug, Default)]
struct FromOne {
    sent: u64,
    last: u64,
    received: u64,
    /// The number of gaps at the time of the last publication.
    gaps: u64,
}

impl Heard {
    /// Checks that publications come in order and once, with gaps only where the client said so.
    fn note(&mut self, publication: &Publication) -> Result<(), String> {
        let gaps = self.gaps;
        let Publication { publisher, number, .. } = *publication;
        let of = self.of.get_mut(publisher).ok_or("a publisher that nobody knows")?;
        if publication.text != text(number) {
            return Err(format!("publication {number} of {publisher} was altered"));
        }
        if number <= of.last {
            return Err(format!("publication {number} of {publisher} came after {}", of.last));
        }
        if number > of.last + 1 && of.gaps == gaps {
            return Err(format!("between {} and {number} of {publisher} some are lost", of.last));
        }
        (of.last, of.gaps) = (number, gaps);
        of.received += 1;
        Ok(())
    }
}

impl Subscriber {
    pub(super) fn listen(
        client: Client,
        publishers: usize,
        shared: &Arc<Shared>,
    ) -> Result<Self, String> {
        let heard = Arc::new(Mutex::new(Heard {
            of: vec![FromOne::default(); publishers],
            ..Heard::default()
        }));
        let subscriber = Self { client, heard, shared: Arc::clone(shared) };
        let heard = Arc::clone(&subscriber.heard);
        subscriber.client.on_event(move |event| match event {
            Event::Gap { .. } => lock(&heard).gaps += 1,
            Event::Resumed { .. } => lock(&heard).resumed += 1,
            _ => {}
        });
        let (heard, of_handler) = (Arc::clone(&subscriber.heard), Arc::clone(shared));
        let handler = move |message: ipc_framework::Message| {
            let publication = message.payload.decode().map_err(|error| error.to_string());
            let noted = publication.and_then(|publication| lock(&heard).note(&publication));
            if let Err(what) = noted {
                of_handler.raise(&what);
            }
        };
        let asked = subscriber.client.on_publication(CHANNEL, handler);
        asked.map_err(|error| format!("subscribe: {error}"))?;
        subscriber.client.flush().map_err(|error| format!("subscribe: {error}"))?;
        Ok(subscriber)
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        lock(&self.heard)
    }

    pub(super) fn progress(&self) -> Vec<u64> {
        self.lock().of.iter().map(|of| of.received).collect()
    }

    /// Returns the number of publications that it is to hear of, so far.
    pub(super) fn sent(&self) -> u64 {
        self.lock().of.iter().map(|of| of.sent).sum()
    }

    /// Returns the number of times that it went on without a gap.
    pub(super) fn resumed(&self) -> u64 {
        self.lock().resumed
    }

    /// Waits for the last publications. Those that did not come were lost in gaps that were reported.
    pub(super) fn settle(&self) -> Result<(), String> {
        let begin = Instant::now();
        while self.lock().of.iter().any(|of| of.last < of.sent) {
            if begin.elapsed() > BACK_MAX {
                return Err(format!("the last publications do not come: {:?}", self.lock()));
            }
            thread::sleep(LOOK_INTERVAL);
        }
        let mut account = self.shared.account();
        for of in &self.lock().of {
            account.done(kind::CLIENT_PUBLICATION, of.received);
            let missed = of.last - of.received;
            account.lost(kind::CLIENT_PUBLICATION, "told: a gap", missed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication(number: u64) -> Publication {
        Publication { publisher: 0, number, text: text(number) }
    }

    #[test]
    fn a_gap_is_only_where_the_client_said_so() {
        let mut heard = Heard { of: vec![FromOne::default()], ..Heard::default() };
        assert!(heard.note(&publication(2)).is_err());
        assert_eq!(heard.note(&publication(1)), Ok(()));
        assert!(heard.note(&publication(3)).is_err());
        heard.gaps += 1;
        assert_eq!(heard.note(&publication(3)), Ok(()));
        assert!(heard.note(&publication(5)).is_err());
        assert_eq!((heard.of[0].last, heard.of[0].received), (3, 2));
    }

    #[test]
    fn what_comes_twice_or_altered_is_seen() {
        let mut heard = Heard { of: vec![FromOne::default()], ..Heard::default() };
        assert!(heard.note(&Publication { text: "another".to_owned(), ..publication(1) }).is_err());
        assert_eq!(heard.note(&publication(1)), Ok(()));
        assert!(heard.note(&publication(1)).is_err());
    }
}
