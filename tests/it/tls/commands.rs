//! The subcommands of `ipc`, over TLS.

use std::process::{Command, Stdio};

use ipc_framework::Limits;
use serde_json::Value;

use super::certificates::Certificates;
use super::serve_tls;
use crate::cli::{Running, assert_fails, ipc, serve};
use crate::support::{TestServer, serve_echo};

/// Builds a subcommand that connects to this server.
fn command(server: &TestServer, arguments: &[&str]) -> Command {
    let mut command = ipc();
    command.args(arguments).env("IPC_APP", "app").stdin(Stdio::null());
    command.env("IPC_PORT", server.address.port().to_string());
    command
}

#[track_caller]
fn assert_prints(mut command: Command, text: &str) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), text);
}

#[test]
fn flags_and_variables_turn_it_on_for_those_who_ask() {
    let certificates = Certificates::new("commands");
    let path = |name| certificates.path(name).to_str().unwrap().to_owned();
    let [ca, certificate, key] = ["ca.pem", "client.pem", "client.key"].map(path);
    let server = serve_tls(&certificates.mutual_tls(), Limits::default());
    let ask = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = command(&server, &["request", "echo", "[1]"]);
        command.args(arguments).envs(variables.iter().copied());
        command
    };
    let flags = ["--tls", "--tls-ca", &ca, "--tls-cert", &certificate, "--tls-key", &key];
    assert_prints(ask(&flags, &[]), "[1]\n");
    let variables = [("IPC_TLS_CA", &*ca), ("IPC_TLS_CERT", &certificate), ("IPC_TLS_KEY", &key)];
    assert_prints(ask(&[], &variables), "[1]\n");
    // Flags take precedence over variables that name another way to connect.
    let elsewhere = [("IPC_UNIX", "/nonexistent/ipc.sock")];
    assert_prints(ask(&flags, &elsewhere), "[1]\n");
    let by_address = [&flags[..], &["--host", "127.0.0.1", "--tls-name", "localhost"]].concat();
    assert_prints(ask(&by_address, &[]), "[1]\n");

    let no_name = [&flags[..], &["--host", "127.0.0.1"]].concat();
    assert_fails(ask(&no_name, &[]), 3, "not for 127.0.0.1 but for");
    // This variable replaces the system's own certificates.
    let system = ("SSL_CERT_FILE", &*ca);
    let mutual = ["--tls-cert", &certificate, "--tls-key", &key];
    assert_prints(ask(&[&["--tls"], &mutual[..]].concat(), &[system]), "[1]\n");
    assert_prints(ask(&mutual, &[("IPC_TLS", "1"), system]), "[1]\n");
    let others = Certificates::new("commands, others");
    let elsewhere = others.path("ca.pem");
    let system = ("SSL_CERT_FILE", elsewhere.to_str().unwrap());
    assert_fails(ask(&["--tls"], &[system]), 3, "signed by nobody whom this client trusts");
    assert_fails(ask(&["--tls"], &[("SSL_CERT_FILE", &key)]), 2, "ca-certificates");
    assert_fails(ask(&["--tls-ca", &ca], &[]), 3, "asks for a certificate");
    assert_fails(ask(&[], &[]), 3, "this port speaks TLS");
    assert_fails(ask(&[], &[("IPC_TLS", "0")]), 3, "this port speaks TLS");
    assert_fails(command(&serve_echo(), &["ping", "--tls-ca", &ca]), 3, "is not TLS");
}

#[test]
fn flags_that_contradict_each_other_are_wrong_usage() {
    let certificates = Certificates::new("commands, usage");
    let path = |name| certificates.path(name).to_str().unwrap().to_owned();
    let [ca, certificate, key] = ["ca.pem", "client.pem", "client.key"].map(path);
    let ask = |arguments: &[&str]| {
        let mut command = ipc();
        command.args(["ping"]).args(arguments);
        command
    };
    for tls in [&["--tls"][..], &["--tls-ca", &ca], &["--tls-name", "localhost"]] {
        let with_unix = [tls, &["--unix", "/run/ipc.sock"]].concat();
        assert_fails(ask(&with_unix), 2, "a Unix socket takes no TLS");
    }
    assert_fails(ask(&["--tls-cert", &certificate]), 2, "--tls-cert and --tls-key");
    assert_fails(ask(&["--tls-key", &key]), 2, "--tls-cert and --tls-key");
    assert_fails(ask(&["--tls-ca", &key]), 2, "holds no certificate");
    assert_fails(ask(&["--tls-ca", &ca, "--tls-name", "no host"]), 2, "is no name or address");
    certificates.set_mode("client.key", 0o644);
    let open = ["--tls-ca", &ca, "--tls-cert", &certificate, "--tls-key", &key];
    assert_fails(ask(&open), 1, "chmod 600");
    // A socket in a flag takes precedence over variables for TCP.
    let mut typed = ask(&["--unix", "/nonexistent/ipc.sock"]);
    typed.env("IPC_TLS_CA", &ca);
    assert_fails(typed, 3, "/nonexistent/ipc.sock");
}

/// Runs subcommands that hold several connections, or have threads of their own.
#[test]
fn load_workers_and_figures_go_over_tls_as_well() {
    let certificates = Certificates::new("commands, load");
    let path = |name| certificates.path(name).to_str().unwrap().to_owned();
    let [ca, certificate, key] = ["ca.pem", "server.pem", "server.key"].map(path);
    let flags = ["--demo", "--port", "0", "--tls-cert", &certificate, "--tls-key", &key];
    let running = Running::start(serve(&flags));
    let ask = |arguments: &[&str]| {
        let mut command = ipc();
        command.args(arguments).env("IPC_TLS_CA", &ca).stdin(Stdio::null());
        command.env("IPC_PORT", running.address().port().to_string());
        command
    };
    let bench = ["bench", "request", "--clients", "3", "--duration", "1s", "--json"];
    let output = ask(&bench).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["per_second"].as_f64().unwrap() > 0.0, "{report}");
    assert!(ask(&["stats"]).output().unwrap().status.success());
    assert!(ask(&["publish", "news", "1"]).output().unwrap().status.success());
}
