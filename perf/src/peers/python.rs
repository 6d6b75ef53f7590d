//! Peers that are Python packages, in a virtual environment below the target directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const NUMPY: &str = "numpy==2.4.6";

/// Returns a Python with the published package, in the version that the interop tests pin.
pub(crate) fn with_published_package(root: &Path, state: &Path) -> Result<PathBuf, String> {
    let pinned = root.join("tests/interop/requirements.txt");
    environment("published", &pinned, state)
}

/// Returns a Python with the package of this repository, built as users get it.
pub(crate) fn with_own_package(root: &Path, state: &Path) -> Result<PathBuf, String> {
    let home = state.join("python-own");
    let python = home.join("bin/python");
    if !python.exists() && !run(Command::new("python3").args(["-m", "venv"]).arg(&home)) {
        return Err("`python3 -m venv` failed; is Python with venv installed?".into());
    }
    let mut pip = Command::new(&python);
    // Tensors are received as arrays of NumPy.
    pip.args(["-m", "pip", "install", "--quiet", NUMPY]).arg(root.join("clients/python"));
    if run(&mut pip) {
        Ok(python)
    } else {
        Err("pip could not build clients/python; see `pip install clients/python`".into())
    }
}

/// Returns a Python with pyzmq.
pub(crate) fn with_zeromq(root: &Path, state: &Path) -> Result<PathBuf, String> {
    environment("zeromq", &script(root, "zeromq-requirements.txt"), state)
}

/// Returns a Python with nats-py.
pub(crate) fn with_nats(root: &Path, state: &Path) -> Result<PathBuf, String> {
    environment("nats", &script(root, "nats-requirements.txt"), state)
}

/// Returns a Python with redis-py.
pub(crate) fn with_redis(root: &Path, state: &Path) -> Result<PathBuf, String> {
    environment("redis", &script(root, "redis-requirements.txt"), state)
}

/// Returns a Python with grpcio.
pub(crate) fn with_grpc(root: &Path, state: &Path) -> Result<PathBuf, String> {
    environment("grpc", &script(root, "grpc-requirements.txt"), state)
}

/// Returns the path of a file in `perf/python`.
pub(crate) fn script(root: &Path, name: &str) -> PathBuf {
    root.join("perf/python").join(name)
}

fn environment(name: &str, requirements: &Path, state: &Path) -> Result<PathBuf, String> {
    let home = state.join(format!("python-{name}"));
    let python = home.join("bin/python");
    let stamp = home.join("installed");
    let wanted = fs::read_to_string(requirements)
        .map_err(|error| format!("{}: {error}", requirements.display()))?;
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    if !run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home)) {
        return Err("`python3 -m venv` failed; is Python with venv installed?".into());
    }
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(requirements);
    if !run(&mut pip) {
        return Err(format!("pip could not install what {} names", requirements.display()));
    }
    fs::write(&stamp, wanted).map_err(|error| format!("{}: {error}", stamp.display()))?;
    Ok(python)
}

fn run(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
