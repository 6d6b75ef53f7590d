//! The two text formats in which Prometheus reads metrics, and the choice between them.

use std::collections::HashSet;

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// `OpenMetrics` 1.0.0.
    OpenMetrics,
    /// The older one, which every scraper and `promtool check metrics` reads.
    Text,
}

impl Format {
    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Chooses by the header `Accept` of a scrape: `OpenMetrics` if it is named and not preferred
    /// less than plain text, plain text in all other cases.
    pub(super) fn accepted(accept: &str) -> Self {
        let mut open_metrics: f64 = 0.0;
        let mut text: f64 = 0.0;
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let mut weight = 1.0;
            let mut is_known = true;
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                match (name.trim().to_ascii_lowercase().as_str(), value.trim()) {
                    ("q", value) => weight = value.parse().unwrap_or(0.0),
                    // The format of version 0.0.1 is the same text.
                    ("version", "1.0.0" | "0.0.1") if media.starts_with("application/") => {}
                    ("version", "0.0.4") if media.starts_with("text/") => {}
                    ("version", _) => is_known = false,
                    _ => {}
                }
            }
            match media.as_str() {
                "application/openmetrics-text" if is_known => {
                    open_metrics = open_metrics.max(weight);
                }
                "text/plain" if is_known => text = text.max(weight),
                _ => {}
            }
        }
        if open_metrics > 0.0 && open_metrics >= text { Self::OpenMetrics } else { Self::Text }
    }

    /// Returns a text in `OpenMetrics` in this format.
    pub(super) fn of(self, open_metrics: String) -> String {
        match self {
            Self::OpenMetrics => open_metrics,
            Self::Text => as_text(&open_metrics),
        }
    }
}

/// Rewrites `OpenMetrics` in the older format: a counter is called as its samples are, and units
/// and the mark at the end are unknown.
fn as_text(open_metrics: &str) -> String {
    let counters: HashSet<&str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        if line.starts_with("# UNIT ") || line == "# EOF" {
            continue;
        }
        let described = ["# HELP ", "# TYPE "].into_iter().find_map(|start| {
            let (name, rest) = line.strip_prefix(start)?.split_once(' ')?;
            counters.contains(name).then_some((start, name, rest))
        });
        match described {
            Some((start, name, rest)) => text.extend([start, name, "_total ", rest]),
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scraper_gets_the_format_that_it_asks_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                          application/openmetrics-text;version=0.0.1;q=0.4,\
                          text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for accept in [
            prometheus,
            "application/openmetrics-text",
            "text/plain;q=0.5, Application/OpenMetrics-Text; version=1.0.0; q=0.5",
        ] {
            assert_eq!(Format::accepted(accept), Format::OpenMetrics, "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "text/plain; version=0.0.4",
            "text/plain;version=0.0.4,application/openmetrics-text;q=0.9",
            "application/openmetrics-text;version=2.0.0",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=nonsense",
            "application/vnd.google.protobuf",
        ] {
            assert_eq!(Format::accepted(accept), Format::Text, "{accept}");
        }
    }

    #[test]
    fn a_counter_is_called_as_its_samples_are() {
        let open_metrics = "# HELP ipc_sent_bytes Bytes.\n# TYPE ipc_sent_bytes counter\n\
                            ipc_sent_bytes_total 3\n# HELP ipc_up_seconds Time.\n\
                            # TYPE ipc_up_seconds gauge\n# UNIT ipc_up_seconds seconds\n\
                            ipc_up_seconds 1.5\n# EOF\n";
        let text = "# HELP ipc_sent_bytes_total Bytes.\n# TYPE ipc_sent_bytes_total counter\n\
                    ipc_sent_bytes_total 3\n# HELP ipc_up_seconds Time.\n\
                    # TYPE ipc_up_seconds gauge\nipc_up_seconds 1.5\n";
        assert_eq!(Format::Text.of(open_metrics.to_owned()), text);
        assert_eq!(Format::OpenMetrics.of(open_metrics.to_owned()), open_metrics);
    }
}
