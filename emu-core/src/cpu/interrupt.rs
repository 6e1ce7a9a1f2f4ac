//! Delivery of exceptions and interrupts through IVT, IDT and TSS; IRET (SDM vol. 3, chapter 6).

use super::fault::{Exception, Trap};
use super::state::CpuState;
use crate::interp::Env;

/// Delivers an exception raised with EIP at the faulting instruction: fault to double fault to
/// shutdown (table 6-5), error code, CR2, RF in the pushed EFLAGS.
///
/// # Errors
/// `Trap::SHUTDOWN` after a triple fault.
pub fn deliver_exception(_cpu: &mut CpuState, _env: &mut Env<'_>, _exception: Exception) -> Result<(), Trap> {
    Err(Trap::SHUTDOWN)
}

/// Delivers an external interrupt or NMI between two instructions.
///
/// # Errors
/// `Trap::SHUTDOWN` after a triple fault.
pub fn deliver_external(_cpu: &mut CpuState, _env: &mut Env<'_>, _vector: u8) -> Result<(), Trap> {
    Err(Trap::SHUTDOWN)
}
