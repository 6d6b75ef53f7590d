//! The attachments of several documents that become one.

use super::attachments::Attachments;
use super::json::{Json, JsonError};
use super::value::Draft;

/// The attachments of documents that are collected in an array.
#[derive(Debug)]
pub(crate) struct Attached {
    draft: Draft,
    pointers: Vec<String>,
}

impl Default for Attached {
    fn default() -> Self {
        Self { draft: Draft::new(0), pointers: Vec::new() }
    }
}

impl Attached {
    /// Adds those of the document that has this number in the array.
    pub(crate) fn add(&mut self, number: u64, attachments: &Attachments<'_>) {
        for one in attachments.iter() {
            self.pointers.push(format!("/{number}{}", one.pointer));
            self.draft.push(one.dtype, one.shape.iter().collect(), one.data);
        }
    }

    /// Returns the bytes of all.
    pub(crate) fn bytes(&self) -> usize {
        self.draft.bytes()
    }

    /// Returns the array with its attachments.
    pub(crate) fn join(self, array: Json<'static>) -> Result<Json<'static>, JsonError> {
        let carried = self.draft.settle(&self.pointers)?;
        Ok(array.carrying(carried))
    }
}
