//! The latencies that the server reports: over the wire, as a log, as metrics, on a signal.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use ipc_framework::{Config, Measure, Spin};
use serde_json::{Value, json};

use crate::cli::{Running, assert_fails, ipc, output, serve};
use crate::scratch::Scratch;
use crate::support::{self, Peer, until};

const REQUESTS: usize = 50;

fn converse(peer: &mut Peer) {
    peer.connect("bench", "asks");
    for at in 0..REQUESTS {
        assert_eq!(peer.request("echo", json!(at)), json!(at));
    }
    peer.subscribe("news");
    peer.send("publish", "news", json!("heard"));
    assert_eq!(peer.receive()["payload"], "heard");
}

#[test]
fn latency_is_told_by_its_parts() {
    let server = support::serve(Config::default(), |server| {
        let mut app = server.application("app", "The App");
        app.channel("slow").on_request(|request| {
            std::thread::sleep(Duration::from_millis(20));
            request.reply(&1)
        });
        app.channel("later").on_request(|request| {
            let (reply, responder) = request.defer()?;
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                responder.reply(&2)
            });
            Ok(reply)
        });
        app.channel("never").on_request(|request| Ok(request.leave_unanswered()));
    });
    let mut peer = server.connected("app", "asks");
    // Both come in one turn, so the second waits while the first is handled.
    let messages = [(); 2].map(|()| peer.message("request", "slow", &json!(null)));
    peer.send_all(&messages);
    peer.receive();
    peer.receive();
    assert_eq!(peer.request("later", json!(null)), 2);
    peer.send("request", "never", json!(null));
    peer.fence();
    let mut worker = server.connected("app", "works").serving("shared");
    peer.send("request", "shared", json!(3));
    let task = worker.receive();
    std::thread::sleep(Duration::from_millis(20));
    worker.answer(&task, json!("done"));
    assert_eq!(peer.receive()["payload"], "done");
    peer.fence();

    let told = peer.request("system", json!({"action": "get_latency"}));
    let slow = &told["channels"]["slow"];
    assert_eq!(slow["request"]["count"], 2);
    let ms = |value: &Value| value.as_f64().unwrap() / 1_000.0;
    assert!(ms(&slow["handler"]["p50_us"]) >= 19.0, "{slow}");
    assert!(ms(&slow["queue"]["max_us"]) >= 19.0, "the second had to wait: {slow}");
    assert!(ms(&slow["queue"]["p50_us"]) < ms(&slow["queue"]["max_us"]), "{slow}");
    assert!(ms(&slow["request"]["max_us"]) >= 38.0, "{slow}");
    let later = &told["channels"]["later"];
    assert_eq!(later["request"]["count"], 1, "once, when it was answered");
    assert!(ms(&later["handler"]["p50_us"]) >= 19.0, "{later}");
    assert_eq!(told["channels"].get("never"), None, "what is not answered takes no time");
    assert_eq!(told["channels"]["shared"]["request"]["count"], 1);
    assert_eq!(told["workers"][0]["channels"], json!(["shared"]));
    assert!(ms(&told["workers"][0]["round_trip"]["p50_us"]) >= 19.0, "{told}");

    let seen = server.handle.with(|context| {
        let mut seen = Vec::new();
        context.for_each_histogram(|of, histogram| {
            seen.push((of.channel_id.to_owned(), of.measure, histogram.len()));
        });
        context.reset_latencies();
        (seen, context.list_latencies("app").len())
    });
    let (seen, after_reset) = seen.unwrap();
    assert!(seen.contains(&("slow".to_owned(), Measure::Handler, 2)), "{seen:?}");
    assert!(seen.contains(&(String::new(), Measure::Worker, 1)), "{seen:?}");
    assert_eq!(after_reset, 0);
}

#[test]
fn a_frame_that_had_to_wait_counts_from_its_last_byte() {
    const FRAMES: usize = 300;
    let server = support::serve(Config::default(), |server| {
        server.application("app", "The App").channel("slow").on_request(|request| {
            std::thread::sleep(Duration::from_micros(500));
            request.reply(&1)
        });
    });
    let mut peer = server.connected("app", "asks");
    // These are more frames than a turn processes, so the rest waits for later turns.
    let messages = [(); FRAMES].map(|()| peer.message("request", "slow", &json!(null)));
    // The loop is held up until all of them have arrived.
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (stop, stopped) = std::sync::mpsc::channel();
    let handle = server.handle.clone();
    let holding = std::thread::spawn(move || {
        handle.with(move |_| {
            stop.send(()).unwrap();
            released.recv_timeout(support::HANG)
        })
    });
    stopped.recv_timeout(support::HANG).unwrap();
    peer.send_all(&messages);
    release.send(()).unwrap();
    holding.join().unwrap().unwrap().unwrap();
    for _ in 0..FRAMES {
        peer.receive();
    }
    peer.fence();
    let told = peer.request("system", json!({"action": "get_latency"}));
    let slow = &told["channels"]["slow"];
    assert_eq!(slow["request"]["count"], FRAMES);
    // The last one waited for all others, and not only for those of its own turn, which are at most
    // 128.
    let longest = slow["queue"]["max_us"].as_f64().unwrap();
    assert!(longest > 500.0 * 290.0, "{slow}");
}

#[test]
fn the_log_is_what_hdr_histogram_reads_and_holds_everything() {
    let scratch = Scratch::new("latency-log");
    let path = scratch.0.join("latency.hlog");
    let path = path.to_str().unwrap();
    let running = Running::start(serve(&["--demo", "--port", "0", "--latency-log", path]));
    // The log covers two intervals. In each, the channel is forgotten and named again.
    for round in 1..=2 {
        converse(&mut running.peer());
        let has_it = |log: &String| log.matches("bench/news:publication").count() == round;
        until("the interval", || fs::read_to_string(path).unwrap(), has_it);
    }
    converse(&mut running.peer());
    running.terminate();

    let log = fs::read(path).unwrap();
    let (mut requests, mut publications) = (0, 0);
    for entry in IntervalLogIterator::new(&log) {
        let LogEntry::Interval(interval) = entry.unwrap() else { continue };
        let encoded = interval.encoded_histogram();
        let bytes = base64_of(encoded);
        let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut &bytes[..]).unwrap();
        match interval.tag().unwrap().as_str() {
            "bench/echo:request" => requests += histogram.len(),
            "bench/news:publication" => publications += histogram.len(),
            _ => {}
        }
    }
    assert_eq!((requests, publications), (3 * REQUESTS as u64, 3));
    assert_fails(
        serve(&["--port", "0", "--latency-log", "/does/not/exist/log"]),
        1,
        "cannot write the latency log",
    );
}

/// Stands between a program and the C library, and adds the seconds in a file to the clock of the
/// machine, as somebody who sets it.
const SET_CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    FILE *file = clock == CLOCK_REALTIME ? fopen(getenv("IPC_TEST_CLOCK"), "r") : NULL;
    long seconds = 0;
    if (file && fscanf(file, "%ld", &seconds) == 1) now->tv_sec += seconds;
    if (file) fclose(file);
    return result;
}
"#;

#[test]
#[cfg(target_os = "linux")]
fn a_clock_that_is_set_changes_no_interval_of_the_log() {
    let scratch = Scratch::new("set-clock");
    let source = scratch.file("clock.c", 0o600, SET_CLOCK);
    let library = scratch.0.join("clock.so");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).args([&source, "-ldl"]);
    assert!(compiler.status().unwrap().success(), "a C compiler is needed, see README.md");
    let offset = scratch.file("offset", 0o600, "0");
    let log = scratch.0.join("latency.hlog");
    let mut command = serve(&["--demo", "--port", "0", "--latency-log", log.to_str().unwrap()]);
    command.env("LD_PRELOAD", &library).env("IPC_TEST_CLOCK", &offset);
    let running = Running::start(command);
    let mut peer = running.peer();
    peer.connect("bench", "asks");
    // Each interval has a request, and before each the clock is set.
    for (count, seconds) in [0, -3_600, 3_600].into_iter().enumerate() {
        scratch.file("offset", 0o600, &seconds.to_string());
        let real = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let time = || peer.request("system", json!({"action": "get_time"}));
        until("a clock that is set", time, |time| {
            (time["timestamp"].as_f64().unwrap() - real - f64::from(seconds)).abs() < 600.0
        });
        peer.request("echo", json!(1));
        let intervals = |log: &String| log.matches("bench/echo:request").count() == count + 1;
        until("the interval", || fs::read_to_string(&log).unwrap_or_default(), intervals);
    }
    running.terminate();
    let log = fs::read(&log).unwrap();
    let mut end = Duration::ZERO;
    for entry in IntervalLogIterator::new(&log) {
        let LogEntry::Interval(interval) = entry.unwrap() else { continue };
        let (start, length) = (interval.start_timestamp(), interval.duration());
        assert!(length > Duration::from_millis(900) && length < support::HANG, "{length:?}");
        assert!(start < support::HANG && start + length >= end, "{start:?} {length:?}");
        end = start + length;
    }
}

#[test]
fn what_cannot_be_written_ends_nothing() {
    let mut command = serve(&["--demo", "--port", "0", "--latency-log", "/dev/full"]);
    command.stderr(fs::File::options().write(true).open("/dev/full").unwrap());
    let running = Running::start_with_stderr(command);
    let mut peer = running.peer();
    converse(&mut peer);
    running.signal("USR1");
    // The first line of the log could not be written, and neither could the event that reports
    // this.
    peer.fence();
    running.signal("TERM");
    assert_eq!(peer.receive()["payload"]["code"], "shutting_down");
    drop(peer);
    assert_eq!(running.end().0.code(), Some(1), "the log is not complete");
}

pub(crate) fn base64_of(text: &str) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

#[test]
fn prometheus_reads_counters_and_buckets() {
    let running = Running::start(serve(&["--demo", "--port", "0", "--metrics", "127.0.0.1:0"]));
    let mut peer = running.peer();
    converse(&mut peer);
    peer.send("request", "nobody", json!(null));
    assert_eq!(peer.receive()["payload"]["code"], "no_handler");
    let get = |path: &str| running.scrape(path).unwrap();
    let text = get("/metrics");
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(text.contains("application/openmetrics-text"), "{text}");
    let line = |start: &str, all: &[&str]| -> usize {
        let found =
            text.lines().find(|l| l.starts_with(start) && all.iter().all(|a| l.contains(a)));
        let line = found.unwrap_or_else(|| panic!("{start} {all:?} is missing:\n{text}"));
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    assert_eq!(line("ipc_publications_total", &[]), 1);
    assert_eq!(line("ipc_errors_total", &["no_handler"]), 1);
    let echo = ["channel=\"echo\"", "measure=\"request\""];
    assert_eq!(line("ipc_latency_seconds_count", &echo), REQUESTS);
    let all = ["channel=\"echo\"", "measure=\"request\"", "le=\"+Inf\""];
    assert_eq!(line("ipc_latency_seconds_bucket", &all), REQUESTS);
    let sum =
        text.lines().find(|l| l.starts_with("ipc_latency_seconds_sum") && l.contains(echo[0]));
    let sum: f64 = sum.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap();
    assert!(sum > 0.0 && sum < support::HANG.as_secs_f64(), "{sum}");
    assert_eq!(line("ipc_deliveries_total", &[]), 1);
    assert!(get("/metrics?name=x").starts_with("HTTP/1.1 200"));
    // Connections that send nothing, or garbage, do not block other scrapers.
    let _silent = TcpStream::connect(running.metrics_address()).unwrap();
    let mut garbled = TcpStream::connect(running.metrics_address()).unwrap();
    garbled.write_all(b"\0\0\x01\0{}").unwrap();
    assert!(get("/metrics").starts_with("HTTP/1.1 200"));
    assert!(text.trim_end().ends_with("# EOF"), "{text}");
    assert!(get("/other").starts_with("HTTP/1.1 404"));
    assert_fails(serve(&["--port", "0", "--metrics", "0.0.0.0:0"]), 2, "--insecure");
    assert_fails(serve(&["--port", "0", "--metrics", "here"]), 2, "127.0.0.1:9090");
}

/// The samples of a text in the format 0.0.4, by their names with labels. Fails on everything that
/// the format or `promtool check metrics` objects to.
pub(crate) fn samples(text: &str) -> BTreeMap<String, f64> {
    let is_name = |name: &str| {
        let mut chars = name.chars();
        chars.next().is_some_and(|char| char.is_ascii_lowercase())
            && chars.all(|char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '_')
    };
    let mut types: BTreeMap<String, String> = BTreeMap::new();
    let mut helped: Vec<String> = Vec::new();
    let mut family = String::new();
    let mut samples = BTreeMap::new();
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect(line);
            assert!(!help.is_empty() && !helped.contains(&name.to_owned()), "{line}");
            helped.push(name.to_owned());
            continue;
        }
        if let Some(described) = line.strip_prefix("# TYPE ") {
            let (name, kind) = described.split_once(' ').expect(line);
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(helped.last().map(String::as_str), Some(name), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(is_name(name), "{line}");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
            name.clone_into(&mut family);
            continue;
        }
        assert!(!line.starts_with('#') && !line.is_empty(), "{line}");
        let (name, value) = line.rsplit_once(' ').expect(line);
        let bare = name.split_once('{').map_or(name, |(bare, _)| bare);
        let ending = bare.strip_prefix(family.as_str()).unwrap_or_else(|| panic!("{line}"));
        let is_histogram = types[&family] == "histogram";
        let endings: &[&str] = if is_histogram { &["_bucket", "_sum", "_count"] } else { &[""] };
        assert!(endings.contains(&ending), "{line}");
        let value: f64 = value.parse().expect(line);
        assert!(samples.insert(name.to_owned(), value).is_none(), "{line}");
    }
    samples
}

/// Has `promtool check metrics` judge a text, on a machine that has it (Debian's package is called
/// `prometheus`). [`samples`] checks the same everywhere.
pub(crate) fn promtool_accepts(text: &str) {
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut running = match promtool.spawn() {
        Ok(running) => running,
        Err(error) if error.kind() == ErrorKind::NotFound => return,
        Err(error) => panic!("promtool: {error}"),
    };
    running.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let judged = running.wait_with_output().unwrap();
    assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stderr));
}

#[test]
fn whoever_asks_for_plain_text_gets_what_promtool_accepts() {
    let running = Running::start(serve(&["--demo", "--port", "0", "--metrics", "127.0.0.1:0"]));
    let mut peer = running.peer();
    converse(&mut peer);
    // What a peer chose cannot leave its label.
    let evil = "evil\"} 1\nipc_made_up 7\\";
    peer.subscribe(evil);
    peer.send("publish", evil, json!(1));
    peer.receive();
    for accept in ["text/plain; version=0.0.4", "*/*"] {
        let answer = running.scrape_with("/metrics", accept).unwrap();
        let (head, text) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
        promtool_accepts(text);
        let samples = samples(text);
        assert!((samples["ipc_publications_total"] - 2.0).abs() < 0.5, "{text}");
        assert!(!samples.contains_key("ipc_made_up"), "{text}");
        let buckets = |channel: &str| -> Vec<f64> {
            let is_of = |name: &&String| {
                name.starts_with("ipc_latency_seconds_bucket{")
                    && name.contains(&format!("channel=\"{channel}\",measure=\"request\""))
            };
            let mut buckets: Vec<(f64, f64)> = samples
                .keys()
                .filter(is_of)
                .map(|name| {
                    let (_, le) = name.split_once("le=\"").expect(name);
                    (le.split_once('"').unwrap().0.parse().unwrap(), samples[name])
                })
                .collect();
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            buckets.into_iter().map(|(_, count)| count).collect()
        };
        let echo = buckets("echo");
        assert!(echo.is_sorted() && echo.len() > 10, "{echo:?}");
        assert!((echo.last().unwrap() - REQUESTS as f64).abs() < 0.5, "{echo:?}");
    }
    let preferring = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3,*/*;q=0.1";
    let answer = running.scrape_with("/metrics", preferring).unwrap();
    assert!(answer.contains("application/openmetrics-text; version=1.0.0"), "{answer}");
}

#[test]
fn errors_of_workers_and_the_numbers_of_each_channel_have_series() {
    let running = Running::start(serve(&["--port", "0", "--metrics", "127.0.0.1:0"]));
    let mut worker = running.connected("app", "worker").serving("work");
    let mut asks = running.connected("app", "asks").subscribed("news");
    let codes =
        ["handler_failed", "app:no_tea", "app:no_milk", "handler_failed", "no_code_of_ours"];
    for code in codes {
        let id = asks.send("request", "work", json!(1));
        let task = worker.receive();
        let error = json!({"status": "error", "code": code, "error": "why"});
        worker.answer(&task, error.clone());
        asks.expect_answer(&id, error);
    }
    let second = running.connected("app", "second").serving("work");
    let scrape = || {
        let answer = running.scrape_with("/metrics", "text/plain").unwrap();
        let text = answer.split_once("\r\n\r\n").unwrap().1;
        promtool_accepts(text);
        // Whole numbers, which can be compared as text.
        let samples = samples(text).into_iter().map(|(name, value)| (name, value.to_string()));
        samples.collect::<BTreeMap<String, String>>()
    };
    let seen = scrape();
    for family in ["ipc_errors_total", "ipc_worker_errors_total"] {
        let of_it = seen.iter().filter(|(name, _)| name.starts_with(family));
        let of_it: Vec<(&str, &str)> =
            of_it.map(|(name, value)| (&name[family.len()..], value.as_str())).collect();
        assert_eq!(
            of_it,
            [("{code=\"app\"}", "2"), ("{code=\"handler_failed\"}", "2")],
            "{family}"
        );
    }
    let gauge = |seen: &BTreeMap<String, String>, what: &str, channel: &str| {
        let name = format!("ipc_channel_{what}{{application=\"app\",channel=\"{channel}\"}}");
        seen.get(&name).map(|value| value.parse::<u64>().unwrap())
    };
    assert_eq!(gauge(&seen, "workers", "work"), Some(2));
    assert_eq!(gauge(&seen, "subscribers", "work"), Some(0));
    assert_eq!(gauge(&seen, "workers", "news"), Some(0));
    assert_eq!(gauge(&seen, "subscribers", "news"), Some(1));
    drop(second);
    let workers = || gauge(&scrape(), "workers", "work");
    support::until("the end of the second", workers, |workers| *workers == Some(1));
    // However many channels a peer has, it does not have as many series.
    for at in 0..2_000 {
        asks.send("subscribe", &format!("channel {at}"), json!({}));
    }
    asks.fence();
    let count = |seen: &BTreeMap<String, String>, what: &str| {
        seen.keys().filter(|name| name.starts_with(what)).count()
    };
    let seen = scrape();
    assert_eq!(seen["ipc_channels"], "2002");
    assert_eq!(count(&seen, "ipc_channel_workers"), 1_024);
    assert_eq!(count(&seen, "ipc_channel_subscribers"), 1_024);
    assert_eq!(gauge(&seen, "workers", "work"), Some(1), "those that were there first stay");
    assert_eq!(gauge(&seen, "subscribers", "channel 0"), Some(1));
}

/// Introduces a peer that knows `call`.
fn calling(running: &Running, connection_id: &str) -> Peer {
    running.peer().called("app", connection_id).asking_for(&["call"])
}

/// Returns the next frame, which may have a `meta`.
fn received(peer: &mut Peer) -> Value {
    serde_json::from_slice(&peer.try_receive_body().unwrap()).unwrap()
}

#[test]
fn the_ends_of_requests_and_the_parts_of_streams_have_series() {
    let running = Running::start(serve(&["--port", "0", "--metrics", "127.0.0.1:0"]));
    let (mut worker, mut asks) = (calling(&running, "worker"), calling(&running, "asks"));
    worker.serve("work");
    let mut ask = |asks: &mut Peer, meta: Value| {
        let mut request = asks.message("request", "work", &json!(1));
        request["meta"] = meta;
        asks.send_message(&request);
        (request["message_id"].clone(), received(&mut worker))
    };
    let (_, task) = ask(&mut asks, json!({"stream": 2}));
    let (cancelled, _) = ask(&mut asks, json!({"stream": 1}));
    asks.send("notification", "system", json!({"action": "cancel", "message_id": cancelled}));
    assert_eq!(received(&mut asks)["payload"]["code"], "cancelled");
    ask(&mut asks, json!({"ttl": 20}));
    assert_eq!(received(&mut asks)["payload"]["code"], "timeout");
    // A part is never an error, whatever its payload.
    let failure = json!({"status": "error", "code": "app:no_tea", "error": "why"});
    let frames = [(failure, json!({"seq": 0})), (json!(1), json!({"seq": 1}))];
    for (payload, meta) in frames.into_iter().chain([(json!(null), json!({"seq": 2, "end": true}))])
    {
        let mut response = worker.message("response", "work", &payload);
        response["reply_to"] = task["message_id"].clone();
        response["meta"] = meta.clone();
        worker.send_message(&response);
        let answer = received(&mut asks);
        assert_eq!((&answer["payload"], &answer["meta"]), (&payload, &meta));
    }
    let answer = running.scrape_with("/metrics", "text/plain").unwrap();
    let text = answer.split_once("\r\n\r\n").unwrap().1;
    promtool_accepts(text);
    let samples = samples(text);
    for name in ["ttls_over", "stream_parts", "credit_stalls", "retried"] {
        let count = match name {
            "stream_parts" => 2.0,
            "retried" => 0.0,
            _ => 1.0,
        };
        let value: f64 = samples[&format!("ipc_{name}_total")];
        assert!((value - count).abs() < 0.5, "{name}: {value}");
    }
    let reasons = samples.iter().filter(|(name, _)| name.starts_with("ipc_cancelled_total"));
    let reasons: Vec<String> = reasons.map(|(name, value)| format!("{name} {value}")).collect();
    let counted =
        ["caller", "deadline"].map(|r| format!("ipc_cancelled_total{{reason=\"{r}\"}} 1"));
    assert_eq!(reasons, counted);
    assert!(!text.contains("ipc_worker_errors_total{"), "{text}");
    let port = running.address().port().to_string();
    let stats = output({
        let mut stats = ipc();
        stats.args(["stats", "--port", &port]);
        stats
    });
    let stats = String::from_utf8(stats.stdout).unwrap();
    let row = |label: &str| stats.lines().find(|line| line.starts_with(label)).map(str::to_owned);
    assert!(row("cancelled").unwrap().ends_with(" caller 1, deadline 1"), "{stats}");
    assert!(row("parts of streams").unwrap().ends_with(" 2"), "{stats}");
}

#[test]
fn a_signal_shows_what_was_measured_and_another_empties_it() {
    let running = Running::start(serve(&["--demo", "--port", "0"]));
    let mut peer = running.peer();
    converse(&mut peer);
    running.signal("USR2");
    // The reset is done when no channel is reported any more.
    loop {
        let told = peer.request("system", json!({"action": "get_latency"}));
        if told["channels"] == json!({}) {
            break;
        }
    }
    let stderr = running.terminate();
    let counter = "INFO counter name=\"publications\" value=1";
    let latency = format!(
        "INFO latency application=\"bench\" channel=\"echo\" measure=\"request\" count={REQUESTS} p50"
    );
    for says in [counter, &latency] {
        assert!(stderr.lines().any(|line| line.contains(says)), "{says} is missing:\n{stderr}");
    }
}

#[test]
fn a_spinning_server_answers_without_being_woken_and_an_idle_one_sleeps() {
    let spin = Spin::AfterWork(support::HANG);
    let server = support::serve(Config::default().spin(spin), support::install_echo);
    let mut peer = server.connected("app", "asks");
    peer.fence();
    let before = server.stats().counters.wakeups;
    for _ in 0..20 {
        peer.fence();
    }
    let stats = server.stats();
    assert_eq!(stats.counters.wakeups, before, "it was awake");
    assert!(stats.counters.spins > 0);

    for flags in [&["--busy"][..], &["--spin", "50us", "--cpu", "0"]] {
        let running = Running::start(serve(&[&["--demo", "--port", "0"], flags].concat()));
        converse(&mut running.peer());
        if flags.contains(&"--cpu") {
            // The loop runs on the first thread.
            let proc = fs::read_to_string(format!("/proc/{}/status", running.id())).unwrap();
            let allowed = proc.lines().find(|line| line.starts_with("Cpus_allowed_list"));
            assert_eq!(allowed.unwrap().split_whitespace().last(), Some("0"));
        }
        running.terminate();
    }
    assert_fails(serve(&["--busy", "--spin", "50us"]), 2, "contradicts");
    assert_fails(serve(&["--port", "0", "--cpu", "100000"]), 1, "core 100000");
}
