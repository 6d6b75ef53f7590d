//! The extension `topic`.

use super::*;

mod histories;
mod last_values;

impl World {
    /// Connects a peer that asks for `topic`.
    pub(super) fn topical(&mut self, id: &str) -> ConnectionKey {
        self.asking_for(id, &["topic"])
    }

    pub(super) fn asking_for(&mut self, id: &str, extensions: &[&str]) -> ConnectionKey {
        let key = self.accept();
        let connect = json!({"action": "connect", "connection_id": id, "extensions": extensions});
        self.send(key, &message("app", "request", "system", "c", &connect));
        assert_eq!(self.take(key)[0]["payload"]["extensions"], json!(extensions));
        key
    }
}
