//! The files that are installed with the program match the program.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

use crate::cli::{ipc, serve};
use crate::scratch::Scratch;

fn installed(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/systemd").join(name);
    fs::read_to_string(path).unwrap()
}

fn values<'a>(unit: &'a str, name: &str) -> Vec<&'a str> {
    let values = unit.lines().filter_map(|line| line.split_once('='));
    values.filter(|(found, _)| *found == name).map(|(_, value)| value).collect()
}

#[test]
fn the_unit_starts_the_program_with_flags_that_it_has() {
    let help = serve(&["--help"]).output().unwrap().stdout;
    let help = String::from_utf8(help).unwrap();
    let unit = installed("ipc.service");
    let commands = [values(&unit, "ExecStart"), values(&unit, "ExecStartPre")].concat();
    assert_eq!(commands.len(), 2);
    for command in commands {
        let arguments = command.strip_prefix("/usr/bin/ipc serve ").expect("our program");
        let flags = arguments.split(' ').filter(|argument| argument.starts_with("--"));
        for flag in flags {
            assert!(help.contains(flag), "{flag} is no flag of ipc serve");
        }
    }
    // The program reports all three to the service manager.
    assert_eq!(values(&unit, "Type"), ["notify"]);
    assert_eq!(values(&unit, "ExecReload"), ["/bin/kill -HUP $MAINPID"]);
    assert_eq!(values(&unit, "WatchdogSec"), ["30s"]);
}

/// The program and its manual are where the head of the unit has them installed.
#[test]
#[cfg(target_os = "linux")]
fn systemd_finds_no_fault_with_the_units() {
    let scratch = Scratch::new("units");
    let manuals = scratch.0.join("man");
    fs::create_dir_all(manuals.join("man1")).unwrap();
    let manual = ipc().arg("man").output().unwrap().stdout;
    fs::write(manuals.join("man1/ipc.1"), manual).unwrap();
    let unit = installed("ipc.service").replace("/usr/bin/ipc", env!("CARGO_BIN_EXE_ipc"));
    let units = [
        scratch.file("ipc.service", 0o644, &unit),
        scratch.file("ipc.socket", 0o644, &installed("ipc.socket")),
    ];
    let mut verify = Command::new("systemd-analyze");
    verify.arg("verify").args(units).env("MANPATH", &manuals);
    match verify.output() {
        Ok(verified) => {
            let said = String::from_utf8_lossy(&verified.stderr).into_owned();
            assert!(verified.status.success() && said.is_empty(), "{said}");
        }
        // Written directly, because the test harness would capture it.
        Err(error) => {
            let _ = writeln!(io::stderr(), "the units are not verified: systemd-analyze: {error}");
        }
    }
    let head = installed("ipc.service");
    assert!(head.contains("#   ipc man > /usr/share/man/man1/ipc.1\n"), "{head}");
}

/// Checks the settings as they are, and with every commented-out line.
#[test]
fn the_settings_beside_it_are_settings() {
    let scratch = Scratch::new("packaging");
    let text = installed("ipc.toml");
    let plain = scratch.file("plain.toml", 0o640, &text);
    let checked = serve(&["--check-config", "--config", &plain]).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let is_setting = |line: &str| line.contains(" = ") || line.starts_with('[');
    let all: String = text
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|line| is_setting(line)).unwrap_or(line))
        .flat_map(|line| [line, "\n"])
        .collect();
    for table in ["\n[tokens]\nbilling = ", "\n[[history]]\napp = "] {
        assert!(all.contains(table), "{all}");
    }
    let all = scratch.file("all.toml", 0o640, &all);
    let checked = serve(&["--check-config", "--config", &all]).output().unwrap();
    let stderr = String::from_utf8(checked.stderr).unwrap();
    // The files that the settings name are not on this machine. Nothing else is wrong.
    for line in stderr.lines() {
        assert!(line.contains("/etc/ipc/"), "{line}");
    }
    assert_eq!(stderr.lines().count(), 2, "{stderr}");
    // The users are known on the Unix socket that ipc.socket passes.
    let users = scratch.file("users.toml", 0o640, "allow-uid = [1000]\nallow-gid = [100]\n");
    let checked = serve(&["--check-config", "--config", &users]).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

fn bytes(size: &str) -> u64 {
    let digits = size.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match &size[digits.len()..] {
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        other => panic!("{other} is no unit"),
    };
    digits.parse::<u64>().unwrap() * unit
}

/// The kernel's memory for a connection that does not read is stated in SECURITY.md.
#[test]
fn the_unit_allows_the_memory_and_the_descriptors_that_its_settings_may_take() {
    const PROGRAM_BYTES: u64 = 128 << 20;
    const KERNEL_BYTES_PER_CONNECTION: u64 = 512 << 10;
    let (unit, settings) = (installed("ipc.service"), installed("ipc.toml"));
    let setting = |name: &str| {
        let mut lines = settings.lines().filter_map(|line| line.split_once(" = "));
        let (_, value) = lines.find(|(found, _)| *found == name).expect("it is set");
        value.trim_matches('"').to_owned()
    };
    let connections: u64 = setting("max-connections").parse().unwrap();
    let needed =
        bytes(&setting("max-memory")) + connections * KERNEL_BYTES_PER_CONNECTION + PROGRAM_BYTES;
    let allowed = bytes(values(&unit, "MemoryMax")[0]);
    assert!(needed <= allowed, "{needed} bytes of {allowed}");
    let descriptors: u64 = values(&unit, "LimitNOFILE")[0].parse().unwrap();
    assert!(connections + 128 <= descriptors);
}

/// The server has to share the user namespace of its clients, or it could not tell users apart.
#[test]
fn the_unit_leaves_what_the_settings_need() {
    let unit = installed("ipc.service");
    assert!(values(&unit, "PrivateUsers").is_empty());
    // The unit takes a group of system calls away and then allows one of them again, which `cpu`
    // needs.
    let filters = values(&unit, "SystemCallFilter");
    let taken = filters.iter().position(|names| names.contains("@resources"));
    let given = filters.iter().position(|names| *names == "sched_setaffinity");
    assert!(taken.is_some() && taken < given, "{filters:?}");
}
