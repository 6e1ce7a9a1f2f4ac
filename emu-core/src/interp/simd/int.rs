//! Packed integers. Every operation is written once, generic over [`Vector`].

use iced_x86::Mnemonic;

use super::{Source, Vector, by_source, by_vector};
use crate::cpu::{CpuState, Exec};
use crate::decode::iced::{Decoded, Form};
use crate::decode::{ExecFn, Insn};
use crate::interp::Env;

/// An operation on two vectors.
trait Op {
    fn apply<V: Vector>(a: V, b: V) -> V;
}

macro_rules! ops {
    ($($name:ident |$a:ident, $b:ident| $body:expr;)*) => {$(
        struct $name;
        impl Op for $name {
            #[inline(always)]
            fn apply<V: Vector>($a: V, $b: V) -> V { $body }
        }
    )*};
}

/// All ones for true.
macro_rules! truth {
    ($t:ty, $e:expr) => {
        if $e { <$t>::MAX } else { 0 }
    };
}

ops! {
    Paddb |a, b| a.zip8(b, u8::wrapping_add);
    Paddw |a, b| a.zip16(b, u16::wrapping_add);
    Paddd |a, b| a.zip32(b, u32::wrapping_add);
    Paddq |a, b| a.zip64(b, u64::wrapping_add);
    Paddsb |a, b| a.zip8(b, |a, b| (a as i8).saturating_add(b as i8) as u8);
    Paddsw |a, b| a.zip16(b, |a, b| (a as i16).saturating_add(b as i16) as u16);
    Paddusb |a, b| a.zip8(b, u8::saturating_add);
    Paddusw |a, b| a.zip16(b, u16::saturating_add);
    Psubb |a, b| a.zip8(b, u8::wrapping_sub);
    Psubw |a, b| a.zip16(b, u16::wrapping_sub);
    Psubd |a, b| a.zip32(b, u32::wrapping_sub);
    Psubq |a, b| a.zip64(b, u64::wrapping_sub);
    Psubsb |a, b| a.zip8(b, |a, b| (a as i8).saturating_sub(b as i8) as u8);
    Psubsw |a, b| a.zip16(b, |a, b| (a as i16).saturating_sub(b as i16) as u16);
    Psubusb |a, b| a.zip8(b, u8::saturating_sub);
    Psubusw |a, b| a.zip16(b, u16::saturating_sub);

    Pmullw |a, b| a.zip16(b, u16::wrapping_mul);
    Pmulhw |a, b| a.zip16(b, |a, b| ((i32::from(a as i16) * i32::from(b as i16)) >> 16) as u16);
    Pmulhuw |a, b| a.zip16(b, |a, b| ((u32::from(a) * u32::from(b)) >> 16) as u16);
    Pmuludq |a, b| a.zip64(b, |a, b| u64::from(a as u32) * u64::from(b as u32));
    Pmaddwd |a, b| a.zip32(b, |a, b| {
        let product = |a: u32, b: u32| i32::from(a as i16) * i32::from(b as i16);
        // Only (-8000h)^2 twice overflows; it wraps to 80000000h.
        product(a, b).wrapping_add(product(a >> 16, b >> 16)) as u32
    });
    Psadbw |a, b| {
        let differences = a.zip8(b, u8::abs_diff);
        differences.zip64(differences, |d, _| {
            // Four sums of two bytes each; the multiplication adds them up in the highest word.
            const EVEN: u64 = 0x00FF_00FF_00FF_00FF;
            ((d & EVEN) + (d >> 8 & EVEN)).wrapping_mul(0x0001_0001_0001_0001) >> 48
        })
    };

    Pavgb |a, b| a.zip8(b, |a, b| ((u16::from(a) + u16::from(b) + 1) >> 1) as u8);
    Pavgw |a, b| a.zip16(b, |a, b| ((u32::from(a) + u32::from(b) + 1) >> 1) as u16);
    Pminub |a, b| a.zip8(b, u8::min);
    Pmaxub |a, b| a.zip8(b, u8::max);
    Pminsw |a, b| a.zip16(b, |a, b| (a as i16).min(b as i16) as u16);
    Pmaxsw |a, b| a.zip16(b, |a, b| (a as i16).max(b as i16) as u16);

    Pcmpeqb |a, b| a.zip8(b, |a, b| truth!(u8, a == b));
    Pcmpeqw |a, b| a.zip16(b, |a, b| truth!(u16, a == b));
    Pcmpeqd |a, b| a.zip32(b, |a, b| truth!(u32, a == b));
    Pcmpgtb |a, b| a.zip8(b, |a, b| truth!(u8, a as i8 > b as i8));
    Pcmpgtw |a, b| a.zip16(b, |a, b| truth!(u16, a as i16 > b as i16));
    Pcmpgtd |a, b| a.zip32(b, |a, b| truth!(u32, a as i32 > b as i32));

    Pand |a, b| V::narrow(a.wide() & b.wide());
    Pandn |a, b| V::narrow(!a.wide() & b.wide());
    Por |a, b| V::narrow(a.wide() | b.wide());
    Pxor |a, b| V::narrow(a.wide() ^ b.wide());

    Packsswb |a, b| a.pack16(b, |w| w.clamp(-0x80, 0x7F) as u8);
    Packuswb |a, b| a.pack16(b, |w| w.clamp(0, 0xFF) as u8);
    Packssdw |a, b| a.pack32(b, |d| d.clamp(-0x8000, 0x7FFF) as u16);
}

fn binary<V: Vector, O: Op, S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    if V::is_usable(cpu)
        && let Some(b) = S::fast_vector::<V>(cpu, env, i)
    {
        let r = O::apply(V::get(cpu, i.r0), b);
        V::set(cpu, i.r0, r);
        return Ok(());
    }
    binary_slow::<V, O, S>(cpu, env, i)
}

#[cold]
#[inline(never)]
fn binary_slow<V: Vector, O: Op, S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    V::check(cpu, env)?;
    let b: V = S::vector(cpu, env, i)?;
    let r = O::apply(V::get(cpu, i.r0), b);
    V::set(cpu, i.r0, r);
    Ok(())
}

/// A shift of all elements by the same count.
trait Shift {
    fn apply<V: Vector>(v: V, count: u64) -> V;
}

macro_rules! shifts {
    ($($name:ident $zip:ident $bits:literal |$x:ident, $n:ident| $body:expr;)*) => {$(
        struct $name;
        impl Shift for $name {
            #[inline(always)]
            fn apply<V: Vector>(v: V, count: u64) -> V {
                if count >= $bits {
                    return V::narrow(0);
                }
                let $n = count as u32;
                v.$zip(v, |$x, _| $body)
            }
        }
    )*};
}

shifts! {
    Psllw zip16 16 |x, n| x << n;
    Pslld zip32 32 |x, n| x << n;
    Psllq zip64 64 |x, n| x << n;
    Psrlw zip16 16 |x, n| x >> n;
    Psrld zip32 32 |x, n| x >> n;
    Psrlq zip64 64 |x, n| x >> n;
}

struct Psraw;
struct Psrad;

impl Shift for Psraw {
    #[inline(always)]
    fn apply<V: Vector>(v: V, count: u64) -> V {
        let n = count.min(15) as u32;
        v.zip16(v, |x, _| (x as i16 >> n) as u16)
    }
}

impl Shift for Psrad {
    #[inline(always)]
    fn apply<V: Vector>(v: V, count: u64) -> V {
        let n = count.min(31) as u32;
        v.zip32(v, |x, _| (x as i32 >> n) as u32)
    }
}

/// The count is the low quadword of operand 1, all 64 bits of it.
fn shift<V: Vector, O: Shift, S: Source>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    V::check(cpu, env)?;
    let count: V = S::vector(cpu, env, i)?;
    let r = O::apply(V::get(cpu, i.r0), count.wide() as u64);
    V::set(cpu, i.r0, r);
    Ok(())
}

fn shift_imm<V: Vector, O: Shift>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    V::check(cpu, env)?;
    let r = O::apply(V::get(cpu, i.r0), u64::from(i.imm));
    V::set(cpu, i.r0, r);
    Ok(())
}

fn pslldq(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    u128::check(cpu, env)?;
    let r = u128::get(cpu, i.r0).checked_shl(i.imm * 8).unwrap_or(0);
    u128::set(cpu, i.r0, r);
    Ok(())
}

fn psrldq(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    u128::check(cpu, env)?;
    let r = u128::get(cpu, i.r0).checked_shr(i.imm * 8).unwrap_or(0);
    u128::set(cpu, i.r0, r);
    Ok(())
}

fn shifts<O: Shift>(d: &Decoded<'_>) -> Option<ExecFn> {
    match d.form {
        Form::RI if d.ins.op0_register().is_mm() => Some(shift_imm::<u64, O>),
        Form::RI => Some(shift_imm::<u128, O>),
        _ => by_vector!(d, shift, O),
    }
}

/// Dispatch rows of this family.
pub(super) fn select(d: &Decoded<'_>) -> Option<ExecFn> {
    macro_rules! rows {
        (
            both: $($name:ident)*;
            xmm: $($float:ident $op:ident)*;
            shifts: $($shift:ident)*;
        ) => {
            match d.mnemonic {
                $(Mnemonic::$name => by_vector!(d, binary, $name),)*
                $(Mnemonic::$float => by_source!(d, binary, u128, $op),)*
                $(Mnemonic::$shift => shifts::<$shift>(d),)*
                Mnemonic::Pslldq => Some(pslldq),
                Mnemonic::Psrldq => Some(psrldq),
                _ => None,
            }
        };
    }
    rows! {
        both: Paddb Paddw Paddd Paddq Paddsb Paddsw Paddusb Paddusw
            Psubb Psubw Psubd Psubq Psubsb Psubsw Psubusb Psubusw
            Pmullw Pmulhw Pmulhuw Pmuludq Pmaddwd Psadbw
            Pavgb Pavgw Pminub Pmaxub Pminsw Pmaxsw
            Pcmpeqb Pcmpeqw Pcmpeqd Pcmpgtb Pcmpgtw Pcmpgtd
            Pand Pandn Por Pxor Packsswb Packuswb Packssdw;
        xmm: Andps Pand Andpd Pand Andnps Pandn Andnpd Pandn Orps Por Orpd Por Xorps Pxor Xorpd Pxor;
        shifts: Psllw Pslld Psllq Psrlw Psrld Psrlq Psraw Psrad;
    }
}
