//! Decoder and interpreter: any program in any mode ends in time, in a state that can be, and in the
//! same one however the run is divided.

#![no_main]

use emu_core::interp::Interpreter;
use env86_fuzz::pc::Pc;
use env86_fuzz::programs::{Case, seeds};

/// The whole run divided into slices of `budget` instructions.
fn run(case: &Case<'_>, mut budget: impl FnMut() -> u64, forgetful: bool) -> Pc<Interpreter> {
    let mut pc = Pc::new(case, Interpreter::new());
    while pc.slice(budget()) {
        if forgetful {
            pc.flush();
        }
    }
    pc
}

env86_fuzz::target!(seeds, |data: &[u8]| {
    let case = Case::read(data);
    let whole = run(&case, || u64::MAX, false);
    let mut state = u64::from(case.choice) | 0x100;
    let random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        1 + (state >> 60)
    };
    let sliced = run(&case, random, case.choice & 2 != 0);
    if let Some(difference) = whole.difference(&sliced) {
        panic!("a run in one piece and one in slices differ: {difference}");
    }
});
