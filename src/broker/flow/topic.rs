//! Publications beyond the plain route: patterns and conflation.

pub(crate) mod audience;
pub(crate) mod conflation;
pub(crate) mod fan_out;
pub(crate) mod keeping;
pub(crate) mod patterns;
pub(crate) mod publishing;
pub(crate) mod replays;
pub(crate) mod searches;
pub(crate) mod verdicts;
