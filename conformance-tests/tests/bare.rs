//! Bare-metal programs print what they have to, with both engines. `cargo xtask bare` compares with QEMU.

use conformance_tests::bare::compare::{differences, expected_file};
use conformance_tests::bare::{PROGRAMS, machine};
use emu_core::interp::Interpreter;

/// Differences that a failure shows.
const MAX: usize = 10;

fn check(engine: &str, run: impl Fn(Vec<u8>) -> Result<String, String>) {
    let mut wrong = String::new();
    for program in PROGRAMS {
        let name = program.name;
        let expected = std::fs::read_to_string(expected_file(name)).unwrap_or_default();
        let image = (program.build)().unwrap();
        let found = run(image).unwrap();
        for difference in differences(&expected, &found, MAX) {
            wrong.push_str(&format!("{name}, {engine}: {difference}\n"));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn programs_on_the_interpreter_print_what_is_expected() {
    check("interpreter", |image| machine::run(Interpreter::new(), image));
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[test]
fn programs_on_the_translator_print_what_is_expected() {
    use emu_jit::{Jit, Options};
    check("translator", |image| {
        let jit = Jit::with_options(Options { threshold: 1, ..Options::default() });
        machine::run(jit.map_err(|error| error.to_string())?, image)
    });
}
