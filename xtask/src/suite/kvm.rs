//! kvm-unit-tests, the 32-bit set: small kernels that test what virtual machines get wrong.

use super::{Bench, Engine, Row, Verdict, text};
use crate::run::{logged, need, step, tool};
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// Name of the suite.
pub const NAME: &str = "kvm";

/// Host seconds for a test that asks for none; the suite's own default is 90.
const SECONDS: u64 = 90;
/// The interpreter gets so many times as much.
const INTERPRETER: u64 = 8;
/// Statuses of the suite's library.
const PASSED: &str = "exit 0";
/// It reports 77 with the lowest bit dropped.
const SKIPPED: &str = "exit 38";
/// Checks of a test that are shown one by one.
const SHOWN: usize = 2000;

/// Builds outside the checkout and runs what `unittests.cfg` lists for i386.
pub fn run(bench: &Bench, dir: &Path) -> Result<Vec<Row>> {
    need(&[("make", "make"), ("gcc", "gcc"), ("objcopy", "binutils"), ("bash", "bash")])?;
    let build = bench.work.join("build");
    fs::create_dir_all(&build)?;
    step("building kvm-unit-tests for i386");
    let mut configure = tool(text(&dir.join("configure"))?);
    logged(configure.arg("--arch=i386").current_dir(&build), &bench.work.join("configure.log"))?;
    logged(tool("make").arg("-j2").current_dir(&build), &bench.work.join("make.log"))
        .context("is the Debian package gcc-multilib there? gcc has to compile for 32 bits")?;
    let mut rows = Vec::new();
    for test in parse(&fs::read_to_string(dir.join("x86/unittests.cfg"))?) {
        let image = build.join("x86").join(&test.file);
        if let Some(reason) = reason_to_skip(&test, &image) {
            rows.push(Row { suite: NAME, test: test.name, engine: "", verdict: Verdict::Skip(reason) });
            continue;
        }
        for engine in &bench.engines {
            let verdict = boot(bench, *engine, &test, text(&image)?)?;
            rows.push(Row { suite: NAME, test: test.name.clone(), engine: engine.name(), verdict });
        }
    }
    Ok(rows)
}

/// A section of `unittests.cfg`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Test {
    name: String,
    file: String,
    arch: String,
    smp: u32,
    arguments: String,
    groups: String,
    accel: String,
    memory_mib: u64,
    seconds: u64,
}

fn parse(text: &str) -> Vec<Test> {
    let mut tests: Vec<Test> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let name = name.to_owned();
            tests.push(Test { name, smp: 1, memory_mib: 128, seconds: SECONDS, ..Test::default() });
            continue;
        }
        let (Some(test), Some((key, value))) = (tests.last_mut(), line.split_once('=')) else { continue };
        let value = value.trim().trim_matches(['\'', '"']).to_owned();
        match key.trim() {
            "file" => test.file = value,
            "arch" => test.arch = value,
            "smp" => test.smp = value.parse().unwrap_or(1),
            "test_args" => test.arguments = value,
            "groups" => test.groups = value,
            "accel" => test.accel = value,
            "timeout" => test.seconds = value.parse().unwrap_or(SECONDS),
            "qemu_params" => {
                let memory = value.split_whitespace().skip_while(|word| *word != "-m").nth(1);
                if let Some(mib) = memory.and_then(|word| word.parse().ok()) {
                    test.memory_mib = mib;
                }
            }
            _ => {}
        }
    }
    tests
}

fn reason_to_skip(test: &Test, image: &Path) -> Option<String> {
    let group = |name: &str| test.groups.split_whitespace().any(|group| group == name);
    let reason = match () {
        () if test.arch == "x86_64" => "64-bit",
        () if group("vmx") || group("svm") => "hardware virtualization, which an i386 does not have",
        () if group("nodefault") => "the suite does not run it by default",
        () if test.smp > 1 => "more than one processor",
        () if test.accel == "kvm" => "for KVM only",
        () if test.arguments.contains('`') => "its arguments are a shell's to compute",
        () if !image.exists() => "not built for i386",
        () => return None,
    };
    Some(reason.to_owned())
}

fn boot(bench: &Bench, engine: Engine, test: &Test, image: &str) -> Result<Verdict> {
    let cmdline = format!("{image} {}", test.arguments);
    let patience = if engine == Engine::Interp { INTERPRETER } else { 1 };
    let (memory, seconds) = (test.memory_mib.to_string(), (test.seconds * patience).to_string());
    let arguments = [
        "--kernel",
        image,
        "--cmdline",
        cmdline.trim_end(),
        "--memory",
        &memory,
        "--seconds",
        &seconds,
        "--test-device",
    ];
    let ended = bench.machine(engine, &arguments)?;
    Ok(judge(&ended.output, &ended.reason))
}

fn judge(output: &str, reason: &str) -> Verdict {
    let lines = |start: &str| {
        let found = output.lines().filter_map(|line| line.strip_prefix(start));
        found.map(|rest| rest.trim().to_owned()).take(SHOWN).collect::<Vec<_>>()
    };
    let mut failed = lines("FAIL: ");
    match reason {
        PASSED if failed.is_empty() => Verdict::Pass,
        SKIPPED if failed.is_empty() => {
            let mut reasons = lines("SKIP: ");
            if reasons.is_empty() {
                // It says so in words of its own, before an empty summary.
                let before =
                    output.lines().rev().find(|line| !line.starts_with("SUMMARY") && !line.is_empty());
                reasons.extend(before.map(str::to_owned));
            }
            Verdict::Skip(format!("by itself: {}", reasons.join("; ")))
        }
        "exit 0" | "exit 1" if !failed.is_empty() => Verdict::Fail(failed),
        _ => {
            let last = output.lines().rev().find(|line| !line.is_empty()).unwrap_or_default();
            let unhandled = output.lines().find(|line| line.starts_with("Unhandled"));
            failed.push(format!("ended with {reason} after {:?}", unhandled.unwrap_or(last)));
            Verdict::Fail(failed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "# comment\n[one]\nfile = a.flat\nqemu_params = -cpu max -m 2048\ntest_args = 'x y'\n\n\
                          [two]\nfile = b.flat\nsmp = 2\narch = i386\ntimeout = 180\n";

    #[test]
    fn parse_reads_sections_with_defaults() {
        let tests = parse(CONFIG);
        let one = Test {
            name: "one".into(),
            file: "a.flat".into(),
            arguments: "x y".into(),
            smp: 1,
            memory_mib: 2048,
            seconds: SECONDS,
            ..Test::default()
        };
        assert_eq!(tests[0], one);
        assert_eq!((tests[1].smp, tests[1].seconds, tests[1].arch.as_str()), (2, 180, "i386"));
        assert_eq!(reason_to_skip(&tests[1], Path::new("/")).unwrap(), "more than one processor");
        assert_eq!(reason_to_skip(&tests[0], Path::new("/")), None);
    }

    #[test]
    fn judge_takes_status_and_failed_checks() {
        assert_eq!(judge("PASS: a\n", "exit 0"), Verdict::Pass);
        assert_eq!(judge("PASS: a\nFAIL: b\n", "exit 1"), Verdict::Fail(vec!["b".into()]));
        assert_eq!(judge("SKIP: c\n", "exit 38"), Verdict::Skip("by itself: c".into()));
        let skipped = judge("SMAP not enabled\nSUMMARY: 0 tests\n", "exit 38");
        assert_eq!(skipped, Verdict::Skip("by itself: SMAP not enabled".into()));
        let Verdict::Fail(checks) = judge("FAIL: b\nlast\n", "timeout") else { panic!("it failed") };
        assert_eq!(checks, ["b", "ended with timeout after \"last\""]);
    }
}
