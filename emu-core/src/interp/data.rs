//! Data movement: MOV, MOVZX, MOVSX, XCHG, LEA, CMOVcc, SETcc, BSWAP, XLAT, CMPXCHG, XADD, CBW …

use iced_x86::{ConditionCode, Mnemonic, Register};

use super::Env;
use super::arith;
use super::operand::{Dst, Imm, M, R0, R1, Src, Width, condition_code};
use crate::by_width;
use crate::cpu::{CpuState, Exec, gpr};
use crate::decode::iced::{Decoded, Form};
use crate::decode::{ExecFn, Insn};

fn mov<W: Width, D: Dst, S: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    match S::fast::<W>(cpu, env, i) {
        Some(v) if D::fast_write(cpu, env, i, v) => Ok(()),
        _ => mov_slow::<W, D, S>(cpu, env, i),
    }
}

#[cold]
#[inline(never)]
fn mov_slow<W: Width, D: Dst, S: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let v: W = S::read(cpu, env, i)?;
    D::write(cpu, env, i, v)
}

/// MOVZX and MOVSX from `N` to `W`.
fn extend<W: Width, N: Width, S: Src, const SIGNED: bool>(
    cpu: &mut CpuState,
    env: &mut Env<'_>,
    i: &Insn,
) -> Exec {
    match S::fast::<N>(cpu, env, i) {
        Some(v) => {
            W::set(cpu, i.r0, W::trunc(if SIGNED { v.sext() } else { v.zext() }));
            Ok(())
        }
        None => extend_slow::<W, N, S, SIGNED>(cpu, env, i),
    }
}

#[cold]
#[inline(never)]
fn extend_slow<W: Width, N: Width, S: Src, const SIGNED: bool>(
    cpu: &mut CpuState,
    env: &mut Env<'_>,
    i: &Insn,
) -> Exec {
    let v: N = S::read(cpu, env, i)?;
    W::set(cpu, i.r0, W::trunc(if SIGNED { v.sext() } else { v.zext() }));
    Ok(())
}

fn xchg_rr<W: Width>(cpu: &mut CpuState, _: &mut Env<'_>, i: &Insn) -> Exec {
    let (a, b) = (W::get(cpu, i.r0), W::get(cpu, i.r1));
    W::set(cpu, i.r0, b);
    W::set(cpu, i.r1, a);
    Ok(())
}

fn xchg_mr<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let new = W::get(cpu, i.r1);
    let mut old = new;
    env.update(cpu, i, |_, v: W| {
        old = v;
        new
    })?;
    W::set(cpu, i.r1, old);
    Ok(())
}

fn lea<W: Width>(cpu: &mut CpuState, _: &mut Env<'_>, i: &Insn) -> Exec {
    let ea = i.ea(cpu);
    W::set(cpu, i.r0, W::trunc(ea));
    Ok(())
}

/// CMOV reads its source even if it does not move.
fn cmov<W: Width, S: Src, const CC: u8>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let v: W = S::read(cpu, env, i)?;
    if cpu.flags.condition(CC) {
        W::set(cpu, i.r0, v);
    }
    Ok(())
}

fn setcc<D: Dst, const CC: u8>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let v = u8::from(cpu.flags.condition(CC));
    D::write(cpu, env, i, v)
}

/// One table of sixteen conditions for a generic function.
macro_rules! by_condition {
    ($cc:expr, $f:ident $(, $p:ty)*) => {{
        const TABLE: [ExecFn; 16] = [
            $f::<$($p,)* 0>, $f::<$($p,)* 1>, $f::<$($p,)* 2>, $f::<$($p,)* 3>,
            $f::<$($p,)* 4>, $f::<$($p,)* 5>, $f::<$($p,)* 6>, $f::<$($p,)* 7>,
            $f::<$($p,)* 8>, $f::<$($p,)* 9>, $f::<$($p,)* 10>, $f::<$($p,)* 11>,
            $f::<$($p,)* 12>, $f::<$($p,)* 13>, $f::<$($p,)* 14>, $f::<$($p,)* 15>,
        ];
        Some(TABLE[usize::from($cc & 15)])
    }};
}

fn bswap32(cpu: &mut CpuState, _: &mut Env<'_>, i: &Insn) -> Exec {
    let v = cpu.r32(i.r0).swap_bytes();
    cpu.set_r32(i.r0, v);
    Ok(())
}

/// BSWAP with a 16-bit operand is undefined; silicon clears the low word.
fn bswap16(cpu: &mut CpuState, _: &mut Env<'_>, i: &Insn) -> Exec {
    cpu.set_r16(i.r0, 0);
    Ok(())
}

fn xlat(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let offset = cpu.gpr[gpr::EBX].wrapping_add(u32::from(cpu.r8(0)));
    let offset = if i.addr16() { offset & 0xFFFF } else { offset };
    let lin = env.linear_read(cpu, i.seg, offset, 1)?;
    let v: u8 = env.read(cpu, lin)?;
    cpu.set_r8(0, v);
    Ok(())
}

fn cmpxchg<W: Width, D: Dst>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let acc = W::get(cpu, gpr::EAX as u8);
    let new = W::get(cpu, i.r1);
    let mut old = acc;
    D::update(cpu, env, i, |cpu, v: W| {
        old = v;
        arith::sub(cpu, acc, v, 0);
        if v == acc { new } else { v }
    })?;
    if old != acc {
        W::set(cpu, gpr::EAX as u8, old);
    }
    Ok(())
}

/// XADD r, r: the destination is written last, so XADD of a register with itself leaves the sum.
fn xadd_rr<W: Width>(cpu: &mut CpuState, _: &mut Env<'_>, i: &Insn) -> Exec {
    let (a, b) = (W::get(cpu, i.r0), W::get(cpu, i.r1));
    let sum = arith::add(cpu, a, b, 0);
    W::set(cpu, i.r1, a);
    W::set(cpu, i.r0, sum);
    Ok(())
}

fn xadd_mr<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let b = W::get(cpu, i.r1);
    let mut old = b;
    env.update(cpu, i, |cpu, a: W| {
        old = a;
        arith::add(cpu, a, b, 0)
    })?;
    W::set(cpu, i.r1, old);
    Ok(())
}

fn cmpxchg8b(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let expected = u64::from(cpu.gpr[gpr::EDX]) << 32 | u64::from(cpu.gpr[gpr::EAX]);
    let new = u64::from(cpu.gpr[gpr::ECX]) << 32 | u64::from(cpu.gpr[gpr::EBX]);
    let mut old = 0;
    env.update(cpu, i, |cpu, v: u64| {
        old = v;
        cpu.flags.set_zf(v == expected);
        if v == expected { new } else { v }
    })?;
    if old != expected {
        cpu.gpr[gpr::EAX] = old as u32;
        cpu.gpr[gpr::EDX] = (old >> 32) as u32;
    }
    Ok(())
}

fn cbw(cpu: &mut CpuState, _: &mut Env<'_>, _: &Insn) -> Exec {
    let v = cpu.r8(0) as i8 as u16;
    cpu.set_r16(0, v);
    Ok(())
}

fn cwde(cpu: &mut CpuState, _: &mut Env<'_>, _: &Insn) -> Exec {
    let v = cpu.r16(0) as i16 as u32;
    cpu.set_r32(0, v);
    Ok(())
}

fn cwd(cpu: &mut CpuState, _: &mut Env<'_>, _: &Insn) -> Exec {
    let v = ((cpu.r16(0) as i16) >> 15) as u16;
    cpu.set_r16(gpr::EDX as u8, v);
    Ok(())
}

fn cdq(cpu: &mut CpuState, _: &mut Env<'_>, _: &Insn) -> Exec {
    let v = ((cpu.r32(0) as i32) >> 31) as u32;
    cpu.set_r32(gpr::EDX as u8, v);
    Ok(())
}

/// NOP, PAUSE, prefetch hints, fences, multi-byte NOPs: no effect, and no memory access either.
fn nop(_: &mut CpuState, _: &mut Env<'_>, _: &Insn) -> Exec {
    Ok(())
}

fn uses_segment_register(d: &Decoded<'_>) -> bool {
    let special = |r: Register| r.is_segment_register() || r.is_cr() || r.is_dr() || r.is_tr();
    special(d.ins.op0_register()) || special(d.ins.op1_register())
}

fn extension(d: &Decoded<'_>) -> Option<ExecFn> {
    let from = match d.form {
        Form::RR => d.ins.op1_register().size(),
        _ => d.ins.memory_size().size(),
    };
    let signed = d.mnemonic == Mnemonic::Movsx;
    let register = d.form == Form::RR;
    macro_rules! pick {
        ($w:ty, $n:ty) => {
            match (signed, register) {
                (false, true) => Some(extend::<$w, $n, R1, false> as ExecFn),
                (false, false) => Some(extend::<$w, $n, M, false> as ExecFn),
                (true, true) => Some(extend::<$w, $n, R1, true> as ExecFn),
                (true, false) => Some(extend::<$w, $n, M, true> as ExecFn),
            }
        };
    }
    match (d.size, from) {
        (2, 1) => pick!(u16, u8),
        (4, 1) => pick!(u32, u8),
        (2, 2) => pick!(u16, u16),
        (4, 2) => pick!(u32, u16),
        _ => None,
    }
}

/// Dispatch rows of this family.
pub(super) fn select(d: &Decoded<'_>) -> Option<ExecFn> {
    let cc = condition_code(d.ins);
    // Jcc and LOOPcc have conditions too, but their operand is a branch target.
    let conditional = d.ins.condition_code() != ConditionCode::None;
    match d.mnemonic {
        Mnemonic::Mov if uses_segment_register(d) => None,
        Mnemonic::Mov => match d.form {
            Form::RR => by_width!(d.size, mov, R0, R1),
            Form::RM => by_width!(d.size, mov, R0, M),
            Form::MR => by_width!(d.size, mov, M, R1),
            Form::RI => by_width!(d.size, mov, R0, Imm),
            Form::MI => by_width!(d.size, mov, M, Imm),
            _ => None,
        },
        Mnemonic::Movzx | Mnemonic::Movsx => extension(d),
        Mnemonic::Xchg if d.form == Form::RR => by_width!(d.size, xchg_rr),
        Mnemonic::Xchg => by_width!(d.size, xchg_mr),
        Mnemonic::Lea => by_width!(d.size, lea),
        Mnemonic::Bswap if d.size == 2 => Some(bswap16),
        Mnemonic::Bswap => Some(bswap32),
        Mnemonic::Xlatb => Some(xlat),
        Mnemonic::Cmpxchg if d.form == Form::RR => by_width!(d.size, cmpxchg, R0),
        Mnemonic::Cmpxchg => by_width!(d.size, cmpxchg, M),
        Mnemonic::Xadd if d.form == Form::RR => by_width!(d.size, xadd_rr),
        Mnemonic::Xadd => by_width!(d.size, xadd_mr),
        Mnemonic::Cmpxchg8b => Some(cmpxchg8b),
        Mnemonic::Cbw => Some(cbw),
        Mnemonic::Cwde => Some(cwde),
        Mnemonic::Cwd => Some(cwd),
        Mnemonic::Cdq => Some(cdq),
        Mnemonic::Nop
        | Mnemonic::Reservednop
        | Mnemonic::Pause
        | Mnemonic::Prefetchnta
        | Mnemonic::Prefetcht0
        | Mnemonic::Prefetcht1
        | Mnemonic::Prefetcht2
        | Mnemonic::Lfence
        | Mnemonic::Mfence
        | Mnemonic::Sfence => Some(nop),
        // Features that are not offered, in the space of the hint NOPs (0F 0D, 0F 18 to 0F 1F):
        // processors without them do nothing, and compiled code relies on that.
        Mnemonic::Endbr32
        | Mnemonic::Endbr64
        | Mnemonic::Rdsspd
        | Mnemonic::Cldemote
        | Mnemonic::Prefetch
        | Mnemonic::Prefetchw
        | Mnemonic::Prefetchwt1
        | Mnemonic::Prefetchit0
        | Mnemonic::Prefetchit1 => Some(nop),
        _ if conditional && matches!(d.form, Form::R | Form::M) => match d.form {
            Form::R => by_condition!(cc, setcc, R0),
            _ => by_condition!(cc, setcc, M),
        },
        _ if conditional && matches!(d.form, Form::RR | Form::RM) => match (d.form, d.size) {
            (Form::RR, 2) => by_condition!(cc, cmov, u16, R1),
            (Form::RR, _) => by_condition!(cc, cmov, u32, R1),
            (_, 2) => by_condition!(cc, cmov, u16, M),
            _ => by_condition!(cc, cmov, u32, M),
        },
        _ => None,
    }
}
