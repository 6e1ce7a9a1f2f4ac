//! Random integer instructions on the host's CPU and on the interpreter.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use conformance_tests::gen_int::{ROWS, Rng, encode, sequence, state, undefined_flags};
use conformance_tests::oracle::Silicon;
use conformance_tests::subject::Subject;
use conformance_tests::{CODE, Outcome, State};

/// Cases whose *result* the SDM leaves undefined: 16-bit double shifts by more than 16.
fn is_undefined(name: &str, code: &[u8], before: &State) -> bool {
    if !matches!(name, "shld" | "shrd") || code[0] != 0x66 {
        return false;
    }
    let at = code.iter().position(|b| *b == 0x0F).unwrap_or(0) + 1;
    let by_cl = code.get(at).is_some_and(|op| op & 1 != 0);
    let count = if by_cl { before.gpr[1] } else { u32::from(*code.last().unwrap_or(&0)) };
    count & 31 > 16
}

/// Takes over what is up to the processor when an instruction faults.
fn forgive(name: &str, want: &mut Outcome, got: &Outcome) {
    let (Some(w), Some(g)) = (&mut want.fault, &got.fault) else { return };
    if name.ends_with("cmps") && w.vector == g.vector {
        // Which operand is read first (Zen: by form).
        w.cr2 = g.cr2;
    }
    if name == "popa" {
        // Whether registers popped before the fault change.
        want.state.gpr = got.state.gpr;
    }
}

fn difference(code: &[u8], before: &State, want: &Outcome, got: &Outcome) -> String {
    let arenas = want.state.arena.iter().zip(&got.state.arena);
    let memory: Vec<_> = arenas.enumerate().filter(|(_, (a, b))| a != b).take(4).collect();
    let line = |s: &State| format!("{:08x?} {:03x}", s.gpr, s.eflags);
    format!(
        "{code:02x?}\n before  {}\n silicon {} {:x?}\n ours    {} {:x?} memory {memory:x?}",
        line(before),
        line(&want.state),
        want.fault,
        line(&got.state),
        got.fault
    )
}

/// Cases per row, or of which sequences get a multiple.
fn cases() -> u32 {
    std::env::var("SILICON_CASES").ok().and_then(|s| s.parse().ok()).unwrap_or(200)
}

#[test]
fn integer_instructions_agree_with_silicon() {
    let Some(mut silicon) = Silicon::get() else {
        println!("this host cannot run 32-bit code: nothing compared");
        return;
    };
    let per_row = cases();
    let mut subject = Subject::new().unwrap();
    let mut rng = Rng::new(0x1234);
    let mut failures = Vec::new();
    for (n, row) in ROWS.iter().enumerate() {
        let mut shown = 0;
        for _ in 0..per_row {
            let code = encode(&mut rng, row);
            let before = state(&mut rng);
            let mut want = silicon.run(&code, &before);
            let mut got = subject.run(&code, &before);
            // RF is set in the image of a faulting instruction; the test of it is elsewhere.
            let mask = 0xCD5 & !undefined_flags(row.name);
            if want.fault.is_some() {
                want.state.eflags = got.state.eflags;
            }
            want.state.eflags &= mask;
            got.state.eflags &= mask;
            if is_undefined(row.name, &code, &before) {
                continue;
            }
            forgive(row.name, &mut want, &got);
            if want != got && shown < 2 {
                shown += 1;
                failures.push(format!("{n} {} {}", row.name, difference(&code, &before, &want, &got)));
            }
        }
    }
    assert!(failures.is_empty(), "{} differences\n{}", failures.len(), failures.join("\n"));
}

/// Two to eight instructions with jumps among them, up to the end or the first fault.
#[test]
fn integer_sequences_agree_with_silicon() {
    let Some(mut silicon) = Silicon::get() else {
        println!("this host cannot run 32-bit code: nothing compared");
        return;
    };
    let mut subject = Subject::new().unwrap();
    let mut rng = Rng::new(0x5678);
    let mut failures = Vec::new();
    let mut faults = 0;
    let total = cases() * 100;
    for _ in 0..total {
        let seq = sequence(&mut rng);
        let before = state(&mut rng);
        let mut want = silicon.run(&seq.code, &before);
        let mut got = subject.run(&seq.code, &before);
        let mut undefined = seq.undefined;
        if let Some(fault) = &want.fault {
            faults += 1;
            let at = fault.eip.wrapping_sub(CODE) as usize;
            if let Some(step) = seq.steps.iter().find(|s| s.offset == at) {
                forgive(step.name, &mut want, &got);
                undefined = step.undefined | undefined_flags(step.name);
                if step.name.starts_with("rep") {
                    // Comparisons before the fault have left flags; which, is up to the processor.
                    undefined = u32::MAX;
                }
            }
        }
        want.state.eflags &= 0xCD5 & !undefined;
        got.state.eflags &= 0xCD5 & !undefined;
        if want != got {
            let names: Vec<_> = seq.steps.iter().map(|s| s.name).collect();
            failures.push(format!("{names:?} {}", difference(&seq.code, &before, &want, &got)));
            if failures.len() == 10 {
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{} differences\n{}", failures.len(), failures.join("\n"));
    // Both ends of a sequence are met often.
    assert!(faults > total / 10 && faults < total - total / 10, "{faults} of {total} faulted");
}

/// Prefixes in front of anything, around the limit of 15 bytes.
#[test]
fn instruction_length_limit_agrees_with_silicon() {
    let Some(mut silicon) = Silicon::get() else {
        println!("this host cannot run 32-bit code: nothing compared");
        return;
    };
    let mut subject = Subject::new().unwrap();
    let mut rng = Rng::new(0x9ABC);
    for _ in 0..cases() * 20 {
        let row = &ROWS[rng.below(ROWS.len() as u32) as usize];
        let tail = encode(&mut rng, row);
        let prefixes = (10 + rng.below(8) as usize).saturating_sub(tail.len() / 2);
        let mut code: Vec<u8> =
            (0..prefixes).map(|_| [0x26, 0x2E, 0x36, 0x3E][rng.below(4) as usize]).collect();
        // A hole in the opcode map, an undefined instruction, or the row's.
        match rng.below(8) {
            0 => code.extend_from_slice(&[0x0F, 0x04]),
            1 => code.extend_from_slice(&[0x0F, 0x0B]),
            _ => code.extend_from_slice(&tail),
        }
        let before = state(&mut rng);
        if is_undefined(row.name, &tail, &before) {
            continue;
        }
        let mut want = silicon.run(&code, &before);
        let mut got = subject.run(&code, &before);
        forgive(row.name, &mut want, &got);
        want.state.eflags = 0;
        got.state.eflags = 0;
        assert!(want == got, "{} {}", row.name, difference(&code, &before, &want, &got));
    }
}
