//! What the x87 does besides computing: images in memory, faults and their order, pointers, pins.

mod x87_support;

use emu_core::cpu::flags::{IF, VM};
use emu_core::cpu::gpr::{EAX, EBX, EDI, ESP};
use emu_core::cpu::segment::Segment;
use emu_core::cpu::state::{X87, X87Reg};
use emu_core::cpu::{Trap, cr0, cr4, seg, vector};
use emu_core::engine::{CpuEngine, Exit};
use emu_core::interp::Interpreter;
use x87_support::Machine;

const FNSTENV: [u8; 2] = [0xd9, 0x37];
const FLDENV: [u8; 2] = [0xd9, 0x27];
const FNSAVE: [u8; 2] = [0xdd, 0x37];
const FRSTOR: [u8; 2] = [0xdd, 0x27];
const FXSAVE: [u8; 3] = [0x0f, 0xae, 0x07];
const FXRSTOR: [u8; 3] = [0x0f, 0xae, 0x0f];
const FLD1: [u8; 2] = [0xd9, 0xe8];
const FLDZ: [u8; 2] = [0xd9, 0xee];
const FLD_M64: [u8; 2] = [0xdd, 0x07];
const FLD_M80: [u8; 2] = [0xdb, 0x2f];
const FSTP_M80: [u8; 2] = [0xdb, 0x3f];
const FBSTP: [u8; 2] = [0xdf, 0x37];
const FSTP_M64: [u8; 2] = [0xdd, 0x1f];
const FDIVP: [u8; 2] = [0xde, 0xf9];
const FNCLEX: [u8; 2] = [0xdb, 0xe2];
const FNINIT: [u8; 2] = [0xdb, 0xe3];
const FNOP: [u8; 2] = [0xd9, 0xd0];
const FLDCW: [u8; 2] = [0xd9, 0x2f];
const FNSTCW: [u8; 2] = [0xd9, 0x3f];
const FNSTSW_AX: [u8; 2] = [0xdf, 0xe0];
const EMMS: [u8; 2] = [0x0f, 0x77];
const WAIT: [u8; 1] = [0x9b];

/// Where EDI points.
const AT: u32 = 0x2000;

fn with_operand_size_prefix(bytes: [u8; 2]) -> [u8; 3] {
    [0x66, bytes[0], bytes[1]]
}

/// A state in which everything is set.
fn full_state() -> X87 {
    let mut x87 = X87::reset();
    x87.control = 0x0a7f;
    x87.status = 0x4565;
    x87.valid = 0b1011_0110;
    x87.top = 5;
    x87.opcode = 0x5a5;
    x87.ip = 0x0001_2345;
    x87.cs = 0x0008;
    x87.dp = 0x0006_789a;
    x87.ds = 0x0010;
    for (n, reg) in x87.regs.iter_mut().enumerate() {
        *reg = X87Reg {
            significand: (1 << 63) + n as u64 * 0x0101,
            sign_exponent: 0x3fff + n as u16,
            pad: [0; 3],
        };
    }
    x87.regs[1] = X87Reg::default();
    x87.regs[2] = X87Reg { significand: 0x8000_0000_0000_0000, sign_exponent: 0xffff, pad: [0; 3] };
    x87
}

/// A machine in a mode, 16-bit code meaning that operands have 16 bits without prefix.
fn machine(protected: bool) -> Machine {
    let mut machine = if protected { Machine::new() } else { Machine::real() };
    machine.cpu.gpr[EDI] = AT;
    // [BX] for the 16-bit code of real mode.
    machine.cpu.gpr[EBX] = AT;
    machine
}

/// The four layouts: protected mode or not, and the two operand sizes.
fn layouts() -> [(bool, bool); 4] {
    [(true, false), (true, true), (false, false), (false, true)]
}

/// An instruction with a memory operand at `AT` for the mode and operand size.
fn in_layout(bytes: [u8; 2], protected: bool, op16: bool) -> Vec<u8> {
    match (protected, op16) {
        (true, false) => bytes.to_vec(),
        (true, true) => with_operand_size_prefix(bytes).to_vec(),
        // mod 00, r/m 7 is [BX] in 16-bit addressing.
        (false, true) => bytes.to_vec(),
        (false, false) => with_operand_size_prefix(bytes).to_vec(),
    }
}

fn environment(protected: bool, op16: bool) -> Vec<u8> {
    let mut m = machine(protected);
    m.cpu.x87 = full_state();
    m.set_bytes(u64::from(AT), &[0x5a; 32]);
    m.execute(&in_layout(FNSTENV, protected, op16)).unwrap();
    let len = if op16 { 14 } else { 28 };
    assert_eq!(m.bytes(u64::from(AT) + len, 1), [0x5a]);
    assert_eq!(m.cpu.x87.control, 0x0a7f);
    m.bytes(u64::from(AT), len as usize)
}

#[test]
fn fnstenv_layouts_are_those_of_the_manual() {
    // Tags: R0, R3 and R6 empty, R1 zero, R2 special.
    let tags = 0b00_11_00_00_11_10_01_11_u16;
    let [t0, t1] = tags.to_le_bytes();
    #[rustfmt::skip]
    assert_eq!(environment(true, false), [
        0x7f, 0x0a, 0xff, 0xff, 0x65, 0x6d, 0xff, 0xff, t0, t1, 0xff, 0xff,
        0x45, 0x23, 0x01, 0x00, 0x08, 0x00, 0xa5, 0x05,
        0x9a, 0x78, 0x06, 0x00, 0x10, 0x00, 0xff, 0xff,
    ]);
    #[rustfmt::skip]
    assert_eq!(environment(true, true), [
        0x7f, 0x0a, 0x65, 0x6d, t0, t1, 0x45, 0x23, 0x08, 0x00, 0x9a, 0x78, 0x10, 0x00,
    ]);
    // Linear addresses: 80h + 12345h and 100h + 6789Ah.
    #[rustfmt::skip]
    assert_eq!(environment(false, false), [
        0x7f, 0x0a, 0xff, 0xff, 0x65, 0x6d, 0xff, 0xff, t0, t1, 0xff, 0xff,
        0xc5, 0x23, 0xff, 0xff, 0xa5, 0x15, 0x00, 0x00,
        0x9a, 0x79, 0xff, 0xff, 0x00, 0x60, 0x00, 0x00,
    ]);
    #[rustfmt::skip]
    assert_eq!(environment(false, true), [
        0x7f, 0x0a, 0x65, 0x6d, t0, t1, 0xc5, 0x23, 0xa5, 0x15, 0x9a, 0x79, 0x00, 0x60,
    ]);
}

#[test]
fn fsave_initialises_and_frstor_restores_in_every_layout() {
    for (protected, op16) in layouts() {
        let mut m = machine(protected);
        m.cpu.x87 = full_state();
        m.execute(&in_layout(FNSAVE, protected, op16)).unwrap();
        assert_eq!(m.cpu.x87, X87 { regs: full_state().regs, ..X87::reset() });
        m.cpu.x87.regs = X87::reset().regs;
        m.execute(&in_layout(FRSTOR, protected, op16)).unwrap();
        let expected = match (protected, op16) {
            (true, false) => full_state(),
            (true, true) => X87 { ip: 0x2345, dp: 0x789a, opcode: 0, ..full_state() },
            // Selectors are folded into linear addresses.
            (false, _) => X87 { ip: 0x123c5, cs: 0, dp: 0x6799a, ds: 0, ..full_state() },
        };
        assert_eq!(m.cpu.x87, expected, "protected {protected} 16-bit {op16}");
    }
}

#[test]
fn real_layout_serves_vm86_too() {
    let mut m = machine(false);
    m.cpu.cr0 |= cr0::PE;
    m.cpu.eflags |= VM;
    m.cpu.x87 = full_state();
    m.execute(&FNSTENV).unwrap();
    assert_eq!(m.bytes(u64::from(AT) + 6, 8), [0xc5, 0x23, 0xa5, 0x15, 0x9a, 0x79, 0x00, 0x60]);
}

#[test]
fn fnstenv_masks_exceptions_after_storing_them() {
    let mut m = machine(true);
    m.cpu.x87.control = 0x0340;
    m.cpu.x87.status = 4;
    m.execute(&FNSTENV).unwrap();
    assert_eq!(m.bytes(u64::from(AT), 2), [0x40, 0x03]);
    assert_eq!(m.bytes(u64::from(AT) + 4, 2), [0x84, 0x80], "ES and B");
    assert_eq!(m.cpu.x87.control, 0x037f);
    assert_eq!(m.cpu.x87.status_word(), 4);
}

#[test]
fn nm_is_raised_by_em_and_ts_and_changes_nothing() {
    let instructions: [&[u8]; 12] = [
        &FLD1, &FNINIT, &FNCLEX, &FNSTCW, &FNSTSW_AX, &FNSTENV, &FLDENV, &FNSAVE, &FRSTOR, &FNOP, &FXSAVE,
        &FXRSTOR,
    ];
    for bits in [cr0::EM, cr0::TS, cr0::EM | cr0::TS] {
        for bytes in instructions {
            let mut m = machine(true);
            m.cpu.cr0 |= bits;
            m.cpu.x87 = full_state();
            // Even with an exception pending, and with an operand that would fault.
            m.cpu.x87.control = 0x0340;
            m.cpu.gpr[EDI] = 0x2_0001;
            m.enable_paging(0x2_0000);
            let before = m.cpu.x87;
            assert_eq!(m.execute(bytes), Err(Trap::NM), "{bytes:02x?}");
            assert_eq!(m.cpu.x87, before);
            assert_eq!(m.cpu.eip, 0x1000);
        }
    }
}

#[test]
fn wait_raises_nm_only_for_mp_with_ts() {
    for (bits, expected) in
        [(cr0::EM, Ok(())), (cr0::TS, Ok(())), (cr0::MP, Ok(())), (cr0::MP | cr0::TS, Err(Trap::NM))]
    {
        let mut m = machine(true);
        m.cpu.cr0 |= bits;
        assert_eq!(m.execute(&WAIT), expected, "{bits:x}");
    }
    let mut m = machine(true);
    m.cpu.x87.control = 0x0340;
    m.cpu.x87.status = 1;
    assert_eq!(m.execute(&WAIT), Err(Trap::MF));
}

/// 1 / 0 with the exception unmasked.
fn divide_by_zero(m: &mut Machine) {
    m.cpu.x87.control = 0x037b;
    m.execute(&FLD1).unwrap();
    m.execute(&FLDZ).unwrap();
    m.cpu.gpr[EAX] = 0;
    m.execute(&FDIVP).unwrap();
}

#[test]
fn unmasked_exception_is_signalled_by_the_next_waiting_instruction() {
    let mut m = machine(true);
    divide_by_zero(&mut m);
    // Not at the division itself, whose operands are untouched.
    assert_eq!(m.cpu.eip, 0x1006);
    assert_eq!((m.cpu.x87.top, m.cpu.x87.valid), (6, 0xc0));
    assert_eq!(m.cpu.x87.ip, 0x1004);
    m.execute(&FNSTSW_AX).unwrap();
    assert_eq!(m.cpu.gpr[EAX], 0xb084);
    for bytes in [&FNOP[..], &FLD1, &WAIT, &FLDCW, &FLDENV, &FRSTOR, &FSTP_M64, &EMMS] {
        let before = m.cpu.x87;
        let at = m.cpu.eip;
        assert_eq!(m.execute(bytes), Err(Trap::MF), "{bytes:02x?}");
        assert_eq!((m.cpu.x87, m.cpu.eip), (before, at));
    }
    m.execute(&FXSAVE).unwrap();
    m.execute(&FXRSTOR).unwrap();
    assert_eq!(m.execute(&FNOP), Err(Trap::MF));
    m.execute(&FNCLEX).unwrap();
    m.execute(&FNOP).unwrap();
}

#[test]
fn pending_exception_precedes_faults_of_the_operand() {
    let mut m = machine(true);
    divide_by_zero(&mut m);
    m.enable_paging(AT);
    assert_eq!(m.execute(&FLD_M64), Err(Trap::MF));
    m.execute(&FNCLEX).unwrap();
    assert_eq!(m.execute(&FLD_M64), Err(Trap::with_error(vector::PF, 0)));
}

#[test]
fn fldcw_that_unmasks_a_flag_makes_it_pending() {
    let mut m = machine(true);
    m.cpu.x87.status = 0x20;
    m.set_bytes(u64::from(AT), &0xe35f_u16.to_le_bytes());
    m.execute(&FLDCW).unwrap();
    assert_eq!((m.cpu.x87.control, m.cpu.x87.status_word()), (0x035f, 0x80a0));
    assert_eq!(m.execute(&FNOP), Err(Trap::MF));
}

#[test]
fn ferr_without_ne_holds_the_instruction_until_ignne() {
    let mut m = machine(true);
    m.cpu.cr0 &= !cr0::NE;
    divide_by_zero(&mut m);
    assert_eq!(m.bus.ferr, []);
    let before = m.cpu.x87;
    assert_eq!(m.execute(&FNOP), Err(Trap::RESTART));
    assert_eq!((m.cpu.x87, m.cpu.eip), (before, 0x1006));
    assert_eq!(m.bus.ferr, [true]);
    m.bus.ignne = true;
    m.execute(&FNOP).unwrap();
    m.bus.ferr.clear();
    m.execute(&FNCLEX).unwrap();
    assert_eq!(m.bus.ferr, [false]);
    m.execute(&FNCLEX).unwrap();
    m.execute(&FNOP).unwrap();
    assert_eq!(m.bus.ferr, [false]);
}

#[test]
fn ferr_is_released_by_everything_that_clears_or_masks_the_exception() {
    for bytes in [&FNINIT[..], &FNSAVE, &FNSTENV, &FXRSTOR] {
        let mut m = machine(true);
        m.cpu.cr0 &= !cr0::NE;
        divide_by_zero(&mut m);
        // A zero image is a state without exceptions.
        m.execute(bytes).unwrap();
        assert_eq!(m.bus.ferr, [false], "{bytes:02x?}");
    }
    for bytes in [&FLDENV[..], &FRSTOR, &FLDCW] {
        let mut m = machine(true);
        m.cpu.cr0 &= !cr0::NE;
        m.bus.ignne = true;
        divide_by_zero(&mut m);
        m.set_bytes(u64::from(AT), &[0x7f, 0x03]);
        m.execute(bytes).unwrap();
        assert_eq!(m.bus.ferr, [true, false], "{bytes:02x?}");
    }
}

/// An operand whose last bytes lie in a missing page.
fn crossing(len: u32) -> (Machine, u32) {
    let mut m = machine(true);
    let at = 0x3000 - len + 2;
    m.cpu.gpr[EDI] = at;
    m.cpu.x87 = full_state();
    m.cpu.x87.valid = 0x60;
    m.set_bytes(u64::from(at), &vec![0x5a; len as usize - 2]);
    m.enable_paging(0x3000);
    (m, at)
}

#[test]
fn page_fault_in_the_middle_of_an_operand_has_no_effect() {
    let write = Err(Trap::with_error(vector::PF, 2));
    let read = Err(Trap::with_error(vector::PF, 0));
    let cases: [(&[u8], u32, _); 15] = [
        (&FSTP_M80, 10, write),
        (&FBSTP, 10, write),
        (&FSTP_M64, 8, write),
        (&FNSTENV, 28, write),
        (&with_operand_size_prefix(FNSTENV), 14, write),
        (&FNSAVE, 108, write),
        (&with_operand_size_prefix(FNSAVE), 94, write),
        (&[0xdf, 0x3f], 8, write),
        (&FLD_M80, 10, read),
        (&FLD_M64, 8, read),
        (&[0xdf, 0x27], 10, read),
        (&FLDENV, 28, read),
        (&with_operand_size_prefix(FLDENV), 14, read),
        (&FRSTOR, 108, read),
        (&with_operand_size_prefix(FRSTOR), 94, read),
    ];
    for (bytes, len, expected) in cases {
        let (mut m, at) = crossing(len);
        let before = m.cpu.x87;
        assert_eq!(m.execute(bytes), expected, "{bytes:02x?}");
        assert_eq!(m.cpu.fault_address, 0x3000, "{bytes:02x?}");
        assert_eq!((m.cpu.x87, m.cpu.eip), (before, 0x1000), "{bytes:02x?}");
        assert_eq!(m.bytes(u64::from(at), len as usize - 2), vec![0x5a; len as usize - 2], "{bytes:02x?}");
    }
}

#[test]
fn suppressed_store_still_faults_on_its_operand() {
    // An empty register and a signalling NaN, with the invalid operation unmasked.
    for valid in [0, 0xff] {
        for bytes in [FSTP_M64, FSTP_M80, FBSTP] {
            let (mut m, _) = crossing(8);
            m.cpu.x87.control = 0x037e;
            m.cpu.x87.status = 0;
            m.cpu.x87.valid = valid;
            m.cpu.x87.regs[5] = X87Reg { significand: 1 << 63 | 1, sign_exponent: 0x7fff, pad: [0; 3] };
            let before = m.cpu.x87;
            assert_eq!(m.execute(&bytes), Err(Trap::with_error(vector::PF, 2)));
            assert_eq!(m.cpu.x87, before);
        }
    }
}

#[test]
fn m80_operand_beyond_the_limit_raises_gp_or_ss() {
    let mut m = machine(true);
    m.cpu.x87 = full_state();
    m.cpu.x87.valid = 0x60;
    let small = Segment { base: 0, limit: AT + 8, selector: 0x18, attr: 0x4093 };
    m.cpu.set_segment(seg::DS, small);
    m.cpu.set_segment(seg::SS, small);
    for bytes in [FSTP_M80, FLD_M80] {
        assert_eq!(m.execute(&bytes), Err(Trap::GP0));
        assert_eq!(m.execute(&[0x36, bytes[0], bytes[1]]), Err(Trap::SS0));
    }
    m.cpu.gpr[EDI] = AT - 1;
    m.execute(&FLD_M80).unwrap();
}

#[test]
fn alignment_check_knows_the_sizes() {
    for (bytes, aligned) in
        [(FLD_M80, 8), (FSTP_M80, 8), (FLD_M64, 8), (FLDENV, 4), (FNSAVE, 4), (FLDCW, 2), (FNSTENV, 4)]
    {
        for offset in 0..8 {
            let mut m = machine(true);
            m.cpu.alignment_checked = true;
            m.cpu.gpr[EDI] = AT + offset;
            let expected = if offset % aligned == 0 { Ok(()) } else { Err(Trap::with_error(vector::AC, 0)) };
            assert_eq!(m.execute(&bytes), expected, "{bytes:02x?} {offset}");
        }
    }
}

#[test]
fn pointers_follow_every_non_control_instruction() {
    let mut m = machine(true);
    m.cpu.set_segment(seg::FS, Segment { selector: 0x23, ..m.cpu.seg[seg::DS] });
    // FLD qword ptr FS:[EDI + 8], with two prefixes.
    m.execute(&[0x66, 0x64, 0xdd, 0x47, 0x08]).unwrap();
    let x87 = m.cpu.x87;
    assert_eq!((x87.ip, x87.cs, x87.opcode), (0x1000, 8, 0x547));
    assert_eq!((x87.dp, x87.ds), (AT + 8, 0x23));
    // Without memory operand the data pointer stays.
    m.execute(&[0xd8, 0xc0]).unwrap();
    let x87 = m.cpu.x87;
    assert_eq!((x87.ip, x87.opcode), (0x1005, 0x0c0));
    assert_eq!((x87.dp, x87.ds), (AT + 8, 0x23));
    for bytes in [&FNSTCW[..], &FNSTSW_AX, &FNCLEX, &WAIT, &FLDCW, &FNSTENV, &FXSAVE, &[0xdb, 0xe0], &EMMS] {
        m.execute(bytes).unwrap();
        assert_eq!((m.cpu.x87.ip, m.cpu.x87.opcode), (0x1005, 0x0c0), "{bytes:02x?}");
    }
    m.execute(&FNINIT).unwrap();
    assert_eq!(m.cpu.x87.ip | u32::from(m.cpu.x87.opcode) | m.cpu.x87.dp, 0);
}

#[test]
fn fxsave_image_is_that_of_the_manual() {
    for osfxsr in [0, cr4::OSFXSR] {
        let mut m = machine(true);
        m.cpu.cr4 |= osfxsr;
        m.cpu.x87 = full_state();
        m.cpu.mxcsr = 0x1fa5;
        for (n, xmm) in m.cpu.xmm.iter_mut().enumerate() {
            *xmm = u128::from_le_bytes([0x10 + n as u8; 16]);
        }
        m.set_bytes(u64::from(AT), &[0x5a; 512]);
        m.execute(&FXSAVE).unwrap();
        let image = m.bytes(u64::from(AT), 512);
        #[rustfmt::skip]
        assert_eq!(image[..32], [
            0x7f, 0x0a, 0x65, 0x6d, 0xb6, 0x00, 0xa5, 0x05, 0x45, 0x23, 0x01, 0x00, 0x08, 0x00, 0x00, 0x00,
            0x9a, 0x78, 0x06, 0x00, 0x10, 0x00, 0x00, 0x00, 0xa5, 0x1f, 0x00, 0x00, 0xff, 0xff, 0x00, 0x00,
        ]);
        // ST(0) is R5, ST(4) is R1.
        assert_eq!(image[32..48], [0x05, 5, 0, 0, 0, 0, 0, 0x80, 0x04, 0x40, 0, 0, 0, 0, 0, 0]);
        assert_eq!(image[96..112], [0; 16]);
        assert_eq!(image[160..176], [0x10; 16]);
        assert_eq!(image[272..288], [0x17; 16]);
        assert_eq!(image[288..], [0x5a; 224]);

        let saved = (m.cpu.x87, m.cpu.xmm, m.cpu.mxcsr);
        m.cpu.x87 = X87::reset();
        m.cpu.xmm = [0; 8];
        m.cpu.mxcsr = 0x1f80;
        m.execute(&FXRSTOR).unwrap();
        assert_eq!((m.cpu.x87, m.cpu.xmm, m.cpu.mxcsr), saved);
    }
}

#[test]
fn fxsave_and_fxrstor_misaligned_raise_gp() {
    for bytes in [FXSAVE, FXRSTOR] {
        for offset in [1, 4, 8] {
            let mut m = machine(true);
            m.cpu.gpr[EDI] = AT + offset;
            assert_eq!(m.execute(&bytes), Err(Trap::GP0));
        }
    }
}

#[test]
fn fxrstor_reserved_mxcsr_bits_raise_gp_and_change_nothing() {
    let mut m = machine(true);
    m.cpu.x87 = full_state();
    m.set_bytes(u64::from(AT) + 24, &0x0001_1f80_u32.to_le_bytes());
    assert_eq!(m.execute(&FXRSTOR), Err(Trap::GP0));
    assert_eq!((m.cpu.x87, m.cpu.mxcsr), (full_state(), 0x1f80));
}

#[test]
fn fxsave_page_fault_writes_nothing() {
    let mut m = machine(true);
    m.cpu.gpr[EDI] = 0x2f00;
    m.set_bytes(0x2f00, &[0x5a; 256]);
    m.enable_paging(0x3000);
    assert_eq!(m.execute(&FXSAVE), Err(Trap::with_error(vector::PF, 2)));
    assert_eq!(m.bytes(0x2f00, 256), [0x5a; 256]);
    let before = m.cpu.x87;
    assert_eq!(m.execute(&FXRSTOR), Err(Trap::with_error(vector::PF, 0)));
    assert_eq!(m.cpu.x87, before);
}

#[test]
fn stack_overflow_and_underflow_are_told_apart_by_c1() {
    let mut m = machine(true);
    for _ in 0..8 {
        m.execute(&FLD1).unwrap();
    }
    assert_eq!(m.cpu.x87.status_word(), 0);
    m.execute(&FLD1).unwrap();
    // IE, SF, C1, TOP 7; the indefinite was pushed.
    assert_eq!(m.cpu.x87.status_word(), 0x3a41);
    assert_eq!(m.cpu.x87.regs[7].sign_exponent, 0xffff);
    m.execute(&FNINIT).unwrap();
    m.execute(&FDIVP).unwrap();
    assert_eq!(m.cpu.x87.status_word(), 0x0841);
    // Unmasked, nothing moves.
    m.execute(&FNINIT).unwrap();
    m.cpu.x87.control = 0x037e;
    m.execute(&FDIVP).unwrap();
    assert_eq!((m.cpu.x87.status_word(), m.cpu.x87.valid), (0x80c1, 0));
}

#[test]
fn inexact_store_delivers_before_it_is_signalled_and_overflow_does_not() {
    let mut m = machine(true);
    m.cpu.x87.control = 0x035f;
    m.cpu.x87.valid = 0x80;
    m.cpu.x87.top = 7;
    m.cpu.x87.regs[7] = X87Reg { significand: u64::MAX, sign_exponent: 0x3fff, pad: [0; 3] };
    m.execute(&FSTP_M64).unwrap();
    assert_eq!(m.bytes(u64::from(AT), 8), 2f64.to_le_bytes());
    assert_eq!(m.cpu.x87.status_word(), 0x82a0);
    m.execute(&FNINIT).unwrap();
    m.cpu.x87.control = 0x0377;
    m.cpu.x87.valid = 0x80;
    m.cpu.x87.top = 7;
    m.cpu.x87.regs[7].sign_exponent = 0x7000;
    m.execute(&FSTP_M64).unwrap();
    assert_eq!(m.bytes(u64::from(AT), 8), 2f64.to_le_bytes());
    assert_eq!((m.cpu.x87.status_word(), m.cpu.x87.valid), (0xb888, 0x80));
}

#[test]
fn emms_empties_the_stack_and_checks_like_mmx() {
    let mut m = machine(true);
    m.cpu.x87 = full_state();
    m.execute(&EMMS).unwrap();
    assert_eq!((m.cpu.x87.valid, m.cpu.x87.top), (0, 0));
    m.cpu.cr0 |= cr0::TS;
    assert_eq!(m.execute(&EMMS), Err(Trap::NM));
    m.cpu.cr0 |= cr0::EM;
    assert_eq!(m.execute(&EMMS), Err(Trap::UD));
}

#[test]
fn mmx_instruction_fills_the_tags_and_faults_in_order() {
    const PXOR_MM6: [u8; 3] = [0x0f, 0xef, 0xf6];
    let mut m = machine(true);
    m.cpu.x87 = full_state();
    m.execute(&PXOR_MM6).unwrap();
    assert_eq!((m.cpu.x87.valid, m.cpu.x87.top), (0xff, 0));
    assert_eq!(m.cpu.x87.regs[6], X87Reg { significand: 0, sign_exponent: 0xffff, pad: [0; 3] });
    assert_eq!(m.cpu.x87.ip, full_state().ip);
    m.cpu.x87 = full_state();
    m.cpu.x87.control = 0x0340;
    let before = m.cpu.x87;
    assert_eq!(m.execute(&PXOR_MM6), Err(Trap::MF));
    m.cpu.cr0 &= !cr0::NE;
    assert_eq!(m.execute(&PXOR_MM6), Err(Trap::RESTART));
    m.cpu.cr0 |= cr0::TS;
    assert_eq!(m.execute(&PXOR_MM6), Err(Trap::NM));
    m.cpu.cr0 |= cr0::EM;
    assert_eq!(m.execute(&PXOR_MM6), Err(Trap::UD));
    assert_eq!(m.cpu.x87, before);
}

/// Real-mode code at 1000h that divides 1 by 0 and goes on to FNOP at 1007h; every vector leads to 3000h.
fn program() -> (Machine, Interpreter) {
    let mut m = machine(false);
    m.cpu.x87.control = 0x037b;
    m.cpu.gpr[ESP] = 0x8000;
    m.cpu.eflags |= IF;
    m.set_bytes(0x1000, &[FLD1, FLDZ, FDIVP].concat());
    m.set_bytes(0x1006, &[0x90, FNOP[0], FNOP[1], 0x90, 0x90]);
    m.set_bytes(0x3000, &[0x90; 16]);
    for n in 0..256 {
        m.set_bytes(4 * n, &[0x00, 0x30, 0, 0]);
    }
    (m, Interpreter::new())
}

#[test]
fn mf_is_delivered_at_the_waiting_instruction() {
    let (mut m, mut engine) = program();
    // FLD1, FLDZ, FDIVP and NOP complete.
    assert_eq!(engine.run(&mut m.cpu, &mut m.mem, &mut m.bus, 4), Exit::Budget);
    assert_eq!((m.cpu.eip, m.cpu.x87.ip), (0x1007, 0x1004));
    m.set_bytes(0x3000, &[0xf4]);
    assert_eq!(engine.run(&mut m.cpu, &mut m.mem, &mut m.bus, 100), Exit::Halted);
    assert_eq!(engine.stats().exceptions[usize::from(vector::MF)], 1);
    assert_eq!(m.bytes(u64::from(m.cpu.gpr[ESP]), 2), [0x07, 0x10]);
}

#[test]
fn ferr_interrupt_finds_the_waiting_instruction_and_lets_it_pass_with_ignne() {
    let (mut m, mut engine) = program();
    m.cpu.cr0 &= !cr0::NE;
    // The pass that asserts FERR# counts as an instruction.
    assert_eq!(engine.run(&mut m.cpu, &mut m.mem, &mut m.bus, 5), Exit::Budget);
    assert_eq!(m.cpu.eip, 0x3000);
    assert_eq!(m.bytes(u64::from(m.cpu.gpr[ESP]), 2), [0x07, 0x10]);
    // The handler acknowledges (OUT F0h on a PC) and returns.
    m.bus.ignne = true;
    m.cpu.eip = 0x1007;
    assert_eq!(engine.run(&mut m.cpu, &mut m.mem, &mut m.bus, 2), Exit::Budget);
    assert_eq!(m.cpu.eip, 0x100a);
}

#[test]
fn ferr_with_interrupts_disabled_waits() {
    let (mut m, mut engine) = program();
    m.cpu.cr0 &= !cr0::NE;
    m.cpu.eflags &= !IF;
    assert_eq!(engine.run(&mut m.cpu, &mut m.mem, &mut m.bus, 1000), Exit::Budget);
    assert_eq!((m.cpu.eip, m.cpu.retired), (0x1007, 1000));
}
