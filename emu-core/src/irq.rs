//! Interrupt request lines between devices and interrupt controllers.
//!
//! A device holds an [`IrqLine`] and says high or low; it never knows which number it was wired to.
//! Levels are collected in [`IrqLines`]; the motherboard copies changes to the controllers after
//! each device access, so there is exactly one place where interrupt levels are derived.

/// A device's end of an interrupt wire. The number is chosen where the board is wired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IrqLine(u8);

impl IrqLine {
    /// Wire to ISA/GSI input `n` (0-23). For the code that builds the board and for tests.
    pub const fn wired_to(n: u8) -> Self {
        Self(n)
    }

    /// Input number on the board.
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// Levels of the wires, with edges kept until the board has seen them.
///
/// Several devices may share one input: each source has its own bit, the input is the OR of them.
#[derive(Clone, Debug, Default)]
pub struct IrqLines {
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

    /// Drives a line. Raising a line that is already high is not an edge.
    #[inline]
    pub fn set(&mut self, line: IrqLine, high: bool) {
        let bit = 1u32 << (line.0 & 31);
        let was = self.level & bit != 0;
        if high && !was {
            self.level |= bit;
            self.rose |= bit;
            self.changed |= bit;
        } else if !high && was {
            self.level &= !bit;
            self.changed |= bit;
        }
    }

    /// Low then high: a fresh edge whatever the level was.
    pub fn pulse(&mut self, line: IrqLine) {
        self.set(line, false);
        self.set(line, true);
    }

    /// Level of a line.
    pub fn is_high(&self, line: IrqLine) -> bool {
        self.level & (1 << (line.0 & 31)) != 0
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
}
