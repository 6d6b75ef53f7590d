//! `ipc serve` under a service manager: the sockets it is given, the notifications it sends, and
//! the outside view of its counters.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use ipc_framework::{Config, Error, Inherited, Limits, Server, UnixSocket};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::cli::{Running, assert_fails, serve};
use crate::operation::{Manager, Tracer};
use crate::scratch::Scratch;
use crate::support::{self, HANG, Peer, eventually};

fn refused(given: Vec<Inherited>) -> String {
    let error = Server::bind_with(Config::default().host(None), given).unwrap_err();
    assert!(matches!(error, Error::Listen { .. }), "{error:?}");
    error.to_string()
}

#[test]
fn sockets_that_do_not_listen_and_those_given_twice_are_refused() {
    let scratch = Scratch::new("given");
    let tcp = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    tcp.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    let unix = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    unix.bind(&SockAddr::unix(scratch.0.join("bound.sock")).unwrap()).unwrap();
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = TcpStream::connect(listening.local_addr().unwrap()).unwrap();
    let connected = TcpListener::from(OwnedFd::from(connected));
    for given in
        [Inherited::Tcp(tcp.into()), Inherited::Unix(unix.into()), Inherited::Tcp(connected)]
    {
        let error = refused(vec![given]);
        assert!(error.contains("does not listen"), "{error}");
    }
    let again = listening.try_clone().unwrap();
    let error = refused(vec![Inherited::Tcp(listening), Inherited::Tcp(again)]);
    assert!(error.contains("twice"), "{error}");
    let listening = UnixListener::bind(scratch.0.join("listening.sock")).unwrap();
    let again = listening.try_clone().unwrap();
    let error = refused(vec![Inherited::Unix(listening), Inherited::Unix(again)]);
    assert!(error.contains("twice"), "{error}");
}

/// It does not fall back to default addresses either.
#[test]
fn a_number_of_sockets_that_is_none_is_refused() {
    for count in ["abc", "-1", "4294967296", "2147483647", "1 "] {
        let mut command = serve(&["--port", "0"]);
        command.env("LISTEN_FDS", count);
        assert_fails(command, 2, "LISTEN_FDS");
    }
    // Sockets that are meant for another process are ignored.
    let mut command = serve(&["--port", "0"]);
    command.env("LISTEN_FDS", "abc").env("LISTEN_PID", "1");
    let running = Running::start(command);
    running.terminate();
}

#[test]
fn once_it_has_said_that_it_stops_it_is_neither_ready_nor_reloading() {
    let manager = Manager::new("drain-reload");
    let running = manager.start(serve(&["--port", "0", "--demo", "--drain-timeout", "2s"]));
    manager.hear("READY=1");
    let _both = running.unanswered();
    // The drain lasts as long as that request is unanswered.
    running.signal("TERM");
    manager.hear("STOPPING=1");
    running.signal("HUP");
    let stderr = running.end_well();
    assert_eq!(manager.hear_within(Duration::from_millis(1)), None);
    assert!(!stderr.contains("read again"), "{stderr}");
}

/// Any user who can read a directory can lock it for any length of time.
#[test]
fn whoever_locks_the_directory_does_not_keep_the_server_from_starting() {
    let scratch = Scratch::new("locked");
    let directory = fs::File::open(&scratch.0).unwrap();
    directory.lock().unwrap();
    let path = scratch.socket();
    drop(UnixListener::bind(&path).unwrap());
    let unix = || Some(UnixSocket::at(&path));
    let server = support::serve(Config::default().unix(unix()), |_| {});
    let mut peer = Peer::over_unix(&path).unwrap();
    peer.connect("app", "peer");
    peer.fence();
    // A live server's socket is not taken over, even without the lock.
    Server::bind(Config::default().host(None).unix(unix())).unwrap_err();
    peer.fence();
    drop(peer);
    server.stop();
}

#[test]
fn closed_for_silence_is_counted() {
    // Each server closes one connection, so that no other connection has to be in time.
    let serve = |limits| support::serve(Config::default().limits(limits), |_| {});
    let handshake_timeout = Duration::from_millis(50);
    let server = serve(Limits::default().handshake_timeout(handshake_timeout));
    server.peer().expect_end();
    let counters = server.stats().counters;
    assert_eq!((counters.handshake_timeouts, counters.idle_closed), (1, 0));
    let idle_timeout = Some(Duration::from_millis(300));
    let server = serve(Limits::default().idle_timeout(idle_timeout));
    server.connected("app", "idle").expect_end();
    let counters = server.stats().counters;
    assert_eq!((counters.handshake_timeouts, counters.idle_closed), (0, 1));
}

#[test]
fn what_strangers_bring_about_is_in_the_log_and_in_the_metrics() {
    let arguments = ["--port", "0", "--handshake-timeout", "50ms", "--metrics", "127.0.0.1:0"];
    let running = Running::start(serve(&arguments));
    running.peer().expect_end();
    let mut lines = running.stderr_lines();
    assert!(lines.any(|line| line.contains("did not complete its handshake")));

    // The server has no descriptor for the next connection.
    let open = fs::read_dir(format!("/proc/{}/fd", running.id())).unwrap().count() as u64;
    let few = rustix::process::Rlimit { current: Some(open), maximum: Some(open) };
    let id = rustix::process::Pid::from_raw(running.id().cast_signed()).unwrap();
    rustix::process::prlimit(Some(id), rustix::process::Resource::Nofile, few).unwrap();
    let newcomers: Vec<TcpStream> =
        (0..8).map(|_| TcpStream::connect(running.address()).unwrap()).collect();
    assert!(lines.any(|line| line.contains("no descriptor was left")));
    drop((newcomers, lines));
    // There may have been no descriptor for this connection either.
    let is_whole = |text: &String| {
        text.ends_with(
            "# EOF
",
        )
    };
    let text = eventually("the metrics", || running.scrape("/metrics").ok().filter(is_whole));
    for name in ["handshake_timeouts", "idle_closed", "connections_shed"] {
        assert!(text.contains(&format!("\nipc_{name}_total ")), "{name}: {text}");
    }
    assert!(!text.contains("\nipc_handshake_timeouts_total 0"), "{text}");
    assert!(!text.contains("\nipc_connections_shed_total 0"), "{text}");
}

/// The kernel may have no memory for a socket. The connection then waits until it has some.
#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_accepted_is_in_the_log_and_accepted_later() {
    let running = Running::start(serve(&["--port", "0"]));
    let tracer = Tracer::attach(&running, "accept4", "error=ENOBUFS:when=1");
    std::thread::scope(|scope| {
        let begin = Instant::now();
        let mut lines = running.stderr_lines();
        let told = scope.spawn(move || lines.find(|line| line.contains("cannot be accepted")));
        // The first ones may be accepted before strace is attached.
        for at in 0.. {
            running.connected("app", &format!("peer-{at}")).fence();
            std::thread::sleep(Duration::from_millis(10));
            if told.is_finished() {
                break;
            }
            assert!(begin.elapsed() < HANG, "nothing was injected");
        }
        let told = told.join().unwrap().unwrap();
        assert!(told.contains("buffer space"), "{told}");
    });
    drop(tracer);
    running.terminate();
}

/// As with a panic of the loop, the server does not go on silently without the log.
#[test]
fn a_panic_of_the_thread_of_the_latency_log_ends_the_server() {
    let scratch = Scratch::new("log-panic");
    let log = scratch.0.join("latency.hlog");
    let mut command = serve(&["--port", "0", "--latency-log", log.to_str().unwrap()]);
    command.env("IPC_TEST_PANIC", "latency-log");
    let running = Running::start(command);
    let (status, stderr) = running.end();
    assert_eq!(status.signal(), Some(6), "{stderr}");
    assert!(stderr.contains("latency-log") && stderr.contains("a test wants this"), "{stderr}");
}

#[test]
fn users_are_not_told_apart_on_an_inherited_tcp_socket() {
    let scratch = Scratch::new("supervised-users");
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let access = ipc_framework::Access::default().uids([rustix::process::geteuid().as_raw()]);
    let unix = Some(UnixSocket::at(scratch.socket()));
    let config = Config::default().host(None).unix(unix).access(access);
    let Err(error) = Server::bind_with(config, vec![Inherited::Tcp(tcp)]) else {
        panic!("TCP is open to every user");
    };
    assert!(error.to_string().contains("does not keep anybody off"), "{error}");
}
