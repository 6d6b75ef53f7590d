//! The example that the documentation shows.

use std::process::Command;

use super::nats_server::Version;
use crate::support::reserved_port;

#[test]
fn two_servers_and_a_nats_server_are_one_for_the_command_line() {
    let [nats, first, second] = [(); 3].map(|()| reserved_port().to_string());
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/two-servers.sh"))
        .env("IPC", env!("CARGO_BIN_EXE_ipc"))
        .env("NATS_SERVER", Version::Newest.program())
        .envs([("NATS_PORT", nats), ("FIRST_PORT", first), ("SECOND_PORT", second)])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert_eq!(shown, "double 21: 42\n\"from the second server\"\n", "{errors}");
}
