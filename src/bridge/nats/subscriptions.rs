//! The subscriptions of one connection to NATS, which are emptied together.

use std::collections::HashMap;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use async_nats::{Message, Subscriber};
use futures_core::Stream;

/// The subscriptions that are read. NATS' client hands out the messages of a connection in their order, but each
/// to its own subscription; so all that are ready are emptied at once, without giving the client a turn in between.
#[derive(Default)]
pub(super) struct Subscriptions {
    open: HashMap<u64, Reading>,
    ready: Arc<Ready>,
}

struct Reading {
    subscriber: Subscriber,
    waker: Waker,
}

/// The subscriptions that may have messages.
#[derive(Default)]
struct Ready(Mutex<ReadyList>);

#[derive(Default)]
struct ReadyList {
    ids: Vec<u64>,
    reader: Option<Waker>,
}

struct Woken {
    id: u64,
    ready: Arc<Ready>,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        let reader = {
            let mut list = self.ready.0.lock().unwrap_or_else(PoisonError::into_inner);
            list.ids.push(self.id);
            list.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl Subscriptions {
    pub(super) fn insert(&mut self, id: u64, subscriber: Subscriber) {
        let woken = Arc::new(Woken { id, ready: Arc::clone(&self.ready) });
        let waker = Waker::from(Arc::clone(&woken));
        self.open.insert(id, Reading { subscriber, waker });
        // Its first poll registers it.
        woken.wake();
    }

    /// Ends a subscription; its client unsubscribes.
    pub(super) fn remove(&mut self, id: u64) {
        self.open.remove(&id);
    }

    pub(super) fn clear(&mut self) {
        self.open.clear();
    }

    /// Passes everything that is there to `take`, or waits.
    pub(super) fn poll_drain(
        &mut self,
        context: &mut Context<'_>,
        mut take: impl FnMut(u64, Message),
    ) -> Poll<()> {
        let mut any = false;
        loop {
            let ids = {
                let mut list = self.ready.0.lock().unwrap_or_else(PoisonError::into_inner);
                list.reader = Some(context.waker().clone());
                mem::take(&mut list.ids)
            };
            if ids.is_empty() {
                return if any { Poll::Ready(()) } else { Poll::Pending };
            }
            for id in ids {
                let Some(reading) = self.open.get_mut(&id) else { continue };
                let mut own = Context::from_waker(&reading.waker);
                while let Poll::Ready(Some(message)) =
                    Pin::new(&mut reading.subscriber).poll_next(&mut own)
                {
                    any = true;
                    take(id, message);
                }
            }
        }
    }
}
