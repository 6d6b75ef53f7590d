use std::os::unix::net::UnixStream;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::Errno;

use super::*;
use crate::RING_BYTES_MIN;

/// The ends of a server and a client, and the socket between them.
struct Pair {
    server: End,
    client: End,
    server_socket: UnixStream,
    client_socket: UnixStream,
}

fn pair(ring_bytes: usize) -> Pair {
    let (server_socket, client_socket) = UnixStream::pair().unwrap();
    let (server, descriptors) = End::create(ring_bytes).unwrap();
    let client = End::open(descriptors, ring_bytes, &client_socket).unwrap();
    Pair { server, client, server_socket, client_socket }
}

fn write(end: &mut End, bytes: &[u8]) -> usize {
    end.write(&[IoSlice::new(bytes)]).unwrap()
}

fn read(end: &mut End, bytes_max: usize) -> Vec<u8> {
    let mut room = vec![0; bytes_max];
    let bytes = end.read(&mut room).unwrap();
    room.truncate(bytes);
    room
}

/// An event loop that watches as the server's does. Returns how many events came.
fn edges(watched: &OwnedFd) -> usize {
    let mut events = Vec::with_capacity(4);
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    epoll::wait(watched, rustix::buffer::spare_capacity(&mut events), Some(&zero)).unwrap()
}

fn watch_edges(watch: &Watch) -> OwnedFd {
    let watched = epoll::create(CreateFlags::CLOEXEC).unwrap();
    epoll::add(&watched, watch, EventData::new_u64(7), EventFlags::IN | EventFlags::ET).unwrap();
    watched
}

#[test]
fn what_one_side_writes_the_other_one_reads() {
    let Pair { mut server, mut client, .. } = pair(RING_BYTES_MIN);
    assert!(!server.has_bytes() && !client.has_bytes());
    let slices = [&b"one "[..], b"", b"two"].map(IoSlice::new);
    assert_eq!(client.write(&slices).unwrap(), 7);
    assert!(server.has_bytes() && !client.has_bytes());
    assert_eq!(read(&mut server, 4), b"one ");
    assert_eq!(read(&mut server, 99), b"two");
    assert_eq!(read(&mut server, 99), b"");
    assert_eq!(write(&mut server, b"back"), 4);
    assert_eq!(read(&mut client, 99), b"back");
}

#[test]
fn a_full_ring_takes_no_more_until_half_of_it_is_read() {
    let Pair { mut server, mut client, .. } = pair(RING_BYTES_MIN);
    let bytes: Vec<u8> = (0..RING_BYTES_MIN + 9).map(|at| at as u8).collect();
    assert_eq!(write(&mut client, &bytes), RING_BYTES_MIN);
    assert_eq!(client.room(), 0);
    assert!(!client.watch().is_ready());
    assert_eq!(read(&mut server, RING_BYTES_MIN / 2 - 1).len(), RING_BYTES_MIN / 2 - 1);
    assert!(!client.watch().is_ready());
    assert_eq!(read(&mut server, 1).len(), 1);
    assert!(client.watch().is_ready());
    assert_eq!(write(&mut client, &bytes[RING_BYTES_MIN..]), 9);
    assert!(!client.watch().is_ready(), "nobody waits for room any more");
    assert_eq!(read(&mut server, 2 * RING_BYTES_MIN), bytes[RING_BYTES_MIN / 2..]);
}

#[test]
fn indices_wrap() {
    let Pair { mut server, mut client, .. } = pair(1 << 20);
    let bytes: Vec<u8> = (0..(1 << 20) - 77).map(|at: u32| at.to_le_bytes()[1]).collect();
    for _ in 0..(1u64 << 32) / bytes.len() as u64 + 2 {
        assert_eq!(write(&mut client, &bytes), bytes.len());
        assert!(read(&mut server, bytes.len()) == bytes);
    }
}

#[test]
fn each_sleep_of_the_server_ends_with_one_event_and_its_descriptor_is_never_read() {
    let Pair { mut server, mut client, .. } = pair(RING_BYTES_MIN);
    let watch = server.watch();
    let watched = watch_edges(&watch);
    write(&mut client, b"awake");
    assert_eq!(edges(&watched), 0, "it was not asleep");
    assert!(!watch.sleep(), "there are bytes");
    for _ in 0..3 {
        read(&mut server, 99);
        assert!(watch.sleep());
        assert_eq!(edges(&watched), 0);
        write(&mut client, b"a");
        write(&mut client, b"b");
        assert_eq!(edges(&watched), 1);
        assert_eq!(edges(&watched), 0);
    }
    read(&mut server, 99);
    assert!(watch.sleep());
    watch.awake();
    write(&mut client, b"c");
    assert_eq!(edges(&watched), 0, "it was awake again");
}

#[test]
fn who_waits_for_room_is_woken_once_half_of_the_ring_is_empty() {
    let Pair { mut server, mut client, .. } = pair(RING_BYTES_MIN);
    let watch = server.watch();
    let watched = watch_edges(&watch);
    for _ in 0..3 {
        assert!(write(&mut server, &[1; 2 * RING_BYTES_MIN]) >= RING_BYTES_MIN / 2);
        assert!(watch.sleep());
        read(&mut client, RING_BYTES_MIN / 4);
        assert_eq!(edges(&watched), 0);
        read(&mut client, RING_BYTES_MIN / 4);
        assert_eq!(edges(&watched), 1);
        assert!(watch.is_ready() && !watch.sleep());
        read(&mut client, RING_BYTES_MIN / 4);
        assert_eq!(edges(&watched), 0);
    }
}

#[test]
fn the_client_is_woken_by_bytes_and_by_the_end_of_the_socket() {
    let Pair { mut server, mut client, server_socket, client_socket: _socket } =
        pair(RING_BYTES_MIN);
    let watch = client.watch();
    for _ in 0..3 {
        assert!(watch.sleep());
        assert!(!watch.wait(Some(Duration::ZERO)).unwrap() && !watch.is_ready());
        let writer = thread::spawn(move || {
            write(&mut server, b"x");
            server
        });
        while !watch.is_ready() {
            assert!(!watch.wait(None).unwrap());
        }
        server = writer.join().unwrap();
        assert_eq!(read(&mut client, 99), b"x");
    }
    drop(server_socket);
    assert!(watch.wait(None).unwrap());
}

#[test]
fn a_client_has_no_eventfd_that_the_server_writes() {
    let (_server, descriptors) = End::create(RING_BYTES_MIN).unwrap();
    assert_eq!(rustix::io::write(&descriptors.to_client, &1u64.to_ne_bytes()), Err(Errno::INVAL));
    let mut descriptor = [PollFd::new(&descriptors.to_client, PollFlags::IN)];
    assert_eq!(poll(&mut descriptor, Some(&Timespec::default())).unwrap(), 0);
}

#[test]
fn memory_that_can_be_taken_away_is_refused() {
    let (socket, _peer) = UnixStream::pair().unwrap();
    let bytes = End::memory_bytes(RING_BYTES_MIN);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    let open = |memory: OwnedFd| {
        let (_, mut descriptors) = End::create(RING_BYTES_MIN).unwrap();
        descriptors.memory = memory;
        End::open(descriptors, RING_BYTES_MIN, &socket).map(drop).map_err(|error| error.kind())
    };
    let sealed = |bytes: usize, seals| {
        let memory = memfd_create("memory", flags).unwrap();
        ftruncate(&memory, bytes as u64).unwrap();
        fcntl_add_seals(&memory, seals).unwrap();
        memory
    };
    assert_eq!(open(sealed(bytes, all)), Ok(()));
    for missing in [SealFlags::SHRINK, SealFlags::GROW, SealFlags::SEAL] {
        assert_eq!(open(sealed(bytes, all - missing)), Err(ErrorKind::InvalidData));
    }
    assert_eq!(open(sealed(bytes + 1, all)), Err(ErrorKind::InvalidData));
    assert_eq!(open(sealed(bytes - 1, all)), Err(ErrorKind::InvalidData));
    assert_eq!(open(sealed(bytes, all | SealFlags::WRITE)), Err(ErrorKind::PermissionDenied));
    assert_eq!(open(UnixStream::pair().unwrap().0.into()), Err(ErrorKind::InvalidData));
}

#[test]
fn what_the_server_sends_cannot_be_taken_away() {
    let (_server, Descriptors { memory, .. }) = End::create(RING_BYTES_MIN).unwrap();
    let bytes = End::memory_bytes(RING_BYTES_MIN) as u64;
    for other in [0, bytes - 1, bytes + 1] {
        assert_eq!(ftruncate(&memory, other), Err(Errno::PERM));
    }
    assert_eq!(fcntl_add_seals(&memory, SealFlags::WRITE), Err(Errno::PERM));
}

#[test]
fn rings_of_another_size_are_refused() {
    for bytes in [0, 1, RING_BYTES_MIN / 2, RING_BYTES_MIN + 1, 3 << 20, 512 << 20, usize::MAX] {
        assert_eq!(End::create(bytes).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
