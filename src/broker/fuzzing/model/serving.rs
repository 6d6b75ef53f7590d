//! What a member of an application says, and what it is answered.

use serde_json::{Value, json};

use super::expected::{Expectations, Expected};
use super::{Model, Outcome, request};
use crate::broker::fuzzing::script::{App, Channel, PEERS, Said, SystemAction, What, Whose};

impl Model {
    pub(super) fn serve(
        &mut self,
        from: usize,
        said: &Said,
        outcome: &Outcome<'_>,
        expected: &mut Expectations,
        news: &mut [Vec<Value>; PEERS],
    ) {
        let services_max = self.limits.services_per_connection_max;
        let extended = self.peers[from].extended;
        let Some(member) = &mut self.peers[from].member else { return };
        let (app, message_id) = (member.app, said.message_id.as_str());
        let error = |code| Expected::error(code, message_id);
        let answer = |payload| Expected::answer(message_id, payload);
        match &said.what {
            _ if said.unread_from(extended).is_some() => {
                let (code, id) = said.unread_from(extended).unwrap_or_default();
                expected.0[from].extend(code.map(|code| Expected::error(code, &id)));
            }
            What::Connect(..) => expected.add(
                from,
                Expected::Error {
                    // It may have been written before the speaker knew its own application.
                    codes: vec!["forbidden"],
                    reply_to: json!(message_id),
                },
            ),
            // The same: its application was not known when it was said.
            _ if said.message()["app_id"] != app.name()
                && said.frame.len() > 4
                && !matches!(said.what, What::Raw(_)) =>
            {
                if !matches!(said.what, What::Respond(_)) {
                    expected.add(from, error("forbidden"));
                }
            }
            What::Subscribe(_, _, whose) | What::Unsubscribe(_, _, whose)
                if *whose == Whose::Foreign
                    || (*whose == Whose::Own
                        && said.payload["connection_id"] != member.id.name()) =>
            {
                expected.add(from, error("forbidden"));
            }
            What::Subscribe(channel, ..) => {
                self.subscribe(from, *channel, None, said, outcome, expected);
            }
            What::Follow(pattern, wish) if wish.pattern && extended.topic => {
                self.watch(from, *pattern, *wish, said, expected);
            }
            What::Follow(channel, wish) => {
                self.subscribe(from, *channel, Some(*wish), said, outcome, expected);
            }
            What::Unwatch(channel) => {
                self.leave(from, *channel, extended.topic, said, expected);
            }
            What::Unsubscribe(channel, ..) => self.leave(from, *channel, false, said, expected),
            What::Publish(_) | What::Request(_) if request::is_bad(said, extended) => {
                expected.add(from, error("bad_message"));
            }
            What::Publish(channel) => self.publish(from, *channel, said, outcome, expected),
            What::Cancel(id) => self.cancel(from, id, expected),
            What::Credit(id, n) => self.credit(from, id, *n, said, expected),
            What::Request(channel) => self.ask(from, *channel, said, outcome, expected, news),
            What::Notification(channel) => {
                let workers = self.workers(app, *channel);
                expected.0[from].extend(self.note(&workers, said, outcome, news).map(error));
            }
            What::Respond(id) => {
                self.answer(from, id, said, outcome, expected, news);
                self.note_answer(from, outcome.now);
            }
            What::Serve(_) if outcome.is_draining => expected.add(from, error("shutting_down")),
            What::Serve(channel) => {
                let is_new = !member.services.contains(channel);
                if is_new && member.services.len() >= services_max {
                    expected.add(from, error("limit_exceeded"));
                    return;
                }
                member.services.insert(*channel);
                let channel = channel.name();
                expected.add(from, answer(json!({"status": "serving", "channel": channel})));
            }
            What::StopServing(channel) => {
                member.services.remove(channel);
                let channel = channel.name();
                expected.add(from, answer(json!({"status": "stopped", "channel": channel})));
            }
            What::System(action) => {
                self.check_listing(app, *action, message_id, &news[from], outcome);
                expected.add(
                    from,
                    match action {
                        SystemAction::Ping => answer(json!({"status": "pong"})),
                        SystemAction::Unknown => error("no_handler"),
                        SystemAction::Nothing => error("bad_message"),
                        _ => Expected::Answer { reply_to: json!(message_id) },
                    },
                );
            }
            What::Abroad => expected.add(from, error("forbidden")),
            What::Raw(code) => expected.0[from].extend(code.map(error)),
            // It is no frame, so it is never done.
            What::TooLarge => panic!("a frame over the limit was done"),
        }
    }

    /// Figures that the model knows too.
    fn check_listing(
        &self,
        app: App,
        action: SystemAction,
        message_id: &str,
        news: &[Value],
        outcome: &Outcome<'_>,
    ) {
        let Some(message) = news.iter().find(|message| message["reply_to"] == message_id) else {
            return;
        };
        let payload = &message["payload"];
        if payload["code"] == "limit_exceeded" {
            return;
        }
        match action {
            SystemAction::GetStats => {
                let members = self.peers.iter().filter(|peer| peer.member.is_some()).count();
                assert_eq!(payload["total_connections"], members);
                assert_eq!(payload["pending_requests"], self.requests.len());
            }
            SystemAction::ListChannels => {
                let channels = payload.as_object().into_iter().flatten();
                for (name, info) in channels {
                    let at = Channel::NAMES.iter().position(|known| known == name);
                    let channel = Channel(at.expect("its name"));
                    let [least, most] = self.subscribers(app, channel, outcome);
                    let subscribers = info["subscribers"].as_u64().expect("a number") as usize;
                    assert!((least..=most).contains(&subscribers), "{name}");
                    assert_eq!(info["workers"], self.workers(app, channel).len(), "{name}");
                }
            }
            _ => {}
        }
    }
}
