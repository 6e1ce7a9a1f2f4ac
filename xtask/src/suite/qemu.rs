//! QEMU's i386 test programs: what each prints as a process of the host, compared with what it prints in a
//! Linux guest.

use super::{Bench, Engine, Row, Verdict, text};
use crate::fixtures::{self, Options as Fixtures, Which, initrd::Cpio};
use crate::run::{logged, need, step, tool};
use crate::snapshots::boot_file;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Name of the suite.
pub const NAME: &str = "qemu";
/// The same program with v86's additions.
pub const NAME_V86: &str = "qemu-v86";

/// The program that prints; the others check themselves.
const MAIN: &str = "test-i386";
/// Host seconds per boot.
const SECONDS: &str = "900";

/// Programs that are left out: what they need.
const LEFT_OUT: &[(&str, &str)] = &[
    ("test-3dnow", "3DNow!"),
    ("test-avx", "AVX"),
    ("test-mmx", "SSSE3, beside what is there"),
    ("test-i386-bmi2", "BMI"),
    ("test-i386-fprem", "patience: it prints 66 MB, QEMU itself runs it on demand only"),
    ("test-i386-pcmpistri", "SSE4.2"),
    ("test-i386-sse-exceptions", "SSE4.1"),
    ("test-i386-ssse3", "SSSE3"),
    ("hello-i386", "nothing of the processor: it makes a system call"),
];

/// First process of the guest: runs the programs and says where the output of each begins and ends.
const INIT: &str = r#"
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void) {
    struct dirent **names;
    int count = scandir("/tests", &names, NULL, alphasort);
    for (int n = 0; n < count; n++) {
        if (names[n]->d_name[0] == '.') continue;
        printf("\n[begin %s]\n", names[n]->d_name);
        fflush(stdout);
        if (fork() == 0) {
            char path[300];
            snprintf(path, sizeof path, "/tests/%s", names[n]->d_name);
            execl(path, path, (char *)NULL);
            _exit(126);
        }
        int status = 0;
        wait(&status);
        printf("\n[end %d]\n", status);
        fflush(stdout);
    }
    printf("\n[done]\n");
    fflush(stdout);
    sync();
    reboot(RB_POWER_OFF);
    return 0;
}
"#;

/// QEMU's own checkout.
pub fn run(bench: &Bench, dir: &Path) -> Result<Vec<Row>> {
    programs(bench, NAME, &dir.join("tests/tcg/i386"))
}

/// v86's copy of the main program.
pub fn run_v86(bench: &Bench, dir: &Path) -> Result<Vec<Row>> {
    programs(bench, NAME_V86, &dir.join("tests/qemu"))
}

fn programs(bench: &Bench, suite: &'static str, sources: &Path) -> Result<Vec<Row>> {
    need(&[("gcc", "gcc"), ("setarch", "util-linux")])?;
    let tests = bench.work.join("tests");
    fs::create_dir_all(&tests)?;
    let mut rows = Vec::new();
    let mut built: Vec<(String, PathBuf)> = Vec::new();
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(sources)? {
        let path = entry?.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if path.extension().is_some_and(|extension| extension == "c") {
            names.push(stem);
        }
    }
    names.sort();
    for name in names {
        if let Some((_, what)) = LEFT_OUT.iter().find(|(other, _)| *other == name) {
            let verdict = Verdict::Skip(format!("it needs {what}"));
            rows.push(Row { suite, test: name, engine: "", verdict });
            continue;
        }
        let program = tests.join(&name);
        compile(&sources.join(format!("{name}.c")), &program, &bench.work)?;
        built.push((name, program));
    }
    step("building the guest");
    fixtures::build(&Fixtures::cached(Which::Mini, false))?;
    let kernel = boot_file(&fixtures::directory().join("mini"), "vmlinuz")?;
    let initrd = initrd(bench, &built)?;
    for engine in &bench.engines {
        let guest = boot(bench, *engine, &kernel, &initrd)?;
        for (name, program) in &built {
            let verdict = match result_of(&guest, name) {
                Some(ours) => compare(&ours, &native(program)?),
                None => Verdict::Fail(vec!["the guest did not finish it".to_owned()]),
            };
            rows.push(Row { suite, test: name.clone(), engine: engine.name(), verdict });
        }
    }
    Ok(rows)
}

/// Compiles one program as QEMU's makefile does, statically.
fn compile(source: &Path, program: &Path, work: &Path) -> Result<()> {
    let mut gcc = tool("gcc");
    gcc.args(["-m32", "-static", "-O2", "-g0", "-fno-strict-aliasing", "-fno-pie", "-no-pie", "-w"]);
    gcc.args(["-msse", "-mmmx", "-o"]).arg(program).arg(source);
    if program.ends_with(MAIN) {
        let directory = source.parent().unwrap_or(Path::new("."));
        gcc.arg(directory.join("test-i386-code16.S")).arg(directory.join("test-i386-vm86.S"));
    }
    logged(gcc.arg("-lm"), &work.join("gcc.log"))
        .context("is the Debian package gcc-multilib there? gcc has to compile for 32 bits")
}

fn initrd(bench: &Bench, programs: &[(String, PathBuf)]) -> Result<PathBuf> {
    let (source, init) = (bench.work.join("init.c"), bench.work.join("init"));
    fs::write(&source, INIT)?;
    compile(&source, &init, &bench.work)?;
    let mut archive = Cpio::new(0);
    archive.directory("dev")?;
    archive.char_device("dev/console", 0o600, (5, 1))?;
    archive.directory("tests")?;
    archive.file("init", 0o755, &fs::read(&init)?)?;
    for (name, program) in programs {
        archive.file(&format!("tests/{name}"), 0o755, &fs::read(program)?)?;
    }
    let path = bench.work.join("initrd");
    fs::write(&path, archive.finish()?)?;
    Ok(path)
}

fn boot(bench: &Bench, engine: Engine, kernel: &Path, initrd: &Path) -> Result<String> {
    step(format!("running them in the guest ({})", engine.name()));
    let cmdline = "console=ttyS0 quiet loglevel=1 mitigations=off tsc=reliable panic=-1 vdso32=0";
    let arguments = ["--kernel", text(kernel)?, "--initrd", text(initrd)?, "--cmdline", cmdline];
    let more = ["--memory", "256", "--seconds", SECONDS];
    let ended = bench.machine(engine, &[&arguments[..], &more].concat())?;
    if !ended.output.contains("[begin ") {
        bail!("the guest did not come up ({}): {}", ended.reason, ended.output);
    }
    fs::write(bench.work.join(format!("{}.out", engine.name())), &ended.output)?;
    Ok(ended.output)
}

/// What a program printed, and its wait status.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    output: String,
    status: i32,
}

/// The part of the guest's output that is the program's.
fn result_of(guest: &str, name: &str) -> Option<Run> {
    let (_, rest) = guest.split_once(&format!("\n[begin {name}]\n"))?;
    let (output, rest) = rest.split_once("\n[end ")?;
    let (status, _) = rest.split_once("]\n")?;
    Some(Run { output: output.to_owned(), status: status.parse().ok()? })
}

fn native(program: &Path) -> Result<Run> {
    use std::os::unix::process::ExitStatusExt;
    // Code in data pages runs, as on a processor without NX.
    let mut command = tool("setarch");
    command.args(["i686", "--read-implies-exec"]).arg(program);
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(Run { output: text, status: output.status.into_raw() })
}

/// Lines that differ, as checks of their own: the first words tell the instruction.
fn compare(ours: &Run, silicon: &Run) -> Verdict {
    let (a, b): (Vec<_>, Vec<_>) =
        (ours.output.trim_end().lines().collect(), silicon.output.trim_end().lines().collect());
    let mut checks = Vec::new();
    if ours.status != silicon.status {
        checks.push(format!("status {} instead of {}", ours.status, silicon.status));
    }
    if a.len() != b.len() {
        checks.push(format!("{} lines instead of {}", a.len(), b.len()));
    }
    for (a, b) in a.iter().zip(&b).filter(|(a, b)| a != b) {
        checks.push(format!("{a:?} instead of {b:?}"));
    }
    if checks.is_empty() { Verdict::Pass } else { Verdict::Fail(checks) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_of_finds_the_program_and_its_status() {
        let guest = "boot\n\n[begin a]\n\n[end 0]\n\n[begin b]\nline\nmore\n\n[end 256]\n\n[done]\n";
        assert_eq!(result_of(guest, "b"), Some(Run { output: "line\nmore\n".into(), status: 256 }));
        assert_eq!(result_of(guest, "c"), None);
    }

    #[test]
    fn compare_names_each_line_that_differs() {
        let run = |output: &str, status| Run { output: output.into(), status };
        assert_eq!(compare(&run("a\nb\n", 0), &run("a\nb\n", 0)), Verdict::Pass);
        let Verdict::Fail(checks) = compare(&run("a\nc\n", 256), &run("a\nb\n", 0)) else {
            panic!("it differs")
        };
        assert_eq!(checks, ["status 256 instead of 0", "\"c\" instead of \"b\""]);
    }
}
