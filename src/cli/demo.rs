//! `ipc demo`

mod patterns;

use std::process::ExitCode;

use clap::Args;
use ipc_framework::client::{Endpoint, Options};
use ipc_framework::{Config, Server};

use super::demo_applications;
use super::failure::Failure;
use super::failure::with_exit_codes;
use super::output::{Output, Style};

/// Show every pattern with a server and clients in this process, in a few seconds.
#[derive(Args, Debug)]
#[command(after_help = with_exit_codes!("\
It needs no server, listens on a free port of localhost and leaves nothing behind.

Examples:
  ipc demo
  ipc demo --json"))]
pub(super) struct Demo {
    /// Show every step, and every latency at the end, as a JSON document of one line
    #[arg(long)]
    json: bool,
}

impl Demo {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let output = Output::new(self.json);
        let config = Config::default().host("127.0.0.1".to_owned()).port(0);
        let mut server = Server::bind(config)?;
        demo_applications::install(&mut server);
        patterns::install(&mut server);
        let port = server.addresses().iter().find_map(ipc_framework::Address::port);
        let Some(port) = port else { return Err(Failure::runtime("no port to listen on")) };
        let handle = server.handle();
        let running = std::thread::Builder::new()
            .name("server".to_owned())
            .spawn(move || server.run())
            .map_err(|error| Failure::runtime(format!("cannot start the server: {error}")))?;
        let mut options = Options::new(patterns::APP);
        options.endpoint = Endpoint::tcp("127.0.0.1", port);
        let title = format!("A server listens on 127.0.0.1:{port}; all that follows goes over it.");
        let title = if self.json { Ok(()) } else { output.line(output.paint(Style::Bold, title)) };
        let shown = title.and_then(|()| patterns::show_all(output, &options));
        handle.stop();
        let ended = running.join().unwrap_or(Ok(()));
        shown?;
        ended?;
        Ok(ExitCode::SUCCESS)
    }
}
