//! Subcommands that are given several servers.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::cli::{Running, assert_fails, ipc, output, serve};
use crate::scratch::Scratch;
use crate::support::{eventually, reserved_port};

fn demo() -> Running {
    Running::start(serve(&["--demo", "--host", "127.0.0.1", "--port", "0"]))
}

fn prints(arguments: &[&str]) -> String {
    let mut command = ipc();
    command.args(arguments);
    let ended = output(command);
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{arguments:?}: {stderr}");
    String::from_utf8(ended.stdout).unwrap()
}

fn fails(arguments: &[&str], exit_code: i32, says: &str) {
    let mut command = ipc();
    command.args(arguments);
    assert_fails(command, exit_code, says);
}

#[test]
fn the_first_server_that_welcomes_the_program_is_used() {
    let (server, refusing) = (demo(), format!("127.0.0.1:{}", reserved_port()));
    let there = server.address().to_string();
    let hosts = format!("{refusing}, {there}");
    assert_eq!(prints(&["request", "echo", "7", "--host", &hosts]), "7\n");
    let pong = prints(&["ping", "-c", "1", "--host", &hosts, "--address-order", "random"]);
    assert!(pong.starts_with(&format!("pong from {there}: ")), "{pong}");
    let port = server.address().port().to_string();
    assert_eq!(prints(&["request", "echo", "7", "--host", "127.0.0.1", "--port", &port]), "7\n");

    let other = format!("127.0.0.1:{}", reserved_port());
    let hosts = format!("{refusing},{other}");
    for address in [&refusing, &other] {
        fails(&["request", "echo", "7", "--host", &hosts], 3, &format!("{address} ("));
    }
    for (hosts, says) in [
        ("a,", "an address is empty"),
        ("", "an address is empty"),
        ("a,a", "a:8888 is there twice"),
        ("a:0", "1 to 65535"),
        ("1:2:3", "no address"),
        ("/run/ipc.sock", "the path of a Unix socket"),
    ] {
        fails(&["request", "echo", "7", "--host", hosts], 2, says);
    }
    fails(&["ping", "--host", "a,b", "--unix", "/x"], 2, "one or the other");
    fails(&["ping", "--address-order", "first"], 2, "listed");
}

#[test]
fn unix_sockets_may_be_several() {
    let scratch = Scratch::new("unix-servers");
    let (path, missing) = (scratch.socket(), scratch.0.join("missing.sock"));
    let (path, missing) = (path.to_str().unwrap(), missing.to_str().unwrap());
    let _server = Running::start(serve(&["--demo", "--no-tcp", "--unix", path]));
    assert_eq!(prints(&["request", "echo", "7", "--unix", missing, "--unix", path]), "7\n");
    fails(&["request", "echo", "7", "--unix", path, "--unix", path], 2, "is there twice");
}

#[test]
fn a_subscriber_goes_on_at_the_next_server() {
    let (first, second) = (demo(), demo());
    let hosts = format!("{},{}", first.address(), second.address());
    let mut command = ipc();
    command.args(["subscribe", "news", "--json", "--host", &hosts, "--app", "bench"]);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut subscriber = command.spawn().unwrap();
    let lines = BufReader::new(subscriber.stdout.take().unwrap()).lines();
    let (sender, shown) = channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
    for (server, payload) in [(&first, "1"), (&second, "2")] {
        let mut publisher = server.connected("bench", "publisher");
        eventually("it hears this server", || {
            publisher.send("publish", "news", payload.parse().unwrap());
            let line = shown.recv_timeout(Duration::from_millis(20)).ok()?;
            line.contains(&format!("\"payload\":{payload}")).then_some(())
        });
        if payload == "1" {
            drop(publisher);
            first.signal("KILL");
        }
    }
    subscriber.kill().unwrap();
    subscriber.wait().unwrap();
}
