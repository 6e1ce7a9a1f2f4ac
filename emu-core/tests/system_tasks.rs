//! Hardware tasks: switches by JMP, CALL, IRET, gates and exceptions; faults in both tasks.

mod common;

use common::*;
use emu_core::cpu::segment::Segment;
use emu_core::cpu::{cr0, cr4, gpr, seg, vector};
use emu_core::engine::Exit;
use iced_x86::code_asm::*;

const NEW_TSS: u32 = 0x2_1000;
const NEW: u16 = FREE;
const GATE: u16 = FREE + 8;
const TARGET: u32 = CODE + 0x400;
const NEW_STACK: u32 = 0x2_3000;
const AVAILABLE: u32 = 0x89;
const BUSY: u32 = 0x8B;

/// A second 32-bit task at CPL 0 that starts at [`TARGET`].
fn two_tasks(mut m: Machine) -> Machine {
    m.set_gdt(NEW, descriptor(NEW_TSS, 0x67, AVAILABLE | 0x60, 0));
    m.set_gdt(GATE, gate(NEW, 0, 0xE5, 0));
    let fields = [
        (0x20, TARGET),
        (0x24, 0x47),
        (0x28, 0xA0),
        (0x2C, 0xA1),
        (0x30, 0xA2),
        (0x34, 0xA3),
        (0x38, NEW_STACK),
        (0x3C, 0xA5),
        (0x40, 0xA6),
        (0x44, 0xA7),
        (0x48, DATA0.into()),
        (0x4C, CODE0.into()),
        (0x50, DATA0.into()),
        (0x54, DATA0.into()),
        (0x58, DATA3.into()),
        (0x5C, 0),
        (0x60, 0),
    ];
    for (at, v) in fields {
        m.write_u32(NEW_TSS + at, v);
    }
    m
}

fn kernel() -> Machine {
    two_tasks(Machine::protected())
}

fn field(m: &mut Machine, at: u32, v: u32) {
    m.write_u32(NEW_TSS + at, v);
}

/// A third TSS with the contents of the second, its descriptor at `FREE + 16`.
fn copy_task(m: &mut Machine) -> u32 {
    let third = 0x2_2000;
    for n in 0..26 {
        let v = m.read_u32(NEW_TSS + 4 * n);
        m.write_u32(third + 4 * n, v);
    }
    m.set_gdt(FREE + 16, descriptor(third, 0x67, AVAILABLE, 0));
    third
}

fn far(m: &mut Machine, opcode: u8, selector: u16) {
    let mut b = vec![opcode, 0, 0, 0, 0];
    b.extend(selector.to_le_bytes());
    m.bytes(&b);
}

fn jmp(m: &mut Machine, selector: u16) {
    far(m, 0xEA, selector);
}

fn call(m: &mut Machine, selector: u16) {
    far(m, 0x9A, selector);
}

fn kind(m: &Machine, selector: u16) -> u32 {
    m.gdt(selector).1 >> 8 & 0x8F
}

#[test]
fn jmp_to_a_tss_saves_the_old_task_and_loads_the_new() {
    let mut m = kernel();
    for r in 0..8 {
        if r != gpr::ESP {
            m.set(r, 0x50 + r as u32);
        }
    }
    m.cpu.set_eflags(0x0893);
    jmp(&mut m, NEW);
    m.step();
    let saved: Vec<u32> = (0..10).map(|n| m.read_u32(TSS + 0x20 + 4 * n)).collect();
    assert_eq!(saved, [CODE + 7, 0x893, 0x50, 0x51, 0x52, 0x53, STACK0, 0x55, 0x56, 0x57]);
    assert_eq!((m.read_u16(TSS + 0x48), m.read_u16(TSS + 0x4C)), (DATA0, CODE0));
    let loaded: Vec<u32> = (0..8).map(|r| m.cpu.gpr[r]).collect();
    assert_eq!(loaded, [0xA0, 0xA1, 0xA2, 0xA3, NEW_STACK, 0xA5, 0xA6, 0xA7]);
    assert_eq!((m.cpu.eip, m.cpu.eflags()), (TARGET, 0x47));
    assert_eq!((m.selector(seg::FS), m.selector(seg::GS)), (DATA3, 0));
    assert_eq!((kind(&m, TSS_SEL), kind(&m, NEW)), (AVAILABLE, BUSY));
    assert_eq!((m.cpu.tr.selector, m.cpu.tr.base, m.cpu.tr.limit), (NEW, NEW_TSS, 0x67));
    assert_ne!(m.cpu.cr0 & cr0::TS, 0);
    // no nesting
    assert_eq!(m.read_u16(NEW_TSS), 0);
}

#[test]
fn call_to_a_tss_nests_and_iret_returns() {
    let mut m = kernel();
    call(&mut m, NEW);
    code_at!(m, TARGET; inc(eax); iretd(); inc(ebx); hlt());
    m.step();
    assert_eq!((kind(&m, TSS_SEL), kind(&m, NEW)), (BUSY, BUSY));
    assert_eq!((m.read_u16(NEW_TSS), m.cpu.eflags()), (TSS_SEL, 0x4047));
    m.step();
    m.step();
    assert_eq!((m.cpu.eip, m.cpu.gpr[gpr::ESP], m.cpu.tr.selector), (CODE + 7, STACK0, TSS_SEL));
    assert_eq!((kind(&m, TSS_SEL), kind(&m, NEW)), (BUSY, AVAILABLE));
    // NT is clear in the saved image, EIP lies behind IRET, so that a second call goes on there.
    assert_eq!((m.read_u32(NEW_TSS + 0x20), m.read_u32(NEW_TSS + 0x24)), (TARGET + 2, 0x3));
    assert_eq!(m.read_u32(NEW_TSS + 0x28), 0xA1);
    assert_eq!(m.cpu.eflags & 0x4000, 0);
}

#[test]
fn task_gate_by_jmp_call_and_int() {
    for opcode in [0xEA, 0x9A] {
        let mut m = kernel();
        far(&mut m, opcode, GATE);
        m.step();
        assert_eq!((m.cpu.eip, m.cpu.tr.selector), (TARGET, NEW));
        assert_eq!(m.cpu.eflags & 0x4000 != 0, opcode == 0x9A);
    }
    let mut m = kernel();
    m.set_idt(0x80, gate(NEW, 0, 0xE5, 0));
    code!(m; int(0x80));
    m.step();
    assert_eq!((m.cpu.eip, m.read_u16(NEW_TSS), m.read_u32(TSS + 0x20)), (TARGET, TSS_SEL, CODE + 2));
    assert_ne!(m.cpu.eflags & 0x4000, 0);
}

#[test]
fn exception_through_a_task_gate_pushes_its_error_code_and_saves_rf() {
    let mut m = kernel();
    m.set_idt(vector::GP, gate(NEW, 0, 0x85, 0));
    code!(m; mov(eax, 0xC0u32); mov(ds, ax));
    m.step();
    m.step();
    assert_eq!((m.cpu.eip, m.cpu.gpr[gpr::ESP], m.stack(0)), (TARGET, NEW_STACK - 4, 0xC0));
    assert_eq!((m.read_u32(TSS + 0x20), m.read_u32(TSS + 0x24)), (CODE + 5, 0x1_0002));
}

#[test]
fn double_fault_task_gets_a_good_stack() {
    let mut m = kernel();
    m.set_idt(vector::DF, gate(NEW, 0, 0x85, 0));
    m.set(gpr::ESP, 0);
    m.enable_paging();
    m.write_u32(NEW_TSS + 0x1C, PAGE_DIR);
    code!(m; push(eax));
    m.step();
    assert_eq!((m.cpu.eip, m.cpu.gpr[gpr::ESP], m.stack(0)), (TARGET, NEW_STACK - 4, 0));
    assert_eq!(m.cpu.cr2, 0xFFFF_FFFC);
}

#[test]
fn switch_to_a_user_task_and_interrupt_back() {
    let mut m = kernel();
    for at in [0x48, 0x50, 0x54] {
        field(&mut m, at, DATA3.into());
    }
    field(&mut m, 0x4C, CODE3.into());
    field(&mut m, 4, INNER_STACK);
    field(&mut m, 8, DATA0.into());
    jmp(&mut m, NEW);
    code_at!(m, TARGET; int(0x80));
    let f = m.fault();
    assert_eq!((f.vector, f.cs, f.outer), (0x80, CODE3, Some((NEW_STACK, DATA3))));
}

#[test]
fn switch_to_a_vm86_task() {
    let mut m = kernel();
    field(&mut m, 0x20, 0x123);
    field(&mut m, 0x24, 0x2_0002);
    for (at, v) in [(0x48, 0x1111), (0x4C, 0x2222), (0x50, 0x3333), (0x54, 0x4444)] {
        field(&mut m, at, v);
    }
    jmp(&mut m, NEW);
    m.step();
    assert!(m.cpu.vm86());
    assert_eq!((m.cpu.cpl, m.cpu.seg[seg::CS].base, m.cpu.eip), (3, 0x2_2220, 0x123));
    assert_eq!((m.cpu.seg[seg::SS].base, m.cpu.seg[seg::DS].base), (0x3_3330, 0x4_4440));
}

#[test]
fn switch_loads_ldt_and_segments_from_it() {
    let mut m = kernel();
    field(&mut m, 0x60, LDT_SEL.into());
    let (low, high) = m.gdt(DATA0);
    m.write_u32(LDT + 8, low);
    m.write_u32(LDT + 12, high);
    field(&mut m, 0x54, 0x0C);
    jmp(&mut m, NEW);
    m.step();
    assert_eq!((m.cpu.ldtr.selector, m.cpu.ldtr.base), (LDT_SEL, LDT));
    assert_eq!((m.selector(seg::DS), m.cpu.seg[seg::DS].limit), (0x0C, u32::MAX));
}

#[test]
fn switch_loads_cr3_when_paging_is_on() {
    let mut m = kernel();
    m.enable_paging();
    // A second directory that maps DATA elsewhere.
    let (dir, table) = (0x20_0000, 0x20_1000);
    m.write_u32(dir, table | 7);
    for n in 0..1024 {
        m.write_u32(table + n * 4, n << 12 | 7);
    }
    m.write_u32(table + (DATA >> 12) * 4, 0x5_0007);
    m.write_u32(0x5_0000, 0x1234_5678);
    field(&mut m, 0x1C, dir);
    code_at!(m, TARGET; mov(eax, dword_ptr(DATA)); hlt());
    jmp(&mut m, NEW);
    m.finish();
    assert_eq!((m.cpu.cr3, m.eax()), (dir, 0x1234_5678));
}

#[test]
fn switch_to_a_16_bit_tss_and_back() {
    let mut m = kernel();
    m.set_gdt(NEW, descriptor(NEW_TSS, 0x2B, 0xE1, 0));
    let words: [u16; 15] = [0x4C00, 0x0003, 1, 2, 3, 4, 0x8000, 6, 7, 8, DATA0, CODE0, DATA0, DATA0, 0];
    for (n, v) in words.into_iter().enumerate() {
        m.write_u16(NEW_TSS + 0x0E + 2 * n as u32, v);
    }
    m.force_segment(seg::FS, DATA3);
    call(&mut m, NEW);
    code_at!(m, 0x4C00; iretd());
    m.step();
    assert_eq!((m.cpu.eip, m.cpu.gpr[gpr::ESP], m.eax()), (0x4C00, 0xFFFF_8000, 0xFFFF_0001));
    assert_eq!((kind(&m, NEW), m.selector(seg::FS)), (0x83, 0));
    m.step();
    assert_eq!((m.cpu.eip, m.selector(seg::FS), kind(&m, NEW)), (CODE + 7, DATA3, 0x81));
    assert_eq!(m.read_u16(NEW_TSS + 0x0E), 0x4C01);
}

#[test]
fn switch_with_the_t_bit_raises_db_in_the_new_task() {
    let mut m = kernel();
    m.write_u16(NEW_TSS + 0x64, 1);
    m.cpu.dr[6] = 0xFFFF_0FF0;
    jmp(&mut m, NEW);
    let f = m.fault();
    assert_eq!((f.vector, f.eip, f.sp), (vector::DB, TARGET, NEW_STACK - 12));
    assert_eq!(m.cpu.dr[6], 0xFFFF_8FF0);
}

#[test]
fn switch_clears_local_breakpoint_enables() {
    let mut m = kernel();
    m.cpu.dr[7] = 0x7FF;
    jmp(&mut m, NEW);
    m.step();
    assert_eq!(m.cpu.dr[7], 0x6AA);
}

// ---- faults that belong to the old task ----------------------------------------------------------

/// Vector and error of JMP to a task; the old task must be untouched.
fn old_fault(change: impl Fn(&mut Machine), selector: u16) -> (u8, u32) {
    let mut result = None;
    for opcode in [0xEA, 0x9A] {
        let mut m = kernel();
        change(&mut m);
        far(&mut m, opcode, selector);
        let f = m.fault();
        assert_eq!((f.eip, f.cs, m.cpu.tr.selector), (CODE, CODE0, TSS_SEL));
        assert_eq!(m.cpu.cr0 & cr0::TS, 0);
        assert_eq!(*result.get_or_insert((f.vector, f.error)), (f.vector, f.error));
    }
    result.unwrap()
}

#[test]
fn switch_to_a_busy_tss_raises_gp_selector() {
    let busy = |m: &mut Machine| m.set_gdt(NEW, descriptor(NEW_TSS, 0x67, BUSY, 0));
    assert_eq!(old_fault(busy, NEW), (vector::GP, NEW.into()));
    assert_eq!(old_fault(busy, GATE), (vector::GP, NEW.into()));
}

#[test]
fn switch_to_an_absent_tss_raises_np_selector() {
    let absent = |m: &mut Machine| m.set_gdt(NEW, descriptor(NEW_TSS, 0x67, 9, 0));
    assert_eq!(old_fault(absent, NEW), (vector::NP, NEW.into()));
    assert_eq!(old_fault(absent, GATE), (vector::NP, NEW.into()));
}

#[test]
fn switch_to_a_tss_that_is_too_small_raises_ts_selector() {
    let small = |m: &mut Machine| m.set_gdt(NEW, descriptor(NEW_TSS, 0x66, AVAILABLE, 0));
    assert_eq!(old_fault(small, NEW), (vector::TS, NEW.into()));
    let small = |m: &mut Machine| m.set_gdt(NEW, descriptor(NEW_TSS, 0x2A, 0x81, 0));
    assert_eq!(old_fault(small, NEW), (vector::TS, NEW.into()));
}

#[test]
fn task_gate_that_names_no_gdt_tss_raises_gp_selector() {
    assert_eq!(old_fault(|m| m.set_gdt(GATE, gate(NEW | 4, 0, 0xE5, 0)), GATE), (vector::GP, 0x7C));
    assert_eq!(old_fault(|m| m.set_gdt(GATE, gate(0xC0, 0, 0xE5, 0)), GATE), (vector::GP, 0xC0));
    let code = |m: &mut Machine| m.set_gdt(GATE, gate(CODE0, 0, 0xE5, 0));
    assert_eq!(old_fault(code, GATE), (vector::GP, CODE0.into()));
    let absent = |m: &mut Machine| m.set_gdt(GATE, gate(NEW, 0, 0x65, 0));
    assert_eq!(old_fault(absent, GATE), (vector::NP, GATE.into()));
}

#[test]
fn tss_and_task_gate_with_dpl_below_cpl_raise_gp_selector() {
    let mut m = two_tasks(Machine::user());
    m.set_gdt(NEW, descriptor(NEW_TSS, 0x67, AVAILABLE, 0));
    jmp(&mut m, NEW | 3);
    assert_eq!(m.fault_code(), (vector::GP, NEW.into()));
    // The gate's privilege counts, not that of the TSS behind it.
    let mut m = two_tasks(Machine::user());
    m.set_gdt(NEW, descriptor(NEW_TSS, 0x67, AVAILABLE, 0));
    jmp(&mut m, GATE | 3);
    m.step();
    assert_eq!(m.cpu.tr.selector, NEW);
}

#[test]
fn switch_with_an_unmapped_new_tss_raises_pf_and_leaves_the_old_task() {
    let unmapped = |m: &mut Machine| {
        m.enable_paging();
        m.set_pte(NEW_TSS, 0);
    };
    assert_eq!(old_fault(unmapped, NEW), (vector::PF, 0));
}

#[test]
fn switch_with_a_write_protected_old_tss_raises_pf_and_leaves_the_old_task() {
    let protected = |m: &mut Machine| {
        m.enable_paging();
        m.cpu.cr0 |= cr0::WP;
        m.set_pte(TSS, TSS | 5);
    };
    assert_eq!(old_fault(protected, NEW), (vector::PF, 3));
}

#[test]
fn iret_with_nt_and_a_bad_link_raises_ts_link() {
    for (link, code) in [(0, 0), (0xC0, 0xC0), (NEW, NEW), (CODE0, CODE0), (TSS_SEL | 4, TSS_SEL | 4)] {
        let mut m = kernel();
        m.write_u16(TSS, link);
        m.cpu.set_eflags(0x4002);
        code!(m; iretd());
        let f = m.fault();
        assert_eq!((f.vector, f.error, f.eip), (vector::TS, code.into(), CODE), "{link:#x}");
    }
}

// ---- faults that belong to the new task ----------------------------------------------------------

/// Vector, error and EIP of a fault in the new task.
fn new_fault(change: impl Fn(&mut Machine)) -> (u8, u32) {
    let mut m = kernel();
    change(&mut m);
    jmp(&mut m, NEW);
    m.step();
    assert_eq!((m.cpu.tr.selector, kind(&m, TSS_SEL), kind(&m, NEW)), (NEW, AVAILABLE, BUSY));
    assert_eq!(m.read_u32(TSS + 0x20), CODE + 7);
    // The frame names the new task's code.
    assert_eq!((m.stack(1), m.cpu.gpr[gpr::EAX]), (m.read_u32(NEW_TSS + 0x20), 0xA0));
    (((m.cpu.eip - HANDLERS) / 16) as u8, m.stack(0))
}

#[test]
fn new_task_with_a_bad_data_segment_raises_ts_or_np() {
    assert_eq!(new_fault(|m| field(m, 0x54, 0xC0)), (vector::TS, 0xC0));
    assert_eq!(new_fault(|m| field(m, 0x54, EXECUTE_ONLY.into())), (vector::TS, EXECUTE_ONLY.into()));
    assert_eq!(new_fault(|m| field(m, 0x48, ABSENT_DATA.into())), (vector::NP, ABSENT_DATA.into()));
    assert_eq!(new_fault(|m| field(m, 0x5C, TSS_SEL.into())), (vector::TS, TSS_SEL.into()));
}

#[test]
fn new_task_with_eip_beyond_its_limit_raises_gp_0() {
    let far_eip = |m: &mut Machine| {
        m.set_gdt(CODE0_16, descriptor(0, 0xFFFF, 0x9B, 4));
        field(m, 0x4C, CODE0_16.into());
    };
    assert_eq!(new_fault(far_eip), (vector::GP, 0));
}

#[test]
fn new_task_with_a_bad_ldt_raises_ts_selector() {
    // #TS is served by a task gate: without LDT no segment of the new task was loaded.
    let mut m = kernel();
    field(&mut m, 0x60, CODE0.into());
    let third = copy_task(&mut m);
    m.write_u32(third + 0x60, 0);
    m.write_u32(third + 0x20, Machine::handler(vector::TS));
    m.set_idt(vector::TS, gate(FREE + 16, 0, 0x85, 0));
    jmp(&mut m, NEW);
    assert_eq!(m.run(10), Exit::Halted);
    assert_eq!((m.cpu.tr.selector, m.stack(0)), (FREE + 16, CODE0.into()));
    assert_eq!(m.read_u16(third), NEW);
    assert_eq!(m.read_u32(NEW_TSS + 0x20), TARGET);
}

#[test]
fn new_task_with_bad_code_or_stack_segment_raises_ts_in_a_task_of_its_own() {
    let cases = [
        (0x4C, 0u16, 0u16),       // null CS
        (0x4C, DATA0, DATA0),     // CS is data
        (0x4C, CODE3 & !3, 0x18), // DPL 3, RPL 0
        (0x4C, 0xC0, 0xC0),       // outside
        (0x50, 0, 0),             // null SS
        (0x50, READ_ONLY, READ_ONLY),
        (0x50, DATA3, DATA3 & !3), // RPL and DPL 3
        (0x50, 0xC0, 0xC0),
    ];
    for (at, selector, code) in cases {
        let mut m = kernel();
        field(&mut m, at, selector.into());
        let third = copy_task(&mut m);
        m.write_u32(third + 0x4C, CODE0.into());
        m.write_u32(third + 0x50, DATA0.into());
        m.write_u32(third + 0x20, Machine::handler(vector::TS));
        m.set_idt(vector::TS, gate(FREE + 16, 0, 0x85, 0));
        jmp(&mut m, NEW);
        assert_eq!(m.run(10), Exit::Halted);
        assert_eq!((m.cpu.tr.selector, m.stack(0)), (FREE + 16, code.into()), "{at:#x} {selector:#x}");
    }
}

#[test]
fn pae_task_with_bad_page_directory_pointers_raises_gp_in_the_new_task() {
    let mut m = kernel();
    // PAE tables that map the first 2 MiB with one large page.
    let pdpt = 0x30_0000;
    m.write_u32(pdpt, 0x30_1001);
    m.write_u32(0x30_1000, 0x83);
    m.cpu.cr4 |= cr4::PAE | cr4::PSE;
    m.cpu.cr3 = pdpt;
    m.cpu.pdpte = [0x30_1001, 0, 0, 0];
    m.cpu.cr0 |= cr0::PG;
    m.write_u32(0x30_2000, 0x1E7);
    field(&mut m, 0x1C, 0x30_2000);
    m.set_idt(vector::GP, gate(FREE + 16, 0, 0x85, 0));
    let third = copy_task(&mut m);
    m.write_u32(third + 0x1C, pdpt);
    m.write_u32(third + 0x20, Machine::handler(vector::GP));
    jmp(&mut m, NEW);
    assert_eq!(m.run(10), Exit::Halted);
    assert_eq!((m.cpu.tr.selector, m.stack(0), m.cpu.cr3), (FREE + 16, 0, pdpt));
}

#[test]
fn fault_of_a_task_switch_during_delivery_makes_a_double_fault() {
    // #GP through a task gate whose task has a bad DS: #TS while delivering #GP.
    let mut m = kernel();
    field(&mut m, 0x54, 0xC0);
    m.set_idt(vector::GP, gate(NEW, 0, 0x85, 0));
    code!(m; mov(eax, 0xC0u32); mov(ds, ax));
    let f = m.fault();
    assert_eq!((f.vector, f.error, f.eip, m.cpu.tr.selector), (vector::DF, 0, TARGET, NEW));
}

#[test]
fn ltr_marks_the_tss_busy_and_loads_it() {
    let mut m = kernel();
    code!(m; mov(eax, u32::from(NEW)); ltr(ax); hlt());
    m.finish();
    assert_eq!((m.cpu.tr.selector, m.cpu.tr.base, kind(&m, NEW)), (NEW, NEW_TSS, BUSY));
}

#[test]
fn ltr_refuses_null_busy_absent_and_other_descriptors() {
    for (selector, kind, expected) in [
        (0u16, 0x89, (vector::GP, 0)),
        (NEW, BUSY, (vector::GP, u32::from(NEW))),
        (NEW, 0x09, (vector::NP, u32::from(NEW))),
        (NEW, 0x82, (vector::GP, u32::from(NEW))),
        (NEW, 0x93, (vector::GP, u32::from(NEW))),
        (NEW | 4, 0x89, (vector::GP, u32::from(NEW | 4))),
        (0xC0, 0x89, (vector::GP, 0xC0)),
    ] {
        let mut m = kernel();
        m.set_gdt(NEW, descriptor(NEW_TSS, 0x67, kind, 0));
        m.set(gpr::EAX, selector.into());
        code!(m; ltr(ax));
        assert_eq!(m.fault_code(), expected, "{selector:#x} {kind:#x}");
    }
}

#[test]
fn task_with_null_data_segments_faults_on_use_only() {
    let mut m = kernel();
    for at in [0x48, 0x54, 0x58] {
        field(&mut m, at, 0);
    }
    jmp(&mut m, NEW);
    code_at!(m, TARGET; nop(); mov(eax, dword_ptr(DATA)));
    let f = m.fault();
    assert_eq!((f.vector, f.error, f.eip), (vector::GP, 0, TARGET + 1));
    assert_eq!(m.cpu.seg[seg::DS], Segment::null(0));
}
