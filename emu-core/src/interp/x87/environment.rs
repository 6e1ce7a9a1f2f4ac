//! FSTENV FLDENV FSAVE FRSTOR in their four layouts, FXSAVE and FXRSTOR.
//!
//! An image is built, or read, as a whole, so that a fault in its middle changes nothing: writes check
//! the whole operand first, and loading starts when all bytes are there.

use iced_x86::Code;

use super::control::initialise;
use super::{EXCEPTIONS, available, begin, release_ferr};
use crate::cpu::state::{X87, X87Reg};
use crate::cpu::{CpuState, Exec, Trap};
use crate::decode::iced::Decoded;
use crate::decode::{ExecFn, Insn};
use crate::interp::Env;

/// Bytes of the eight registers behind an environment.
const REGISTERS: usize = 80;
/// Bytes of an FXSAVE image.
const FX_IMAGE: u32 = 512;
/// Where the SSE registers lie in it.
const FX_XMM: usize = 160;
/// Its end as far as it is written: the rest is reserved or the software's.
const FX_WRITTEN: usize = FX_XMM + 8 * 16;
/// MXCSR_MASK: the bits of MXCSR that exist.
const MXCSR_MASK: u32 = 0xFFFF;

/// Layout of an environment (SDM vol. 1, figures 8-9 to 8-12).
#[derive(Clone, Copy)]
enum Layout {
    Protected16,
    Protected32,
    /// Real mode and VM86.
    Real16,
    /// Real mode and VM86.
    Real32,
}

impl Layout {
    fn of(cpu: &CpuState, i: &Insn) -> Self {
        match (cpu.real_or_vm86(), i.op16()) {
            (false, true) => Self::Protected16,
            (false, false) => Self::Protected32,
            (true, true) => Self::Real16,
            (true, false) => Self::Real32,
        }
    }

    /// Bytes of the environment: seven fields.
    fn len(self) -> usize {
        match self {
            Self::Protected16 | Self::Real16 => 14,
            Self::Protected32 | Self::Real32 => 28,
        }
    }

    /// What the alignment check demands.
    fn alignment(self) -> u32 {
        self.len() as u32 / 7
    }

    /// The seven fields: control, status, tags, four of pointers.
    fn fields(self, x87: &X87) -> [u32; 7] {
        // Fields of 16 bits in 32-bit layouts are filled up with ones.
        let word = |v: u16| 0xFFFF_0000 | u32::from(v);
        let (ip, dp) = (x87.ip, x87.dp);
        let opcode = u32::from(x87.opcode & 0x7FF);
        // Real mode knows only linear addresses.
        let ip_linear = (u32::from(x87.cs) << 4).wrapping_add(ip);
        let dp_linear = (u32::from(x87.ds) << 4).wrapping_add(dp);
        let pointers = match self {
            Self::Protected16 => [ip, u32::from(x87.cs), dp, u32::from(x87.ds)],
            Self::Protected32 => [ip, opcode << 16 | u32::from(x87.cs), dp, word(x87.ds)],
            Self::Real16 => [ip_linear, ip_linear >> 4 & 0xF000 | opcode, dp_linear, dp_linear >> 4 & 0xF000],
            Self::Real32 => [
                word(ip_linear as u16),
                ip_linear >> 4 & 0x0FFF_F000 | opcode,
                word(dp_linear as u16),
                dp_linear >> 4 & 0x0FFF_F000,
            ],
        };
        let [a, b, c, d] = pointers;
        [word(x87.control), word(x87.status_word()), word(x87.tag_word()), a, b, c, d]
    }

    /// Loads the unit from the fields.
    fn load(self, fields: [u32; 7], x87: &mut X87) {
        let [control, status, tags, a, b, c, d] = fields;
        x87.set_control_word(control as u16);
        x87.set_status_word(status as u16);
        x87.set_tag_word(tags as u16);
        match self {
            Self::Protected16 | Self::Protected32 => {
                x87.ip = a;
                x87.cs = b as u16;
                x87.dp = c;
                x87.ds = d as u16;
                // The 16-bit layout has no opcode.
                x87.opcode = (b >> 16 & 0x7FF) as u16;
            }
            Self::Real16 | Self::Real32 => {
                x87.ip = a & 0xFFFF | (b & 0x0FFF_F000) << 4;
                x87.cs = 0;
                x87.dp = c & 0xFFFF | (d & 0x0FFF_F000) << 4;
                x87.ds = 0;
                x87.opcode = (b & 0x7FF) as u16;
            }
        }
    }

    /// Writes the fields to the start of an image.
    fn put(self, x87: &X87, image: &mut [u8]) {
        let size = self.len() / 7;
        for (field, out) in self.fields(x87).iter().zip(image.chunks_exact_mut(size)) {
            out.copy_from_slice(&field.to_le_bytes()[..size]);
        }
    }

    /// Reads the fields from the start of an image.
    fn get(self, image: &[u8]) -> [u32; 7] {
        let size = self.len() / 7;
        let mut fields = [0; 7];
        for (field, bytes) in fields.iter_mut().zip(image.chunks_exact(size)) {
            let mut wide = [0; 4];
            wide[..size].copy_from_slice(bytes);
            *field = u32::from_le_bytes(wide);
        }
        fields
    }
}

/// Writes `image` (of even length, at most a page) to the memory operand, or faults without effect.
fn write_image(cpu: &mut CpuState, env: &mut Env<'_>, lin: u32, image: &[u8]) -> Exec {
    env.probe_write(cpu, lin, image.len() as u32)?;
    let mut at = lin;
    let (dwords, rest) = image.as_chunks::<4>();
    for bytes in dwords {
        env.write(cpu, at, u32::from_le_bytes(*bytes))?;
        at = at.wrapping_add(4);
    }
    for bytes in rest.as_chunks::<2>().0 {
        env.write(cpu, at, u16::from_le_bytes(*bytes))?;
        at = at.wrapping_add(2);
    }
    Ok(())
}

/// Reads `image` (of even length) from the memory operand.
fn read_image(cpu: &mut CpuState, env: &mut Env<'_>, lin: u32, image: &mut [u8]) -> Exec {
    let mut at = lin;
    let (dwords, rest) = image.as_chunks_mut::<4>();
    for bytes in dwords {
        *bytes = env.read::<u32>(cpu, at)?.to_le_bytes();
        at = at.wrapping_add(4);
    }
    for bytes in rest.as_chunks_mut::<2>().0 {
        *bytes = env.read::<u16>(cpu, at)?.to_le_bytes();
        at = at.wrapping_add(2);
    }
    Ok(())
}

fn register_bytes(reg: &X87Reg) -> [u8; 10] {
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&reg.significand.to_le_bytes());
    bytes[8..].copy_from_slice(&reg.sign_exponent.to_le_bytes());
    bytes
}

fn register_from(bytes: &[u8; 10]) -> X87Reg {
    let [a, b, c, d, e, f, g, h, i, j] = *bytes;
    X87Reg {
        significand: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        sign_exponent: u16::from_le_bytes([i, j]),
        pad: [0; 3],
    }
}

/// FNSTENV: all exceptions are masked afterwards.
fn fnstenv(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    available(cpu)?;
    let layout = Layout::of(cpu, i);
    let lin = env.linear_write(cpu, i.seg, i.ea(cpu), layout.len() as u32)?;
    env.aligned(cpu, lin, layout.alignment())?;
    let mut image = [0; 28];
    let image = &mut image[..layout.len()];
    layout.put(&cpu.x87, image);
    write_image(cpu, env, lin, image)?;
    let was_pending = cpu.x87.is_pending();
    cpu.x87.control |= EXCEPTIONS;
    release_ferr(cpu, env, was_pending);
    Ok(())
}

fn fldenv(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    let layout = Layout::of(cpu, i);
    let lin = env.linear_read(cpu, i.seg, i.ea(cpu), layout.len() as u32)?;
    env.aligned(cpu, lin, layout.alignment())?;
    let mut image = [0; 28];
    let image = &mut image[..layout.len()];
    read_image(cpu, env, lin, image)?;
    let was_pending = cpu.x87.is_pending();
    layout.load(layout.get(image), &mut cpu.x87);
    release_ferr(cpu, env, was_pending);
    Ok(())
}

/// FNSAVE: environment and registers from ST(0) on; the unit is initialised afterwards.
fn fnsave(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    available(cpu)?;
    let layout = Layout::of(cpu, i);
    let len = layout.len() + REGISTERS;
    let lin = env.linear_write(cpu, i.seg, i.ea(cpu), len as u32)?;
    env.aligned(cpu, lin, layout.alignment())?;
    let mut image = [0; 28 + REGISTERS];
    let image = &mut image[..len];
    let (head, registers) = image.split_at_mut(layout.len());
    layout.put(&cpu.x87, head);
    for (n, out) in registers.as_chunks_mut::<10>().0.iter_mut().enumerate() {
        *out = register_bytes(&cpu.x87.regs[cpu.x87.physical(n as u8)]);
    }
    write_image(cpu, env, lin, image)?;
    let was_pending = cpu.x87.is_pending();
    initialise(&mut cpu.x87);
    release_ferr(cpu, env, was_pending);
    Ok(())
}

fn frstor(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    begin(cpu, env)?;
    let layout = Layout::of(cpu, i);
    let len = layout.len() + REGISTERS;
    let lin = env.linear_read(cpu, i.seg, i.ea(cpu), len as u32)?;
    env.aligned(cpu, lin, layout.alignment())?;
    let mut image = [0; 28 + REGISTERS];
    let image = &mut image[..len];
    read_image(cpu, env, lin, image)?;
    let was_pending = cpu.x87.is_pending();
    let (head, registers) = image.split_at(layout.len());
    layout.load(layout.get(head), &mut cpu.x87);
    for (n, bytes) in registers.as_chunks::<10>().0.iter().enumerate() {
        let at = cpu.x87.physical(n as u8);
        cpu.x87.regs[at] = register_from(bytes);
    }
    release_ferr(cpu, env, was_pending);
    Ok(())
}

/// #GP for an FXSAVE image that is not aligned to 16 bytes.
fn check_fx_alignment(lin: u32) -> Exec {
    if lin & 15 != 0 { Err(Trap::GP0) } else { Ok(()) }
}

/// FXSAVE. The SSE part is stored whether CR4.OSFXSR is set or not.
fn fxsave(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    available(cpu)?;
    let lin = env.linear_write(cpu, i.seg, i.ea(cpu), FX_IMAGE)?;
    check_fx_alignment(lin)?;
    env.probe_write(cpu, lin, FX_IMAGE)?;
    let mut image = [0u8; FX_WRITTEN];
    let x87 = &cpu.x87;
    image[0..2].copy_from_slice(&x87.control.to_le_bytes());
    image[2..4].copy_from_slice(&x87.status_word().to_le_bytes());
    image[4] = x87.valid;
    image[6..8].copy_from_slice(&x87.opcode.to_le_bytes());
    image[8..12].copy_from_slice(&x87.ip.to_le_bytes());
    image[12..14].copy_from_slice(&x87.cs.to_le_bytes());
    image[16..20].copy_from_slice(&x87.dp.to_le_bytes());
    image[20..22].copy_from_slice(&x87.ds.to_le_bytes());
    image[24..28].copy_from_slice(&cpu.mxcsr.to_le_bytes());
    image[28..32].copy_from_slice(&MXCSR_MASK.to_le_bytes());
    for (n, out) in image[32..FX_XMM].as_chunks_mut::<16>().0.iter_mut().enumerate() {
        out[..10].copy_from_slice(&register_bytes(&x87.regs[x87.physical(n as u8)]));
    }
    for (xmm, out) in cpu.xmm.iter().zip(image[FX_XMM..].as_chunks_mut::<16>().0) {
        *out = xmm.to_le_bytes();
    }
    for (n, bytes) in image.as_chunks::<16>().0.iter().enumerate() {
        env.write(cpu, lin.wrapping_add(16 * n as u32), u128::from_le_bytes(*bytes))?;
    }
    Ok(())
}

/// FXRSTOR. The SSE part is loaded whether CR4.OSFXSR is set or not.
fn fxrstor(cpu: &mut CpuState, env: &mut Env<'_>, i: &Insn) -> Exec {
    available(cpu)?;
    let lin = env.linear_read(cpu, i.seg, i.ea(cpu), FX_IMAGE)?;
    check_fx_alignment(lin)?;
    env.probe_read(cpu, lin, FX_IMAGE)?;
    let mut image = [[0u8; 16]; FX_WRITTEN / 16];
    for (n, bytes) in image.iter_mut().enumerate() {
        *bytes = env.read::<u128>(cpu, lin.wrapping_add(16 * n as u32))?.to_le_bytes();
    }
    let image = image.as_flattened();
    let word = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
    let dword = |at: usize| u32::from(word(at)) | u32::from(word(at + 2)) << 16;
    let mxcsr = dword(24);
    if mxcsr & !MXCSR_MASK != 0 {
        return Err(Trap::GP0);
    }
    let was_pending = cpu.x87.is_pending();
    let x87 = &mut cpu.x87;
    x87.set_control_word(word(0));
    x87.set_status_word(word(2));
    x87.valid = image[4];
    x87.opcode = word(6) & 0x7FF;
    x87.ip = dword(8);
    x87.cs = word(12);
    x87.dp = dword(16);
    x87.ds = word(20);
    for (n, bytes) in image[32..FX_XMM].as_chunks::<16>().0.iter().enumerate() {
        let at = x87.physical(n as u8);
        if let Some(bytes) = bytes.first_chunk() {
            x87.regs[at] = register_from(bytes);
        }
    }
    cpu.mxcsr = mxcsr;
    for (xmm, bytes) in cpu.xmm.iter_mut().zip(image[FX_XMM..].as_chunks::<16>().0) {
        *xmm = u128::from_le_bytes(*bytes);
    }
    release_ferr(cpu, env, was_pending);
    Ok(())
}

/// Dispatch rows of this file.
pub(super) fn select(d: &Decoded<'_>) -> Option<ExecFn> {
    Some(match d.code {
        Code::Fnstenv_m14byte | Code::Fnstenv_m28byte => fnstenv,
        Code::Fldenv_m14byte | Code::Fldenv_m28byte => fldenv,
        Code::Fnsave_m94byte | Code::Fnsave_m108byte => fnsave,
        Code::Frstor_m94byte | Code::Frstor_m108byte => frstor,
        Code::Fxsave_m512byte => fxsave,
        Code::Fxrstor_m512byte => fxrstor,
        _ => return None,
    })
}
