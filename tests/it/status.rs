//! Health and the status page, beside the metrics.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cli::{Running, serve};
use crate::operation::Tracer;
use crate::support::{HANG, until};

const METRICS: [&str; 3] = ["--port=0", "--metrics=127.0.0.1:0", "--demo"];

/// An answer: the first line, the headers and the body.
struct Answer {
    head: String,
    body: String,
}

/// Sends a request as it is, and returns the answer.
fn ask(running: &Running, request: &str) -> Answer {
    let mut stream = TcpStream::connect(running.metrics_address()).unwrap();
    stream.set_read_timeout(Some(HANG)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect(&text);
    Answer { head: head.to_owned(), body: body.to_owned() }
}

fn get(running: &Running, path: &str) -> Answer {
    ask(running, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
}

impl Answer {
    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn header(&self, name: &str) -> &str {
        let headers = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        let mut values = headers.filter(|(is, _)| is.eq_ignore_ascii_case(name));
        values.next().unwrap_or_else(|| panic!("{name} is missing: {}", self.head)).1
    }
}

#[test]
fn a_health_check_tells_a_ready_server_from_one_that_drains() {
    let running = Running::start(serve(&METRICS));
    assert!(running.banner.contains(&format!("http://{}/\n", running.metrics_address())));
    let ready = get(&running, "/healthz");
    assert_eq!((ready.status(), &*ready.body), (200, "ready\n"));
    // Probes of containers ask with HEAD as well, and by any name.
    let head = ask(&running, "HEAD /healthz HTTP/1.1\r\nHost: ipc.service\r\n\r\n");
    assert_eq!((head.status(), &*head.body, head.header("content-length")), (200, "", "6"));
    let (mut worker, asks) = running.unanswered();
    running.signal("TERM");
    assert_eq!(worker.receive()["payload"]["code"], "shutting_down");
    let draining = get(&running, "/healthz");
    assert_eq!(draining.status(), 503);
    assert!(draining.body.starts_with("draining: "), "{}", draining.body);
    let status: Value = serde_json::from_str(&get(&running, "/status.json").body).unwrap();
    assert_eq!(status["running"], false);
    drop((worker, asks));
    running.end_well();
}

/// A loop that hangs answers nobody. Its health checks do not pile up, and say so.
#[cfg(target_os = "linux")]
#[test]
fn a_server_whose_loop_hangs_is_not_healthy_and_recovers() {
    let running = Running::start(serve(&METRICS));
    let tracer = Tracer::attach(&running, "epoll_wait", "delay_enter=4s");
    let is_stuck = |answer: &Answer| answer.status() == 503 && answer.body.starts_with("stuck: ");
    let until_stuck = |what: &str| {
        let begin = Instant::now();
        while !is_stuck(&get(&running, "/healthz")) {
            assert!(begin.elapsed() < HANG, "{what}");
        }
    };
    until_stuck("it hangs");
    // The others do not wait for the loop either.
    let begin = Instant::now();
    let page = get(&running, "/");
    let answers = [get(&running, "/metrics"), get(&running, "/status.json")];
    if begin.elapsed() < Duration::from_secs(2) {
        assert_eq!(page.status(), 200, "the page itself says that there is no answer");
        assert!(answers.iter().all(is_stuck), "{}", answers[0].head);
    }
    drop(tracer);
    until("its recovery", || get(&running, "/healthz").status(), |status| *status == 200);
}

#[test]
fn the_page_loads_nothing_else_and_only_its_own_script_runs() {
    let running = Running::start(serve(&METRICS));
    let page = get(&running, "/");
    assert_eq!((page.status(), page.header("content-type")), (200, "text/html; charset=utf-8"));
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'nonce-"), "{policy}");
    assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{policy}");
    let nonce = policy.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    assert_eq!(nonce.len(), 32);
    for element in ["<script", "<style"] {
        let wanted = format!("{element} nonce=\"{nonce}\">");
        assert_eq!(page.body.matches(element).count(), 1);
        assert!(page.body.contains(&wanted), "{element}");
    }
    assert!(!page.body.contains("{nonce}"));
    for outside in ["http://", "https://", "src=", "@import", "url(", "innerHTML", " on", "//#"] {
        let found = page.body.match_indices(outside);
        let attributes = found.filter(|(at, _)| {
            // Words may begin with "on".
            let rest = &page.body[at + outside.len()..];
            outside != " on" || rest.split(' ').next().is_some_and(|word| word.contains("=\""))
        });
        assert_eq!(attributes.count(), 0, "{outside}");
    }
    let again = get(&running, "/?x");
    assert_ne!(again.header("content-security-policy"), policy, "a nonce is used once");
    for name in ["cache-control", "x-content-type-options", "referrer-policy"] {
        assert!(["no-store", "nosniff", "no-referrer"].contains(&page.header(name)), "{name}");
    }
}

#[test]
fn the_document_has_the_numbers_of_every_application() {
    let running = Running::start(serve(&METRICS));
    let mut asks = running.connected("bench", "asks");
    for at in 0..5 {
        assert_eq!(asks.request("echo", json!(at)), at);
    }
    let hostile = "<script>alert(1)</script>\"\u{202e}";
    let mut other = running.connected(hostile, "other").subscribed(hostile);
    other.send("publish", hostile, json!("x"));
    other.receive();
    other.serve("work");
    let answer = get(&running, "/status.json");
    assert_eq!((answer.status(), answer.header("content-type")), (200, "application/json"));
    let status: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((&status["running"], &status["total_connections"]), (&json!(true), &json!(2)));
    assert!(status["counters"]["frames_in"].as_u64() >= Some(9), "{status}");
    let row = |application: &str, channel: &str| {
        let rows = status["channels"].as_array().unwrap().iter();
        let mut found =
            rows.filter(|row| row["application"] == application && row["channel"] == channel);
        let row = found.next().unwrap_or_else(|| panic!("{channel} is missing: {status}"));
        assert!(found.next().is_none(), "{channel} is there twice");
        row.clone()
    };
    let echo = row("bench", "echo");
    assert_eq!((&echo["has_handler"], &echo["request"]["count"]), (&json!(true), &json!(5)));
    assert!(echo["request"]["p99_us"].as_f64() > Some(0.0), "{echo}");
    assert_eq!(echo["publication"], Value::Null);
    let heard = row(hostile, hostile);
    assert_eq!((&heard["subscribers"], &heard["publication"]["count"]), (&json!(1), &json!(1)));
    assert_eq!(row(hostile, "work")["workers"], 1);
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let running = Running::start(serve(&METRICS));
    for (request, status) in [
        ("GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("GET // HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("GET /../status.html HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("POST / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        ("DELETE /status.json HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        ("\r\n\r\nnonsense\r\n\r\n", 400),
        // A page of another site whose name resolves to this address.
        ("GET /status.json HTTP/1.1\r\nHost: evil.example:9090\r\n\r\n", 421),
        ("GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        ("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        ("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9090\r\n\r\n", 200),
        ("GET /metrics HTTP/1.0\r\n\r\n", 200),
    ] {
        assert_eq!(ask(&running, request).status(), status, "{request}");
    }
    let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(9 << 10));
    let mut stream = TcpStream::connect(running.metrics_address()).unwrap();
    let _ = stream.write_all(long.as_bytes());
    let mut answer = String::new();
    // The rest of the request that was not read may reset the connection.
    if stream.read_to_string(&mut answer).is_ok() {
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
}
