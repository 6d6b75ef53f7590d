//! The fuzz targets by name. Each body stands beside what it tests, `fuzz/` only calls it, and
//! the tests here go over all inputs that are kept.

/// What a target makes of an input. It panics if anything is not as it should be.
pub type Body = fn(&[u8]);

/// Every target, by its name in `fuzz/`.
pub const TARGETS: &[(&str, Body)] = &[
    ("frames", crate::proto::fuzzing::frames),
    ("envelope", crate::proto::fuzzing::envelope),
    ("broker", crate::broker::fuzzing::broker),
    #[cfg(feature = "net")]
    ("client", crate::client::fuzzing::client),
    #[cfg(any(all(test, feature = "net"), feature = "simulation"))]
    ("simulation", simulation),
];

/// The event loop on a simulated system: the bytes are what the kernel and the clients do.
#[cfg(any(all(test, feature = "net"), feature = "simulation"))]
fn simulation(input: &[u8]) {
    assert_eq!(crate::simulation::run_bytes(input, false).violation, None);
}

/// Runs one target.
///
/// # Panics
/// If there is none of this name, or if it finds a fault.
pub fn run(name: &str, input: &[u8]) {
    let (_, body) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target's name");
    body(input);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::{TARGETS, run};

    /// Runs every input that is kept of a target. Returns how many.
    fn replay(name: &str) -> usize {
        let mut inputs = 0;
        for kept in ["corpus", "regressions"] {
            let directory =
                Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(kept).join(name);
            let Ok(files) = fs::read_dir(&directory) else { continue };
            for file in files {
                let path = file.unwrap().path();
                // Shown if it fails.
                println!("{}", path.display());
                run(name, &fs::read(path).unwrap());
                inputs += 1;
            }
        }
        inputs
    }

    #[test]
    #[cfg_attr(miri, ignore = "reads files; the other tests go over the same code")]
    fn every_input_that_is_kept_still_passes() {
        if !Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").exists() {
            // A package as published has none of them.
            return;
        }
        for (name, _) in TARGETS {
            let inputs = replay(name);
            assert!(inputs >= 10, "{name} has {inputs} inputs");
        }
    }
}
