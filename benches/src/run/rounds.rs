//! Rounds: which workload runs on which engine when, how often, and which of its times count.

use std::time::Duration;

use anyhow::Result;

use super::console::Outcome;
use super::engines::{Contestants, Engine};
use super::image::GuestImage;
use super::processors::{Processors, busiest_thread};
use super::results::{Cell, Row, Unit};
use super::session::Session;
use super::workloads::{Group, Workload};
use crate::clock::{now, progress};

/// A workload that takes less than this in a turn runs again, seconds, in a full run and in a quick one: the shorter
/// it is, the more of its time is what the host does besides.
const ENOUGH: [f64; 2] = [0.2, 0.02];
/// But not more often than this.
const REPEATS: u32 = 4;
/// A run that was disturbed is repeated until one is not, but at most so often, and not past so many seconds.
const DISTURBED_REPEATS: u32 = 6;
const DISTURBED_ENOUGH: f64 = 0.5;
/// So long a run waits for a processor that nobody else uses, ...
const PATIENCE: Duration = Duration::from_secs(2);
/// ... all runs of a round of what is the processor's alone together; what they leave, those after them may use.
const PATIENCE_PER_ROUND: Duration = Duration::from_secs(15);
/// What is the processor's alone gets more rounds until each engine has had so many undisturbed turns, ...
const CALM_WANTED: usize = 5;
/// ... for so long: who disturbs often goes away after a while.
const MORE: Duration = Duration::from_secs(60);
/// A run whose beginning was seen so many seconds late was disturbed: milliseconds matter to the shortest ones.
const SEEN_LATE: f64 = 0.0005;
/// A workload that takes longer than this in a round, on all engines together, ...
const LONG: Duration = Duration::from_secs(10);
/// ... has no more rounds than these: what others add to it is a small part.
const LONG_ROUNDS: u32 = 3;

/// Runs the workloads in all guests. In each round, every workload runs on every engine in turn, beginning with
/// another engine each round, so that a change of the host's speed meets all of them. The rows, and how often others
/// used the processor.
///
/// # Errors
/// The host's. What does not run is told in its cell.
pub fn measure(
    contestants: &Contestants,
    guest: &GuestImage,
    chosen: &[Workload],
    rounds: u32,
    quick: bool,
) -> Result<(Vec<Row>, String)> {
    let mut rows: Vec<Row> = chosen
        .iter()
        .map(|w| Row::new(w.name, w.group, Unit::Seconds, &w.size[usize::from(quick)].to_string()))
        .collect();
    let mut course = Course {
        contestants,
        guest,
        quick,
        timeout: Duration::from_secs(if quick { 300 } else { 600 }),
        sessions: Session::start_all(contestants, guest)?,
        processors: Processors::new(),
        patience: Duration::ZERO,
        turns: 0,
        disturbed: 0,
    };
    // What is the processor's alone comes first, all rounds of it: after gcc and the others, v86 has dropped what it
    // translated before, and would have to begin again in each round.
    let alone = chosen.iter().take_while(|workload| workload.group.is_processor_alone()).count();
    let (first_rows, other_rows) = rows.split_at_mut(alone);
    course.rounds(rounds, &chosen[..alone], first_rows);
    if !quick {
        course.more_rounds(rounds, &chosen[..alone], first_rows);
    }
    course.rounds(rounds, &chosen[alone..], other_rows);
    Ok((rows, format!("Others used the processor in {} of {} turns", course.disturbed, course.turns)))
}

/// What all rounds work with.
struct Course<'a> {
    contestants: &'a Contestants,
    guest: &'a GuestImage,
    quick: bool,
    timeout: Duration,
    sessions: Vec<Session>,
    processors: Processors,
    /// How long the runs may still wait for a processor of their own.
    patience: Duration,
    turns: u32,
    /// Turns without an undisturbed run.
    disturbed: u32,
}

impl Course<'_> {
    /// All of these workloads in all rounds.
    fn rounds(&mut self, rounds: u32, chosen: &[Workload], rows: &mut [Row]) {
        for (workload, row) in chosen.iter().zip(&mut *rows).filter(|(w, _)| w.group == Group::Programs) {
            self.warm_up(workload, row);
        }
        let mut is_long = vec![false; chosen.len()];
        for round in 1..=rounds {
            if !self.quick && chosen.iter().all(|workload| workload.group.is_processor_alone()) {
                self.patience += PATIENCE_PER_ROUND;
                self.drop_translations();
            }
            for ((workload, row), is_long) in chosen.iter().zip(&mut *rows).zip(&mut is_long) {
                let is_program = workload.group == Group::Programs;
                if *is_long && round > LONG_ROUNDS || self.quick && round > 1 && is_program {
                    continue;
                }
                progress(&format!("round {round} of {rounds}: {}", workload.name));
                let start = now();
                self.round(round, workload, row);
                *is_long |= start.elapsed() > LONG;
            }
        }
    }

    /// A whole program is read from the disk once before it is measured, or found missing.
    fn warm_up(&mut self, workload: &Workload, row: &mut Row) {
        let command = format!("/bench/whole {}", workload.name);
        progress(&format!("warming up: {}", workload.name));
        let (contestants, guest, timeout) = (self.contestants, self.guest, self.timeout);
        for session in &mut self.sessions {
            let mut error = None;
            let result = session.turn(contestants, guest, timeout, &mut |console| {
                let outcome = console.command(&command, now() + timeout)?;
                error = match outcome.status {
                    0 => None,
                    3 => Some("the guest has no such program".to_owned()),
                    status => Some(format!("exit status {status}: {}", outcome.said.join(" "))),
                };
                Ok(())
            });
            let error = result.err().map(|error| format!("{error:#}")).or(error);
            if let Some(error) = &error {
                progress(&format!("{} on {}: {error}", workload.name, session.engine().name()));
            }
            row.cell(session.engine()).error = error;
        }
    }

    /// Lets v86's guest forget the files it has read. A program is read into other pages then and translated anew:
    /// how lucky that is varies, and v86's lines with it, by up to 40 %. With one translation for all rounds, that
    /// would be the difference between two runs of the harness. The others translate alike each time, and would only
    /// get scattered pages from it.
    fn drop_translations(&mut self) {
        let (contestants, guest, timeout) = (self.contestants, self.guest, self.timeout);
        for session in self.sessions.iter_mut().filter(|session| session.engine() == Engine::V86) {
            let result = session.turn(contestants, guest, timeout, &mut |console| {
                console.command("echo 3 > /proc/sys/vm/drop_caches", now() + timeout).map(drop)
            });
            if let Err(error) = result {
                progress(&format!("{}: {error:#}", session.engine().name()));
            }
        }
    }

    /// One turn of a workload on each engine.
    fn round(&mut self, round: u32, workload: &Workload, row: &mut Row) {
        let count = self.sessions.len();
        for turn in 0..count {
            let index = (turn + round as usize) % count;
            let cell = row.cell(self.sessions[index].engine());
            if cell.error.is_none() {
                self.turn(index, workload, cell);
            }
        }
    }

    fn turn(&mut self, index: usize, workload: &Workload, cell: &mut Cell) {
        let Self { contestants, guest, quick, timeout, processors, patience, .. } = self;
        let (session, command) = (&mut self.sessions[index], workload.command(*quick));
        let engine = session.engine();
        let mut turn = Turn::default();
        let result = session.turn(contestants, guest, *timeout, &mut |console| {
            let thread = busiest_thread(console.id());
            let (mut spent, mut runs) = (0.0, 0);
            // v86's host translates what v86 has translated a second time, when it has run for a while.
            if engine == Engine::V86 && workload.group.is_processor_alone() && !*quick {
                let outcome = console.command(&command, now() + *timeout)?;
                record(engine, cell, outcome);
            }
            loop {
                // Nothing stays undisturbed for as long as a whole program takes.
                let waits = !turn.calm && workload.group != Group::Programs;
                let limit = if waits { PATIENCE.min(*patience) } else { Duration::ZERO };
                let start = now();
                let (processor, calm_before) = processors.wait_for_calm(limit);
                *patience -= start.elapsed().min(limit);
                processors.bind(thread, processor);
                let outcome = console.command(&command, now() + *timeout)?;
                let calm = processors.is_calm(processor) && calm_before;
                if let Some(run) = record(engine, cell, outcome) {
                    spent += run.time;
                    turn.add(run, calm && !run.was_seen_late());
                }
                runs += 1;
                let few = spent < ENOUGH[usize::from(*quick)] && runs < REPEATS;
                let wait = !*quick && !turn.calm && spent < DISTURBED_ENOUGH && runs < DISTURBED_REPEATS;
                if cell.error.is_some() || !few && !wait {
                    return Ok(());
                }
            }
        });
        self.turns += 1;
        self.disturbed += u32::from(!turn.calm);
        match (result, turn.best) {
            (Err(error), _) => cell.error = Some(format!("{error:#}")),
            (Ok(()), Some(run)) => cell.add(run.time, run.guest, turn.calm),
            (Ok(()), None) if cell.error.is_none() => {
                cell.error = Some("its beginning and its end were seen at once each time".to_owned());
            }
            (Ok(()), None) => {}
        }
        if let Some(error) = &cell.error {
            progress(&format!("{} on {}: {error}", workload.name, engine.name()));
        }
    }

    /// More rounds for what an engine lacks undisturbed turns of: an engine that met others more often than its peers
    /// would seem slower than it is.
    fn more_rounds(&mut self, rounds: u32, chosen: &[Workload], rows: &mut [Row]) {
        let (deadline, enough) = (now() + MORE, CALM_WANTED.min(rounds as usize));
        for round in rounds + 1.. {
            let mut complete = true;
            for (workload, row) in chosen.iter().zip(&mut *rows) {
                let lacks = |cell: &Cell| cell.error.is_none() && cell.calm() < enough;
                if !row.cells.values().any(lacks) {
                    continue;
                }
                if now() >= deadline {
                    return;
                }
                complete = false;
                self.patience = deadline.saturating_duration_since(now());
                progress(&format!("round {round}, others used the processor before: {}", workload.name));
                self.round(round, workload, row);
            }
            if complete {
                return;
            }
        }
    }
}

/// A run's times in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Run {
    time: f64,
    /// The guest's own.
    guest: Option<f64>,
}

impl Run {
    /// A run that was longer for the guest than for this process: it saw the START line late, because the host let it
    /// sleep on another processor.
    fn was_seen_late(&self) -> bool {
        self.guest.is_some_and(|guest| guest > self.time + SEEN_LATE)
    }
}

/// The runs of a turn so far.
#[derive(Default)]
struct Turn {
    /// The shortest of those that count: only those that were not disturbed, if there are such.
    best: Option<Run>,
    calm: bool,
}

impl Turn {
    fn add(&mut self, run: Run, calm: bool) {
        let better = match self.best {
            Some(best) if calm == self.calm => run.time < best.time,
            Some(_) => calm,
            None => true,
        };
        if better {
            self.best = Some(run);
        }
        self.calm |= calm;
    }
}

/// Checks one run. Its times; `None` if nobody saw how long it took, or something is wrong with it, which its cell
/// tells then.
fn record(engine: Engine, cell: &mut Cell, mut outcome: Outcome) -> Option<Run> {
    // A native program has the host's clock; its lines would only add how late this process woke up.
    if engine == Engine::Native {
        outcome.time = outcome.guest_time.take().or(outcome.time);
    }
    match (&outcome.time, &outcome.checksum) {
        (time, Some(checksum)) if outcome.status == 0 => {
            if cell.checksum.as_ref().is_some_and(|before| before != checksum) {
                cell.error = Some("wrong result: another one than in the round before".to_owned());
            }
            cell.checksum = Some(checksum.clone());
            let guest = outcome.guest_time.map(|time| time.as_secs_f64());
            return time.map(|time| Run { time: time.as_secs_f64(), guest });
        }
        // A program that found its own result wrong says so.
        _ if outcome.said.iter().any(|line| line.starts_with("BAD ")) => {
            cell.error = Some(format!("wrong result: {}", outcome.said.join(" ")));
        }
        _ => cell.error = Some(format!("exit status {}: {}", outcome.status, outcome.said.join(" "))),
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turn_has_its_shortest_undisturbed_run_or_the_shortest_of_all() {
        let mut turn = Turn::default();
        let best = |turn: &Turn| turn.best.map(|run| run.time);
        for (time, calm, expected) in
            [(5.0, false, 5.0), (4.0, false, 4.0), (6.0, true, 6.0), (3.0, false, 6.0), (5.5, true, 5.5)]
        {
            turn.add(Run { time, guest: None }, calm);
            assert_eq!(best(&turn), Some(expected));
        }
        assert!(turn.calm);
    }

    #[test]
    fn run_that_was_longer_for_the_guest_was_seen_late() {
        let run = |time, guest| Run { time, guest };
        assert!(run(0.009, Some(0.012)).was_seen_late());
        assert!(!run(0.0121, Some(0.012)).was_seen_late());
        assert!(!run(0.0119, Some(0.012)).was_seen_late());
        assert!(!run(0.009, None).was_seen_late());
    }

    #[test]
    fn run_of_another_result_is_wrong_and_one_that_nobody_timed_has_no_time() {
        let mut cell = Cell::default();
        let outcome = |time, checksum: &str| Outcome {
            time,
            checksum: Some(checksum.to_owned()),
            ..Outcome::default()
        };
        let second = Some(Duration::from_secs(1));
        let run = record(Engine::Env86, &mut cell, outcome(second, "00"));
        assert_eq!(run, Some(Run { time: 1.0, guest: None }));
        assert_eq!(record(Engine::Env86, &mut cell, outcome(None, "00")), None);
        assert_eq!(cell.error, None);
        record(Engine::Env86, &mut cell, outcome(second, "01"));
        assert!(cell.error.is_some_and(|error| error.contains("wrong result")));
    }
}
