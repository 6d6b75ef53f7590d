//! The map of the code in `docs/about/architecture.md` names every room and every file that is easy
//! to miss, and no file that does not exist.

use std::path::{Path, PathBuf};

use super::{files, has_extension};

const PAGE: &str = "docs/about/architecture.md";
/// Folders whose files need no name of their own, because their names say everything to somebody
/// who has found the folder.
const SELF_EXPLANATORY: [&str; 3] = ["src/cli", "src/simulation", "src/broker/fuzzing"];

/// Returns the map, which is the code block of its section.
fn map() -> String {
    let page = files().into_iter().find(|(path, _)| path == Path::new(PAGE));
    let (_, page) = page.expect("the page of the map");
    let (_, section) = page.split_once("## Where things are\n").expect("the section of the map");
    section.split("```").nth(1).expect("the map").to_owned()
}

/// Returns the files and folders that the map names.
fn names(map: &str) -> Vec<&Path> {
    let is_part = |char: char| char.is_alphanumeric() || "._/-".contains(char);
    let names = map.split(|char| !is_part(char)).map(|name| name.trim_end_matches(['.', '/']));
    names.filter(|name| !name.is_empty()).map(Path::new).collect()
}

fn needs_a_name(path: &Path) -> bool {
    let is_test = path.components().any(|part| part.as_os_str() == "tests")
        || path.file_name().is_some_and(|name| name == "tests.rs");
    let is_code = path.starts_with("src") && has_extension(path, &["rs"]);
    let is_inner = SELF_EXPLANATORY.iter().any(|folder| path.starts_with(folder))
        || path.parent().is_some_and(|folder| folder.ends_with("json"));
    is_code && !is_test && !is_inner && !path.ends_with("mod.rs")
}

/// Returns the folders that need a name: those at the top and the rooms of the crate.
fn rooms(paths: &[PathBuf]) -> Vec<PathBuf> {
    let mut rooms = Vec::new();
    for path in paths {
        let mut parts = path.components();
        let depth = if path.starts_with("src") { 2 } else { 1 };
        let room: PathBuf = parts.by_ref().take(depth).collect();
        let is_hidden = path.to_string_lossy().starts_with('.');
        if parts.next().is_some() && !is_hidden && !rooms.contains(&room) {
            rooms.push(room);
        }
    }
    rooms
}

#[test]
fn the_map_of_the_documents_is_that_of_the_tree() {
    let map = map();
    let names = names(&map);
    let paths: Vec<PathBuf> = files().into_iter().map(|(path, _)| path).collect();
    let mut complaints = Vec::new();
    for name in names.iter().filter(|name| has_extension(name, &["rs", "js", "py"])) {
        if !paths.iter().any(|path| path.ends_with(name)) {
            complaints.push(format!("{PAGE} names {}, which does not exist", name.display()));
        }
    }
    for path in paths.iter().filter(|path| needs_a_name(path)) {
        if !names.iter().any(|name| path.ends_with(name)) {
            complaints.push(format!("{PAGE} does not name {}", path.display()));
        }
    }
    for room in rooms(&paths) {
        let is_named = names.iter().any(|name| room.ends_with(name) || name.starts_with(&room));
        if !is_named && !room.starts_with("proptest-regressions") {
            complaints.push(format!("{PAGE} does not name {}/", room.display()));
        }
    }
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}
