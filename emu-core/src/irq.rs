//! Interrupt request lines between devices and interrupt controllers.
//!
//! A device holds an [`IrqLine`] and says high or low; it never knows which number it was wired to.
//! Levels are collected in [`IrqLines`]; the motherboard copies changes to the controllers after
//! each device access, so there is exactly one place where interrupt levels are derived.
//!
//! Inputs 0-23 are the ISA/GSI inputs of the board. Inputs from [`PIRQ_A`] on are the four PCI
//! interrupt wires before the chipset routes them to ISA inputs.

/// Input of PCI interrupt wire PIRQA#; B, C and D follow.
pub const PIRQ_A: u8 = 24;

/// A device's end of an interrupt wire. The number is chosen where the board is wired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IrqLine {
    input: u8,
    source: u8,
}

impl IrqLine {
    /// Wire to input `n` with one device on it (source 0). For the code that builds the board and
    /// for tests.
    pub const fn wired_to(n: u8) -> Self {
        Self::shared(n, 0)
    }

    /// Wire to input `n`, which several devices pull: each takes a `source` (0-31) of its own and
    /// the input is high while any of them is.
    pub const fn shared(n: u8, source: u8) -> Self {
        Self { input: n & 31, source: source & 31 }
    }

    /// Input number on the board.
    pub const fn number(self) -> u8 {
        self.input
    }

    const fn input_bit(self) -> u32 {
        1 << self.input
    }
}

/// Levels of the wires, with edges kept until the board has seen them.
///
/// Several devices may share one input: each source has its own bit, the input is the OR of them.
#[derive(Clone, Debug, Default)]
pub struct IrqLines {
    /// By input: a bit for each source that drives it high.
    sources: [u32; 32],
    level: u32,
    /// Inputs that went high since the board looked last, even if they fell again: edge-triggered
    /// controllers latch them (v86-visible behaviour of IDE, PIT and floppy).
    rose: u32,
    changed: u32,
}

impl IrqLines {
    /// All lines low.
    pub fn new() -> Self {
        Self::default()
    }

    /// Drives a line. Raising an input that is already high is not an edge, whoever holds it.
    #[inline]
    pub fn set(&mut self, line: IrqLine, high: bool) {
        let Some(sources) = self.sources.get_mut(usize::from(line.input)) else { return };
        if high {
            *sources |= 1 << line.source;
        } else {
            *sources &= !(1 << line.source);
        }
        let (now, bit) = (*sources != 0, line.input_bit());
        let was = self.level & bit != 0;
        if now && !was {
            self.level |= bit;
            self.rose |= bit;
            self.changed |= bit;
        } else if !now && was {
            self.level &= !bit;
            self.changed |= bit;
        }
    }

    /// Low then high: a fresh edge, unless another source holds the input high.
    pub fn pulse(&mut self, line: IrqLine) {
        self.set(line, false);
        self.set(line, true);
    }

    /// Level of the line's input, whichever source drives it.
    pub fn is_high(&self, line: IrqLine) -> bool {
        self.level & line.input_bit() != 0
    }

    /// Levels of all inputs, a bit each.
    pub fn level(&self) -> u32 {
        self.level
    }

    /// Takes the changes since the last call: `(changed, rose, level)` bit masks by input number.
    /// `None` if nothing happened.
    #[inline]
    pub fn take_changes(&mut self) -> Option<(u32, u32, u32)> {
        if self.changed == 0 {
            return None;
        }
        let changes = (self.changed, self.rose, self.level);
        self.changed = 0;
        self.rose = 0;
        Some(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn irq_line_raised_and_lowered_between_looks_keeps_its_edge() {
        let mut lines = IrqLines::new();
        let line = IrqLine::wired_to(14);
        lines.set(line, true);
        lines.set(line, false);
        assert_eq!(lines.take_changes(), Some((1 << 14, 1 << 14, 0)));
        assert_eq!(lines.take_changes(), None);
    }

    #[test]
    fn irq_line_raised_twice_is_one_edge() {
        let mut lines = IrqLines::new();
        let line = IrqLine::wired_to(4);
        lines.set(line, true);
        let _ = lines.take_changes();
        lines.set(line, true);
        assert_eq!(lines.take_changes(), None);
        lines.pulse(line);
        assert_eq!(lines.take_changes(), Some((1 << 4, 1 << 4, 1 << 4)));
    }
    #[test]
    fn irq_line_shared_stays_high_until_the_last_source_lets_go() {
        let mut lines = IrqLines::new();
        let (a, b) = (IrqLine::shared(PIRQ_A, 5), IrqLine::shared(PIRQ_A, 31));
        lines.set(a, true);
        assert_eq!(lines.take_changes(), Some((1 << 24, 1 << 24, 1 << 24)));
        lines.set(b, true);
        lines.set(a, false);
        lines.set(a, false);
        assert_eq!(lines.take_changes(), None);
        assert!(lines.is_high(a));
        lines.set(b, false);
        assert_eq!(lines.take_changes(), Some((1 << 24, 0, 0)));
    }
}
