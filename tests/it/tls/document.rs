//! The commands of `docs/guide/tls.md` work as they are written.

use std::fs;
use std::process::Command;

use crate::cli::{Running, assert_fails, ipc};
use crate::scratch::Scratch;

/// Returns the shell blocks of the page.
fn blocks() -> Vec<String> {
    let page = fs::read_to_string("docs/guide/tls.md").unwrap();
    let block = |text: &str| text.split("```").next().unwrap().to_owned();
    page.split("```sh\n").skip(1).map(block).collect()
}

#[test]
fn its_authority_its_server_and_its_client_fit_together() {
    let scratch = Scratch::new("document");
    let directory = &scratch.0;
    let blocks = blocks();
    let made = Command::new("sh").args(["-ec", &blocks[0]]).current_dir(directory).output();
    let made = made.expect("a shell");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let commands: Vec<Command> = blocks[1]
        .lines()
        .map(|line| {
            let mut command = ipc();
            command.args(line.strip_prefix("ipc ").unwrap().split(' '));
            command.current_dir(directory);
            command
        })
        .collect();
    let [mut server, mut request] = <[Command; 2]>::try_from(commands).unwrap();
    server.args(["--port", "0"]);
    let running = Running::start(server);
    let port = running.address().port().to_string();
    let output = request.env("IPC_PORT", &port).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n", "{stderr}");
    let mut without = ipc();
    without.args(["ping", "--port", &port, "--tls-ca", "ca.pem"]).current_dir(directory);
    assert_fails(without, 3, "asks for a certificate");
}
