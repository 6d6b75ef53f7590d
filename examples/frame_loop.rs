//! A server in a program that has sixteen milliseconds for each frame, and spares two of them:
//! `cargo run --example frame_loop`.

use std::time::{Duration, Instant};

use ipc_framework::{Budget, Config, Error, Server};

const FRAME: Duration = Duration::from_millis(16);
/// The server's part of a frame, and the most that it takes in however fast the machine is.
const BUDGET: Budget = Budget::time(Duration::from_millis(2)).and_steps(20_000);

fn main() -> Result<(), Error> {
    run(Server::bind(Config::default())?).map(drop)
}

/// Runs until the server is stopped and drained. Returns the frames that were drawn.
pub(crate) fn run(mut server: Server) -> Result<u64, Error> {
    server.application("game", "A Game").channel("where").on_request(|request| {
        let name: String = request.payload()?;
        request.reply(&format!("{name} is in the castle"))
    });
    let mut frames = 0;
    loop {
        let begin = Instant::now();
        frames += 1;
        draw(frames, &mut server);
        // The rest of the frame is waited for by the server, as long as it has nothing to do. What
        // it does not get to comes first in the next frame.
        let left = FRAME.saturating_sub(begin.elapsed());
        if !server.poll_once_within(Some(left), BUDGET)? {
            return Ok(frames);
        }
        std::thread::sleep(FRAME.saturating_sub(begin.elapsed()));
    }
}

/// The program's own work.
fn draw(frame: u64, server: &mut Server) {
    if frame.is_multiple_of(60) {
        // A number is JSON, and fits into a frame.
        let _ = server.context().publish("game", "seconds", &(frame / 60));
    }
}
