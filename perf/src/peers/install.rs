//! Peers that are Debian packages. They are installed if the machine does not have them.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Directories with programs that may be missing from `PATH`.
const SYSTEM_DIRECTORIES: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

/// Finds `program`, or installs its Debian package: with apt if this runs as root, and unpacked
/// below `state` otherwise. The error says why the peer is left out.
pub(crate) fn program(program: &str, package: &str, state: &Path) -> Result<PathBuf, String> {
    let unpacked = state.join("debian");
    let find = || find(program, &unpacked);
    if let Some(found) = find() {
        return Ok(found);
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        return Err(format!("{program} is not installed, and there is no apt-get to install it"));
    }
    let is_installed = if rustix::process::geteuid().is_root() {
        run(apt().args(["install", "-y", "--no-install-recommends", package]))
    } else {
        unpack(package, &unpacked)
    };
    match (is_installed, find()) {
        (true, Some(found)) => Ok(found),
        _ => Err(format!("{program} is not installed, and apt-get could not bring {package}")),
    }
}

fn find(program: &str, unpacked: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = ["usr/bin", "usr/sbin"].map(|directory| unpacked.join(directory));
    std::env::split_paths(&path)
        .chain(SYSTEM_DIRECTORIES.map(PathBuf::from))
        .chain(own)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.exists())
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Downloads a package with its dependencies, and unpacks all of them.
fn unpack(package: &str, into: &Path) -> bool {
    let simulated =
        apt().args(["install", "--simulate", "--no-install-recommends", package]).output();
    let Ok(simulated) = simulated else { return false };
    let text = String::from_utf8_lossy(&simulated.stdout).into_owned();
    let needed: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split_whitespace().next())
        .collect();
    if needed.is_empty() || fs::create_dir_all(into).is_err() {
        return false;
    }
    if !run(apt().arg("download").args(&needed).current_dir(into)) {
        return false;
    }
    let Ok(files) = fs::read_dir(into) else { return false };
    let packages = files.flatten().map(|file| file.path());
    packages
        .filter(|path| path.extension().is_some_and(|found| found == "deb"))
        .all(|path| run(Command::new("dpkg").arg("-x").arg(path).arg(into)))
}

fn run(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Returns a command for a program that may be unpacked and not installed.
pub(crate) fn command(program: &Path, state: &Path) -> Command {
    let mut command = Command::new(program);
    if program.starts_with(state) {
        let library = state.join("debian/usr/lib");
        let triple = library.join(format!("{}-linux-gnu", std::env::consts::ARCH));
        let mut paths = OsString::from(triple);
        paths.push(":");
        paths.push(library);
        command.env("LD_LIBRARY_PATH", paths);
    }
    command
}
