//! What the loop tells the bridge's thread. The loop never waits for that thread, and what it has told
//! stays bounded by what there is.

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::events::{LocalInterest, LocalSubject};
use crate::broker::{Interest, InterestIn};

/// What the bridge has not been told yet. Interest that ends before it was told leaves nothing.
#[derive(Debug)]
pub(crate) struct Inbox<T>(Mutex<Waiting<T>>);

#[derive(Debug)]
struct Waiting<T> {
    interest: BTreeMap<(String, LocalSubject), bool>,
    /// The ends of bus links, with the application of each. The server bounds how many there are.
    buses: Vec<(String, T)>,
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self(Mutex::new(Waiting { interest: BTreeMap::new(), buses: Vec::new() }))
    }
}

impl<T> Inbox<T> {
    /// Takes the end of a link that the server has opened. Returns whether the inbox was empty before.
    pub(crate) fn open_bus(&self, application: &str, end: T) -> bool {
        let mut waiting = self.waiting();
        let was_empty = waiting.is_empty();
        waiting.buses.push((application.to_owned(), end));
        was_empty
    }

    /// Notes what the hook was told. Returns whether the inbox was empty before.
    pub(crate) fn note(&self, interest: &Interest<'_>) -> bool {
        let subject = match interest.subject {
            InterestIn::Application => LocalSubject::Application,
            InterestIn::Channel(channel) => LocalSubject::Channel(channel.to_owned()),
            InterestIn::Pattern(pattern) => LocalSubject::Pattern(pattern.to_owned()),
            InterestIn::Workers(channel) => LocalSubject::Workers(channel.to_owned()),
        };
        let mut waiting = self.waiting();
        let was_empty = waiting.is_empty();
        let key = (interest.application.to_owned(), subject);
        // Each is told in turns, so that a second change takes back the first one.
        if waiting.interest.remove(&key).is_none_or(|waits| waits == interest.is_wanted) {
            waiting.interest.insert(key, interest.is_wanted);
        }
        was_empty
    }

    /// Takes all of it: an application comes before what is wanted of it, and leaves after that. Its link
    /// comes last, because the server opens it after it has told that the application is wanted.
    pub(crate) fn take(&self) -> (Vec<LocalInterest>, Vec<(String, T)>) {
        let mut waiting = self.waiting();
        let (interest, buses) = (mem::take(&mut waiting.interest), mem::take(&mut waiting.buses));
        drop(waiting);
        let mut taken: Vec<LocalInterest> = interest
            .into_iter()
            .map(|((application, subject), is_wanted)| LocalInterest {
                application,
                subject,
                is_wanted,
            })
            .collect();
        taken.sort_by_key(|interest| match (&interest.subject, interest.is_wanted) {
            (LocalSubject::Application, true) => 0,
            (_, true) => 1,
            (LocalSubject::Application, false) => 3,
            (_, false) => 2,
        });
        (taken, buses)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Waiting<T> {
    fn is_empty(&self) -> bool {
        self.interest.is_empty() && self.buses.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{Access, Broker, Limits, Now};

    /// A broker tells of interest; nobody else can make one.
    fn told(inbox: &std::sync::Arc<Inbox<()>>) -> Broker {
        let mut broker = Broker::new(Limits::default(), Access::default(), [7; 32], Now::default());
        let told = std::sync::Arc::clone(inbox);
        broker.on_interest(move |interest| {
            told.note(interest);
        });
        broker
    }

    #[test]
    fn an_application_comes_before_what_is_wanted_of_it() {
        let inbox = std::sync::Arc::default();
        let mut broker = told(&inbox);
        let mut app = broker.application("shop", "Shop");
        app.channel("a").on_request(|request| request.reply(&1));
        app.channel("b").on_request(|request| request.reply(&1));
        inbox.open_bus("shop", ());
        let (taken, buses) = inbox.take();
        let subjects: Vec<_> = taken.iter().map(|interest| interest.subject.clone()).collect();
        let workers = |channel: &str| LocalSubject::Workers(channel.to_owned());
        assert_eq!(subjects, [LocalSubject::Application, workers("a"), workers("b")]);
        assert!(taken.iter().all(|interest| interest.is_wanted && interest.application == "shop"));
        assert_eq!(buses, [("shop".to_owned(), ())]);
        assert_eq!(inbox.take(), (Vec::new(), Vec::new()));
    }

    #[test]
    fn an_application_ends_behind_what_was_wanted_of_it() {
        let inbox = Inbox::<()>::default();
        for subject in
            [InterestIn::Application, InterestIn::Channel("news"), InterestIn::Workers("a")]
        {
            inbox.note(&Interest { application: "shop", subject, is_wanted: false });
        }
        let (taken, _) = inbox.take();
        let last = taken.last().map(|interest| interest.subject.clone());
        assert_eq!((taken.len(), last), (3, Some(LocalSubject::Application)));
    }

    #[test]
    fn what_ends_before_it_is_told_leaves_nothing() {
        let inbox = Inbox::<()>::default();
        let interest = |is_wanted| Interest {
            application: "shop",
            subject: InterestIn::Channel("news"),
            is_wanted,
        };
        assert!(inbox.note(&interest(true)));
        assert!(!inbox.note(&interest(false)));
        assert_eq!(inbox.take().0, []);
        assert!(inbox.note(&interest(true)));
        assert!(!inbox.note(&interest(true)), "a hook that is set again repeats what there is");
        assert_eq!(inbox.take().0.len(), 1);
        assert!(inbox.note(&interest(false)));
        assert!(!inbox.take().0[0].is_wanted);
    }
}
