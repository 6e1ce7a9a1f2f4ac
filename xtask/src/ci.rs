//! `cargo xtask ci`: the tests, the crate graph and the house rules.

use crate::run::workspace;
use crate::test::{self, Report};
use crate::{graph, rules};
use anyhow::{Result, bail};

/// Runs everything; `quick` leaves out the tests that boot guests.
pub fn run(quick: bool) -> Result<()> {
    let mut report = Report::new();
    report.step("crate graph", || none(graph::check()?));
    report.step("house rules", || none(rules::check(workspace())?));
    test::run_all(&mut report, quick);
    report.finish()
}

/// `cargo xtask rules`: the crate graph and the house rules alone.
pub fn rules_only() -> Result<()> {
    none([graph::check()?, rules::check(workspace())?].concat())
}

fn none(findings: Vec<String>) -> Result<()> {
    if findings.is_empty() {
        return Ok(());
    }
    bail!("{} findings\n  {}", findings.len(), findings.join("\n  "))
}
