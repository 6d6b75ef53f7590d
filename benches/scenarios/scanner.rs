//! One pass over a body that validates all of it: every frame pays this.

use std::hint::black_box;

use ipc_framework::Envelope;

use super::messages::{python_chat, records, smallest, text};
use super::{Scenario, Work};

const KIB: usize = 1 << 10;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("scanner/smallest_152B", smallest()),
        scenario("scanner/python_chat_390B", python_chat()),
        scenario("scanner/records_4KiB", records(4 * KIB)),
        scenario("scanner/text_4KiB", text("request", "echo", 4 * KIB)),
        scenario("scanner/records_1MiB", records(KIB * KIB)),
        scenario("scanner/text_1MiB", text("request", "echo", KIB * KIB)),
    ]
}

fn scenario(name: &'static str, body: String) -> Scenario {
    Scenario::new(name, Work::Bytes(body.len()), move || {
        let body = body.clone();
        move || {
            let envelope = Envelope::parse(black_box(body.as_bytes()));
            black_box(envelope.is_ok());
        }
    })
}
