//! The wire format alone, without a server or a socket: messages to bytes and back.
//!
//! `cargo run --no-default-features --example frames`

use std::time::{SystemTime, UNIX_EPOCH};

use ipc_framework::proto::system::Connect;
use ipc_framework::proto::{Decoder, Encoder};
use ipc_framework::{Json, Message, MessageType};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    // A program that sends to others takes random bytes here.
    let mut encoder = Encoder::new([7; 9], 16 << 20);
    let connect = Json::from_serialize(&Connect::new("me", None))?;
    let request = Json::from_serialize(&("tea", 3))?;
    let mut stream = Vec::new();
    for message in [
        Message::new(MessageType::Request, "shop", "system", connect),
        Message::new(MessageType::Request, "shop", "price", request),
    ] {
        encoder.encode(&message, now, &mut stream)?;
    }

    // The other end reads what a network makes of it.
    let mut decoder = Decoder::new(16 << 20);
    for chunk in stream.chunks(100) {
        let mut messages = decoder.decode(chunk);
        while let Some(message) = messages.next_message() {
            match message {
                Ok(message) => println!("{}: {}", message.channel_id().raw(), message.payload()),
                Err(error) => println!("{}: {error}", error.fault.code()),
            }
        }
    }
    Ok(())
}
