//! Single-step, breakpoints, RF, MOV SS, debug registers.

mod common;

use common::*;
use emu_core::cpu::{cr4, gpr, vector};
use emu_core::engine::Exit;
use iced_x86::code_asm::*;

const TF: u32 = 0x100;
const RF: u32 = 0x1_0000;
const DR6: u32 = 0xFFFF_0FF0;
const BS: u32 = 0x4000;
const BD: u32 = 0x2000;

/// DR7 R/W fields of breakpoint 0.
const EXECUTE: u32 = 0;
const WRITE: u32 = 1 << 16;
const IO: u32 = 2 << 16;
const READ_WRITE: u32 = 3 << 16;
/// DR7 LEN fields of breakpoint 0.
const LEN2: u32 = 1 << 18;
const LEN4: u32 = 3 << 18;

/// The machine with breakpoint 0 at `at`.
fn watch(mut m: Machine, at: u32, kind: u32) -> Machine {
    m.cpu.dr[0] = at;
    m.cpu.dr[7] = 0x400 | 2 | kind;
    emu_core::cpu::debug_regs::update_armed(&mut m.cpu);
    m.mem.flush_views();
    m
}

/// A handler of #DB that counts in EBX, sets RF in its frame and returns.
fn counting_handler(m: &mut Machine) {
    code_at!(m, 0x5000; inc(ebx); or(dword_ptr(esp + 8), 0x1_0000); iretd());
    m.set_idt(vector::DB, gate(CODE0, 0x5000, 0xEE, 0));
}

// ---- single-step ---------------------------------------------------------------------------------

#[test]
fn tf_set_by_popf_traps_after_the_next_instruction() {
    let mut m = Machine::protected();
    code!(m; push(TF as i32); popfd(); inc(eax); inc(eax); hlt());
    let f = m.fault();
    assert_eq!((f.vector, f.eip, f.eflags & (TF | RF)), (vector::DB, CODE + 7, TF));
    assert_eq!((m.eax(), m.cpu.dr[6], m.cpu.eflags & TF), (1, DR6 | BS, 0));
}

#[test]
fn tf_set_by_iret_traps_after_one_instruction_of_the_target() {
    let mut m = Machine::protected();
    code!(m; push(TF as i32); push(i32::from(CODE0 as i16)); push(0x1_0100); iretd());
    code_at!(m, CODE + 0x100; inc(eax); hlt());
    let f = m.fault();
    assert_eq!((f.vector, f.eip, m.eax()), (vector::DB, CODE + 0x101, 1));
}

#[test]
fn tf_cleared_by_popf_still_traps_behind_it() {
    let mut m = Machine::protected();
    m.cpu.set_eflags(TF | 2);
    m.set_idt(vector::DB, gate(CODE0, 0x5000, 0xEE, 0));
    code_at!(m, 0x5000; inc(ebx); iretd());
    code!(m; push(2i32); popfd(); nop(); hlt());
    m.finish();
    assert_eq!(m.cpu.gpr[gpr::EBX], 2);
}

#[test]
fn tf_does_not_trap_behind_int_n() {
    let mut m = Machine::protected();
    m.cpu.set_eflags(TF | 2);
    code_at!(m, Machine::handler(0x80); inc(ecx); iretd());
    code!(m; int(0x80); inc(eax); hlt());
    let f = m.fault();
    // Not in the handler, not behind INT: behind the instruction IRET returned to.
    assert_eq!((f.vector, f.eip, m.cpu.gpr[gpr::ECX], m.eax()), (vector::DB, CODE + 3, 1, 1));
}

#[test]
fn tf_does_not_trap_behind_a_fault() {
    let mut m = Machine::protected();
    m.cpu.set_eflags(TF | 2);
    code!(m; ud2());
    let f = m.fault();
    assert_eq!((f.vector, f.eip, f.eflags, m.cpu.dr[6]), (vector::UD, CODE, 2 | TF | RF, DR6));
}

#[test]
fn tf_traps_after_each_iteration_of_rep() {
    let mut m = Machine::protected();
    m.cpu.set_eflags(TF | 2);
    m.set(gpr::ECX, 3).set(gpr::ESI, DATA).set(gpr::EDI, DATA + 0x100);
    m.set_idt(vector::DB, gate(CODE0, 0x5000, 0xEE, 0));
    code_at!(m, 0x5000; inc(ebx); iretd());
    m.bytes(&[0xF3, 0xA4, 0x90, 0xF4]); // rep movsb; nop; hlt
    let steps = [(CODE, 2), (CODE, 1), (CODE + 2, 0)];
    for (eip, count) in steps {
        m.step(); // the iteration
        m.step(); // inc ebx
        m.step(); // iretd
        assert_eq!((m.cpu.eip, m.cpu.gpr[gpr::ECX]), (eip, count));
    }
    assert_eq!(m.cpu.gpr[gpr::EBX], 3);
}

#[test]
fn tf_traps_behind_hlt() {
    let mut m = Machine::protected();
    m.cpu.set_eflags(TF | 2);
    code!(m; hlt());
    let f = m.fault();
    assert_eq!((f.vector, f.eip), (vector::DB, CODE + 1));
}

#[test]
fn mov_ss_holds_single_step_back() {
    let mut m = Machine::protected();
    m.cpu.set_eflags(TF | 2);
    m.set(gpr::ECX, DATA0.into());
    code!(m; mov(ss, cx); inc(eax); hlt());
    let f = m.fault();
    assert_eq!((f.vector, f.eip, m.eax()), (vector::DB, CODE + 4, 1));
}

#[test]
fn sti_does_not_hold_single_step_back() {
    let mut m = Machine::protected();
    m.cpu.set_eflags(TF | 2);
    code!(m; sti(); inc(eax));
    assert_eq!(m.fault().eip, CODE + 1);
}

#[test]
fn single_step_comes_before_a_pending_interrupt() {
    let mut m = Machine::protected();
    m.cpu.set_eflags(TF | 0x202);
    m.bus.trigger = Some(0x80);
    code!(m; out(0x80, al));
    m.set(gpr::EAX, 0x31);
    let f = m.fault();
    assert_eq!((f.vector, f.eip, m.bus.interrupts.len()), (vector::DB, CODE + 2, 1));
}

#[test]
fn single_step_in_real_mode() {
    let mut m = Machine::real();
    m.cpu.set_eflags(TF | 2);
    code!(m; inc(ax); hlt());
    let f = m.fault();
    assert_eq!((f.vector, f.eip, m.eax()), (vector::DB, 1, 1));
}

// ---- instruction breakpoints and RF --------------------------------------------------------------

#[test]
fn code_breakpoint_faults_before_its_instruction() {
    let mut m = watch(Machine::protected(), CODE + 1, EXECUTE);
    code!(m; inc(eax); inc(eax); hlt());
    let f = m.fault();
    assert_eq!((f.vector, f.eip, m.eax(), m.cpu.dr[6]), (vector::DB, CODE + 1, 1, DR6 | 1));
    assert_eq!(f.eflags & RF, 0);
}

#[test]
fn rf_passes_one_instruction_over_its_breakpoint() {
    let mut m = watch(Machine::protected(), CODE + 5, EXECUTE);
    counting_handler(&mut m);
    code!(m; mov(ecx, 3); dec(ecx); jnz(u64::from(CODE) + 5); hlt());
    m.finish();
    assert_eq!((m.cpu.gpr[gpr::EBX], m.cpu.gpr[gpr::ECX]), (3, 0));
    assert_eq!(m.cpu.eflags & RF, 0);
}

#[test]
fn code_breakpoint_at_rep_hits_once() {
    let mut m = watch(Machine::protected(), CODE, EXECUTE);
    counting_handler(&mut m);
    // The destination crosses a page: several passes.
    m.set(gpr::ECX, 0x2000).set(gpr::EDI, DATA + 0x800);
    m.bytes(&[0xF3, 0xAA, 0xF4]); // rep stosb; hlt
    m.finish();
    assert_eq!((m.cpu.gpr[gpr::EBX], m.cpu.gpr[gpr::ECX]), (1, 0));
}

#[test]
fn code_breakpoint_behind_mov_ss_is_suppressed() {
    let mut m = watch(Machine::protected(), CODE + 3, EXECUTE);
    counting_handler(&mut m);
    m.set(gpr::ECX, DATA0.into());
    code!(m; mov(ss, cx); inc(eax); hlt());
    m.finish();
    assert_eq!((m.cpu.gpr[gpr::EBX], m.eax()), (0, 1));
}

#[test]
fn code_breakpoint_uses_linear_addresses() {
    let mut m = watch(Machine::real(), CODE + 1, EXECUTE);
    code!(m; inc(ax); inc(ax); hlt());
    let f = m.fault();
    assert_eq!((f.vector, f.eip, m.eax()), (vector::DB, 1, 1));
}

#[test]
fn breakpoint_armed_by_mov_dr_hits_code_that_ran_before() {
    let mut m = Machine::protected();
    code!(m;
        inc(eax);
        cmp(eax, 2); je(u64::from(CODE) + 0x20);
        mov(ecx, CODE); mov(dr0, ecx); mov(ecx, 0x402); mov(dr7, ecx);
        jmp(u64::from(CODE)));
    let f = m.fault();
    assert_eq!((f.vector, f.eip, m.eax()), (vector::DB, CODE, 1));
}

// ---- data breakpoints ----------------------------------------------------------------------------

#[test]
fn write_breakpoint_traps_behind_the_write() {
    let mut m = watch(Machine::protected(), DATA, WRITE | LEN4);
    m.set(gpr::EAX, 5);
    code!(m; mov(ecx, dword_ptr(DATA)); mov(dword_ptr(DATA), eax); hlt());
    let f = m.fault();
    assert_eq!((f.vector, f.eip, m.read_u32(DATA), m.cpu.dr[6]), (vector::DB, CODE + 11, 5, DR6 | 1));
    assert_eq!(f.eflags & RF, 0);
}

#[test]
fn read_write_breakpoint_traps_behind_the_read() {
    let mut m = watch(Machine::protected(), DATA, READ_WRITE | LEN2);
    code!(m; mov(eax, dword_ptr(DATA + 4)); mov(eax, dword_ptr(DATA - 2)); hlt());
    let f = m.fault();
    assert_eq!((f.vector, f.eip), (vector::DB, CODE + 10));
}

#[test]
fn data_breakpoint_hits_a_page_that_was_fast_before() {
    let mut m = Machine::protected();
    code!(m;
        mov(dword_ptr(DATA), eax); mov(dword_ptr(DATA), eax);
        mov(ecx, DATA); mov(dr0, ecx); mov(ecx, 0xD_0402); mov(dr7, ecx);
        mov(dword_ptr(DATA), eax); hlt());
    let f = m.fault();
    assert_eq!((f.vector, m.cpu.dr[6]), (vector::DB, DR6 | 1));
}

#[test]
fn data_breakpoint_and_single_step_are_reported_together() {
    let mut m = watch(Machine::protected(), DATA, WRITE);
    m.cpu.set_eflags(TF | 2);
    code!(m; mov(byte_ptr(DATA), al));
    m.fault();
    assert_eq!(m.cpu.dr[6], DR6 | BS | 1);
}

#[test]
fn data_breakpoint_behind_mov_ss_waits_for_one_instruction() {
    let mut m = watch(Machine::protected(), DATA, READ_WRITE);
    m.write_u16(DATA, DATA0);
    code!(m; mov(ss, word_ptr(DATA)); inc(eax); inc(eax); hlt());
    let f = m.fault();
    assert_eq!((f.vector, f.eip, m.eax(), m.cpu.dr[6]), (vector::DB, CODE + 7, 1, DR6 | 1));
}

#[test]
fn data_breakpoint_of_an_instruction_that_faults_does_not_trap() {
    let mut m = watch(Machine::protected(), DATA, READ_WRITE);
    m.enable_paging();
    m.set_pte(0x3_0000, 0);
    m.set(gpr::ESI, DATA).set(gpr::EDI, 0x3_0000);
    code!(m; movsb());
    assert_eq!(m.fault().vector, vector::PF);
    assert_eq!(m.cpu.dr[6], DR6);
}

#[test]
fn data_breakpoint_hit_by_an_interrupt_frame_traps_at_the_handler() {
    let mut m = watch(Machine::protected(), STACK0 - 4, WRITE | LEN4);
    code!(m; int(0x80));
    let f = m.fault();
    assert_eq!((f.vector, f.eip, m.cpu.dr[6]), (vector::DB, Machine::handler(0x80), DR6 | 1));
}

#[test]
fn data_breakpoint_stops_rep_at_its_iteration() {
    let mut m = watch(Machine::protected(), DATA + 0x10, WRITE);
    m.set(gpr::ECX, 0x40).set(gpr::EDI, DATA);
    m.bytes(&[0xF3, 0xAA, 0xF4]);
    let f = m.fault();
    assert_eq!((f.vector, f.eip, m.cpu.gpr[gpr::ECX]), (vector::DB, CODE, 0x40 - 0x11));
}

#[test]
fn io_breakpoint_needs_de_and_traps_behind_the_access() {
    for de in [false, true] {
        for bytes in [[0xE6, 0x80], [0xE4, 0x80]] {
            let mut m = watch(Machine::protected(), 0x80, IO);
            if de {
                m.cpu.cr4 |= cr4::DE;
            }
            m.bytes(&[&bytes[..], &[0xCC]].concat());
            let f = m.fault();
            assert_eq!((f.vector, f.eip), if de { (1, CODE + 2) } else { (3, CODE + 3) });
        }
    }
}

// ---- debug registers -----------------------------------------------------------------------------

#[test]
fn general_detect_faults_at_mov_dr_and_is_cleared_in_the_handler() {
    let mut m = Machine::protected();
    m.cpu.dr[7] = 0x2400;
    code!(m; mov(eax, dr6));
    let f = m.fault();
    assert_eq!((f.vector, f.eip, m.cpu.dr[6], m.cpu.dr[7]), (vector::DB, CODE, DR6 | BD, 0x400));
}

#[test]
fn dr6_and_dr7_have_fixed_bits() {
    let mut m = Machine::protected();
    code!(m;
        xor(eax, eax); mov(dr6, eax); mov(dr7, eax); mov(ebx, dr6); mov(ecx, dr7);
        mov(eax, 0xFFFF_FFFFu32); mov(dr6, eax); mov(esi, dr6);
        mov(eax, 0xFFFF_DC00u32); mov(dr7, eax); mov(edi, dr7);
        hlt());
    m.finish();
    assert_eq!((m.cpu.gpr[gpr::EBX], m.cpu.gpr[gpr::ECX]), (DR6, 0x400));
    assert_eq!((m.cpu.gpr[gpr::ESI], m.cpu.gpr[gpr::EDI]), (0xFFFF_EFFF, 0xFFFF_0400));
}

#[test]
fn dr4_and_dr5_are_dr6_and_dr7_unless_de_is_set() {
    let mut m = Machine::protected();
    m.cpu.dr[6] = DR6 | BS;
    code!(m; mov(eax, dr4); mov(ebx, dr5); hlt());
    m.finish();
    assert_eq!((m.eax(), m.cpu.gpr[gpr::EBX]), (DR6 | BS, 0x400));
    for bytes in [[0x0F, 0x21, 0xE0], [0x0F, 0x23, 0xE8]] {
        let mut m = Machine::protected();
        m.cpu.cr4 |= cr4::DE;
        m.bytes(&bytes);
        assert_eq!(m.fault().vector, vector::UD);
    }
}

#[test]
fn mov_dr_above_cpl_0_raises_gp_0() {
    for bytes in [[0x0F, 0x21, 0xC0], [0x0F, 0x23, 0xF8]] {
        let mut m = Machine::user();
        m.bytes(&bytes);
        assert_eq!(m.fault_code(), (vector::GP, 0));
    }
}

#[test]
fn engine_returns_at_its_budget_while_single_stepping() {
    let mut m = Machine::protected();
    m.cpu.set_eflags(TF | 2);
    m.set_idt(vector::DB, gate(CODE0, 0x5000, 0xEE, 0));
    code_at!(m, 0x5000; iretd());
    m.bytes(&[0xEB, 0xFE]);
    assert_eq!(m.run(1000), Exit::Budget);
    assert!((1000..1003).contains(&m.cpu.retired), "{}", m.cpu.retired);
}
