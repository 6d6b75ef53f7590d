//! The `meta` of messages that a client sends.

use std::collections::BTreeMap;

use super::error::Error;
use crate::proto::{Json, META_BYTES_MAX, Meta, Trace};

/// Returns the text of `meta`, with a trace and headers, or none if there is nothing in it.
pub(super) fn meta_text(
    meta: Meta<'_>,
    trace: Option<&Trace>,
    headers: &BTreeMap<String, String>,
) -> Result<Option<Vec<u8>>, Error> {
    let json = |value: Result<Json<'static>, _>| value.map_err(Error::NotJson);
    let trace = trace.map(|trace| json(Json::from_serialize(trace))).transpose()?;
    let headers = Some(headers).filter(|headers| !headers.is_empty());
    let headers = headers.map(|headers| json(Json::from_serialize(headers))).transpose()?;
    let meta = Meta {
        trace: trace.as_ref().map(Json::as_str),
        headers: headers.as_ref().map(Json::as_str),
        ..meta
    };
    if meta.is_empty() {
        return Ok(None);
    }
    let mut text = Vec::new();
    meta.append_to(&mut text);
    if text.len() > META_BYTES_MAX {
        let (bytes, bytes_max) = (text.len(), META_BYTES_MAX);
        return Err(Error::MetaTooLarge { bytes, bytes_max });
    }
    Ok(Some(text))
}
