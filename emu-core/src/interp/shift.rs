//! SHL SHR SAR ROL ROR RCL RCR SHLD SHRD.
//!
//! Counts are masked to 5 bits first; a masked count of 0 changes no flag. Undefined flags follow
//! `docs/undefined-flags.md`: AF is cleared by shifts, OF is what the last single-bit step gives.

use iced_x86::{Mnemonic, OpKind, Register};

use super::Env;
use super::operand::{Cl, Dst, Imm, M, One, R0, Src, Width};
use crate::by_width;
use crate::cpu::flags::Flags;
use crate::cpu::{CpuState, Exec};
use crate::decode::iced::{Decoded, Form};
use crate::decode::{ExecFn, Insn};

trait Shift {
    /// `count` is 1-31. Sets the flags.
    fn apply<W: Width>(cpu: &mut CpuState, v: W, count: u32) -> W;
}

struct Shl;
struct Shr;
struct Sar;
struct Rol;
struct Ror;
struct Rcl;
struct Rcr;

fn msb<W: Width>(v: u32) -> bool {
    v >> (W::BITS - 1) & 1 != 0
}

fn result<W: Width>(cpu: &mut CpuState, r: u32, cf: bool, of: bool) -> W {
    let res = W::trunc(r);
    cpu.flags = Flags::logic(res.sext());
    cpu.flags.set_cf_of(cf, of);
    res
}

impl Shift for Shl {
    #[inline(always)]
    fn apply<W: Width>(cpu: &mut CpuState, v: W, count: u32) -> W {
        let wide = u64::from(v.zext()) << count;
        let cf = wide >> W::BITS & 1 != 0;
        let r = W::trunc(wide as u32).zext();
        result(cpu, r, cf, cf != msb::<W>(r))
    }
}

impl Shift for Shr {
    #[inline(always)]
    fn apply<W: Width>(cpu: &mut CpuState, v: W, count: u32) -> W {
        let before = v.zext() >> (count - 1);
        result(cpu, before >> 1, before & 1 != 0, msb::<W>(before))
    }
}

impl Shift for Sar {
    #[inline(always)]
    fn apply<W: Width>(cpu: &mut CpuState, v: W, count: u32) -> W {
        let before = (v.sext() as i32) >> (count - 1);
        result(cpu, (before >> 1) as u32, before & 1 != 0, false)
    }
}

impl Shift for Rol {
    #[inline(always)]
    fn apply<W: Width>(cpu: &mut CpuState, v: W, count: u32) -> W {
        let n = count % W::BITS;
        let v = v.zext();
        let r = if n == 0 { v } else { W::trunc(v << n | v >> (W::BITS - n)).zext() };
        let cf = r & 1 != 0;
        cpu.flags.set_cf_of(cf, cf != msb::<W>(r));
        W::trunc(r)
    }
}

impl Shift for Ror {
    #[inline(always)]
    fn apply<W: Width>(cpu: &mut CpuState, v: W, count: u32) -> W {
        let n = count % W::BITS;
        let v = v.zext();
        let r = if n == 0 { v } else { W::trunc(v >> n | v << (W::BITS - n)).zext() };
        cpu.flags.set_cf_of(msb::<W>(r), msb::<W>(r) != msb::<W>(r << 1));
        W::trunc(r)
    }
}

impl Shift for Rcl {
    #[inline(always)]
    fn apply<W: Width>(cpu: &mut CpuState, v: W, count: u32) -> W {
        let n = count % (W::BITS + 1);
        if n == 0 {
            return v;
        }
        // The carry sits above the value: a rotation of BITS + 1 bits.
        let ring = u64::from(cpu.flags.cf()) << W::BITS | u64::from(v.zext());
        let rotated = ring << n | ring >> (W::BITS + 1 - n);
        let cf = rotated >> W::BITS & 1 != 0;
        let r = W::trunc(rotated as u32).zext();
        cpu.flags.set_cf_of(cf, cf != msb::<W>(r));
        W::trunc(r)
    }
}

impl Shift for Rcr {
    #[inline(always)]
    fn apply<W: Width>(cpu: &mut CpuState, v: W, count: u32) -> W {
        let n = count % (W::BITS + 1);
        if n == 0 {
            return v;
        }
        let ring = u64::from(cpu.flags.cf()) << W::BITS | u64::from(v.zext());
        let rotated = ring >> n | ring << (W::BITS + 1 - n);
        let cf = rotated >> W::BITS & 1 != 0;
        let r = W::trunc(rotated as u32).zext();
        cpu.flags.set_cf_of(cf, msb::<W>(r) != msb::<W>(r << 1));
        W::trunc(r)
    }
}

fn shift<W: Width, O: Shift, D: Dst, C: Src>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let count = C::read::<u8>(cpu, env, i)?.zext() & 31;
    D::update(cpu, env, i, |cpu, v: W| if count == 0 { v } else { O::apply(cpu, v, count) })
}

/// Count of SHLD and SHRD: the immediate or CL.
fn double_count<const CL: bool>(cpu: &CpuState, i: &Insn) -> u32 {
    if CL { u32::from(cpu.r8(1)) & 31 } else { i.imm & 31 }
}

fn double_flags<W: Width>(cpu: &mut CpuState, before: u32, r: u32, cf: bool) -> W {
    result(cpu, r, cf, msb::<W>(before) != msb::<W>(r))
}

fn shld<W: Width, D: Dst, const CL: bool>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let n = double_count::<CL>(cpu, i);
    let low = W::get(cpu, i.r1);
    D::update(cpu, env, i, |cpu, v: W| {
        if n == 0 {
            return v;
        }
        // dst:src:dst, so that 16-bit counts above 16 go on with the destination's own bits.
        let wide = wide::<W>(v, low);
        let step = |n: u32| W::trunc(((wide << n) >> (2 * W::BITS)) as u32).zext();
        let cf = (wide << n) >> (3 * W::BITS) & 1 != 0;
        double_flags(cpu, step(n - 1), step(n), cf)
    })
}

fn shrd<W: Width, D: Dst, const CL: bool>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let n = double_count::<CL>(cpu, i);
    let high = W::get(cpu, i.r1);
    D::update(cpu, env, i, |cpu, v: W| {
        if n == 0 {
            return v;
        }
        let wide = wide::<W>(v, high);
        let step = |n: u32| W::trunc((wide >> n) as u32).zext();
        let cf = wide >> (n - 1) & 1 != 0;
        double_flags(cpu, step(n - 1), step(n), cf)
    })
}

fn wide<W: Width>(v: W, other: W) -> u128 {
    let (v, other) = (u128::from(v.zext()), u128::from(other.zext()));
    v << (2 * W::BITS) | other << W::BITS | v
}

fn forms<O: Shift>(d: &Decoded<'_>) -> Option<ExecFn> {
    let memory = matches!(d.form, Form::MI | Form::MR | Form::M);
    let by_cl = d.ins.op1_kind() == OpKind::Register && d.ins.op1_register() == Register::CL;
    // iced gives the implied count of D0/D1 as an immediate 1.
    match (memory, by_cl, d.ins.op_count()) {
        (false, true, _) => by_width!(d.size, shift, O, R0, Cl),
        (true, true, _) => by_width!(d.size, shift, O, M, Cl),
        (false, false, 1) => by_width!(d.size, shift, O, R0, One),
        (true, false, 1) => by_width!(d.size, shift, O, M, One),
        (false, false, _) => by_width!(d.size, shift, O, R0, Imm),
        (true, false, _) => by_width!(d.size, shift, O, M, Imm),
    }
}

fn double(d: &Decoded<'_>, left: bool) -> Option<ExecFn> {
    let cl = d.ins.op2_kind() == OpKind::Register;
    let memory = d.form == Form::MR;
    macro_rules! pick {
        ($f:ident) => {
            match (d.size, memory, cl) {
                (2, false, false) => Some($f::<u16, R0, false> as ExecFn),
                (2, false, true) => Some($f::<u16, R0, true> as ExecFn),
                (2, true, false) => Some($f::<u16, M, false> as ExecFn),
                (2, true, true) => Some($f::<u16, M, true> as ExecFn),
                (_, false, false) => Some($f::<u32, R0, false> as ExecFn),
                (_, false, true) => Some($f::<u32, R0, true> as ExecFn),
                (_, true, false) => Some($f::<u32, M, false> as ExecFn),
                (_, true, true) => Some($f::<u32, M, true> as ExecFn),
            }
        };
    }
    if left { pick!(shld) } else { pick!(shrd) }
}

/// Dispatch rows of this family.
pub(super) fn select(d: &Decoded<'_>) -> Option<ExecFn> {
    match d.mnemonic {
        Mnemonic::Shl | Mnemonic::Sal => forms::<Shl>(d),
        Mnemonic::Shr => forms::<Shr>(d),
        Mnemonic::Sar => forms::<Sar>(d),
        Mnemonic::Rol => forms::<Rol>(d),
        Mnemonic::Ror => forms::<Ror>(d),
        Mnemonic::Rcl => forms::<Rcl>(d),
        Mnemonic::Rcr => forms::<Rcr>(d),
        Mnemonic::Shld => double(d, true),
        Mnemonic::Shrd => double(d, false),
        _ => None,
    }
}
