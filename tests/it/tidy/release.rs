//! What the packages of a release have in common comes from one place, and each contains what belongs in it. Building
//! and installing them takes minutes, and packaging/check does it.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use super::{files, root};

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Whether this is the repository. A published crate contains none of the other packages.
fn is_repository() -> bool {
    root().join("packaging").is_dir()
}

/// Returns what is between `before` and the next `after`.
fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("no {before:?}"));
    rest.split_once(after).map_or(rest, |(found, _)| found)
}

fn cargo(arguments: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().expect("cargo");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {}: {stderr}", arguments.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_package_has_the_version_of_the_workspace() {
    if !is_repository() {
        return;
    }
    let version = env!("CARGO_PKG_VERSION");
    let workspace = read("Cargo.toml");
    let workspace = between(&workspace, "[workspace.package]\n", "\n\n");
    assert_eq!(between(workspace, "version = \"", "\""), version);
    for manifest in ["Cargo.toml", "clients/python/Cargo.toml", "rings/Cargo.toml"] {
        let text = read(manifest);
        let package = between(&text, "[package]\n", "\n\n");
        for inherited in ["version", "edition", "rust-version", "license"] {
            assert!(
                package.contains(&format!("{inherited}.workspace = true")),
                "{manifest}: {inherited}"
            );
        }
    }
    let rings = format!("ipc-framework-rings = {{ path = \"rings\", version = \"{version}\"");
    assert!(read("Cargo.toml").contains(&rings), "Cargo.toml: ipc-framework-rings");
    // maturin takes it from Cargo.toml.
    let python = read("clients/python/pyproject.toml");
    assert!(between(&python, "[project]\n", "\n[").contains("dynamic = [\"version\"]"));

    let npm = read("clients/node/package.json");
    assert_eq!(between(&npm, "\"version\": \"", "\""), version, "package.json");
    let lock = read("clients/node/package-lock.json");
    for start in ["{", "\"\": {"] {
        let package = between(&lock, start, "}");
        assert_eq!(between(package, "\"version\": \"", "\""), version, "package-lock.json");
    }
    let changes = read("CHANGELOG.md");
    let newest = between(&changes, "\n## ", "\n").to_owned();
    assert!(newest.split([',', ' ']).next() == Some(version), "CHANGELOG.md begins with {newest}");
}

/// Names of packages end in their version: `ipc-framework-0.1.0.tgz`.
#[test]
fn the_documents_name_packages_of_this_version() {
    let version = env!("CARGO_PKG_VERSION");
    let mut named = 0;
    for (path, text) in files() {
        if !path.starts_with("docs") && !path.ends_with("README.md") {
            continue;
        }
        let packages = ["ipc-framework-", "ipc-framework_", "ipc_framework_rs-"];
        for (at, name) in packages.iter().flat_map(|name| text.match_indices(name)) {
            let rest = &text[at + name.len()..];
            if rest.starts_with(|char: char| char.is_ascii_digit()) {
                named += 1;
                let found =
                    rest.split(|char: char| !char.is_ascii_digit() && char != '.').next().unwrap();
                assert!(
                    found.trim_end_matches('.') == version
                        || found.starts_with(&format!("{version}.")),
                    "{}: {name}{found}, and the version is {version}",
                    path.display()
                );
            }
        }
    }
    assert!(named > 0 || !is_repository(), "no document names a package");
}

#[test]
fn every_package_has_the_one_licence() {
    let licence = read("LICENSE");
    assert!(licence.starts_with("MIT License"));
    let copies = ["clients/node/LICENSE", "clients/python/LICENSE", "rings/LICENSE"];
    for copy in copies.into_iter().filter(|_| is_repository()) {
        assert!(read(copy) == licence, "{copy} differs from LICENSE");
    }
    for (path, field) in [
        ("clients/node/package.json", "\"license\": \"MIT\""),
        ("clients/python/pyproject.toml", "license = \"MIT\""),
        ("Cargo.toml", "\nlicense = \"MIT\"\n"),
    ] {
        assert!(!is_repository() || read(path).contains(field), "{path} has another licence");
    }
}

#[test]
fn the_crate_contains_what_belongs_in_it() {
    if !is_repository() {
        return;
    }
    let listed =
        cargo(&["package", "--list", "--allow-dirty", "--offline", "--package", "ipc-framework"]);
    let mut top: BTreeSet<&str> =
        listed.lines().map(|path| path.split('/').next().unwrap()).collect();
    // Only in a clone that git knows.
    top.remove(".cargo_vcs_info.json");
    let expected = [
        "CHANGELOG.md",
        "Cargo.lock",
        "Cargo.toml",
        "Cargo.toml.orig",
        "LICENSE",
        "PROTOCOL.md",
        "README.md",
        "SECURITY.md",
        "examples",
        "src",
    ];
    assert_eq!(top, expected.into());
}

/// What a program that embeds the server waits for. An optional feature may add to it, the default may not.
#[test]
fn the_default_features_need_few_crates() {
    const CRATES_MAX: usize = 46;
    let arguments = [
        "tree",
        "--locked",
        "--offline",
        "--package",
        "ipc-framework",
        "--edges",
        "normal,build",
        "--prefix",
        "none",
        "--no-dedupe",
        "--format",
        "{p}",
    ];
    let tree = cargo(&arguments);
    let crates: BTreeSet<_> = tree.lines().map(|line| line.split(" (").next().unwrap()).collect();
    let others = crates.len() - 1;
    assert!(others > 10 && others <= CRATES_MAX, "{others} crates, over {CRATES_MAX}: {crates:?}");
}
