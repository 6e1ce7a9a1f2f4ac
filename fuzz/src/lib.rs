//! What the fuzz targets share. `docs/fuzzing.md` describes the targets and how to run them.
//!
//! A target is a function of bytes. It may panic, which is a finding; it must be a function of its
//! input alone, so that the input is all it takes to see the finding again, and it must be done within
//! [`CPU_LIMIT`]. [`target!`] makes a program of it.

pub mod device;
pub mod files;
pub mod input;
pub mod machines;
pub mod pc;
pub mod programs;

pub use libfuzzer_sys;

use std::path::Path;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// CPU time one input may take. Elapsed time says nothing on a busy host; libFuzzer's own limit is there
/// for what never ends.
pub const CPU_LIMIT: Duration = Duration::from_secs(2);

/// Names the directory into which a target writes its seeds before it reads its corpus.
const SEEDS: &str = "ENV86_FUZZ_SEEDS";

/// The program of a target: `target!(seeds, run)`, where `seeds() -> Vec<Vec<u8>>` makes valid inputs to
/// start from, and `run(&[u8])` is the target.
#[macro_export]
macro_rules! target {
    ($seeds:expr, $run:expr) => {
        $crate::libfuzzer_sys::fuzz_target!(
            init: $crate::write_seeds($seeds),
            |data: &[u8]| $crate::within_limit(|| $run(data))
        );
    };
}

/// Writes the seeds if somebody asked for them.
///
/// # Panics
/// If they cannot be written.
pub fn write_seeds(seeds: impl FnOnce() -> Vec<Vec<u8>>) {
    let Some(dir) = std::env::var_os(SEEDS) else { return };
    for (n, seed) in seeds().iter().enumerate() {
        std::fs::write(Path::new(&dir).join(format!("seed-{n:03}")), seed).expect("the seeds' directory");
    }
}

fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// Runs a target on one input.
///
/// # Panics
/// If it takes longer than [`CPU_LIMIT`].
pub fn within_limit(run: impl FnOnce()) {
    let start = cpu_time();
    run();
    let taken = cpu_time().saturating_sub(start);
    assert!(taken < CPU_LIMIT, "slow input: {taken:?} of CPU time");
}
