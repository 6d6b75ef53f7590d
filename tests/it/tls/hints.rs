//! The lines with which `ipc serve` greets: they fit how it was started, and they work.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::certificates::Certificates;
use crate::cli::{Running, assert_fails, ipc, output, serve};
use crate::scratch::Scratch;
use crate::support::reserved_port;

const TOKEN: &str = "a secret";

/// Runs the command of the hint in a shell, with the placeholders filled in.
fn run_hint(banner: &str, certificates: &Certificates) -> std::process::Output {
    let hint = banner.lines().find_map(|line| line.strip_prefix("try: ")).expect(banner);
    let path = |name: &str| certificates.path(name).to_str().unwrap().to_owned();
    let hint = hint
        .replace("IPC_TOKEN=TOKEN", &format!("IPC_TOKEN='{TOKEN}'"))
        .replace("CA.pem", &format!("'{}'", path("ca.pem")))
        .replace("CLIENT.pem", &format!("'{}'", path("client.pem")))
        .replace("CLIENT.key", &format!("'{}'", path("client.key")));
    let program = ipc();
    let folder = Path::new(program.get_program()).parent().unwrap().to_str().unwrap();
    let others = std::env::var("PATH").unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", &hint]).env("PATH", format!("{folder}:{others}"));
    for name in ["IPC_TOKEN", "IPC_HOST", "IPC_PORT", "IPC_UNIX", "IPC_APP", "IPC_TLS"] {
        shell.env_remove(name);
    }
    output(shell)
}

#[test]
fn the_hint_reaches_the_server_however_it_was_started() {
    let scratch = Scratch::new("hints it's a b");
    let socket = scratch.socket();
    let socket = socket.to_str().unwrap();
    let token = scratch.file("token", 0o600, TOKEN);
    let own = scratch.file("own.toml", 0o600, &format!("[tokens]\nbench = {TOKEN:?}\n"));
    let other = scratch.file("other.toml", 0o600, &format!("[tokens]\nother = {TOKEN:?}\n"));
    let address = rcgen::SanType::IpAddress([127, 0, 0, 1].into());
    let certificates = Certificates::with("hints", |server| {
        server.subject_alt_names.push(address.clone());
    });
    let path = |name: &str| certificates.path(name).to_str().unwrap().to_owned();
    let [cert, key, ca] = ["server.pem", "server.key", "ca.pem"].map(path);
    let doors: [&[&str]; 5] = [
        &["--port=0"],
        &["--port=0", "--host=127.0.0.1"],
        &["--port=0", "--host=0.0.0.0", "--insecure"],
        &["--port=0", "--unix", socket],
        &["--no-tcp", "--unix", socket],
    ];
    let secrets: [(&[&str], bool); 5] = [
        (&[], false),
        (&["--token-file", &token], false),
        (&[], true),
        (&["--config", &own], false),
        (&["--config", &other], false),
    ];
    let tls: [&[&str]; 3] = [
        &[],
        &["--tls-cert", &cert, "--tls-key", &key],
        &["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &ca],
    ];
    for (at, (door, (secret, is_variable))) in
        doors.iter().flat_map(|door| secrets.iter().map(move |secret| (door, secret))).enumerate()
    {
        // Each door and each secret meets each kind of TLS and both demos.
        let tls = tls[(at + at / secrets.len()) % tls.len()];
        let demo: &[&str] = if at % 2 == 0 { &["--demo"] } else { &[] };
        let mut command = serve(&[door, secret, tls, demo].concat());
        if *is_variable {
            command.env("IPC_TOKEN", TOKEN);
        }
        let running = Running::start(command);
        let banner = &running.banner;
        let ran = run_hint(banner, &certificates);
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success(), "{banner}{ran:?}");
        assert_eq!(said.contains("hello"), at % 2 == 0, "{banner}{said}");
        assert!(!banner.contains(TOKEN), "a token is shown: {banner}");
        let is_tcp = door[0] != "--no-tcp";
        let [python, node] = ["FrameworkClient(", "new IPCClient("].map(|call| {
            let line = banner.lines().find(|line| line.contains(call)).expect(banner);
            line.split_once(call).unwrap().1
        });
        let has_token = !secret.is_empty() && *secret != secrets[4].0 || *is_variable;
        assert_eq!(python.contains("token="), has_token, "{banner}");
        assert_eq!(node.contains("token: "), has_token, "{banner}");
        assert_eq!(python.contains("tls=Tls("), is_tcp && !tls.is_empty(), "{banner}");
        assert_eq!(node.contains("tls: {"), is_tcp && !tls.is_empty(), "{banner}");
        assert_eq!(python.contains("port="), is_tcp, "{banner}");
        assert_eq!(node.contains("path: "), !is_tcp, "{banner}");
        // The packages are those of this project, and not the published ones.
        assert!(banner.contains("package ipc-framework-rs:"), "{banner}");
        assert!(!banner.contains("pip install"), "{banner}");
    }
}

#[test]
fn whoever_runs_it_with_cargo_is_advised_to_do_so_again() {
    let mut command = serve(&["--port=0", "--demo"]);
    command.env("CARGO_PKG_NAME", env!("CARGO_PKG_NAME"));
    let running = Running::start(command);
    assert!(running.banner.contains("try: cargo ipc request echo "), "{}", running.banner);
}

/// The Python module starts it like this, because `ipc` need not be on the path.
#[test]
fn whoever_runs_it_with_python_is_advised_to_do_so_again() {
    let mut command = serve(&["--port=0", "--demo"]);
    command.arg0("python3 -m ipc_framework");
    let running = Running::start(command);
    let hint = "try: python3 -m ipc_framework request echo ";
    assert!(running.banner.contains(hint), "{}", running.banner);
    let mut help = ipc();
    help.args(["serve", "--help"]).arg0("python3 -m ipc_framework");
    let help = String::from_utf8(output(help).stdout).unwrap();
    assert!(help.contains("Usage: python3 -m ipc_framework serve"), "{help}");
    assert!(help.contains("\n  python3 -m ipc_framework serve --demo"), "{help}");
}

#[test]
fn errors_and_help_name_the_program_as_it_was_started() {
    let cargo = |arguments: &[&str]| {
        let mut command = ipc();
        command.args(arguments).env("CARGO_PKG_NAME", env!("CARGO_PKG_NAME"));
        command
    };
    let port = reserved_port().to_string();
    assert_fails(cargo(&["ping", "--port", &port]), 3, "`cargo ipc serve --port ");
    assert_fails(cargo(&["serve", "--what"]), 2, "see `cargo ipc serve --help`");
    assert_fails(
        cargo(&["serve", "--port=x", "--check-config"]),
        2,
        "see `cargo ipc serve --help`",
    );
    assert_fails(cargo(&["man", "nothing"]), 2, "`cargo ipc --help` lists");
    assert_fails(cargo(&["bench", "--parts=1"]), 2, "`cargo ipc bench stream`");
    for arguments in [&["--help"][..], &["serve", "--help"], &["publish", "--help"]] {
        let help = output(cargo(arguments)).stdout;
        let help = String::from_utf8(help).unwrap();
        assert!(help.contains("Usage: cargo ipc ") && help.contains("\n  cargo ipc "), "{help}");
        let others = ["\n  ipc ", "| ipc ", "`ipc "].iter().filter(|other| help.contains(**other));
        assert_eq!(others.count(), 0, "{help}");
        // Alone it is as it was.
        let mut alone = ipc();
        alone.args(arguments);
        let alone = String::from_utf8(output(alone).stdout).unwrap();
        assert!(alone.contains("Usage: ipc ") && !alone.contains("cargo"), "{alone}");
    }
    // A manual and completions are for the installed program.
    for arguments in [["man", "serve"], ["completions", "bash"]] {
        let made = output(cargo(&arguments)).stdout;
        assert!(!String::from_utf8(made).unwrap().contains("cargo ipc"), "{arguments:?}");
    }
}

#[test]
fn cargo_shows_its_progress_and_the_output_stays_as_it_is() {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/.cargo/config.toml");
    let config = std::fs::read_to_string(config).unwrap();
    let alias = config.lines().find(|line| line.starts_with("ipc = ")).expect("the alias");
    assert!(alias.contains("--features cli") && !alias.contains("quiet"), "{alias}");
}
