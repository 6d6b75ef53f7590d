//! Hundreds of idle connections that stay, and some that never complete their handshake and leave.

use super::super::context::{Context, Random};
use super::super::peer::Peer;

const IDLE: usize = 200;
const SILENT: usize = 4;

pub(super) fn run(context: &Context<'_>, random: &mut Random) -> Result<(), String> {
    let mut idle = Vec::new();
    for index in 0..IDLE {
        idle.push(context.connect(random, &format!("{}-{index}", context.round))?);
    }
    while !context.is_over() {
        let mut silent = Vec::new();
        for index in 0..SILENT {
            let target = context.target(random);
            let mut peer = Peer::raw(target, &context.application, &context.account)?;
            if index % 2 == 0 {
                peer.send_bytes(b"\0\0\0\x40{\"message_id\"")?;
            }
            silent.push(peer);
        }
        // The server closes them when the time for a handshake is over.
        for mut peer in silent {
            peer.expect_end()?;
            context.expect("handshake_timeouts", 1);
            context.fault("silent instead of an introduction");
        }
        let some = random.below(idle.len());
        idle[some].expect_nothing_else()?;
    }
    idle.iter_mut().try_for_each(Peer::expect_nothing_else)
}
