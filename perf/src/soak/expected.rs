//! The expected values of the server's counters, as they follow from what its peers saw.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

/// Counters for which the peers' view gives a lower bound only: bytes that were queued for peers that
/// left, and the number of waits.
const OPEN_ABOVE: [&str; 2] = ["bytes_out", "publishers_held"];
/// Counters of the event loop, which depend on its timing.
const NOT_COMPARED: [&str; 3] = ["wakeups", "spins", "yields"];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Range {
    least: u64,
    most: u64,
}

/// The expected ranges by the names of `get_stats`. The name of an error is `errors.` and its code.
#[derive(Debug, Default)]
pub(super) struct Expected(BTreeMap<String, Range>);

/// A counter with its expected range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Compared {
    pub(super) counter: String,
    pub(super) least: u64,
    /// The upper bound, or `None` if there is none.
    pub(super) most: Option<u64>,
    pub(super) seen: u64,
}

impl Compared {
    fn holds(&self) -> bool {
        self.least <= self.seen && self.most.is_none_or(|most| self.seen <= most)
    }

    pub(super) fn bound(&self) -> String {
        match self.most {
            Some(most) if most == self.least => most.to_string(),
            Some(most) => format!("{}..={most}", self.least),
            None => format!("{} or more", self.least),
        }
    }
}

impl Expected {
    /// Expects `count` more.
    pub(super) fn add(&mut self, counter: &str, count: u64) {
        self.change(counter, count, count);
    }

    /// Expects up to `count` more, because the peers cannot know whether the server counted them.
    pub(super) fn perhaps(&mut self, counter: &str, count: u64) {
        self.change(counter, 0, count);
    }

    /// Expects `count` less, because the server had not counted them yet.
    pub(super) fn take_back(&mut self, counter: &str, count: u64) {
        if let Some(range) = self.0.get_mut(counter) {
            range.least = range.least.saturating_sub(count);
            range.most = range.most.saturating_sub(count);
        }
    }

    fn change(&mut self, counter: &str, least: u64, most: u64) {
        if let Some(range) = self.0.get_mut(counter) {
            range.least += least;
            range.most += most;
        } else if most > 0 {
            self.0.insert(counter.to_owned(), Range { least, most });
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        for (counter, range) in other.0 {
            self.change(&counter, range.least, range.most);
        }
    }

    /// Compares all counters that the server has or that are expected. One without an expectation
    /// has to be 0.
    pub(super) fn compare(&self, counters: &Value) -> Result<Vec<Compared>, String> {
        let seen = flatten(counters)?;
        let names: BTreeSet<&String> = seen.keys().chain(self.0.keys()).collect();
        let compared = names.into_iter().filter(|name| !NOT_COMPARED.contains(&name.as_str()));
        let compared: Vec<Compared> = compared
            .map(|name| {
                let Range { least, most } = self.0.get(name).copied().unwrap_or_default();
                Compared {
                    counter: name.clone(),
                    least,
                    most: Some(most).filter(|_| !OPEN_ABOVE.contains(&name.as_str())),
                    seen: seen.get(name).copied().unwrap_or_default(),
                }
            })
            .collect();
        let wrong: Vec<String> = compared
            .iter()
            .filter(|compared| !compared.holds())
            .map(|wrong| format!("{} is {}, not {}", wrong.counter, wrong.seen, wrong.bound()))
            .collect();
        if wrong.is_empty() {
            Ok(compared)
        } else {
            Err(format!("the server's counters disagree: {}", wrong.join("; ")))
        }
    }
}

fn flatten(counters: &Value) -> Result<BTreeMap<String, u64>, String> {
    let mut flat = BTreeMap::new();
    let counters = counters.as_object().ok_or_else(|| format!("no counters: {counters}"))?;
    for (name, value) in counters {
        match value {
            Value::Object(codes) => {
                for (code, count) in codes {
                    let count = count.as_u64().ok_or_else(|| format!("{code}: {count}"))?;
                    flat.insert(format!("{name}.{code}"), count);
                }
            }
            value => {
                let count = value.as_u64().ok_or_else(|| format!("{name}: {value}"))?;
                flat.insert(name.clone(), count);
            }
        }
    }
    Ok(flat)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_counter_is_held_against_what_is_due() {
        let mut expected = Expected::default();
        expected.add("accepted", 2);
        expected.add("deliveries", 5);
        expected.perhaps("deliveries", 2);
        expected.add("errors.no_handler", 1);
        expected.add("bytes_out", 100);
        let counters = |accepted, deliveries, no_handler, shed| {
            json!({"accepted": accepted, "deliveries": deliveries, "shed": shed, "spins": 99,
                "bytes_out": 1000, "errors": {"no_handler": no_handler}})
        };
        let holds = |counters| expected.compare(&counters).is_ok();
        assert!(holds(counters(2, 5, 1, 0)));
        assert!(holds(counters(2, 7, 1, 0)));
        for wrong in
            [counters(1, 5, 1, 0), counters(2, 8, 1, 0), counters(2, 5, 0, 0), counters(2, 5, 1, 1)]
        {
            assert!(!holds(wrong));
        }
    }
}
