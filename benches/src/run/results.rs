//! What was measured, and the comparison that follows from it.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::engines::Engine;
use super::workloads::Group;
use crate::report::{Header, MAX_SPREAD};
use crate::stats::{Summary, geometric_mean};

/// The guest's clock may disagree with the host's by this part, and by this many seconds more: the two START
/// and END lines and the program's start lie between the two.
const CLOCK_TOLERANCE: (f64, f64) = (0.01, 0.01);

/// So many undisturbed turns are enough to leave the others out.
pub const CALM_ENOUGH: usize = 3;

/// What a row's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Seconds of host time.
    Seconds,
    /// Of one core's time.
    Percent,
    /// MiB.
    Mebibytes,
}

impl Unit {
    /// A number with its unit.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Seconds if value >= 10.0 => format!("{value:.1} s"),
            Self::Seconds => format!("{:.1} ms", value * 1e3),
            Self::Percent => format!("{value:.1} %"),
            Self::Mebibytes => format!("{value:.0} MiB"),
        }
    }
}

/// One workload on one engine.
#[derive(Debug, Default, Serialize)]
pub struct Cell {
    /// One number for each round: the smallest of its runs.
    pub samples: Vec<f64>,
    /// Of each sample, whether nobody else used the processor meanwhile; empty where nobody asked.
    pub calm: Vec<bool>,
    /// Median and extremes of the samples that count.
    pub summary: Option<Summary>,
    /// What the program printed as its checksum.
    pub checksum: Option<String>,
    /// The guest's own times, seconds.
    pub guest_seconds: Vec<f64>,
    /// Why there is no result.
    pub error: Option<String>,
}

impl Cell {
    /// Enters a round's time, the guest's own, both in seconds, and whether nobody else used the processor.
    pub fn add(&mut self, time: f64, guest: Option<f64>, calm: bool) {
        self.samples.push(time);
        self.guest_seconds.extend(guest);
        self.calm.push(calm);
    }

    /// How many turns were undisturbed.
    pub fn calm(&self) -> usize {
        self.calm.iter().filter(|calm| **calm).count()
    }

    /// The samples that count: the undisturbed ones, if there are enough of them, else all.
    fn counted(&self) -> Vec<f64> {
        let all = self.calm() < CALM_ENOUGH;
        let calm = self.calm.iter().chain(std::iter::repeat(&false));
        self.samples.iter().zip(calm).filter(|(_, calm)| all || **calm).map(|(time, _)| *time).collect()
    }

    /// The median, unless something is wrong with the run.
    pub fn median(&self) -> Option<f64> {
        if self.error.is_some() { None } else { self.summary.map(|summary| summary.median) }
    }

    /// Whether the guest's clock told another time than the host's.
    fn clock_is_off(&self) -> bool {
        let (part, seconds) = CLOCK_TOLERANCE;
        let pairs = self.samples.iter().zip(&self.guest_seconds);
        let off = pairs.filter(|(host, guest)| (*host - *guest).abs() > *host * part + seconds).count();
        2 * off > self.guest_seconds.len()
    }
}

/// One workload on all engines.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Name of the workload.
    pub name: String,
    /// Its kind.
    pub group: Group,
    /// Of all numbers.
    pub unit: Unit,
    /// Its argument, or what is measured.
    pub note: String,
    /// By engine.
    pub cells: BTreeMap<Engine, Cell>,
}

impl Row {
    /// Without results.
    pub fn new(name: &str, group: Group, unit: Unit, note: &str) -> Self {
        Self { name: name.to_owned(), group, unit, note: note.to_owned(), cells: BTreeMap::new() }
    }

    /// The cell of an engine, made if there is none.
    pub fn cell(&mut self, engine: Engine) -> &mut Cell {
        self.cells.entry(engine).or_default()
    }

    /// The median of an engine.
    pub fn median(&self, engine: Engine) -> Option<f64> {
        self.cells.get(&engine)?.median()
    }

    /// One engine's time divided by another's. If both had enough undisturbed turns, it is that of the medians; else
    /// the median over the rounds, since what slows the host down for a while slows both in the same round.
    pub fn ratio(&self, engine: Engine, base: Engine) -> Option<f64> {
        let (over, under) = (self.median(engine)?, self.median(base)?);
        let (over_cell, under_cell) = (self.cells.get(&engine)?, self.cells.get(&base)?);
        let disturbed = over_cell.calm() < CALM_ENOUGH || under_cell.calm() < CALM_ENOUGH;
        let (a, b) = (&over_cell.samples, &under_cell.samples);
        let ratio = if disturbed && a.len() == b.len() {
            Summary::of(&a.iter().zip(b).map(|(a, b)| a / b).collect::<Vec<_>>())?.median
        } else {
            over / under
        };
        ratio.is_finite().then_some(ratio)
    }

    /// Sums up; marks the engines whose checksum differs from the first one's. Native comes first.
    fn finish(&mut self) {
        let mut expected: Option<String> = None;
        for cell in self.cells.values_mut() {
            cell.summary = Summary::of(&cell.counted());
            let Some(checksum) = &cell.checksum else { continue };
            let expected = expected.get_or_insert_with(|| checksum.clone());
            if expected != checksum && cell.error.is_none() {
                cell.error = Some(format!("wrong result: {checksum} and not {expected}"));
            }
        }
    }
}

/// Ratio of one engine to another over the rows of a group.
#[derive(Debug, Serialize)]
pub struct Mean {
    /// Whose times are divided.
    pub engine: Engine,
    /// By whose.
    pub base: Engine,
    /// The rows.
    pub group: Group,
    /// How many rows both have.
    pub count: usize,
    /// Geometric mean of the ratios.
    pub mean: f64,
    /// The largest ratio.
    pub worst: f64,
    /// Its row.
    pub worst_row: String,
}

/// The whole comparison.
#[derive(Serialize)]
pub struct Results {
    /// Circumstances.
    pub header: Header,
    /// Sizes of a quick run.
    pub quick: bool,
    /// Which guest, and the SHA-256 of the programs in it.
    pub guest: String,
    /// SHA-256 of our programs.
    pub programs: String,
    /// Engines with their versions, in the order of the report.
    pub engines: Vec<(Engine, String)>,
    /// The workloads.
    pub rows: Vec<Row>,
    /// What there is nothing to measure of yet, and why.
    pub not_yet: Vec<(String, String)>,
    /// Means of the groups.
    pub means: Vec<Mean>,
}

impl Results {
    /// Sums up all rows.
    pub fn finish(&mut self) {
        self.rows.iter_mut().for_each(Row::finish);
        let has = |engine| self.engines.iter().any(|(other, _)| *other == engine);
        for group in Group::ALL.into_iter().filter(|group| *group != Group::Machine) {
            if has(Engine::Native) && group.native_is_limit() {
                for engine in [Engine::Env86, Engine::Qemu, Engine::V86] {
                    self.means.extend(mean(&self.rows, group, engine, Engine::Native));
                }
            }
            for engine in [Engine::Qemu, Engine::V86] {
                self.means.extend(mean(&self.rows, group, engine, Engine::Env86));
            }
        }
    }

    /// Whether something is wrong, so that the whole is no result.
    pub fn is_valid(&self) -> bool {
        let wrong = |cell: &Cell| cell.error.as_ref().is_some_and(|error| error.starts_with("wrong result"));
        !self.rows.iter().any(|row| row.cells.values().any(wrong))
    }

    /// What a reader has to know beside the numbers.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for row in &self.rows {
            let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for (engine, cell) in &row.cells {
                if let Some(error) = &cell.error {
                    reasons.entry(error.lines().next().unwrap_or_default()).or_default().push(engine.name());
                }
            }
            let lines = reasons.into_iter();
            notes
                .extend(lines.map(|(why, engines)| format!("{} on {}: {why}", row.name, engines.join(", "))));
        }
        notes.extend(self.engines.iter().filter_map(|(engine, _)| self.clock_note(*engine)));
        notes.extend(self.not_yet.iter().map(|(name, why)| format!("{name}: not yet, {why}")));
        notes
    }

    /// Says in which workloads the guest's clock told another time than the host's. A busy host makes some of
    /// it: the lines come late.
    fn clock_note(&self, engine: Engine) -> Option<String> {
        let cells = || self.rows.iter().filter_map(|row| Some((row, row.cells.get(&engine)?)));
        let off = |(row, cell): (&Row, &Cell)| {
            let guest = Summary::of(&cell.guest_seconds)?.median;
            let host = cell.median()?;
            cell.clock_is_off().then(|| (row.name.clone(), guest, host))
        };
        let all = cells().filter(|(_, cell)| !cell.guest_seconds.is_empty()).count();
        let found: Vec<_> = cells().filter_map(off).collect();
        let distance = |(_, guest, host): &(String, f64, f64)| (guest / host).ln().abs();
        let (name, guest, host) = found.iter().max_by(|a, b| distance(a).total_cmp(&distance(b)))?;
        Some(format!(
            "the clock of {}'s guest differs from the host's in {} of {all} workloads, most in {name}: {} and {}",
            engine.name(),
            found.len(),
            Unit::Seconds.show(*guest),
            Unit::Seconds.show(*host),
        ))
    }
}

fn mean(rows: &[Row], group: Group, engine: Engine, base: Engine) -> Option<Mean> {
    let of_group = rows.iter().filter(|row| row.group == group);
    let ratios: Vec<_> = of_group.filter_map(|row| Some((row, row.ratio(engine, base)?))).collect();
    // Against env86, the worst row for env86 is the smallest ratio.
    let by_ratio = |a: &&(&Row, f64), b: &&(&Row, f64)| a.1.total_cmp(&b.1);
    let worst =
        if base == Engine::Env86 { ratios.iter().min_by(by_ratio) } else { ratios.iter().max_by(by_ratio) };
    let (row, worst) = worst?;
    let values: Vec<_> = ratios.iter().map(|(_, ratio)| *ratio).collect();
    Some(Mean {
        engine,
        base,
        group,
        count: values.len(),
        mean: geometric_mean(&values)?,
        worst: *worst,
        worst_row: row.name.clone(),
    })
}

/// A ratio with a sensible number of digits.
pub fn show_ratio(ratio: f64) -> String {
    match ratio {
        r if r >= 100.0 => format!("{r:.0}"),
        r if r >= 10.0 => format!("{r:.1}"),
        r => format!("{r:.2}"),
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.header)?;
        for (engine, version) in &self.engines {
            writeln!(f, "{:8} {version}", engine.name())?;
        }
        writeln!(f, "Guest: {}; programs: SHA-256 {}", self.guest, self.programs)?;
        if self.quick {
            writeln!(
                f,
                "Quick run: small sizes, so that starting and translating weigh more than they should."
            )?;
        }
        writeln!(
            f,
            "\nMedians over the rounds. Times as multiples of the native one (in `system`, `network` and `machine`"
        )?;
        writeln!(f, "absolute), and of the peers' as multiples of env86's; > 1: env86 is faster.\n")?;
        write!(f, "{:9} {:16}", "group", "workload")?;
        for (engine, _) in &self.engines {
            write!(f, " {:>11}", engine.name())?;
        }
        for peer in self.peers() {
            write!(f, " {:>11}", format!("{}/env86", peer.name()))?;
        }
        writeln!(f, " {:>8}", "spread")?;
        let mut noisy = false;
        let mut group = None;
        for row in &self.rows {
            let title = if group == Some(row.group) { "" } else { row.group.name() };
            group = Some(row.group);
            write!(f, "{title:9} {:16}", row.name)?;
            for (engine, _) in &self.engines {
                write!(f, " {:>11}", self.show(row, *engine))?;
            }
            for peer in self.peers() {
                let ratio = row.ratio(peer, Engine::Env86).map_or("-".into(), show_ratio);
                write!(f, " {ratio:>11}")?;
            }
            let summaries = row.cells.values().filter_map(|cell| cell.summary);
            let spread = summaries.map(|s| s.spread()).filter(|s| s.is_finite()).fold(0.0, f64::max);
            noisy |= spread > MAX_SPREAD;
            let mark = if spread > MAX_SPREAD { '!' } else { ' ' };
            writeln!(f, " {:>6.0}%{mark}", spread * 100.0)?;
        }
        writeln!(f)?;
        for Mean { engine, base, group, count, mean, worst, worst_row } in &self.means {
            writeln!(
                f,
                "{:9} {:>6} / {:6}: geometric mean {:>6} over {count}, worst {} ({worst_row})",
                group.name(),
                engine.name(),
                base.name(),
                show_ratio(*mean),
                show_ratio(*worst),
            )?;
        }
        if noisy {
            writeln!(
                f,
                "\n! The rounds of at least one engine differ by more than {} %: the host was busy.",
                MAX_SPREAD * 100.0
            )?;
        }
        for note in self.notes() {
            writeln!(f, "Note: {note}")?;
        }
        if !self.is_valid() {
            writeln!(f, "There are wrong results: the run is invalid.")?;
        }
        Ok(())
    }
}

impl Results {
    /// Emulators other than env86.
    pub fn peers(&self) -> impl Iterator<Item = Engine> {
        self.engines.iter().map(|(engine, _)| *engine).filter(|e| matches!(e, Engine::Qemu | Engine::V86))
    }

    /// A cell of the table.
    pub fn show(&self, row: &Row, engine: Engine) -> String {
        let Some(cell) = row.cells.get(&engine) else { return "-".into() };
        if let Some(error) = &cell.error {
            return if error.starts_with("wrong result") { "WRONG".into() } else { "none".into() };
        }
        let Some(median) = cell.median() else { return "-".into() };
        match row.ratio(engine, Engine::Native) {
            Some(ratio) if engine != Engine::Native && row.group.native_is_limit() => {
                format!("{}x", show_ratio(ratio))
            }
            _ => row.unit.show(median),
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Results of a row with these times.
    pub fn results(times: &[(Engine, f64, &str)]) -> Results {
        let mut row = Row::new("sort", Group::Integer, Unit::Seconds, "4");
        for (engine, time, checksum) in times {
            let cell = row.cell(*engine);
            cell.samples = vec![*time; 3];
            cell.checksum = Some((*checksum).to_owned());
        }
        let mut results = Results {
            header: Header::new(3),
            quick: false,
            guest: "mini".into(),
            programs: String::new(),
            engines: times.iter().map(|(engine, ..)| (*engine, "1.0".to_owned())).collect(),
            rows: vec![row],
            not_yet: vec![("run true".into(), "needs `env86 run`".into())],
            means: Vec::new(),
        };
        results.finish();
        results
    }

    #[test]
    fn ratios_are_to_the_native_time_and_to_env86() {
        let results =
            results(&[(Engine::Native, 0.1, "00"), (Engine::Env86, 0.2, "00"), (Engine::V86, 2.0, "00")]);
        let row = &results.rows[0];
        assert_eq!(results.show(row, Engine::Native), "100.0 ms");
        assert_eq!(results.show(row, Engine::Env86), "2.00x");
        let mean = results.means.iter().find(|m| m.engine == Engine::V86 && m.base == Engine::Env86).unwrap();
        assert!((mean.mean - 10.0).abs() < 1e-9);
        assert!(results.is_valid());
        assert!(results.to_string().contains("run true: not yet"));
    }

    #[test]
    fn ratio_is_that_of_the_same_round() {
        let mut results = results(&[(Engine::Native, 0.1, "00"), (Engine::Env86, 0.2, "00")]);
        let row = &mut results.rows[0];
        // The host was slower from one round to the next; each time env86 took twice as long.
        row.cell(Engine::Native).samples = vec![0.1, 0.3, 0.2];
        row.cell(Engine::Env86).samples = vec![0.2, 0.6, 0.5];
        assert_eq!(row.ratio(Engine::Env86, Engine::Native), Some(2.0));
    }

    #[test]
    fn disturbed_rounds_do_not_count_if_there_are_others() {
        let mut results = results(&[(Engine::Native, 0.1, "00"), (Engine::Env86, 0.2, "00")]);
        let row = &mut results.rows[0];
        for cell in row.cells.values_mut() {
            cell.calm = vec![true; 3];
        }
        let cell = row.cell(Engine::Env86);
        for time in [0.4, 0.5, 0.6, 0.7] {
            cell.add(time, None, false);
        }
        results.finish();
        let row = &mut results.rows[0];
        assert_eq!(row.median(Engine::Env86), Some(0.2));
        assert_eq!(row.ratio(Engine::Env86, Engine::Native), Some(2.0));
        row.cell(Engine::Env86).calm = vec![true, true, false, false, false, false, false];
        results.finish();
        assert_eq!(results.rows[0].median(Engine::Env86), Some(0.4), "two are not enough");
    }

    #[test]
    fn wrong_checksum_makes_the_run_invalid_and_has_no_ratio() {
        let results = results(&[(Engine::Native, 0.1, "00"), (Engine::V86, 0.2, "01")]);
        assert!(!results.is_valid());
        assert_eq!(results.rows[0].ratio(Engine::V86, Engine::Native), None);
        assert!(results.to_string().contains("WRONG"));
    }

    #[test]
    fn clock_that_runs_differently_is_noted() {
        let mut results = results(&[(Engine::Env86, 2.0, "00")]);
        results.rows[0].cell(Engine::Env86).guest_seconds = vec![2.005; 3];
        assert_eq!(results.notes().len(), 1);
        results.rows[0].cell(Engine::Env86).guest_seconds = vec![1.8; 3];
        assert!(results.notes()[0].contains("clock"), "{:?}", results.notes());
    }
}
