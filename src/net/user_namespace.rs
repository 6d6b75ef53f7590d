//! Checks whether users can be told apart. In a user namespace, the kernel shows all users that are
//! not mapped into it as a single one, whose id could also be that of a real user.

use std::fs;

use crate::Error;
use crate::broker::Access;

/// The id of users that are not mapped, unless the system says otherwise.
const OVERFLOW_ID: u32 = 65_534;

/// Refuses a list with an id that is not mapped into this namespace, or that stands for all users
/// which are not.
pub(super) fn check(access: &Access) -> Result<(), Error> {
    for (kind, ids, map, overflow_id) in [
        ("user", &access.uids, "/proc/self/uid_map", "/proc/sys/kernel/overflowuid"),
        ("group", &access.gids, "/proc/self/gid_map", "/proc/sys/kernel/overflowgid"),
    ] {
        // Without /proc, the mapping cannot be read.
        let Ok(map) = fs::read_to_string(map) else { continue };
        let overflow_id = fs::read_to_string(overflow_id).ok();
        let overflow_id = overflow_id.and_then(|id| id.trim().parse().ok()).unwrap_or(OVERFLOW_ID);
        if let Some(id) = ids.iter().find(|id| !is_told_apart(**id, &map, overflow_id)) {
            return Err(Error::Config(format!(
                "the {kind} {id} cannot be told from others in this user namespace; remove it from \
                 the list, or run the server outside (under systemd without PrivateUsers=)"
            )));
        }
    }
    Ok(())
}

/// Returns whether the id belongs to one user. The map has a line for each range of ids: its begin
/// inside, its begin outside, and its length.
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
    // The largest number is not an id.
    let knows_all = known >= u64::from(u32::MAX);
    is_known && (knows_all || id != u64::from(overflow_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_several_users_share_is_not_told_apart() {
        let told_apart = |id, map| is_told_apart(id, map, OVERFLOW_ID);
        let whole = "         0          0 4294967295\n";
        assert!(told_apart(0, whole) && told_apart(1_000, whole) && told_apart(65_534, whole));
        // These are the maps of PrivateUsers= and of a container.
        let private = "0 0 1\n998 998 1\n";
        assert!(told_apart(0, private) && told_apart(998, private));
        assert!(!told_apart(1_000, private) && !told_apart(65_534, private));
        let container = "0 100000 65536\n";
        assert!(told_apart(1_000, container));
        assert!(!told_apart(65_534, container), "all users that are not mapped have this id");
        assert!(!told_apart(65_536, container));
        assert!(!told_apart(0, ""), "without a map, no user is known");
    }
}
