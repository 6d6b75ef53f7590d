//! A worker that answers when the time for it is over: the requester was told, and hears no more.

use serde_json::Value;

use super::super::account::kind;
use super::super::peer::{ANSWER_MAX, Peer};
use super::super::stage::{Random, Stage};

const REQUESTS: usize = 20;

pub(super) fn round(stage: &Stage<'_>, random: &mut Random) -> Result<(), String> {
    let channel = &stage.round;
    let mut worker = stage.connect(random, &format!("{channel}-worker"))?;
    worker.serve(channel)?;
    let mut requester = stage.connect(random, &format!("{channel}-requester"))?;
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
    stage.fault("a worker that answers too late");
    stage.expect("responses_ignored", REQUESTS);
    [&mut worker, &mut requester].into_iter().try_for_each(Peer::expect_nothing_else)
}
