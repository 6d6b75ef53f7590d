//! Two servers that are joined by links: what each sends to its own is what the other one takes, byte for
//! byte.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{CancelReason, Client, ClientOptions, Endpoint, Error, RequestOptions};
use crate::net::LinkOpener;
use crate::{Blob, Config, Handle, HandlerError, Limits, Message, Server};

const HANG: Duration = Duration::from_secs(60);

/// A server that runs on a thread of its own.
struct Running {
    handle: Handle,
    links: LinkOpener,
    port: u16,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start() -> Self {
        let limits = Limits::default().drain_timeout(Duration::ZERO);
        let mut server = Server::bind(Config::default().port(0).limits(limits)).unwrap();
        let (handle, links) = (server.handle(), server.link_opener());
        let port = server.addresses()[0].port().unwrap();
        let thread = thread::spawn(move || server.run().unwrap());
        Self { handle, links, port, thread: Some(thread) }
    }

    fn client(&self) -> Client {
        let mut options = ClientOptions::new("app");
        options.connection.endpoint = Endpoint::tcp("127.0.0.1", self.port);
        options.connect().unwrap()
    }

    /// Opens a link that hears these patterns and serves these channels, and waits until it does.
    fn link(&self, patterns: &[&str], channels: &[&str]) -> UnixStream {
        let mut link = self.links.open().unwrap();
        link.set_read_timeout(Some(HANG)).unwrap();
        let extensions = ["call", "binary", "topic"];
        let connect =
            json!({"action": "connect", "connection_id": "$link/b", "extensions": extensions});
        write(&mut link, &message("request", "system", &connect));
        assert_eq!(read(&mut link)["payload"]["status"], "connected");
        for pattern in patterns {
            write(&mut link, &message("subscribe", pattern, &json!({"pattern": true})));
        }
        for channel in channels {
            let serve = json!({"action": "serve", "channel": channel});
            write(&mut link, &message("notification", "system", &serve));
        }
        write(&mut link, &message("request", "system", &json!({"action": "ping"})));
        assert_eq!(read(&mut link)["payload"]["status"], "pong");
        link.set_read_timeout(None).unwrap();
        link
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.stop();
        let ended = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

fn message(kind: &str, channel: &str, payload: &Value) -> Value {
    json!({
        "message_id": "own", "app_id": "app", "channel_id": channel, "message_type": kind,
        "payload": payload, "timestamp": 0, "reply_to": null,
    })
}

fn write(link: &mut UnixStream, message: &Value) {
    let body = message.to_string();
    link.write_all(&(body.len() as u32).to_be_bytes()).unwrap();
    link.write_all(body.as_bytes()).unwrap();
}

fn read(link: &mut UnixStream) -> Value {
    let mut header = [0; 4];
    link.read_exact(&mut header).unwrap();
    let mut body = vec![0; u32::from_be_bytes(header) as usize];
    link.read_exact(&mut body).unwrap();
    serde_json::from_slice(&body).unwrap()
}

/// Copies all bytes between two links, until one of them ends.
struct Pump {
    ends: [UnixStream; 2],
    threads: Vec<JoinHandle<()>>,
}

impl Pump {
    fn between(a: UnixStream, b: UnixStream) -> Self {
        let ends = [a.try_clone().unwrap(), b.try_clone().unwrap()];
        let ways = [(a.try_clone().unwrap(), b.try_clone().unwrap()), (b, a)];
        let threads = ways.map(|(mut from, mut to)| {
            thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
            })
        });
        Self { ends, threads: threads.into() }
    }

    fn cut(self) {
        drop(self);
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.ends.iter().for_each(|end| _ = end.shutdown(Shutdown::Both));
        self.threads.drain(..).for_each(|thread| _ = thread.join());
    }
}

/// Two servers, of which `b` serves these channels, also for `a`.
fn joined(channels: &[&str]) -> (Running, Running, Pump) {
    let [a, b] = [Running::start(), Running::start()];
    let pump = Pump::between(a.link(&[], channels), b.link(&[], &[]));
    (a, b, pump)
}

/// Sends a request, and returns where its answer comes.
fn ask(
    client: &Client,
    channel: &str,
    options: &RequestOptions,
) -> mpsc::Receiver<Result<Message, Error>> {
    let (answered, answer) = mpsc::channel();
    let answered = move |result| _ = answered.send(result);
    client.send_request_async_with(channel, &1, options, answered).unwrap();
    answer
}

fn code(error: &Error) -> &str {
    error.code().unwrap_or("none")
}

#[test]
fn requests_errors_and_notifications_cross() {
    let (a, b, _pump) = joined(&["double", "ghost"]);
    let worker = b.client();
    let (note, notes) = mpsc::channel();
    worker
        .serve("double", 1, move |request| {
            let number: i64 = request.payload.decode()?;
            note.send(number).unwrap();
            if number < 0 {
                return Err(HandlerError::app("negative", "it is below zero"));
            }
            Ok(2 * number)
        })
        .unwrap();
    let client = a.client();
    assert_eq!(client.request_as::<i64, _>("double", &21).unwrap(), 42);
    let error = client.request("double", &-1).unwrap_err();
    assert_eq!(code(&error), "app:negative");
    assert_eq!(code(&client.request("ghost", &1).unwrap_err()), "no_handler");
    client.notify("double", &7).unwrap();
    client.notify("ghost", &8).unwrap();
    assert_eq!(client.request_as::<i64, _>("double", &1).unwrap(), 2);
    assert_eq!(notes.try_iter().collect::<Vec<_>>(), [21, -1, 7, 1]);
    let stats = b.handle.stats().unwrap();
    assert_eq!(stats.counters.notifications_unhandled, 1);
    assert_eq!(stats.counters.responses_ignored, 0);
    assert_eq!(a.handle.stats().unwrap().counters.responses_ignored, 0);
}

#[test]
fn both_servers_serve_each_other_through_the_same_links() {
    let [a, b] = [Running::start(), Running::start()];
    let _pump = Pump::between(a.link(&[], &["of_b"]), b.link(&[], &["of_a"]));
    let [at_a, at_b] = [a.client(), b.client()];
    at_a.serve("of_a", 1, |_| Ok("a")).unwrap();
    at_b.serve("of_b", 1, |_| Ok("b")).unwrap();
    for _ in 0..100 {
        assert_eq!(at_a.request_as::<String, _>("of_b", &1).unwrap(), "b");
        assert_eq!(at_b.request_as::<String, _>("of_a", &1).unwrap(), "a");
    }
    // Each server has a worker of each channel now, and a message does not go round.
    at_a.stop_serving("of_a").unwrap();
    assert_eq!(code(&at_b.request("of_a", &1).unwrap_err()), "no_handler");
}

#[test]
fn a_handler_of_the_process_answers_a_link() {
    let (a, b, _pump) = joined(&["own"]);
    b.handle
        .with(|context| {
            let mut app = context.application("app", "App");
            app.channel("own").on_request(|request| request.reply(&"of the process"));
        })
        .unwrap();
    let answer: String = a.client().request_as("own", &1).unwrap();
    assert_eq!(answer, "of the process");
}

#[test]
fn a_stream_crosses_at_the_pace_of_its_reader() {
    let (a, b, _pump) = joined(&["count"]);
    let worker = b.client();
    worker
        .serve_stream("count", 1, |request, parts| {
            let most: u64 = request.payload.decode()?;
            for number in 0..most {
                parts.send(&number)?;
            }
            if most == 3 { Err(HandlerError::app("odd", "three")) } else { Ok(()) }
        })
        .unwrap();
    let client = a.client();
    let options = RequestOptions::default().credit(4u32);
    let parts = client.request_stream_with("count", &500, &options).unwrap();
    let numbers = parts.map(|part| part.unwrap().payload.decode::<u64>().unwrap());
    assert!(numbers.eq(0..500));
    let parts = client.request_stream_with("count", &3, &options).unwrap();
    let ends: Vec<_> = parts.collect();
    assert_eq!(ends.len(), 4);
    assert_eq!(code(ends[3].as_ref().unwrap_err()), "app:odd");
    assert_eq!(b.handle.stats().unwrap().counters.stream_parts, 503);
    // One who does not ask for parts gets all of them in one.
    let all: Vec<u64> = client.request_as("count", &2).unwrap();
    assert_eq!(all, [0, 1]);
}

/// A worker that tells why it is to stop, and answers nothing before.
fn patient(
    server: &Running,
    channel: &str,
) -> (Client, mpsc::Receiver<CancelReason>, mpsc::Receiver<bool>) {
    let worker = server.client();
    let (tell, begun) = mpsc::channel();
    let (stopped, stops) = mpsc::channel();
    worker
        .serve(channel, 1, move |request| {
            tell.send(request.remaining().is_some()).unwrap();
            let (stop, is_stopped) = mpsc::channel();
            request.on_cancel(move || _ = stop.send(()));
            is_stopped.recv_timeout(HANG)?;
            stopped.send(request.call().cancel_reason().unwrap()).unwrap();
            Ok(())
        })
        .unwrap();
    (worker, stops, begun)
}

#[test]
fn cancels_and_deadlines_cross() {
    let (a, b, _pump) = joined(&["slow"]);
    let (_worker, stops, begun) = patient(&b, "slow");
    let client = a.client();
    let future = client.request_future("slow", &1).unwrap();
    assert!(!begun.recv_timeout(HANG).unwrap(), "nobody has given it a deadline");
    drop(future);
    assert_eq!(stops.recv_timeout(HANG).unwrap(), CancelReason::Caller);
    let soon = RequestOptions::default().timeout(Duration::from_millis(300));
    client.request_with("slow", &2, &soon).unwrap_err();
    assert!(begun.recv_timeout(HANG).unwrap(), "its deadline comes with it");
    stops.recv_timeout(HANG).unwrap();
    // A requester that leaves.
    let leaving = a.client();
    let _pending = leaving.request_future("slow", &3).unwrap();
    begun.recv_timeout(HANG).unwrap();
    leaving.abort();
    stops.recv_timeout(HANG).unwrap();
}

#[test]
fn what_a_cut_leaves_is_lost_or_goes_to_another_worker() {
    let (a, b, pump) = joined(&["slow"]);
    let (_worker, stops, begun) = patient(&b, "slow");
    let client = a.client();
    let again = RequestOptions::default().idempotent(true);
    let kept = ask(&client, "slow", &again);
    begun.recv_timeout(HANG).unwrap();
    let lost = ask(&client, "slow", &RequestOptions::default());
    // It is at the other server once this is answered, because each link keeps the order.
    let other = a.client();
    other.serve("slow", 1, |_| Ok("by another")).unwrap();
    pump.cut();
    assert_eq!(code(&lost.recv_timeout(HANG).unwrap().unwrap_err()), "worker_lost");
    let answer = kept.recv_timeout(HANG).unwrap().unwrap();
    assert_eq!(answer.payload.decode::<String>().unwrap(), "by another");
    assert_eq!(stops.recv_timeout(HANG).unwrap(), CancelReason::Gone);
}

#[test]
fn a_stream_ends_with_the_link() {
    let (a, b, pump) = joined(&["endless"]);
    let worker = b.client();
    let has_ended = Arc::new(AtomicBool::new(false));
    let ended = has_ended.clone();
    worker
        .serve_stream("endless", 1, move |_, parts| {
            while parts.send(&1).is_ok() {}
            ended.store(true, Ordering::Release);
            Ok(())
        })
        .unwrap();
    let client = a.client();
    let mut parts = client.request_stream("endless", &1).unwrap();
    for _ in 0..200 {
        parts.next().unwrap().unwrap();
    }
    pump.cut();
    let error = parts.find_map(Result::err).unwrap();
    assert_eq!(code(&error), "worker_lost");
    worker.close().unwrap();
    assert!(has_ended.load(Ordering::Acquire));
}

#[test]
fn an_idempotent_request_is_tried_again_behind_the_link() {
    let (a, b, _pump) = joined(&["slow"]);
    let (first, _stops, begun) = patient(&b, "slow");
    let client = a.client();
    let again = RequestOptions::default().idempotent(true).timeout(HANG);
    let kept = ask(&client, "slow", &again);
    begun.recv_timeout(HANG).unwrap();
    let other = b.client();
    other.serve("slow", 1, |_| Ok("by another")).unwrap();
    first.abort();
    let answer = kept.recv_timeout(HANG).unwrap().unwrap();
    assert_eq!(answer.payload.decode::<String>().unwrap(), "by another");
    assert_eq!(b.handle.stats().unwrap().counters.retried, 1);
}

#[test]
fn attachments_cross_as_they_are() {
    let (a, b, _pump) = joined(&["image", "images"]);
    let worker = b.client();
    worker
        .serve("image", 1, |request| {
            let mut bytes = request.payload.decode_borrowed::<Blob<'_>>()?.to_vec();
            bytes.reverse();
            Ok(Blob::new(bytes))
        })
        .unwrap();
    worker
        .serve_stream("images", 1, |request, parts| {
            let bytes = request.payload.decode_borrowed::<Blob<'_>>()?;
            for byte in bytes.iter() {
                parts.send(&Blob::new(vec![*byte; 1_000]))?;
            }
            Ok(())
        })
        .unwrap();
    let client = a.client();
    for bytes in [vec![], vec![1, 2, 3], vec![7; 1 << 20]] {
        let options = RequestOptions::default().idempotent(true).timeout(HANG);
        for answer in [
            client.request("image", &Blob::new(&bytes)).unwrap(),
            client.request_with("image", &Blob::new(&bytes), &options).unwrap(),
        ] {
            let answered = answer.payload.decode_borrowed::<Blob<'_>>().unwrap();
            assert!(bytes.iter().rev().eq(answered.iter()));
        }
    }
    let parts = client.request_stream("images", &Blob::new(&[1, 2, 3])).unwrap();
    let parts = parts.map(|part| {
        let part = part.unwrap();
        let bytes = part.payload.decode_borrowed::<Blob<'_>>().unwrap();
        assert_eq!(bytes.len(), 1_000);
        bytes[0]
    });
    assert_eq!(parts.collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn publications_cross_once_and_do_not_come_back() {
    let [a, b] = [Running::start(), Running::start()];
    let _pump = Pump::between(a.link(&[">"], &[]), b.link(&[">"], &[]));
    let [at_a, at_b] = [a.client(), b.client()];
    let subscriptions = [
        at_a.subscribe("news").unwrap(),
        at_b.subscribe("news").unwrap(),
        at_b.subscribe_pattern("*").unwrap(),
    ];
    for number in 0..1_000 {
        at_a.publish("news", &number).unwrap();
        b.handle.publish("app", "news", &(number + 1_000)).unwrap();
    }
    at_a.publish("news", &Blob::new(&[7; 100])).unwrap();
    for subscription in &subscriptions {
        let mut next = [0, 1_000];
        let mut blobs = 0;
        while next != [1_000, 2_000] || blobs == 0 {
            let publication = subscription.next_timeout(HANG).unwrap();
            if let Ok(number) = publication.payload.decode::<usize>() {
                let origin = number / 1_000;
                assert_eq!(number, next[origin], "in order and once");
                next[origin] += 1;
            } else {
                let bytes = publication.payload.decode_borrowed::<Blob<'_>>().unwrap();
                assert_eq!(&*bytes, [7; 100]);
                blobs += 1;
            }
        }
    }
    // A round trip on both sides later, nothing has come twice.
    for (client, subscription) in [(&at_a, &subscriptions[0]), (&at_b, &subscriptions[1])] {
        client.publish("news", &5_000).unwrap();
        let own = subscription.next_timeout(HANG).unwrap();
        assert_eq!(own.payload.decode::<usize>().unwrap(), 5_000);
    }
}

/// The first client says everything in one write, and waits for nothing.
#[test]
fn what_the_first_client_of_an_application_says_at_once_comes_to_its_bus_link() {
    let mut server = Server::bind(Config::default().port(0)).unwrap();
    let (tell, told) = mpsc::channel();
    server.net.on_attach(move |application, end| tell.send((application.to_owned(), end)).unwrap());
    server.application("own", "the process's");
    server.context().join([">".to_owned()], |_| ());
    let (handle, port) = (server.handle(), server.addresses()[0].port().unwrap());
    let thread = thread::spawn(move || server.run().unwrap());
    assert_eq!(told.recv_timeout(HANG).unwrap().0, "own");
    let mut clients = Vec::new();
    for number in 0..50 {
        let application = format!("app {number}");
        let connect = json!({"action": "connect", "connection_id": "first"});
        let mut said = Vec::new();
        for mut message in
            [message("request", "system", &connect), message("publish", "news", &json!(number))]
        {
            message["app_id"] = json!(application);
            let body = message.to_string();
            said.extend((body.len() as u32).to_be_bytes());
            said.extend(body.into_bytes());
        }
        let mut client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        client.write_all(&said).unwrap();
        clients.push(client);
        let (attached, mut end) = told.recv_timeout(HANG).unwrap();
        assert_eq!(attached, application);
        end.set_read_timeout(Some(HANG)).unwrap();
        let heard = read(&mut end);
        assert_eq!((&heard["app_id"], &heard["payload"]), (&json!(application), &json!(number)));
    }
    handle.stop();
    drop(clients);
    thread.join().unwrap();
}

#[test]
fn a_link_of_a_server_that_has_ended_is_refused() {
    let server = Running::start();
    let links = server.links.clone();
    let mut link = server.link(&[], &[]);
    drop(server);
    assert_eq!(link.read(&mut [0; 64]).unwrap_or(0), 0, "it is closed");
    links.open().unwrap_err();
}
