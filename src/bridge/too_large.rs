//! What is said in place of a frame that is over the limit of the server it is for. Nothing else on the same
//! link suffers.

use super::control::Control;
use crate::proto::frame::HEADER_BYTES;
use crate::proto::system::CancelReason;
use crate::proto::{Envelope, MessageType};

/// Frames in place of one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Instead {
    /// For the server that sent it.
    pub(crate) back: Vec<u8>,
    /// For the server that it was for.
    pub(crate) on: Vec<u8>,
}

/// Answers a request that is too large, and tells whoever waits for an answer that is. Of a stream, that is
/// its end, and its worker is told to stop. Nobody waits for a notification.
pub(crate) fn instead(control: &mut Control, frame: &[u8], body_bytes_max: usize) -> Instead {
    let mut instead = Instead::default();
    let Some(body) = frame.get(HEADER_BYTES..) else { return instead };
    let Ok(envelope) = Envelope::parse_binary(body) else { return instead };
    let bytes = body.len();
    match (envelope.message_type(), envelope.reply_to()) {
        (MessageType::Request, _) => {
            let text = format!(
                "the request has {bytes} bytes, and the server whose worker was chosen takes no frame over \
                 {body_bytes_max}; send less, or raise the --max-frame-bytes of that server"
            );
            instead.back = control.too_large(&envelope, &envelope.message_id().decode(), &text);
        }
        (MessageType::Response, Some(asked)) => {
            let asked = asked.decode();
            let text = format!(
                "the answer, or a part of it, has {bytes} bytes, and the server of its requester takes no \
                 frame over {body_bytes_max}; ask for less, or raise the --max-frame-bytes of that server"
            );
            instead.on = control.too_large(&envelope, &asked, &text);
            let meta = envelope.read_meta().and_then(Result::ok);
            if meta.is_some_and(|meta| meta.seq.is_some() && !meta.end) {
                instead.back =
                    control.cancel(&envelope.app_id().decode(), &asked, CancelReason::Limit);
            }
        }
        _ => {}
    }
    instead
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn frame(kind: &str, reply_to: Option<&str>, meta: Option<&Value>) -> Vec<u8> {
        let mut message = json!({
            "message_id": "m", "app_id": "app", "channel_id": "work", "message_type": kind,
            "payload": "x".repeat(100), "timestamp": 0, "reply_to": reply_to,
        });
        if let Some(meta) = meta {
            message["meta"] = meta.clone();
        }
        let body = message.to_string();
        [&(body.len() as u32).to_be_bytes()[..], body.as_bytes()].concat()
    }

    fn said(frame: &[u8]) -> Option<Value> {
        (!frame.is_empty()).then(|| serde_json::from_slice(&frame[4..]).unwrap())
    }

    fn both(frame: &[u8]) -> [Option<Value>; 2] {
        let Instead { back, on } = instead(&mut Control::new([1; 16]), frame, 99);
        [said(&back), said(&on)]
    }

    #[test]
    fn whoever_waits_is_told_the_limit() {
        let [Some(back), None] = both(&frame("request", None, None)) else { panic!("an answer") };
        assert_eq!((&back["reply_to"], &back["message_type"]), (&json!("m"), &json!("response")));
        assert_eq!((&back["channel_id"], &back["app_id"]), (&json!("work"), &json!("app")));
        assert_eq!(back["payload"]["code"], "frame_too_large");
        assert!(back["payload"]["error"].as_str().unwrap().contains(" 99;"), "{back}");
        for meta in [None, Some(json!({"seq": 3, "end": true}))] {
            let response = frame("response", Some("r"), meta.as_ref());
            let [None, Some(on)] = both(&response) else { panic!("an answer") };
            assert_eq!((&on["reply_to"], &on["payload"]["status"]), (&json!("r"), &json!("error")));
            assert_eq!(on["payload"]["code"], "frame_too_large");
        }
    }

    #[test]
    fn the_worker_of_a_stream_is_told_to_stop() {
        let part = frame("response", Some("r"), Some(&json!({"seq": 3})));
        let [Some(back), Some(on)] = both(&part) else { panic!("an end and a cancel") };
        assert_eq!(on["payload"]["code"], "frame_too_large");
        let cancel = json!({"action": "cancel", "message_id": "r", "reason": "limit"});
        assert_eq!((&back["payload"], &back["channel_id"]), (&cancel, &json!("system")));
        assert_eq!(back["message_type"], "notification");
    }

    #[test]
    fn nobody_waits_for_anything_else() {
        for kind in ["notification", "publish", "response"] {
            assert_eq!(both(&frame(kind, None, None)), [None, None]);
        }
        assert_eq!(both(b"\0\0\0\x01x"), [None, None]);
        assert_eq!(both(b"\0"), [None, None]);
    }
}
