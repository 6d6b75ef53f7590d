//! The examples do what they say. Each is compiled in here, so that each is run and not only built.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipc_framework::client::{ClientOptions, Endpoint};
use ipc_framework::{Config, Server};
use serde_json::json;

use crate::support::{Peer, eventually};

#[path = "../../examples/arrays.rs"]
#[expect(dead_code, reason = "its `main` takes the default port")]
mod arrays;
#[path = "../../examples/embedded.rs"]
#[expect(dead_code, reason = "its `main` takes the default port")]
mod embedded;
#[path = "../../examples/frame_loop.rs"]
#[expect(dead_code, reason = "its `main` takes the default port")]
mod frame_loop;
#[path = "../../examples/outer_loop.rs"]
#[expect(dead_code, reason = "its `main` takes the default port")]
mod outer_loop;
#[path = "../../examples/plugins.rs"]
#[expect(dead_code, reason = "its `main` takes the default port")]
mod plugins;
#[path = "../../examples/publisher.rs"]
#[expect(dead_code, reason = "its `main` takes the default port")]
mod publisher;
#[path = "../../examples/sans_io.rs"]
#[expect(dead_code, reason = "its `main` only prints")]
mod sans_io;

#[path = "../../examples/stream.rs"]
#[expect(dead_code, reason = "its `main` takes the default port")]
mod stream;

/// Runs an example's server on a thread of its own while `use_it` talks to it, and then stops it.
/// Returns the example's own result.
fn with_server<T: Send + 'static>(
    run: impl FnOnce(Server) -> Result<T, ipc_framework::Error> + Send + 'static,
    use_it: impl FnOnce(SocketAddr),
) -> T {
    let server = Server::bind(Config::default().port(0)).unwrap();
    let port = server.addresses()[0].port().expect("TCP comes first");
    let handle = server.handle();
    let running = std::thread::spawn(move || run(server).unwrap());
    use_it((Ipv4Addr::LOCALHOST, port).into());
    handle.stop();
    running.join().unwrap()
}

fn connected(address: SocketAddr, app_id: &str) -> Peer {
    let mut peer = Peer::new(address);
    peer.connect(app_id, "peer");
    peer
}

#[test]
fn outer_loop_answers_and_ticks() {
    let run = |server| {
        outer_loop::run(server).unwrap();
        Ok(())
    };
    with_server(run, |address| {
        let mut peer = connected(address, "clock");
        assert_eq!(peer.request("ask", json!(null)), 0);
        peer.subscribe("ticks");
        let first = peer.receive()["payload"].as_u64().unwrap();
        assert_eq!(peer.receive()["payload"], first + 1);
    });
}

#[test]
fn embedded_squares_and_logs() {
    with_server(embedded::run, |address| {
        let mut listener = connected(address, "math").subscribed("log");
        let mut asking = Peer::new(address);
        asking.connect("math", "asking");
        assert_eq!(asking.request("square", json!(7)), 49.0);
        // The publication of the other thread may have come before this subscription, or after it.
        let first = listener.receive();
        let heard = if first["payload"] == "squared 7" { first } else { listener.receive() };
        assert_eq!(heard["payload"], "squared 7");
    });
}

#[test]
fn frame_loop_answers_between_frames() {
    let frames = with_server(frame_loop::run, |address| {
        let mut peer = connected(address, "game");
        for _ in 0..3 {
            assert_eq!(peer.request("where", json!("Ada")), "Ada is in the castle");
        }
    });
    assert!(frames > 0, "the program had its own work done");
}

#[test]
fn plugins_are_loaded_while_the_server_runs() {
    with_server(plugins::run, |address| {
        let mut peer = connected(address, "plugins");
        assert_eq!(peer.request("shout", json!("hello"))["code"], "no_handler");
        let refused = peer.request("load", json!("nothing"));
        assert!(refused["error"].as_str().unwrap().contains("no plugin nothing"), "{refused}");
        // Both requests are in one write.
        let load = peer.message("request", "load", &json!("shout"));
        let shout = peer.message("request", "shout", &json!("hello"));
        peer.send_all([&load, &shout]);
        assert_eq!(peer.receive()["payload"], "loaded");
        assert_eq!(peer.receive()["payload"], "HELLO");
        assert_eq!(peer.request("unload", json!("shout")), true);
        assert_eq!(peer.request("shout", json!("hello"))["code"], "no_handler");
        eventually("the handler of the other thread", || {
            (peer.request("names", json!(null)) == json!(["shout", "reverse"])).then_some(())
        });
    });
}

#[test]
fn publisher_is_heard_in_order_until_the_server_ends() {
    let published = with_server(publisher::run, |address| {
        let mut peer = connected(address, "shop").subscribed("prices");
        let first = peer.receive()["payload"].as_u64().unwrap();
        for price in first + 1..first + 50 {
            assert_eq!(peer.receive()["payload"], price);
        }
    });
    assert!(published >= 50, "{published}");
}

#[test]
fn arrays_are_summed_whatever_their_order() {
    with_server(
        |mut server: Server| server.run(),
        |address| {
            let mut options = ClientOptions::new("bench");
            options.connection.endpoint = Endpoint::tcp("127.0.0.1", address.port());
            assert_eq!(arrays::run(&options).unwrap(), [vec![5.0, 7.0, 9.0], vec![6.0, 15.0]]);
        },
    );
}

#[test]
fn stream_counts_until_its_reader_leaves() {
    let run = |mut server: Server| server.run();
    with_server(run, |address| {
        let mut options = ClientOptions::new("bench");
        options.connection.endpoint = Endpoint::tcp("127.0.0.1", address.port());
        assert_eq!(stream::run(&options).unwrap(), [1, 2, 3]);
    });
}

#[test]
fn sans_io_serves_clients_in_memory() {
    let second = Duration::from_secs(1);
    let mut driver = sans_io::Driver::new();
    let (ann, bob) = (driver.connect(), driver.connect());
    for (key, id) in [(ann, "ann"), (bob, "bob")] {
        let hello = json!({"action": "connect", "connection_id": id}).to_string();
        driver.write(key, "request", "system", &hello);
    }
    driver.write(bob, "subscribe", "log", "{}");
    driver.run(second);
    assert!(driver.read(ann)[0].contains("connected"));
    assert_eq!(driver.read(bob).len(), 1);
    // More than a turn takes of one connection.
    for x in 0..300 {
        driver.write(ann, "request", "square", &x.to_string());
    }
    driver.write(ann, "publish", "log", "\"secret\"");
    driver.run(second);
    let (answers, heard) = (driver.read(ann), driver.read(bob));
    assert_eq!((answers.len(), heard.len()), (301, 300));
    assert!(answers[7].contains("49.0") && heard[7].contains("squared 7"));
    assert!(answers[300].contains("this is not for everybody"), "{}", answers[300]);
    // Another thread asks, while the driver goes on.
    let handle = driver.broker().handle();
    let asking = std::thread::spawn(move || handle.with(|context| context.stats()));
    while !asking.is_finished() {
        driver.run(second);
    }
    assert_eq!(asking.join().unwrap().unwrap().total_connections, 2);
}
