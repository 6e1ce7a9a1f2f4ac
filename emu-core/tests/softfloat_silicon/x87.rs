//! The host's x87 as an oracle.

use emu_core::softfloat::{Env, F80};

/// Operands and outcome of one run. The assembly knows the offsets of the fields.
#[repr(C)]
pub struct Frame {
    /// Memory operand.
    pub memory: [u8; 16],
    a: [u8; 16],
    b: [u8; 16],
    control: u16,
    saved: u16,
    /// What FNSAVE stores: seven words of environment, then ST(0) to ST(7).
    image: [u8; 108],
}

/// What a memory operand holds before the instruction, to see whether it was written.
pub const UNTOUCHED: u8 = 0xa5;

impl Frame {
    /// `a` becomes ST(0) and `b` ST(1).
    pub fn new(a: F80, b: F80, control: u16) -> Self {
        let mut frame =
            Self { memory: [UNTOUCHED; 16], a: [0; 16], b: [0; 16], control, saved: 0, image: [0; 108] };
        frame.a[..10].copy_from_slice(&a.to_bytes());
        frame.b[..10].copy_from_slice(&b.to_bytes());
        frame
    }

    /// With a memory operand.
    pub fn with_memory(bytes: &[u8], control: u16) -> Self {
        let mut frame = Self::new(F80::ZERO, F80::ZERO, control);
        frame.memory[..bytes.len()].copy_from_slice(bytes);
        frame
    }

    /// ST(`i`) afterwards.
    pub fn st(&self, i: usize) -> F80 {
        F80::from_bytes(self.image[28 + 10 * i..][..10].try_into().unwrap())
    }

    /// The status word afterwards.
    pub fn status(&self) -> u16 {
        u16::from_le_bytes([self.image[4], self.image[5]])
    }

    /// IE to PE and C1.
    pub fn flags(&self) -> u16 {
        self.status() & (EXCEPTIONS | C1)
    }

    /// The start of the memory operand.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        self.memory[..N].try_into().unwrap()
    }
}

/// What `Frame::flags` should be.
pub fn flags_of(env: &Env) -> u16 {
    u16::from(env.flags) | if env.c1 { C1 } else { 0 }
}

/// IE to PE.
pub const EXCEPTIONS: u16 = 0x3f;
/// Condition bit C0.
pub const C0: u16 = 1 << 8;
/// Condition bit C1.
pub const C1: u16 = 1 << 9;
/// Condition bit C2.
pub const C2: u16 = 1 << 10;
/// Condition bit C3.
pub const C3: u16 = 1 << 14;

/// Control word of a rounding mode, a precision and the masks.
pub fn control(rounding: u16, precision: u16, masks: u16) -> u16 {
    rounding << 10 | precision << 8 | masks
}

/// Runs instructions on a frame, which they address as `{f}`; its memory operand comes first.
macro_rules! x87 {
    ($frame:expr, $($instruction:literal),+) => {{
        let frame: &mut crate::x87::Frame = $frame;
        // SAFETY: the block touches only the frame and the x87. FNSAVE, FNINIT and FLDCW's
        // predecessors do not wait, so an unmasked exception left pending by the operation is never
        // delivered; the stack ends empty and the control word as it was.
        unsafe {
            core::arch::asm!(
                "fnstcw [{f} + 50]",
                "fninit",
                "fld tbyte ptr [{f} + 32]",
                "fld tbyte ptr [{f} + 16]",
                "fldcw [{f} + 48]",
                $($instruction,)+
                "fnsave [{f} + 52]",
                "fldcw [{f} + 50]",
                f = in(reg) core::ptr::from_mut(frame),
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                options(nostack),
            );
        }
    }};
}
pub(crate) use x87;
