//! Translated code with any of its parts switched off, with dead state poisoned, with tiny caches and any
//! threshold: random blocks against the interpreter. `cargo xtask blocks` runs many more of them.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use conformance_tests::blocks::Blocks;
use emu_jit::{Level, Options, Part, Parts};
use proptest::prelude::*;

fn eager() -> Options {
    Options { threshold: 1, region_threshold: 1, ..Options::default() }
}

fn compare(seed: u64, count: u64, options: Option<Options>) -> Result<(), String> {
    let tally = Blocks::new(seed, options).run(count)?;
    assert!(tally.faults > 0 && tally.faults < tally.blocks, "{tally:?}");
    Ok(())
}

#[track_caller]
fn agree(seed: u64, count: u64, options: Option<Options>) {
    compare(seed, count, options).unwrap_or_else(|difference| panic!("{difference}"));
}

#[test]
fn blocks_agree_without_each_part() {
    for (n, part) in Part::ALL.into_iter().enumerate() {
        agree(100 + n as u64, 300, Some(Options { without: Parts::of(&[part]), ..eager() }));
    }
}

#[test]
fn blocks_agree_at_each_level() {
    for level in [Level::Calls, Level::T1, Level::On] {
        agree(200, 500, Some(Options { threshold: 1, ..Options::level(level) }));
    }
}

#[test]
fn blocks_agree_when_dead_state_is_poisoned() {
    agree(300, 2000, Some(Options { poison: true, ..eager() }));
}

#[test]
fn blocks_agree_when_the_cache_is_exhausted_again_and_again() {
    agree(400, 1500, Some(Options { cache_bytes: 0, ..eager() }));
}

#[test]
fn blocks_agree_with_changing_options() {
    let tally = Blocks::new(500, None).run(6000).unwrap();
    assert!(tally.faults > 0 && tally.faults < tally.blocks && tally.regions > 100, "{tally:?}");
}

#[test]
fn level_of_calls_lowers_nothing_and_never_translates_nothing() {
    let options = Options { threshold: Options::NEVER, ..Options::default() };
    let tally = Blocks::new(600, Some(options)).run(200).unwrap();
    assert_eq!(tally.translated, 0);
    let options = Options { threshold: 1, ..Options::level(Level::Calls) };
    let tally = Blocks::new(600, Some(options)).run(200).unwrap();
    assert!(tally.translated > 200);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn blocks_agree_without_any_set_of_parts(
        parts in prop::collection::vec(prop::sample::select(&Part::ALL[..]), 0..8),
        poison: bool,
        threshold in 1u16..4,
        region_threshold in 0u16..3,
        seed: u64,
    ) {
        let options = Options { without: Parts::of(&parts), poison, threshold, region_threshold, ..Options::default() };
        prop_assert_eq!(compare(seed, 120, Some(options)), Ok(()));
    }
}
