//! Single-step vectors of a real 80386 in real mode.

use super::{Bench, Row, Verdict, text};
use anyhow::{Result, ensure};
use std::fs;
use std::path::Path;

/// Name of the suite.
pub const NAME: &str = "80386";

/// Differences shown of a file.
const SHOWN: usize = 3;

/// Runs all files; a row for each.
pub fn run(bench: &Bench, dir: &Path) -> Result<Vec<Row>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir.join("v1_ex_real_mode"))? {
        let path = entry?.path();
        let name = text(&path)?.to_uppercase();
        if name.ends_with(".MOO") || name.ends_with(".MOO.GZ") {
            files.push(text(&path)?.to_owned());
        }
    }
    ensure!(!files.is_empty(), "there are no MOO files in v1_ex_real_mode");
    files.sort();
    let mut rows = Vec::new();
    for file in files {
        rows.extend(summary(&bench.many(NAME, "moo", &[file], "")?));
    }
    Ok(rows)
}

/// One row per file and engine instead of one per vector.
fn summary(vectors: &[Row]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut counts: Vec<(usize, usize)> = Vec::new();
    for vector in vectors {
        let file = vector.test.split(' ').next().unwrap_or_default();
        let at = rows.iter().position(|row| row.test == file && row.engine == vector.engine).unwrap_or_else(
            || {
                rows.push(Row { test: file.to_owned(), verdict: Verdict::Pass, ..vector.clone() });
                counts.push((0, 0));
                rows.len() - 1
            },
        );
        counts[at].1 += 1;
        if let Verdict::Fail(what) = &vector.verdict {
            counts[at].0 += 1;
            if counts[at].0 <= SHOWN {
                let rest = vector.test.split_once(' ').map_or("", |(_, rest)| rest);
                let entry = format!("{rest}: {}", what.join("; "));
                match &mut rows[at].verdict {
                    Verdict::Fail(shown) => shown.push(entry),
                    verdict => *verdict = Verdict::Fail(vec![entry]),
                }
            }
        }
    }
    for (row, (failed, all)) in rows.iter_mut().zip(counts) {
        if let Verdict::Fail(shown) = &mut row.verdict {
            *shown = vec![format!("{failed} of {all} differ: {}", shown.join("; "))];
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_counts_per_file_and_engine() {
        let row = |test: &str, engine, verdict| Row { suite: NAME, test: test.into(), engine, verdict };
        let fail = || Verdict::Fail(vec!["eax".into()]);
        let rows = summary(&[
            row("00.MOO 0 add", "interp", Verdict::Pass),
            row("00.MOO 1 add", "interp", fail()),
            row("00.MOO 0 add", "jit", Verdict::Pass),
        ]);
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].verdict, Verdict::Fail(vec!["1 of 2 differ: 1 add: eax".into()]));
        assert_eq!(rows[1].verdict, Verdict::Pass);
    }
}
