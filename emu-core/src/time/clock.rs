//! The virtual machine's clock.

use super::VmTime;

/// The host's clocks, injected by `host` (nothing below it may read one itself).
pub trait HostTime: Send {
    /// Monotonic nanoseconds from an arbitrary start.
    fn monotonic_ns(&self) -> u64;
    /// Nanoseconds since 1970-01-01 UTC.
    fn wall_ns(&self) -> u64;
}

/// Where guest time comes from.
pub enum ClockSource {
    /// Guest time follows the host's monotonic clock while the machine runs.
    HostPaced(Box<dyn HostTime>),
    /// Guest time is a function of retired instructions: the same run gives the same trace.
    Deterministic {
        /// Guest picoseconds per retired instruction.
        ps_per_instruction: u64,
        /// Wall clock at power-on, nanoseconds since 1970-01-01 UTC.
        wall_start_ns: u64,
    },
}

/// Guest time, monotonic, starting at 0.
pub struct VmClock {
    source: ClockSource,
    /// Host-paced: host time that corresponds to guest time 0 (moves forward over pauses).
    host_origin: u64,
    paused_at: Option<u64>,
    /// Deterministic: nanoseconds skipped while the CPU was halted.
    warped_ns: u64,
    now: VmTime,
}

impl VmClock {
    /// A running clock at time 0.
    pub fn new(source: ClockSource) -> Self {
        let host_origin = match &source {
            ClockSource::HostPaced(host) => host.monotonic_ns(),
            ClockSource::Deterministic { .. } => 0,
        };
        Self { source, host_origin, paused_at: None, warped_ns: 0, now: 0 }
    }

    /// True if time is a function of retired instructions.
    pub fn is_deterministic(&self) -> bool {
        matches!(self.source, ClockSource::Deterministic { .. })
    }

    /// Current guest time after `retired` instructions. Never goes back.
    pub fn now(&mut self, retired: u64) -> VmTime {
        let t = match &self.source {
            ClockSource::HostPaced(host) => {
                let host_now = self.paused_at.unwrap_or_else(|| host.monotonic_ns());
                host_now.wrapping_sub(self.host_origin)
            }
            ClockSource::Deterministic { ps_per_instruction, .. } => {
                let ps = u128::from(retired) * u128::from(*ps_per_instruction);
                ((ps / 1000) as u64).wrapping_add(self.warped_ns)
            }
        };
        self.now = self.now.max(t);
        self.now
    }

    /// Guest time as it was when somebody asked last: what costs nothing. Deterministic clocks are exact.
    pub fn recent(&mut self, retired: u64) -> VmTime {
        if self.is_deterministic() { self.now(retired) } else { self.now }
    }

    /// Calendar time, nanoseconds since 1970-01-01 UTC, at guest time `now`.
    pub fn wall_ns(&self, now: VmTime) -> u64 {
        match &self.source {
            ClockSource::HostPaced(host) => host.wall_ns(),
            ClockSource::Deterministic { wall_start_ns, .. } => wall_start_ns.saturating_add(now),
        }
    }

    /// Deterministic clocks jump to `deadline` while the CPU is halted; host-paced ones ignore it
    /// (the caller sleeps instead).
    pub fn warp_to(&mut self, deadline: VmTime, retired: u64) {
        let now = self.now(retired);
        if self.is_deterministic() {
            self.warped_ns = self.warped_ns.wrapping_add(deadline.saturating_sub(now));
        }
    }

    /// Instructions that may run before `ns` of guest time have passed; `None` when host-paced.
    pub fn instructions_for(&self, ns: u64) -> Option<u64> {
        match &self.source {
            ClockSource::HostPaced(_) => None,
            ClockSource::Deterministic { ps_per_instruction, .. } => {
                let n = u128::from(ns) * 1000 / u128::from((*ps_per_instruction).max(1));
                Some(u64::try_from(n).unwrap_or(u64::MAX))
            }
        }
    }

    /// Makes guest time go on at `now` after `retired` instructions (a snapshot was restored).
    pub fn continue_at(&mut self, now: VmTime, retired: u64) {
        self.now = now;
        match &self.source {
            // Before the host's clock began, if the guest is older.
            ClockSource::HostPaced(host) => {
                let host_now = self.paused_at.unwrap_or_else(|| host.monotonic_ns());
                self.host_origin = host_now.wrapping_sub(now);
            }
            ClockSource::Deterministic { ps_per_instruction, .. } => {
                let ps = u128::from(retired) * u128::from(*ps_per_instruction);
                self.warped_ns = now.wrapping_sub((ps / 1000) as u64);
            }
        }
    }

    /// Stops guest time until [`VmClock::resume`].
    pub fn pause(&mut self) {
        if let (ClockSource::HostPaced(host), None) = (&self.source, self.paused_at) {
            self.paused_at = Some(host.monotonic_ns());
        }
    }

    /// Guest time goes on where it stopped.
    pub fn resume(&mut self) {
        if let (ClockSource::HostPaced(host), Some(at)) = (&self.source, self.paused_at.take()) {
            self.host_origin = self.host_origin.wrapping_add(host.monotonic_ns().saturating_sub(at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Fake(Arc<AtomicU64>);
    impl HostTime for Fake {
        fn monotonic_ns(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
        fn wall_ns(&self) -> u64 {
            7
        }
    }

    #[test]
    fn recent_time_is_that_of_the_last_question_unless_time_is_counted() {
        let host = Arc::new(AtomicU64::new(1000));
        let mut clock = VmClock::new(ClockSource::HostPaced(Box::new(Fake(host.clone()))));
        host.store(1500, Ordering::Relaxed);
        assert_eq!((clock.recent(0), clock.now(0), clock.recent(0)), (0, 500, 500));
        let source = ClockSource::Deterministic { ps_per_instruction: 1000, wall_start_ns: 0 };
        assert_eq!(VmClock::new(source).recent(7), 7);
    }

    #[test]
    fn host_paced_clock_stands_still_while_paused() {
        let host = Arc::new(AtomicU64::new(1000));
        let mut clock = VmClock::new(ClockSource::HostPaced(Box::new(Fake(host.clone()))));
        host.store(1500, Ordering::Relaxed);
        assert_eq!(clock.now(0), 500);
        clock.pause();
        host.store(9000, Ordering::Relaxed);
        assert_eq!(clock.now(0), 500);
        clock.resume();
        host.store(9100, Ordering::Relaxed);
        assert_eq!(clock.now(0), 600);
    }

    #[test]
    fn clocks_go_on_where_a_snapshot_was_made() {
        let host = Arc::new(AtomicU64::new(1000));
        let mut clock = VmClock::new(ClockSource::HostPaced(Box::new(Fake(host.clone()))));
        clock.continue_at(1_000_000, 77);
        host.store(1500, Ordering::Relaxed);
        assert_eq!(clock.now(0), 1_000_500);
        let mut clock =
            VmClock::new(ClockSource::Deterministic { ps_per_instruction: 2000, wall_start_ns: 10 });
        clock.continue_at(500, 1000);
        assert_eq!(clock.now(1000), 500);
        assert_eq!(clock.now(1001), 502);
    }

    #[test]
    fn deterministic_clock_depends_on_instructions_and_warps_only() {
        let mut clock =
            VmClock::new(ClockSource::Deterministic { ps_per_instruction: 2500, wall_start_ns: 10 });
        assert_eq!(clock.now(1000), 2500);
        clock.warp_to(10_000, 1000);
        assert_eq!(clock.now(1000), 10_000);
        assert_eq!(clock.now(1400), 11_000);
        assert_eq!(clock.wall_ns(11_000), 11_010);
        assert_eq!(clock.instructions_for(5), Some(2));
    }
}
