//! One counter of the 8254: modes, loading, latching and reading.

mod saved;

pub(super) use saved::SavedCounter;

/// Input clocks since power-on.
pub(super) type Clocks = i64;

// Access field of the control word.
const ACCESS_LOW: u8 = 1;
const ACCESS_HIGH: u8 = 2;
const ACCESS_BOTH: u8 = 3;

/// What the counting element does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No count since the control word, or (modes 1, 2, 3, 5) no trigger or gate: stands at a value.
    Idle { value: u32 },
    /// Was loaded with `count` at `origin`.
    Counting { origin: Clocks, count: u32 },
    /// Modes 0 and 4 with the gate low: `elapsed` clocks after loading.
    Paused { elapsed: Clocks, count: u32 },
}

/// Modes 2 and 3: a count that takes effect at the end of the current (half) period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pending {
    at: Clocks,
    count: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Counter {
    pub(super) mode: u8,
    access: u8,
    bcd: bool,
    gate: bool,
    /// Count register, as written.
    reload: u16,
    /// A count was written since the control word.
    has_count: bool,
    /// Low byte of a count whose high byte is to come.
    write_low: Option<u8>,
    /// The next byte read is the high one.
    read_high: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
    state: State,
    pending: Option<Pending>,
}

impl Counter {
    pub(super) fn new(gate: bool) -> Self {
        Self {
            mode: 0,
            access: ACCESS_BOTH,
            bcd: false,
            gate,
            reload: 0,
            has_count: false,
            write_low: None,
            read_high: false,
            latched_count: None,
            latched_status: None,
            state: State::Idle { value: 0 },
            pending: None,
        }
    }

    /// Number of different values of the counting element.
    fn modulus(&self) -> u32 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    /// The count register as a number of clocks.
    pub(super) fn programmed_count(&self) -> u32 {
        let value = u32::from(self.reload);
        let count = if self.bcd {
            (0..4).rev().fold(0, |n, digit| n * 10 + ((value >> (digit * 4)) & 0xF))
        } else {
            value
        };
        if count == 0 { self.modulus() } else { count }
    }

    /// Clocks that OUT is high in a period of mode 3.
    fn high_clocks(count: u32) -> Clocks {
        Clocks::from(count.div_ceil(2))
    }

    pub(super) fn is_counting(&self) -> bool {
        matches!(self.state, State::Counting { .. })
    }

    pub(super) fn is_periodic(&self) -> bool {
        matches!(self.mode, 2 | 3)
    }

    /// Lets a pending count take effect if its time has come.
    pub(super) fn settle(&mut self, now: Clocks) {
        let (Some(pending), State::Counting { origin, count }) = (self.pending, self.state) else { return };
        if now < pending.at {
            return;
        }
        let starts_low = self.mode == 3
            && (pending.at - origin).rem_euclid(Clocks::from(count)) >= Self::high_clocks(count);
        let lead = if starts_low { Self::high_clocks(pending.count) } else { 0 };
        self.state = State::Counting { origin: pending.at - lead, count: pending.count };
        self.pending = None;
    }

    /// Clocks since loading and the loaded count; `None` while idle. Negative for one clock after
    /// a count was written.
    fn elapsed(&self, now: Clocks) -> Option<(Clocks, u32)> {
        match self.state {
            State::Idle { .. } => None,
            State::Counting { origin, count } => Some((now - origin, count)),
            State::Paused { elapsed, count } => Some((elapsed, count)),
        }
    }

    /// Value of the counting element, 0 to 0FFFFh (or 0 to 9999).
    pub(super) fn value(&self, now: Clocks) -> u32 {
        let modulus = self.modulus();
        let Some((elapsed, count)) = self.elapsed(now) else {
            let State::Idle { value } = self.state else { return 0 };
            return value % modulus;
        };
        let elapsed = elapsed.max(0);
        let period = Clocks::from(count);
        let value = match self.mode {
            2 => period - elapsed % period,
            3 => {
                let high = Self::high_clocks(count);
                let phase = elapsed % period;
                let into_half = if phase < high { phase } else { phase - high };
                // An odd count is loaded one less.
                (period & !1) - 2 * into_half
            }
            _ => period - elapsed,
        };
        value.rem_euclid(Clocks::from(modulus)) as u32
    }

    /// Value as the guest reads it.
    fn register(&self, now: Clocks) -> u16 {
        let value = self.value(now);
        if !self.bcd {
            return value as u16;
        }
        (0..4).fold(0, |bcd, digit| bcd | ((value / 10u32.pow(digit) % 10) << (digit * 4))) as u16
    }

    /// Level of OUT.
    pub(super) fn out(&self, now: Clocks) -> bool {
        let Some((elapsed, count)) = self.elapsed(now) else { return self.mode != 0 };
        let period = Clocks::from(count);
        match self.mode {
            0 => elapsed >= period,
            1 => elapsed < 0 || elapsed >= period,
            2 => elapsed < 0 || elapsed % period != period - 1,
            3 => elapsed < 0 || elapsed % period < Self::high_clocks(count),
            _ => elapsed != period,
        }
    }

    /// First clock after `now` at which OUT rises by counting.
    pub(super) fn next_rise(&self, now: Clocks) -> Option<Clocks> {
        let State::Counting { origin, count } = self.state else { return None };
        let period = Clocks::from(count);
        let at = match self.mode {
            0 | 1 => origin + period,
            2 | 3 => {
                let end = origin + ((now - origin).max(0) / period + 1) * period;
                match self.pending {
                    // The new count starts with the low half.
                    Some(p) if p.at < end => p.at + Clocks::from(p.count) - Self::high_clocks(p.count),
                    _ => end,
                }
            }
            _ => origin + period + 1,
        };
        (at > now).then_some(at)
    }

    pub(super) fn write_control(&mut self, value: u8, now: Clocks) {
        let idle = State::Idle { value: self.value(now) };
        *self = Self {
            mode: match (value >> 1) & 7 {
                6 => 2,
                7 => 3,
                mode => mode,
            },
            access: (value >> 4) & 3,
            bcd: value & 1 != 0,
            gate: self.gate,
            reload: self.reload,
            state: idle,
            ..Self::new(self.gate)
        };
    }

    pub(super) fn write_count(&mut self, value: u8, now: Clocks) {
        self.reload = match (self.access, self.write_low.take()) {
            (ACCESS_LOW, _) => u16::from(value),
            (ACCESS_HIGH, _) => u16::from(value) << 8,
            (_, Some(low)) => u16::from_le_bytes([low, value]),
            (_, None) => {
                self.write_low = Some(value);
                if self.mode == 0 {
                    // The first byte stops the count and lowers OUT.
                    self.state = State::Idle { value: self.value(now) };
                }
                return;
            }
        };
        self.has_count = true;
        let count = self.programmed_count();
        match (self.mode, self.state) {
            // Loaded by the next trigger.
            (1 | 5, _) => {}
            (2 | 3, State::Counting { origin, count: current }) => {
                let at = self.pending.map_or_else(|| self.end_of_part(now, origin, current), |p| p.at);
                self.pending = Some(Pending { at, count });
            }
            _ if self.gate => self.load(now, count),
            (0 | 4, _) => self.state = State::Paused { elapsed: 0, count },
            // Modes 2 and 3 wait for the gate.
            _ => {}
        }
    }

    /// End of the period (mode 2) or half period (mode 3) that `now` lies in.
    fn end_of_part(&self, now: Clocks, origin: Clocks, count: u32) -> Clocks {
        let period = Clocks::from(count);
        let elapsed = (now - origin).max(0);
        let start = origin + elapsed / period * period;
        let high = Self::high_clocks(count);
        if self.mode == 3 && elapsed % period < high { start + high } else { start + period }
    }

    /// Loading takes the next clock pulse.
    fn load(&mut self, now: Clocks, count: u32) {
        self.state = State::Counting { origin: now + 1, count };
        self.pending = None;
    }

    pub(super) fn set_gate(&mut self, gate: bool, now: Clocks) {
        if gate == self.gate {
            return;
        }
        self.gate = gate;
        let programmed = self.programmed_count();
        match (self.mode, gate, self.state) {
            (1 | 2 | 3 | 5, true, _) if self.has_count => self.load(now, programmed),
            (2 | 3, false, State::Counting { .. }) => {
                self.state = State::Idle { value: self.value(now) };
                self.pending = None;
            }
            (0 | 4, true, State::Paused { elapsed, count }) => {
                self.state = State::Counting { origin: now - elapsed, count };
            }
            (0 | 4, false, State::Counting { origin, count }) => {
                self.state = State::Paused { elapsed: now - origin, count };
            }
            _ => {}
        }
    }

    pub(super) fn latch_count(&mut self, now: Clocks) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.register(now));
        }
    }

    pub(super) fn latch_status(&mut self, now: Clocks) {
        if self.latched_status.is_some() {
            return;
        }
        let null_count = self.pending.is_some()
            || match self.state {
                State::Idle { .. } => true,
                State::Counting { origin, .. } => now < origin,
                State::Paused { .. } => false,
            };
        self.latched_status = Some(
            u8::from(self.out(now)) << 7
                | u8::from(null_count) << 6
                | self.access << 4
                | self.mode << 1
                | u8::from(self.bcd),
        );
    }

    pub(super) fn read(&mut self, now: Clocks) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self.latched_count.unwrap_or_else(|| self.register(now)).to_le_bytes();
        let value = match self.access {
            ACCESS_LOW => low,
            ACCESS_HIGH => high,
            _ if self.read_high => high,
            _ => low,
        };
        if self.access == ACCESS_BOTH {
            self.read_high = !self.read_high;
        }
        if !self.read_high {
            self.latched_count = None;
        }
        value
    }
}
