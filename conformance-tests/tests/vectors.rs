//! Recorded answers of silicon, replayed on every host by both engines.

use conformance_tests::layout::Processor;
use conformance_tests::subject::Subject;
use conformance_tests::vectors::{FAMILIES, replay};
use emu_jit::{Jit, Options};

fn check(mut processor: impl Processor) {
    for family in FAMILIES {
        let path = format!("{}/vectors/{}.zst", env!("CARGO_MANIFEST_DIR"), family.name);
        let result = replay(&std::fs::read(&path).unwrap(), &mut processor).unwrap();
        assert_eq!(result.cases, family.blocks * 1024);
        let differences = result.differences.join("\n");
        assert!(
            result.found == 0,
            "{} of {} differ ({:?})\n{differences}",
            result.found,
            result.cases,
            result.from
        );
        // Both ends are met often.
        assert!(result.faults > result.cases / 20 && result.faults < result.cases / 2, "{result:?}");
    }
}

#[test]
fn interpreter_agrees_with_recorded_answers() {
    check(Subject::new().unwrap());
}

#[test]
fn translated_code_agrees_with_recorded_answers() {
    let options = Options { threshold: 1, ..Options::default() };
    check(Subject::with_engine(Jit::with_options(options).unwrap()).unwrap());
}

#[test]
fn damaged_recording_is_refused() {
    let mut subject = Subject::new().unwrap();
    assert!(replay(b"", &mut subject).is_err());
    assert!(
        replay(&zstd::encode_all(&b"env86 answers of silicon 1\n\n"[..], 1).unwrap(), &mut subject).is_err()
    );
    let path = format!("{}/vectors/x87.zst", env!("CARGO_MANIFEST_DIR"));
    let file = std::fs::read(path).unwrap();
    let mut bytes = zstd::decode_all(&file[..]).unwrap();
    bytes.truncate(bytes.len() / 2);
    let half = zstd::encode_all(&bytes[..], 1).unwrap();
    assert!(replay(&half, &mut subject).is_err());
}
