//! Settings of `ipc serve` from variables of the environment: below the flags, above the file.

use std::process::Command;

use serde_json::json;

use crate::cli::{Running, assert_fails, ipc, output, serve};
use crate::scratch::Scratch;
use crate::support::{Peer, code, reserved_port};

fn serve_with(arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = serve(arguments);
    command.envs(variables.iter().copied());
    command
}

fn connections_max(running: &Running) -> u64 {
    running.connected("app", "asks").stats()["max_connections"].as_u64().unwrap()
}

#[test]
fn a_flag_goes_before_a_variable_and_a_variable_before_the_file() {
    let scratch = Scratch::new("precedence");
    let config = scratch.file("ipc.toml", 0o600, "port = 1\nmax-connections = 3\ndemo = true\n");
    let file = ("IPC_CONFIG", &*config);
    for (arguments, variables, expected) in [
        (&["--port=0"][..], &[][..], 10_000),
        (&["--port=0"], &[file], 3),
        (&["--port=0"], &[file, ("IPC_MAX_CONNECTIONS", "5")], 5),
        (&[], &[file, ("IPC_PORT", "0"), ("IPC_MAX_CONNECTIONS", "5")], 5),
        (&["--max-connections=7"], &[file, ("IPC_PORT", "0"), ("IPC_MAX_CONNECTIONS", "5")], 7),
    ] {
        let running = Running::start(serve_with(arguments, variables));
        assert_eq!(connections_max(&running), expected, "{arguments:?} {variables:?}");
        // A reload combines them in the same way.
        let said = running.reload();
        assert!(said.contains("were read again") && !said.contains("next start"), "{said}");
        assert_eq!(connections_max(&running), expected, "{arguments:?} {variables:?}, reloaded");
    }
    // A switch of the file is unset by a variable, and set by a flag.
    for (arguments, demo, is_on) in [
        (&["--port=0"][..], "", false),
        (&["--port=0"], "0", false),
        (&["--port=0"], "false", false),
        (&["--port=0"], "1", true),
        (&["--port=0", "--demo"], "0", true),
    ] {
        let running = Running::start(serve_with(arguments, &[file, ("IPC_DEMO", demo)]));
        let mut peer = running.connected("bench", "asks");
        peer.send("request", "echo", json!(1));
        let answer = peer.receive();
        assert_eq!(answer["payload"] == 1, is_on, "{arguments:?}, IPC_DEMO={demo}: {answer}");
    }
}

#[test]
fn the_clients_and_the_server_read_the_same_address() {
    let scratch = Scratch::new("same address");
    let socket = scratch.socket();
    let socket = socket.to_str().unwrap();
    let token = scratch.file("token", 0o600, "secret\n");
    let port = reserved_port().to_string();
    for variables in [
        &[("IPC_HOST", "127.0.0.1"), ("IPC_PORT", &*port)][..],
        &[("IPC_PORT", &port), ("IPC_TOKEN_FILE", &token)],
        &[("IPC_PORT", &port), ("IPC_TOKEN", "secret")],
        &[("IPC_PORT", &port), ("IPC_UNIX", socket)],
        &[("IPC_UNIX", socket), ("IPC_NO_TCP", "1")],
    ] {
        let running = Running::start(serve_with(&["--demo"], variables));
        let mut request = ipc();
        request.args(["request", "echo", "7"]).envs(variables.iter().copied());
        let answer = output(request);
        assert!(answer.status.success(), "{variables:?}: {answer:?}");
        assert_eq!(answer.stdout, b"7\n");
        running.terminate();
    }
}

/// Variables such as `IPC_HOST` are often set for the clients, and a flag overrides them.
#[test]
fn a_flag_overrides_a_variable_that_contradicts_it() {
    let scratch = Scratch::new("contradiction");
    let socket = scratch.socket();
    let socket = socket.to_str().unwrap();
    let host = ("IPC_HOST", "127.0.0.1");
    let running = Running::start(serve_with(&["--no-tcp", "--unix", socket], &[host]));
    assert!(!running.banner.contains("127.0.0.1"), "{}", running.banner);
    drop(running);
    let variables = [("IPC_NO_TCP", "1"), ("IPC_UNIX", socket)];
    let running = Running::start(serve_with(&["--port=0"], &variables));
    assert!(running.banner.contains("127.0.0.1"), "{}", running.banner);
    drop(running);
    Running::start(serve_with(&["--port=0", "--spin=0"], &[("IPC_BUSY", "1")]));

    let both = [host, ("IPC_NO_TCP", "1"), ("IPC_UNIX", socket)];
    assert_fails(serve_with(&[], &both), 2, "IPC_NO_TCP contradicts IPC_HOST");
    // What is switched off contradicts nothing.
    let off = [("IPC_HOST", "127.0.0.1"), ("IPC_PORT", "0"), ("IPC_NO_TCP", "0")];
    Running::start(serve_with(&[], &off));
}

#[test]
fn a_token_of_the_environment_goes_before_the_file() {
    let scratch = Scratch::new("token of the environment");
    let other = scratch.file("token", 0o600, "of the file\n");
    let config = scratch.file("ipc.toml", 0o600, &format!("token-file = {other:?}\n"));
    let arguments = ["--port=0", "--config", &config];
    let running = Running::start(serve_with(&arguments, &[("IPC_TOKEN", "of the environment")]));
    let connect = |token| Peer::new(running.address()).called("app", token).introduce(Some(token));
    assert_eq!(code(&connect("of the file").unwrap()), "auth_failed");
    assert_eq!(connect("of the environment").unwrap()["payload"]["status"], "connected");
    assert!(running.reload().contains("were read again"));
    assert_eq!(code(&connect("of the file").unwrap()), "auth_failed");
}

#[test]
fn an_error_names_the_variable_and_the_check_finds_it() {
    for (name, value, says) in [
        ("IPC_PORT", "many", "'many' for IPC_PORT: give a number from 0 to 65535"),
        ("IPC_PORT", "65536", "'65536' for IPC_PORT: give a number from 0 to 65535"),
        ("IPC_PORT", "", "IPC_PORT is empty; give it a value, or unset it"),
        ("IPC_HOST", "", "IPC_HOST is empty; give it a value, or unset it"),
        ("IPC_UNIX", "", "IPC_UNIX is empty; give it a value, or unset it"),
        ("IPC_CPU", "-1", "'-1' for IPC_CPU: give a number from 0 on"),
        ("IPC_MAX_CONNECTIONS", "ten", "'ten' for IPC_MAX_CONNECTIONS: give a number from 1 on"),
        ("IPC_UNIX_MODE", "rw", "'rw' for IPC_UNIX_MODE: give permission bits"),
        ("IPC_IDLE_TIMEOUT", "5", "'5' for IPC_IDLE_TIMEOUT: give a number with its unit"),
        ("IPC_MAX_MEMORY", "lots", "IPC_MAX_MEMORY: give a number of bytes"),
        ("IPC_LOG_FORMAT", "xml", "'xml' for IPC_LOG_FORMAT; [possible values: text, json]"),
        ("IPC_ALLOW_UID", "0,root", "'root' for IPC_ALLOW_UID: give its number"),
        ("IPC_ALLOW_GID", "www", "'www' for IPC_ALLOW_GID: give its number"),
        ("IPC_CONFIG", "/does/not/exist", "/does/not/exist"),
        ("IPC_TOKEN_FILE", "/does/not/exist", "/does/not/exist: No such file or directory"),
        ("IPC_MAX_CONNECTIONS", "0", "from 1 on"),
        ("IPC_HOST", "0.0.0.0", "no token is required"),
    ] {
        for arguments in [&["--check-config"][..], &["--spin=0"]] {
            let failed = output(serve_with(arguments, &[(name, value)]));
            let said = String::from_utf8(failed.stderr).unwrap();
            assert!(!failed.status.success(), "{name}={value} {arguments:?}");
            assert!(said.contains(says) && said.lines().count() == 1, "{name}={value}: {said}");
        }
    }
    let mut request = ipc();
    request.args(["request", "echo"]).env("IPC_PORT", "many");
    assert_fails(request, 2, "'many' for IPC_PORT: give a number from 1 to 65535");
    // The flag is to blame if it was typed.
    let typed = serve_with(&["--port=many"], &[("IPC_PORT", "1")]);
    assert_fails(typed, 2, "'many' for '--port");
    let users = [("IPC_ALLOW_UID", "1,2"), ("IPC_UNIX", "/tmp/x.sock"), ("IPC_NO_TCP", "1")];
    let checked = output(serve_with(&["--check-config"], &users));
    assert!(checked.status.success(), "{checked:?}");
}
