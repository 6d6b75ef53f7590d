//! The series of `ipc serve --metrics`: there are not more of them because peers make up names.

use std::collections::BTreeMap;

use serde_json::json;

use crate::cli::{Running, assert_fails, serve};
use crate::instruments::{promtool_accepts, samples};

/// A scrape has no more series than it was told, and none of workers by their numbers.
#[test]
fn channels_that_are_used_once_do_not_fill_the_scrape() {
    let arguments =
        |channels| ["--port", "0", "--metrics", "127.0.0.1:0", "--metrics-channels", channels];
    for (channels, series) in [("none", 0), ("5", 5)] {
        let running = Running::start(serve(&arguments(channels)));
        let mut worker = running.connected("app", "works").serving("work");
        let mut asks = running.connected("app", "asks");
        let id = asks.send("request", "work", json!(1));
        let task = worker.receive();
        worker.answer(&task, json!(2));
        asks.expect_answer(&id, json!(2));
        for at in 0..300 {
            let mut once = running.connected("app", "once").subscribed(&format!("once {at}"));
            asks.send("publish", &format!("once {at}"), json!(at));
            assert_eq!(once.receive()["payload"], at);
            once.send("unsubscribe", &format!("once {at}"), json!({}));
            once.fence();
        }
        let answer = running.scrape_with("/metrics", "text/plain").unwrap();
        let text = answer.split_once("\r\n\r\n").unwrap().1;
        promtool_accepts(text);
        assert!(text.len() < 60_000, "{} bytes", text.len());
        let seen: BTreeMap<String, f64> = samples(text).into_iter().collect();
        let count = |what: &str| seen.keys().filter(|name| name.starts_with(what)).count();
        assert!(count("ipc_channel_workers") <= series, "{channels}");
        let publications = seen.iter().filter(|(name, _)| {
            name.starts_with("ipc_latency_seconds_count") && name.contains("\"publication\"")
        });
        let (names, counts): (Vec<&String>, Vec<f64>) = publications.unzip();
        assert!(names.len() <= series + 1, "{names:?}");
        assert!(counts.iter().sum::<f64>() >= 256.0, "the server keeps so many: {counts:?}");
        let workers = seen.keys().filter(|name| name.contains("measure=\"worker\""));
        assert!(workers.clone().count() > 0);
        workers.for_each(|name| assert!(name.contains("channel=\"\""), "{name}"));
    }
    assert_fails(serve(&arguments("0")), 2, "or say none");
}
