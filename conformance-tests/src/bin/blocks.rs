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
    use std::process::ExitCode;
    use std::time::Duration;

    use conformance_tests::blocks::{Blocks, Tally};
    use conformance_tests::oracle::processor_time;
    use emu_jit::{Options, Parts};

    struct Arguments {
        count: u64,
        seed: u64,
        fixed: Option<Options>,
    }

    fn arguments() -> Result<Arguments, String> {
        let mut a = Arguments { count: 1_000_000, seed: 1, fixed: None };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            let number = |v: String| v.replace('_', "").parse().map_err(|e| format!("{v}: {e}"));
            let eager = Options { threshold: 1, region_threshold: 0, ..Options::default() };
            match word.as_str() {
                "--count" => a.count = number(value()?)?,
                "--seed" => a.seed = number(value()?)?,
                "--without" => {
                    let without = Parts::parse(&value()?)?;
                    a.fixed = Some(Options { without, ..a.fixed.unwrap_or(eager) });
                }
                "--poison" => a.fixed = Some(Options { poison: true, ..a.fixed.unwrap_or(eager) }),
                _ => return Err(format!("unknown option {word}")),
            }
        }
        Ok(a)
    }

    fn tell(tally: &Tally, time: Duration) {
        println!(
            "{} blocks in {} programs, {:.1} % faulted, {} translations, {} regions, {} instructions: {:.0} s, {:.0} blocks/s",
            tally.blocks,
            tally.programs,
            100.0 * tally.faults as f64 / tally.blocks.max(1) as f64,
            tally.translated,
            tally.regions,
            tally.instructions,
            time.as_secs_f64(),
            tally.blocks as f64 / time.as_secs_f64().max(1e-9),
        );
    }

    pub(super) fn main() -> ExitCode {
        let a = match arguments() {
            Ok(a) => a,
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::from(2);
            }
        };
        let start = processor_time();
        let mut shown = start;
        let mut progress = |tally: &Tally| {
            if processor_time() - shown > Duration::from_secs(30) {
                shown = processor_time();
                tell(tally, shown - start);
            }
        };
        let mut blocks = match Blocks::new(a.seed, a.fixed) {
            Ok(blocks) => blocks,
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::from(2);
            }
        };
        match blocks.run(a.count, &mut progress) {
            Ok(tally) => {
                tell(&tally, processor_time() - start);
                println!("no differences");
                ExitCode::SUCCESS
            }
            Err(difference) => {
                println!("{difference}");
                ExitCode::FAILURE
            }
        }
    }
}
