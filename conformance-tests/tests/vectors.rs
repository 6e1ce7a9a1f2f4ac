//! Recorded answers of silicon, replayed on every host by both engines.

use conformance_tests::fp::FpState;
use conformance_tests::layout::Processor;
use conformance_tests::named;
use conformance_tests::policy::{FLAGS, Host};
use conformance_tests::subject::Subject;
use conformance_tests::vectors::{FAMILIES, replay};
use conformance_tests::{ARENA, ARENA_LEN};
use emu_jit::{Jit, Options};

/// Runs the named cases.
fn check_named(processor: &mut impl Processor, host: Host) {
    let text = include_str!("../vectors/named.txt");
    let cases = named::parse(text).unwrap();
    assert!(cases.len() > 20);
    let mut failures = String::new();
    for case in &cases {
        case.input.store(processor);
        let mut got = processor.exec(&case.input.regs, true);
        got.regs.eflags &= FLAGS;
        if case.want.fault.is_some() {
            got.regs.fp = FpState { pointers: case.want.regs.fp.pointers, ..got.regs.fp };
        }
        let arena = processor.memory(ARENA, ARENA_LEN);
        if let Some(text) = case.input.difference(host, &case.want, &case.arena, &got, arena) {
            failures += &format!("{}: {}\n{text}\n", case.name, case.why);
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn interpreter_agrees_with_named_cases() {
    check_named(&mut Subject::new().unwrap(), Host::AMD);
}

#[test]
fn translated_code_agrees_with_named_cases() {
    check_named(&mut Subject::with_engine(eager()).unwrap(), Host::native());
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[test]
fn silicon_agrees_with_named_cases() {
    use conformance_tests::oracle::Silicon;
    let Some(mut silicon) = Silicon::get() else {
        println!("this host cannot run 32-bit code: nothing compared");
        return;
    };
    let host = Host::probe(|code, before| silicon.run(code, before));
    check_named(&mut *silicon, host);
}

fn eager() -> Jit {
    Jit::with_options(Options { threshold: 1, ..Options::default() }).unwrap()
}

fn check(processor: &mut impl Processor, host: Host) {
    for family in FAMILIES {
        let path = format!("{}/vectors/{}.zst", env!("CARGO_MANIFEST_DIR"), family.name);
        let result = replay(&std::fs::read(&path).unwrap(), host, processor).unwrap();
        // A few have no definite answer.
        assert!(result.cases > family.blocks * 1000 && result.cases <= family.blocks * 1024);
        let differences = result.differences.join("\n");
        assert!(
            result.found == 0,
            "{} of {} differ ({:?})\n{differences}",
            result.found,
            result.cases,
            result.from
        );
        // Both ends are met often, and all exceptions there are.
        let faults: u32 = result.faults.iter().sum();
        assert!(faults > result.cases / 20 && faults < result.cases * 3 / 4, "{result:?}");
        let vectors: &[usize] = match family.name {
            // #UD, #GP, #PF, #MF, #AC and #XM
            "x87" | "x87-16" => &[6, 13, 14, 16, 17],
            "simd" => &[6, 13, 14, 16, 17, 19],
            "segments" => &[0, 1, 3, 4, 5, 6, 11, 12, 13, 14, 17],
            _ => &[0, 1, 3, 4, 5, 6, 13, 14, 17],
        };
        for vector in vectors {
            assert!(
                result.faults[*vector] > 0,
                "{} has no exception {vector}: {:?}",
                family.name,
                result.faults
            );
        }
    }
}

#[test]
fn interpreter_agrees_with_recorded_answers() {
    check(&mut Subject::new().unwrap(), Host::AMD);
}

#[test]
fn translated_code_agrees_with_recorded_answers() {
    let mut subject = Subject::with_engine(eager()).unwrap();
    check(&mut subject, Host::native());
    let translated = subject.engine().jit_stats().translated;
    assert!(translated > 100_000, "{translated}");
}

#[test]
fn damaged_recording_is_refused() {
    let mut subject = Subject::new().unwrap();
    assert!(replay(b"", Host::AMD, &mut subject).is_err());
    assert!(
        replay(
            &zstd::encode_all(&b"env86 answers of silicon 1\n\n"[..], 1).unwrap(),
            Host::AMD,
            &mut subject
        )
        .is_err()
    );
    let path = format!("{}/vectors/x87.zst", env!("CARGO_MANIFEST_DIR"));
    let file = std::fs::read(path).unwrap();
    let mut bytes = zstd::decode_all(&file[..]).unwrap();
    bytes.truncate(bytes.len() / 2);
    let half = zstd::encode_all(&bytes[..], 1).unwrap();
    assert!(replay(&half, Host::AMD, &mut subject).is_err());
}
