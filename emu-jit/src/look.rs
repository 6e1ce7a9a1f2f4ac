//! What the run loop does between two instructions, done without leaving translated code when it comes to
//! nothing: most instructions that ask for a look around (system calls, their returns, page faults, ports)
//! find no interrupt pending.

use emu_core::cpu::flags::{IF, RF, TF};
use emu_core::cpu::{CpuState, Exec, Trap, TrapKind, interrupt};
use emu_core::interp::Env;

use crate::counts::Attention;

/// Delivers the trap of an instruction; EIP is at it.
///
/// # Errors
/// A trap for the run loop: the machine shuts down.
pub(crate) fn deliver(cpu: &mut CpuState, env: &mut Env<'_>, trap: Trap) -> Exec {
    env.attention = true;
    match trap.kind() {
        TrapKind::Restart => {
            cpu.retired += 1;
            Ok(())
        }
        TrapKind::Shutdown => Err(trap),
        TrapKind::Exception(e) => {
            env.stats.exceptions[usize::from(e.vector & 31)] += 1;
            interrupt::deliver_exception(cpu, env, e).map_err(|_| Trap::SHUTDOWN)
        }
    }
}

/// A look around would change nothing but what [`pass`] does. Has no effects, so that the run loop can look
/// itself if not.
///
/// With nothing pending an interrupt shadow makes no difference, as long as the instruction in it runs
/// before the engine returns: whatever it does to make an interrupt pending asks for a look of its own.
pub(crate) fn is_quiet(cpu: &CpuState, env: &Env<'_>) -> bool {
    !env.mem.has_code_writes()
        && !cpu.halted
        && !cpu.debug_armed
        && cpu.debug_hits == 0
        && cpu.eflags & TF == 0
        && env.sys.is_quiet(cpu.eflags & IF != 0)
}

/// Why the run loop has to look, for the counters.
#[cold]
pub(crate) fn why(cpu: &CpuState, env: &Env<'_>, spent: bool) -> Attention {
    if spent {
        Attention::Budget
    } else if env.mem.has_code_writes() {
        Attention::Code
    } else if cpu.halted || cpu.debug_armed || cpu.debug_hits != 0 || cpu.eflags & TF != 0 {
        Attention::Debug
    } else if !env.sys.is_quiet(cpu.eflags & IF != 0) {
        Attention::Device
    } else {
        Attention::Mode
    }
}

/// Passes from one instruction to the next after [`is_quiet`].
pub(crate) fn pass(cpu: &mut CpuState, env: &mut Env<'_>) {
    env.attention = false;
    env.mem.select_view(cpu.cpl == 3);
    cpu.eflags &= !RF;
    cpu.int_shadow = false;
    cpu.debug_shadow = false;
}
