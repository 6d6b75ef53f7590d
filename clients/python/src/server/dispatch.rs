//! The path from the loop to Python: the messages that go there, their threads, and their results.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ipc_framework::proto::system::Failure;
use ipc_framework::{
    ConnectionInfo, Context, Delivery, ErrorCode, HandlerError, Message, MessageType, Request,
    RequestResult, Server, Verdict,
};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::calls::Call;
use super::jobs::{Job, Jobs};
use super::origin::{Origin, State};
use super::reply::Reply;
use super::shared::Shared;
use crate::message::{Fields, payload_bytes};

/// Sets up the server to call Python.
pub(super) fn install(server: &mut Server, shared: &Arc<Shared>, jobs: Option<Jobs>) {
    let jobs = jobs.map(Arc::new);
    let dispatch = Dispatch { shared: shared.clone(), jobs };
    let (notes, responses) = (dispatch.clone(), dispatch.clone());
    server
        .fallback()
        .on_request(move |request| dispatch.request(request))
        .on_notification(move |note| notes.deliver(note))
        .on_response(move |response| responses.deliver(response));
    let subscribed = [MessageType::Publish, MessageType::Subscribe, MessageType::Unsubscribe];
    if subscribed.into_iter().any(|one| shared.calls.routes(one)) {
        let shared = shared.clone();
        server.filter(move |delivery| filter(&shared, delivery));
    }
    let (come, gone) = (shared.clone(), shared.clone());
    server.on_connect(move |info, context| {
        let (known, channels) = {
            let mut connections = come.connections.lock();
            let known = connections.add(info);
            let channels = connections.take_awaited(&known);
            (known, channels)
        };
        for channel in channels {
            context.subscribe(known.key, &channel);
        }
        watch(&come, true, info, context);
    });
    server.on_disconnect(move |info, context| {
        watch(&gone, false, info, context);
        gone.connections.lock().remove(info);
        gone.origins.forget(info.key);
    });
}

fn watch(
    shared: &Arc<Shared>,
    has_come: bool,
    info: &ConnectionInfo<'_>,
    context: &mut Context<'_>,
) {
    if !shared.is_watched.load(Ordering::Relaxed) {
        return;
    }
    let known = shared.connections.lock().find_in(info.app_id, info.connection_id);
    let Some(known) = known else { return };
    Python::attach(|py| {
        let connection = shared.connection(known);
        let told = shared.door.enter(context, || {
            shared.server(py)?.call_method1(intern!(py, "_watch"), (has_come, connection))
        });
        if let Err(error) = told {
            error.write_unraisable(py, None);
        }
    });
}

#[derive(Clone)]
struct Dispatch {
    shared: Arc<Shared>,
    jobs: Option<Arc<Jobs>>,
}

impl Dispatch {
    fn request<'a>(&self, mut request: Request<'a>) -> RequestResult<'a> {
        let shared = &self.shared;
        let Some(call) = shared.calls.find(request.message()) else {
            return Ok(request.pass_on());
        };
        let origin = shared.origins.of_request(&request);
        if let Some(jobs) = &self.jobs {
            let answered = queue(jobs, request, &origin, call);
            if answered.is_err() {
                shared.origins.remove(&origin);
            }
            return answered;
        }
        let fields = Fields::from(request.message());
        run(shared, request.context(), &call, &fields, &origin);

        let (mut request, mut deferred) = (Some(request), None);
        let outcome = origin.conclude(|| match request.take().map(answer_later) {
            Some(Ok((reply, later))) => {
                deferred = Some(Ok(reply));
                State::Deferred(later)
            }
            Some(Err(error)) => {
                deferred = Some(Err(error));
                State::Settled
            }
            None => State::Settled,
        });
        let Some(request) = request else {
            return match deferred {
                Some(Ok(reply)) => {
                    origin.returned();
                    Ok(reply)
                }
                Some(Err(error)) => {
                    shared.origins.remove(&origin);
                    Err(error)
                }
                None => unreachable!("a request that is gone was deferred"),
            };
        };
        match outcome {
            State::Replied(payload) => request.reply_json(&payload),
            State::Failed(error) => Err(error),
            State::PassedOn => Ok(request.pass_on()),
            State::Open | State::Deferred(_) | State::Settled => Ok(request.answered()),
        }
    }

    /// Handles a notification or a response.
    fn deliver(&self, mut delivery: Delivery<'_>) -> Result<(), HandlerError> {
        let shared = &self.shared;
        let Some(call) = shared.calls.find(delivery.message()) else { return delivery.pass_on() };
        let origin = shared.origins.of(delivery.from(), delivery.message());
        if let Some(jobs) = &self.jobs {
            let has_room = jobs.has_room(payload_bytes(&delivery.json()));
            let message = Message::from(delivery.message());
            if !has_room || !jobs.push(Job { message, origin, call }) {
                return Err(HandlerError::new(OVERLOADED));
            }
            return Ok(());
        }
        let fields = Fields::from(delivery.message());
        run(shared, delivery.context(), &call, &fields, &origin);
        match origin.conclude(|| State::Settled) {
            State::Failed(error) => Err(error),
            State::PassedOn => delivery.pass_on(),
            _ => Ok(()),
        }
    }
}

fn answer_later(request: Request<'_>) -> Result<(ipc_framework::Reply<'_>, Reply), HandlerError> {
    if request.takes_stream() {
        request.stream().map(|(reply, sender)| (reply, Reply::Parts(sender)))
    } else {
        request.defer().map(|(reply, responder)| (reply, Reply::Once(responder)))
    }
}

/// Hands a request to the threads. It is deferred before they see it.
fn queue<'a>(
    jobs: &Jobs,
    request: Request<'a>,
    origin: &Arc<Origin>,
    call: Call,
) -> RequestResult<'a> {
    let busy = Failure::new(ErrorCode::LimitExceeded, OVERLOADED);
    if !jobs.has_room(payload_bytes(&request.json())) {
        return request.reply(&busy);
    }
    let message = Message::from(request.message());
    let waits = jobs.are_busy();
    let (reply, later) = answer_later(request)?;
    origin.defer(later);
    if waits {
        // If nobody wants the answer any more when a thread is free, the handler does not begin.
        origin.listeners();
    }
    if !jobs.push(Job { message, origin: origin.clone(), call }) {
        origin.refuse_as(ErrorCode::LimitExceeded, OVERLOADED);
    }
    Ok(reply)
}

const OVERLOADED: &str =
    "too many messages wait for the server's threads; send it again later, or start more of them";

/// Calls Python on the loop's thread, which waits for the result.
fn run(
    shared: &Shared,
    context: &mut Context<'_>,
    call: &Call,
    fields: &Fields<'_>,
    origin: &Arc<Origin>,
) {
    let called = Python::attach(|py| {
        let called = shared.door.enter(context, || {
            let arguments = call.arguments(py, fields, origin)?;
            shared.server(py)?.call_method1(intern!(py, "_run"), arguments)
        });
        called.map(drop).map_err(|error| describe(py, &error))
    });
    if let Err(text) = called {
        origin.refuse(&text);
    }
}

/// Returns the arguments for a thread of Python, while the loop goes on.
pub(super) fn take_job<'py>(py: Python<'py>, job: &Job) -> Option<Bound<'py, PyTuple>> {
    if job.origin.is_cancelled() {
        // Nobody gets this answer.
        job.origin.refuse("the request is over");
        return None;
    }
    let fields = Fields::from(&job.message);
    let arguments = job.call.arguments(py, &fields, &job.origin);
    arguments.map_err(|error| job.origin.refuse(&describe(py, &error))).ok()
}

/// Describes an error that no handler saw: Python did not accept the payload, or the interpreter is
/// ending.
fn describe(py: Python<'_>, error: &PyErr) -> String {
    format!("the message could not be made a Python object: {}", error.value(py))
}

fn filter(shared: &Arc<Shared>, delivery: &mut Delivery<'_>) -> Result<Verdict, HandlerError> {
    let message = *delivery.message();
    if !shared.calls.routes(message.message_type()) {
        return Ok(Verdict::CarryOut);
    }
    let origin = shared.origins.of(delivery.from(), &message);
    run(shared, delivery.context(), &Call::Route, &Fields::from(&message), &origin);
    match origin.conclude(|| State::Settled) {
        State::Failed(error) => Err(error),
        State::PassedOn => Ok(Verdict::CarryOut),
        _ => Ok(Verdict::Drop),
    }
}
