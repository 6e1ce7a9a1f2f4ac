//! Stack frames that are stored as a whole or not at all.
//!
//! Interrupts, far calls and call gates push several values, possibly on a stack that is not the
//! current one. A [`Frame`] collects them, checks segment and pages of every slot, and only then
//! stores: a fault leaves no trace, so the next exception is delivered from the original state.

use super::fault::{Exec, Trap};
use super::segment::Segment;
use super::state::CpuState;
use crate::interp::Env;

/// A call gate with 31 parameters pushes SS, ESP, the parameters, CS and EIP.
const MAX_SLOTS: usize = 35;

/// Values to be pushed, in order.
pub struct Frame {
    stack: Segment,
    sp: u32,
    wide: bool,
    user: bool,
    values: [u32; MAX_SLOTS],
    linear: [u32; MAX_SLOTS],
    len: usize,
}

impl Frame {
    /// An empty frame below `stack:sp`. `wide` slots have 32 bits, others 16; `user`: stores have
    /// the rights of CPL 3.
    pub fn new(stack: Segment, sp: u32, wide: bool, user: bool) -> Self {
        Self { stack, sp, wide, user, values: [0; MAX_SLOTS], linear: [0; MAX_SLOTS], len: 0 }
    }

    /// Adds a value (truncated to the slot). At most 35 fit.
    pub fn push(&mut self, value: u32) {
        if let Some(slot) = self.values.get_mut(self.len) {
            *slot = value;
            self.len += 1;
        }
    }

    /// Checks that all slots can be written. Returns the stack pointer below the frame.
    ///
    /// # Errors
    /// `fault` if a slot violates the segment; #AC; #PF.
    pub fn check(&mut self, cpu: &mut CpuState, env: &mut Env<'_>, fault: Trap) -> Exec<u32> {
        let size = if self.wide { 4 } else { 2 };
        let mut sp = self.sp;
        for lin in &mut self.linear[..self.len] {
            sp = sp.wrapping_sub(size);
            if !self.stack.is_big() {
                sp &= 0xFFFF;
            }
            if !self.stack.is_writable() || !self.stack.contains(sp, size) {
                return Err(fault);
            }
            *lin = self.stack.base.wrapping_add(sp);
            if self.user {
                env.aligned(cpu, *lin, size)?;
            }
            env.probe_write_as(cpu, *lin, size, self.user)?;
        }
        Ok(sp)
    }

    /// Stores the values; [`Frame::check`] has succeeded.
    ///
    /// # Errors
    /// None after a successful check, unless a store changed the page tables of a later one.
    pub fn store(&self, cpu: &mut CpuState, env: &mut Env<'_>) -> Exec {
        for (&lin, &value) in self.linear.iter().zip(&self.values).take(self.len) {
            if self.wide {
                env.write_as(cpu, lin, value, self.user)?;
            } else {
                env.write_as(cpu, lin, value as u16, self.user)?;
            }
        }
        Ok(())
    }
}
