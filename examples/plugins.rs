//! Handlers that come and go while the server runs: `cargo run --example plugins`, and then
//! `cargo ipc request load '"shout"' --app plugins`, `cargo ipc request shout '"hello"' --app plugins`.

use ipc_framework::{Config, Error, HandlerError, Server};

type Plugin = fn(&str) -> String;

const PLUGINS: [(&str, Plugin); 2] =
    [("shout", |text| text.to_uppercase()), ("reverse", |text| text.chars().rev().collect())];

fn main() -> Result<(), Error> {
    run(Server::bind(Config::default())?)
}

pub(crate) fn run(mut server: Server) -> Result<(), Error> {
    let mut app = server.application("plugins", "Plugins");
    // A handler may set another one, which gets the very next message.
    app.channel("load").on_request(|mut request| {
        let name: String = request.payload()?;
        let Some((name, plugin)) = PLUGINS.iter().find(|(known, _)| *known == name) else {
            return Err(HandlerError::new(format!("there is no plugin {name}")));
        };
        let mut app = request.context().application("plugins", "Plugins");
        app.channel(name).on_request(|request| {
            let text: String = request.payload()?;
            request.reply(&plugin(&text))
        });
        request.reply(&"loaded")
    });
    app.channel("unload").on_request(|mut request| {
        let name: String = request.payload()?;
        let was_loaded = request.context().remove_channel("plugins", &name);
        request.reply(&was_loaded)
    });
    // So may any other thread, which does not wait for it.
    let handle = server.handle();
    std::thread::spawn(move || {
        handle.post(|context| {
            let mut app = context.application("plugins", "Plugins");
            app.channel("names").on_request(|request| {
                let names: Vec<&str> = PLUGINS.iter().map(|(name, _)| *name).collect();
                request.reply(&names)
            });
        })
    });
    server.run()
}
