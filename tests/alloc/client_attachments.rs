//! A client copies the bytes of an attachment once on their way out, and not at all on their way in.

use allocation_counter::{AllocationInfo, measure};
use ipc_framework::client::{Connection, Endpoint, Options};
use ipc_framework::{Blob, Config, Server};

const ROUNDS: u64 = 10;
/// Enough for the JSON, the list of attachments and the strings of a message.
const AROUND_BYTES: u64 = 8 << 10;

/// Measures requests with this many bytes, which come back.
fn requests(connection: &mut Connection, bytes: usize) -> AllocationInfo {
    let data = vec![7; bytes];
    let mut ask = || {
        let answer = connection.request("echo", &Blob::new(&data)).unwrap();
        assert!(answer.payload.attachments().get("").unwrap().data == data);
    };
    ask();
    ask();
    measure(|| (0..ROUNDS).for_each(|_| ask()))
}

#[test]
fn an_attachment_takes_as_much_memory_as_it_has_bytes_and_comes_into_memory_used_before() {
    let mut server = Server::bind(Config::default().port(0)).unwrap();
    server.application("app", "The App").channel("echo").on_request(|request| {
        let payload = request.json();
        request.reply_json(&payload)
    });
    let port = server.addresses()[0].port().unwrap();
    let handle = server.handle();
    let running = std::thread::spawn(move || server.run());
    let mut options = Options::new("app");
    options.endpoint = Endpoint::tcp("localhost", port);
    let mut connection = options.connect().unwrap();
    let mut counts = Vec::new();
    for bytes in [100_000, 500_000, 1 << 20] {
        let info = requests(&mut connection, bytes);
        assert!(info.bytes_total <= ROUNDS * (bytes as u64 + AROUND_BYTES), "{bytes}: {info:?}");
        counts.push(info.count_total);
    }
    assert!(counts.iter().all(|count| *count == counts[0]), "{counts:?}");

    // What came is sent on from where it lies.
    let answer = connection.request("echo", &Blob::new(vec![7; 1 << 20])).unwrap();
    let info = measure(|| connection.publish("news", &answer.payload).unwrap());
    assert!(info.bytes_total <= AROUND_BYTES, "{info:?}");
    connection.close().unwrap();
    handle.stop();
    running.join().unwrap().unwrap();
}
