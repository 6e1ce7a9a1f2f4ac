//! Runs the bare-metal programs on our machine and on QEMU: `cargo xtask bare`.

use std::path::Path;
use std::process::ExitCode;
use std::{env, fs};

use conformance_tests::bare::compare::{Explained, differences, expected_file, qemu_file};
use conformance_tests::bare::{PROGRAMS, Program, machine, qemu};
use emu_core::interp::Interpreter;

/// Findings of one kind that are printed.
const MAX: usize = 20;

struct Options {
    bless: bool,
    only: Option<String>,
    qemu: String,
}

fn options() -> Result<Options, String> {
    let mut options = Options { bless: false, only: None, qemu: "qemu-system-i386".into() };
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--bless" => options.bless = true,
            "--only" => options.only = Some(words.next().ok_or("--only needs a name")?),
            "--qemu" => options.qemu = words.next().ok_or("--qemu needs a program")?,
            _ => return Err(format!("unknown option {word}")),
        }
    }
    Ok(options)
}

/// Returns what is wrong.
fn check(program: &Program, options: &Options, dir: &Path) -> Result<Vec<String>, String> {
    let name = program.name;
    let image = (program.build)().map_err(|error| format!("{name}: {error}"))?;
    let file = dir.join(format!("{name}.bin"));
    fs::write(&file, &image).map_err(|error| error.to_string())?;
    let ours = machine::run(Interpreter::new(), image)?;
    let theirs = qemu::run(&options.qemu, &file, &dir.join(format!("{name}.out")))?;
    if options.bless {
        fs::write(expected_file(name), &ours).map_err(|error| error.to_string())?;
        let text = Explained::load(name).updated(&ours, &theirs);
        let file = qemu_file(name);
        if text.is_empty() {
            let _ = fs::remove_file(file);
        } else {
            fs::write(file, text).map_err(|error| error.to_string())?;
        }
    }
    let expected = fs::read_to_string(expected_file(name)).unwrap_or_default();
    let mut wrong = differences(&expected, &ours, MAX);
    let unexplained = Explained::load(name).check(&expected, &theirs);
    let more = unexplained.len().saturating_sub(MAX);
    wrong.extend(unexplained.into_iter().take(MAX));
    if more > 0 {
        wrong.push(format!("and {more} more"));
    }
    println!("{name}: {} lines, {}", ours.lines().count(), if wrong.is_empty() { "ok" } else { "DIFFERENT" });
    Ok(wrong)
}

fn run() -> Result<bool, String> {
    let options = options()?;
    let dir = env::temp_dir().join(format!("bare-{}", std::process::id()));
    fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
    let mut good = true;
    for program in PROGRAMS {
        if options.only.as_ref().is_some_and(|only| !program.name.contains(only.as_str())) {
            continue;
        }
        for text in check(program, &options, &dir)? {
            good = false;
            println!("  {text}");
        }
    }
    fs::remove_dir_all(&dir).map_err(|error| error.to_string())?;
    Ok(good)
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
