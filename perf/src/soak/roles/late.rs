//! A worker that answers after the deadline. The requester has got an error by then, and gets
//! nothing more.

use serde_json::Value;

use super::super::account::kind;
use super::super::context::{Context, Random};
use super::super::peer::{ANSWER_MAX, Peer};

const REQUESTS: usize = 20;

pub(super) fn round(context: &Context<'_>, random: &mut Random) -> Result<(), String> {
    let channel = &context.round;
    let mut worker = context.connect(random, &format!("{channel}-worker"))?;
    worker.serve(channel)?;
    let mut requester = context.connect(random, &format!("{channel}-requester"))?;
    requester.wait_up_to(ANSWER_MAX * 2)?;
    for _ in 0..REQUESTS {
        requester.ask(kind::WORKER, "request", channel, &Value::Null)?;
    }
    let mut held = Vec::new();
    for _ in 0..REQUESTS {
        held.push(worker.receive()?);
    }
    for _ in 0..REQUESTS {
        requester.expect_error("timeout")?;
    }
    for request in &held {
        worker.respond(request, &Value::Null)?;
    }
    context.fault("a worker that answers too late");
    context.expect("responses_ignored", REQUESTS);
    context.expect("cancelled.deadline", REQUESTS);
    [&mut worker, &mut requester].into_iter().try_for_each(Peer::expect_nothing_else)
}
