//! A server inside a program: `cargo run --example embedded`.

use ipc_framework::{Config, Server};

fn main() -> Result<(), ipc_framework::Error> {
    run(Server::bind(Config::default())?)
}

pub(crate) fn run(mut server: Server) -> Result<(), ipc_framework::Error> {
    server.application("math", "Arithmetic").channel("square").on_request(|mut request| {
        let x: f64 = request.payload()?;
        request.publish("log", &format!("squared {x}"))?;
        request.reply(&(x * x))
    });
    let handle = server.handle();
    std::thread::spawn(move || {
        let _ = handle.publish("math", "log", &"published from another thread");
    });
    server.run()
}
