//! MOVS STOS LODS CMPS SCAS INS OUTS, alone and repeated.
//!
//! A repeated instruction works in *passes*: one pass covers the elements up to the next page
//! boundary of its source or destination, counts as one instruction, and leaves the registers exact,
//! so a fault or an interrupt between passes finds them as after that many iterations. Where passes
//! end depends on addresses only, never on what happens to be cached, so every engine charges alike.

use iced_x86::Mnemonic;

use super::Env;
use super::arith;
use super::io;
use super::operand::Width;
use crate::bus::AccessSize;
use crate::cpu::{CpuState, Exec, Trap, flags, gpr, seg};
use crate::decode::iced::Decoded;
use crate::decode::{ExecFn, Insn};

const ECX: u8 = gpr::ECX as u8;
const ESI: u8 = gpr::ESI as u8;
const EDI: u8 = gpr::EDI as u8;
const ES: u8 = seg::ES as u8;

/// Register in the address size.
#[inline(always)]
fn get(cpu: &CpuState, i: &Insn, r: u8) -> u32 {
    if i.addr16() { u32::from(cpu.r16(r)) } else { cpu.r32(r) }
}

#[inline(always)]
fn set(cpu: &mut CpuState, i: &Insn, r: u8, v: u32) {
    if i.addr16() { cpu.set_r16(r, v as u16) } else { cpu.set_r32(r, v) }
}

/// Moves an index register by `n` elements in the direction of DF.
#[inline(always)]
fn advance<W: Width>(cpu: &mut CpuState, i: &Insn, r: u8, n: u32) {
    let bytes = n.wrapping_mul(W::BYTES);
    let v = get(cpu, i, r);
    let v = if backward(cpu) { v.wrapping_sub(bytes) } else { v.wrapping_add(bytes) };
    set(cpu, i, r, v);
}

#[inline(always)]
fn backward(cpu: &CpuState) -> bool {
    cpu.eflags & flags::DF != 0
}

/// Elements from linear address `lin` up to the page boundary in the direction of DF, at least 1;
/// with 16-bit addresses also up to the wrap of the offset.
#[inline(always)]
fn run_length<W: Width>(cpu: &CpuState, i: &Insn, lin: u32, offset: u32) -> u32 {
    let n = if backward(cpu) { (lin & 0xFFF) / W::BYTES + 1 } else { (0x1000 - (lin & 0xFFF)) / W::BYTES };
    let n = n.max(1);
    if !i.addr16() {
        return n;
    }
    let to_wrap = if backward(cpu) { offset / W::BYTES + 1 } else { (0x1_0000 - offset) / W::BYTES };
    n.min(to_wrap.max(1))
}

#[inline(always)]
fn base(cpu: &CpuState, s: u8) -> u32 {
    cpu.seg[usize::from(s % 6)].base
}

#[inline(always)]
fn repeated(i: &Insn) -> bool {
    i.flags & (Insn::REP | Insn::REPNE) != 0
}

#[inline(always)]
fn is_compare_done(cpu: &CpuState, i: &Insn) -> bool {
    let want_equal = i.flags & Insn::REP != 0;
    cpu.flags.zf() != want_equal
}

/// A string operation on one element.
trait Element {
    const SOURCE: bool;
    const DEST: bool;
    const COMPARES: bool;
    fn one<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec;
    /// Does `n` elements at once, registers not moved; 0 if that is not possible now.
    fn many<W: Width>(_: &mut CpuState, _: &mut Env<'_>, _: &Insn, _n: u32) -> u32 {
        0
    }
}

fn load_source<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec<W> {
    let offset = get(cpu, i, ESI);
    let lin = env.linear_read(cpu, i.seg, offset, W::BYTES)?;
    env.aligned(cpu, lin, W::BYTES)?;
    env.read(cpu, lin)
}

fn load_dest<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec<W> {
    let offset = get(cpu, i, EDI);
    let lin = env.linear_read(cpu, ES, offset, W::BYTES)?;
    env.aligned(cpu, lin, W::BYTES)?;
    env.read(cpu, lin)
}

fn store_dest<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn, v: W) -> Exec {
    let offset = get(cpu, i, EDI);
    let lin = env.linear_write(cpu, ES, offset, W::BYTES)?;
    env.aligned(cpu, lin, W::BYTES)?;
    env.write(cpu, lin, v)
}

struct Movs;
struct Stos;
struct Lods;
struct Cmps;
struct Scas;

impl Element for Movs {
    const SOURCE: bool = true;
    const DEST: bool = true;
    const COMPARES: bool = false;
    #[inline(always)]
    fn one<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
        let v: W = load_source(cpu, env, i)?;
        store_dest(cpu, env, i, v)?;
        advance::<W>(cpu, i, ESI, 1);
        advance::<W>(cpu, i, EDI, 1);
        Ok(())
    }
    fn many<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn, n: u32) -> u32 {
        if backward(cpu) || cpu.alignment_checked {
            return 0;
        }
        let bytes = n * W::BYTES;
        let (Ok(src), Ok(dst)) = (
            env.linear_read(cpu, i.seg, get(cpu, i, ESI), bytes),
            env.linear_write(cpu, ES, get(cpu, i, EDI), bytes),
        ) else {
            return 0;
        };
        if env.mem.fast_copy_forward(src, dst, bytes, W::BYTES) { n } else { 0 }
    }
}

impl Element for Stos {
    const SOURCE: bool = false;
    const DEST: bool = true;
    const COMPARES: bool = false;
    #[inline(always)]
    fn one<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
        let v = W::get(cpu, gpr::EAX as u8);
        store_dest(cpu, env, i, v)?;
        advance::<W>(cpu, i, EDI, 1);
        Ok(())
    }
    fn many<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn, n: u32) -> u32 {
        if backward(cpu) || cpu.alignment_checked {
            return 0;
        }
        let bytes = n * W::BYTES;
        let Ok(dst) = env.linear_write(cpu, ES, get(cpu, i, EDI), bytes) else { return 0 };
        let value = cpu.gpr[gpr::EAX].to_le_bytes();
        let Some(run) = env.mem.fast_write_run(dst).and_then(|run| run.get_mut(..bytes as usize)) else {
            return 0;
        };
        let pattern = &value[..W::BYTES as usize];
        if pattern.iter().all(|b| *b == value[0]) {
            run.fill(value[0]);
        } else {
            for chunk in run.chunks_exact_mut(W::BYTES as usize) {
                chunk.copy_from_slice(pattern);
            }
        }
        n
    }
}

impl Element for Lods {
    const SOURCE: bool = true;
    const DEST: bool = false;
    const COMPARES: bool = false;
    #[inline(always)]
    fn one<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
        let v: W = load_source(cpu, env, i)?;
        W::set(cpu, gpr::EAX as u8, v);
        advance::<W>(cpu, i, ESI, 1);
        Ok(())
    }
}

impl Element for Cmps {
    const SOURCE: bool = true;
    const DEST: bool = true;
    const COMPARES: bool = true;
    #[inline(always)]
    fn one<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
        // Silicon (AMD Zen) reads ES:EDI first: it shows in CR2 when both operands fault.
        let b: W = load_dest(cpu, env, i)?;
        let a: W = load_source(cpu, env, i)?;
        arith::sub(cpu, a, b, 0);
        advance::<W>(cpu, i, ESI, 1);
        advance::<W>(cpu, i, EDI, 1);
        Ok(())
    }
}

impl Element for Scas {
    const SOURCE: bool = false;
    const DEST: bool = true;
    const COMPARES: bool = true;
    #[inline(always)]
    fn one<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
        let b: W = load_dest(cpu, env, i)?;
        let a = W::get(cpu, gpr::EAX as u8);
        arith::sub(cpu, a, b, 0);
        advance::<W>(cpu, i, EDI, 1);
        Ok(())
    }
}

fn string<W: Width, O: Element>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    if !repeated(i) {
        return O::one::<W>(cpu, env, i);
    }
    let mut count = get(cpu, i, ECX);
    if count == 0 {
        return Ok(());
    }
    let mut n = count;
    if O::SOURCE {
        let offset = get(cpu, i, ESI);
        n = n.min(run_length::<W>(cpu, i, base(cpu, i.seg).wrapping_add(offset), offset));
    }
    if O::DEST {
        let offset = get(cpu, i, EDI);
        n = n.min(run_length::<W>(cpu, i, base(cpu, ES).wrapping_add(offset), offset));
    }
    // Single-step traps after each iteration.
    if cpu.eflags & flags::TF != 0 {
        n = 1;
    }
    env.touched_device = false;
    while n > 0 {
        let done = O::many::<W>(cpu, env, i, n);
        if done > 0 {
            if O::SOURCE {
                advance::<W>(cpu, i, ESI, done);
            }
            if O::DEST {
                advance::<W>(cpu, i, EDI, done);
            }
            count -= done;
            n -= done;
            set(cpu, i, ECX, count);
            continue;
        }
        O::one::<W>(cpu, env, i)?;
        count -= 1;
        n -= 1;
        set(cpu, i, ECX, count);
        if O::COMPARES && is_compare_done(cpu, i) {
            return Ok(());
        }
        // A device was touched or a breakpoint hit: let the run loop look. Code that was overwritten can
        // wait: whether it was decoded at all must not decide where a pass ends.
        if env.touched_device || cpu.debug_hits != 0 {
            break;
        }
    }
    if count == 0 { Ok(()) } else { Err(Trap::RESTART) }
}

fn access_size<W: Width>() -> AccessSize {
    match W::BYTES {
        1 => AccessSize::Byte,
        2 => AccessSize::Word,
        _ => AccessSize::Dword,
    }
}

fn ins_one<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn, port: u16) -> Exec {
    // The destination is checked before the port is read: reading may have side effects.
    let lin = env.linear_write(cpu, ES, get(cpu, i, EDI), W::BYTES)?;
    env.aligned(cpu, lin, W::BYTES)?;
    env.probe_write(cpu, lin, W::BYTES)?;
    let v = io::port_in(cpu, env, port, access_size::<W>());
    env.write(cpu, lin, W::trunc(v))?;
    advance::<W>(cpu, i, EDI, 1);
    Ok(())
}

/// Single-step and I/O breakpoints trap after each iteration.
fn is_debugged(cpu: &CpuState) -> bool {
    cpu.debug_armed || cpu.eflags & flags::TF != 0
}

/// Elements transferred by one bulk call, at most.
const BULK_BYTES: usize = 512;

fn ins<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let port = cpu.r16(gpr::EDX as u8);
    io::check_io(cpu, env, port, W::BYTES)?;
    env.end_block();
    if !repeated(i) {
        return ins_one::<W>(cpu, env, i, port);
    }
    let count = get(cpu, i, ECX);
    if count == 0 {
        return Ok(());
    }
    let offset = get(cpu, i, EDI);
    let n = count.min(run_length::<W>(cpu, i, base(cpu, ES).wrapping_add(offset), offset));
    let n = if is_debugged(cpu) { 1 } else { n.min(BULK_BYTES as u32 / W::BYTES) };
    let mut done = 0;
    if !backward(cpu) && n > 1 {
        let lin = env.linear_write(cpu, ES, offset, n * W::BYTES);
        if let Ok(lin) = lin {
            env.probe_write(cpu, lin, n * W::BYTES)?;
            let mut buffer = [0u8; BULK_BYTES];
            let cx = env.context(cpu);
            let out = &mut buffer[..(n * W::BYTES) as usize];
            done = env.sys.port_in_block(env.mem, cx, port, access_size::<W>(), out) as u32;
            done = done.min(n);
            for (k, b) in buffer[..(done * W::BYTES) as usize].iter().enumerate() {
                env.write(cpu, lin.wrapping_add(k as u32), *b)?;
            }
            advance::<W>(cpu, i, EDI, done);
        }
    }
    if done == 0 {
        ins_one::<W>(cpu, env, i, port)?;
        done = 1;
    }
    env.end_block();
    set(cpu, i, ECX, count - done);
    if count == done { Ok(()) } else { Err(Trap::RESTART) }
}

fn outs_one<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn, port: u16) -> Exec {
    let v: W = load_source(cpu, env, i)?;
    io::port_out(cpu, env, port, access_size::<W>(), v.zext());
    advance::<W>(cpu, i, ESI, 1);
    Ok(())
}

fn outs<W: Width>(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    let port = cpu.r16(gpr::EDX as u8);
    io::check_io(cpu, env, port, W::BYTES)?;
    env.end_block();
    if !repeated(i) {
        return outs_one::<W>(cpu, env, i, port);
    }
    let count = get(cpu, i, ECX);
    if count == 0 {
        return Ok(());
    }
    let offset = get(cpu, i, ESI);
    let n = count.min(run_length::<W>(cpu, i, base(cpu, i.seg).wrapping_add(offset), offset));
    let n = if is_debugged(cpu) { 1 } else { n.min(BULK_BYTES as u32 / W::BYTES) };
    let mut done = 0;
    if !backward(cpu)
        && n > 1
        && let Ok(lin) = env.linear_read(cpu, i.seg, offset, n * W::BYTES)
    {
        let mut buffer = [0u8; BULK_BYTES];
        let data = &mut buffer[..(n * W::BYTES) as usize];
        for (k, b) in data.iter_mut().enumerate() {
            *b = env.read(cpu, lin.wrapping_add(k as u32))?;
        }
        let cx = env.context(cpu);
        done = env.sys.port_out_block(env.mem, cx, port, access_size::<W>(), data) as u32;
        done = done.min(n);
        advance::<W>(cpu, i, ESI, done);
    }
    if done == 0 {
        outs_one::<W>(cpu, env, i, port)?;
        done = 1;
    }
    env.end_block();
    set(cpu, i, ECX, count - done);
    if count == done { Ok(()) } else { Err(Trap::RESTART) }
}

/// Dispatch rows of the memory-only string instructions.
pub(super) fn select(d: &Decoded<'_>) -> Option<ExecFn> {
    let vector = d.ins.op_register(0).is_xmm() || d.ins.op_register(1).is_xmm();
    Some(match d.mnemonic {
        Mnemonic::Movsb => string::<u8, Movs>,
        Mnemonic::Movsw => string::<u16, Movs>,
        Mnemonic::Movsd if !vector => string::<u32, Movs>,
        Mnemonic::Stosb => string::<u8, Stos>,
        Mnemonic::Stosw => string::<u16, Stos>,
        Mnemonic::Stosd => string::<u32, Stos>,
        Mnemonic::Lodsb => string::<u8, Lods>,
        Mnemonic::Lodsw => string::<u16, Lods>,
        Mnemonic::Lodsd => string::<u32, Lods>,
        Mnemonic::Cmpsb => string::<u8, Cmps>,
        Mnemonic::Cmpsw => string::<u16, Cmps>,
        Mnemonic::Cmpsd if d.ins.is_string_instruction() => string::<u32, Cmps>,
        Mnemonic::Scasb => string::<u8, Scas>,
        Mnemonic::Scasw => string::<u16, Scas>,
        Mnemonic::Scasd => string::<u32, Scas>,
        _ => return None,
    })
}

/// Dispatch rows of INS and OUTS: they look at ports, so they end their block.
pub(super) fn select_io(d: &Decoded<'_>) -> Option<ExecFn> {
    Some(match d.mnemonic {
        Mnemonic::Insb => ins::<u8>,
        Mnemonic::Insw => ins::<u16>,
        Mnemonic::Insd => ins::<u32>,
        Mnemonic::Outsb => outs::<u8>,
        Mnemonic::Outsw => outs::<u16>,
        Mnemonic::Outsd => outs::<u32>,
        _ => return None,
    })
}
