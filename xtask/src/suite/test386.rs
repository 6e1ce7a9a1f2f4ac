//! test386.asm: a ROM that tests the instructions an 80386 has. It says on a port how far it got, and prints
//! results of arithmetic for comparison with a list.

use super::{Bench, Engine, Row, Verdict, copy_tree, text};
use crate::run::{need, output, tool};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;

/// Name of the suite.
pub const NAME: &str = "test386";

/// Where it says how far it got.
const POST_PORT: u16 = 0x190;
/// What it says at the end.
const POST_DONE: u8 = 0xFF;
/// Where it prints.
const OUT_PORT: u16 = 0xE9;
/// Host seconds; it takes a few.
const SECONDS: &str = "300";

/// Runs the ROM of either size.
pub fn run(bench: &Bench, dir: &Path) -> Result<Vec<Row>> {
    need(&[("nasm", "nasm")])?;
    let reference = fs::read_to_string(dir.join("test386-EE-reference.txt"))?;
    let mut rows = vec![Row {
        suite: NAME,
        test: "undefined behaviour".into(),
        engine: "",
        verdict: Verdict::Skip("TEST_UNDEF expects the undefined flags of an 80386".into()),
    }];
    for (name, large) in [("64 KiB", false), ("128 KiB", true)] {
        let rom = build(bench, dir, large)?;
        for engine in &bench.engines {
            rows.extend(boot(bench, *engine, name, &rom, &reference)?);
        }
    }
    Ok(rows)
}

/// Sets `NAME equ VALUE` lines.
fn configure(configuration: &str, settings: &[(&str, u16)]) -> Result<String> {
    let mut lines: Vec<String> = configuration.lines().map(str::to_owned).collect();
    for (name, value) in settings {
        let line = lines.iter_mut().find(|line| line.starts_with(&format!("{name} equ")));
        *line.with_context(|| format!("configuration.asm has no {name}"))? = format!("{name} equ {value}");
    }
    Ok(lines.join("\n") + "\n")
}

fn build(bench: &Bench, dir: &Path, large: bool) -> Result<String> {
    let tree = bench.work.join(if large { "128" } else { "64" });
    copy_tree(&dir.join("src"), &tree)?;
    let file = tree.join("configuration.asm");
    let settings = [("POST_PORT", POST_PORT), ("OUT_PORT", OUT_PORT), ("ROM128", large.into())];
    fs::write(&file, configure(&fs::read_to_string(&file)?, &settings)?)?;
    let rom = tree.join("test386.bin");
    let mut nasm = tool("nasm");
    nasm.arg(format!("-i{}/", text(&tree)?)).args(["-f", "bin", "-w-all", "-o"]).arg(&rom);
    output(nasm.arg(tree.join("test386.asm")))?;
    Ok(text(&rom)?.to_owned())
}

fn boot(bench: &Bench, engine: Engine, name: &str, rom: &str, reference: &str) -> Result<Vec<Row>> {
    let (post, out) = (bench.work.join("post"), bench.work.join("out"));
    let ports = [(POST_PORT, &post), (OUT_PORT, &out)];
    let ports = ports.map(|(port, file)| format!("{port:x}={}", file.display()));
    let [post_port, out_port] = &ports;
    let arguments = ["--rom", rom, "--port", post_port, "--port", out_port, "--seconds", SECONDS];
    let ended = bench.machine(engine, &arguments)?;
    let codes = fs::read(&post)?;
    let row = |what: &str, failure: Option<String>| Row {
        suite: NAME,
        test: format!("{name}, {what}"),
        engine: engine.name(),
        verdict: failure.map_or(Verdict::Pass, |text| Verdict::Fail(vec![text])),
    };
    let failure = (codes.last() != Some(&POST_DONE)).then(|| {
        let last = codes.last().map_or("none".to_owned(), |code| format!("{code:02X}h"));
        format!("last POST code {last}, {} {}", ended.reason, ended.report)
    });
    let mut rows = vec![row("tests", failure)];
    let printed = String::from_utf8_lossy(&fs::read(&out)?).into_owned();
    rows.push(row("results", compare(&printed, reference)?));
    Ok(rows)
}

/// What is different, if anything.
fn compare(printed: &str, reference: &str) -> Result<Option<String>> {
    ensure!(!reference.is_empty(), "the reference is empty");
    let (ours, theirs): (Vec<_>, Vec<_>) = (printed.lines().collect(), reference.lines().collect());
    let different: Vec<usize> =
        (0..ours.len().max(theirs.len())).filter(|n| ours.get(*n) != theirs.get(*n)).collect();
    Ok(different.first().map(|first| {
        let line = |lines: &[&str]| lines.get(*first).unwrap_or(&"nothing").trim().to_owned();
        format!(
            "{} of {} lines differ, first line {}: {:?} instead of {:?}",
            different.len(),
            theirs.len(),
            first + 1,
            line(&ours),
            line(&theirs)
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configure_replaces_values_and_refuses_unknown_names() {
        let text = "; comment\nPOST_PORT equ 0x80\nOUT_PORT equ 0\n";
        let set = configure(text, &[("OUT_PORT", 0xE9)]).unwrap();
        assert_eq!(set, "; comment\nPOST_PORT equ 0x80\nOUT_PORT equ 233\n");
        assert!(configure(text, &[("ROM128", 1)]).is_err());
    }

    #[test]
    fn compare_counts_lines_and_shows_the_first() {
        assert_eq!(compare("a\nb\n", "a\nb\n").unwrap(), None);
        let text = compare("a\nx\n", "a\nb\nc\n").unwrap().unwrap();
        assert_eq!(text, "2 of 3 lines differ, first line 2: \"x\" instead of \"b\"");
    }
}
