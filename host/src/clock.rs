//! The host's clocks and random numbers. Everything else in this crate that needs the time asks
//! here; everything below `host` gets it injected (`emu_core::time::HostTime`).

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use emu_core::time::HostTime;

/// Monotonic time of the host.
#[allow(clippy::disallowed_methods)] // the one place where the host's monotonic clock is read
pub fn now() -> Instant {
    Instant::now()
}

/// Time since 1970-01-01 UTC; zero if the host's clock is set before that.
#[allow(clippy::disallowed_methods)] // the one place where the host's calendar clock is read
pub fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Sleeps. For what can only be asked again: a condition that can be waited for is waited for.
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// The host's clocks for a host-paced machine.
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// Monotonic time counts from here.
    pub fn new() -> Self {
        Self { start: now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl HostTime for SystemClock {
    fn monotonic_ns(&self) -> u64 {
        u64::try_from(now().saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }

    fn wall_ns(&self) -> u64 {
        u64::try_from(wall().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Random numbers for the guest (RDRAND).
pub struct Random {
    source: Source,
}

enum Source {
    System { buffer: Box<[u8; 256]>, used: usize },
    Fixed(u64),
}

impl Random {
    /// From the host's generator.
    ///
    /// # Errors
    /// The host has none; asked once here, so that a running machine need not fail.
    pub fn system() -> Result<Self, getrandom::Error> {
        let mut buffer = Box::new([0; 256]);
        getrandom::fill(&mut *buffer)?;
        Ok(Self { source: Source::System { buffer, used: 0 } })
    }

    /// The same numbers in every run, for deterministic machines.
    pub fn fixed(seed: u64) -> Self {
        Self { source: Source::Fixed(seed) }
    }

    /// The next number.
    pub fn next_u32(&mut self) -> u32 {
        match &mut self.source {
            Source::System { buffer, used } => {
                if let Some(word) = buffer.get_mut(*used..).and_then(|rest| rest.first_chunk_mut::<4>()) {
                    *used += 4;
                    // A number is given out once: the buffer does not keep what the guest got.
                    return u32::from_ne_bytes(std::mem::take(word));
                }
                if getrandom::fill(&mut **buffer).is_err() {
                    // It worked when the machine was built, and the guest cannot be told otherwise.
                    return 0;
                }
                *used = 4;
                buffer.first_chunk_mut::<4>().map_or(0, |word| u32::from_ne_bytes(std::mem::take(word)))
            }
            // SplitMix64 (Steele, Lea, Flood 2014): any seed is a good one.
            Source::Fixed(state) => {
                *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
                let mut z = *state;
                z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
                (z ^ (z >> 31)) as u32
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_clock_never_goes_back() {
        let clock = SystemClock::new();
        let a = clock.monotonic_ns();
        assert!(clock.monotonic_ns() >= a);
        assert!(clock.wall_ns() > 1_600_000_000_000_000_000);
    }

    #[test]
    fn random_fixed_repeats_with_its_seed() {
        let (mut a, mut b, mut c) = (Random::fixed(1), Random::fixed(1), Random::fixed(2));
        let first: Vec<u32> = (0..8).map(|_| a.next_u32()).collect();
        assert_eq!(first, (0..8).map(|_| b.next_u32()).collect::<Vec<_>>());
        assert_ne!(first, (0..8).map(|_| c.next_u32()).collect::<Vec<_>>());
    }

    #[test]
    fn random_system_refills_and_differs() {
        let mut random = Random::system().unwrap();
        let mut seen: Vec<u32> = (0..200).map(|_| random.next_u32()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert!(seen.len() > 190, "{} distinct numbers of 200", seen.len());
    }
}
