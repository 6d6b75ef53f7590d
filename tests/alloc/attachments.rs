//! A message with attachments allocates as often, and as little, whatever their size.

use allocation_counter::AllocationInfo;
use ipc_framework::broker::{ConnectionKey, Limits};

use super::memory::Memory;
use super::{ID, allocations_of, contains, frame};

const SIZES_BYTES: [usize; 4] = [64, 4 << 10, 100 << 10, 1 << 20];
const SUBSCRIBERS: usize = 50;
const ROUNDS: usize = 20;
const BINARY: &str = r#","extensions":["binary"]"#;

fn body(json: &str, attachment: &[u8]) -> Vec<u8> {
    let mut body = (json.len() as u32).to_be_bytes().to_vec();
    body.extend_from_slice(json.as_bytes());
    body.resize(body.len().next_multiple_of(64), 0);
    body.extend_from_slice(attachment);
    body.resize(body.len().next_multiple_of(64), 0);
    body
}

/// A frame whose payload is one attachment of this many bytes.
fn attached(message_type: &str, channel_id: &str, bytes: usize, reply_to: &str) -> Vec<u8> {
    let json = format!(
        "{{\"message_id\":\"{ID}\",\"app_id\":\"app\",\"channel_id\":\"{channel_id}\",\
         \"message_type\":\"{message_type}\",\"payload\":null,\"timestamp\":0,\
         \"reply_to\":{reply_to},\"meta\":{{\"bin\":[[\"\",{bytes},\"u8\",[{bytes}]]]}}}}"
    );
    let body = body(&json, &vec![7; bytes]);
    let mut frame = (body.len() as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(&body);
    frame
}

/// Returns subscribers of the channel `news` with these members in the payload of connect.
fn subscribers(memory: &mut Memory, members: &str) -> Vec<ConnectionKey> {
    let subscribed = |at| {
        let key = memory.connected_with(&format!("subscriber-{at}"), members);
        memory.receive(key, &frame("subscribe", "news", "{}", "null"));
        key
    };
    (0..SUBSCRIBERS).map(subscribed).collect()
}

/// Every size has at most `count_max` allocations a round and `bytes_max` bytes of them at once. A frame
/// that takes a queue over its high-water mark arms a timer, and may have `congested_max` more.
fn assert_constant(
    count_max: usize,
    congested_max: usize,
    bytes_max: u64,
    mut count_for: impl FnMut(usize) -> AllocationInfo,
) {
    for bytes in SIZES_BYTES {
        let info = count_for(bytes);
        let over_the_mark = bytes >= Limits::default().queue_high_water_bytes;
        let allowed = count_max + if over_the_mark { congested_max } else { 0 };
        assert!(info.count_total <= (allowed * ROUNDS) as u64, "{bytes} bytes: {info:?}");
        assert!(info.bytes_max <= bytes_max, "{bytes} bytes: {info:?}");
    }
}

#[test]
fn a_publication_is_shared_whatever_its_size() {
    assert_constant(1, SUBSCRIBERS + 16, 4 << 10, |bytes| {
        let mut memory = Memory::new();
        let publisher = memory.connected_with("publisher", BINARY);
        let subscribers = subscribers(&mut memory, BINARY);
        let publication = attached("publish", "news", bytes, "null");
        allocations_of(ROUNDS, || {
            memory.receive(publisher, &publication);
            for key in &subscribers {
                assert!(memory.sent[key.index()] == publication);
            }
        })
    });
}

#[test]
fn the_form_for_subscribers_of_json_alone_is_made_once() {
    assert_constant(4, SUBSCRIBERS + 16, 4 << 10, |bytes| {
        let mut memory = Memory::new();
        let publisher = memory.connected_with("publisher", BINARY);
        let subscribers = subscribers(&mut memory, "");
        let publication = attached("publish", "news", bytes, "null");
        allocations_of(ROUNDS, || {
            memory.receive(publisher, &publication);
            for key in &subscribers {
                assert!(contains(&memory.sent[key.index()][..250], b"$base64"));
            }
        })
    });
}

#[test]
fn a_request_is_forwarded_and_answered() {
    assert_constant(10, 2, 1 << 10, |bytes| {
        let mut memory = Memory::new();
        let worker = memory.connected_with("worker", BINARY);
        let serve = r#"{"action":"serve","channel":"work"}"#;
        memory.receive(worker, &frame("request", "system", serve, "null"));
        let requester = memory.connected_with("requester", BINARY);
        let request = attached("request", "work", bytes, "null");
        let mut answer = attached("response", "work", bytes, &format!("\"{ID}\""));
        let reply_to = format!(r#""reply_to":"{ID}""#);
        let reply_to = answer.windows(reply_to.len()).position(|at| at == reply_to.as_bytes());
        let reply_to_at = reply_to.unwrap() + r#""reply_to":""#.len();
        let start = br#"....jjjj{"message_id":""#.len();
        allocations_of(ROUNDS, || {
            memory.receive(requester, &request);
            let task = &memory.sent[worker.index()];
            answer[reply_to_at..][..ID.len()].copy_from_slice(&task[start..][..ID.len()]);
            memory.receive(worker, &answer);
            assert!(memory.sent[requester.index()].len() >= bytes);
        })
    });
}
