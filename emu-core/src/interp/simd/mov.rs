//! Moves: between registers, from and to memory, sign masks, EMMS.

use iced_x86::Mnemonic;

use super::{Mem, Part, Reg, Source, Vector, by_source, mmx_check, sse_check, sse_is_usable, x87_check};
use crate::cpu::{CpuState, Exec, gpr};
use crate::decode::iced::{Decoded, Form};
use crate::decode::{ExecFn, Insn};
use crate::interp::Env;

/// Register from register or (aligned) memory.
fn load<V: Vector, S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    if V::is_usable(cpu)
        && let Some(v) = S::fast_vector::<V>(cpu, env, i)
    {
        V::set(cpu, i.r0, v);
        return Ok(());
    }
    load_slow::<V, S>(cpu, env, i)
}

#[cold]
#[inline(never)]
fn load_slow<V: Vector, S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    V::check(cpu, env)?;
    let v: V = S::vector(cpu, env, i)?;
    V::set(cpu, i.r0, v);
    Ok(())
}

/// (Aligned) memory from register.
fn store<V: Vector>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    if V::is_usable(cpu) && V::fast_store(cpu, env, i, V::get(cpu, i.r1)) {
        V::touch(cpu);
        return Ok(());
    }
    store_slow::<V>(cpu, env, i)
}

#[cold]
#[inline(never)]
fn store_slow<V: Vector>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    V::check(cpu, env)?;
    V::store(cpu, env, i, V::get(cpu, i.r1))?;
    V::touch(cpu);
    Ok(())
}

/// MOVUPS, MOVUPD, MOVDQU, LDDQU.
fn load_unaligned(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    if sse_is_usable(cpu)
        && let Some(v) = env.fast_load(cpu, i)
    {
        u128::set(cpu, i.r0, v);
        return Ok(());
    }
    load_unaligned_slow(cpu, env, i)
}

#[cold]
#[inline(never)]
fn load_unaligned_slow(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let v: u128 = env.load(cpu, i)?;
    u128::set(cpu, i.r0, v);
    Ok(())
}

/// MOVUPS, MOVUPD, MOVDQU.
fn store_unaligned(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    if sse_is_usable(cpu) && env.fast_store(cpu, i, u128::get(cpu, i.r1)) {
        return Ok(());
    }
    store_unaligned_slow(cpu, env, i)
}

#[cold]
#[inline(never)]
fn store_unaligned_slow(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let v = u128::get(cpu, i.r1);
    env.store(cpu, i, v)
}

/// MOVSS, MOVSD, MOVQ from memory (and MOVQ between registers): the rest of the register is cleared.
fn load_part<T: Part + Into<u128>, S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    if sse_is_usable(cpu)
        && let Some(v) = S::fast_part::<T>(cpu, env, i)
    {
        u128::set(cpu, i.r0, v.into());
        return Ok(());
    }
    load_part_slow::<T, S>(cpu, env, i)
}

#[cold]
#[inline(never)]
fn load_part_slow<T: Part + Into<u128>, S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let v: T = S::part(cpu, env, i)?;
    u128::set(cpu, i.r0, v.into());
    Ok(())
}

/// MOVSS and MOVSD between registers: the rest of the register stays.
fn merge_part<T: Part>(cpu: &mut CpuState, _: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let v = T::of(u128::get(cpu, i.r1)).merged(u128::get(cpu, i.r0));
    u128::set(cpu, i.r0, v);
    Ok(())
}

/// MOVSS, MOVSD, MOVQ, MOVLPS, MOVLPD to memory.
fn store_part<T: Part>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    if sse_is_usable(cpu) && env.fast_store(cpu, i, T::of(u128::get(cpu, i.r1))) {
        return Ok(());
    }
    store_part_slow::<T>(cpu, env, i)
}

#[cold]
#[inline(never)]
fn store_part_slow<T: Part>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let v = T::of(u128::get(cpu, i.r1));
    env.store(cpu, i, v)
}

/// MOVLPS, MOVLPD.
fn load_low(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let v: u64 = env.load(cpu, i)?;
    let v = v.merged(u128::get(cpu, i.r0));
    u128::set(cpu, i.r0, v);
    Ok(())
}

fn with_high(v: u128, high: u64) -> u128 {
    u128::from(v as u64) | u128::from(high) << 64
}

/// MOVHPS, MOVHPD.
fn load_high(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let high = env.load(cpu, i)?;
    let v = with_high(u128::get(cpu, i.r0), high);
    u128::set(cpu, i.r0, v);
    Ok(())
}

fn store_high(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let v = u128::get(cpu, i.r1).high_half();
    env.store(cpu, i, v)
}

fn movlhps(cpu: &mut CpuState, _: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let v = with_high(u128::get(cpu, i.r0), u128::get(cpu, i.r1) as u64);
    u128::set(cpu, i.r0, v);
    Ok(())
}

fn movhlps(cpu: &mut CpuState, _: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let v = u128::get(cpu, i.r1).high_half().merged(u128::get(cpu, i.r0));
    u128::set(cpu, i.r0, v);
    Ok(())
}

/// MOVD to a vector register from a general register.
fn movd_from_gpr<V: Vector>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    V::check(cpu, env)?;
    let v = cpu.r32(i.r1);
    V::set(cpu, i.r0, V::narrow(u128::from(v)));
    Ok(())
}

/// MOVD to a vector register from memory.
fn movd_load<V: Vector>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    V::check(cpu, env)?;
    let v: u32 = env.load(cpu, i)?;
    V::set(cpu, i.r0, V::narrow(u128::from(v)));
    Ok(())
}

/// MOVD from a vector register to a general register.
fn movd_to_gpr<V: Vector>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    V::check(cpu, env)?;
    let v = V::get(cpu, i.r1).wide() as u32;
    V::touch(cpu);
    cpu.set_r32(i.r0, v);
    Ok(())
}

/// MOVD from a vector register to memory.
fn movd_store<V: Vector>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    V::check(cpu, env)?;
    let v = V::get(cpu, i.r1).wide() as u32;
    env.store(cpu, i, v)?;
    V::touch(cpu);
    Ok(())
}

fn movq2dq(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    x87_check(cpu, env)?;
    let v = u64::get(cpu, i.r1);
    u64::touch(cpu);
    u128::set(cpu, i.r0, u128::from(v));
    Ok(())
}

fn movdq2q(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    x87_check(cpu, env)?;
    let v = u128::get(cpu, i.r1) as u64;
    u64::set(cpu, i.r0, v);
    Ok(())
}

/// MOVNTI: a plain store that needs no vector unit.
fn movnti(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let v = cpu.r32(i.r1);
    env.store(cpu, i, v)
}

/// MASKMOVQ, MASKMOVDQU: stores the bytes of operand 1 whose mask byte in operand 2 is negative at
/// (E)DI. The whole operand must be writable even if the mask is empty; it is checked in quadwords.
/// MASKMOVQ affects the x87 even if it faults. (The SDM leaves this open; it is what AMD's do.)
fn maskmov<V: Vector>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    V::check(cpu, env)?;
    let (data, mask) = (V::get(cpu, i.r1).wide(), V::get(cpu, i.r0).wide());
    let size = size_of::<V>() as u32;
    let offset = cpu.gpr[gpr::EDI];
    let offset = if i.addr16() { offset & 0xFFFF } else { offset };
    V::touch(cpu);
    for at in (0..size).step_by(8) {
        let lin = env.linear_write(cpu, i.seg, offset.wrapping_add(at), 8)?;
        env.aligned(cpu, lin, 8)?;
        env.probe_write(cpu, lin, 8)?;
    }
    let lin = env.linear_write(cpu, i.seg, offset, size)?;
    for n in 0..size {
        if mask >> (8 * n + 7) & 1 != 0 {
            env.write(cpu, lin.wrapping_add(n), (data >> (8 * n)) as u8)?;
        }
    }
    Ok(())
}

/// The sign bits of all bytes.
fn sign_mask8(v: u128) -> u32 {
    let half = |v: u64| {
        // The product brings bit 8k to bit 56 + k.
        ((v >> 7 & 0x0101_0101_0101_0101).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32
    };
    half(v as u64) | half((v >> 64) as u64) << 8
}

fn pmovmskb<V: Vector>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    V::check(cpu, env)?;
    let mask = sign_mask8(V::get(cpu, i.r1).wide());
    V::touch(cpu);
    cpu.set_r32(i.r0, mask);
    Ok(())
}

fn movmskps(cpu: &mut CpuState, _: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let v = u128::get(cpu, i.r1);
    let mask = (0..4).fold(0, |mask, n| mask | ((v >> (32 * n + 31)) as u32 & 1) << n);
    cpu.set_r32(i.r0, mask);
    Ok(())
}

fn movmskpd(cpu: &mut CpuState, _: &mut Env<'_>, i: &Insn) -> Exec {
    sse_check(cpu)?;
    let v = u128::get(cpu, i.r1);
    cpu.set_r32(i.r0, (v >> 63) as u32 & 1 | (v >> 126) as u32 & 2);
    Ok(())
}

fn emms(cpu: &mut CpuState, env: &mut Env<'_>, _: &Insn) -> Exec {
    mmx_check(cpu, env)?;
    cpu.x87.top = 0;
    cpu.x87.valid = 0;
    Ok(())
}

/// The instance for MMX or XMM registers.
macro_rules! by_register {
    ($is_mm:expr, $f:ident) => {
        if $is_mm { Some($f::<u64> as ExecFn) } else { Some($f::<u128> as ExecFn) }
    };
}

/// Dispatch rows of this family.
pub(super) fn select(d: &Decoded<'_>) -> Option<ExecFn> {
    let (mm0, mm1) = (d.ins.op_register(0).is_mm(), d.ins.op_register(1).is_mm());
    let (xmm0, xmm1) = (d.ins.op_register(0).is_xmm(), d.ins.op_register(1).is_xmm());
    match d.mnemonic {
        Mnemonic::Movaps | Mnemonic::Movapd | Mnemonic::Movdqa => match d.form {
            Form::MR => Some(store::<u128>),
            _ => by_source!(d, load, u128),
        },
        Mnemonic::Movups | Mnemonic::Movupd | Mnemonic::Movdqu | Mnemonic::Lddqu => match d.form {
            Form::RR => Some(load::<u128, Reg>),
            Form::RM => Some(load_unaligned),
            Form::MR => Some(store_unaligned),
            _ => None,
        },
        Mnemonic::Movntps | Mnemonic::Movntpd | Mnemonic::Movntdq => Some(store::<u128>),
        Mnemonic::Movntq => Some(store::<u64>),
        Mnemonic::Movnti => Some(movnti),
        Mnemonic::Movss => match d.form {
            Form::RR => Some(merge_part::<u32>),
            Form::RM => Some(load_part::<u32, Mem>),
            Form::MR => Some(store_part::<u32>),
            _ => None,
        },
        Mnemonic::Movsd if xmm0 || xmm1 => match d.form {
            Form::RR => Some(merge_part::<u64>),
            Form::RM => Some(load_part::<u64, Mem>),
            Form::MR => Some(store_part::<u64>),
            _ => None,
        },
        Mnemonic::Movq => match d.form {
            Form::RR | Form::RM if mm0 => by_source!(d, load, u64),
            Form::MR if mm1 => Some(store::<u64>),
            Form::RR | Form::RM if xmm0 => by_source!(d, load_part, u64),
            Form::MR if xmm1 => Some(store_part::<u64>),
            _ => None,
        },
        Mnemonic::Movd => match d.form {
            Form::RR if mm0 || xmm0 => by_register!(mm0, movd_from_gpr),
            Form::RR => by_register!(mm1, movd_to_gpr),
            Form::RM => by_register!(mm0, movd_load),
            Form::MR => by_register!(mm1, movd_store),
            _ => None,
        },
        Mnemonic::Movlps | Mnemonic::Movlpd => match d.form {
            Form::RM => Some(load_low),
            Form::MR => Some(store_part::<u64>),
            _ => None,
        },
        Mnemonic::Movhps | Mnemonic::Movhpd => match d.form {
            Form::RM => Some(load_high),
            Form::MR => Some(store_high),
            _ => None,
        },
        Mnemonic::Movlhps => Some(movlhps),
        Mnemonic::Movhlps => Some(movhlps),
        Mnemonic::Movq2dq => Some(movq2dq),
        Mnemonic::Movdq2q => Some(movdq2q),
        Mnemonic::Maskmovq => Some(maskmov::<u64>),
        Mnemonic::Maskmovdqu => Some(maskmov::<u128>),
        Mnemonic::Pmovmskb => by_register!(mm1, pmovmskb),
        Mnemonic::Movmskps => Some(movmskps),
        Mnemonic::Movmskpd => Some(movmskpd),
        Mnemonic::Emms => Some(emms),
        _ => None,
    }
}
