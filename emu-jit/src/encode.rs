//! Host instructions whose opcode or operand form is known only when translating.

use dynasmrt::DynasmApi;

/// The register-or-memory operand of an instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rm {
    /// A host register. In byte instructions 4-7 are AH CH DH BH.
    Reg(u8),
    /// A checked guest address: `[base + index + displacement - 1]`, where `base` holds a table entry and
    /// `index` plus the displacement is the linear address.
    Guest(u8, u8, i32),
}

/// Emits `prefix REX opcode ModRM` for an operand size of 1, 2, 4 or 8 bytes.
///
/// In byte instructions register numbers 4-7 mean AH CH DH BH, which cannot be named together with
/// registers above 7 or guest memory: callers must have moved them.
pub(crate) fn op<A: DynasmApi>(a: &mut A, size: u32, opcode: &[u8], reg: u8, rm: Rm) {
    if size == 2 {
        a.push(0x66);
    }
    let (x, b) = match rm {
        Rm::Reg(r) => (0, r >> 3),
        Rm::Guest(base, index, _) => (index >> 3, base >> 3),
    };
    let mut opcode = opcode;
    if let [first @ (0xF2 | 0xF3), rest @ ..] = opcode {
        a.push(*first);
        opcode = rest;
    }
    let rex = u8::from(size == 8) << 3 | (reg >> 3) << 2 | x << 1 | b;
    if rex != 0 {
        debug_assert!(size != 1 || !matches!(rm, Rm::Reg(4..8)), "high byte register with REX");
        a.push(0x40 | rex);
    }
    a.extend(opcode);
    let reg = (reg & 7) << 3;
    match rm {
        Rm::Reg(r) => a.push(0xC0 | reg | (r & 7)),
        Rm::Guest(base, index, disp) => {
            let disp = disp - 1;
            let short = i8::try_from(disp);
            a.push(if short.is_ok() { 0x44 } else { 0x84 } | reg);
            a.push((index & 7) << 3 | (base & 7));
            match short {
                Ok(disp) => a.push(disp as u8),
                Err(_) => a.push_i32(disp),
            }
        }
    }
}

/// Appends an immediate of `size` bytes (4 for operand size 8).
pub(crate) fn imm<A: DynasmApi>(a: &mut A, size: u32, value: u32) {
    match size {
        1 => a.push(value as u8),
        2 => a.push_u16(value as u16),
        _ => a.push_u32(value),
    }
}
