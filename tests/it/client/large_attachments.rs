//! Attachments that are sent from where they lie, by sockets that take a part of them at a time.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use ipc_framework::client::{Client, ClientOptions, Connection, Endpoint, Error};
use ipc_framework::proto::SharedAttachment;
use ipc_framework::{Blob, Json, Owned};
use serde_json::json;
use socket2::SockRef;

use super::attachments::{BOTH, answer, body, connect, connect_alone, message, receive, welcome};
use super::scripted::{Scripted, Side, Told, losses, next};
use crate::support::{HANG, TestServer, eventually, serve_echo};

/// Bytes of which none stands where another one belongs.
fn bytes(seed: u32, length: u32) -> Vec<u8> {
    (0..length)
        .map(|at| ((at.wrapping_add(seed)).wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

/// Makes the kernel take little at a time.
fn narrow(client: &Client, side: &Side) {
    side.read_nothing_early(8 << 10);
    let socket = client.duplicate_socket().unwrap().unwrap();
    SockRef::from(&socket).set_send_buffer_size(8 << 10).unwrap();
}

/// Returns a list of bytes that have their owners.
fn pieces(datas: &[&[u8]]) -> Json<'static> {
    let shared = datas.iter().enumerate().map(|(at, data)| SharedAttachment {
        pointer: format!("/{at}"),
        dtype: None,
        shape: Vec::new(),
        data: Arc::new(data.to_vec()),
    });
    let nulls = Json::parse(format!("[{}]", vec!["null"; datas.len()].join(","))).unwrap();
    nulls.with_shared_attachments(&shared.collect::<Vec<_>>()).unwrap()
}

#[test]
fn what_a_full_socket_does_not_take_follows_from_where_it_lies_whole_and_in_order() {
    let (_script, client, mut side) = connect(BOTH);
    narrow(&client, &side);
    // A message that shares the memory in which it came.
    let news = client.subscribe("shared").unwrap();
    side.receive();
    let shared = bytes(7, 300_001);
    let meta = json!({"bin": [["/a", shared.len(), null, null]]});
    side.send_body(&body(&message("publish", "shared", json!({"a": null}), meta), &[&shared]));
    let came = news.next_timeout(HANG).unwrap();
    let small = bytes(3, 700);
    for round in 0..10_u32 {
        client.set_batching(round % 2 == 1);
        let own = bytes(round, 200_000 + 37 * round);
        client.publish("own", &Blob::new(&own)).unwrap();
        client.publish("both", &[Blob::new(&small), Blob::new(&own)]).unwrap();
        client.publish("forwarded", &came.payload).unwrap();
        if round < 2 {
            client.publish("pieces", &pieces(&[&own, b"", &small, &shared])).unwrap();
        }
        client.publish("plain", &round).unwrap();
        client.set_batching(false);
        assert!(client.waiting_bytes() > 600_000, "the kernel takes more than the test wants");
        assert!(receive(&mut side).1 == [&*own]);
        assert!(receive(&mut side).1 == [&*small, &*own]);
        assert!(receive(&mut side).1 == [&*shared]);
        if round < 2 {
            assert!(receive(&mut side).1 == [&*own, b"", &*small, &*shared]);
        }
        assert_eq!(side.receive()["payload"], round);
    }
}

#[test]
fn attachments_that_wait_count_for_the_bound_of_the_queue() {
    let script = Scripted::new();
    let mut options = script.options();
    options.queue_bytes_max = 1_000_000;
    options.connection.timeout = Duration::from_millis(50);
    let connecting = std::thread::spawn(move || options.connect().unwrap());
    let mut side = script.accept_as(&welcome(BOTH));
    let client = connecting.join().unwrap();
    narrow(&client, &side);
    let data = bytes(1, 400_000);
    let mut sent = 0;
    let error = loop {
        match client.publish("work", &Blob::new(&data)) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 20, "nothing bounds what waits");
    };
    assert!(matches!(error, Error::QueueFull { .. }), "{error}");
    assert!((1_000_000..1_500_000).contains(&client.waiting_bytes()));
    for _ in 0..sent {
        assert!(receive(&mut side).1 == [&*data]);
    }
    eventually("all to be sent", || (client.waiting_bytes() == 0).then_some(()));
}

#[test]
fn a_message_of_which_a_part_left_goes_whole_by_the_next_connection() {
    let script = Scripted::new();
    let options = script.options();
    let connecting = std::thread::spawn(move || options.connect().unwrap());
    let mut side = script.accept_as(&welcome(BOTH));
    let client = connecting.join().unwrap();
    let told = losses(&client);
    let data = bytes(9, 5_000_000);
    for read_bytes in [1, 70_000, 1_500_000] {
        narrow(&client, &side);
        client.publish("work", &Blob::new(&data)).unwrap();
        let mut part = vec![0; read_bytes];
        side.stream.read_exact(&mut part).unwrap();
        drop(side);
        assert!(matches!(next(&told), Told::Lost { unanswered: 0, waiting: 1, .. }));
        side = script.accept_as(&welcome(BOTH));
        assert_eq!(next(&told), Told::Connected);
        assert!(receive(&mut side).1 == [&*data]);
    }
    let (several, part_bytes) = ([&data[..], b"odd", &data[1..]], data.len() + 100);
    narrow(&client, &side);
    client.publish("work", &pieces(&several)).unwrap();
    side.stream.read_exact(&mut vec![0; part_bytes]).unwrap();
    drop(side);
    assert!(matches!(next(&told), Told::Lost { unanswered: 0, waiting: 1, .. }));
    side = script.accept_as(&welcome(BOTH));
    assert_eq!(next(&told), Told::Connected);
    assert!(receive(&mut side).1 == several);
    // A server without the extension cannot be sent it.
    narrow(&client, &side);
    let answered = client.request_future("work", &Blob::new(&data)).unwrap();
    drop(side);
    let mut side = script.accept_as(&json!({}));
    let refused = super::many_threads::wait(answered).unwrap_err();
    assert!(matches!(refused, Error::Unsupported { .. }), "{refused}");
    client.publish("work", &1).unwrap();
    assert_eq!(side.receive()["payload"], 1);
}

#[test]
fn after_a_part_of_an_attachment_a_connection_sends_nothing_more() {
    let script = Scripted::new();
    let mut options = script.options().connection;
    options.timeout = Duration::from_millis(50);
    let connecting = std::thread::spawn(move || options.connect().unwrap());
    let mut side = script.accept_as(&welcome(BOTH));
    let mut connection = connecting.join().unwrap();
    let data = bytes(5, 14_000_000);
    let error = connection.publish("work", &Blob::new(&data)).unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error}");
    for _ in 0..2 {
        let error = connection.publish("work", &1).unwrap_err();
        assert!(matches!(error, Error::Lost { .. }), "{error}");
    }
    drop(connection);
    let mut arrived = Vec::new();
    side.stream.read_to_end(&mut arrived).unwrap();
    let begin = arrived.windows(64).position(|window| window == &data[..64]).unwrap();
    assert!(begin < 512 && data.starts_with(&arrived[begin..]) && arrived.len() < data.len());
}

#[test]
fn a_connection_that_is_lost_in_the_middle_of_an_attachment_is_lost() {
    let (mut connection, mut side) = connect_alone(BOTH);
    side.read_nothing_early(8 << 10);
    let data = bytes(6, 14_000_000);
    let reading = std::thread::spawn(move || {
        let mut part = vec![0; 500_000];
        side.stream.read_exact(&mut part).unwrap();
    });
    let error = connection.request("work", &Blob::new(&data)).unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error}");
    reading.join().unwrap();
}

/// Both clients ask for what they sent, in sizes around those at which memory is handled differently.
pub(crate) fn echo(options: &ClientOptions) {
    let client = options.connect().unwrap();
    let mut connection = options.connection.connect().unwrap();
    for (number, length) in (0..).zip([0, 64, 16_300, 16_384, 40_000, 65_536, 1_000_000, 3_000_000])
    {
        let data = bytes(number, length);
        for _ in 0..3 {
            let asked = (number, Blob::new(&data));
            let (back, blob): (u32, Owned<Blob<'static>>) =
                client.request_as("echo", &asked).unwrap();
            assert!(back == number && **blob == *data);
            let answer = connection.request("echo", &asked).unwrap();
            let (back, blob): (u32, Blob<'_>) = answer.payload.decode_borrowed().unwrap();
            assert!(back == number && *blob == *data);
            let several = [&*data, b"1", &*data];
            let answer = connection.request("echo", &pieces(&several)).unwrap();
            assert!(answer.payload.attachments().iter().map(|one| one.data).eq(several));
            // What came is sent on.
            let again = connection.request("echo", &answer.payload).unwrap();
            assert!(again.payload == answer.payload);
        }
    }
    client.close().unwrap();
    connection.close().unwrap();
}

#[test]
fn every_size_comes_back_as_it_went() {
    let server: TestServer = serve_echo();
    let endpoint = Endpoint::tcp("127.0.0.1", server.address.port());
    echo(&super::scripted::patient("app", endpoint));
}

#[cfg(feature = "cli")]
#[test]
fn every_size_comes_back_as_it_went_over_a_unix_socket() {
    let scratch = crate::scratch::Scratch::new("client-unix-attachments");
    let path = scratch.socket();
    let _server = super::unix_socket::start(&path);
    echo(&super::unix_socket::options(&path));
}

#[test]
fn memory_of_a_message_that_is_kept_is_not_used_for_another_one() {
    let (mut connection, mut side) = connect_alone(BOTH);
    let kept = ask_numbered(&mut connection, &mut side);
    for (number, message) in (0..).zip(&kept) {
        let (_, blob): (u32, Blob<'_>) = message.decode_borrowed().unwrap();
        assert!(*blob == *bytes(number, 500_000), "{number}");
    }
}

/// Returns every second of many answers.
fn ask_numbered(connection: &mut Connection, side: &mut Side) -> Vec<Json<'static>> {
    (0..20)
        .filter_map(|number| {
            let answered = std::thread::scope(|scope| {
                let asking = scope.spawn(|| connection.request("work", &number).unwrap());
                let request = side.receive();
                let meta = json!({"bin": [["/1", 500_000, null, null]]});
                let answer = answer(&request, json!([number, null]), meta);
                side.send_body(&body(&answer, &[&bytes(number / 2, 500_000)]));
                asking.join().unwrap()
            });
            (number % 2 == 0).then_some(answered.payload)
        })
        .collect()
}
