//! A worker that answers in parts, and a requester that leaves before the end: `cargo ipc serve --demo`
//! in one terminal, `cargo run --example stream` in another.

use std::time::Duration;

use ipc_framework::HandlerError;
use ipc_framework::client::{ClientOptions, RequestOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for number in run(&ClientOptions::new("bench"))? {
        println!("{number}");
    }
    Ok(())
}

/// Returns the first numbers of a channel that counts for ever.
pub(crate) fn run(options: &ClientOptions) -> Result<Vec<u64>, Box<dyn std::error::Error>> {
    let worker = options.connect()?;
    worker.serve_stream("count", 2, |request, parts| {
        let Ok(from) = request.payload.decode::<u64>() else {
            return Err(
                HandlerError::app("bad_input", "send a number").details(&request.payload.as_str())
            );
        };
        for n in from.. {
            parts.send(&n)?; // waits for a slow reader, and fails once it has left
        }
        Ok(())
    })?;
    let client = options.connect()?;
    let within = RequestOptions::default().timeout(Duration::from_secs(60)); // the worker learns that
    let mut numbers = Vec::new();
    for part in client.request_stream_with("count", &1, &within)? {
        numbers.push(part?.payload.decode()?);
        if numbers.len() == 3 {
            break; // cancels the request, and the handler ends
        }
    }
    let error = client.request("count", &"one").unwrap_err();
    assert_eq!(error.code(), Some("app:bad_input"));
    client.close()?;
    worker.close()?;
    Ok(numbers)
}
