//! A thread of the program that publishes all the time, to a channel that is found once:
//! `cargo run --example publisher`, and then `cargo ipc subscribe prices --app shop`.

use std::time::Duration;

use ipc_framework::{Config, Error, HandleError, Publisher, Server};

fn main() -> Result<(), Error> {
    run(Server::bind(Config::default())?).map(drop)
}

/// Runs until the server is stopped and drained. Returns how many prices were published.
pub(crate) fn run(mut server: Server) -> Result<u64, Error> {
    let prices = server.handle().publisher("shop", "prices");
    let publishing = std::thread::spawn(move || publish(&prices));
    server.run()?;
    // The thread has heard of the end from its own publication.
    drop(server);
    Ok(publishing.join().unwrap_or_default())
}

fn publish(prices: &Publisher) -> u64 {
    for price in 0.. {
        match prices.publish(&price) {
            // Where more than 64 MiB wait for the loop, this price is left out.
            Ok(()) | Err(HandleError::Full) => {}
            // The server has ended.
            Err(_) => return price,
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    0
}
