//! The translator's health: how often a boot of the Debian guest leaves the fast paths. Under the deterministic
//! clock the counters differ only by when the prompt is noticed, which is far less than what is left to the limits.

use crate::demo::boot;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;
use std::process::Stdio;

/// What is measured, and what it has to stay below.
struct Limit {
    name: &'static str,
    unit: &'static str,
    below: f64,
    of: fn(&Stats) -> f64,
}

const LIMITS: &[Limit] = &[
    Limit {
        name: "slow memory accesses",
        unit: "per million instructions",
        below: 3000.0,
        of: |stats| stats.rate(stats.counter("slow memory accesses", "all")),
    },
    Limit {
        name: "exits",
        unit: "per million instructions",
        below: 800.0,
        of: |stats| stats.rate(stats.sum("exits")),
    },
    Limit {
        name: "instructions interpreted",
        unit: "%",
        below: 0.5,
        of: |stats| stats.rate(stats.counter("execution", "instructions interpreted")) / 1e4,
    },
    Limit {
        name: "returns without their call",
        unit: "% of all returns",
        below: 2.0,
        of: |stats| {
            let returns = |name| stats.counter("links", name) as f64;
            let missed = returns("returns elsewhere") + returns("returns without a call");
            missed * 100.0 / returns("returns").max(1.0)
        },
    },
];

/// What `--stats --json` prints.
struct Stats(Value);

impl Stats {
    /// Finds it among the lines that a run printed.
    fn find(text: &str) -> Result<Self> {
        let mut objects = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let stats = Self(objects.find(|o| o["event"] == "stats").context("no statistics were printed")?);
        if stats.instructions() == 0 || stats.counter("translations", "blocks") == 0 {
            bail!("the statistics say that nothing was translated");
        }
        Ok(stats)
    }

    fn instructions(&self) -> u64 {
        self.0["instructions"].as_u64().unwrap_or_default()
    }

    fn counter(&self, group: &str, name: &str) -> u64 {
        self.0["counters"][group][name].as_u64().unwrap_or_default()
    }

    fn sum(&self, group: &str) -> u64 {
        let group = self.0["counters"][group].as_object();
        group.into_iter().flat_map(|group| group.values()).filter_map(Value::as_u64).sum()
    }

    /// Per million instructions.
    fn rate(&self, count: u64) -> f64 {
        count as f64 * 1e6 / self.instructions().max(1) as f64
    }

    /// A line for each limit, and whether all are kept to.
    fn report(&self) -> (String, bool) {
        let (mut text, mut healthy) = (String::new(), true);
        for limit in LIMITS {
            let (value, below) = ((limit.of)(self), limit.below);
            let kept = value < below;
            let verdict = if kept { "below" } else { "NOT BELOW" };
            healthy &= kept;
            let _ = writeln!(text, "{:>28} {value:>9.2} {verdict} {below} {}", limit.name, limit.unit);
        }
        (text, healthy)
    }
}

/// Boots a guest until it prints `prompt`, and compares the counters with the limits.
pub fn check(env86: &Path, image: &Path, prompt: &str) -> Result<()> {
    let options =
        ["--cold", "--clock", "deterministic", "--engine", "jit", "--stats", "--json", "--exit-on", prompt];
    let ended = boot(env86, &options, image).stdin(Stdio::null()).output().context("starting env86")?;
    let printed =
        [ended.stderr, ended.stdout].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    if !ended.status.success() {
        bail!("env86 ended with {}; it said {printed}", ended.status);
    }
    let stats = Stats::find(&printed)?;
    let (report, healthy) = stats.report();
    eprint!("{} million instructions\n{report}", stats.instructions() / 1_000_000);
    if !healthy {
        bail!("the translator leaves its fast paths too often (docs/engine.md, Counters)\n{report}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Printed statistics of a run of two million instructions and a thousand returns.
    fn printed(slow: u64, exits: u64, interpreted: u64, elsewhere: u64) -> String {
        let counters = json!({
            "translations": { "blocks": 1 },
            "slow memory accesses": { "all": slow, "fault": 1 },
            "exits": { "one": exits, "other": 1 },
            "execution": { "instructions interpreted": interpreted },
            "links": { "returns": 1000, "returns elsewhere": elsewhere, "returns without a call": 1 },
        });
        let stats = json!({ "event": "stats", "instructions": 2_000_000, "counters": counters });
        format!("booting\n{{\"event\":\"other\"}}\n{stats}\n")
    }

    fn is_healthy(slow: u64, exits: u64, interpreted: u64, elsewhere: u64) -> bool {
        Stats::find(&printed(slow, exits, interpreted, elsewhere)).unwrap().report().1
    }

    #[test]
    fn report_of_each_limit_exceeded_is_not_healthy() {
        assert!(is_healthy(5999, 1598, 9999, 18));
        assert!(!is_healthy(6000, 0, 0, 0));
        assert!(!is_healthy(0, 1599, 0, 0));
        assert!(!is_healthy(0, 0, 10_000, 0));
        assert!(!is_healthy(0, 0, 0, 19));
    }

    #[test]
    fn statistics_of_a_run_that_translated_nothing_are_refused() {
        assert!(Stats::find("booting\n").is_err());
        assert!(Stats::find("{\"event\":\"stats\",\"instructions\":5,\"counters\":{}}").is_err());
    }
}
