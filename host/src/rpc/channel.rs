//! What the guest service's line has to be able to do.

/// The way to the guest. The way back is [`super::Guest::receive`].
///
/// Bytes go to the second UART's receiver. They need not be paced: whoever implements this keeps what the
/// guest has not taken yet, up to a limit of its own.
pub trait Line: Send + Sync {
    /// Takes all of `bytes` (at most [`SEND`]) or, if there is no room for all of them, none, and says which.
    fn send(&self, bytes: &[u8]) -> bool;

    /// Waits until there may be room again. `false` when there never will be: the machine has ended.
    fn wait_space(&self) -> bool;
}

/// Bytes given to [`Line::send`] at once, at most. A line needs room for so many.
pub const SEND: usize = 1024;

/// Whether somebody listens at the guest's end of the line. The service speaks only when it is spoken to, and
/// what is sent before it has opened the port is lost, or worse, taken for something else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Port {
    /// Nobody has looked. Calls are tried.
    #[default]
    Unknown,
    /// No program has opened the port, or it is not transparent yet. Calls wait.
    Closed,
    /// A program has opened the port and set it up as the service does.
    Open,
}

impl Port {
    /// What the UART's registers say: interrupt enable, modem control, divisor latch. `None`: something in
    /// between, which is no reason to think otherwise than before.
    ///
    /// Linux enables the receiver's interrupt and raises DTR, RTS and OUT2 when a port is opened. It then
    /// still has a terminal's cooked mode, which echoes; the service replaces that together with the speed,
    /// so that 115200 baud (divisor 1) marks the end of it. When the last program closes the port, the interrupts
    /// go off and OUT2 falls; a reset has the same effect. Interrupts alone go off also while the kernel prints
    /// a message.
    pub fn from_registers(ier: u8, mcr: u8, divisor: u16) -> Option<Self> {
        const RECEIVED_DATA: u8 = 0x01;
        const OUT2: u8 = 0x08;
        const DTR_RTS_OUT2: u8 = 0x0b;
        match (ier & RECEIVED_DATA != 0, mcr & DTR_RTS_OUT2) {
            (true, DTR_RTS_OUT2) if divisor == 1 => Some(Self::Open),
            (false, lines) if lines & OUT2 == 0 => Some(Self::Closed),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Port;

    #[test]
    fn port_states_follow_what_linux_writes() {
        // The driver looks for the port: registers are tried out, modem lines looped back.
        assert_eq!(Port::from_registers(0x0f, 0x00, 0), None);
        assert_eq!(Port::from_registers(0x00, 0x1a, 0), None);
        // Opened and still cooked at 9600 baud, then set up; sends.
        assert_eq!(Port::from_registers(0x05, 0x0b, 12), None);
        assert_eq!(Port::from_registers(0x05, 0x0b, 1), Some(Port::Open));
        assert_eq!(Port::from_registers(0x07, 0x0b, 1), Some(Port::Open));
        // The kernel prints on the port, a program is about to go.
        assert_eq!(Port::from_registers(0x00, 0x0b, 1), None);
        assert_eq!(Port::from_registers(0x05, 0x08, 1), None);
        // Closed, with the lines up or down; reset.
        assert_eq!(Port::from_registers(0x00, 0x03, 1), Some(Port::Closed));
        assert_eq!(Port::from_registers(0x00, 0x00, 1), Some(Port::Closed));
        assert_eq!(Port::from_registers(0, 0, 0), Some(Port::Closed));
    }
}
