//! The forms of a publication with a `meta`: each subscriber gets the one that its extensions allow.

use super::attachments::{self, Receiver, Rewrite};
use crate::branches::{self, Branch};
use crate::broker::state::core::Core;
use crate::broker::state::keys::ConnectionKey;
use crate::proto::{Envelope, Extensions, Meta, OutFrame, Position};

/// Subscribers from which on it is cheaper that their queues refer to one copy of a small frame than
/// that each has its own.
pub(crate) const SHARED_BY_MIN: usize = 4;

/// A publication that is delivered in several forms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Publication<'a> {
    pub(crate) envelope: &'a Envelope<'a>,
    pub(crate) body: &'a [u8],
    /// Its `meta`, if it has one, as it was read.
    pub(crate) meta: Option<&'a Meta<'a>>,
    /// Its place in the history of its channel, if that has one.
    pub(crate) position: Option<Position<'a>>,
    /// It comes from a link, so that no link gets it.
    pub(crate) is_of_link: bool,
}

/// The frames of a publication. Each is written when the first subscriber needs it.
pub(crate) struct Forms<'a> {
    publication: &'a Publication<'a>,
    is_shared: bool,
    /// Peers with the extension `topic` get another `meta` than the others.
    differs: bool,
    /// By [`Form`].
    made: [Made<'a>; 5],
}

enum Made<'a> {
    NotYet,
    TooLarge,
    Frame(OutFrame<'a>),
}

#[derive(Clone, Copy)]
enum Form {
    /// With its `meta`, but for what only the extension `topic` knows.
    Whole,
    /// The same, with attachments in base64.
    InBase64,
    /// With all of its `meta`.
    Topic,
    /// The same, with attachments in base64.
    TopicInBase64,
    /// Without its `meta`, and attachments in base64.
    Plain,
}

impl<'a> Forms<'a> {
    /// `is_shared`: many queues are to refer to one frame.
    pub(crate) fn new(publication: &'a Publication<'a>, is_shared: bool) -> Self {
        let is_topical = publication.meta.is_some_and(Meta::is_topical);
        Self {
            publication,
            is_shared,
            differs: is_topical || publication.position.is_some(),
            made: [const { Made::NotYet }; 5],
        }
    }

    pub(crate) fn publication(&self) -> &'a Publication<'a> {
        self.publication
    }

    /// Returns the frame for peers with all extensions, unless that would be too large.
    pub(crate) fn topical(&mut self, core: &mut Core) -> Option<&OutFrame<'a>> {
        let extensions = Extensions::CALL.or(Extensions::BINARY).or(Extensions::TOPIC);
        self.in_form_for(core, Receiver { extensions, ..Receiver::of_all(core) })
    }

    /// Returns the frame for a subscriber, unless that would be too large.
    pub(crate) fn of(&mut self, core: &mut Core, key: ConnectionKey) -> Option<&OutFrame<'a>> {
        let to = Receiver::of(core, key);
        self.in_form_for(core, to)
    }

    /// Returns the frame for a link, unless that would be too large: as the publisher sent it, but for
    /// the wish for an answer, so that another server may take it from the link as a publication.
    #[cold]
    pub(crate) fn as_sent(&self, core: &mut Core) -> Option<OutFrame<'a>> {
        let Publication { envelope, body, meta, .. } = *self.publication;
        if !meta.is_some_and(|meta| meta.ack) {
            return Some(OutFrame::relay(body, &mut core.pool));
        }
        let extensions = Extensions::ALL;
        let to = Receiver { extensions, ..Receiver::of_all(core) };
        let rewrite = Rewrite {
            head: attachments::head_of(envelope),
            meta: Meta { position: None, ..*meta? },
            payload: envelope.payload_str(),
            attachments: envelope.attachments().ok()?,
        };
        rewrite.frame(to, &mut core.pool).ok()
    }

    fn in_form_for(&mut self, core: &mut Core, to: Receiver) -> Option<&OutFrame<'a>> {
        let in_base64 = self.publication.envelope.has_attachments() && to.needs_base64();
        let form = if to.extensions.is_empty() {
            Form::Plain
        } else {
            match (self.differs && to.extensions.contains(Extensions::TOPIC), in_base64) {
                (false, false) => Form::Whole,
                (false, true) => Form::InBase64,
                (true, false) => Form::Topic,
                (true, true) => Form::TopicInBase64,
            }
        };
        let place = form as usize;
        if matches!(self.made[place], Made::NotYet) {
            self.made[place] = self.make(core, to, form).map_or(Made::TooLarge, Made::Frame);
        }
        match &self.made[place] {
            Made::Frame(frame) => Some(frame),
            Made::NotYet | Made::TooLarge => None,
        }
    }

    fn make(&self, core: &mut Core, to: Receiver, form: Form) -> Option<OutFrame<'a>> {
        let Publication { envelope, body, meta, position, .. } = *self.publication;
        let is_relayed = !envelope.has_attachments() && !meta.is_some_and(|meta| meta.ack);
        let frame = match form {
            Form::Topic if is_relayed => match position {
                Some(position) => {
                    return position.frame(
                        body,
                        envelope.meta_str(),
                        to.frame_bytes_max,
                        &mut core.pool,
                    );
                }
                None => OutFrame::relay(body, &mut core.pool),
            },
            Form::Whole if !self.differs => OutFrame::relay(body, &mut core.pool),
            Form::Whole | Form::Plain if envelope.meta_str().is_none() => {
                OutFrame::relay(body, &mut core.pool)
            }
            Form::Plain => match envelope.without_meta(body) {
                Some([before, behind]) => {
                    OutFrame::relay_pieces([before, behind, b""], &mut core.pool)
                }
                None => return self.rewrite(core, to),
            },
            _ => return self.rewrite(core, to),
        };
        if envelope.has_attachments() {
            branches::note(Branch::AttachmentsRelayed);
        }
        let is_shared = self.is_shared || envelope.has_attachments();
        Some(if is_shared { frame.to_shared(&mut core.pool) } else { frame })
    }

    #[cold]
    fn rewrite(&self, core: &mut Core, to: Receiver) -> Option<OutFrame<'a>> {
        let Publication { envelope, meta, position, .. } = *self.publication;
        let meta = match meta {
            Some(meta) => *meta,
            None => envelope.read_meta().transpose().ok()?.unwrap_or_default(),
        };
        let rewrite = Rewrite {
            head: attachments::head_of(envelope),
            meta: Meta { position, ..meta },
            payload: envelope.payload_str(),
            attachments: envelope.attachments().ok()?,
        };
        let frame = rewrite.frame(to, &mut core.pool).ok()?;
        if envelope.has_attachments() {
            attachments::note_work(core, to, &frame);
        }
        Some(frame)
    }
}
