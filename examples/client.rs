//! A client that serves a channel, asks itself, and hears what it publishes: `cargo ipc serve --demo`
//! in one terminal, `cargo run --example client` in another.

use ipc_framework::client::{ClientOptions, Event};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = ClientOptions::new("bench").connect()?;
    client.on_event(|event| {
        if let Event::Disconnected { unconfirmed, .. } = event {
            eprintln!("at most {unconfirmed} publications are lost");
        }
    });
    client.serve("fourth", 2, |request| {
        let x: f64 = request.payload.decode()?;
        Ok(x.powi(4))
    })?;
    let answer: f64 = client.request_as("fourth", &7)?;
    println!("{answer}");
    let news = client.subscribe("news")?;
    client.publish("news", "it works")?;
    println!("{}", news.take(1).map(|message| message.payload).next().unwrap());
    Ok(client.close()?)
}
