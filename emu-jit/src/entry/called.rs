//! What translated code calls: it returns a status, and nothing unwinds.

use emu_core::cpu::{CpuState, cr0, descriptor, flags, seg};
use emu_core::interp::Env;

use super::{Context, Left};
use crate::assume::{assume, is_wide, pack, page_base, set_slot, slot, unpack};
use crate::counts::Attention;
use crate::layout::QUIET;
use crate::segments::{self, FLAT};
use crate::{fpu, lazy, look};

/// Calls the interpreter's function of a site. Returns 0 to go on behind the instruction.
///
/// # Safety
/// `context` and the pointers in it are valid and not referenced elsewhere: see [`Shared::enter`].
pub(super) unsafe extern "sysv64" fn exec(context: *mut Context, number: u32) -> u32 {
    // SAFETY: by contract; the caller is emitted code, which holds no references.
    let cx = unsafe { &mut *context };
    // SAFETY: `sites` and `site_count` describe a live vector that does not change meanwhile; the
    // number was emitted together with the site.
    let site = unsafe { &*cx.sites.add((number as usize).min(cx.site_count - 1)) };
    // SAFETY: by contract.
    let (cpu, env) = unsafe { (&mut *cx.cpu, &mut *cx.env) };
    let next = page_base(cpu).wrapping_add(u32::from(site.end_in_page));
    cpu.eip = next;
    cpu.retired = cx.end.wrapping_sub((cx.budget + i64::from(site.left)) as u64);
    env.index = 0;
    env.limit = 1;
    // SAFETY: by contract; mnemonics are fewer than counters.
    unsafe { (*cx.counts).count_call(site) };
    // Before any register changes.
    // SAFETY: by contract, as for the sites.
    lazy::resolve(cpu, unsafe { &*cx.lazies });
    if site.uses_flags {
        cpu.flags = unpack(slot(cpu));
    }
    if site.uses_fpu {
        fpu::store(cpu);
    } else if site.loads_segment {
        fpu::settle(cpu);
    }
    let result = (site.insn.exec)(cpu, env, &site.insn);
    if cpu.cr0 & (cr0::EM | cr0::TS) != 0 {
        fpu::store(cpu);
    }
    if site.uses_flags {
        let packed = pack(cpu.flags);
        set_slot(cpu, packed);
    }
    if let Err(trap) = result {
        cpu.eip = next.wrapping_sub(u32::from(site.insn.len));
        if !site.uses_flags {
            cpu.flags = unpack(slot(cpu));
        }
        // Delivery loads segments and may switch tasks.
        fpu::settle(cpu);
        let delivered = look::deliver(cpu, env, trap);
        if cpu.cr0 & (cr0::EM | cr0::TS) != 0 {
            fpu::store(cpu);
        }
        return match delivered {
            Ok(()) => go_on_at_eip(cx, cpu, env),
            Err(trap) => {
                // SAFETY: by contract.
                unsafe { (*cx.counts).count_attention(Attention::Trap) };
                cx.trap = Some(trap);
                cx.kind = Left::Attention as u32;
                1
            }
        };
    }
    cpu.retired += 1;
    if env.limit == 0 {
        return go_on_at_eip(cx, cpu, env);
    }
    cx.tables = env.mem.view_address() as u64;
    if site.loads_segment {
        // SAFETY: by contract.
        if !unsafe { (*cx.worlds).stays(cpu, cx.world) } {
            cx.kind = Left::Rest as u32;
            cx.block = site.block;
            cx.argument = u32::from(site.index) + 1;
            return 1;
        }
        assume(cpu, cpu.bindings[3] & u64::from(QUIET) != 0);
        if cx.world != FLAT {
            segments::publish_limits(cpu);
        }
    }
    0
}

/// Loads the guest's x87 unit into the host's, for instruction `number / 2`, or, if `number` is odd, for
/// what follows it. Returns 0, or 1 if the interpreter has to go on instead.
///
/// # Safety
/// As for [`exec`].
pub(super) unsafe extern "sysv64" fn load_fpu(context: *mut Context, number: u32) -> u32 {
    // SAFETY: by contract; the caller is emitted code, which holds no references.
    let cx = unsafe { &mut *context };
    // SAFETY: by contract.
    let cpu = unsafe { &mut *cx.cpu };
    if fpu::is_usable(cpu) {
        fpu::load(cpu);
        cx.fpu_used = true;
        return 0;
    }
    // SAFETY: the same contract.
    unsafe { refuse(context, number) }
}

/// Instruction `number / 2`, or, if `number` is odd, what follows it, needs registers that it may not use:
/// the interpreter has to go on.
///
/// # Safety
/// As for [`exec`].
pub(super) unsafe extern "sysv64" fn refuse(context: *mut Context, number: u32) -> u32 {
    // SAFETY: by contract; the caller is emitted code, which holds no references.
    let cx = unsafe { &mut *context };
    // SAFETY: by contract.
    let cpu = unsafe { &mut *cx.cpu };
    // SAFETY: as in `exec`.
    let site = unsafe { &*cx.sites.add((number as usize >> 1).min(cx.site_count - 1)) };
    let done = number & 1;
    let next = page_base(cpu).wrapping_add(u32::from(site.end_in_page));
    cpu.eip = if done != 0 { next } else { next.wrapping_sub(u32::from(site.insn.len)) };
    cpu.retired =
        cx.end.wrapping_sub((cx.budget + i64::from(site.left)) as u64).wrapping_add(u64::from(done));
    cx.kind = Left::Rest as u32;
    cx.block = site.block;
    cx.argument = u32::from(site.index) + done;
    // SAFETY: by contract.
    unsafe { (*cx.counts).refused += 1 };
    1
}

/// Loads ES, DS, FS or GS if that is simple. Returns 0, with nothing changed, if it is not.
///
/// # Safety
/// As [`exec`].
pub(super) unsafe extern "sysv64" fn load_segment(context: *mut Context, index: u32, selector: u32) -> u32 {
    // SAFETY: by contract; the caller is emitted code, which holds no references.
    let (cpu, env, descriptors, world) = unsafe {
        (&mut *(*context).cpu, &mut *(*context).env, &mut *(*context).descriptors, (*context).world)
    };
    if cpu.real_or_vm86() {
        if world == FLAT {
            return 0;
        }
        fpu::settle(cpu);
        descriptor::load_real(cpu, index as usize, selector as u16);
        segments::publish_limits(cpu);
        return 1;
    }
    let Some(segment) = descriptors.data_segment(cpu, env, selector as u16) else { return 0 };
    let index = index as usize;
    let flat = segment.is_flat() && segment.is_readable() && segment.is_writable();
    if world == FLAT && !flat && matches!(index, seg::ES | seg::DS) {
        return 0;
    }
    fpu::settle(cpu);
    cpu.set_segment(index, segment);
    let bit = 1u64 << index;
    if is_wide(&segment) {
        cpu.bindings[3] |= bit
    } else {
        cpu.bindings[3] &= !bit
    }
    if world != FLAT {
        segments::publish_limits(cpu);
    }
    1
}

/// The run loop would look around now: goes on at EIP without it (2, or 3 in another world) if it would find
/// nothing, else leaves (1).
fn go_on_at_eip(cx: &mut Context, cpu: &mut CpuState, env: &mut Env<'_>) -> u32 {
    // SAFETY: the contract of the callers.
    let (counts, worlds) = unsafe { (&mut *cx.counts, &mut *cx.worlds) };
    let passes = cpu.retired < cx.end && counts.looks && look::is_quiet(cpu, env);
    let Some(world) = worlds.current(cpu).filter(|_| passes) else {
        counts.count_attention(look::why(cpu, env, cpu.retired >= cx.end));
        cx.kind = Left::Attention as u32;
        return 1;
    };
    look::pass(cpu, env);
    let quiet = cpu.eflags & flags::IF != 0 || env.sys.is_quiet(true);
    assume(cpu, quiet);
    cx.tables = env.mem.view_address() as u64;
    cx.budget = cx.end.wrapping_sub(cpu.retired) as i64;
    cx.passed += 1;
    if world != FLAT || cx.world != FLAT {
        segments::publish(cpu, world);
    }
    // Calls under way are those of another world: EIP alone does not tell where they lead.
    2 + u32::from(std::mem::replace(&mut cx.world, world) != world)
}
