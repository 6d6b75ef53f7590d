//! `ipc request --stream` and `ipc worker --stream`, and what becomes of a request whose requester
//! is gone.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use ipc_framework::client::{ClientOptions, Endpoint, RequestOptions};

use super::{Demo, Live, spawn};
use crate::cli::assert_fails;
use crate::client::many_threads::value;
use crate::client::scripted::Scripted;
use crate::scratch::Scratch;
use crate::support::{HANG, until};

fn options(demo: &Demo) -> ClientOptions {
    let mut options = ClientOptions::new("bench");
    options.connection.endpoint = Endpoint::tcp("127.0.0.1", demo.0.address().port());
    options.connection.timeout = HANG;
    options
}

/// Starts a worker whose command notes its process id, prints a line and goes on for ever.
fn serve_for_ever(demo: &Demo, scratch: &Scratch, arguments: &[&str]) -> Live {
    let script = "echo $$ > pid.new; mv pid.new pid; echo begun; exec sleep 1000";
    let start = [&["worker", "job"], arguments, &["--", "sh", "-c", script]].concat();
    let mut command = demo.command(&start);
    command.current_dir(&scratch.0);
    Live::start(command)
}

/// Waits until the command runs, and returns its process id.
fn pid(scratch: &Scratch) -> String {
    let file = scratch.0.join("pid");
    until("the command", || file.exists(), |exists| *exists);
    let pid = std::fs::read_to_string(&file).unwrap().trim().to_owned();
    std::fs::remove_file(file).unwrap();
    pid
}

/// Expects that a requester shows a first line, and then this error.
fn expect_failure(demo: &Demo, channel: &str, says: &str) {
    let output = demo.run(&["request", channel, "--stream"]);
    assert_eq!((output.status.code(), &*output.stdout), (Some(1), &b"1\n"[..]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(says), "{said}");
}

fn expect_end(pid: &str) {
    let process = format!("/proc/{pid}/stat");
    let state = || std::fs::read_to_string(Path::new(&process)).unwrap_or_default();
    until("the end of the command", state, |state| state.is_empty() || state.contains(") Z "));
}

#[test]
fn each_line_of_the_command_is_a_part_and_a_line_of_the_requester() {
    let demo = Demo::start();
    let script = "read -r n; seq \"$n\"; printf '{\"a\":  1}\\n\\nno JSON'";
    let worker =
        Live::start(demo.command(&["worker", "count", "--stream", "--", "sh", "-c", script]));
    let shown = demo.prints(&["request", "count", "3", "--stream"]);
    assert_eq!(shown, "1\n2\n3\n{\"a\":  1}\n\"\"\n\"no JSON\"\n");
    // More than waits anywhere, and each once.
    let expected: Vec<String> = (1..=20_000).map(|n| n.to_string()).collect();
    let shown = demo.prints(&["request", "count", "20000", "--stream", "--timeout", "60s"]);
    assert_eq!(shown.lines().take(20_000).collect::<Vec<_>>(), expected);
    // A requester that takes no parts gets all of them at once.
    let shown = demo.prints(&["request", "count", "2"]);
    assert_eq!(shown, "[1,2,{\"a\":  1},\"\",\"no JSON\"]\n");
    // What comes in one piece is the only part.
    assert_eq!(demo.prints(&["request", "echo", "[1]", "--stream"]), "[1]\n");
    let fails = "echo 1; echo why >&2; exit 3";
    let fails =
        Live::start(demo.command(&["worker", "fails", "--stream", "--", "sh", "-c", fails]));
    expect_failure(&demo, "fails", "why (handler_failed)");
    for worker in [worker, fails] {
        worker.signal("INT");
        let (code, _, stderr) = worker.end();
        assert_eq!(code, Some(0), "{stderr}");
    }
}

#[test]
fn a_part_is_shown_before_the_next_one_is_there() {
    let (demo, scratch) = (Demo::start(), Scratch::new("stream-parts"));
    let script = "echo 1; until [ -e next ]; do sleep 0.01; done; echo 2";
    let mut command = demo.command(&["worker", "slow", "--stream", "--", "sh", "-c", script]);
    command.current_dir(&scratch.0);
    let _worker = Live::start(command);
    let mut asks = spawn(demo.command(&["request", "slow", "--stream", "--timeout", "60s"]));
    let mut lines = BufReader::new(asks.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "1");
    scratch.file("next", 0o600, "");
    assert_eq!(lines.next().unwrap().unwrap(), "2");
    assert!(lines.next().is_none() && asks.wait().unwrap().success());
}

#[test]
fn a_requester_that_is_interrupted_ends_the_command() {
    let (demo, scratch) = (Demo::start(), Scratch::new("stream-cancel"));
    for arguments in [&["--stream"][..], &[]] {
        let worker = serve_for_ever(&demo, &scratch, arguments);
        let ask = [&["request", "job", "--timeout", "60s"], arguments].concat();
        let mut asks = spawn(demo.command(&ask));
        let pid = pid(&scratch);
        super::signal(&asks, "INT");
        assert!(!asks.wait().unwrap().success());
        expect_end(&pid);
        worker.signal("INT");
        assert_eq!(worker.end().0, Some(0));
    }
}

#[test]
fn a_command_that_prints_faster_than_it_is_read_waits() {
    let demo = Demo::start();
    let command = ["worker", "endless", "--stream", "--command-timeout", "1s", "--", "yes"];
    let worker = Live::start(demo.command(&command));
    let client = options(&demo).connect().unwrap();
    let credit = RequestOptions::default().credit(4);
    let mut stream = client.request_stream_with("endless", &(), &credit).unwrap();
    for _ in 0..100 {
        assert_eq!(value(&stream.next().unwrap().unwrap()), "y");
    }
    // Longer than a line may take: that is no time of the command's, but of its reader's.
    std::thread::sleep(Duration::from_millis(1_500));
    for _ in 0..100 {
        assert_eq!(value(&stream.next().unwrap().unwrap()), "y");
    }
    drop(stream);
    // The only one at a time is free again.
    let mut stream = client.request_stream_with("endless", &(), &credit).unwrap();
    stream.next().unwrap().unwrap();
    drop(stream);
    worker.signal("INT");
    assert_eq!(worker.end().0, Some(0));
}

#[test]
fn a_line_that_takes_too_long_or_is_too_long_ends_the_answer() {
    let demo = Demo::start();
    let script = "echo 1; exec sleep 1000";
    let slow =
        ["worker", "slow", "--stream", "--command-timeout", "200ms", "--", "sh", "-c", script];
    let _slow = Live::start(demo.command(&slow));
    expect_failure(&demo, "slow", "printed no line for 200ms");
    let script = "echo 1; yes | tr -d '\\n'";
    let long =
        ["worker", "long", "--stream", "--max-output-bytes", "10KiB", "--", "sh", "-c", script];
    let _long = Live::start(demo.command(&long));
    expect_failure(&demo, "long", "a line of more than 10.0 KiB");
    let script = "echo 1; printf 'ab\\377\\n'; exec sleep 1000";
    let bytes = ["worker", "bytes", "--stream", "--", "sh", "-c", script];
    let _bytes = Live::start(demo.command(&bytes));
    expect_failure(&demo, "bytes", "not UTF-8, from byte 2 on");
}

#[test]
fn a_timeout_that_was_given_reaches_the_worker_and_the_default_does_not() {
    let demo = Demo::start();
    let worker = options(&demo).connect().unwrap();
    let (sender, told) = mpsc::channel();
    worker
        .serve("left", 1, move |request| {
            sender.send(request.remaining()).unwrap();
            Ok(())
        })
        .unwrap();
    demo.prints(&["request", "left", "--timeout", "50s"]);
    let left = told.recv_timeout(HANG).unwrap().expect("it is told");
    assert!(left <= Duration::from_secs(50) && left > Duration::from_secs(10), "{left:?}");
    demo.prints(&["request", "left", "--timeout", "50s", "--stream"]);
    assert!(told.recv_timeout(HANG).unwrap().is_some());
    demo.prints(&["request", "left"]);
    assert_eq!(told.recv_timeout(HANG).unwrap(), None);
}

#[test]
fn an_older_server_knows_no_streams() {
    let (demo, script) = (Demo::start(), Scripted::new());
    let mut asks = demo.command(&["request", "count", "--stream"]);
    asks.env("IPC_PORT", script.address().port().to_string());
    let asked = std::thread::spawn(move || assert_fails(asks, 1, "(unsupported)"));
    let mut side = script.accept();
    asked.join().unwrap();
    assert!(side.try_receive().is_err(), "nothing is sent");
}
