//! The broker without sockets, clock or threads: two clients in memory, driven turn by turn. It
//! needs the feature `broker` alone:
//! `cargo run --no-default-features --features broker --example sans_io`.

use std::collections::BTreeMap;
use std::time::Duration;

use ipc_framework::broker::{Action, Broker, Now, Written};
use ipc_framework::{Access, ConnectionKey, Limits, Verdict};

/// One end of a pipe: the bytes that are on their way to the broker, and those that it has sent.
#[derive(Default)]
struct Pipe {
    to_broker: Vec<u8>,
    from_broker: Vec<u8>,
}

/// A driver: everything that a loop over sockets would do.
pub(crate) struct Driver {
    broker: Broker,
    pipes: BTreeMap<ConnectionKey, Pipe>,
    /// Connections of which the broker has kept bytes for the next turn.
    resumed: Vec<ConnectionKey>,
    now: Now,
}

impl Driver {
    pub(crate) fn new() -> Self {
        let now = Now { monotonic: Duration::ZERO, unix: Duration::from_secs(1_700_000_000) };
        // Outside of an example these are 32 bytes of the system's randomness.
        let seed = [7; 32];
        let mut broker = Broker::new(Limits::default(), Access::default(), seed, now);
        broker.application("math", "Arithmetic").channel("square").on_request(|mut request| {
            let x: f64 = request.payload()?;
            request.publish("log", &format!("squared {x}"))?;
            request.reply(&(x * x))
        });
        broker.filter(|delivery| match delivery.json().as_str() {
            "\"secret\"" => Err("this is not for everybody".into()),
            _ => Ok(Verdict::CarryOut),
        });
        Self { broker, pipes: BTreeMap::new(), resumed: Vec::new(), now }
    }

    pub(crate) fn broker(&mut self) -> &mut Broker {
        &mut self.broker
    }

    pub(crate) fn connect(&mut self) -> ConnectionKey {
        let key = self.broker.accept().expect("there is room for two");
        self.pipes.insert(key, Pipe::default());
        key
    }

    /// A client writes a message: a length in four bytes, and JSON.
    pub(crate) fn write(&mut self, from: ConnectionKey, kind: &str, channel: &str, payload: &str) {
        let body = format!(r#"{{"message_id":"1","app_id":"math","channel_id":"{channel}","#)
            + &format!(r#""message_type":"{kind}","payload":{payload},"timestamp":0}}"#);
        let pipe = self.pipes.entry(from).or_default();
        pipe.to_broker.extend((body.len() as u32).to_be_bytes());
        pipe.to_broker.extend(body.bytes());
    }

    /// A client reads the messages that have come.
    pub(crate) fn read(&mut self, to: ConnectionKey) -> Vec<String> {
        let bytes = std::mem::take(&mut self.pipes.entry(to).or_default().from_broker);
        let mut rest = &bytes[..];
        let mut messages = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk() {
            let (body, after) = after.split_at(u32::from_be_bytes(*length) as usize);
            messages.push(String::from_utf8_lossy(body).into_owned());
            rest = after;
        }
        messages
    }

    /// Turns, some time after the last one, until there is nothing left to do.
    pub(crate) fn run(&mut self, passed: Duration) {
        self.now.monotonic += passed;
        self.now.unix += passed;
        loop {
            self.turn();
            if self.resumed.is_empty() {
                return;
            }
        }
    }

    fn turn(&mut self) {
        self.broker.begin_turn(self.now);
        for key in std::mem::take(&mut self.resumed) {
            self.broker.receive(key, &[]);
        }
        for (key, pipe) in &mut self.pipes {
            if !pipe.to_broker.is_empty() && self.broker.wants_read(*key) {
                self.broker.receive(*key, &std::mem::take(&mut pipe.to_broker));
            }
        }
        // Whatever other threads have asked for.
        self.broker.run_mailbox();
        self.act();
        self.broker.advance();
        self.act();
        self.broker.end_turn(|| self.now.monotonic);
    }

    /// Carries out what the broker decided.
    fn act(&mut self) {
        while let Some(action) = self.broker.next_action() {
            match action {
                Action::Flush(key) => {
                    let pipe = self.pipes.entry(key).or_default();
                    // A pipe takes everything. A socket would take what fits, or fail.
                    let _ = self.broker.flush(key, |queue| {
                        queue.slices().for_each(|slice| pipe.from_broker.extend_from_slice(slice));
                        Ok::<_, ()>(Written { bytes: queue.len(), holds: false })
                    });
                }
                Action::Resume(key) => self.resumed.push(key),
                Action::FinishWrite(_) | Action::Attach(_) => {}
                // It comes only to those who set `Limits::shared_memory`.
                Action::Share(key) => {
                    self.broker.share(key, |_| Err("these pipes share no memory".to_owned()));
                }
                Action::Close(key) => drop(self.pipes.remove(&key)),
            }
        }
    }
}

fn main() {
    let mut driver = Driver::new();
    let (ann, bob) = (driver.connect(), driver.connect());
    driver.write(ann, "request", "system", r#"{"action":"connect","connection_id":"ann"}"#);
    driver.write(bob, "request", "system", r#"{"action":"connect","connection_id":"bob"}"#);
    driver.write(bob, "subscribe", "log", "{}");
    driver.run(Duration::from_millis(1));
    driver.write(ann, "request", "square", "7");
    let handle = driver.broker().handle();
    let publishing = std::thread::spawn(move || handle.publish("math", "log", &"from a thread"));
    // A driver that sleeps has a waker set, and runs a turn when it is called.
    if let Err(error) = publishing.join().expect("it does not panic") {
        eprintln!("{error}");
    }
    driver.run(Duration::from_millis(1));
    for message in driver.read(ann).iter().chain(&driver.read(bob)) {
        println!("{message}");
    }
}
