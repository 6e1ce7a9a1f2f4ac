//! A guest cannot panic the host: random code in reach of every port, device window, configuration
//! register and virtqueue, on whole machines with overflow checks.

mod machine_support;

use machine_support::random::{Parrot, Random, program};
use machine_support::{config, machine};

/// Machines built.
const RUNS: u64 = 1_500;
/// Guest time of one run: at most 8,000 instructions.
const RUN_NS: u64 = 800_000;
#[test]
fn no_random_guest_panics_the_host() {
    let (mut instructions, mut ended) = (0, 0);
    for seed in 0..RUNS {
        let mut r = Random(seed);
        let mut with = config(program(&mut r));
        with.acpi = seed % 2 == 1;
        with.filesystem = Some(Box::new(Parrot));
        // A panic names the seed.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut m = machine(with);
            let end = m.run_until(RUN_NS);
            let _ = m.report();
            (m.retired(), end.is_some())
        }));
        let Ok((retired, stopped)) = outcome else { panic!("guest {seed} panicked the host") };
        instructions += retired;
        ended += u64::from(stopped);
    }
    assert!(instructions > RUNS * 100, "the guests did something: {instructions} instructions");
    assert!(ended < RUNS, "some survived");
}
