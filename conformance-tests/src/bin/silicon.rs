//! One process of a campaign against silicon; `cargo xtask silicon` starts it.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn main() -> std::process::ExitCode {
    run::main()
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn main() -> std::process::ExitCode {
    eprintln!("only 64-bit x86 Linux can be asked");
    std::process::ExitCode::from(2)
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod run {
    use std::process::ExitCode;
    use std::time::Duration;

    use conformance_tests::campaign::coverage::Coverage;
    use conformance_tests::campaign::float::{Float, Unit};
    use conformance_tests::campaign::integer::{Flavour, Integer};
    use conformance_tests::campaign::rows::{expected_instructions, rows};
    use conformance_tests::campaign::{Campaign, Counts, Family, report};
    use conformance_tests::oracle::{Silicon, processor_time};
    use conformance_tests::policy::Host;
    use conformance_tests::subject::Subject;
    use emu_core::engine::CpuEngine;
    use emu_core::interp::Interpreter;
    use emu_jit::{Jit, Options};

    /// Differences printed in full per family.
    const SHOWN: u64 = 6;

    struct Arguments {
        cases: u64,
        seed: u64,
        family: Option<String>,
        jit: bool,
        coverage: Option<String>,
        slice: u64,
        threads: u32,
    }

    fn arguments() -> Result<Arguments, String> {
        let mut a = Arguments {
            cases: 1_000_000,
            seed: 1,
            family: None,
            jit: false,
            coverage: None,
            slice: u64::MAX,
            threads: 1,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            let number = |v: String| v.replace('_', "").parse().map_err(|e| format!("{v}: {e}"));
            match word.as_str() {
                "--cases" => a.cases = number(value()?)?,
                "--seed" => a.seed = number(value()?)?,
                "--slice" => a.slice = number(value()?)?,
                "--threads" => a.threads = number(value()?)? as u32,
                "--family" => a.family = Some(value()?),
                "--engine" => a.jit = value()? == "jit",
                "--coverage" => a.coverage = Some(value()?),
                _ => return Err(format!("unknown option {word}")),
            }
        }
        Ok(a)
    }

    /// The families and their weights.
    fn families(host: Host) -> Vec<(u32, Box<dyn Family>)> {
        vec![
            (1, Box::new(Float::new(Unit::X87, host))),
            (1, Box::new(Float::new(Unit::Simd, host))),
            (2, Box::new(Integer::new(Flavour::Flat))),
            (2, Box::new(Integer::new(Flavour::Segments))),
        ]
    }

    pub(super) fn main() -> ExitCode {
        let a = match arguments() {
            Ok(a) => a,
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::from(2);
            }
        };
        if a.threads > 1 {
            return share(&a);
        }
        let done = if a.jit {
            let options = Options { threshold: 1, ..Options::default() };
            Jit::with_options(options).map_err(|e| e.to_string()).and_then(|jit| {
                campaign(&a, jit, |jit: &Jit| {
                    let s = jit.jit_stats();
                    format!(
                        "{} blocks translated, {} instructions interpreted, {} entries",
                        s.translated, s.interpreted, s.entries
                    )
                })
            })
        } else {
            campaign(&a, Interpreter::new(), |_| "interpreter".into())
        };
        match done {
            Ok(0) => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::from(2)
            }
        }
    }

    /// Runs several processes: the host's side of a case has fixed addresses, so each process has one.
    fn share(a: &Arguments) -> ExitCode {
        let part = |n: u32| a.coverage.as_ref().map(|file| format!("{file}.{n}"));
        let start = |n: u32| {
            let mut command = std::process::Command::new(std::env::current_exe()?);
            let cases = a.cases.div_ceil(u64::from(a.threads));
            let seed = a.seed.wrapping_mul(1000).wrapping_add(u64::from(n));
            command.args(["--cases", &cases.to_string(), "--seed", &seed.to_string()]);
            command.args(["--engine", if a.jit { "jit" } else { "interp" }, "--slice", &a.slice.to_string()]);
            if let Some(family) = &a.family {
                command.args(["--family", family]);
            }
            if let Some(file) = part(n) {
                command.args(["--coverage", &file]);
            }
            command.spawn()
        };
        let children: Vec<_> = (0..a.threads).map(start).collect();
        let mut worst = 0;
        for child in children {
            let code = child.and_then(|mut c| c.wait()).ok().and_then(|s| s.code());
            worst = worst.max(code.unwrap_or(2));
        }
        if let Some(file) = &a.coverage {
            let mut all = expected();
            for n in 0..a.threads {
                for text in
                    part(n).map(|f| format!("{f}.txt")).iter().filter_map(|f| std::fs::read_to_string(f).ok())
                {
                    all.parse(&text);
                }
                if let Some(f) = part(n) {
                    let _ = std::fs::remove_file(format!("{f}.txt"));
                    let _ = std::fs::remove_file(f);
                }
            }
            if save(file, &all).is_err() {
                worst = worst.max(2);
            }
        }
        ExitCode::from(worst as u8)
    }

    /// A table in which everything that should be met stands at zero.
    fn expected() -> Coverage {
        let mut coverage = Coverage::default();
        for ins in expected_instructions(&rows()) {
            coverage.place(&ins);
        }
        coverage
    }

    fn save(file: &str, coverage: &Coverage) -> Result<(), String> {
        std::fs::write(file, coverage.markdown()).map_err(|e| format!("{file}: {e}"))?;
        let text = format!("{file}.txt");
        std::fs::write(&text, coverage.to_text()).map_err(|e| format!("{text}: {e}"))
    }

    #[derive(Default)]
    struct Tally {
        counts: Counts,
        time: Duration,
    }

    fn campaign<E: CpuEngine>(
        a: &Arguments,
        engine: E,
        describe: impl Fn(&E) -> String,
    ) -> Result<u64, String> {
        let mut silicon = Silicon::get().ok_or("this host cannot run 32-bit code at full speed")?;
        silicon.watch();
        let host = Host::probe(|code, before| silicon.run(code, before));
        let mut subject = Subject::with_engine(engine).map_err(|e| e.to_string())?;
        subject.slice = a.slice;
        let mut campaign = Campaign {
            silicon: &mut silicon,
            subject,
            coverage: if a.family.is_none() { expected() } else { Coverage::default() },
            counts: Counts::default(),
            saved: Vec::new(),
        };
        let mut families = families(host);
        if let Some(name) = &a.family {
            families.retain(|(_, f)| f.name() == name);
        }
        if families.is_empty() {
            return Err("no such family".into());
        }
        let mut tallies: Vec<Tally> = families.iter().map(|_| Tally::default()).collect();
        let total: u32 = families.iter().map(|f| f.0).sum();
        let start = processor_time();
        let mut shown = start;
        for n in 0.. {
            if campaign.counts.cases + campaign.counts.skipped >= a.cases {
                break;
            }
            let mut slot = (n % u64::from(total)) as u32;
            let index = families
                .iter()
                .position(|(weight, _)| {
                    let here = slot < *weight;
                    slot = slot.saturating_sub(*weight);
                    here
                })
                .unwrap_or(0);
            let family = families[index].1.as_mut();
            let before = campaign.counts;
            let began = processor_time();
            let seed = a.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ n.wrapping_mul(0xD134_2543_DE82_EF95);
            let difference = campaign.chunk(family, seed);
            let tally = &mut tallies[index];
            tally.time += processor_time() - began;
            let c = campaign.counts;
            tally.counts.cases += c.cases - before.cases;
            tally.counts.skipped += c.skipped - before.skipped;
            tally.counts.faults += c.faults - before.faults;
            tally.counts.differences += c.differences - before.differences;
            if let Some(case) = difference
                && tally.counts.differences <= SHOWN
            {
                println!("seed {} chunk {n}", a.seed);
                let small = report::minimise(&mut campaign, family, &case);
                println!("{}", report::describe(&mut campaign, family, &small));
            }
            if processor_time() - shown > Duration::from_secs(30) {
                shown = processor_time();
                progress(&families, &tallies, campaign.counts, start);
            }
        }
        progress(&families, &tallies, campaign.counts, start);
        println!("{}", describe(campaign.subject.engine()));
        if let Some(file) = &a.coverage {
            save(file, &campaign.coverage)?;
        }
        Ok(campaign.counts.differences)
    }

    fn progress(families: &[(u32, Box<dyn Family>)], tallies: &[Tally], all: Counts, start: Duration) {
        let mut line = format!(
            "{} cases, {} differences, {:.0} s:",
            all.cases,
            all.differences,
            (processor_time() - start).as_secs_f64()
        );
        for ((_, family), t) in families.iter().zip(tallies) {
            let c = t.counts;
            line += &format!(
                "  {} {} ({:.0}/s, faults {:.1} %, skipped {}, differ {})",
                family.name(),
                c.cases,
                c.cases as f64 / t.time.as_secs_f64().max(1e-9),
                100.0 * c.faults as f64 / c.cases.max(1) as f64,
                c.skipped,
                c.differences
            );
        }
        println!("{line}");
    }
}
