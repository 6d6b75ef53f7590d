//! The users and groups that may connect to a Unix socket.

use std::process::{Command, Output};

use ipc_framework::{Access, Config, Error, Server, Token, UnixSocket};

use crate::scratch::Scratch;
use crate::support::{Peer, TestServer, code, install_echo, serve};

/// Starts a server with a Unix socket that every user can reach, and a token on TCP.
fn serve_users(scratch: &Scratch, uids: &[u32], gids: &[u32]) -> TestServer {
    let token = Some(Token::new("secret"));
    let access = Access::default().token(token).uids(uids).gids(gids);
    let unix = Some(UnixSocket::at(scratch.socket()).mode(0o666));
    serve(Config::default().unix(unix).access(access), install_echo)
}

fn own() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

fn assert_admitted(peer: Peer) {
    let answer = peer.called("app", "me").introduce(Some("secret")).unwrap();
    assert_eq!(answer["payload"]["status"], "connected");
}

#[test]
fn who_is_on_neither_list_is_told_so_before_it_says_anything() {
    let (uid, gid) = own();
    let scratch = Scratch::new("users-lists");
    for (uids, gids, admitted) in [
        (&[uid][..], &[][..], true),
        (&[uid + 1], &[gid], true),
        (&[uid + 1], &[], false),
        (&[], &[gid + 1], false),
        (&[uid + 1], &[gid + 1], false),
    ] {
        let server = serve_users(&scratch, uids, gids);
        let mut peer = Peer::over_unix(&scratch.socket()).unwrap();
        if admitted {
            assert_admitted(peer);
        } else {
            peer.expect_closed("auth_failed");
            assert_eq!(server.stats().counters.errors["auth_failed"], 1);
        }
        // The lists do not concern TCP, where the server asks for a token.
        assert_admitted(server.peer());
    }
}

#[test]
fn a_token_is_asked_of_those_on_the_list_too() {
    let scratch = Scratch::new("users-token");
    let server = serve_users(&scratch, &[own().0], &[]);
    let mut peer = Peer::over_unix(&scratch.socket()).unwrap().called("app", "me");
    assert_eq!(code(&peer.introduce(Some("guess")).unwrap()), "auth_failed");
    drop(server);
}

#[test]
fn those_who_are_turned_away_take_no_place_and_are_bounded() {
    let scratch = Scratch::new("users-many");
    let server = serve_users(&scratch, &[own().0 + 1], &[]);
    // The server tells only so many at a time, and just closes the others.
    let peers: Vec<Peer> = (0..200).map(|_| Peer::over_unix(&scratch.socket()).unwrap()).collect();
    let mut told = 0;
    for mut peer in peers {
        told += usize::from(peer.try_receive().is_ok());
    }
    assert!((1..=200).contains(&told));
    server.wait_until("nobody", |stats| stats.counters.accepted == 200);
    assert_admitted(server.peer());
}

const NOBODY: u32 = 65_534;

/// Connects as a different user, where the test may become one.
#[test]
fn another_user_is_another_user() {
    if own().0 != 0 {
        println!("only root can become somebody else; the lists are tested by the others");
        return;
    }
    let scratch = Scratch::new("users-nobody");
    let script = r#"
import socket, struct, sys
stream = socket.socket(socket.AF_UNIX)
stream.connect(sys.argv[1])
body = b'{"message_id":"1","app_id":"app","channel_id":"system","message_type":"request",' \
    b'"payload":{"action":"connect","connection_id":"me","token":"secret"},"timestamp":1}'
try:
    stream.sendall(struct.pack("!I", len(body)) + body)
except BrokenPipeError:
    pass
print(stream.recv(4096))
"#;
    let as_nobody = || {
        let output = Command::new("setpriv")
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .args(["/usr/bin/python3", "-c", script])
            .arg(scratch.socket())
            .output()
            .expect("setpriv and python3");
        let Output { stdout, stderr, .. } = output;
        format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr))
    };
    for (uids, gids, says) in [
        (&[0][..], &[][..], "auth_failed"),
        (&[0, NOBODY], &[], "connected"),
        (&[0], &[NOBODY], "connected"),
    ] {
        let _server = serve_users(&scratch, uids, gids);
        let said = as_nobody();
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn lists_without_a_socket_that_knows_users_are_refused() {
    let access = |default| Access::default().token(default).uids(vec![1]);
    let scratch = Scratch::new("users-config");
    let unix = Some(UnixSocket::at(scratch.socket()));
    let refused = |config: Config| {
        let problems = config.problems();
        assert!(matches!(problems[..], [Error::Config(_)]), "{problems:?}");
        Server::bind(config).unwrap_err().to_string()
    };
    let config = Config::default().port(0).access(access(None));
    assert!(refused(config.clone()).contains("only be told apart on a Unix socket"));
    // The TCP port would still be open to every user.
    let config = config.unix(unix);
    assert!(refused(config.clone()).contains("TCP port"));
    for config in [
        config.clone().host(None),
        config.clone().access(access(Some(Token::new("secret")))),
        config.insecure(true),
    ] {
        assert!(config.problems().is_empty());
        Server::bind(config).unwrap();
    }
}

/// A user namespace maps only some users. All others look the same inside it.
#[test]
#[cfg(feature = "cli")]
fn a_list_of_users_that_cannot_be_told_apart_is_refused() {
    let unshared = |arguments: &[&str]| {
        let program = crate::cli::serve(arguments);
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user"]).arg(program.get_program());
        command.args(program.get_args()).env_remove("IPC_TOKEN").env("NO_COLOR", "1");
        command
    };
    let allowed = Command::new("unshare").args(["--user", "true"]).status();
    if !allowed.is_ok_and(|status| status.success()) {
        println!("no namespaces can be made here; what they map is tested beside the code");
        return;
    }
    let scratch = Scratch::new("users-namespace");
    let socket = scratch.socket();
    let socket = socket.to_str().unwrap();
    for (list, says) in [
        (["--allow-uid", "1000"], "the user 1000"),
        (["--allow-uid", "65534"], "the user 65534"),
        (["--allow-gid", "100"], "the group 100"),
    ] {
        let arguments = [&["--no-tcp", "--unix", socket], &list[..]].concat();
        crate::cli::assert_fails(unshared(&arguments), 2, says);
        crate::cli::assert_fails(
            unshared(&[&["--check-config"], &arguments[..]].concat()),
            2,
            says,
        );
    }
    // The check cannot know a socket that is passed, but the result is the same.
    let checked = unshared(&["--check-config", "--allow-uid", "1000"]);
    crate::cli::assert_fails(checked, 2, "the user 1000");
    let arguments = ["--no-tcp", "--unix", socket, "--allow-uid", "0"];
    let _running = crate::cli::Running::start(unshared(&arguments));
    let mut peer = Peer::over_unix(&scratch.socket()).unwrap();
    peer.connect("app", "its root is who started it");
}
