//! Publications beyond the plain route.

use super::*;

mod ageing;
mod bad_input;
mod conflation;
mod embedded;
mod filter;
mod histories;
mod last_values;
mod overlapping;
mod patterns;
mod retained_by_us;
mod searches;

impl World {
    /// A connection that has negotiated `topic`.
    fn topical(&mut self, id: &str) -> ConnectionKey {
        self.asking_for(id, &["topic"])
    }

    fn asking_for(&mut self, id: &str, extensions: &[&str]) -> ConnectionKey {
        let key = self.accept();
        let connect = json!({"action": "connect", "connection_id": id, "extensions": extensions});
        self.send(key, &message("app", "request", "system", "c", &connect));
        assert_eq!(self.take(key)[0]["payload"]["extensions"], json!(extensions));
        key
    }

    /// Subscribes with this payload, which asks for an answer.
    fn want(&mut self, key: ConnectionKey, channel: &str, mut payload: Value) {
        payload["ack"] = json!(true);
        self.send(key, &message("app", "subscribe", channel, "s", &payload));
        let answer = self.take(key).pop().expect("an answer");
        assert_eq!(answer["payload"]["status"], "subscribed", "{answer}");
    }

    fn want_pattern(&mut self, key: ConnectionKey, pattern: &str) {
        self.want(key, pattern, json!({"pattern": true}));
    }

    fn leave(&mut self, key: ConnectionKey, channel: &str, is_pattern: bool) {
        let payload = json!({"pattern": is_pattern, "ack": true});
        self.send(key, &message("app", "unsubscribe", channel, "u", &payload));
        let answer = self.take(key).pop().expect("an answer");
        assert_eq!(answer["payload"]["status"], "unsubscribed", "{answer}");
    }

    fn put(&mut self, from: ConnectionKey, channel: &str, payload: &Value) {
        self.send(from, &message("app", "publish", channel, "p", payload));
    }

    /// The channels and payloads that a connection was sent since the last time.
    fn heard(&mut self, key: ConnectionKey) -> Vec<(String, Value)> {
        let messages = self.take(key).into_iter();
        let heard = messages.map(|mut message| {
            assert_eq!(message["message_type"], "publish", "{message}");
            (message["channel_id"].as_str().unwrap().to_owned(), message["payload"].take())
        });
        heard.collect()
    }
}

/// What [`World::heard`] returns.
fn heard<const N: usize>(publications: [(&str, i32); N]) -> Vec<(String, Value)> {
    publications.map(|(channel, payload)| (channel.to_owned(), json!(payload))).to_vec()
}
