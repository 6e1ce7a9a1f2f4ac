//! House rules that a program can check. Each finding is one line.

use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Longest source file. Beyond this a file has more than one responsibility.
const MAX_LINES: usize = 800;

/// Files that may be longer, each with the reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// Words that mark unfinished work. They are put together here so that this file does not contain them.
const UNFINISHED: &[&str] = &[
    concat!("to", "do!"),
    concat!("unimple", "mented!"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("HA", "CK"),
    concat!("#[ig", "nore"),
];

/// Attributes that let a module use raw memory.
const UNSAFE_ALLOWED: &[&str] = &[concat!("allow(uns", "afe_code"), concat!("expect(uns", "afe_code")];

/// Directories that hold no source of ours.
const SKIPPED: &[&str] = &["target", "node_modules"];

/// Checks the workspace at `root` and returns what breaks a rule.
pub fn check(root: &Path) -> Result<Vec<String>> {
    let mut sources = Vec::new();
    collect(root, root, &mut sources)?;
    let architecture = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap_or_default();
    Ok(findings(&sources, &architecture))
}

/// A Rust file or a manifest: its path from the root, and its text.
type Source = (String, String);

fn collect(root: &Path, dir: &Path, sources: &mut Vec<Source>) -> Result<()> {
    let mut entries = fs::read_dir(dir)
        .and_then(|entries| entries.collect::<std::io::Result<Vec<_>>>())
        .with_context(|| format!("cannot read {}", dir.display()))?;
    entries.sort_by_key(|entry| entry.file_name());
    for entry in entries {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type()?;
        if kind.is_dir() && !name.starts_with('.') && !SKIPPED.contains(&name.as_str()) {
            collect(root, &path, sources)?;
        } else if kind.is_file() && (name.ends_with(".rs") || name == "Cargo.toml") {
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            sources.push((path.strip_prefix(root)?.to_string_lossy().into_owned(), text));
        }
    }
    Ok(())
}

fn findings(sources: &[Source], architecture: &str) -> Vec<String> {
    let mut found = Vec::new();
    let unsafe_modules = unsafe_modules(architecture);
    let root = sources.iter().find(|(path, _)| path == "Cargo.toml").map_or("", |(_, text)| text);
    let mut unsafe_used = Vec::new();
    for (path, text) in sources {
        if path.ends_with("Cargo.toml") {
            if text.contains("[package]") && !text.replace(' ', "").contains("[lints]\nworkspace=true") {
                found.push(format!("{path} does not take the workspace's lints"));
            }
            // A crate that is a workspace of its own repeats them.
            if text.contains("[package]") && text.contains("[workspace]") && lints(text) != lints(root) {
                found.push(format!("{path} has other lints than the workspace at the root"));
            }
            continue;
        }
        let lines = text.lines().count();
        if lines > MAX_LINES && !LONG_FILES.iter().any(|(long, _)| long == path) {
            found.push(format!("{path} has {lines} lines, more than {MAX_LINES}"));
        }
        for (number, line) in text.lines().enumerate() {
            for word in UNFINISHED.iter().filter(|word| contains_word(line, word)) {
                found.push(format!("{path}:{} has `{word}`", number + 1));
            }
            if UNSAFE_ALLOWED.iter().any(|attribute| line.contains(attribute)) {
                unsafe_used.push(path.as_str());
                if !unsafe_modules.iter().any(|entry| covers(entry, path)) {
                    found.push(format!(
                        "{path}:{} allows unsafe code but is not in ARCHITECTURE.md's list of such modules",
                        number + 1
                    ));
                }
            }
        }
    }
    for (path, _) in LONG_FILES {
        let long = sources.iter().any(|(name, text)| name == path && text.lines().count() > MAX_LINES);
        if !long {
            found.push(format!("{path} is in the list of long files and is not one"));
        }
    }
    for entry in unsafe_modules {
        if !unsafe_used.iter().any(|path| covers(entry, path)) {
            found.push(format!("ARCHITECTURE.md lists {entry} as unsafe code and nothing there allows it"));
        }
    }
    found
}

/// What a manifest says about lints: the lines of its sections `[workspace.lints.…]`, without comments.
fn lints(manifest: &str) -> Vec<&str> {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in manifest.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if line.starts_with('[') {
            inside = line.starts_with("[workspace.lints.");
        }
        if inside {
            lines.push(line);
        }
    }
    lines
}

/// Whether a word stands in the line and is not a part of a longer one.
fn contains_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let open =
            word.ends_with(part) && line[at + word.len()..].starts_with(part) && !word.starts_with('#');
        !open && !line[..at].ends_with(part)
    })
}

/// Whether an entry of the list, a file or a directory ending in `/`, covers a file.
fn covers(entry: &str, path: &str) -> bool {
    entry == path || (entry.ends_with('/') && path.starts_with(entry))
}

/// Paths in back quotes in those sections of the text whose heading speaks of unsafe code.
fn unsafe_modules(architecture: &str) -> BTreeSet<&str> {
    let mut inside = false;
    let mut paths = BTreeSet::new();
    for line in architecture.lines() {
        if line.starts_with('#') {
            inside = line.to_lowercase().contains("unsafe");
        } else if inside {
            paths.extend(line.split('`').skip(1).step_by(2).filter(|quoted| quoted.contains('/')));
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_one(path: &str, text: &str, architecture: &str) -> Vec<String> {
        findings(&[(path.to_owned(), text.to_owned())], architecture)
    }

    #[test]
    fn unfinished_work_is_found_with_its_line() {
        for word in UNFINISHED {
            let found = check_one("a/src/lib.rs", &format!("fn f() {{}}\n// {word} later\n"), "");
            assert_eq!(found, [format!("a/src/lib.rs:2 has `{word}`")]);
        }
    }

    #[test]
    fn ignore_with_a_reason_is_found_too() {
        let line = format!("{} = \"slow\"]", UNFINISHED[5]);
        assert_eq!(check_one("a.rs", &line, "").len(), 1);
    }

    #[test]
    fn marks_inside_longer_words_are_fine() {
        let text = format!("const {}ER: u8 = 0;\nlet my_{} = 1;", UNFINISHED[4], UNFINISHED[3]);
        assert_eq!(check_one("a.rs", &text, ""), Vec::<String>::new());
    }

    #[test]
    fn long_file_is_found() {
        assert!(check_one("a.rs", &"\n".repeat(MAX_LINES), "").is_empty());
        assert_eq!(check_one("a.rs", &"\n".repeat(MAX_LINES + 1), "").len(), 1);
    }

    #[test]
    fn unsafe_module_must_be_listed_under_its_heading() {
        let text = format!("#![{}, reason = \"maps memory\")]", UNSAFE_ALLOWED[0]);
        let listed = "# Map\n\n## Where unsafe code is\n\n| `core/src/ram.rs` | maps memory |\n\n## Else\n";
        assert!(check_one("core/src/ram.rs", &text, listed).is_empty());
        assert_eq!(check_one("core/src/ram.rs", &text, "# Map\n\n`core/src/ram.rs`\n").len(), 1);
        assert_eq!(check_one("core/src/other.rs", &text, listed).len(), 2, "not listed, and a stale entry");
    }

    #[test]
    fn unsafe_directory_covers_what_is_below_it() {
        let text = format!("#![{})]", UNSAFE_ALLOWED[0]);
        let listed = "## Unsafe code\n| `core/tests/` (`*_silicon.rs`) | inline assembly |\n";
        assert!(check_one("core/tests/a_silicon/main.rs", &text, listed).is_empty());
        assert_eq!(check_one("core/testsuite.rs", &text, listed).len(), 2, "not below it, and a stale entry");
    }

    #[test]
    fn stale_entry_of_the_unsafe_list_is_found() {
        assert_eq!(check_one("core/src/ram.rs", "", "## Unsafe\n`core/src/ram.rs`").len(), 1);
    }

    #[test]
    fn manifest_without_the_workspace_lints_is_found() {
        assert_eq!(check_one("a/Cargo.toml", "[package]\nname = \"a\"\n", "").len(), 1);
        assert!(check_one("a/Cargo.toml", "[package]\n[lints]\nworkspace = true\n", "").is_empty());
        assert!(check_one("Cargo.toml", "[workspace]\n", "").is_empty());
    }

    #[test]
    fn manifest_of_another_workspace_must_repeat_the_lints() {
        const LINTS: &str = "[workspace.lints.rust]\n# Why.\nunsafe_code = \"deny\"\n\n[profile.release]\n";
        let other = |lints: &str| {
            let text = format!("[package]\n[lints]\nworkspace = true\n[workspace]\n{lints}");
            findings(&[("Cargo.toml".into(), LINTS.into()), ("fuzz/Cargo.toml".into(), text)], "")
        };
        assert!(other(LINTS).is_empty());
        assert!(other("[workspace.lints.rust]\nunsafe_code=\"deny\"").len() == 1);
        assert_eq!(other("").len(), 1);
    }
}
