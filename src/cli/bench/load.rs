//! The clients that put load on a server, with a thread each.

use std::time::{Duration, Instant};

use ipc_framework::client::{Connection, Options};
use ipc_framework::{Json, Message, MessageType};

use super::fan_out;
use super::measure::{Clock, Counted, Load, Measured, Plan, Tally, late, sum_up};
use super::open_loop::OpenLoop;
use super::pace::Pace;
use super::streams;
use crate::cli::failure::Failure;
use crate::cli::target;

/// The channel that answers in `ipc serve --demo`.
const ECHO: &str = "echo";

/// Connects all clients, runs the load, and calls `watch` repeatedly meanwhile.
pub(super) fn run(
    plan: &Plan,
    options: &Options,
    watch: impl Fn(&Clock),
) -> Result<Tally, Failure> {
    if plan.load == Load::Stream {
        return streams::run(plan, options, &payload(plan)?, &watch);
    }
    let connect = |_| Ok(options.connect()?);
    let mut connections = (0..plan.clients).map(connect).collect::<Result<Vec<_>, Failure>>()?;
    let channel = plan.channel.clone().unwrap_or_else(|| match plan.load {
        Load::Request => ECHO.to_owned(),
        _ => format!("bench-{}", connections[0].connection_id()),
    });
    match plan.load {
        Load::Request => {
            let request = message(plan, MessageType::Request, channel)?;
            run_loops(plan, options, connections, &watch, &vec![request; plan.clients as usize])
        }
        Load::Publish => {
            let mut messages = Vec::new();
            for (at, connection) in connections.iter_mut().enumerate() {
                let channel = format!("{channel}-{at}");
                target::subscribe(connection, &channel)?;
                messages.push(message(plan, MessageType::Publish, channel)?);
            }
            run_loops(plan, options, connections, &watch, &messages)
        }
        Load::FanOut => fan_out::run(plan, options, connections, &channel, &watch),
        Load::Stream => unreachable!("it has connections of its own"),
    }
}

/// Returns the payload of the plan, or text of its size.
fn payload(plan: &Plan) -> Result<Json<'static>, Failure> {
    if let Some(payload) = &plan.payload {
        return Ok(payload.clone());
    }
    let text = "x".repeat(plan.payload_bytes.saturating_sub("\"\"".len()));
    Json::from_serialize(&text).map_err(|error| Failure::usage(error.to_string()))
}

fn message(plan: &Plan, message_type: MessageType, channel: String) -> Result<Message, Failure> {
    Ok(Message::new(message_type, "", channel, payload(plan)?))
}

/// Runs each connection with its message in a thread of its own.
fn run_loops(
    plan: &Plan,
    options: &Options,
    connections: Vec<Connection>,
    watch: &impl Fn(&Clock),
    messages: &[Message],
) -> Result<Tally, Failure> {
    let clock = Clock::start(plan);
    std::thread::scope(|scope| {
        let clients = connections.into_iter().zip(messages).zip(0..);
        let threads = clients.map(|((connection, message), at)| {
            let clock = &clock;
            scope.spawn(move || {
                let measured = match plan.rate {
                    None => closed_loop(plan, connection, message, options.timeout, clock),
                    Some(rate) => {
                        let pace = Pace::new(clock, rate, at, plan.clients);
                        OpenLoop::new(plan, options, connection, message.clone(), pace).run(clock)
                    }
                };
                // The first failure ends the load of all.
                measured.inspect_err(|_| clock.stop())
            })
        });
        let threads: Vec<_> = threads.collect();
        sum_up(&clock, threads, watch)
    })
}

/// Sends one message after another.
fn closed_loop(
    plan: &Plan,
    mut connection: Connection,
    message: &Message,
    timeout: Duration,
    clock: &Clock,
) -> Measured {
    let mut counted = Counted::new();
    while !clock.is_over() {
        let begin = Instant::now();
        if message.message_type == MessageType::Request {
            match connection.request_json(&message.channel_id, &message.payload) {
                Ok(_) => {}
                Err(error) => {
                    let code = error.code().filter(|_| plan.expects_errors);
                    let Some(code) = code else { return Err(error.into()) };
                    clock.count_error(&mut counted, begin, code);
                    continue;
                }
            }
        } else {
            connection.send_message(message)?;
            connection.receive(Some(timeout))?.ok_or_else(|| late(timeout))?;
        }
        clock.count(&mut counted, begin);
    }
    Ok(counted)
}
