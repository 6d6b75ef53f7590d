//! The time there and back between two processors: rings that spin and that sleep, beside a Unix socket.
//!
//! ```sh
//! cargo run --release -p ipc-framework-rings --example echo
//! ```

use std::io;

#[cfg(not(target_os = "linux"))]
fn main() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(target_os = "linux")]
fn main() -> io::Result<()> {
    println!("there and back, microseconds (each of {} rounds)", linux::ROUNDS);
    for bytes in [128, 300, 4096, 1 << 20] {
        linux::show("rings, spinning", bytes, &linux::rings(bytes, true)?);
        linux::show("rings, sleeping", bytes, &linux::rings(bytes, false)?);
        linux::show("Unix socket", bytes, &linux::socket(bytes)?);
    }
    Ok(())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io::{self, IoSlice, Read, Write};
    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::{Duration, Instant};

    use ipc_framework_rings::{End, RING_BYTES_DEFAULT};
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::thread::{CpuSet, sched_setaffinity};

    pub(crate) const ROUNDS: usize = 3;

    fn pin(processor: usize) {
        let mut set = CpuSet::new();
        set.set(processor);
        // On a machine with one processor both are on it.
        let _ = sched_setaffinity(None, &set);
    }

    fn trips(bytes: usize) -> usize {
        if bytes > 100_000 { 200 } else { 5_000 }
    }

    /// Returns the medians of some rounds of trips.
    fn measure(bytes: usize, mut trip: impl FnMut()) -> Vec<Duration> {
        let round = || {
            let mut took: Vec<Duration> = (0..trips(bytes))
                .map(|_| {
                    let begin = Instant::now();
                    trip();
                    begin.elapsed()
                })
                .collect();
            took.sort_unstable();
            took[took.len() / 2]
        };
        std::iter::repeat_with(round).take(ROUNDS).collect()
    }

    pub(crate) fn show(name: &str, bytes: usize, medians: &[Duration]) {
        let medians: Vec<String> =
            medians.iter().map(|median| format!("{:8.2}", median.as_secs_f64() * 1e6)).collect();
        println!("{name:16} {bytes:8} bytes {}", medians.join(" "));
    }

    /// Waits until there is something to do.
    fn rest(end: &End, spins: bool) {
        let watch = end.watch();
        if spins {
            std::hint::spin_loop();
        } else if watch.sleep() {
            // At the server's end, which is an eventfd, as an event loop does that is not by edge.
            match watch.wait(None) {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    let mut descriptor = [PollFd::new(&watch, PollFlags::IN)];
                    poll(&mut descriptor, None).expect("it can be waited for");
                    rustix::io::read(&watch, &mut [0; 8]).expect("it has a count");
                }
                woken => assert!(!woken.expect("it can be waited for"), "the socket has ended"),
            }
        }
    }

    fn send(end: &mut End, mut bytes: &[u8], mut back: &mut [u8], spins: bool) {
        while !bytes.is_empty() || !back.is_empty() {
            let written = end.write(&[IoSlice::new(bytes)]).expect("nobody breaks it");
            bytes = &bytes[written..];
            let read = end.read(back).expect("nobody breaks it");
            back = &mut back[read..];
            if written + read == 0 {
                rest(end, spins);
            }
        }
    }

    pub(crate) fn rings(bytes: usize, spins: bool) -> io::Result<Vec<Duration>> {
        let (ours, theirs) = UnixStream::pair()?;
        let (mut server, descriptors) = End::create(RING_BYTES_DEFAULT)?;
        let mut client = End::open(descriptors, RING_BYTES_DEFAULT, &theirs)?;
        let echo = thread::spawn(move || {
            pin(1);
            let mut room = vec![0; 64 << 10];
            let mut left = ROUNDS * trips(bytes) * bytes;
            while left > 0 {
                let read = server.read(&mut room).expect("nobody breaks it");
                if read == 0 {
                    rest(&server, spins);
                }
                left -= read;
                let mut rest_of_it = &room[..read];
                while !rest_of_it.is_empty() {
                    let slices = [IoSlice::new(rest_of_it)];
                    rest_of_it = &rest_of_it[server.write(&slices).expect("nobody breaks it")..];
                }
            }
        });
        pin(0);
        let (message, mut back) = (vec![1; bytes], vec![0; bytes]);
        let medians = measure(bytes, || send(&mut client, &message, &mut back, spins));
        echo.join().expect("it ends");
        drop(ours);
        Ok(medians)
    }

    pub(crate) fn socket(bytes: usize) -> io::Result<Vec<Duration>> {
        let (mut ours, mut theirs) = UnixStream::pair()?;
        let echo = thread::spawn(move || {
            pin(1);
            let mut room = vec![0; 64 << 10];
            loop {
                match theirs.read(&mut room).expect("it is open") {
                    0 => break,
                    read => theirs.write_all(&room[..read]).expect("it is open"),
                }
            }
        });
        pin(0);
        let (message, mut back) = (vec![1; bytes], vec![0; bytes]);
        let mut reader = ours.try_clone()?;
        let medians = measure(bytes, || {
            thread::scope(|scope| {
                // A large message fills both directions, so it is read meanwhile.
                if bytes > 100_000 {
                    scope.spawn(|| ours.write_all(&message).expect("it is open"));
                } else {
                    ours.write_all(&message).expect("it is open");
                }
                reader.read_exact(&mut back).expect("it is open");
            });
        });
        ours.shutdown(std::net::Shutdown::Both)?;
        echo.join().expect("it ends");
        Ok(medians)
    }
}
