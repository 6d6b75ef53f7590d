#!/usr/bin/env bash
# mio 1.2.5 on Linux: a Poll that watches the descriptor of another Poll (by SourceFd) is told of its events once, and
# not again while some of them are left.
#
# mio registers every source edge-triggered, and there is no other way to register one. The descriptor of an epoll
# instance is readable while events are left in it, but its edge has passed once the outer Poll has returned. With a
# capacity of 2 events in the inner Poll and 5 sockets that can be read, the outer Poll reports the inner one, the inner
# one hands out 2 events, and the outer Poll then times out although 3 are left. Somebody who embeds a mio-based library
# in a mio loop must go on polling the inner one until it hands out less than its capacity.
#
# Seen with mio 1.2.5, Linux 6.18, rustc 1.95. Output: "outer reported 1 time, inner took 2 of 5, outer then timed out,
# inner still had 3".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat > Cargo.toml <<'TOML'
[package]
name = "nested"
version = "0.0.0"
edition = "2021"

[dependencies]
mio = { version = "=1.2.5", features = ["os-poll", "os-ext", "net"] }
TOML
cat > src/main.rs <<'RUST'
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream as Blocking;
use std::time::Duration;

use mio::net::UnixStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

fn main() {
    let mut inner = Poll::new().unwrap();
    let mut outer = Poll::new().unwrap();
    let descriptor = inner.as_raw_fd();
    outer.registry().register(&mut SourceFd(&descriptor), Token(0), Interest::READABLE).unwrap();
    let mut pairs = Vec::new();
    for at in 0..5 {
        let (reader, writer) = Blocking::pair().unwrap();
        reader.set_nonblocking(true).unwrap();
        let mut reader = UnixStream::from_std(reader);
        inner.registry().register(&mut reader, Token(at), Interest::READABLE).unwrap();
        pairs.push((reader, writer));
    }
    for (_, writer) in &mut pairs {
        writer.write_all(b"x").unwrap();
    }
    let wait = Some(Duration::from_millis(500));
    let (mut events, mut two) = (Events::with_capacity(8), Events::with_capacity(2));
    outer.poll(&mut events, wait).unwrap();
    let reported = events.iter().count();
    inner.poll(&mut two, Some(Duration::ZERO)).unwrap();
    let taken = two.iter().count();
    outer.poll(&mut events, wait).unwrap();
    let again = events.iter().count();
    let mut rest = Events::with_capacity(8);
    inner.poll(&mut rest, Some(Duration::ZERO)).unwrap();
    let left = rest.iter().count();
    let then = if again == 0 { "timed out" } else { "reported it again" };
    println!("outer reported {reported} time, inner took {taken} of 5, outer then {then}, inner still had {left}");
}
RUST
output=$(cargo run --quiet)
echo "$output"
[ "$output" = 'outer reported 1 time, inner took 2 of 5, outer then timed out, inner still had 3' ]
