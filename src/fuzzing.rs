//! The fuzz targets by name. Each body is beside the code that it tests, `fuzz/` only calls it, and
//! the tests here run all kept inputs.

/// The body of a target, which panics if it finds a fault with an input.
pub type Body = fn(&[u8]);

/// Every target, by its name in `fuzz/`.
pub const TARGETS: &[(&str, Body)] = &[
    ("frames", crate::proto::fuzzing::frames),
    ("envelope", crate::proto::fuzzing::envelope),
    ("attachments", crate::proto::fuzzing::attachments),
    #[cfg(feature = "broker")]
    ("broker", crate::broker::fuzzing::broker),
    #[cfg(feature = "net")]
    ("client", crate::client::fuzzing::client),
    #[cfg(all(feature = "net", target_os = "linux"))]
    ("rings", crate::net::fuzzing::rings),
    #[cfg(any(all(test, feature = "net"), feature = "simulation"))]
    ("simulation", simulation),
];

/// Runs the event loop on a simulated system. The bytes decide how the kernel and the clients act.
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

    use base64::prelude::{BASE64_STANDARD, Engine as _};

    use super::{TARGETS, run};

    /// Returns all kept inputs of a target, each with a name to print.
    fn kept(name: &str) -> Vec<(String, Vec<u8>)> {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let corpus = fs::read_to_string(fuzz.join(format!("corpus/{name}.txt")));
        let mut inputs: Vec<_> = corpus
            .unwrap_or_default()
            .lines()
            .map(|line| (line.to_owned(), BASE64_STANDARD.decode(line).expect(line)))
            .collect();
        for file in fs::read_dir(fuzz.join("regressions").join(name)).into_iter().flatten() {
            let path = file.unwrap().path();
            inputs.push((path.display().to_string(), fs::read(path).unwrap()));
        }
        inputs
    }

    #[test]
    #[cfg_attr(miri, ignore = "reads files; the other tests go over the same code")]
    fn every_input_that_is_kept_still_passes() {
        if !Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").exists() {
            // The published package does not contain them.
            return;
        }
        for (name, _) in TARGETS {
            let inputs = kept(name);
            assert!(inputs.len() >= 10, "{name} has {} inputs", inputs.len());
            for (shown, input) in inputs {
                // When a test fails, the last line printed is the input that made it fail.
                println!("{name}: {shown}");
                run(name, &input);
            }
        }
    }
}
