//! Bars that a release has to keep: each is measured, told at once, and stands in a table at the end.

use crate::run::{now, step};
use anyhow::{Result, ensure};
use std::time::Duration;

/// What has been measured so far.
#[derive(Default)]
pub struct Bars {
    /// Only bars whose name contains this.
    only: String,
    rows: Vec<Row>,
}

struct Row {
    bar: String,
    took: Duration,
    result: Result<String>,
}

impl Bars {
    /// None yet.
    pub fn new(only: &str) -> Self {
        Self { only: only.to_owned(), rows: Vec::new() }
    }

    /// Whether a bar of this name is wanted.
    pub fn wants(&self, bar: &str) -> bool {
        bar.contains(&self.only)
    }

    /// Measures a bar, if it is wanted. The text says what was measured.
    pub fn measure(&mut self, bar: String, measure: impl FnOnce() -> Result<String>) {
        if !self.wants(&bar) {
            return;
        }
        let start = now();
        let result = measure();
        let took = now() - start;
        match &result {
            Ok(text) => step(format!("{bar}: {text} ({:.1} s)", took.as_secs_f64())),
            Err(error) => step(format!("{bar}: FAILED: {error:#}")),
        }
        self.rows.push(Row { bar, took, result });
    }

    /// What could not even be begun.
    pub fn fail(&mut self, bar: String, error: anyhow::Error) {
        self.rows.push(Row { bar, took: Duration::ZERO, result: Err(error) });
    }

    /// The table. An error with this text if a bar failed.
    pub fn finish(self, otherwise: &str) -> Result<()> {
        println!("\n{:<52} {:>8}  result", "bar", "seconds");
        for Row { bar, took, result } in &self.rows {
            let took = took.as_secs_f64();
            match result {
                Ok(text) => println!("{bar:<52} {took:8.1}  {text}"),
                Err(error) => println!("{bar:<52} {took:8.1}  FAILED: {error:#}"),
            }
        }
        let failed = self.rows.iter().filter(|row| row.result.is_err()).count();
        println!("\n{} passed, {failed} failed", self.rows.len() - failed);
        ensure!(failed == 0, "{otherwise}");
        Ok(())
    }
}

/// Bytes that do not repeat soon (xorshift64), different for each seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_that_are_not_wanted_are_not_measured_and_one_that_fails_is_an_error() {
        let mut bars = Bars::new("keep");
        bars.measure("another".into(), || panic!("nobody asked for it"));
        bars.measure("kept".into(), || Ok("fine".into()));
        assert!(bars.finish("not kept").is_ok());
        let mut bars = Bars::new("");
        bars.measure("kept".into(), || Ok("fine".into()));
        bars.measure("broken".into(), || anyhow::bail!("too slow"));
        assert_eq!(bars.finish("not kept").unwrap_err().to_string(), "not kept");
    }
}
