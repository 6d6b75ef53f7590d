//! `ipc worker`, which answers requests with a command.

use std::process::Output;

use serde_json::{Value, json};

use super::{Demo, Live, spawn};
use crate::cli::{assert_fails, ipc};
use crate::scratch::Scratch;

#[test]
fn a_worker_answers_with_what_its_command_prints() {
    let demo = Demo::start();
    let start = |arguments: &[&str]| Live::start(demo.command(arguments));
    let upper = start(&["worker", "upper", "--", "tr", "a-z", "A-Z"]);
    assert_eq!(demo.prints(&["request", "upper", "{\"a\": \"b\"}"]), "{\"A\": \"B\"}\n");
    let script = "read -r x; echo \"$IPC_CHANNEL got $x\"";
    let shell = start(&["worker", "told", "--", "sh", "-c", script]);
    assert_eq!(demo.prints(&["request", "told", "[1]"]), "\"told got [1]\"\n");
    let fails = start(&[
        "worker",
        "fails",
        "--",
        "sh",
        "-c",
        "printf 'why\\033[2J\\n' >&2; echo no; exit 3",
    ]);
    assert_fails(demo.command(&["request", "fails", "1"]), 1, "why\\u001b[2J (handler_failed)");
    let silent = start(&["worker", "silent", "--", "false"]);
    assert_fails(demo.command(&["request", "silent", "1"]), 1, "exit status: 1");
    // This command prints more than a pipe holds before it has read anything.
    let script = "yes | head -c 300000; cat >/dev/null; echo";
    let much = start(&["worker", "much", "--", "sh", "-c", script]);
    let large = format!("\"{}\"", "x".repeat(100_000));
    let answer: Value = serde_json::from_str(&demo.prints(&["request", "much", &large])).unwrap();
    assert_eq!(answer.as_str().unwrap().len(), 300_000);
    // A command that takes too long or prints too much is killed, and the requester is told.
    let sleeps = ["worker", "sleeps", "--command-timeout", "200ms", "--", "sleep", "1000"];
    let sleeps = start(&sleeps);
    assert_fails(demo.command(&["request", "sleeps"]), 1, "longer than 200ms and was killed");
    let endless = start(&["worker", "endless", "--max-output-bytes", "10KiB", "--", "yes"]);
    assert_fails(demo.command(&["request", "endless"]), 1, "printed more than 10.0 KiB");
    let bytes = start(&["worker", "bytes", "--", "printf", "ab\\377"]);
    assert_fails(
        demo.command(&["request", "bytes"]),
        1,
        "not UTF-8, from byte 2 on; have it print",
    );
    for worker in [upper, shell, fails, silent, much, sleeps, endless, bytes] {
        worker.signal("INT");
        let (code, _, stderr) = worker.end();
        assert_eq!(code, Some(0), "{stderr}");
    }
}

#[test]
fn a_command_without_its_dashes_is_told_where_they_belong() {
    let mut bare = ipc();
    bare.args(["worker", "sort", "sort", "-n"]);
    assert_fails(bare, 2, "unexpected argument 'sort' found; write `--` before the command; see");
    let mut unknown = ipc();
    unknown.args(["worker", "sort", "--what", "--", "sort"]);
    assert_fails(unknown, 2, "unexpected argument '--what' found; ");
}

#[test]
fn a_command_that_cannot_be_run_is_not_served() {
    let (demo, scratch) = (Demo::start(), Scratch::new("no-commands"));
    let text = scratch.file("text", 0o644, "no program");
    let folder = scratch.0.to_str().unwrap();
    for command in ["/does/not/exist", "nosuchcmd", &text, folder] {
        let worker = demo.command(&["worker", "missing", "--", command]);
        // One sentence, and not the one that says that it serves.
        assert_fails(worker, 1, &format!("cannot run {command}: "));
    }
    // A program that goes away later ends its worker.
    let program = scratch.0.join("program");
    std::os::unix::fs::symlink("/bin/cat", &program).unwrap();
    let name = program.to_str().unwrap();
    let worker = Live::start(demo.command(&["worker", "gone", "--", name]));
    assert_eq!(demo.prints(&["request", "gone", "1"]), "1\n");
    std::fs::remove_file(&program).unwrap();
    assert_fails(demo.command(&["request", "gone", "1"]), 1, &format!("cannot run {name}"));
    let (code, _, stderr) = worker.end();
    assert_eq!(code, Some(1));
    assert!(stderr.contains(&format!("cannot run {name}")), "{stderr}");
}

/// Each of the two commands waits for the other.
#[test]
fn a_worker_runs_as_many_commands_at_a_time_as_it_is_told() {
    let (demo, scratch) = (Demo::start(), Scratch::new("concurrency"));
    let script = "read -r me; touch $me; other=$((3 - me)); \
                  until [ -e $other ]; do sleep 0.01; done; echo $other";
    let mut command = demo.command(&["worker", "met", "-c", "2", "--", "sh", "-c", script]);
    command.current_dir(&scratch.0);
    let worker = Live::start(command);
    let asks =
        ["1", "2"].map(|me| spawn(demo.command(&["request", "met", me, "--timeout", "30s"])));
    let answers = asks.map(|asks| asks.wait_with_output().unwrap().stdout);
    assert_eq!(answers, [b"2\n", b"1\n"]);
    // The server keeps what it has no hand free for.
    let ahead = ["worker", "ahead", "-c", "2", "--prefetch", "3", "--", "cat"];
    let ahead = Live::start(demo.command(&ahead));
    let mut peer = demo.0.connected("bench", "looks");
    let mut concurrency = |channel: &str| {
        let services = peer.request("system", json!({"action": "list_services"}));
        let services = services["services"].as_array().unwrap().clone();
        let service = services.into_iter().find(|service| service["name"] == channel);
        service.map(|service| service["concurrency"].clone())
    };
    assert_eq!(concurrency("met"), Some(json!([2])));
    assert_eq!(concurrency("ahead"), Some(json!([5])));
    drop((worker, ahead));
}

#[test]
fn the_first_ctrl_c_lets_a_command_finish_and_the_second_kills_it() {
    let (demo, scratch) = (Demo::start(), Scratch::new("interrupts"));
    for (signals, says) in [(1, "\"done\"\n"), (2, "told to end at once")] {
        let script = "touch started; until [ -e finish ]; do sleep 0.01; done; echo done";
        let mut command = demo.command(&["worker", "job", "--", "sh", "-c", script]);
        command.current_dir(&scratch.0);
        let worker = Live::start(command);
        let asks = spawn(demo.command(&["request", "job", "--timeout", "30s"]));
        let started = scratch.0.join("started");
        while !started.exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        worker.signal("INT");
        // It no longer serves the channel when the next signal, or the file, comes.
        let mut peer = demo.0.connected("bench", "looks");
        let is_served = |services: &Value| services.to_string().contains("\"job\"");
        while is_served(&peer.request("system", json!({"action": "list_services"}))) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        match signals {
            1 => drop(scratch.file("finish", 0o600, "")),
            _ => worker.signal("INT"),
        }
        let Output { stdout, stderr, .. } = asks.wait_with_output().unwrap();
        let said = String::from_utf8([stdout, stderr].concat()).unwrap();
        assert!(said.contains(says), "{said}");
        assert_eq!(worker.end().0, Some(0));
        for left in ["started", "finish"] {
            let _ = std::fs::remove_file(scratch.0.join(left));
        }
    }
}
