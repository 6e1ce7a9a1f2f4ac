//! Random blocks on the interpreter and on translated code; `cargo xtask blocks` starts it.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn main() -> std::process::ExitCode {
    run::main()
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn main() -> std::process::ExitCode {
    eprintln!("there is no translator for this host");
    std::process::ExitCode::from(2)
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod run {
    use std::collections::BTreeSet;
    use std::process::ExitCode;
    use std::sync::{Mutex, PoisonError};
    use std::time::Duration;

    use conformance_tests::blocks::{Blocks, Tally};
    use conformance_tests::oracle::processor_time;
    use emu_jit::{Options, Parts};

    /// Between two lines of progress.
    const INTERVAL: Duration = Duration::from_secs(30);

    struct Arguments {
        count: u64,
        seed: u64,
        first: u64,
        threads: u32,
        coverage: bool,
        fixed: Option<Options>,
        /// The options that chunks depend on, as they were given.
        given: String,
    }

    fn arguments() -> Result<Arguments, String> {
        let mut a = Arguments {
            count: 1_000_000,
            seed: 1,
            first: 0,
            threads: 1,
            coverage: false,
            fixed: None,
            given: String::new(),
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            let number = |v: String| v.replace('_', "").parse::<u64>().map_err(|e| format!("{v}: {e}"));
            let eager = Options { threshold: 1, region_threshold: 0, ..Options::default() };
            match word.as_str() {
                "--count" => a.count = number(value()?)?,
                "--seed" => a.seed = number(value()?)?,
                "--first" => a.first = number(value()?)?,
                "--threads" => a.threads = number(value()?)?.clamp(1, 1024) as u32,
                "--coverage" => a.coverage = true,
                "--without" => {
                    let text = value()?;
                    let without = Parts::parse(&text)?;
                    a.given += &format!(" --without {text}");
                    a.fixed = Some(Options { without, ..a.fixed.unwrap_or(eager) });
                }
                "--poison" => {
                    a.given += " --poison";
                    a.fixed = Some(Options { poison: true, ..a.fixed.unwrap_or(eager) });
                }
                _ => return Err(format!("unknown option {word}")),
            }
        }
        a.given = format!("--seed {}{}", a.seed, a.given);
        Ok(a)
    }

    /// What the threads share.
    struct Progress {
        tally: Tally,
        /// The next chunk that nobody has taken.
        next: u64,
        running: BTreeSet<u64>,
        difference: Option<String>,
        start: Duration,
        shown: Duration,
    }

    impl Progress {
        /// A line about what has been done, with what to say in order to go on from here.
        fn tell(&self) {
            let t = &self.tally;
            let time = (processor_time() - self.start).as_secs_f64();
            println!(
                "{} blocks in {} programs, {:.1} % faulted, {} translations, {} regions, {} instructions: \
                 {time:.0} s of processor time, {:.0} blocks/s; --first {}",
                t.blocks,
                t.programs,
                100.0 * t.faults as f64 / t.blocks.max(1) as f64,
                t.translated,
                t.regions,
                t.instructions,
                t.blocks as f64 / time.max(1e-9),
                self.running.first().unwrap_or(&self.next),
            );
        }
    }

    /// Runs chunks until enough is done, or somebody has found a difference.
    fn work(blocks: Blocks, a: &Arguments, shared: &Mutex<Progress>) {
        let progress = || shared.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let number = {
                let mut p = progress();
                if p.difference.is_some() || p.tally.blocks >= a.count {
                    return;
                }
                let number = p.next;
                p.next += 1;
                p.running.insert(number);
                number
            };
            // To their ends, so that all of what a difference depends on is the number.
            let done = blocks.chunk(number, u64::MAX);
            let mut p = progress();
            match done {
                Ok(tally) => {
                    p.running.remove(&number);
                    p.tally.add(&tally);
                }
                Err(difference) => {
                    let options = format!("{} --first {number} --count 1", a.given);
                    p.difference.get_or_insert(format!("{difference}again: cargo xtask blocks {options}"));
                }
            }
            if processor_time() - p.shown > INTERVAL {
                p.shown = processor_time();
                p.tell();
            }
        }
    }

    pub(super) fn main() -> ExitCode {
        let a = match arguments() {
            Ok(a) => a,
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::from(2);
            }
        };
        let blocks = Blocks::new(a.seed, a.fixed);
        let start = processor_time();
        let shared = Mutex::new(Progress {
            tally: Tally::default(),
            next: a.first,
            running: BTreeSet::new(),
            difference: None,
            start,
            shown: start,
        });
        std::thread::scope(|scope| {
            for _ in 1..a.threads {
                scope.spawn(|| work(blocks, &a, &shared));
            }
            work(blocks, &a, &shared);
        });
        let progress = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
        progress.tell();
        print!("{}", progress.tally.coverage(a.coverage));
        match progress.difference {
            None => {
                println!("no differences");
                ExitCode::SUCCESS
            }
            Some(difference) => {
                println!("{difference}");
                ExitCode::FAILURE
            }
        }
    }
}
