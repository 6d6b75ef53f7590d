//! What goes to NATS. A task of its own waits for the client, so that the bridge never does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_nats::{Client, Subscriber};
use tokio::sync::mpsc;

/// What is done at NATS, in this order.
pub(super) enum Outgoing {
    Subscribe { id: u64, subject: String },
    Publish { subject: String, payload: Vec<u8> },
}

/// What came of it.
pub(super) enum Done {
    Subscribed(u64, Subscriber),
    Refused(String),
}

/// The door to the task.
pub(super) struct Out {
    queue: mpsc::UnboundedSender<(u64, Outgoing)>,
    /// How many connections there have been. What was meant for an earlier one is not sent.
    generation: Arc<AtomicU64>,
}

impl Out {
    /// Starts the task. What comes of its work is told by the receiver.
    pub(super) fn start(client: Client) -> (Self, mpsc::UnboundedReceiver<Done>) {
        let (queue, waiting) = mpsc::unbounded_channel();
        let (tell, done) = mpsc::unbounded_channel();
        let generation = Arc::new(AtomicU64::new(0));
        tokio::spawn(send(client, waiting, tell, Arc::clone(&generation)));
        (Self { queue, generation }, done)
    }

    /// Forgets all that waits.
    pub(super) fn begin_again(&self, generation: u64) {
        self.generation.store(generation, Ordering::Relaxed);
    }

    pub(super) fn send(&self, outgoing: Outgoing) {
        let generation = self.generation.load(Ordering::Relaxed);
        // The task ends only with the runtime.
        let _ = self.queue.send((generation, outgoing));
    }
}

async fn send(
    client: Client,
    mut waiting: mpsc::UnboundedReceiver<(u64, Outgoing)>,
    tell: mpsc::UnboundedSender<Done>,
    current: Arc<AtomicU64>,
) {
    while let Some((generation, outgoing)) = waiting.recv().await {
        if generation != current.load(Ordering::Relaxed) {
            continue;
        }
        let done = match outgoing {
            Outgoing::Subscribe { id, subject } => match client.subscribe(subject).await {
                Ok(subscriber) => Some(Done::Subscribed(id, subscriber)),
                Err(error) => Some(Done::Refused(error.to_string())),
            },
            Outgoing::Publish { subject, payload } => {
                let published = client.publish(subject, payload.into()).await;
                published.err().map(|error| Done::Refused(error.to_string()))
            }
        };
        if let Some(done) = done {
            let _ = tell.send(done);
        }
    }
}
