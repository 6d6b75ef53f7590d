//! `Client` while its connection holds.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::task::{Context, Poll, Wake};
use std::thread::Thread;
use std::time::Duration;

use futures_core::Stream;
use ipc_framework::client::{Client, ClientOptions, Error, Execution, Request, RequestFuture};
use ipc_framework::{Config, ErrorCode, HandlerError, Message};
use serde_json::{Value, json};

use super::connection::options;
use crate::support::{self, HANG, TestServer, serve_echo, together};

pub(crate) fn client_options(server: &TestServer) -> ClientOptions {
    let mut client_options = ClientOptions::new("app");
    client_options.connection = options(server);
    client_options
}

pub(crate) fn connect(server: &TestServer) -> Client {
    client_options(server).connect().expect("the server admits")
}

pub(crate) fn value(message: &Message) -> Value {
    serde_json::from_str(message.payload.as_str()).unwrap()
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// A minimal executor.
fn block_on<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = Context::from_waker(&waker);
    loop {
        match poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Blocks until the answer comes.
pub(crate) fn wait(future: RequestFuture) -> Result<Message, Error> {
    let mut future = pin!(future);
    block_on(|context| future.as_mut().poll(context))
}

#[test]
fn every_thread_gets_its_own_answers() {
    let server = serve_echo();
    let client = connect(&server);
    together(8, |thread| {
        for n in 0..200 {
            let question = json!([thread, n, "x".repeat(n * 37)]);
            assert_eq!(value(&client.request("echo", &question).unwrap()), question);
        }
    });
    assert_eq!(client.connection_info().pending_requests, 0);
    client.close().unwrap();
    server.wait_until("its end", |stats| stats.total_connections == 0);
    assert!(matches!(client.request("echo", &1), Err(Error::Closed)));
    assert!(matches!(client.publish("echo", &1), Err(Error::Closed)));
}

#[test]
fn a_callback_and_a_future_get_the_answer_or_the_error() {
    let server = serve_echo();
    let client = connect(&server);
    let (sender, answers) = mpsc::channel();
    for channel in ["echo", "nobody"] {
        let sender = sender.clone();
        client.send_request_async(channel, &1, move |answer| sender.send(answer).unwrap()).unwrap();
    }
    assert_eq!(value(&answers.recv_timeout(HANG).unwrap().unwrap()), 1);
    let error = answers.recv_timeout(HANG).unwrap().unwrap_err();
    assert!(matches!(error, Error::Answered { code: ErrorCode::NoHandler, .. }), "{error:?}");

    let mut future = pin!(client.request_future("echo", &2).unwrap());
    let answer = block_on(|context| future.as_mut().poll(context));
    assert_eq!(value(&answer.unwrap()), 2);
}

#[test]
fn deadlines_are_kept_for_threads_callbacks_and_futures() {
    let server = serve_echo();
    let _silent = server.connected("app", "silent").serving("silence");
    let mut options = client_options(&server);
    options.connection.timeout = Duration::from_millis(20);
    let client = options.connect().unwrap();
    let is_deadline = |answer: Result<Message, Error>| {
        let error = answer.unwrap_err();
        assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    };
    is_deadline(client.request("silence", &1));
    let (sender, answers) = mpsc::channel();
    client.send_request_async("silence", &1, move |answer| sender.send(answer).unwrap()).unwrap();
    is_deadline(answers.recv_timeout(HANG).unwrap());
    let mut future = pin!(client.request_future("silence", &1).unwrap());
    is_deadline(block_on(|context| future.as_mut().poll(context)));
    assert_eq!(client.connection_info().pending_requests, 0);
}

#[test]
fn subscriptions_by_iterator_stream_and_handler_see_one_order() {
    let server = serve_echo();
    let client = connect(&server);
    let by_iterator = client.subscribe("news").unwrap();
    let mut by_stream = client.subscribe("news").unwrap();
    let (sender, by_handler) = mpsc::channel();
    client.on_publication("news", move |message| sender.send(value(&message)).unwrap()).unwrap();
    let expected: Vec<Value> = (0..500).map(Value::from).collect();
    for n in &expected {
        client.publish("news", n).unwrap();
    }
    assert_eq!(by_handler.iter().take(500).collect::<Vec<_>>(), expected);
    assert_eq!(by_iterator.take(500).map(|message| value(&message)).collect::<Vec<_>>(), expected);
    for n in &expected {
        let message = block_on(|context| pin!(&mut by_stream).poll_next(context)).unwrap();
        assert_eq!(value(&message), *n);
    }
    client.unsubscribe("news");
    assert!(by_stream.next().is_none(), "its end");
    client.flush().unwrap();
    client.publish("news", &"nobody hears it").unwrap();
    client.flush().unwrap();
    assert!(by_handler.try_recv().is_err());
    assert!(client.connection_info().subscribed_channels.is_empty());
}

#[test]
fn a_dropped_subscription_unsubscribes() {
    let server = serve_echo();
    let client = connect(&server);
    drop(client.subscribe("news").unwrap());
    let other = client.subscribe("other").unwrap();
    client.publish("news", &1).unwrap();
    client.publish("other", &2).unwrap();
    assert_eq!(value(&other.next_timeout(HANG).unwrap()), 2);
    let subscribed = client.connection_info().subscribed_channels;
    assert_eq!(subscribed.into_iter().collect::<Vec<_>>(), ["other"]);
    client.close().unwrap();
    assert!(other.next_timeout(HANG).is_none(), "the end");
}

#[test]
fn a_handler_may_own_what_unsubscribes_when_it_is_dropped() {
    let server = serve_echo();
    let client = connect(&server);
    let owned = client.subscribe("other").unwrap();
    client.on_publication("news", move |_| drop(owned.next_timeout(Duration::ZERO))).unwrap();
    client.unsubscribe("news");
    assert!(client.connection_info().subscribed_channels.is_empty());
    client.ping().unwrap();
}

#[test]
fn a_message_is_waited_for_without_subscribing() {
    let server = serve_echo();
    let client = connect(&server);
    let waiting = client.clone();
    let _subscribed = client.subscribe("news").unwrap();
    let thread = std::thread::spawn(move || waiting.wait_for_message("news", HANG));
    // Publishes until somebody listens, because earlier publications have no subscriber.
    while !thread.is_finished() {
        client.publish("news", &"here").unwrap();
        client.flush().unwrap();
    }
    assert_eq!(value(&thread.join().unwrap().unwrap().unwrap()), "here");
    let nothing = client.wait_for_message("silence", Duration::from_millis(1)).unwrap();
    assert!(nothing.is_none());
}

#[test]
fn a_handler_may_not_wait_for_its_own_thread() {
    let server = serve_echo();
    let client = connect(&server);
    let (sender, results) = mpsc::channel();
    let inside = client.clone();
    let handler = move |_| {
        sender.send(inside.request("echo", &1).map(|_| ())).unwrap();
        sender.send(inside.close()).unwrap();
        inside.publish("log", &1).unwrap();
        panic!("the client lives on");
    };
    client.on_publication("news", handler).unwrap();
    client.publish("news", &1).unwrap();
    for _ in 0..2 {
        let refused = results.recv_timeout(HANG).unwrap();
        assert!(matches!(refused, Err(Error::OnClientThread)), "{refused:?}");
    }
    client.ping().unwrap();
}

#[test]
fn a_worker_handles_as_many_at_once_as_it_may_and_no_more() {
    const THREADS: usize = 3;
    let server = serve_echo();
    let worker = connect(&server);
    let (running, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let together = Barrier::new(THREADS);
    let seen = Arc::clone(&most);
    worker
        .serve("work", THREADS, move |request| {
            let now = running.fetch_add(1, Ordering::SeqCst) + 1;
            seen.fetch_max(now, Ordering::SeqCst);
            together.wait();
            running.fetch_sub(1, Ordering::SeqCst);
            Ok(value(request))
        })
        .unwrap();
    let client = connect(&server);
    let futures: Vec<_> =
        (0..4 * THREADS).map(|n| client.request_future("work", &n).unwrap()).collect();
    for (n, future) in futures.into_iter().enumerate() {
        let mut future = pin!(future);
        let answer = block_on(|context| future.as_mut().poll(context)).unwrap();
        assert_eq!(value(&answer), n);
    }
    assert_eq!(most.load(Ordering::SeqCst), THREADS);
}

#[test]
fn a_workers_error_and_panic_are_answered() {
    let server = serve_echo();
    let worker = connect(&server);
    let handler = |request: &Request| match request.payload.decode::<u32>()? {
        0 => panic!("zero"),
        1 => Err(HandlerError::new("one is not enough")),
        n => Ok(n),
    };
    worker.serve("picky", 1, handler).unwrap();
    let client = connect(&server);
    for (question, says) in
        [(json!(0), "panicked"), (json!(1), "not enough"), (json!("x"), "shape")]
    {
        let error = client.request("picky", &question).unwrap_err();
        assert!(matches!(error, Error::Answered { code: ErrorCode::HandlerFailed, .. }));
        assert_eq!(error.execution(), Execution::Possible);
        assert!(error.to_string().contains(says), "{error}");
    }
    assert_eq!(value(&client.request("picky", &2).unwrap()), 2);
    worker.stop_serving("picky").unwrap();
    let error = client.request("picky", &2).unwrap_err();
    assert!(matches!(error, Error::Answered { code: ErrorCode::NoHandler, .. }), "{error:?}");
}

#[test]
fn closing_answers_what_is_served_and_sends_what_waits() {
    let server = serve_echo();
    let worker = connect(&server);
    let (started, starts) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    worker
        .serve("slow", 1, move |request| {
            started.send(()).unwrap();
            released.lock().unwrap().recv()?;
            Ok(value(request))
        })
        .unwrap();
    let client = connect(&server);
    let mut future = pin!(client.request_future("slow", &7).unwrap());
    starts.recv_timeout(HANG).unwrap();
    let closing = std::thread::spawn(move || worker.close());
    // The worker gets no new requests, and still has this one.
    let refused = loop {
        match client.send_request("slow", &8, Duration::from_millis(5)) {
            Err(Error::Answered { code, .. }) => break code,
            other => assert!(matches!(other, Err(Error::Deadline { .. })), "{other:?}"),
        }
    };
    assert_eq!(refused, ErrorCode::NoHandler);
    drop(release);
    let answer = block_on(|context| future.as_mut().poll(context));
    // The handler's end of the channel is gone. That is an error, and it is answered.
    assert!(matches!(answer, Err(Error::Answered { code: ErrorCode::HandlerFailed, .. })));
    closing.join().unwrap().unwrap();
}

#[test]
fn one_message_too_large_costs_the_connection_and_not_the_client() {
    let mut config = Config::default();
    config.limits.frame_bytes_max = 4 << 10;
    let server = support::serve(config, support::install_echo);
    let client = connect(&server);
    let mut heard = client.subscribe("news").unwrap();
    // This client does not know the server's limit.
    client.publish("news", &"x".repeat(5_000)).unwrap();
    // The request may be in flight when the connection ends, and is then repeated.
    let asks = || client.request("echo", &1);
    let answer = (0..100).find_map(|_| asks().ok()).expect("the client came back");
    assert_eq!(value(&answer), 1);
    client.publish("news", &"small").unwrap();
    assert_eq!(value(&heard.next().unwrap()), "small", "and hears what it heard before");
}
