//! v86's corpus of small assembly programs. Its own script writes and assembles them; the host's CPU says how
//! each has to end.

use super::{Bench, Row, copy_tree, text};
use crate::run::{logged, need, step, tool};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;

/// Name of the suite.
pub const NAME: &str = "v86";

/// Runs all programs.
pub fn run(bench: &Bench, dir: &Path) -> Result<Vec<Row>> {
    need(&[("node", "nodejs"), ("nasm", "nasm"), ("ld", "binutils")])?;
    for part in ["gen", "tests/nasm"] {
        copy_tree(&dir.join(part), &bench.work.join(part))?;
    }
    // It says that scripts are modules.
    fs::copy(dir.join("package.json"), bench.work.join("package.json"))?;
    step("writing and assembling the programs (minutes)");
    let mut node = tool("node");
    node.env("MAX_PARALLEL_PROCS", "4").arg("create_tests.js").current_dir(bench.work.join("tests/nasm"));
    logged(&mut node, &bench.work.join("create.log"))?;
    let mut images = Vec::new();
    for entry in fs::read_dir(bench.work.join("tests/nasm/build")).context("the script built nothing")? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "img") {
            images.push(text(&path)?.to_owned());
        }
    }
    ensure!(!images.is_empty(), "the script built no programs");
    images.sort();
    step(format!("running {} programs", images.len()));
    bench.many(NAME, "corpus", &[], &(images.join("\n") + "\n"))
}
