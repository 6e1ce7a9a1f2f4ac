//! `--stats`: what the engine has done, as a table or as JSON.

use std::fmt::Write;

use emu_core::engine::Counter;
use serde_json::{Map, Value, json};

use super::report::Reporter;

/// Prints the counters of a run of so many instructions.
pub(super) fn tell(counters: &[Counter], retired: u64, reporter: Reporter) {
    if reporter.json {
        let counters = object(counters);
        let stats =
            json!({ "level": "info", "event": "stats", "instructions": retired, "counters": counters });
        reporter.object(&stats);
    } else {
        reporter.text(&table(counters, retired));
    }
}

/// Counters by group and name.
fn object(counters: &[Counter]) -> Value {
    let mut groups = Map::new();
    for counter in counters {
        let group = groups.entry(counter.group).or_insert_with(|| json!({}));
        group[&counter.name] = counter.value.into();
    }
    Value::Object(groups)
}

/// Lines with counts, and how many that is per million instructions.
fn table(counters: &[Counter], retired: u64) -> String {
    let mut text = String::new();
    let mut group = "";
    for counter in counters.iter().filter(|counter| counter.value != 0) {
        if counter.group != group {
            group = counter.group;
            let _ = writeln!(text, "{group}");
        }
        let rate = counter.value as f64 * 1e6 / retired.max(1) as f64;
        let _ = writeln!(text, "  {:<40} {:>14} {rate:>12.1}/M", counter.name, counter.value);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_grouped_in_both_forms() {
        let counters = [
            Counter::new("links", "made", 5),
            Counter::new("links", "none", 0),
            Counter::new("exits", "all", 3),
        ];
        let lines: Vec<_> = table(&counters, 1_000_000).lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(lines[0] == "links" && lines[1].contains("made") && lines[1].ends_with("5.0/M"), "{lines:?}");
        assert_eq!(object(&counters), json!({ "links": { "made": 5, "none": 0 }, "exits": { "all": 3 } }));
    }
}
