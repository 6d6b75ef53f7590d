//! Tokens and limits that change while connections are open. Only this role reloads the settings.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::context::{Context, Random};
use super::super::peer::{ANSWER_MAX, Peer, excerpt};

/// The application that has a token.
const GUARDED: &str = "guarded";
const PAUSE_MILLISECONDS: usize = 200;
const LARGE_FRAME_BYTES: u32 = 9 << 20;

/// A state of the settings file.
#[derive(Clone, Copy, Debug)]
struct State {
    token: &'static str,
    frame_bytes_max: &'static str,
    /// A frame of [`LARGE_FRAME_BYTES`] exceeds the limit in this state.
    is_too_large: bool,
}

/// The states. A server starts with the first one.
const STATES: [State; 2] = [
    State { token: "first secret", frame_bytes_max: "16MiB", is_too_large: false },
    State { token: "second secret", frame_bytes_max: "8MiB", is_too_large: true },
];

/// Replaces the file in one step, so that the server never reads a part of it.
fn write(path: &Path, text: &str) -> Result<(), String> {
    let new = path.with_extension("new");
    // The server refuses a file with a token that everybody may read.
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written
        .and_then(|()| fs::rename(&new, path))
        .map_err(|error| format!("{}: {error}", path.display()))
}

impl State {
    fn write(self, path: &Path) -> Result<(), String> {
        let Self { token, frame_bytes_max, .. } = self;
        let text =
            format!("max-frame-bytes = \"{frame_bytes_max}\"\n[tokens]\n{GUARDED} = \"{token}\"\n");
        write(path, &text)
    }
}

/// Writes the settings that the server starts with.
pub(in super::super) fn prepare(path: &Path) -> Result<(), String> {
    STATES[0].write(path)
}

pub(super) fn run(context: &Context<'_>, random: &mut Random) -> Result<(), String> {
    let mut lasting = Vec::new();
    for (index, target) in context.harness.targets.iter().enumerate() {
        let mut peer = Peer::raw(target, GUARDED, &context.account)?;
        let introduction = introduction(&format!("lasting-{index}"), Some(STATES[0].token));
        peer.introduce(&introduction)?;
        lasting.push(peer);
    }
    let mut now = 0;
    while !context.is_over() {
        probe(context, random, STATES[now], STATES[1 - now].token)?;
        if random.below(4) == 0 {
            write(context.harness.settings, "max-frame-bytes = \"a lot\"\n")?;
            context.reload()?;
            context.fault("a reload of broken settings");
            probe(context, random, STATES[now], STATES[1 - now].token)?;
        }
        now = 1 - now;
        STATES[now].write(context.harness.settings)?;
        context.reload()?;
        context.fault("a reload that changes token and limit");
        until_admitted(context, random, STATES[now].token)?;
        probe(context, random, STATES[now], STATES[1 - now].token)?;
        lasting.iter_mut().try_for_each(Peer::expect_nothing_else)?;
        thread::sleep(Duration::from_millis(random.below(PAUSE_MILLISECONDS) as u64));
    }
    Ok(())
}

/// Returns a handshake with a new id, because the server may not know yet that the last peer left.
fn fresh_introduction(random: &mut Random, token: Option<&str>) -> Value {
    introduction(&format!("probe-{}", random.below(usize::MAX)), token)
}

fn introduction(id: &str, token: Option<&str>) -> Value {
    let mut introduction = json!({"action": "connect", "connection_id": id});
    if let Some(token) = token {
        introduction["token"] = token.into();
    }
    introduction
}

/// Checks that the right token is accepted, that no other is, and that this state's limit applies.
fn probe(
    context: &Context<'_>,
    random: &mut Random,
    now: State,
    outdated: &str,
) -> Result<(), String> {
    for wrong in [None, Some("no secret"), Some(outdated)] {
        let mut peer = Peer::raw(context.target(random), GUARDED, &context.account)?;
        peer.try_to_introduce(&fresh_introduction(random, wrong))?;
        peer.expect_error("auth_failed")?;
        peer.expect_end()?;
        context.fault("a wrong token, or none");
    }
    let mut peer = Peer::raw(context.target(random), GUARDED, &context.account)?;
    peer.introduce(&fresh_introduction(random, Some(now.token)))?;
    peer.expect_nothing_else()?;
    peer.send_bytes(&LARGE_FRAME_BYTES.to_be_bytes())?;
    if now.is_too_large {
        peer.expect_error("frame_too_large")?;
        peer.expect_end()
    } else {
        // The frame is incomplete, so the server would wait for the rest.
        peer.hang_up(false)
    }
}

/// Waits until the reload is done, which is when the token is accepted.
fn until_admitted(context: &Context<'_>, random: &mut Random, token: &str) -> Result<(), String> {
    let begin = Instant::now();
    loop {
        let mut peer = Peer::raw(context.target(random), GUARDED, &context.account)?;
        peer.try_to_introduce(&fresh_introduction(random, Some(token)))?;
        let answer = peer.receive()?;
        if answer["payload"]["status"] == "connected" {
            peer.is_let_in();
            return Ok(());
        }
        peer.confirm();
        if answer["payload"]["code"] != "auth_failed" || begin.elapsed() > ANSWER_MAX {
            return Err(format!("a reload does not take effect: {}", excerpt(&answer)));
        }
        peer.expect_end()?;
        thread::sleep(Duration::from_millis(5));
    }
}
