//! Expected lines, and QEMU's where they differ.
//!
//! `NAME.expected` is what the program has to print. `NAME.qemu` holds QEMU's version of single lines below
//! the reason for the difference:
//!
//! ```text
//! # Why QEMU is wrong or may differ; the SDM's section.
//! name of a case: what QEMU prints
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Reason of a difference that nobody has looked at yet.
pub const UNEXPLAINED: &str = "unexplained";

/// Width that reasons are wrapped to.
const WIDTH: usize = 110;

/// Directory of the files.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bare")
}

/// File with the expected lines.
pub fn expected_file(name: &str) -> PathBuf {
    directory().join(format!("{name}.expected"))
}

/// File with the differences of QEMU.
pub fn qemu_file(name: &str) -> PathBuf {
    directory().join(format!("{name}.qemu"))
}

/// Name of the case a line belongs to.
pub fn case_name(line: &str) -> &str {
    line.split_once(": ").map_or(line, |(name, _)| name)
}

/// QEMU's line, or one that says there is none.
fn or_nothing(line: Option<&str>, name: &str) -> String {
    line.map_or_else(|| format!("{name}: nothing"), str::to_owned)
}

/// Differing lines between what is expected and what was printed, at most `max`.
pub fn differences(expected: &str, found: &str, max: usize) -> Vec<String> {
    let by_name: BTreeMap<_, _> = found.lines().map(|line| (case_name(line), line)).collect();
    let mut different = Vec::new();
    for line in expected.lines() {
        match by_name.get(case_name(line)) {
            Some(&other) if other == line => {}
            Some(other) => different.push(format!("expected  {line}\n  found     {other}")),
            None => different.push(format!("expected  {line}\n  found     nothing")),
        }
    }
    if different.is_empty() && expected != found {
        different.push("lines were added, or their order has changed".into());
    }
    let more = different.len().saturating_sub(max);
    different.truncate(max);
    if more > 0 {
        different.push(format!("and {more} more"));
    }
    different
}

/// A reason as lines of a file.
fn comment(reason: &str) -> String {
    let mut text = String::new();
    let mut column = usize::MAX;
    for word in reason.split(' ') {
        if column.saturating_add(word.len()) >= WIDTH {
            text.push_str(if text.is_empty() { "#" } else { "\n#" });
            column = 1;
        }
        text.push(' ');
        text.push_str(word);
        column += word.len() + 1;
    }
    text.push('\n');
    text
}

/// QEMU's lines that differ, by the name of their case.
#[derive(Clone, Debug, Default)]
pub struct Explained {
    lines: BTreeMap<String, (String, String)>,
}

impl Explained {
    /// Reads the text of a file.
    pub fn parse(text: &str) -> Self {
        let mut reason = String::new();
        let mut in_reason = false;
        let mut lines = BTreeMap::new();
        for line in text.lines() {
            if let Some(part) = line.strip_prefix("# ") {
                if !in_reason {
                    reason.clear();
                } else {
                    reason.push(' ');
                }
                reason.push_str(part);
                in_reason = true;
            } else {
                in_reason = false;
                if !line.is_empty() {
                    lines.insert(case_name(line).to_owned(), (reason.clone(), line.to_owned()));
                }
            }
        }
        Self { lines }
    }

    /// Reads a program's file; without one nothing differs.
    pub fn load(name: &str) -> Self {
        Self::parse(&fs::read_to_string(qemu_file(name)).unwrap_or_default())
    }

    /// What is wrong: lines of QEMU that are neither expected nor explained, and explanations of lines that
    /// do not differ (any more).
    pub fn check(&self, expected: &str, qemu: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        let found: BTreeMap<_, _> = qemu.lines().map(|line| (case_name(line), line)).collect();
        for line in expected.lines() {
            let name = case_name(line);
            let theirs = or_nothing(found.get(name).copied(), name);
            match self.lines.get(name) {
                Some((_, known)) if theirs == line => {
                    wrong.push(format!("explained, but QEMU agrees\n  file      {known}"));
                }
                Some((reason, _)) if reason.starts_with(UNEXPLAINED) => {
                    wrong.push(format!("no reason is given\n  expected  {line}\n  QEMU      {theirs}"));
                }
                Some((_, known)) if theirs == *known => {}
                Some((_, known)) => {
                    wrong.push(format!("another difference\n  QEMU      {theirs}\n  file      {known}"));
                }
                None if theirs == line => {}
                None => {
                    wrong.push(format!("not explained\n  expected  {line}\n  QEMU      {theirs}"));
                }
            }
        }
        let names: BTreeMap<_, _> = expected.lines().map(|line| (case_name(line), ())).collect();
        for name in self.lines.keys().filter(|name| !names.contains_key(name.as_str())) {
            wrong.push(format!("explained, but there is no case {name}"));
        }
        wrong
    }

    /// The file's text for what QEMU prints now: known lines keep their reason, others get
    /// [`UNEXPLAINED`].
    pub fn updated(&self, expected: &str, qemu: &str) -> String {
        let found: BTreeMap<_, _> = qemu.lines().map(|line| (case_name(line), line)).collect();
        // Reasons in the order of their first case.
        let mut groups: Vec<(String, Vec<String>)> = Vec::new();
        for line in expected.lines() {
            let theirs = or_nothing(found.get(case_name(line)).copied(), case_name(line));
            if theirs == line {
                continue;
            }
            let reason = match self.lines.get(case_name(line)) {
                Some((reason, known)) if *known == theirs => reason.as_str(),
                _ => UNEXPLAINED,
            };
            match groups.iter_mut().find(|(known, _)| known == reason) {
                Some((_, lines)) => lines.push(theirs),
                None => groups.push((reason.to_owned(), vec![theirs])),
            }
        }
        let mut text = String::new();
        for (reason, lines) in groups {
            text.push_str(&format!("{}{}\n\n", comment(&reason), lines.join("\n")));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: &str = "a: ok\nb: #GP(0) +0\nc: ok\n[exit]\n";

    #[test]
    fn line_that_differs_needs_a_reason_and_a_reason_a_difference() {
        let qemu = "a: ok\nb: ok\nc: ok\n[exit]\n";
        assert_eq!(Explained::default().check(EXPECTED, qemu).len(), 1);
        let known = Explained::parse("# No limits.\n# SDM.\nb: ok\n");
        assert!(known.check(EXPECTED, qemu).is_empty());
        assert_eq!(known.check(EXPECTED, EXPECTED).len(), 1, "it agrees now");
        assert_eq!(Explained::parse("# No limits.\nb: hit\n").check(EXPECTED, qemu).len(), 1);
        assert_eq!(Explained::parse("# unexplained\nb: ok\n").check(EXPECTED, qemu).len(), 1);
        assert_eq!(Explained::parse("# No limits.\nb: ok\nd: ok\n").check(EXPECTED, qemu).len(), 1);
    }

    #[test]
    fn lines_that_are_missing_can_be_explained() {
        let known = Explained::parse("# It hangs.\nc: nothing\n[exit]: nothing\n");
        assert!(known.check(EXPECTED, "a: ok\nb: #GP(0) +0\n").is_empty());
    }

    #[test]
    fn update_keeps_reasons_and_marks_what_has_none() {
        let known = Explained::parse("# No limits. SDM.\nb: ok\n");
        let text = known.updated(EXPECTED, "a: hit\nb: ok\nc: ok\n[exit]\n");
        assert_eq!(text, "# unexplained\na: hit\n\n# No limits. SDM.\nb: ok\n\n");
        let long = "word ".repeat(60).trim().to_owned();
        let again = Explained::parse(&format!("{}b: ok\n", comment(&long)));
        assert_eq!(again.lines["b"].0, long);
        assert!(comment(&long).lines().all(|line| line.len() <= WIDTH));
    }

    #[test]
    fn differences_name_the_lines() {
        assert!(differences(EXPECTED, EXPECTED, 5).is_empty());
        assert_eq!(differences(EXPECTED, "a: ok\nc: hit\n[exit]\n", 5).len(), 2);
        assert_eq!(differences(EXPECTED, "a: ok\nc: ok\nb: #GP(0) +0\n[exit]\n", 5).len(), 1);
    }
}
