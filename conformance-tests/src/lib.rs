//! Tests of the CPU and the machine against silicon, other emulators and recorded answers.

pub mod bare;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod blocks;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod campaign;
pub mod compare;
pub mod fp;
pub mod gen_frame;
pub mod gen_int;
pub mod gen_seg;
pub mod gen_simd;
pub mod gen_x87;
pub mod layout;
pub mod named;
pub mod operand;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod oracle;
pub mod policy;
pub mod report;
pub mod rig;
pub mod subject;
pub mod suite;
pub mod values;
pub mod vectors;

/// Linear address of the instruction under test. Neither it nor what the oracle has beside it starts
/// near a multiple of 32 KiB: arithmetic on small numbers and words makes such addresses.
pub const CODE: u32 = 0x20_5000;
/// First byte of the data arena; pages before and behind it are not mapped.
pub const ARENA: u32 = 0x30_0000;
/// Bytes of the data arena.
pub const ARENA_LEN: u32 = 0x4000;

/// Registers and memory before or after a case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// EAX ECX EDX EBX ESP EBP ESI EDI.
    pub gpr: [u32; 8],
    /// EFLAGS.
    pub eflags: u32,
    /// x87, MMX and SSE.
    pub fp: fp::FpState,
    /// Contents of the arena.
    pub arena: Vec<u8>,
}

/// What ended a case early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Exception vector.
    pub vector: u8,
    /// Error code (0 where the exception has none).
    pub error: u32,
    /// CR2, for page faults.
    pub cr2: u32,
    /// EIP pushed.
    pub eip: u32,
}

/// Outcome of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// State afterwards.
    pub state: State,
    /// Exception, if one was raised.
    pub fault: Option<Fault>,
}
