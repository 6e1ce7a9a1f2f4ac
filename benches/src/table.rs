//! The report of `benches interp`.
//!
//! A ratio is another engine's median time divided by env86's: above 1, env86 is faster. Millions of
//! instructions per second are those of the same work, so all are computed with env86's count.

use std::fmt;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::engines::Sample;
use crate::report::{Header, MAX_SPREAD};
use crate::stats::{Summary, geometric_mean};

/// A difference of the instruction counts that deserves a word.
const MAX_COUNT_DIFFERENCE: f64 = 0.01;

/// One engine with one kernel.
#[derive(Serialize)]
struct EngineResult {
    engine: &'static str,
    seconds: Summary,
    /// Instructions as the engine counts them.
    instructions: u64,
    mips: f64,
    /// Its time divided by env86's.
    ratio: f64,
}

/// All engines with one kernel; the first engine is env86's interpreter.
#[derive(Serialize)]
pub struct KernelResult {
    kernel: &'static str,
    engines: Vec<EngineResult>,
}

impl KernelResult {
    /// From the samples of each engine.
    ///
    /// # Errors
    /// An engine has no samples.
    pub fn new(kernel: &'static str, names: &[&'static str], samples: &[Vec<Sample>]) -> Result<Self> {
        let first = samples.first().and_then(|list| list.first()).context("no samples")?;
        let work = first.instructions;
        let mut engines: Vec<EngineResult> = Vec::new();
        for (&engine, list) in names.iter().zip(samples) {
            let times: Vec<_> = list.iter().map(|sample| sample.seconds).collect();
            let seconds = Summary::of(&times).context("no samples")?;
            let base = engines.first().map_or(seconds.median, |env86| env86.seconds.median);
            engines.push(EngineResult {
                engine,
                seconds,
                instructions: list.first().map_or(0, |sample| sample.instructions),
                mips: work as f64 / seconds.median / 1e6,
                ratio: seconds.median / base,
            });
        }
        Ok(Self { kernel, engines })
    }
}

/// Ratio of one engine over all kernels.
#[derive(Serialize)]
struct Mean {
    engine: &'static str,
    geometric_mean: f64,
    /// The kernel in which env86 compares worst.
    worst: f64,
    worst_kernel: &'static str,
}

/// The whole report.
#[derive(Serialize)]
pub struct Report {
    header: Header,
    /// SHA-256 of the image.
    image: String,
    kernels: Vec<KernelResult>,
    ratios: Vec<Mean>,
}

impl Report {
    /// Puts the results together.
    pub fn new(header: Header, image: String, kernels: Vec<KernelResult>) -> Self {
        let others = kernels.first().map_or(0, |k| k.engines.len().saturating_sub(1));
        let ratios = (1..=others).filter_map(|n| mean(&kernels, n)).collect();
        Self { header, image, kernels, ratios }
    }
}

/// The ratios of engine number `n` over all kernels.
fn mean(kernels: &[KernelResult], n: usize) -> Option<Mean> {
    let of: Vec<_> = kernels.iter().filter_map(|k| Some((k.kernel, k.engines.get(n)?))).collect();
    let ratios: Vec<_> = of.iter().map(|(_, result)| result.ratio).collect();
    let (worst_kernel, worst) = of.iter().min_by(|a, b| a.1.ratio.total_cmp(&b.1.ratio))?;
    Some(Mean {
        engine: worst.engine,
        geometric_mean: geometric_mean(&ratios)?,
        worst: worst.ratio,
        worst_kernel,
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.header)?;
        writeln!(f, "Image: SHA-256 {}\n", self.image)?;
        writeln!(
            f,
            "{:10} {:18} {:>13} {:>10} {:>8} {:>7} {:>12}",
            "kernel", "engine", "instructions", "median ms", "MIPS", "spread", "time / env86"
        )?;
        let (mut noisy, mut differ) = (false, false);
        for KernelResult { kernel, engines } in &self.kernels {
            let work = engines.first().map_or(0, |env86| env86.instructions) as f64;
            for (n, e) in engines.iter().enumerate() {
                let is_noisy = e.seconds.spread() > MAX_SPREAD;
                let differs = (e.instructions as f64 / work - 1.0).abs() > MAX_COUNT_DIFFERENCE;
                (noisy, differ) = (noisy | is_noisy, differ | differs);
                writeln!(
                    f,
                    "{:10} {:18} {:>12}{} {:>10.1} {:>8.1} {:>5.1}%{} {:>12.2}",
                    if n == 0 { kernel } else { "" },
                    e.engine,
                    e.instructions,
                    if differs { '*' } else { ' ' },
                    e.seconds.median * 1e3,
                    e.mips,
                    e.seconds.spread() * 100.0,
                    if is_noisy { '!' } else { ' ' },
                    e.ratio,
                )?;
            }
        }
        for m in &self.ratios {
            writeln!(
                f,
                "\n{} / env86 interpreter: geometric mean {:.2}, worst {:.2} ({})",
                m.engine, m.geometric_mean, m.worst, m.worst_kernel
            )?;
        }
        if noisy {
            writeln!(f, "\n! The times differ by more than {} %: the host is too busy.", MAX_SPREAD * 100.0)?;
        }
        if differ {
            writeln!(f, "\n* More than {} % off env86's count.", MAX_COUNT_DIFFERENCE * 100.0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(kernel: &'static str, env86: f64, peer: f64) -> KernelResult {
        let samples = |seconds, instructions| vec![Sample { seconds, instructions, checksum: 0 }];
        let lists = [samples(env86, 50_000_000), samples(peer, 60_000_000)];
        KernelResult::new(kernel, &["env86", "peer"], &lists).unwrap()
    }

    #[test]
    fn speeds_are_those_of_the_same_work() {
        let r = result("a", 0.5, 2.0);
        assert_eq!((r.engines[0].mips, r.engines[0].ratio), (100.0, 1.0));
        assert_eq!((r.engines[1].mips, r.engines[1].ratio), (25.0, 4.0));
        assert_eq!(r.engines[1].instructions, 60_000_000);
    }

    #[test]
    fn mean_names_the_worst_kernel() {
        let mean = mean(&[result("a", 1.0, 4.0), result("b", 1.0, 1.0)], 1).unwrap();
        assert!((mean.geometric_mean - 2.0).abs() < 1e-12);
        assert_eq!((mean.worst, mean.worst_kernel), (1.0, "b"));
    }

    #[test]
    fn report_marks_counts_that_differ() {
        let report = Report::new(Header::new(1), String::new(), vec![result("a", 1.0, 1.0)]);
        assert!(report.to_string().contains("60000000*"), "{report}");
    }
}
