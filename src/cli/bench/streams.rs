//! The stream load: each connection reads streams side by side, each followed by the next.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::task::Poll;
use std::time::{Duration, Instant};

use ipc_framework::Json;
use ipc_framework::client::{Client, ClientOptions, Error, Options, RequestOptions, RequestStream};

use super::measure::{Clock, Counted, Measured, Plan, Tally, sum_up};
use crate::cli::failure::Failure;
use crate::cli::interrupt::LOOK_EVERY;

/// Parts that are taken from a stream before the others have their turn.
const PARTS_PER_TURN_MAX: usize = 64;
/// The most streams of the load's own worker at a time, each of which has a thread.
const WORKER_THREADS_MAX: usize = 256;
/// Time for the worker to send what waits, where that is too much.
const PAUSE: Duration = Duration::from_millis(1);

/// The streams of one connection.
struct Reader<'a> {
    /// They come before the client, so that they are cancelled before it is closed.
    streams: Vec<Open>,
    client: Client,
    channel: &'a str,
    payload: &'a Json<'static>,
    options: RequestOptions,
    /// Numbers of the streams that have something to take.
    ready: Sender<usize>,
    expects_errors: bool,
    counted: Counted,
}

/// A stream, with the time at which it was asked for.
struct Open {
    stream: RequestStream,
    began: Instant,
    has_parts: bool,
}

pub(super) fn run(
    plan: &Plan,
    options: &Options,
    payload: &Json<'static>,
    watch: &impl Fn(&Clock),
) -> Result<Tally, Failure> {
    let null = Json::parse("null").map_err(|error| Failure::runtime(error.to_string()))?;
    let (channel, payload, worker) = if let Some(channel) = &plan.channel {
        (channel.clone(), payload, None)
    } else {
        let (channel, worker) = serve_parts(plan, options, payload)?;
        (channel, &null, Some(worker))
    };
    let channel = channel.as_str();
    let clients = (0..plan.clients).map(|_| connect(options));
    let clients = clients.collect::<Result<Vec<_>, Error>>()?;
    let clock = Clock::start(plan);
    let tally = std::thread::scope(|scope| {
        let threads = clients.into_iter().map(|client| {
            let clock = &clock;
            let run = move || read(plan, client, channel, payload, clock);
            // The first failure ends the load of all.
            scope.spawn(move || run().inspect_err(|_| clock.stop()))
        });
        sum_up(&clock, threads.collect(), watch)
    });
    drop(worker);
    tally
}

/// Starts a worker that answers every request on a channel of its own with the parts of the plan.
/// It runs as long as the client that this returns is there.
fn serve_parts(
    plan: &Plan,
    options: &Options,
    part: &Json<'static>,
) -> Result<(String, Client), Failure> {
    let worker = connect(options)?;
    if !worker.has_call() {
        return Err(Failure::runtime(
            "this server knows no answers in parts; update it, or measure requests instead",
        ));
    }
    let channel = format!("bench-{}", worker.connection_info().connection_id);
    let threads = plan.streams.saturating_mul(plan.clients as usize).min(WORKER_THREADS_MAX);
    let (parts, part) = (plan.parts, part.clone());
    worker.serve_stream(&channel, threads, move |_, sender| {
        for _ in 0..parts {
            loop {
                match sender.send(&part) {
                    Ok(()) => break,
                    Err(Error::QueueFull { .. }) => std::thread::sleep(PAUSE),
                    // Its reader left at the end of the load.
                    Err(_) => return Ok(()),
                }
            }
        }
        Ok(())
    })?;
    Ok((channel, worker))
}

/// A connection that is lost ends the load.
fn connect(options: &Options) -> Result<Client, Error> {
    let mut of_client = ClientOptions::new(options.app_id.clone());
    of_client.connection = options.clone();
    of_client.reconnect = None;
    of_client.connect()
}

fn read(
    plan: &Plan,
    client: Client,
    channel: &str,
    payload: &Json<'static>,
    clock: &Clock,
) -> Measured {
    let (ready, wakes) = mpsc::channel();
    let mut reader = Reader {
        streams: Vec::new(),
        client,
        channel,
        payload,
        options: RequestOptions::default().credit(plan.credit),
        ready,
        expects_errors: plan.expects_errors,
        counted: Counted::new(),
    };
    for at in 0..plan.streams {
        let open = reader.open(at)?;
        reader.streams.push(open);
    }
    while !clock.is_over() {
        match wakes.recv_timeout(LOOK_EVERY) {
            Ok(at) => reader.take(at, clock)?,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }
    Ok(reader.counted)
}

impl Reader<'_> {
    fn open(&self, at: usize) -> Result<Open, Error> {
        let began = Instant::now();
        let stream = self.client.request_stream_with(self.channel, self.payload, &self.options)?;
        let ready = self.ready.clone();
        // The receiver is there as long as the streams are.
        stream.on_ready(move || {
            let _ = ready.send(at);
        });
        Ok(Open { stream, began, has_parts: false })
    }

    /// Takes what a stream has, and asks for the next one at its end.
    fn take(&mut self, at: usize, clock: &Clock) -> Result<(), Failure> {
        for _ in 0..PARTS_PER_TURN_MAX {
            let open = &mut self.streams[at];
            let next = match open.stream.try_next() {
                Poll::Ready(next) => next,
                Poll::Pending => return Ok(()),
            };
            if let Some(Ok(_)) = next {
                if !std::mem::replace(&mut open.has_parts, true) {
                    clock.count_first_part(&mut self.counted, open.began);
                }
                clock.count_part(&mut self.counted);
            } else {
                clock.count_stream(&mut self.counted, open.began);
                if let Some(Err(error)) = next {
                    let code = error.code().filter(|_| self.expects_errors);
                    let Some(code) = code else { return Err(error.into()) };
                    clock.note_error(&mut self.counted, open.began, code);
                }
                self.streams[at] = self.open(at)?;
                return Ok(());
            }
        }
        // It has more, and its turn comes again.
        let _ = self.ready.send(at);
        Ok(())
    }
}
