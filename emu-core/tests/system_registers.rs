//! Control registers, descriptor-table registers, CPUID, MSRs, time stamp counter, HLT, undefined
//! instructions, and the way between real and protected mode.

mod common;

use common::*;
use emu_core::cpu::state::TableReg;
use emu_core::cpu::{cr0, cr4, gpr, seg, vector};
use iced_x86::code_asm::*;

// ---- CR0, CR2, CR4 -------------------------------------------------------------------------------

/// Outcome of MOV CRn, EAX: the register's value or the fault.
fn write_cr(n: u8, value: u32) -> Result<u32, (u8, u32)> {
    let mut m = Machine::protected();
    m.enable_paging(); // tables for CR0.PG; switched off again
    m.cpu.cr0 &= !cr0::PG;
    m.set(gpr::EAX, value);
    m.bytes(&[0x0F, 0x22, 0xC0 | n << 3, 0xCC]);
    let f = m.fault();
    let value = [m.cpu.cr0, 0, m.cpu.cr2, m.cpu.cr3, m.cpu.cr4][usize::from(n.min(4))];
    if f.vector == 3 { Ok(value) } else { Err((f.vector, f.error)) }
}

#[test]
fn mov_cr0_checks_its_combinations() {
    assert_eq!(write_cr(0, 0x8000_0000), Err((vector::GP, 0))); // PG without PE
    assert_eq!(write_cr(0, 0x2000_0001), Err((vector::GP, 0))); // NW without CD
    assert_eq!(write_cr(0, 0x0000_0001), Ok(0x11)); // ET reads 1
    assert_eq!(write_cr(0, 0x8005_003F), Ok(0x8005_003F));
    assert_eq!(write_cr(0, 0x1FFA_FFC1), Ok(0x11)); // bits that do not exist
}

#[test]
fn mov_cr2_and_cr3_store() {
    assert_eq!(write_cr(2, 0x1234_5678), Ok(0x1234_5678));
    assert_eq!(write_cr(3, PAGE_DIR | 0x18), Ok(PAGE_DIR | 0x18));
}

#[test]
fn mov_cr4_with_reserved_bits_raises_gp_0() {
    for bit in 0..32 {
        let reserved = matches!(bit, 11 | 12 | 15 | 16 | 19 | 22..);
        let expected = if reserved { Err((vector::GP, 0)) } else { Ok(1 << bit) };
        assert_eq!(write_cr(4, 1 << bit), expected, "bit {bit}");
    }
}

#[test]
fn mov_of_control_registers_that_do_not_exist_raises_ud() {
    for n in [1, 5, 6, 7] {
        assert_eq!(write_cr(n, 0), Err((vector::UD, 0)), "cr{n}");
        let mut m = Machine::protected();
        m.bytes(&[0x0F, 0x20, 0xC0 | n << 3]);
        assert_eq!(m.fault().vector, vector::UD);
    }
}

#[test]
fn mov_cr_above_cpl_0_raises_gp_0() {
    for bytes in [[0x0F, 0x20, 0xC0], [0x0F, 0x22, 0xC0], [0x0F, 0x22, 0xD8], [0x0F, 0x20, 0xE0]] {
        let mut m = Machine::user();
        m.bytes(&bytes);
        assert_eq!(m.fault_code(), (vector::GP, 0));
    }
}

#[test]
fn lmsw_sets_but_never_clears_pe() {
    let mut m = Machine::protected();
    m.set(gpr::EAX, 0xFFFE);
    code!(m; lmsw(ax); smsw(ebx); smsw(cx); hlt());
    m.finish();
    assert_eq!(m.cpu.cr0, 0x6000_001F);
    assert_eq!((m.cpu.gpr[gpr::EBX], m.cpu.gpr[gpr::ECX]), (0x6000_001F, 0x1F));
    let mut m = Machine::real();
    m.set(gpr::EAX, 1);
    code!(m; lmsw(ax));
    m.step();
    assert!(m.cpu.protected());
}

#[test]
fn smsw_is_free_and_lmsw_and_clts_are_privileged() {
    let mut m = Machine::user();
    code!(m; smsw(eax); int3());
    assert_eq!(m.fault().vector, 3);
    for bytes in [&[0x0F, 0x01, 0xF0][..], &[0x0F, 0x06]] {
        let mut m = Machine::user();
        m.bytes(bytes);
        assert_eq!(m.fault_code(), (vector::GP, 0));
    }
    let mut m = Machine::protected();
    m.cpu.cr0 |= cr0::TS;
    code!(m; clts(); hlt());
    m.finish();
    assert_eq!(m.cpu.cr0 & cr0::TS, 0);
}

// ---- GDTR, IDTR ----------------------------------------------------------------------------------

#[test]
fn lgdt_and_lidt_load_24_or_32_bits_of_base() {
    let mut m = Machine::protected();
    m.write_u16(DATA, 0x1234);
    m.write_u32(DATA + 2, 0xAABB_CCDD);
    m.bytes(&[0x0F, 0x01, 0x1D, 0x00, 0x00, 0x02, 0x00]); // lidt
    m.step();
    assert_eq!(m.cpu.idtr, TableReg { base: 0xAABB_CCDD, limit: 0x1234 });
    m.bytes(&[0x66, 0x0F, 0x01, 0x15, 0x00, 0x00, 0x02, 0x00]); // lgdt, 16-bit operand
    m.step();
    assert_eq!(m.cpu.gdtr, TableReg { base: 0x00BB_CCDD, limit: 0x1234 });
}

#[test]
fn sgdt_and_sidt_store_limit_and_32_bits_of_base_at_any_cpl() {
    let mut m = Machine::user();
    m.cpu.idtr.base = IDT | 0x8000_0000;
    code!(m; sgdt(fword_ptr(DATA)); sidt(fword_ptr(DATA + 8)));
    m.step();
    m.step();
    assert_eq!((m.read_u16(DATA), m.read_u32(DATA + 2)), (GDT_LIMIT, GDT));
    assert_eq!((m.read_u16(DATA + 8), m.read_u32(DATA + 10)), (0x7FF, IDT | 0x8000_0000));
}

#[test]
fn sgdt_across_a_fault_stores_nothing() {
    let mut m = Machine::protected();
    m.enable_paging();
    m.set_pte(0x3_0000, 0);
    code!(m; sgdt(fword_ptr(0x2_FFFE)));
    assert_eq!(m.fault_code(), (vector::PF, 2));
    assert_eq!(m.read_u16(0x2_FFFE), 0);
}

#[test]
fn lgdt_and_lidt_above_cpl_0_raise_gp_0_and_register_forms_ud() {
    for modrm in [0x15, 0x1D] {
        let mut m = Machine::user();
        m.bytes(&[0x0F, 0x01, modrm, 0, 0, 2, 0]);
        assert_eq!(m.fault_code(), (vector::GP, 0));
    }
    for modrm in [0xD0, 0xD8, 0xC0, 0xC8] {
        let mut m = Machine::protected();
        m.bytes(&[0x0F, 0x01, modrm]);
        assert_eq!(m.fault().vector, vector::UD, "{modrm:#x}");
    }
}

// ---- CPUID, MSRs, TSC, RDRAND --------------------------------------------------------------------

fn cpuid(m: &mut Machine, leaf: u32, subleaf: u32) -> [u32; 4] {
    m.cpu.eip = CODE;
    m.set(gpr::EAX, leaf).set(gpr::ECX, subleaf);
    code!(m; cpuid());
    m.step();
    let g = &m.cpu.gpr;
    [g[0], g[3], g[1], g[2]]
}

#[test]
fn cpuid_reports_the_v86_processor() {
    let mut m = Machine::user();
    let table = [
        (0, 0, [0x16, 0x756E_6547, 0x6C65_746E, 0x4965_6E69]),
        (1, 0, [0x673, 0x0001_0800, 0xC080_0001, 0x0780_A979]),
        (2, 0, [0x665B_5001, 0, 0, 0x007A_7000]),
        (3, 0, [0; 4]),
        (4, 0, [0x121, 0x01C0_003F, 0x3F, 1]),
        (4, 1, [0x122, 0x01C0_003F, 0x3F, 1]),
        (4, 2, [0x143, 0x05C0_003F, 0xFFF, 1]),
        (4, 3, [0; 4]),
        (5, 0, [0x40, 0x40, 3, 0x0014_2120]),
        (6, 0, [0; 4]),
        (7, 0, [0, 0x200, 0, 0]),
        (7, 1, [0; 4]),
        (0xB, 0, [0; 4]),
        (0x15, 0, [1, 1, 0x3B9A_CA00, 0]),
        (0x16, 0, [0x3E8, 0x3E8, 0xA, 0]),
        (0x17, 0, [0; 4]),
        (0x4000_0000, 0, [0, 0x6177_4D56, 0x4D56_6572, 0x6572_6177]),
        (0x8000_0000, 0, [5, 0, 0, 0]),
        (0x8000_0001, 0, [0; 4]),
        (u32::MAX, 0, [0; 4]),
    ];
    for (leaf, subleaf, expected) in table {
        assert_eq!(cpuid(&mut m, leaf, subleaf), expected, "leaf {leaf:#x}.{subleaf}");
    }
    m.cpu.has_apic = true;
    assert_eq!(cpuid(&mut m, 1, 0)[3], 0x0780_AB79);
    m.cpu.cpuid_level = 2;
    assert_eq!(cpuid(&mut m, 0, 0)[0], 2);
}

fn rdmsr(m: &mut Machine, index: u32) -> u64 {
    m.cpu.eip = CODE;
    m.set(gpr::ECX, index);
    code!(m; rdmsr());
    m.step();
    u64::from(m.cpu.gpr[gpr::EDX]) << 32 | u64::from(m.eax())
}

fn wrmsr(m: &mut Machine, index: u32, value: u64) {
    m.cpu.eip = CODE;
    m.set(gpr::ECX, index).set(gpr::EAX, value as u32).set(gpr::EDX, (value >> 32) as u32);
    code!(m; wrmsr());
    m.step();
}

#[test]
fn sysenter_msrs_are_stored() {
    let mut m = Machine::protected();
    wrmsr(&mut m, 0x174, 0x1_2345_6789);
    wrmsr(&mut m, 0x175, 0x1111_2222);
    wrmsr(&mut m, 0x176, 0x3333_4444);
    assert_eq!(rdmsr(&mut m, 0x174), 0x6789);
    assert_eq!((rdmsr(&mut m, 0x175), rdmsr(&mut m, 0x176)), (0x1111_2222, 0x3333_4444));
}

#[test]
fn constant_and_unknown_msrs_read_fixed_values_and_ignore_writes() {
    let mut m = Machine::protected();
    for (index, expected) in
        [(0x17, 0), (0xCE, 0x100), (0x1A0, 1), (0x8B, 0), (0x277, 0), (0xC000_0080, 0), (0xDEAD, 0)]
    {
        wrmsr(&mut m, index, u64::MAX);
        assert_eq!(rdmsr(&mut m, index), expected, "{index:#x}");
    }
}

#[test]
fn msrs_of_absent_features_raise_gp_0() {
    // IA32_SPEC_CTRL, IA32_MC0_CTL, an x2APIC register, LSTAR, FS base
    for index in [0x48, 0x400, 0x802, 0xC000_0082, 0xC000_0100] {
        for instruction in [0x30, 0x32] {
            let mut m = Machine::protected();
            m.set(gpr::ECX, index).bytes(&[0x0F, instruction]);
            assert_eq!(m.fault_code(), (vector::GP, 0), "{index:#x}");
        }
    }
}

#[test]
fn rdpmc_reads_zero_and_knows_two_counters() {
    let mut m = Machine::protected();
    m.set(gpr::ECX, 1).set(gpr::EAX, 5).set(gpr::EDX, 5).bytes(&[0x0F, 0x33]);
    m.step();
    assert_eq!((m.eax(), m.cpu.gpr[gpr::EDX]), (0, 0));
    let mut m = Machine::protected();
    m.set(gpr::ECX, 64).bytes(&[0x0F, 0x33]);
    assert_eq!(m.fault_code(), (vector::GP, 0));
}

#[test]
fn rdpmc_above_cpl_0_needs_pce() {
    let mut m = Machine::user();
    m.set(gpr::ECX, 0).bytes(&[0x0F, 0x33]);
    assert_eq!(m.fault_code(), (vector::GP, 0));
    let mut m = Machine::user();
    m.cpu.cr4 |= cr4::PCE;
    m.set(gpr::ECX, 0).bytes(&[0x0F, 0x33, 0xCC]);
    assert_eq!(m.fault().vector, 3);
}

#[test]
fn apic_base_msr_belongs_to_the_machine() {
    let mut m = Machine::protected();
    assert_eq!(rdmsr(&mut m, 0x1B), 0);
    wrmsr(&mut m, 0x1B, 0xFEE0_0800);
    assert_eq!(rdmsr(&mut m, 0x1B), 0xFEE0_0800);
}

#[test]
fn tsc_counts_and_can_be_written() {
    let mut m = Machine::protected();
    m.bus.tsc = 0x5_0000_0000;
    code!(m; rdtsc());
    m.step();
    assert_eq!((m.cpu.gpr[gpr::EDX], m.eax()), (5, 0));
    wrmsr(&mut m, 0x10, 0x1_0000_0000);
    // One instruction, WRMSR itself, lies between.
    assert_eq!(rdmsr(&mut m, 0x10), 0x1_0000_0001);
}

#[test]
fn rdtsc_above_cpl_0_needs_tsd_clear() {
    let mut m = Machine::user();
    code!(m; rdtsc(); int3());
    assert_eq!(m.fault().vector, 3);
    let mut m = Machine::user();
    m.cpu.cr4 |= cr4::TSD;
    code!(m; rdtsc());
    assert_eq!(m.fault_code(), (vector::GP, 0));
}

#[test]
fn rdrand_sets_cf_and_clears_the_other_flags() {
    let mut m = Machine::user();
    m.bus.random = 0xDEAD_BEEF;
    m.cpu.set_eflags(0x8D6);
    m.set(gpr::EBX, 0x1111_1111);
    code!(m; rdrand(eax); rdrand(bx));
    m.step();
    m.step();
    assert_eq!((m.eax(), m.cpu.gpr[gpr::EBX], m.cpu.eflags()), (0xDEAD_BEEF, 0x1111_BEEF, 3));
}

// ---- privileged and undefined --------------------------------------------------------------------

#[test]
fn privileged_instructions_above_cpl_0_raise_gp_0() {
    let privileged: [&[u8]; 7] = [
        &[0xF4],                         // hlt
        &[0x0F, 0x08],                   // invd
        &[0x0F, 0x09],                   // wbinvd
        &[0x0F, 0x30],                   // wrmsr
        &[0x0F, 0x32],                   // rdmsr
        &[0x0F, 0x01, 0x3D, 0, 0, 2, 0], // invlpg
        &[0x0F, 0x35],                   // sysexit
    ];
    for bytes in privileged {
        let mut m = Machine::user();
        m.bytes(bytes);
        assert_eq!(m.fault_code(), (vector::GP, 0), "{bytes:x?}");
    }
}

#[test]
fn cache_instructions_do_nothing_at_cpl_0() {
    let mut m = Machine::protected();
    code!(m; invd(); wbinvd(); hlt());
    m.finish();
}

#[test]
fn instructions_that_cpuid_does_not_offer_raise_ud() {
    let undefined: [&[u8]; 17] = [
        &[0x0F, 0x0B],             // ud2
        &[0x0F, 0xB9, 0xC0],       // ud1
        &[0x0F, 0xFF, 0xC0],       // ud0
        &[0x0F, 0x05],             // syscall
        &[0x0F, 0x07],             // sysret
        &[0x0F, 0xAA],             // rsm
        &[0x0F, 0x01, 0xC8],       // monitor
        &[0x0F, 0x01, 0xC9],       // mwait
        &[0x0F, 0x01, 0xD0],       // xgetbv
        &[0x0F, 0x01, 0xC1],       // vmcall
        &[0x0F, 0x01, 0xF9],       // rdtscp
        &[0x0F, 0xAE, 0x38],       // clflush [eax]
        &[0x0F, 0xC7, 0xF8],       // rdseed
        &[0x0F, 0xC7, 0x30],       // rdrand's number, memory form
        &[0x0F, 0x24, 0xC0],       // mov eax, tr0
        &[0xF0, 0xF4],             // lock hlt
        &[0xF0, 0x0F, 0x20, 0xC0], // lock mov eax, cr0
    ];
    for bytes in undefined {
        let mut m = Machine::protected();
        m.bytes(bytes);
        let f = m.fault();
        assert_eq!((f.vector, f.eip), (vector::UD, CODE), "{bytes:x?}");
    }
}

// ---- mode switches -------------------------------------------------------------------------------

#[test]
fn real_to_protected_to_real_mode() {
    let mut m = Machine::protected();
    // The tables of the protected environment stay; the CPU starts afresh.
    let real = Machine::real();
    m.cpu = real.cpu;
    m.cpu.gdtr = TableReg { base: 0, limit: 0 };
    m.write_u16(0x7000, GDT_LIMIT);
    m.write_u32(0x7002, GDT);
    code!(m;
        cli();
        lgdt(fword_ptr(0x7000));
        mov(eax, cr0); or(al, 1); mov(cr0, eax));
    for _ in 0..5 {
        m.step();
    }
    assert!(m.cpu.protected());
    assert!(!m.cpu.mode.code32());
    let at = CODE + m.cpu.eip;
    m.write(at, &[0x66, 0xEA]); // jmp CODE0:CODE+100h
    m.write_u32(at + 2, CODE + 0x100);
    m.write_u16(at + 6, CODE0);
    // 32-bit code: flat DS, write above 1 MiB, then through a 16-bit segment back.
    m.set_gdt(FREE, descriptor(CODE, 0xFFFF, 0x9B, 0));
    m.set_gdt(FREE + 8, descriptor(0, 0xFFFF, 0x93, 0));
    code_at!(m, CODE + 0x100;
        mov(eax, u32::from(DATA0)); mov(ds, ax);
        mov(dword_ptr(0x20_0000), 0x600D_600Du32);
        mov(eax, u32::from(FREE + 8)); mov(ds, ax); mov(ss, ax));
    for _ in 0..7 {
        m.step();
    }
    assert!(m.cpu.mode.code32());
    assert_eq!(m.read_u32(0x20_0000), 0x600D_600D);
    let at = m.cpu.eip;
    m.write(at, &[0xEA]);
    m.write_u32(at + 1, 0x200);
    m.write_u16(at + 5, FREE);
    let back = assemble(16, 0x200, |a| {
        a.mov(eax, cr0).unwrap();
        a.and(al, 0xFEu32 as i32).unwrap();
        a.mov(cr0, eax).unwrap();
    });
    m.write(CODE + 0x200, &back);
    for _ in 0..4 {
        m.step();
    }
    assert!(!m.cpu.protected());
    let at = CODE + m.cpu.eip;
    m.write(at, &[0xEA, 0x00, 0x03, 0x00, 0x10]); // jmp 1000:0300
    let last = assemble(16, 0x300, |a| {
        a.mov(ax, 0x2000).unwrap();
        a.mov(ds, ax).unwrap();
        a.mov(byte_ptr(0x10), 0x5A).unwrap();
        a.hlt().unwrap();
    });
    m.write(CODE + 0x300, &last);
    m.finish();
    assert_eq!((m.read_u8(0x2_0010), m.selector(seg::CS)), (0x5A, 0x1000));
    assert!(!m.cpu.mode.code32());
}

#[test]
fn code_behind_mov_cr0_runs_with_the_old_segments() {
    let mut m = Machine::real();
    m.set(gpr::EBX, 0x1234);
    code!(m; mov(eax, cr0); or(al, 1); mov(cr0, eax); mov(word_ptr(0x10), bx); hlt());
    m.finish();
    assert_eq!(m.read_u16(0x10), 0x1234);
}
