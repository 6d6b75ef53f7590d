//! Peers that are packages for Node, installed below the target directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const NODE: &str = "node";
/// The files that say which packages are installed.
const FILES: [&str; 2] = ["package.json", "package-lock.json"];

/// Returns Node, after it has the packages that `perf/node` names.
pub(crate) fn with_peers(root: &Path, state: &Path) -> Result<PathBuf, String> {
    let home = state.join("node");
    let stamp = home.join("installed");
    fs::create_dir_all(&home).map_err(|error| format!("{}: {error}", home.display()))?;
    let mut wanted = String::new();
    for name in FILES {
        let path = script(root, name);
        let text = fs::read_to_string(&path);
        let text = text.map_err(|error| format!("{}: {error}", path.display()))?;
        let copy = home.join(name);
        fs::write(&copy, &text).map_err(|error| format!("{}: {error}", copy.display()))?;
        wanted += &text;
    }
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(NODE.into());
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--silent", "--no-audit", "--no-fund"]).current_dir(&home);
    npm.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if !npm.status().is_ok_and(|status| status.success()) {
        return Err("npm could not install what perf/node/package-lock.json names".into());
    }
    fs::write(&stamp, wanted).map_err(|error| format!("{}: {error}", stamp.display()))?;
    Ok(NODE.into())
}

/// Returns the directory of the installed packages.
pub(crate) fn modules(state: &Path) -> PathBuf {
    state.join("node/node_modules")
}

/// Returns the path of a file in `perf/node`.
pub(crate) fn script(root: &Path, name: &str) -> PathBuf {
    root.join("perf/node").join(name)
}
