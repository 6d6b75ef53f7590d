//! Whether users can be told apart: in a user namespace all that it does not know are shown as
//! one, whose id is an id like any other.

use std::fs;

use crate::Error;
use crate::broker::Access;

/// Who is not known, where the system does not say otherwise.
const OVERFLOW_ID: u32 = 65_534;

/// Refuses a list that names who never comes here, or who is nobody in particular.
pub(super) fn check(access: &Access) -> Result<(), Error> {
    for (kind, ids, map, overflow_id) in [
        ("user", &access.uids, "/proc/self/uid_map", "/proc/sys/kernel/overflowuid"),
        ("group", &access.gids, "/proc/self/gid_map", "/proc/sys/kernel/overflowgid"),
    ] {
        // Without /proc there is nothing to go by.
        let Ok(map) = fs::read_to_string(map) else { continue };
        let overflow_id = fs::read_to_string(overflow_id).ok();
        let overflow_id = overflow_id.and_then(|id| id.trim().parse().ok()).unwrap_or(OVERFLOW_ID);
        if let Some(id) = ids.iter().find(|id| !is_told_apart(**id, &map, overflow_id)) {
            return Err(Error::Config(format!(
                "the {kind} {id} cannot be told from others in this user namespace; take it off \
                 the list, or run the server outside (under systemd without PrivateUsers=)"
            )));
        }
    }
    Ok(())
}

/// The map has a line for each range: where it begins inside and outside, and how many there are.
fn is_told_apart(id: u32, map: &str, overflow_id: u32) -> bool {
    let ranges = map.lines().filter_map(|line| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse::<u64>);
        let (inside, _, count) = (numbers.next()?.ok()?, numbers.next()?, numbers.next()?.ok()?);
        Some((inside, count))
    });
    let id = u64::from(id);
    let (mut is_known, mut known) = (false, 0);
    for (inside, count) in ranges {
        is_known |= (inside..inside + count).contains(&id);
        known += count;
    }
    // The last number is no id.
    let knows_all = known >= u64::from(u32::MAX);
    is_known && (knows_all || id != u64::from(overflow_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_counts_where_it_is_one_persons() {
        let told_apart = |id, map| is_told_apart(id, map, OVERFLOW_ID);
        let whole = "         0          0 4294967295\n";
        assert!(told_apart(0, whole) && told_apart(1_000, whole) && told_apart(65_534, whole));
        // As PrivateUsers= makes it, and as a container has it.
        let private = "0 0 1\n998 998 1\n";
        assert!(told_apart(0, private) && told_apart(998, private));
        assert!(!told_apart(1_000, private) && !told_apart(65_534, private));
        let container = "0 100000 65536\n";
        assert!(told_apart(1_000, container));
        assert!(!told_apart(65_534, container), "all others are shown as this one");
        assert!(!told_apart(65_536, container));
        assert!(!told_apart(0, ""), "before there is a map nobody is known");
    }
}
