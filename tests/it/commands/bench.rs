//! `ipc bench` measures what it says, and writes files that other tools read.

use std::fs;
use std::process::{Output, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde_json::{Value, json};

use super::{Demo, Live};
use crate::cli::assert_fails;
use crate::scratch::Scratch;
use crate::support::succeeds_once;

/// Returns the report of a load, which runs longer on a machine that is too busy to measure
/// anything.
fn measure(demo: &Demo, arguments: &[&str]) -> Value {
    let mut report = Value::Null;
    for duration in ["200ms", "2s", "20s"] {
        let short = ["--warmup", "20ms", "--duration", duration, "--json"];
        let mut documents = demo.documents(&[&["bench"], arguments, &short].concat());
        assert_eq!(documents.len(), 1, "{documents:?}");
        report = documents.remove(0);
        if report["count"].as_u64() > Some(0) {
            break;
        }
    }
    report
}

#[test]
fn every_load_is_measured_in_both_loops() {
    let demo = Demo::start();
    for (arguments, load, clients) in [
        (&[][..], "request", 1),
        (&["request", "--clients", "3", "--size", "2KiB"], "request", 3),
        (&["request", "--spin"], "request", 1),
        (&["publish", "--clients", "2"], "publish", 2),
        (&["fan-out", "--clients", "4"], "fan-out", 4),
        (&["request", "--rate", "200"], "request", 1),
        (&["publish", "--rate", "200", "--clients", "2"], "publish", 2),
        (&["fan-out", "--rate", "100", "--size", "1KiB"], "fan-out", 10),
        (&["stream", "--streams", "4", "--parts", "5", "--clients", "2"], "stream", 2),
    ] {
        let report = measure(&demo, arguments);
        assert_eq!(report["load"], load, "{report}");
        assert_eq!(report["clients"], clients, "{report}");
        assert!(report["count"].as_u64() > Some(0), "{report}");
        assert_eq!(report.get("rate").is_some(), arguments.contains(&"--rate"), "{report}");
        let latency = &report["latency_us"];
        let names = ["min", "p50", "p90", "p99", "p99.9", "max"];
        let values = names.map(|name| latency[name].as_f64().unwrap());
        assert!(values[0] > 0.0 && values.is_sorted(), "{report}");
    }
}

#[test]
fn an_open_loop_sends_no_more_than_its_rate() {
    let demo = Demo::start();
    let report = measure(&demo, &["--rate", "100", "--clients", "2"]);
    let [count, seconds] = ["count", "seconds"].map(|name| report[name].as_f64().unwrap());
    // Slow machines may send fewer.
    assert!(count >= 1.0 && count <= (seconds * 100.0).ceil(), "{report}");
}

#[test]
fn what_the_warm_up_could_not_send_is_not_measured() {
    let demo = Demo::start();
    // No machine sends so many, so at the end every message was due long before it was sent.
    let times = ["--warmup", "500ms", "--duration", "300ms"];
    let report = demo.documents(&[&["bench", "--json", "--rate", "1e7"], &times[..]].concat());
    let report = &report[0];
    let [count, unsent] = ["count", "unsent"].map(|name| report[name].as_u64().unwrap());
    assert!(count > 0 && unsent > 0 && count + unsent <= 3_000_000, "{report}");
}

#[test]
fn a_stalled_server_hides_nothing_of_what_waited() {
    let demo = Demo::start();
    let slow = demo.command(&["worker", "slow", "--", "sleep", "0.05"]);
    let worker = Live::start(slow);
    let arguments = ["--channel", "slow", "--rate", "1000", "--warmup", "0", "--duration", "1s"];
    let few = [&["bench", "--in-flight", "4"], &arguments[..]].concat();
    let shown = demo.prints(&few);
    assert!(shown.contains("were due and not sent"), "{shown}");
    succeeds_once(|| {
        let report = demo.documents(&[&few[..], &["--json"]].concat()).remove(0);
        assert!(report["unsent"].as_u64() > Some(0), "what was never sent is told: {report}");
        if report["count"].as_u64() < Some(2) {
            return Err(format!("{report}"));
        }
        // One takes 50 ms and one is due every millisecond, so the later ones wait longer.
        let [min, max] = ["min", "max"].map(|name| report["latency_us"][name].as_f64().unwrap());
        assert!(max - min > 40_000.0, "waiting for its turn counts: {report}");
        Ok(())
    });
    // With room for all of them every request is sent, and those without an answer are reported
    // too.
    drop(worker);
    for flags in [&[][..], &["--json"]] {
        let worker = Live::start(demo.command(&["worker", "slow", "--", "sleep", "0.05"]));
        let many = ["bench", "--in-flight", "1000", "--timeout", "500ms"];
        let shown = demo.prints(&[&many, &arguments[..], flags].concat());
        if flags.is_empty() {
            assert!(shown.contains("were not answered in time"), "{shown}");
        } else {
            let report: Value = serde_json::from_str(&shown).unwrap();
            assert!(report["unanswered"].as_u64() > Some(0), "{report}");
        }
        drop(worker);
    }
}

#[test]
fn an_open_loop_sends_whatever_is_outstanding() {
    let demo = Demo::start();
    // A hundred sleep at a time. One after another they would be 20 in all.
    let slow = demo.command(&["worker", "slow", "-c", "100", "--", "sleep", "0.5"]);
    let worker = Live::start(slow);
    let rate = ["--rate", "100", "--warmup", "0", "--duration", "1s", "--timeout", "30s"];
    succeeds_once(|| {
        let arguments = [&["bench", "--json", "--channel", "slow"], &rate[..]].concat();
        let report = demo.documents(&arguments).remove(0);
        let names = ["count", "unsent", "unanswered"];
        let [count, unsent, unanswered] = names.map(|name| report[name].as_u64().unwrap());
        // A busy machine may be too late for the last ones.
        let is_all = count >= 50 && count + unsent >= 95 && unanswered == 0;
        is_all.then_some(()).ok_or_else(|| report.to_string())
    });
    drop(worker);
    let silent = demo.command(&["bench", "--channel", "slow", "--rate", "10", "--duration", "1s"]);
    assert_fails(silent, 1, "(no_handler)");
}

/// Requests that were due while the server was stopped count the whole wait, although a closed loop
/// would have had only one request outstanding.
#[test]
fn a_pause_of_the_server_shows_in_all_that_was_due_meanwhile() {
    // On a busy machine the pause may come when the load is nearly over.
    succeeds_once(pause_the_server);
}

fn pause_the_server() -> Result<(), String> {
    let demo = Demo::start();
    let mut bench = demo.command(&["bench", "--json", "--rate", "100", "--warmup", "0"]);
    bench.args(["--duration", "2s"]).stdout(Stdio::piped());
    let bench = bench.spawn().unwrap();
    let mut peer = demo.0.connected("bench", "looks");
    // The load has begun once the first requests are answered.
    while peer.request("system", json!({"action": "get_latency"}))["channels"]["echo"].is_null() {
        std::thread::sleep(Duration::from_millis(5));
    }
    demo.0.signal("STOP");
    std::thread::sleep(Duration::from_secs(1));
    demo.0.signal("CONT");
    let Output { status, stdout, .. } = bench.wait_with_output().unwrap();
    assert!(status.success());
    let report: Value = serde_json::from_slice(&stdout).unwrap();
    // The pause takes half of the time, so the slowest quarter waited at least a quarter of a
    // second.
    let is_seen = report["latency_us"]["p90"].as_f64() > Some(250_000.0);
    let is_all = (&report["unsent"], &report["unanswered"]) == (&json!(0), &json!(0));
    (is_seen && is_all).then_some(()).ok_or_else(|| report.to_string())
}

/// The client does not read while a message waits to be sent, so the messages in flight have to fit
/// into the buffers.
#[test]
fn large_messages_of_an_open_loop_do_not_hold_each_other_up() {
    let demo = Demo::start();
    for load in ["request", "publish"] {
        let large = ["--rate", "500", "--size", "512KiB", "--in-flight", "64"];
        let times = ["--warmup", "0", "--duration", "1s", "--timeout", "60s"];
        let arguments = [&["bench", load, "--json"], &large[..], &times].concat();
        let report = demo.documents(&arguments).remove(0);
        assert!(report["count"].as_u64() > Some(0), "{report}");
        assert_eq!(report["unanswered"], 0, "{report}");
    }
}

#[test]
fn the_histogram_that_is_written_has_every_latency() {
    let (demo, scratch) = (Demo::start(), Scratch::new("bench"));
    let path = scratch.0.join("bench.hlog");
    let path = path.to_str().unwrap();
    let report = measure(&demo, &["publish", "--hdr", path]);
    let log = fs::read(path).unwrap();
    let mut count = 0;
    for entry in IntervalLogIterator::new(&log) {
        let LogEntry::Interval(interval) = entry.unwrap() else { continue };
        assert!(interval.tag().is_none(), "HistogramLogProcessor shows intervals without a tag");
        let bytes = crate::instruments::base64_of(interval.encoded_histogram());
        let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut &bytes[..]).unwrap();
        let max_us = report["latency_us"]["max"].as_f64().unwrap();
        assert!((histogram.max() as f64 / 1e3 - max_us).abs() < 1.0, "in nanoseconds");
        count += histogram.len();
    }
    assert_eq!(Some(count), report["count"].as_u64());
    let nowhere = ["bench", "--duration", "50ms", "--warmup", "0", "--hdr", "/does/not/exist/x"];
    let failed = demo.run(&nowhere);
    assert_eq!(failed.status.code(), Some(1));
}

#[test]
fn streams_are_counted_by_their_parts_and_timed_to_the_first_and_as_a_whole() {
    let (demo, scratch) = (Demo::start(), Scratch::new("streams"));
    let path = scratch.0.join("streams.hlog");
    let path = path.to_str().unwrap();
    let many = ["stream", "--streams", "3", "--parts", "300", "--credit", "7", "--size", "1KiB"];
    let report = measure(&demo, &[&many[..], &["--hdr", path]].concat());
    let number = |name: &str| report[name].as_u64().unwrap();
    assert_eq!((number("streams_each"), number("payload_bytes")), (3, 1_024), "{report}");
    // Streams that ended were counted whole but for those that began in the warm-up, and at the end
    // each has one that is not over.
    let whole = number("streams") * 300;
    assert!(number("count").abs_diff(whole) <= 3 * 2 * 300, "{report}");
    let [first, all] = ["first_part_us", "latency_us"].map(|of| report[of]["p50"].as_f64());
    assert!(all.is_none() || first < all, "{report}");
    let mut counts = Vec::new();
    for entry in IntervalLogIterator::new(&fs::read(path).unwrap()) {
        let LogEntry::Interval(interval) = entry.unwrap() else { continue };
        let bytes = crate::instruments::base64_of(interval.encoded_histogram());
        let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut &bytes[..]).unwrap();
        counts.push((interval.tag().map(|tag| tag.as_str().to_owned()), histogram.len()));
    }
    let [(None, ended), (Some(tag), begun)] = &counts[..] else { panic!("{counts:?}") };
    assert_eq!((*ended, tag.as_str()), (number("streams"), "first-part"));
    assert!(begun >= ended && *begun <= ended + 3, "{counts:?}");

    let shown = demo.prints(&["bench", "stream", "--duration", "1s", "--warmup", "0"]);
    let head = "stream: 1 connection, payloads of 64 bytes, one stream at a time\n";
    assert!(shown.starts_with(head), "{shown}");
    assert!(shown.contains("to the first part of a stream\n  min"), "{shown}");
    assert!(shown.contains("whole streams, of which"), "{shown}");
}

#[test]
fn streams_come_from_a_channel_that_is_named_too() {
    let demo = Demo::start();
    // An answer that is no stream is its only part.
    let report = measure(&demo, &["stream", "--channel", "echo", "--streams", "2"]);
    let [parts, streams] = ["count", "streams"].map(|name| report[name].as_u64().unwrap());
    assert!(parts.abs_diff(streams) <= 4, "{report}");
    assert_fails(demo.command(&["bench", "stream", "--channel", "nobody"]), 1, "(no_handler)");
    let worker = serve_moody(&demo);
    let moody = ["stream", "--channel", "moody", "--payload", "{\"a\": 1}"];
    assert_fails(demo.command(&[&["bench"], &moody[..]].concat()), 1, "why (");
    let report = measure(&demo, &[&moody[..], &["--expect-errors"]].concat());
    assert!(report["errors"]["app:bad_input"].as_u64() > Some(0), "{report}");
    drop(demo);
    assert!(worker.join().unwrap().contains(&json!({"a": 1})));
    let demo = Demo::start();
    for (arguments, says) in [
        (&["request", "--streams", "2"][..], "--streams goes with `ipc bench stream` alone"),
        (&["--parts", "2"], "--parts goes with"),
        (&["publish", "--credit", "2"], "--credit goes with"),
        (&["stream", "--rate", "2"], "leave out --rate"),
        (&["stream", "--parts", "2", "--channel", "x"], "cannot be used with"),
        (&["stream", "--credit", "0"], "--credit"),
    ] {
        assert_fails(demo.command(&[&["bench"], arguments].concat()), 2, says);
    }
}

/// Serves `moody` until the server ends: of four requests one is answered with the payload, and the
/// others with errors.
fn serve_moody(demo: &Demo) -> JoinHandle<Vec<Value>> {
    let mut worker = demo.0.connected("bench", "moody").serving("moody");
    std::thread::spawn(move || {
        let mut payloads = Vec::new();
        while let Ok(task) = worker.try_receive() {
            if task["message_type"] == "request" {
                let of_four = ["", "app:bad_input", "handler_failed", "app:bad_input"];
                let code = of_four[payloads.len() % 4];
                let mut error = json!({"status": "error", "code": code, "error": "why"});
                error["details"] = "x".repeat(8_000).into();
                let payload = if code.is_empty() { task["payload"].clone() } else { error };
                worker.answer(&task, payload);
                payloads.push(task["payload"].clone());
            }
        }
        payloads
    })
}

#[test]
fn errors_that_are_expected_count_by_their_codes() {
    let demo = Demo::start();
    let scratch = Scratch::new("payload");
    let file = scratch.file("payload.json", 0o600, " {\"item\":  \"tea\"}\n");
    let worker = serve_moody(&demo);
    for arguments in [
        &["--payload", "{\"item\":  \"tea\"}"][..],
        &["--payload", &format!("@{file}"), "--clients", "3"],
        &["--payload", "{\"item\":  \"tea\"}", "--rate", "400"],
    ] {
        let moody = ["request", "--channel", "moody"];
        let failed = demo.command(&[&["bench"], &moody[..], arguments].concat());
        assert_fails(failed, 1, "why (");
        succeeds_once(|| {
            let report = measure(&demo, &[&moody, arguments, &["--expect-errors"]].concat());
            assert_eq!(report["payload_bytes"], 16, "{report}");
            let errors = report["errors"].as_object().unwrap();
            let [bad, crashed] =
                ["app:bad_input", "handler_failed"].map(|code| errors.get(code).map(Value::as_u64));
            let (Some(Some(bad)), Some(Some(crashed))) = (bad, crashed) else {
                return Err(report.to_string());
            };
            assert_eq!(errors.len(), 2, "{report}");
            // At the begin and at the end of the measurement, a client may be anywhere in the four.
            let count = report["count"].as_u64().unwrap();
            assert!(bad.abs_diff(2 * crashed) <= 6, "{report}");
            assert!(count.abs_diff(4 * crashed) <= 12, "all answers are counted: {report}");
            Ok(())
        });
    }
    let people =
        ["bench", "--channel", "moody", "--expect-errors", "--duration", "1s", "--warmup", "0"];
    let shown = demo.prints(&people);
    assert!(shown.contains("answered with errors: app:bad_input "), "{shown}");
    assert_eq!(measure(&demo, &["--expect-errors"])["errors"], json!({}));
    assert!(measure(&demo, &[]).get("errors").is_none(), "none is expected");
    // No answer at all is still a failure.
    let mut silent = demo.0.connected("bench", "silent").serving("silent");
    let late = ["bench", "--channel", "silent", "--expect-errors", "--timeout", "100ms"];
    let late = demo.run(&late);
    assert_eq!(late.status.code(), Some(4), "{late:?}");
    silent.receive();
    drop(demo);
    let payloads = worker.join().unwrap();
    let tea = json!({"item": "tea"});
    assert!(payloads.iter().filter(|payload| **payload == tea).count() > 10);
    assert!(payloads.contains(&json!("x".repeat(62))), "without a payload it is text");
}

#[test]
fn a_payload_and_expected_errors_go_with_the_loads_that_have_them() {
    let demo = Demo::start();
    let report = measure(&demo, &["publish", "--payload", "[1, 2]"]);
    assert_eq!((&report["payload_bytes"], &report["errors"]), (&json!(6), &Value::Null));
    for (arguments, says) in [
        (&["fan-out", "--payload", "1"][..], "leave out --payload"),
        (&["fan-out", "--expect-errors"], "leave out --expect-errors"),
        (&["publish", "--expect-errors"], "leave out --expect-errors"),
        (&["--payload", "tea"], "text needs quotes of its own"),
        (&["--payload", "@/does/not/exist"], "cannot read /does/not/exist"),
        (&["--payload", "1", "--size", "2"], "cannot be used with"),
    ] {
        assert_fails(demo.command(&[&["bench"], arguments].concat()), 2, says);
    }
}

#[test]
fn people_get_a_table_and_faults_a_sentence() {
    let demo = Demo::start();
    let shown = demo.prints(&["bench", "fan-out", "--duration", "1s", "--warmup", "0"]);
    assert!(shown.starts_with("fan-out: 10 connections, payloads of 64 bytes, closed loop\n"));
    assert!(shown.contains("deliveries in") && shown.contains("  p99.9"), "{shown}");
    assert_fails(demo.command(&["bench", "--channel", "nobody"]), 1, "(no_handler)");
    assert_fails(demo.command(&["bench", "--rate", "0"]), 2, "messages a second");
    assert_fails(demo.command(&["bench", "--clients", "0"]), 2, "--clients");
    assert_fails(demo.command(&["bench", "--duration", "0"]), 2, "--duration");
}
