//! Comments are sentences. A comment that begins with a question word usually is not one: "Whether
//! it is open", "Who waits", "Where it stands".

use std::collections::BTreeMap;
use std::path::Path;

use super::{files, has_extension};

const QUESTION_WORDS: [&str; 5] = ["What", "Who", "Whether", "Where", "How"];
/// The largest share of such comments in each tree: one comment block in twenty.
const PERCENT_MAX: usize = 5;
const TREES: [&str; 8] =
    ["benches", "clients", "examples", "fuzz", "perf", "rings", "src", "tests"];

#[derive(Default)]
struct Count {
    blocks: usize,
    questions: usize,
}

impl Count {
    fn add(&mut self, first_line: &str) {
        self.blocks += 1;
        let word = first_line.split(|char: char| !char.is_alphanumeric()).next();
        self.questions += usize::from(word.is_some_and(|word| QUESTION_WORDS.contains(&word)));
    }
}

/// The way in which a file writes comments.
#[derive(Clone, Copy)]
enum Language {
    /// `//`, `///`, `//!`, and blocks between `/*` and `*/`.
    C,
    /// `#`, and a text in triple quotes that stands alone.
    Script,
}

fn language(path: &Path) -> Option<Language> {
    if has_extension(path, &["rs", "js", "mjs", "cjs", "ts", "cts", "mts"]) {
        Some(Language::C)
    } else if has_extension(path, &["py", "pyi", "sh"]) || path.ends_with("run") {
        Some(Language::Script)
    } else {
        None
    }
}

/// Returns the first line of each comment block. Comments of different kinds are different blocks,
/// even on adjacent lines.
fn first_lines(text: &str, language: Language) -> Vec<String> {
    let (open, close) = match language {
        Language::C => ("/*", "*/"),
        Language::Script => ("\"\"\"", "\"\"\""),
    };
    let mut found = Vec::new();
    // The kind of the comment that the line above belongs to.
    let mut kind = "";
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix(open) {
            kind = "";
            let mut words = rest.split(close).next().unwrap_or_default();
            words = words.trim_start_matches('*').trim();
            let mut is_closed = rest.contains(close);
            while !is_closed {
                let Some(line) = lines.next() else { break };
                is_closed = line.contains(close);
                if words.is_empty() {
                    words = line.trim_start_matches(['*', '/']).trim();
                }
            }
            found.push(words.to_owned());
            continue;
        }
        let marks: &[&str] = match language {
            Language::C => &["///", "//!", "//"],
            Language::Script => &["#:", "#!", "#"],
        };
        let mark = marks.iter().find(|mark| line.starts_with(**mark)).copied().unwrap_or("");
        let words = line[mark.len()..].trim();
        if ["", "#!"].contains(&mark) {
            kind = "";
        } else if mark != kind && !words.is_empty() {
            kind = mark;
            found.push(words.to_owned());
        }
    }
    found
}

#[test]
fn few_comments_begin_with_a_question_word() {
    let mut counts: BTreeMap<&str, Count> = BTreeMap::new();
    for (path, text) in files() {
        let tree = TREES.iter().find(|tree| path.starts_with(tree));
        let (Some(tree), Some(language)) = (tree, language(&path)) else { continue };
        let count = counts.entry(tree).or_default();
        for words in first_lines(&text, language) {
            count.add(&words);
        }
    }
    let mut excess = Vec::new();
    for tree in TREES {
        let Count { blocks, questions } = counts.remove(tree).unwrap_or_default();
        println!("{tree}: {questions} of {blocks} comments begin with a question word");
        assert!(blocks > 0, "{tree} has no comments: this test does not see its files");
        if questions * 100 > blocks * PERCENT_MAX {
            excess.push(format!("{tree}: {questions} of {blocks}, over {PERCENT_MAX} %"));
        }
    }
    assert!(
        excess.is_empty(),
        "say it in a sentence or begin with a noun: {QUESTION_WORDS:?}\n{}",
        excess.join("\n")
    );
}

#[test]
fn comment_blocks_are_found_in_each_language() {
    let rust = "//! Top.\n//! Goes on.\n\n/// What it is.\n//\n// Apart.\nlet x = 1; // not alone\n\
                /* A block\n   of two lines */\n// Last.";
    let expected = ["Top.", "What it is.", "Apart.", "A block", "Last."];
    assert_eq!(first_lines(rust, Language::C), expected);
    let script = "#!/bin/sh\n\"\"\"One line.\"\"\"\n# Who comes,\n# and goes.\nx = 1  # not alone\n\
                  \"\"\"\nBehind an empty line.\n\"\"\"\n#: An attribute.\n# Another.";
    let expected =
        ["One line.", "Who comes,", "Behind an empty line.", "An attribute.", "Another."];
    assert_eq!(first_lines(script, Language::Script), expected);
    let mut count = Count::default();
    for words in ["Who comes,", "Whoever comes", "What's new", "A door", "However"] {
        count.add(words);
    }
    assert_eq!((count.questions, count.blocks), (2, 5));
}
