//! What an operator sees of NATS.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::joined;
use super::nats_server::NatsServer;
use crate::cli::{Running, ipc, output, serve};
use crate::commands::terminal::Terminal;
use crate::support::eventually;

fn command(server: &Running, arguments: &[&str]) -> Command {
    let mut command = ipc();
    command.args(arguments).env("IPC_HOST", "127.0.0.1").stdin(Stdio::null());
    command.env("IPC_PORT", server.address().port().to_string());
    command
}

fn prints(server: &Running, arguments: &[&str]) -> String {
    let output = output(command(server, arguments));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Returns what two programs show of NATS, which is the same, once it is so.
fn shown(server: &Running, what: &str, is_so: impl Fn(&Value) -> bool) {
    for arguments in [&["top", "--json", "-n", "1"][..], &["stats", "--json"]] {
        eventually(what, || {
            let document: Value = serde_json::from_str(&prints(server, arguments)).unwrap();
            is_so(&document["nats"]).then_some(())
        });
    }
}

fn metric(server: &Running, name: &str) -> Option<f64> {
    let text = server.scrape("/metrics").unwrap();
    let values = text.lines().filter_map(|line| line.split_once(' '));
    let found = values.filter(|(of, _)| of.strip_suffix("_total").unwrap_or(of).ends_with(name));
    found.map(|(_, value)| value.parse().unwrap()).next()
}

#[test]
fn state_peers_lag_and_losses_are_shown_wherever_one_looks() {
    let mut nats = NatsServer::start();
    let _there = joined(&nats);
    let url = nats.url();
    let more = ["--metrics", "127.0.0.1:0", "--nats-queue", "1MiB"];
    let here = Running::start(serve(&[&["--port", "0", "--nats", &url], &more[..]].concat()));
    shown(&here, "the other server", |nats| nats["connected"] == true && nats["peers"] == 1);
    let mut top = Terminal::run(&command(&here, &["top", "--interval", "100ms"]));
    top.wait_until("the other server", |text| {
        text.contains("NATS connected, 1 other server, 0 lost")
    });
    assert_eq!(
        (metric(&here, "nats_connected"), metric(&here, "nats_peers")),
        (Some(1.0), Some(1.0))
    );
    let mut publishes = here.connected("app", "publishes");
    nats.kill();
    shown(&here, "no connection", |nats| nats["connected"] == false && nats["peers"] == 0);
    for number in 0..100 {
        publishes.send("publish", "news", json!([number, "x".repeat(20_000)]));
    }
    publishes.fence();
    shown(&here, "what waits and what is lost", |nats| {
        let [lost, waits] = ["lost", "queued_bytes"].map(|name| nats[name].as_u64().unwrap());
        lost > 0 && waits > 0 && nats["lag_seconds"].as_f64() > Some(0.0)
    });
    for name in ["nats_lost", "nats_queued_bytes", "nats_lag_seconds"] {
        assert!(metric(&here, name) > Some(0.0), "{name}");
    }
    assert_eq!(metric(&here, "nats_connected"), Some(0.0));
    let line = "NATS away, 0 other servers, ";
    let screen =
        top.wait_until("all of it", |text| text.contains(line) && text.contains(" behind"));
    assert!(screen.contains(" lost, ") && screen.contains(" waiting, "), "{screen}");
    let stats = prints(&here, &["stats"]);
    assert!(stats.contains("away, 0 other servers, ") && stats.contains(" waiting"), "{stats}");
    nats.restart();
    top.wait_until("the other server", |text| text.contains("NATS connected, 1 other server, "));
    shown(&here, "nothing that waits", |nats| {
        nats["queued_bytes"] == 0 && nats["lag_seconds"] == 0.0 && nats["published"] != 0
    });
    top.press("q");
    assert_eq!(top.end().0, Some(0));
    drop(publishes);
    let log = here.terminate();
    for said in
        ["connected to NATS", "is there", "connection to NATS is gone", "publications are lost"]
    {
        assert!(log.contains(said), "{said}: {log}");
    }
}

#[test]
fn without_nats_nothing_is_said_about_it() {
    let alone = Running::start(serve(&["--port", "0", "--metrics", "127.0.0.1:0"]));
    for arguments in [&["top", "--json", "-n", "1"][..], &["stats", "--json"], &["stats"]] {
        let shown = prints(&alone, arguments);
        assert!(!shown.to_lowercase().contains("nats"), "{shown}");
    }
    assert_eq!(metric(&alone, "nats_connected"), None);
    let mut top = Terminal::run(&command(&alone, &["top", "--interval", "100ms"]));
    let screen = top.wait_until("its totals", |text| text.contains(" connections"));
    assert!(!screen.contains("NATS"), "{screen}");
    top.press("q");
    assert_eq!(top.end().0, Some(0));
    alone.terminate();
}

/// What NATS' client logs is for those who ask for it.
#[test]
fn the_client_of_nats_logs_only_what_it_warns_of_unless_more_is_asked_for() {
    let nats = NatsServer::start();
    let logged = |level: &str| {
        let mut command = serve(&["--port", "0", "--log-format", "json", "--nats", &nats.url()]);
        let server = Running::start({
            command.env("IPC_LOG", level);
            command
        });
        eventually("a connection", || {
            let stats: Value =
                serde_json::from_str(&prints(&server, &["stats", "--json"])).unwrap();
            (stats["nats"]["connected"] == true).then_some(())
        });
        server.terminate()
    };
    let [few, all] = ["info", "debug"].map(logged);
    assert!(few.contains("connected to NATS") && all.contains("connected to NATS"), "{few}\n{all}");
    // What the client says once it is connected.
    let own = "connected successfully";
    assert!(!few.contains(own) && all.contains(own), "{few}\n{all}");
}
