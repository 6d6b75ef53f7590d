//! The machine and the build, as a record names them.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::pin::Cpus;

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: f64,
    pub(crate) kernel: String,
    pub(crate) is_virtual: bool,
    pub(crate) server_cpu: usize,
    pub(crate) generator_cpu: usize,
    /// Load of the last minute before the run began.
    pub(crate) load_before: f64,
    pub(crate) rustc: String,
    pub(crate) commit: String,
    /// The work tree differs from the commit.
    pub(crate) is_dirty: bool,
}

impl Machine {
    pub(crate) fn look(root: &Path, cpus: Cpus) -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find_map(|line| line.strip_prefix("model name"));
        let model = model.and_then(|line| line.split_once(':')).map_or("unknown", |(_, name)| name);
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kibibytes = total.and_then(|total| total.trim().strip_suffix(" kB")?.parse().ok());
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let git = |arguments: &[&str]| say(Command::new("git").args(arguments).current_dir(root));
        Self {
            cpu: model.trim().to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from).max(cores(&info)),
            memory_gib: (kibibytes.unwrap_or(0.0_f64) / f64::from(1 << 20) * 10.0).round() / 10.0,
            kernel: say(Command::new("uname").arg("-rvm")),
            is_virtual: info.contains(" hypervisor"),
            server_cpu: cpus.server,
            generator_cpu: cpus.generator,
            load_before: load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
            rustc: say(Command::new("rustc").arg("--version")),
            commit: git(&["rev-parse", "HEAD"]),
            is_dirty: !git(&["status", "--porcelain", "--untracked-files=no"]).is_empty(),
        }
    }

    /// Returns the processor's name in a form that suits a directory.
    pub(crate) fn slug(&self) -> String {
        let lower = self.cpu.to_lowercase();
        let words = lower.split(|char: char| !char.is_ascii_alphanumeric());
        words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-")
    }
}

fn cores(info: &str) -> usize {
    info.lines().filter(|line| line.starts_with("processor")).count()
}

fn say(command: &mut Command) -> String {
    let output = command.output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.unwrap_or_default().trim().to_owned()
}
