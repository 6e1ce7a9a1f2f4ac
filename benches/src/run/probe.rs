//! Whether the host's processor was ours.
//!
//! On a virtual machine, others use the same cores: a run can take twice its time with every nanosecond of it
//! accounted to this process, because a hardware thread shares its core's execution units with another one. The
//! host's kernel does not know. A short loop that keeps these units busy does: it takes longer then, too.

use std::hint::black_box;

use crate::clock::now;

/// So much longer than the shortest time so far means that someone else was there.
const DISTURBED: f64 = 1.15;
/// Iterations; some milliseconds.
const ITERATIONS: u64 = 500_000;

/// The loop and its shortest time.
pub struct Probe {
    best: f64,
}

impl Probe {
    /// Runs the loop some times to learn its time.
    pub fn new() -> Self {
        let mut probe = Self { best: f64::INFINITY };
        for _ in 0..20 {
            probe.is_disturbed();
        }
        probe
    }

    /// Runs the loop once.
    pub fn is_disturbed(&mut self) -> bool {
        let start = now();
        black_box(work(black_box(1)));
        let time = start.elapsed().as_secs_f64();
        self.best = self.best.min(time);
        time > self.best * DISTURBED
    }
}

/// Chains that do not depend on each other, as many as a core can work at, with loads from the first cache.
fn work(seed: u64) -> u64 {
    let table: [u64; 64] = std::array::from_fn(|i| seed.wrapping_add(i as u64));
    let (mut a, mut b, mut c, mut d, mut e, mut f) = (seed, seed + 1, seed + 2, seed + 3, seed + 4, seed + 5);
    for i in 0..ITERATIONS {
        a = a.wrapping_add(table[(i % 64) as usize]);
        b = b.rotate_left(7) ^ i;
        c = c.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        d = d.wrapping_sub(table[(i.wrapping_mul(5) % 64) as usize]);
        e = (e >> 1) ^ i;
        f = f.wrapping_add(i << 3);
    }
    a ^ b ^ c ^ d ^ e ^ f
}
