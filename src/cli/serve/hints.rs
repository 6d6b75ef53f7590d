//! The lines with which a server greets whoever started it: where it listens, and how the first
//! request reaches it from a shell, from Python and from Node.js.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use ipc_framework::Address;

use super::settings::Settings;
use crate::cli::program::program;

/// The application that the hints join, in which `--demo` answers `echo`. It is also the default of
/// the other subcommands.
const APP: &str = "bench";
const PORT: u16 = 8888;
/// Stands for what the server has no file of, or must not show.
const TOKEN: &str = "TOKEN";
const CA: &str = "CA.pem";
const CLIENT: [&str; 2] = ["CLIENT.pem", "CLIENT.key"];

/// The facts that the hints depend on.
pub(super) struct Hints<'a> {
    pub(super) addresses: &'a [Address],
    pub(super) metrics: Option<&'a str>,
    pub(super) settings: &'a Settings,
    /// Applications without a token of their own need one.
    pub(super) default_token: bool,
}

impl fmt::Display for Hints<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for address in self.addresses {
            writeln!(f, "listening on {address}")?;
        }
        if let Some(address) = self.metrics {
            writeln!(f, "metrics at http://{address}/metrics")?;
            writeln!(f, "status page at http://{address}/")?;
        }
        if let Some(door) = self.door() {
            self.try_it(f, &door)?;
        }
        writeln!(f, "stop with Ctrl-C")
    }
}

/// The address that a client of the hints connects to.
enum Door<'a> {
    Tcp { host: Option<Cow<'a, str>>, port: u16 },
    Unix(Cow<'a, str>),
}

/// The token that a client of the hints needs.
enum Secret<'a> {
    None,
    File(Cow<'a, str>),
    /// It is in the settings file, or in the environment of the server.
    Elsewhere,
}

impl Hints<'_> {
    fn door(&self) -> Option<Door<'_>> {
        if let Some(tcp) = self.addresses.iter().find_map(Address::tcp) {
            let named = self.settings.host.as_deref().filter(|host| *host != "localhost");
            let host = match named {
                // A wildcard is no address to connect to. Those of localhost are among it.
                _ if tcp.ip().is_unspecified() => None,
                Some(host) => Some(host.into()),
                None if tcp.ip().is_loopback() => None,
                None => Some(tcp.ip().to_string().into()),
            };
            return Some(Door::Tcp { host, port: tcp.port() });
        }
        self.addresses.iter().find_map(|address| match address {
            Address::Unix(path) => Some(Door::Unix(path.to_string_lossy())),
            _ => None,
        })
    }

    fn secret(&self) -> Secret<'_> {
        match &self.settings.token_file {
            _ if self.settings.tokens.contains_key(APP) => Secret::Elsewhere,
            Some(path) => Secret::File(path.to_string_lossy()),
            None if self.default_token => Secret::Elsewhere,
            None => Secret::None,
        }
    }

    /// Returns the server's certificate, if the client of the hints has to speak TLS.
    fn certificate(&self, door: &Door<'_>) -> Option<&Path> {
        self.settings.tls_cert.as_deref().filter(|_| matches!(door, Door::Tcp { .. }))
    }

    fn try_it(&self, f: &mut fmt::Formatter<'_>, door: &Door<'_>) -> fmt::Result {
        let secret = self.secret();
        let certificate = self.certificate(door);
        let is_mutual = self.settings.tls_client_ca.is_some();
        write!(f, "try: ")?;
        if matches!(secret, Secret::Elsewhere) {
            write!(f, "IPC_TOKEN={TOKEN} ")?;
        }
        let action = if self.settings.is_demo() {
            r#"request echo '{"hello": "world"}'"#
        } else {
            "ping --count 1"
        };
        write!(f, "{} {action}", program())?;
        match door {
            Door::Unix(path) => write!(f, " --unix {}", for_shell(path))?,
            Door::Tcp { host, port } => {
                if let Some(host) = host {
                    write!(f, " --host {}", for_shell(host))?;
                }
                if *port != PORT {
                    write!(f, " --port {port}")?;
                }
            }
        }
        if let Secret::File(path) = &secret {
            write!(f, " --token-file {}", for_shell(path))?;
        }
        if certificate.is_some() {
            write!(f, " --tls-ca {CA}")?;
            if is_mutual {
                write!(f, " --tls-cert {} --tls-key {}", CLIENT[0], CLIENT[1])?;
            }
        }
        writeln!(f)?;
        let python = python(door, &secret, certificate.is_some(), is_mutual);
        writeln!(f, "from Python, with the package ipc-framework-rs: {python}")?;
        let node = node(door, &secret, certificate.is_some(), is_mutual);
        writeln!(f, "from Node.js, with the package ipc-framework of this project: {node}")?;
        if let Some(certificate) = certificate {
            let certificate = certificate.display();
            writeln!(f, "{CA} is the authority that has signed {certificate}")?;
        }
        Ok(())
    }
}

fn python(door: &Door<'_>, secret: &Secret<'_>, is_tls: bool, is_mutual: bool) -> String {
    let mut arguments = vec![quoted(APP)];
    match door {
        Door::Unix(path) => arguments.push(format!("unix={}", quoted(path))),
        Door::Tcp { host, port } => {
            arguments.extend(host.as_ref().map(|host| format!("host={}", quoted(host))));
            arguments.extend((*port != PORT).then(|| format!("port={port}")));
        }
    }
    match secret {
        Secret::None => {}
        Secret::File(path) => {
            arguments.push(format!("token=open({}).read().strip()", quoted(path)));
        }
        Secret::Elsewhere => arguments.push(format!("token={}", quoted(TOKEN))),
    }
    let [cert, key] = CLIENT.map(quoted);
    match (is_tls, is_mutual) {
        (false, _) => {}
        (true, false) => arguments.push(format!("tls=Tls(ca={})", quoted(CA))),
        (true, true) => {
            arguments.push(format!("tls=Tls(ca={}, cert={cert}, key={key})", quoted(CA)));
        }
    }
    format!("FrameworkClient({})", arguments.join(", "))
}

fn node(door: &Door<'_>, secret: &Secret<'_>, is_tls: bool, is_mutual: bool) -> String {
    let mut options = Vec::new();
    match door {
        Door::Unix(path) => options.push(format!("path: {}", quoted(path))),
        Door::Tcp { host, port } => {
            options.extend(host.as_ref().map(|host| format!("host: {}", quoted(host))));
            options.extend((*port != PORT).then(|| format!("port: {port}")));
        }
    }
    let file = |path: &str| format!("fs.readFileSync({})", quoted(path));
    match secret {
        Secret::None => {}
        Secret::File(path) => {
            options.push(format!("token: fs.readFileSync({}, 'utf8').trim()", quoted(path)));
        }
        Secret::Elsewhere => options.push(format!("token: {}", quoted(TOKEN))),
    }
    let [cert, key] = CLIENT.map(file);
    match (is_tls, is_mutual) {
        (false, _) => {}
        (true, false) => options.push(format!("tls: {{ ca: {} }}", file(CA))),
        (true, true) => {
            options.push(format!("tls: {{ ca: {}, cert: {cert}, key: {key} }}", file(CA)));
        }
    }
    if options.is_empty() {
        return format!("new IPCClient('{APP}')");
    }
    format!("new IPCClient('{APP}', {{ {} }})", options.join(", "))
}

/// Quotes a word for a shell, if it needs that.
fn for_shell(word: &str) -> Cow<'_, str> {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "_-./:@%+".contains(char);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', r"'\''")).into()
}

/// Quotes text as Python, JavaScript and JSON do.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_one_word_of_the_shell() {
        assert_eq!(for_shell("/run/ipc.sock"), "/run/ipc.sock");
        assert_eq!(for_shell("/a b/$(x)"), "'/a b/$(x)'");
        assert_eq!(for_shell("it's"), r"'it'\''s'");
        assert_eq!(for_shell(""), "''");
        assert_eq!(quoted("a\"b"), r#""a\"b""#);
    }
}
