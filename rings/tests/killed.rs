//! Two processes, one of which is killed at any instruction, again and again: the other reads to the end, and
//! keeps no page, descriptor or mapping. `IPC_KILLS` is how often, 300 by default.

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() {
    if std::env::var_os("RINGS_PEER").is_some() { peer::main() } else { parent::main() }
}

/// How the descriptors travel.
#[cfg(target_os = "linux")]
mod passing {
    use std::io::{IoSlice, IoSliceMut};
    use std::mem::MaybeUninit;
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::net::UnixStream;

    use ipc_framework_rings::Descriptors;
    use rustix::net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    };

    pub(crate) fn send(socket: &UnixStream, descriptors: &Descriptors) {
        let Descriptors { memory, to_server, to_client } = descriptors;
        let all = [memory.as_fd(), to_server.as_fd(), to_client.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut along = SendAncillaryBuffer::new(&mut space);
        assert!(along.push(SendAncillaryMessage::ScmRights(&all)));
        sendmsg(socket, &[IoSlice::new(b"x")], &mut along, SendFlags::empty()).unwrap();
    }

    pub(crate) fn receive(socket: &UnixStream) -> Descriptors {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut along = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let mut room = [IoSliceMut::new(&mut byte)];
        recvmsg(socket, &mut room, &mut along, RecvFlags::CMSG_CLOEXEC).unwrap();
        let mut came: Vec<OwnedFd> = Vec::new();
        for message in along.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                came.extend(descriptors);
            }
        }
        let [memory, to_server, to_client] = came.try_into().expect("three descriptors");
        Descriptors { memory, to_server, to_client }
    }
}

#[cfg(target_os = "linux")]
mod peer {
    use std::io::IoSlice;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use ipc_framework_rings::{End, RING_BYTES_MIN};

    /// Sends back what comes, until it is killed or the socket ends.
    pub(crate) fn main() {
        let socket: UnixStream = std::io::stdin().as_fd().try_clone_to_owned().unwrap().into();
        let descriptors = super::passing::receive(&socket);
        let mut end = End::open(descriptors, RING_BYTES_MIN, &socket).unwrap();
        let watch = end.watch();
        let mut room = [0; 600];
        loop {
            let bytes = end.read(&mut room).unwrap();
            let mut left = &room[..bytes];
            while !left.is_empty() {
                left = &left[end.write(&[IoSlice::new(left)]).unwrap()..];
                while !left.is_empty() && !watch.has_room_again() {
                    if watch.wait(None).unwrap() {
                        return;
                    }
                }
            }
            if bytes == 0 && watch.sleep_for_bytes() && watch.wait(None).unwrap() {
                return;
            }
        }
    }
}

#[cfg(target_os = "linux")]
mod parent {
    use std::fs;
    use std::io::{ErrorKind, IoSlice, Read};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::process::{Command, Stdio};

    use ipc_framework_rings::{End, RING_BYTES_MIN};

    /// What this process holds: descriptors, and mappings of shared memory.
    fn held() -> (usize, usize) {
        let descriptors = fs::read_dir("/proc/self/fd").unwrap().count();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        (descriptors, maps.matches("ipc-framework-rings").count())
    }

    pub(crate) fn main() {
        let kills = std::env::var("IPC_KILLS").map_or(300, |kills| kills.parse().unwrap());
        let before = held();
        assert_eq!(before.1, 0);
        let mut random = 1u64;
        let mut bytes_back = 0;
        for _ in 0..kills {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            bytes_back += kill_one(random >> 33);
            assert_eq!(held(), before);
        }
        assert!(bytes_back > 0, "no peer ever came to answer");
        println!("{kills} peers were killed, {bytes_back} bytes came back");
    }

    /// Talks with a peer, and kills it in the middle. Returns how many bytes came back.
    fn kill_one(random: u64) -> usize {
        let (mut socket, other) = UnixStream::pair().unwrap();
        let (mut end, descriptors) = End::create(RING_BYTES_MIN).unwrap();
        let mut peer = Command::new(std::env::current_exe().unwrap())
            .env("RINGS_PEER", "1")
            .stdin(Stdio::from(OwnedFd::from(other)))
            .spawn()
            .unwrap();
        super::passing::send(&socket, &descriptors);
        drop(descriptors);
        let mut talk = Talk { sent: 0, back: 0 };
        // Some are killed before they have opened the memory, most while bytes go both ways.
        let enough = random as usize % 20_000;
        let looks_max = if random.is_multiple_of(8) { random as usize % 1000 } else { usize::MAX };
        for _ in 0..looks_max {
            if talk.back >= enough {
                break;
            }
            talk.on(&mut end);
            std::thread::yield_now();
        }
        peer.kill().unwrap();
        peer.wait().unwrap();
        // The socket tells of the end, and of a byte that the peer did not come to read.
        let end_of_socket = socket.read(&mut [0]).map_err(|error| error.kind());
        assert!(matches!(end_of_socket, Ok(0) | Err(ErrorKind::ConnectionReset)));
        // It reads what was written before, and no more than the ring holds.
        for _ in 0..2 * RING_BYTES_MIN {
            if !talk.read(&mut end) {
                break;
            }
        }
        assert!(!end.has_bytes() && talk.back <= talk.sent);
        talk.back
    }

    /// How many bytes went, and came back.
    struct Talk {
        sent: usize,
        back: usize,
    }

    impl Talk {
        fn on(&mut self, end: &mut End) {
            let bytes: Vec<u8> = (self.sent..self.sent + 700).map(|at| (at % 251) as u8).collect();
            self.sent += end.write(&[IoSlice::new(&bytes)]).unwrap();
            self.read(end);
        }

        /// Returns whether bytes came; they are those that were sent, in order.
        fn read(&mut self, end: &mut End) -> bool {
            let mut room = [0; 500];
            let bytes = end.read(&mut room).unwrap();
            for byte in &room[..bytes] {
                assert_eq!(usize::from(*byte), self.back % 251);
                self.back += 1;
            }
            bytes > 0
        }
    }
}
