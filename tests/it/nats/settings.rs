//! Settings of NATS that make no sense.

use crate::cli::{assert_fails, output, serve};
use crate::scratch::Scratch;

#[test]
fn what_makes_no_sense_is_refused_and_no_password_is_shown() {
    let scratch = Scratch::new("nats-settings");
    let with =
        |more: &[&str]| serve(&[&["--port", "0", "--nats", "nats://u:s3cr3t@h"], more].concat());
    assert_fails(serve(&["--port", "0", "--nats", "ws://u:s3cr3t@h"]), 2, "WebSocket");
    assert_fails(serve(&["--port", "0", "--nats", "nats://h:x"]), 2, "NATS address 1 is none");
    assert_fails(serve(&["--port", "0", "--nats-prefix", "a"]), 2, "give --nats with it");
    assert_fails(with(&["--nats-prefix", "a.b"]), 2, "letters, digits");
    assert_fails(with(&["--nats-channels", "a.>.b"]), 2, "a.>.b");
    assert_fails(with(&["--nats-queue", "5"]), 2, "too few");
    assert_fails(with(&["--nats-queue", "much"]), 2, "64KiB or 16MiB");
    assert_fails(with(&["--nats-tls-ca", "/nowhere/ca"]), 1, "check its path");
    assert_fails(with(&["--nats-tls-cert", "/nowhere/ca"]), 2, "--nats-tls-key");
    let open = scratch.file("open.creds", 0o644, "secret");
    assert_fails(with(&["--nats-creds", &open]), 1, "chmod 600");
    let empty = scratch.file("empty.creds", 0o600, "secret");
    assert_fails(with(&["--nats-creds", &empty]), 2, "nsc");
}

#[test]
fn the_check_finds_all_problems_and_the_file_has_the_same_names() {
    let scratch = Scratch::new("nats-settings-file");
    let text = "port = 0\nnats = [\"nats://h\"]\nnats-prefix = \"a b\"\nnats-queue = \"1KiB\"\n\
                nats-channels = [\">.a\"]\nnats-tls-ca = \"/nowhere/ca\"\n";
    let file = scratch.file("ipc.toml", 0o600, text);
    let checked = output(serve(&["--check-config", "--config", &file]));
    let said = String::from_utf8(checked.stderr).unwrap();
    assert_eq!(said.lines().count(), 4, "{said}");
    for wanted in ["prefix", "too few", ">.a", "/nowhere/ca"] {
        assert!(said.contains(wanted), "{said}");
    }
    let sound = scratch.file("sound.toml", 0o600, "nats = [\"nats://h\", \"tls://i:1\"]\n");
    assert!(output(serve(&["--check-config", "--config", &sound])).status.success());
}
