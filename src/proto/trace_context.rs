use serde::{Deserialize, Serialize};

/// A place in a distributed trace, by W3C Trace Context.
///
/// ```
/// use ipc_framework::proto::Trace;
///
/// let trace = Trace::new("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
/// assert!(trace.tracestate.is_none());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Trace {
    /// The ids of the trace and of the span that made the request.
    #[serde(default)]
    pub traceparent: String,
    /// Data of the tracing systems on the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
}

impl Trace {
    /// Makes one without a state.
    pub fn new(traceparent: impl Into<String>) -> Self {
        Self { traceparent: traceparent.into(), tracestate: None }
    }
}
