//! The processor's slots.
//!
//! v86 keeps less of a segment register than the hardware does (no limit checks, no D/B and G bits), keeps
//! its arithmetic flags lazily, and does not restore three of its slots. What it has no place for is in
//! our own slot ([`extra`]); without that, everything follows from v86's slots.

use super::error::{FieldError, SnapshotError};
use super::fields::Fields;
use super::value::Value;
use super::{State, slots};
use crate::cpu::segment::attr;
use crate::cpu::state::{TableReg, X87Reg, cr0, cr4};
use crate::cpu::{CpuState, Segment, debug_regs, flags, paging, seg};
use crate::mem::Memory;
use crate::values;

/// Version of [`extra`].
const EXTRA_VERSION: i64 = 1;

/// Segment registers in v86's arrays: the six of ours, then TR and LDTR.
const TR: usize = 6;
const LDTR: usize = 7;
const SEGMENTS: usize = 8;

/// Status word bits of the top of stack.
const STATUS_TOP: u16 = 7 << 11;

/// Writes the processor's slots. `tsc` is the time stamp counter.
pub fn save(cpu: &CpuState, tsc: u64, state: &mut State) {
    let all = segments(cpu);
    let null = all.map(|s| u8::from(s.attr == 0));
    let access = all.map(|s| s.attr as u8);
    state.set(slots::SEGMENT_NULL_AND_ACCESS, Value::bytes([null, access].concat()));
    state.set(slots::SEGMENT_BASES, Value::i32s(&all.map(|s| s.base)));
    state.set(slots::SEGMENT_LIMITS, Value::u32s(&all.map(|s| s.limit)));
    state.set(slots::SELECTORS, Value::u16s(&all.map(|s| s.selector)));
    state.set(slots::PROTECTED_MODE, u8::from(cpu.protected()));
    state.set(slots::IDTR_BASE, Value::signed(cpu.idtr.base));
    state.set(slots::IDTR_LIMIT, cpu.idtr.limit);
    state.set(slots::GDTR_BASE, Value::signed(cpu.gdtr.base));
    state.set(slots::GDTR_LIMIT, cpu.gdtr.limit);
    state.set(slots::CR, Value::i32s(&[cpu.cr0, 0, cpu.cr2, cpu.cr3, cpu.cr4, 0, 0, 0]));
    state.set(slots::CPL, cpu.cpl);
    state.set(slots::CODE32, u8::from(cpu.mode.code32()));
    state.set(slots::STACK32, u8::from(cpu.mode.stack32()));
    state.set(slots::HALTED, u8::from(cpu.halted));
    state.set(slots::LAST_VIRT_EIP, -1);
    state.set(slots::EIP_PHYS, 0);
    state.set(slots::SYSENTER_CS, Value::signed(cpu.sysenter_cs));
    state.set(slots::SYSENTER_EIP, Value::signed(cpu.sysenter_eip));
    state.set(slots::SYSENTER_ESP, Value::signed(cpu.sysenter_esp));
    state.set(slots::PREFIXES, 0);
    state.set(slots::EFLAGS, Value::signed(cpu.eflags()));
    for slot in [slots::FLAGS_CHANGED, slots::LAST_OP1, slots::LAST_OP_SIZE] {
        state.set(slot, 0);
    }
    let linear = cpu.seg[seg::CS].base.wrapping_add(cpu.eip);
    state.set(slots::LINEAR_EIP, Value::signed(linear));
    state.set(slots::PREVIOUS_IP, Value::signed(linear));
    state.set(slots::GPR, Value::i32s(cpu.gpr.first_chunk::<8>().unwrap_or(&[0; 8])));
    state.set(slots::DR, Value::i32s(&cpu.dr));
    let pdpte: Vec<u32> = cpu.pdpte.iter().flat_map(|e| [*e as u32, (*e >> 32) as u32]).collect();
    state.set(slots::PDPTE, Value::i32s(&pdpte));
    state.set(slots::TSC, Value::u32s(&[tsc as u32, (tsc >> 32) as u32]));
    const TSS32: u16 = 1 << 3;
    state.set(slots::TSS32, u8::from(cpu.tr.attr & TSS32 != 0));
    let xmm: Vec<u8> = cpu.xmm.iter().flat_map(|x| x.to_le_bytes()).collect();
    state.set(slots::XMM, Value::typed(super::Kind::Int32, xmm));
    let x87 = &cpu.x87;
    let mut cells = Vec::with_capacity(128);
    for r in &x87.regs {
        cells.extend_from_slice(&r.significand.to_le_bytes());
        cells.extend_from_slice(&r.sign_exponent.to_le_bytes());
        cells.extend_from_slice(&[0; 6]);
    }
    state.set(slots::FPU_REGS, Value::typed(super::Kind::Int32, cells));
    state.set(slots::FPU_EMPTY, !x87.valid);
    state.set(slots::FPU_TOP, x87.top);
    state.set(slots::FPU_CONTROL, x87.control);
    state.set(slots::FPU_IP, Value::signed(x87.ip));
    state.set(slots::FPU_CS, x87.cs);
    state.set(slots::FPU_DP, Value::signed(x87.dp));
    state.set(slots::FPU_DS, x87.ds);
    state.set(slots::FPU_OPCODE, x87.opcode);
    state.set(slots::LAST_RESULT, Value::i32s(&[0]));
    state.set(slots::FPU_STATUS, Value::u16s(&[x87.status]));
    state.set(slots::MXCSR, Value::i32s(&[cpu.mxcsr]));
}

fn segments(cpu: &CpuState) -> [Segment; SEGMENTS] {
    let [es, cs, ss, ds, fs, gs] = cpu.seg;
    [es, cs, ss, ds, fs, gs, cpu.tr, cpu.ldtr]
}

/// What v86's slots have no place for.
pub fn extra(cpu: &CpuState) -> Value {
    values![
        EXTRA_VERSION,
        segments(cpu).map(|s| Value::from(s.attr)).to_vec(),
        cpu.int_shadow,
        cpu.debug_shadow,
        cpu.nmi_blocked,
        cpu.debug_hits,
        cpu.x87.status,
        cpu.mxcsr,
    ]
}

/// Reads the processor's slots into a CPU that has just been reset. Guest memory is that of the snapshot.
/// `tsc` is the time stamp counter before `cpu.tsc_offset` is added.
///
/// # Errors
/// Which slot is not as it must be.
pub fn restore(
    cpu: &mut CpuState,
    mem: &Memory,
    tsc: u64,
    state: &mut State,
    extra: Value,
) -> Result<(), SnapshotError> {
    for slot in NEEDED {
        if state.get(slot).is_null() {
            return Err(state.error(slot, FieldError::here("missing")));
        }
    }
    let mut extra = extra;
    let extra = Extra::read(&mut extra).map_err(|e| state.error(slots::EXTRA, e.within(2)))?;
    control(cpu, state)?;
    registers(cpu, state)?;
    segment_registers(cpu, state, &extra)?;
    let linear = u32_of(state, slots::LINEAR_EIP)?;
    cpu.eip = linear.wrapping_sub(cpu.seg[seg::CS].base);
    if !cpu.mode.code32() && !cpu.protected() {
        cpu.eip &= 0xFFFF;
    }
    fpu_and_sse(cpu, state, &extra)?;

    let [low, high] = array::<2>(state, slots::TSC)?.unwrap_or_default();
    cpu.tsc_offset = (u64::from(high) << 32 | u64::from(low)).wrapping_sub(tsc);
    match array::<8>(state, slots::PDPTE)? {
        Some([a, b, c, d, e, f, g, h]) => {
            cpu.pdpte =
                [(a, b), (c, d), (e, f), (g, h)].map(|(low, high)| u64::from(high) << 32 | u64::from(low));
        }
        // Old files: the processor loaded them from memory, where they still are as a rule.
        None if cpu.cr0 & cr0::PG != 0 && cpu.cr4 & cr4::PAE != 0 => {
            let _ = paging::load_pdptes(cpu, mem, cpu.cr3);
        }
        None => {}
    }
    cpu.int_shadow = extra.int_shadow;
    cpu.debug_shadow = extra.debug_shadow;
    cpu.nmi_blocked = extra.nmi_blocked;
    cpu.debug_hits = extra.debug_hits;
    debug_regs::update_armed(cpu);
    cpu.update_alignment_check();
    Ok(())
}

/// Without these there is no CPU.
const NEEDED: [usize; 7] = [
    slots::SEGMENT_NULL_AND_ACCESS,
    slots::SEGMENT_BASES,
    slots::SEGMENT_LIMITS,
    slots::CR,
    slots::LINEAR_EIP,
    slots::GPR,
    slots::SELECTORS,
];

#[derive(Default)]
struct Extra {
    attrs: Option<[u16; SEGMENTS]>,
    int_shadow: bool,
    debug_shadow: bool,
    nmi_blocked: bool,
    debug_hits: u8,
    fpu_status: Option<u16>,
    mxcsr: Option<u32>,
}

impl Extra {
    fn read(value: &mut Value) -> Result<Self, FieldError> {
        let Some(mut fields) = Fields::of(value)? else { return Ok(Self::default()) };
        if fields.i64(0)? != Some(EXTRA_VERSION) {
            return Err(FieldError::at(0, "unknown version"));
        }
        let attrs = fields.array(1, |attrs| {
            let mut all = [0; SEGMENTS];
            for (n, to) in all.iter_mut().enumerate() {
                *to = attrs.u16(n)?.unwrap_or(0);
            }
            Ok(all)
        })?;
        /// Breakpoints 3:0 and the bits for single step and task switch.
        const DEBUG_HITS: u8 = 0x0F | debug_regs::PENDING_STEP | debug_regs::PENDING_TASK;
        Ok(Self {
            attrs,
            int_shadow: fields.bool(2)?.unwrap_or(false),
            debug_shadow: fields.bool(3)?.unwrap_or(false),
            nmi_blocked: fields.bool(4)?.unwrap_or(false),
            debug_hits: fields.u8(5)?.unwrap_or(0) & DEBUG_HITS,
            fpu_status: fields.u16(6)?,
            mxcsr: fields.u32(7)?,
        })
    }
}

/// Reads one slot through `f` as if it were the only field of an array.
fn slot<T>(
    state: &mut State,
    slot: usize,
    f: impl FnOnce(&mut Fields<'_>) -> Result<T, FieldError>,
) -> Result<T, SnapshotError> {
    let mut alone = Value::Array(vec![state.take(slot)]);
    let read = match Fields::of(&mut alone) {
        Ok(Some(mut fields)) => f(&mut fields),
        _ => Err(FieldError::here("missing")),
    };
    read.map_err(|mut error| {
        // The position in the array made here means nothing.
        if !error.path.is_empty() {
            error.path.remove(0);
        }
        state.error(slot, error)
    })
}

fn u32_of(state: &mut State, index: usize) -> Result<u32, SnapshotError> {
    Ok(slot(state, index, |f| f.u32(0))?.unwrap_or(0))
}

fn array<const N: usize>(state: &mut State, index: usize) -> Result<Option<[u32; N]>, SnapshotError> {
    slot(state, index, |f| f.u32s::<N>(0))
}

fn control(cpu: &mut CpuState, state: &mut State) -> Result<(), SnapshotError> {
    let [cr0, _, cr2, cr3, cr4, ..] = array::<8>(state, slots::CR)?.unwrap_or_default();
    if cr0 & (cr0::PG | cr0::PE) == cr0::PG {
        return Err(state.error(slots::CR, FieldError::here("CR0 has paging without protected mode")));
    }
    cpu.cr0 = (cr0 & crate::cpu::control::CR0_BITS) | cr0::ET;
    cpu.cr2 = cr2;
    cpu.cr3 = cr3;
    cpu.cr4 = cr4 & !crate::cpu::control::CR4_RESERVED;
    let table = |state: &mut State, base, limit| -> Result<TableReg, SnapshotError> {
        Ok(TableReg { base: u32_of(state, base)?, limit: u32_of(state, limit)? as u16 })
    };
    cpu.gdtr = table(state, slots::GDTR_BASE, slots::GDTR_LIMIT)?;
    cpu.idtr = table(state, slots::IDTR_BASE, slots::IDTR_LIMIT)?;
    if !cpu.protected() && cpu.idtr.limit == 0 {
        // v86 does not look at it in real mode and has 0 there after power-up.
        cpu.idtr.limit = 0xFFFF;
    }
    cpu.sysenter_cs = u32_of(state, slots::SYSENTER_CS)?;
    cpu.sysenter_eip = u32_of(state, slots::SYSENTER_EIP)?;
    cpu.sysenter_esp = u32_of(state, slots::SYSENTER_ESP)?;
    if let Some(dr) = array::<8>(state, slots::DR)? {
        cpu.dr = dr;
        cpu.dr[6] = (dr[6] & 0xE00F) | 0xFFFF_0FF0;
        cpu.dr[7] = (dr[7] & 0xFFFF_2BFF) | 0x400;
    }
    cpu.halted = u32_of(state, slots::HALTED)? != 0;
    Ok(())
}

fn registers(cpu: &mut CpuState, state: &mut State) -> Result<(), SnapshotError> {
    let gpr = array::<8>(state, slots::GPR)?.unwrap_or_default();
    for (to, from) in cpu.gpr.iter_mut().zip(gpr) {
        *to = from;
    }
    let lazy = Lazy {
        flags: u32_of(state, slots::EFLAGS)?,
        changed: u32_of(state, slots::FLAGS_CHANGED)?,
        op1: u32_of(state, slots::LAST_OP1)?,
        size: u32_of(state, slots::LAST_OP_SIZE)?,
        // A number in files written by other tools.
        result: match state.get(slots::LAST_RESULT) {
            Value::Typed(_) => array::<1>(state, slots::LAST_RESULT)?.map_or(0, |[r]| r),
            _ => u32_of(state, slots::LAST_RESULT)?,
        },
    };
    cpu.set_eflags(lazy.resolve());
    if cpu.eflags & flags::VM != 0 && !cpu.protected() {
        cpu.eflags &= !flags::VM;
    }
    let cpl = u32_of(state, slots::CPL)? as u8 & 3;
    cpu.cpl = match (cpu.protected(), cpu.vm86()) {
        (false, _) => 0,
        (true, true) => 3,
        (true, false) => cpl,
    };
    Ok(())
}

/// v86's arithmetic flags: the operands of the last operation instead of the flags it set.
struct Lazy {
    flags: u32,
    /// Flags that have to be computed; bit 31 = the operation was a subtraction.
    changed: u32,
    op1: u32,
    /// Number of the operand's highest bit.
    size: u32,
    result: u32,
}

impl Lazy {
    fn resolve(&self) -> u32 {
        let (a, r) = (self.op1, self.result);
        let subtraction = self.changed >> 31 != 0;
        let b = if subtraction { a.wrapping_sub(r) } else { r.wrapping_sub(a) };
        let sign = |v: u32| v >> (self.size & 31) & 1 != 0;
        let overflow = if subtraction { (a ^ r) & (a ^ b) } else { (a ^ r) & (b ^ r) };
        let computed = [
            (flags::CF, if subtraction { r > a } else { r < a }),
            (flags::PF, (r as u8).count_ones().is_multiple_of(2)),
            (flags::AF, (a ^ b ^ r) & 0x10 != 0),
            (flags::ZF, r == 0),
            (flags::SF, sign(r)),
            (flags::OF, sign(overflow)),
        ];
        let mut all = self.flags;
        for (bit, set) in computed {
            if self.changed & bit != 0 {
                all = if set { all | bit } else { all & !bit };
            }
        }
        all
    }
}

fn segment_registers(cpu: &mut CpuState, state: &mut State, extra: &Extra) -> Result<(), SnapshotError> {
    let (null, access) = slot(state, slots::SEGMENT_NULL_AND_ACCESS, |f| {
        let bytes = f.bytes_up_to(0, 16)?.unwrap_or_default();
        match (bytes.first_chunk::<8>(), bytes.get(8..).and_then(|rest| rest.first_chunk::<8>())) {
            (Some(null), Some(access)) => Ok((*null, *access)),
            // Before 2024-02.
            (Some(null), None) if bytes.len() == 8 => {
                Ok((*null, [0xF2, 0xFA, 0xF2, 0xF2, 0xF2, 0xF2, 0x8B, 0x82]))
            }
            _ => Err(FieldError::at(0, format!("{} bytes instead of 16", bytes.len()))),
        }
    })?;
    let bases = array::<8>(state, slots::SEGMENT_BASES)?.unwrap_or_default();
    let limits = array::<8>(state, slots::SEGMENT_LIMITS)?.unwrap_or_default();
    let selectors = slot(state, slots::SELECTORS, |f| f.u16s::<8>(0))?.unwrap_or_default();
    let code32 = u32_of(state, slots::CODE32)? != 0;
    let stack32 = u32_of(state, slots::STACK32)? != 0;
    let tss32 = u32_of(state, slots::TSS32)? != 0;
    let saved = |n: usize| Segment { base: bases[n], limit: limits[n], selector: selectors[n], attr: 0 };

    for n in 0..cpu.seg.len() {
        let mut s = saved(n);
        if let Some(attrs) = extra.attrs {
            s.attr = attrs[n] & !0x0F00;
        } else if cpu.vm86() {
            s = Segment::real(s.selector, 3);
        } else if !cpu.protected() {
            // v86 neither loads nor checks limits in real mode.
            s.limit = s.limit.max(0xFFFF);
            s.attr = if n == seg::CS { 0x9B } else { 0x93 };
        } else if null[n] != 0 && n != seg::CS {
            s = Segment::null(s.selector);
        } else {
            s.attr = derived_attr(n, access[n], s.limit, cpu.cpl);
        }
        let big = |on: bool| if on { attr::DB } else { 0 };
        match n {
            seg::CS => s.attr = s.attr & !attr::DB | big(code32),
            seg::SS if s.attr != 0 => s.attr = s.attr & !attr::DB | big(stack32),
            _ => {}
        }
        cpu.set_segment(n, s);
    }
    let mut tr = saved(TR);
    tr.attr = extra.attrs.map_or(if tss32 { 0x8B } else { 0x83 }, |attrs| attrs[TR] & !0x0F00);
    cpu.tr = tr;
    let mut ldtr = saved(LDTR);
    ldtr.attr = match extra.attrs {
        Some(attrs) => attrs[LDTR] & !0x0F00,
        None if ldtr.limit == 0 => 0,
        None => 0x82,
    };
    cpu.ldtr = ldtr;
    Ok(())
}

/// Attributes of a segment loaded in protected mode. v86 keeps the access byte only, and one from before
/// the switch to protected mode may be nonsense: then what lets the guest run on.
fn derived_attr(n: usize, access: u8, limit: u32, cpl: u8) -> u16 {
    let access = u16::from(access) | attr::ACCESSED;
    let present = access & (attr::P | attr::S) == attr::P | attr::S;
    let code = access & attr::CODE != 0;
    let mut a = match n {
        seg::CS if !present || !code => 0x9B,
        seg::SS if !present || code || access & attr::RW == 0 => 0x93,
        _ if !present => 0xF3,
        _ => access,
    };
    if matches!(n, seg::CS | seg::SS) && a & attr::DC == 0 {
        // DPL of the stack, and of code that is not conforming, is CPL.
        a = a & !0x60 | u16::from(cpl) << 5;
    }
    const BYTE_LIMIT: u32 = 0xF_FFFF;
    if limit > BYTE_LIMIT {
        a |= attr::G;
    }
    if !matches!(n, seg::CS | seg::SS) && limit > 0xFFFF {
        a |= attr::DB;
    }
    a
}

fn fpu_and_sse(cpu: &mut CpuState, state: &mut State, extra: &Extra) -> Result<(), SnapshotError> {
    if let Some(xmm) = slot(state, slots::XMM, |f| f.u32s::<32>(0))? {
        for (to, from) in cpu.xmm.iter_mut().zip(xmm.chunks_exact(4)) {
            *to = from.iter().rev().fold(0, |v, part| v << 32 | u128::from(*part));
        }
    }
    if let Some(cells) = slot(state, slots::FPU_REGS, |f| f.u32s::<32>(0))? {
        for (to, from) in cpu.x87.regs.iter_mut().zip(cells.chunks_exact(4)) {
            if let &[low, high, top, _] = from {
                let significand = u64::from(high) << 32 | u64::from(low);
                *to = X87Reg { significand, sign_exponent: top as u16, pad: [0; 3] };
            }
        }
    }
    let mut number = |index: usize| slot(state, index, |f| f.u32(0));
    let x87 = &mut cpu.x87;
    x87.valid = !(number(slots::FPU_EMPTY)?.unwrap_or(0xFF) as u8);
    x87.top = number(slots::FPU_TOP)?.unwrap_or(0) as u8 & 7;
    x87.control = number(slots::FPU_CONTROL)?.unwrap_or(0x37F) as u16 & 0x1F3F | 0x40;
    x87.ip = number(slots::FPU_IP)?.unwrap_or(0);
    x87.cs = number(slots::FPU_CS)?.unwrap_or(0) as u16;
    x87.dp = number(slots::FPU_DP)?.unwrap_or(0);
    x87.ds = number(slots::FPU_DS)?.unwrap_or(0) as u16;
    x87.opcode = number(slots::FPU_OPCODE)?.unwrap_or(0) as u16 & 0x7FF;
    // v86 saves numbers of one element each, and loses them when it restores.
    let status = match state.get(slots::FPU_STATUS) {
        Value::Typed(_) => slot(state, slots::FPU_STATUS, |f| f.u16s::<1>(0))?.map(|[v]| v),
        _ => slot(state, slots::FPU_STATUS, |f| f.u16(0))?,
    };
    let mxcsr = match state.get(slots::MXCSR) {
        Value::Typed(_) => array::<1>(state, slots::MXCSR)?.map(|[v]| v),
        _ => slot(state, slots::MXCSR, |f| f.u32(0))?,
    };
    cpu.x87.status = extra.fpu_status.or(status).unwrap_or(0) & !STATUS_TOP;
    cpu.mxcsr = extra.mxcsr.or(mxcsr).unwrap_or(0x1F80) & 0xFFFF;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lazy(changed: u32, op1: u32, result: u32, size: u32) -> u32 {
        Lazy { flags: 2, changed, op1, size, result }.resolve() & flags::ARITH
    }

    #[test]
    fn lazy_flags_of_v86_are_resolved() {
        const ALL: u32 = flags::ARITH;
        // add al: F0 + 20 = 10 with carry
        assert_eq!(lazy(ALL, 0xF0, 0x10, 7), flags::CF);
        // add: 7FFFFFFF + 1
        assert_eq!(lazy(ALL, 0x7FFF_FFFF, 0x8000_0000, 31), flags::OF | flags::SF | flags::PF | flags::AF);
        // sub: 5 - 5
        assert_eq!(lazy(ALL | 1 << 31, 5, 0, 31), flags::ZF | flags::PF);
        // cmp: 0 - 1
        let borrow = flags::CF | flags::SF | flags::PF | flags::AF;
        assert_eq!(lazy(ALL | 1 << 31, 0, u32::MAX, 31), borrow);
        // inc keeps CF
        let inc = Lazy { flags: 3, changed: 0x8D4, op1: 0xFFFF_FFFF, size: 31, result: 0 };
        assert_eq!(inc.resolve() & ALL, flags::CF | flags::ZF | flags::PF | flags::AF);
        // mul marks SF, ZF and PF only
        let mul = Lazy { flags: 0x803, changed: 196, op1: 0, size: 31, result: 0x8000_0001 };
        assert_eq!(mul.resolve() & ALL, flags::CF | flags::OF | flags::SF);
        assert_eq!(Lazy { flags: 0x246, changed: 0, op1: 7, size: 0, result: 9 }.resolve(), 0x246);
    }

    fn busy() -> CpuState {
        let mut cpu = CpuState::new();
        cpu.cr0 |= cr0::PE;
        cpu.set_eflags(0x8D7 | flags::IF | flags::TF);
        for n in 0..8 {
            cpu.gpr[n] = 0x1111_1111 * n as u32;
            cpu.xmm[n] = (n as u128) << 100 | 7;
            cpu.x87.regs[n] = X87Reg { significand: 1 << 63 | n as u64, sign_exponent: 0x4000, pad: [0; 3] };
        }
        let flat = |selector, attr| Segment { base: 0, limit: u32::MAX, selector, attr };
        cpu.cpl = 3;
        cpu.set_segment(seg::CS, Segment { base: 0x1000, ..flat(0x73, 0xC0FB) });
        cpu.set_segment(seg::SS, flat(0x7B, 0xC0F3));
        cpu.set_segment(seg::DS, flat(0x7B, 0xC0F3));
        cpu.set_segment(seg::ES, Segment { limit: 0xFFF, ..flat(0x33, 0x40F7) });
        cpu.set_segment(seg::FS, Segment::null(0));
        cpu.set_segment(seg::GS, Segment::null(3));
        cpu.tr = Segment { base: 0x5000, limit: 0x67, selector: 0x80, attr: 0x8B };
        cpu.ldtr = Segment { base: 0x6000, limit: 0xF, selector: 0x88, attr: 0x82 };
        cpu.eip = 0x2345;
        cpu.cr2 = 0xDEAD_BEEF;
        cpu.cr4 = cr4::OSFXSR | cr4::PSE;
        cpu.dr[0] = 0x1234;
        cpu.dr[7] |= 1;
        cpu.x87.status = 0x4123;
        cpu.x87.top = 5;
        cpu.x87.valid = 0b1010_0101;
        cpu.x87.control = 0x27F;
        cpu.mxcsr = 0x1FA0;
        cpu.halted = true;
        cpu.int_shadow = true;
        cpu.nmi_blocked = true;
        cpu.pdpte = [1, 2, 3, 0xF_0000_0001];
        cpu
    }

    fn round_trip(with_extra: bool) -> CpuState {
        let cpu = busy();
        let mut state = State::new();
        save(&cpu, 1000, &mut state);
        let extra = if with_extra { extra(&cpu) } else { Value::Null };
        let mut back = CpuState::new();
        restore(&mut back, &Memory::new(1 << 20).unwrap(), 400, &mut state, extra).unwrap();
        assert_eq!(back.tsc_offset, 600);
        back
    }

    #[test]
    fn cpu_saved_by_us_is_restored_exactly() {
        let (cpu, back) = (busy(), round_trip(true));
        assert_eq!(back.seg, cpu.seg);
        assert_eq!((back.tr, back.ldtr), (cpu.tr, cpu.ldtr));
        assert_eq!((back.gpr, back.eip, back.eflags(), back.cpl), (cpu.gpr, cpu.eip, cpu.eflags(), 3));
        assert_eq!((back.xmm, back.x87, back.mxcsr), (cpu.xmm, cpu.x87, cpu.mxcsr));
        assert_eq!((back.cr0, back.cr2, back.cr4, back.dr), (cpu.cr0, cpu.cr2, cpu.cr4, cpu.dr));
        assert_eq!(back.pdpte, cpu.pdpte);
        assert_eq!((back.mode, back.flat_read, back.flat_write), (cpu.mode, cpu.flat_read, cpu.flat_write));
        assert!(back.halted && back.int_shadow && back.nmi_blocked && back.debug_armed);
        let mut again = State::new();
        let mut first = State::new();
        save(&cpu, 1000, &mut first);
        save(&back, 1000, &mut again);
        assert_eq!(first.slots(), again.slots());
    }

    #[test]
    fn cpu_without_our_own_state_gets_what_v86_keeps() {
        let (cpu, back) = (busy(), round_trip(false));
        assert_eq!(back.seg[seg::CS], cpu.seg[seg::CS]);
        assert_eq!(back.seg[seg::SS], cpu.seg[seg::SS]);
        assert_eq!(back.seg[seg::GS], Segment::null(3));
        assert_eq!(back.seg[seg::ES].attr, 0xF7, "expand-down stays; D/B of a data segment is unknown");
        assert_eq!((back.x87.status, back.mxcsr), (0x4123, 0x1FA0));
        assert!(!back.int_shadow);
    }

    #[test]
    fn cpu_in_real_mode_gets_limits_v86_never_set() {
        let mut cpu = CpuState::new();
        cpu.set_segment(seg::DS, Segment { limit: 0, ..Segment::real(0x40, 0) });
        cpu.idtr.limit = 0;
        let mut state = State::new();
        save(&cpu, 0, &mut state);
        let mut back = CpuState::new();
        restore(&mut back, &Memory::new(1 << 20).unwrap(), 0, &mut state, Value::Null).unwrap();
        assert_eq!(back.seg[seg::DS], Segment::real(0x40, 0));
        assert_eq!(back.idtr.limit, 0xFFFF);
        assert_eq!(back.eip, 0xFFF0);
    }

    #[test]
    fn cpu_slots_of_wrong_type_are_named() {
        for wrong in
            NEEDED.into_iter().chain([slots::EFLAGS, slots::XMM, slots::MXCSR, slots::TSC, slots::DR])
        {
            let mut state = State::new();
            save(&busy(), 0, &mut state);
            state.set(wrong, Value::text("x"));
            let mut cpu = CpuState::new();
            let result = restore(&mut cpu, &Memory::new(1 << 20).unwrap(), 0, &mut state, Value::Null);
            let Err(SnapshotError::Field { slot, .. }) = result else { panic!("slot {wrong}: {result:?}") };
            assert_eq!(slot, wrong);
        }
    }
}
