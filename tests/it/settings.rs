//! Settings of `ipc serve` that make no sense. Both the check and the start find them before
//! anything listens, and the error shows no secret.

use std::fs;
use std::os::unix::net::UnixListener;
use std::process::{Command, Output};

use serde_json::json;

use crate::cli::{Running, assert_fails, output, serve};
use crate::scratch::Scratch;
use crate::support::code;

/// A secret as text and as a number. No process id or line number looks like it.
const TEXT: &str = "s3cr3t";
const NUMBER: &str = "9876543210";

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Values as users write them, right and wrong.
fn values() -> Vec<String> {
    [
        r#""T""#,
        "'T'",
        r#""""
T
T""""#,
        "T",
        r#""T"#,
        "'T",
        "N",
        "-N",
        "N.5",
        "Ne99",
        "0xN",
        "[N]",
        r#"["T", "T"]"#,
        r#"["T", N"#,
        r#"{ a = "T" }"#,
        "{ a = N }",
        r#"{ a = { b = "T" } }"#,
        r#"{ a = "T""#,
        r#""T" "T""#,
        r#""\T""#,
        "9876-54-32",
        "2042-01-01T00:00:00.9876543210Z",
        "",
    ]
    .iter()
    .map(|value| value.replace('T', TEXT).replace('N', NUMBER))
    .collect()
}

const KEYS: [&str; 13] = [
    "tokens = V",
    "tokens.app = V",
    "tokens.app.more = V",
    "[tokens]\napp = V",
    "[tokens]\n\"\" = V",
    "[tokens]\napp = V\napp = V",
    "[tokens.app]\nmore = V",
    "[[tokens]]\napp = V",
    "token = V",
    "[token]\napp = V",
    "Tokens = V",
    "token-file = V",
    "tls-key = V",
];

#[test]
fn no_value_of_a_secret_is_in_an_error() {
    let scratch = Scratch::new("shapes");
    let mut refused = 0;
    for key in KEYS {
        for value in values() {
            let names_a_file = key.starts_with("token-file") || key.starts_with("tls-key");
            if names_a_file && value.lines().count() == 1 && value.starts_with(['"', '\'']) {
                // The name of a file is no secret.
                continue;
            }
            let text = format!("port = 0\n{}\n", key.replace('V', &value));
            let config = scratch.file("ipc.toml", 0o600, &text);
            let checked = output(serve(&["--check-config", "--config", &config]));
            let said = format!("{}{}", stderr(&checked), String::from_utf8_lossy(&checked.stdout));
            for secret in [TEXT, NUMBER, "9876"] {
                assert!(!said.contains(secret), "{secret} of\n{text}is in\n{said}");
            }
            refused += usize::from(checked.status.code() == Some(2));
            assert_eq!(stderr(&checked).is_empty(), checked.status.success(), "{text}{said}");
        }
    }
    assert!(refused > KEYS.len() * values().len() / 2, "only {refused} were refused");
}

#[test]
fn a_reload_does_not_write_a_secret_into_the_log_either() {
    let scratch = Scratch::new("shapes, again");
    let config = scratch.file("ipc.toml", 0o600, "[tokens]\napp = \"right\"\n");
    let running = Running::start(serve(&["--port", "0", "--config", &config]));
    for text in ["tokens = \"T\"", "tokens = N", "[tokens]\napp = [\"T\"]", "token-file = N"] {
        scratch.file("ipc.toml", 0o600, &text.replace('T', TEXT).replace('N', NUMBER));
        let said = running.reload();
        assert!(said.contains("stay as they were"), "{said}");
        assert!(!said.contains(TEXT) && !said.contains(NUMBER), "{said}");
    }
}

#[test]
fn a_secret_is_read_from_a_regular_file_alone() {
    let scratch = Scratch::new("fifo");
    let pipe = scratch.0.join("pipe");
    let made = Command::new("mkfifo").args(["-m", "600"]).arg(&pipe).status().unwrap();
    assert!(made.success());
    let pipe = pipe.to_str().unwrap().to_owned();
    let directory = scratch.0.to_str().unwrap();
    for path in [&pipe, directory, "/dev/zero"] {
        for arguments in [
            ["--check-config", "--token-file", path],
            ["--port=0", "--token-file", path],
            ["--check-config", "--config", path],
            ["--port=0", "--config", path],
        ] {
            let ended = output(serve(&arguments));
            assert!(stderr(&ended).contains("not a regular file"), "{arguments:?}: {ended:?}");
        }
    }

    let config = scratch.file("ipc.toml", 0o600, "");
    let running = Running::start(serve(&["--port", "0", "--config", &config]));
    scratch.file("ipc.toml", 0o600, &format!("token-file = {pipe:?}\n"));
    let said = running.reload();
    assert!(said.contains("stay as they were") && said.contains("not a regular file"), "{said}");
    scratch.file("ipc.toml", 0o600, "max-connections = 7\n");
    assert!(running.reload().contains("were read again"));
    let mut peer = running.connected("app", "one");
    assert_eq!(peer.stats()["max_connections"], 7);
}

#[test]
fn a_token_of_nothing_is_refused_and_is_not_no_token() {
    let scratch = Scratch::new("blank");
    for token in ["", " ", "\t \n"] {
        for arguments in [["--check-config", "--port=0"], ["--demo", "--port=0"]] {
            let mut command = serve(&arguments);
            command.env("IPC_TOKEN", token);
            let ended = output(command);
            assert_eq!(ended.status.code(), Some(2), "{token:?}: {ended:?}");
            assert!(stderr(&ended).contains("IPC_TOKEN is empty"), "{ended:?}");
        }
        let file = scratch.file("token", 0o600, token);
        assert_fails(serve(&["--check-config", "--token-file", &file]), 2, "is empty");
    }
    for (text, says) in [
        ("app = \"\"", "the token of application \"app\" is empty"),
        ("app = \"  \"", "the token of application \"app\" is empty"),
        ("\"\" = \"x\"", "application without a name"),
        (&format!("{} = \"x\"", "a".repeat(257)), "longer than 256 bytes"),
    ] {
        let config = scratch.file("ipc.toml", 0o600, &format!("[tokens]\n{text}\n"));
        assert_fails(serve(&["--check-config", "--config", &config]), 2, says);
        assert_fails(serve(&["--port=0", "--config", &config]), 2, says);
    }
}

#[test]
fn the_check_finds_what_keeps_the_server_from_starting() {
    let scratch = Scratch::new("facts");
    let path = |name: &str| scratch.0.join(name).to_str().unwrap().to_owned();
    scratch.file("file", 0o600, "keep me");
    let too_long = path(&"x".repeat(108));
    let missing = path("missing/ipc.sock");
    for (arguments, says) in [
        (&["--cpu", "99999"][..], "cannot run on core 99999"),
        (&["--cpu", "1000"], "cannot run on core 1000"),
        (&["--unix", &too_long], "too long"),
        (&["--unix", &missing], "directory does not exist"),
        (&["--unix", &path("file/ipc.sock")], "not a directory"),
        (&["--unix", &path("file")], "not a socket"),
        (&["--unix", scratch.0.to_str().unwrap()], "not a socket"),
        (&["--latency-log", &path("missing/log")], "latency log"),
        (&["--latency-log", scratch.0.to_str().unwrap()], "latency log"),
        (&["--max-memory", "4KiB", "--max-frame-bytes", "1KiB"], "max-memory"),
        (&["--max-memory", "64KiB", "--max-frame-bytes", "1KiB"], "1MiB"),
        (&["--max-memory", "16MiB"], "lower frame_bytes_max (--max-frame-bytes)"),
        (&["--max-frame-bytes", "2GiB", "--max-memory", "64GiB"], "between 1KiB and 1GiB"),
        (&["--max-connections", "0"], "from 1 on"),
        (&["--handshake-timeout", "0s"], "give clients time"),
        (&["--queue-high-water", "0"], "let a few messages wait"),
        (&["--queue-high-water", "2GiB"], "--queue-high-water) is 2147483648, more than all"),
    ] {
        let checked = output(serve(&[&["--port=0", "--check-config"], arguments].concat()));
        assert_eq!(checked.status.code(), Some(2), "{arguments:?}: {checked:?}");
        let said = stderr(&checked);
        assert!(said.contains(says) && said.lines().count() == 1, "{arguments:?}: {said}");
        let started = output(serve(&[&["--port=0"], arguments].concat()));
        assert_eq!(stderr(&started), said, "{arguments:?} by the start");
    }
    assert_eq!(fs::read_to_string(path("file")).unwrap(), "keep me");

    for (flag, value, says) in [
        ("--request-timeout", "0s", "such as 500ms, 5s or 2min, or say never"),
        ("--request-timeout", "soon", "such as 500ms, 5s or 2min, or say never"),
        ("--slow-consumer-grace", "0", "give it some time"),
        ("--slow-consumer-grace", "never", "give it some time"),
        ("--queue-high-water", "-1", "number of bytes"),
        ("--max-channels", "0", "give a number from 1 on"),
        ("--max-subscriptions", "many", "give a number from 1 on"),
    ] {
        let said = stderr(&output(serve(&["--check-config", &format!("{flag}={value}")])));
        assert!(said.contains(says) && said.contains(flag), "{flag} {value}: {said}");
        let text = format!("{} = {value:?}\n", flag.trim_start_matches('-'));
        let config = scratch.file("ipc.toml", 0o600, &text);
        let said = stderr(&output(serve(&["--check-config", "--config", &config])));
        assert!(said.contains(says) && said.contains("line 1"), "{text}: {said}");
    }

    for arguments in [["--port=0", "--check-config"], ["--port=0", "--demo"]] {
        let mut command = serve(&arguments);
        command.env("IPC_LOG", "nonsense");
        assert_fails(command, 2, "IPC_LOG");
        let program = serve(&[]).get_program().to_str().unwrap().to_owned();
        let mut few = Command::new("bash");
        few.args(["-c", &format!("ulimit -n 100; exec {program:?} serve {}", arguments.join(" "))]);
        let ended = output(few);
        assert!(stderr(&ended).contains("ulimit -Hn"), "{arguments:?}: {ended:?}");
        assert!(!ended.status.success());
    }

    // The check does not mind files of a running server, and leaves no files itself.
    let _alive = UnixListener::bind(path("alive")).unwrap();
    let log = scratch.file("log", 0o600, "of before\n");
    for arguments in [
        ["--unix", &path("alive")],
        ["--latency-log", &log],
        ["--latency-log", &path("new log")],
        ["--cpu", "0"],
    ] {
        let checked = output(serve(&[&["--check-config"], &arguments[..]].concat()));
        assert_eq!(checked.status.code(), Some(0), "{arguments:?}: {checked:?}");
    }
    assert_eq!(fs::read_to_string(log).unwrap(), "of before\n");
    assert!(!scratch.0.join("new log").exists());
}

/// Reports all problems at once, in whichever part of the settings they are.
#[test]
fn one_check_tells_of_the_settings_and_of_the_machine() {
    let scratch = Scratch::new("both");
    let file = scratch.file("file", 0o600, "");
    let mut command = serve(&["--check-config", "--queue-high-water=0", "--cpu=99999"]);
    command.args(["--token-file", &file, "--latency-log", "/missing/log"]).env("IPC_LOG", "x");
    let said = stderr(&output(command));
    for says in ["let a few messages wait", "core 99999", "is empty", "latency log", "IPC_LOG"] {
        assert!(said.contains(says), "{says} is missing: {said}");
    }
    assert_eq!(said.lines().count(), 5, "{said}");
}

/// The client meets the limit, and gets the matching error.
#[test]
fn the_smallest_memory_is_enough_to_be_served() {
    let arguments = ["--port=0", "--demo", "--max-memory=1MiB", "--max-frame-bytes=1KiB"];
    let running = Running::start(serve(&arguments));
    let mut peers: Vec<_> = (0..20).map(|_| running.peer()).collect();
    for (at, peer) in peers.iter_mut().enumerate() {
        peer.connect("bench", &format!("{at}"));
        assert_eq!(peer.request("echo", json!(at)), json!(at));
    }
    peers[0].send("request", "echo", json!("x".repeat(1 << 10)));
    assert_eq!(code(&peers[0].receive()), "frame_too_large");
}
