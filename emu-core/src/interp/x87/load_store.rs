//! FLD FILD FBLD FST FSTP FIST FISTP FISTTP FBSTP FXCH FCMOVcc and the constants.

use iced_x86::Code;

use super::{Double, Long, Short, Single, Source, Word, begin, conclude, modes, note, note_memory, store};
use crate::cpu::tlb::Scalar;
use crate::cpu::{CpuState, Exec};
use crate::decode::iced::Decoded;
use crate::decode::{ExecFn, Insn};
use crate::interp::Env;
use crate::softfloat::{self, Class, F80, Rounding};

/// Bytes of an m80fp or m80bcd operand.
const M80: u32 = 10;
/// What the alignment check demands of it.
const M80_ALIGNMENT: u32 = 8;

/// Reads an m80 operand and records it.
fn load_m80(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec<F80> {
    let offset = i.ea(cpu);
    let lin = env.linear_read(cpu, i.seg, offset, M80)?;
    env.aligned(cpu, lin, M80_ALIGNMENT)?;
    let sig = env.read(cpu, lin)?;
    let se = env.read(cpu, lin.wrapping_add(8))?;
    note_memory(cpu, i, offset);
    Ok(F80 { sig, se })
}

/// Writes an m80 operand and records it. Both pages of one that crosses are checked before the first
/// byte changes.
fn store_m80(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn, value: F80) -> Exec {
    let offset = i.ea(cpu);
    let lin = env.linear_write(cpu, i.seg, offset, M80)?;
    env.aligned(cpu, lin, M80_ALIGNMENT)?;
    if lin & 0xFFF > 0x1000 - M80 {
        env.probe_write(cpu, lin, M80)?;
    }
    env.write(cpu, lin, value.sig)?;
    env.write(cpu, lin.wrapping_add(8), value.se)?;
    note_memory(cpu, i, offset);
    Ok(())
}

/// Checks and records a memory operand of `size` bytes that an unmasked exception keeps from being
/// written.
#[cold]
#[inline(never)]
fn check_store(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn, size: u32) -> Exec {
    let offset = i.ea(cpu);
    let lin = env.linear_write(cpu, i.seg, offset, size)?;
    env.aligned(cpu, lin, if size == M80 { M80_ALIGNMENT } else { size })?;
    env.probe_write(cpu, lin, size)?;
    note_memory(cpu, i, offset);
    Ok(())
}

/// Pushes unless the stack is full.
#[inline(always)]
fn push_or_fault(cpu: &mut CpuState, value: F80) {
    let x87 = &mut cpu.x87;
    if x87.is_full() {
        if x87.stack_fault(true) {
            x87.push(F80::INDEFINITE);
        }
        return;
    }
    x87.clear_c1();
    x87.push(value);
}

/// FLD m32fp and m64fp: a signalling NaN is quieted and a denormal reported. Unlike in arithmetic, an
/// unmasked denormal is loaded all the same.
fn fld<S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    let operand = S::load(cpu, env, i)?;
    let mut value = operand.value;
    if !cpu.x87.is_full() {
        let mut fp = modes(cpu);
        if value.class() == Class::SignallingNan {
            value.sig |= 1 << 62;
            fp.flags |= softfloat::exception::IE;
        }
        if operand.denormal {
            fp.flags |= softfloat::exception::DE;
        }
        conclude(cpu, &fp);
        if fp.unmasked() & softfloat::exception::IE != 0 {
            return Ok(());
        }
    }
    push_or_fault(cpu, value);
    Ok(())
}

/// FILD.
fn fild<S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    let operand = S::load(cpu, env, i)?;
    push_or_fault(cpu, operand.value);
    Ok(())
}

/// FLD m80fp: any image, unchanged.
fn fld_m80(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    let value = load_m80(cpu, env, i)?;
    push_or_fault(cpu, value);
    Ok(())
}

/// FBLD.
fn fbld(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    let image = load_m80(cpu, env, i)?;
    push_or_fault(cpu, F80::from_bcd(image.to_bytes()));
    Ok(())
}

/// FLD ST(i).
fn fld_sti(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    note(cpu, i);
    let x87 = &mut cpu.x87;
    if x87.is_full() || x87.is_empty(i.r0) {
        let overflow = !x87.is_empty(i.r0);
        if x87.stack_fault(overflow) {
            x87.push(F80::INDEFINITE);
        }
        return Ok(());
    }
    let value = x87.st(i.r0);
    x87.clear_c1();
    x87.push(value);
    Ok(())
}

/// The constant an instruction pushes.
trait Constant {
    fn value(rounding: Rounding) -> F80;
}

macro_rules! constants {
    ($($name:ident |$rounding:pat_param| $body:expr;)*) => {$(
        struct $name;
        impl Constant for $name {
            fn value($rounding: Rounding) -> F80 { $body }
        }
    )*};
}

constants! {
    One |_| F80::ONE;
    Log2Of10 |rounding| F80::log2_10(rounding);
    Log2OfE |rounding| F80::log2_e(rounding);
    Pi |rounding| F80::pi(rounding);
    Log10Of2 |rounding| F80::log10_2(rounding);
    LnOf2 |rounding| F80::ln_2(rounding);
    Zero |_| F80::ZERO;
}

fn constant<C: Constant>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    note(cpu, i);
    let value = C::value(modes(cpu).rounding);
    push_or_fault(cpu, value);
    Ok(())
}

/// A format in which ST(0) is stored.
trait Target {
    type Image: Scalar;
    /// Stored for an empty register.
    const INDEFINITE: Self::Image;
    fn convert(value: F80, fp: &mut softfloat::Env) -> Self::Image;
}

macro_rules! targets {
    ($($name:ident $image:ty = $indefinite:literal |$value:ident, $fp:ident| $body:expr;)*) => {$(
        impl Target for $name {
            type Image = $image;
            const INDEFINITE: $image = $indefinite;
            #[inline(always)]
            fn convert($value: F80, $fp: &mut softfloat::Env) -> $image { $body }
        }
    )*};
}

/// FISTTP's formats: integers truncated whatever the rounding mode.
struct TruncatedWord;
struct TruncatedShort;
struct TruncatedLong;

targets! {
    Single u32 = 0xFFC0_0000 |value, fp| value.to_f32(fp).0;
    Double u64 = 0xFFF8_0000_0000_0000 |value, fp| value.to_f64(fp).0;
    Word u16 = 0x8000 |value, fp| value.to_i16(fp) as u16;
    Short u32 = 0x8000_0000 |value, fp| value.to_i32(fp) as u32;
    Long u64 = 0x8000_0000_0000_0000 |value, fp| value.to_i64(fp) as u64;
    TruncatedWord u16 = 0x8000 |value, fp| value.to_i16_truncated(fp) as u16;
    TruncatedShort u32 = 0x8000_0000 |value, fp| value.to_i32_truncated(fp) as u32;
    TruncatedLong u64 = 0x8000_0000_0000_0000 |value, fp| value.to_i64_truncated(fp) as u64;
}

/// FST FSTP FIST FISTP FISTTP to memory.
fn fst<T: Target, const POP: bool>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    let size = size_of::<T::Image>() as u32;
    if cpu.x87.is_empty(0) {
        if cpu.x87.masks_invalid() {
            store(cpu, env, i, T::INDEFINITE)?;
        } else {
            check_store(cpu, env, i, size)?;
        }
        if cpu.x87.stack_fault(false) && POP {
            cpu.x87.pop();
        }
        return Ok(());
    }
    let mut fp = modes(cpu);
    let image = T::convert(cpu.x87.st(0), &mut fp);
    if fp.suppresses_store() {
        check_store(cpu, env, i, size)?;
    } else {
        store(cpu, env, i, image)?;
    }
    conclude(cpu, &fp);
    if POP && !fp.suppresses_store() {
        cpu.x87.pop();
    }
    Ok(())
}

/// FSTP m80fp: the image of ST(0), unchanged.
fn fstp_m80(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    let empty = cpu.x87.is_empty(0);
    if empty && !cpu.x87.masks_invalid() {
        check_store(cpu, env, i, M80)?;
    } else {
        let value = if empty { F80::INDEFINITE } else { cpu.x87.st(0) };
        store_m80(cpu, env, i, value)?;
    }
    if empty {
        if !cpu.x87.stack_fault(false) {
            return Ok(());
        }
    } else {
        cpu.x87.clear_c1();
    }
    cpu.x87.pop();
    Ok(())
}

/// FBSTP.
fn fbstp(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    let empty = cpu.x87.is_empty(0);
    let mut fp = modes(cpu);
    // A NaN converts to the packed indefinite, which an empty register stores too.
    let value = if empty { F80::INDEFINITE } else { cpu.x87.st(0) };
    let image = F80::from_bytes(value.to_bcd(&mut fp));
    if fp.suppresses_store() {
        check_store(cpu, env, i, M80)?;
    } else {
        store_m80(cpu, env, i, image)?;
    }
    if empty {
        cpu.x87.stack_fault(false);
    } else {
        conclude(cpu, &fp);
    }
    if !fp.suppresses_store() {
        cpu.x87.pop();
    }
    Ok(())
}

/// FST and FSTP ST(i).
fn fst_sti<const POP: bool>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    note(cpu, i);
    let x87 = &mut cpu.x87;
    let value = if !x87.is_empty(0) {
        x87.clear_c1();
        x87.st(0)
    } else if x87.stack_fault(false) {
        F80::INDEFINITE
    } else {
        return Ok(());
    };
    x87.set_st(i.r0, value);
    if POP {
        x87.pop();
    }
    Ok(())
}

/// D9 D8+i, undocumented: FSTP ST(i) that does not mind an empty ST(0) and then only pops.
fn fstpnce(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    note(cpu, i);
    let x87 = &mut cpu.x87;
    x87.clear_c1();
    if !x87.is_empty(0) {
        let value = x87.st(0);
        x87.set_st(i.r0, value);
    }
    x87.pop();
    Ok(())
}

/// FXCH. An empty register takes part with the indefinite.
fn fxch(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    note(cpu, i);
    let x87 = &mut cpu.x87;
    let read = |n: u8| if x87.is_empty(n) { F80::INDEFINITE } else { x87.st(n) };
    let (a, b) = (read(0), read(i.r1));
    if x87.is_empty(0) || x87.is_empty(i.r1) {
        if !x87.stack_fault(false) {
            return Ok(());
        }
    } else {
        x87.clear_c1();
    }
    x87.set_st(0, b);
    x87.set_st(i.r1, a);
    Ok(())
}

/// FCMOVcc, `CC` numbered as in CMOVcc. An empty operand is a stack fault even if it does not move.
fn fcmov<const CC: u8>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    note(cpu, i);
    let x87 = &mut cpu.x87;
    if x87.is_empty(0) || x87.is_empty(i.r1) {
        if x87.stack_fault(false) {
            x87.set_st(0, F80::INDEFINITE);
        }
    } else if cpu.flags.condition(CC) {
        let value = x87.st(i.r1);
        x87.set_st(0, value);
    }
    Ok(())
}

/// Dispatch rows of this file.
pub(super) fn select(d: &Decoded<'_>) -> Option<ExecFn> {
    Some(match d.code {
        Code::Fld_m32fp => fld::<Single>,
        Code::Fld_m64fp => fld::<Double>,
        Code::Fld_m80fp => fld_m80,
        Code::Fld_sti => fld_sti,
        Code::Fild_m16int => fild::<Word>,
        Code::Fild_m32int => fild::<Short>,
        Code::Fild_m64int => fild::<Long>,
        Code::Fbld_m80bcd => fbld,
        Code::Fld1 => constant::<One>,
        Code::Fldl2t => constant::<Log2Of10>,
        Code::Fldl2e => constant::<Log2OfE>,
        Code::Fldpi => constant::<Pi>,
        Code::Fldlg2 => constant::<Log10Of2>,
        Code::Fldln2 => constant::<LnOf2>,
        Code::Fldz => constant::<Zero>,
        Code::Fst_m32fp => fst::<Single, false>,
        Code::Fst_m64fp => fst::<Double, false>,
        Code::Fstp_m32fp => fst::<Single, true>,
        Code::Fstp_m64fp => fst::<Double, true>,
        Code::Fstp_m80fp => fstp_m80,
        Code::Fist_m16int => fst::<Word, false>,
        Code::Fist_m32int => fst::<Short, false>,
        Code::Fistp_m16int => fst::<Word, true>,
        Code::Fistp_m32int => fst::<Short, true>,
        Code::Fistp_m64int => fst::<Long, true>,
        Code::Fisttp_m16int => fst::<TruncatedWord, true>,
        Code::Fisttp_m32int => fst::<TruncatedShort, true>,
        Code::Fisttp_m64int => fst::<TruncatedLong, true>,
        Code::Fbstp_m80bcd => fbstp,
        Code::Fst_sti => fst_sti::<false>,
        Code::Fstp_sti | Code::Fstp_sti_DFD0 | Code::Fstp_sti_DFD8 => fst_sti::<true>,
        Code::Fstpnce_sti => fstpnce,
        Code::Fxch_st0_sti | Code::Fxch_st0_sti_DDC8 | Code::Fxch_st0_sti_DFC8 => fxch,
        Code::Fcmovb_st0_sti => fcmov::<2>,
        Code::Fcmovnb_st0_sti => fcmov::<3>,
        Code::Fcmove_st0_sti => fcmov::<4>,
        Code::Fcmovne_st0_sti => fcmov::<5>,
        Code::Fcmovbe_st0_sti => fcmov::<6>,
        Code::Fcmovnbe_st0_sti => fcmov::<7>,
        Code::Fcmovu_st0_sti => fcmov::<10>,
        Code::Fcmovnu_st0_sti => fcmov::<11>,
        _ => return None,
    })
}
