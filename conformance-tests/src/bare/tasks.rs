//! Task switches by every instruction and event, to 16- and 32-bit TSSs, back by IRET, and with everything
//! wrong that can be wrong in a TSS (SDM vol. 3, chapter 7).
//!
//! The exceptions of a faulting switch arrive through task gates of their own: their stack is good whatever
//! the new task's is, and the back link tells which task faulted.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::builder::{Asm, Builder, Case, Mark, RF, show, show_at};
use super::layout::*;
use crate::asm;

/// TSSs of the handlers of #DF, #TS, #NP, #SS, #GP, #PF.
const HANDLERS: u32 = TSS3 + 0x100;
const HANDLER_SLOT: u16 = 16;
const CAUGHT: [u8; 6] = [8, 10, 11, 12, 13, 14];
/// The target TSS, its task gate, segments for it.
const TARGET: u16 = sel::TSS2;
const GATE: u16 = sel::slot(1);
const SEGMENT: u16 = sel::slot(2);
const VECTOR: u8 = 0x50;
const STACK2: u32 = 0x22_8000;
const STACK3: u32 = 0x22_C000;

/// Fields of a 32-bit TSS.
mod at {
    pub(super) const CR3: u32 = 0x1C;
    pub(super) const EIP: u32 = 0x20;
    pub(super) const EFLAGS: u32 = 0x24;
    pub(super) const EAX: u32 = 0x28;
    pub(super) const EBX: u32 = 0x34;
    pub(super) const ESP: u32 = 0x38;
    pub(super) const ES: u32 = 0x48;
    pub(super) const CS: u32 = 0x4C;
    pub(super) const SS: u32 = 0x50;
    pub(super) const DS: u32 = 0x54;
    pub(super) const FS: u32 = 0x58;
    pub(super) const GS: u32 = 0x5C;
    pub(super) const LDT: u32 = 0x60;
    pub(super) const TRAP: u32 = 0x64;
}

/// A 32-bit TSS for a task in ring `ring`.
fn tss32(b: &mut Builder, base: u32, entry: Mark, esp_value: u32, ring: u16) -> Asm {
    asm!(b; mov(edi, base); mov(ecx, 26); xor(eax, eax); cld());
    b.a.rep().stosd()?;
    b.poke(base + 4, INNER0)?;
    b.poke(base + 8, u32::from(sel::DATA0))?;
    b.poke_addr(base + at::EIP, entry)?;
    b.poke(base + at::EFLAGS, 2)?;
    for n in 0..8 {
        b.poke(base + at::EAX + n * 4, 0xA000_0000 | n)?;
    }
    b.poke(base + at::ESP, esp_value)?;
    for field in [at::ES, at::SS, at::DS, at::FS, at::GS] {
        b.poke(base + field, u32::from(sel::data(ring)))?;
    }
    b.poke(base + at::CS, u32::from(sel::code(ring)))?;
    b.poke(base + at::TRAP, 0x68 << 16)
}

/// A 16-bit TSS; its code lies low.
fn tss16(b: &mut Builder, base: u32, ip: u32) -> Asm {
    let mut words = [0u16; 22];
    words[7] = ip as u16;
    words[8] = 2;
    for n in 0..8 {
        words[9 + n] = 0xB000 + n as u16;
    }
    words[13] = 0x7000;
    words[17] = sel::DATA0;
    words[18] = sel::CODE0;
    words[19] = sel::DATA0;
    words[20] = sel::DATA0;
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    b.copy(&bytes, base)
}

/// Tasks that catch exceptions: EAX = error code, EBX = vector, ECX = back link. ESI is where their TSS is.
fn catchers(b: &mut Builder) -> Asm {
    let entry = b.mark();
    let mut skip = b.a.create_label();
    b.a.jmp(skip)?;
    b.place(entry)?;
    asm!(b;
        pop(eax);
        mov(ecx, dword_ptr(esi));
        and(ecx, 0xFFFF);
        int(0x41);
        set_label(&mut skip);
    );
    for (n, vector) in (0u32..).zip(CAUGHT) {
        let base = HANDLERS + n * 0x80;
        tss32(b, base, entry, STACK3, 0)?;
        b.poke(base + at::EBX, vector.into())?;
        // ESI
        b.poke(base + 0x40, base)?;
        let slot = sel::slot(HANDLER_SLOT + n as u16);
        b.descriptor(slot, desc::segment(base, 0x67, 0x89, 0))?;
        b.poke64(IDT + u32::from(vector) * 8, desc::gate(0x85, slot, 0, 0))?;
    }
    Ok(())
}

/// What became of both tasks.
fn both(case: Case) -> Case {
    case.show(show("tr", rec::TR).mask(0xFFFF))
        .show(show("eflags", rec::EFLAGS))
        .show(show("ts", rec::CR0).mask(8))
        .show(show_at("type", GDT + u32::from(sel::TSS) + 4).mask(0xF00))
        .show(show_at("type2", GDT + u32::from(TARGET) + 4).mask(0xF00))
        .show(show_at("link", TSS2).mask(0xFFFF))
        .show(show_at("eip", TSS + at::EIP).relative())
        .show(show_at("saved", TSS + at::EFLAGS).mask(!RF))
}

/// How a task switch is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Jmp,
    Call,
    JmpGate,
    CallGate,
    Int,
    Exception,
    ErrorCode,
    Iret,
}

const WAYS: [Way; 8] =
    [Way::Jmp, Way::Call, Way::JmpGate, Way::CallGate, Way::Int, Way::Exception, Way::ErrorCode, Way::Iret];

impl Way {
    fn prepare(self, b: &mut Builder, target: u16) -> Asm {
        let gate = desc::gate(0xE5, target, 0, 0);
        match self {
            Self::JmpGate | Self::CallGate => b.descriptor(GATE, gate),
            Self::Int => b.poke64(IDT + u32::from(VECTOR) * 8, gate),
            Self::Exception => b.poke64(IDT + 6 * 8, gate),
            Self::ErrorCode => b.poke64(IDT + 13 * 8, gate),
            Self::Iret => {
                b.poke(TSS, u32::from(target))?;
                // busy, as a task that has been left by CALL
                asm!(b; or(byte_ptr(GDT + u32::from(target & !7) + 5), 2));
                Ok(())
            }
            Self::Jmp | Self::Call => Ok(()),
        }
    }

    fn go(self, b: &mut Builder, target: u16) -> Asm {
        match self {
            Self::Jmp => b.a.jmp_far(target, 0),
            Self::Call => b.a.call_far(target, 0),
            Self::JmpGate => b.a.jmp_far(GATE, 0),
            Self::CallGate => b.a.call_far(GATE, 0),
            Self::Int => b.a.int(i32::from(VECTOR)),
            Self::Exception => b.a.ud2(),
            Self::ErrorCode => {
                asm!(b; mov(eax, 0x1234); mov(ds, eax));
                Ok(())
            }
            Self::Iret => {
                asm!(b; push(0x4002); popfd(); iretd());
                Ok(())
            }
        }
    }
}

/// All ways, both widths, several rings.
fn ways(b: &mut Builder) -> Asm {
    for way in WAYS {
        for ring in [0, 1, 3] {
            b.case(
                both(Case::new(format!("{way:?} to a 32-bit task in ring {ring}")))
                    .show(show("cs", rec::CS))
                    .regs(&[("eax", rec::EAX), ("ebx", rec::EBX), ("edi", rec::EDI)]),
                |b| {
                    let entry = b.mark();
                    let mut skip = b.a.create_label();
                    asm!(b; jmp(skip));
                    b.place(entry)?;
                    // The error code is on the stack, if there is one.
                    asm!(b; mov(ebx, dword_ptr(esp)); mov(edi, esp); int(0x41); set_label(&mut skip));
                    tss32(b, TSS2, entry, STACK2, ring)?;
                    b.poke(STACK2, 0x5151_5151)?;
                    way.prepare(b, TARGET)
                },
                |b| way.go(b, TARGET),
            )?;
        }
        b.case(
            both(Case::new(format!("{way:?} to a 16-bit task"))).regs(&[
                ("eax", rec::EAX),
                ("ecx", rec::ECX),
                ("edi", rec::EDI),
                ("fs", rec::FS),
                ("gs", rec::GS),
            ]),
            |b| {
                b.descriptor(TARGET, desc::segment(TSS2, 0x2B, 0x81, 0))?;
                // mov edi, esp; mov esp, STACK2; int 41h
                let [b0, b1, b2, b3] = STACK2.to_le_bytes();
                b.copy(&[0x89, 0xE7, 0xBC, b0, b1, b2, b3, 0xCD, 0x41], 0x9000)?;
                tss16(b, TSS2, 0x9000)?;
                way.prepare(b, TARGET)
            },
            |b| way.go(b, TARGET),
        )?;
        // From a 16-bit TSS.
        b.case(
            both(Case::new(format!("{way:?} from a 16-bit task")))
                .show(show_at("ip", TSS3 + 0x0E).mask(0))
                .show(show_at("flags", TSS3 + 0x10).mask(0xFFFF))
                .show(show_at("dx", TSS3 + 0x16).mask(0xFFFF))
                .show(show_at("cs ss", TSS3 + 0x24))
                .show(show_at("ds ldt", TSS3 + 0x28)),
            |b| {
                let hit = b.mark();
                let mut skip = b.a.create_label();
                asm!(b; jmp(skip));
                b.place(hit)?;
                asm!(b; int(0x41); set_label(&mut skip));
                tss32(b, TSS2, hit, STACK2, 0)?;
                b.descriptor(sel::TSS3, desc::segment(TSS3, 0x2B, 0x81, 0))?;
                way.prepare(b, TARGET)?;
                b.poke(TSS3, u32::from(TARGET))?;
                b.poke(TSS3 + 0x28, 0xDDDD_DDDD)?;
                asm!(b; mov(eax, u32::from(sel::TSS3)); ltr(ax); mov(edx, 0x1_5678));
                Ok(())
            },
            |b| way.go(b, TARGET),
        )?;
    }
    Ok(())
}

/// A task in VM86 mode, one with an LDT, one with page tables of its own.
fn contents(b: &mut Builder) -> Asm {
    for way in [Way::Jmp, Way::Call, Way::CallGate, Way::Int, Way::Iret] {
        for iopl in [0, 3] {
            b.case(
                both(Case::new(format!("{way:?} to a task in VM86 mode, iopl {iopl}"))).regs(&[
                    ("cs", rec::CS),
                    ("esp", rec::OUTER_ESP),
                    ("ds", rec::VM_DS),
                    ("es", rec::VM_ES),
                    ("fs", rec::VM_FS),
                    ("gs", rec::VM_GS),
                ]),
                |b| {
                    let hit = b.rt.hit;
                    tss32(b, TSS2, hit, 0x800, 0)?;
                    b.poke(TSS2 + at::EIP, 0x9000)?;
                    b.poke(TSS2 + at::EFLAGS, 0x2_0002 | iopl << 12)?;
                    for (n, field) in (1..).zip([at::ES, at::SS, at::DS, at::FS, at::GS]) {
                        b.poke(TSS2 + field, n << 12)?;
                    }
                    b.poke(TSS2 + at::CS, 0)?;
                    // hlt
                    b.copy(&[0xF4], 0x9000)?;
                    way.prepare(b, TARGET)
                },
                |b| way.go(b, TARGET),
            )?;
        }
    }
    for (what, ldt, selector) in [
        ("an LDT", sel::LDT, sel::ldt(1)),
        ("a null LDT", 0, sel::DATA0),
        ("a null LDT, rpl 3", 3, sel::DATA0),
    ] {
        b.case(
            Case::new(format!("task with {what}")).regs(&[
                ("ldtr", rec::LDTR),
                ("ds", rec::DS),
                ("es", rec::ES),
            ]),
            |b| {
                let hit = b.rt.hit;
                tss32(b, TSS2, hit, STACK2, 0)?;
                b.descriptor(sel::ldt(1), desc::flat(0x93))?;
                b.poke(TSS2 + at::LDT, ldt.into())?;
                b.poke(TSS2 + at::DS, selector.into())
            },
            |b| b.a.jmp_far(TARGET, 0),
        )?;
    }
    b.case(
        Case::new("task with page tables").show(show("cr3", rec::CR3)).show(show("word", rec::EBX)),
        |b| {
            let entry = b.mark();
            let mut skip = b.a.create_label();
            asm!(b; jmp(skip));
            b.place(entry)?;
            asm!(b; mov(ebx, dword_ptr(0x4000_0000u32)); int(0x41); set_label(&mut skip));
            tss32(b, TSS2, entry, STACK2, 0)?;
            // Both directories map the first 4 MiB; the new one has them at 1 GiB as well.
            for directory in [PAGE_DIR, PAGE_DIR + 0x1000] {
                asm!(b; mov(edi, directory); mov(ecx, 1024); xor(eax, eax));
                b.a.rep().stosd()?;
                b.poke(directory, 0x83)?;
            }
            b.poke(PAGE_DIR + 0x1000 + 0x400, 0x83)?;
            b.poke(0, 0x1234_5678)?;
            b.poke(TSS2 + at::CR3, PAGE_DIR + 0x1000)?;
            asm!(b; mov(eax, 0x10); mov(cr4, eax); mov(eax, PAGE_DIR); mov(cr3, eax));
            asm!(b; mov(eax, 0x8000_0011u32); mov(cr0, eax));
            Ok(())
        },
        |b| b.a.jmp_far(TARGET, 0),
    )
}

/// There and back: CALL, INT or an exception, then IRET of the nested task; three levels deep.
fn nesting(b: &mut Builder) -> Asm {
    for way in [Way::Call, Way::CallGate, Way::Int, Way::Exception] {
        for rounds in [1, 2] {
            b.case(
                both(Case::new(format!("{way:?} and IRET, {rounds} times"))).regs(&[
                    ("eax", rec::EAX),
                    ("ebx", rec::EBX),
                    ("esp", rec::FRAME),
                ]),
                |b| {
                    let entry = b.mark();
                    let mut skip = b.a.create_label();
                    let again = b.at(entry);
                    asm!(b; jmp(skip));
                    b.place(entry)?;
                    // The second time it goes on behind its IRET.
                    asm!(b; inc(dword_ptr(CELLS)));
                    if way == Way::Exception {
                        // over the UD2
                        asm!(b; add(dword_ptr(TSS + at::EIP), 2));
                    }
                    asm!(b; iretd(); jmp(again); set_label(&mut skip));
                    tss32(b, TSS2, entry, STACK2, 0)?;
                    way.prepare(b, TARGET)?;
                    asm!(b; mov(eax, 0x1111); mov(ebx, 0x2222));
                    Ok(())
                },
                |b| {
                    for _ in 0..rounds {
                        way.go(b, TARGET)?;
                    }
                    asm!(b; mov(ebx, dword_ptr(CELLS)));
                    Ok(())
                },
            )?;
        }
    }
    b.case(
        Case::new("three tasks deep and back")
            .show(show("tr", rec::TR).mask(0xFFFF))
            .show(show_at("order", CELLS))
            .show(show_at("link2", TSS2).mask(0xFFFF))
            .show(show_at("link3", TSS3).mask(0xFFFF))
            .show(show_at("type", GDT + u32::from(sel::TSS) + 4).mask(0xF00))
            .show(show_at("type2", GDT + u32::from(sel::TSS2) + 4).mask(0xF00))
            .show(show_at("type3", GDT + u32::from(sel::TSS3) + 4).mask(0xF00)),
        |b| {
            let [second, third] = [b.mark(), b.mark()];
            let mut skip = b.a.create_label();
            let step = |b: &mut Builder, digit: i32| -> Asm {
                asm!(b; shl(dword_ptr(CELLS), 4); add(dword_ptr(CELLS), digit));
                Ok(())
            };
            b.a.jmp(skip)?;
            b.place(second)?;
            step(b, 2)?;
            asm!(b; call_far(sel::TSS3, 0));
            step(b, 4)?;
            asm!(b; iretd());
            b.place(third)?;
            step(b, 3)?;
            asm!(b; iretd(); set_label(&mut skip));
            tss32(b, TSS2, second, STACK2, 0)?;
            tss32(b, TSS3, third, STACK3, 0)?;
            step(b, 1)
        },
        |b| {
            asm!(b; call_far(sel::TSS2, 0); shl(dword_ptr(CELLS), 4); add(dword_ptr(CELLS), 5));
            Ok(())
        },
    )?;
    b.case(both(Case::new("call to the current task")), |_| Ok(()), |b| b.a.call_far(sel::TSS, 0))?;
    // The T flag: #DB before the first instruction of the new task.
    for (what, flag, way) in [("jmp", 1, Way::Jmp), ("int", 1, Way::Int)] {
        b.case(
            Case::new(format!("T flag, {what}"))
                .show(show("dr6", rec::DR6))
                .show(show("tr", rec::TR).mask(0xFFFF)),
            |b| {
                let hit = b.rt.hit;
                tss32(b, TSS2, hit, STACK2, 0)?;
                b.poke(TSS2 + at::TRAP, 0x68 << 16 | flag)?;
                // where the new task begins, in every build
                b.copy(&[0xCD, 0x41], 0x9000)?;
                b.poke(TSS2 + at::EIP, 0x9000)?;
                way.prepare(b, TARGET)
            },
            |b| way.go(b, TARGET),
        )?;
    }
    // DR7's local breakpoints end with the task.
    b.case(
        both(Case::new("local breakpoints")).show(show("dr7", rec::DR7)),
        |b| {
            let hit = b.rt.hit;
            tss32(b, TSS2, hit, STACK2, 0)?;
            asm!(b; mov(eax, 0x0000_07FF); mov(ecx, 0x8000_0000u32));
            asm!(b; mov(dr0, ecx); mov(dr1, ecx); mov(dr2, ecx); mov(dr3, ecx); mov(dr7, eax));
            Ok(())
        },
        |b| b.a.jmp_far(TARGET, 0),
    )
}

/// Privileges of TSS and task gate.
fn privileges(b: &mut Builder) -> Asm {
    for ring in [0, 1, 3] {
        for dpl in [0, 1, 3] {
            for rpl in [0, 3] {
                for gate in [false, true] {
                    b.case(
                        Case::new(format!(
                            "jmp to {} dpl {dpl} rpl {rpl} ring {ring}",
                            if gate { "task gate" } else { "tss" }
                        ))
                        .ring(ring),
                        |b| {
                            let hit = b.rt.hit;
                            tss32(b, TSS2, hit, STACK2, 0)?;
                            let access = if gate { 0x89 } else { 0x89 | desc::dpl(dpl) };
                            b.descriptor(TARGET, desc::segment(TSS2, 0x67, access, 0))?;
                            b.descriptor(GATE, desc::gate(0x85 | desc::dpl(dpl), TARGET, 0, 0))
                        },
                        |b| b.a.jmp_far(rpl | if gate { GATE } else { TARGET }, 0),
                    )?;
                }
            }
        }
    }
    for ring in [0, 3] {
        for dpl in [0, 3] {
            b.case(
                Case::new(format!("int through task gate dpl {dpl} ring {ring}")).ring(ring),
                |b| {
                    let hit = b.rt.hit;
                    tss32(b, TSS2, hit, STACK2, 0)?;
                    let gate = desc::gate(0x85 | desc::dpl(dpl), TARGET, 0, 0);
                    b.poke64(IDT + u32::from(VECTOR) * 8, gate)
                },
                |b| b.a.int(i32::from(VECTOR)),
            )?;
        }
    }
    Ok(())
}

/// The TSS itself: type, presence, limit, selector. Faults of the old task.
fn bad_descriptors(b: &mut Builder) -> Asm {
    for way in WAYS {
        let mut list: Vec<(String, u16, u64)> =
            vec![("null".into(), 0, 0), ("beyond the GDT".into(), 0x200, 0), ("in the LDT".into(), 0x0C, 0)];
        for (what, access, limit) in [
            ("absent", 0x09, 0x67u32),
            ("limit 66", 0x89, 0x66),
            ("limit 0", 0x89, 0),
            ("16-bit limit 2a", 0x81, 0x2A),
            ("absent, limit 0", 0x09, 0),
        ] {
            list.push((what.into(), SEGMENT, desc::segment(TSS2, limit, access, 0)));
        }
        for kind in [0, 2, 3, 4, 5, 8, 11, 14, 0x13, 0x1B] {
            // IRET wants a busy TSS: the bit is set below, so types that are not system types stay.
            list.push((format!("type {kind:x}"), SEGMENT, desc::segment(TSS2, 0x67, 0x80 | kind, 0)));
        }
        for (what, selector, descriptor) in list {
            let direct = matches!(way, Way::Jmp | Way::Call);
            if direct && (selector == 0 || what.contains("type 1") || what == "type 4" || what == "type 5") {
                continue;
            }
            if way == Way::ErrorCode {
                continue;
            }
            b.case(
                both(Case::new(format!("{way:?} to bad tss, {what}"))).regs(&[
                    ("error", rec::EAX),
                    ("vector", rec::EBX),
                    ("by", rec::ECX),
                ]),
                |b| {
                    catchers(b)?;
                    let hit = b.rt.hit;
                    tss32(b, TSS2, hit, STACK2, 0)?;
                    b.descriptor(SEGMENT, descriptor)?;
                    if way == Way::Iret {
                        b.poke(TSS, u32::from(selector))?;
                        if (descriptor >> 40) & 0x1F != 11 && what.contains("limit")
                            || what.contains("absent")
                        {
                            asm!(b; or(byte_ptr(GDT + u32::from(SEGMENT) + 5), 2));
                        }
                        Ok(())
                    } else {
                        way.prepare(b, selector)
                    }
                },
                |b| way.go(b, selector),
            )?;
        }
    }
    Ok(())
}

/// Contents of the new TSS: faults of the new task.
fn bad_contents(b: &mut Builder) -> Asm {
    // (name, field, value)
    let mut list: Vec<(String, u32, u16, u64)> = Vec::new();
    for (register, field) in
        [("cs", at::CS), ("ss", at::SS), ("ds", at::DS), ("gs", at::GS), ("ldt", at::LDT)]
    {
        for (what, selector) in [("null", 0), ("beyond the GDT", 0x200u16), ("in the LDT", 0x0C)] {
            list.push((format!("{register} {what}"), field, selector, 0));
        }
        for access in [0x91u8, 0x93, 0x99, 0x9B, 0x9F, 0x13, 0x1B, 0x82, 0x02, 0x89] {
            for dpl in [0, 3] {
                for rpl in [0, 3] {
                    if (dpl == 3) != (rpl == 3) && access & 0x80 == 0 {
                        continue;
                    }
                    list.push((
                        format!("{register} access {access:x} dpl {dpl} rpl {rpl}"),
                        field,
                        SEGMENT | rpl,
                        desc::flat(access | desc::dpl(dpl)),
                    ));
                }
            }
        }
    }
    for (name, field, selector, descriptor) in list {
        b.case(
            both(Case::new(format!("new task's {name}"))).regs(&[
                ("error", rec::EAX),
                ("vector", rec::EBX),
                ("by", rec::ECX),
            ]),
            |b| {
                catchers(b)?;
                let entry = b.mark();
                let mut skip = b.a.create_label();
                asm!(b; jmp(skip));
                b.place(entry)?;
                asm!(b; xor(eax, eax); xor(ebx, ebx); xor(ecx, ecx); int(0x41); set_label(&mut skip));
                tss32(b, TSS2, entry, STACK2, 0)?;
                b.descriptor(SEGMENT, descriptor)?;
                b.poke(TSS2 + field, u32::from(selector))
            },
            |b| b.a.jmp_far(TARGET, 0),
        )?;
    }
    for (name, field, value) in
        [("eip beyond cs", at::EIP, 0x10_0000u32), ("eflags reserved", at::EFLAGS, 0xFFC0_802A)]
    {
        b.case(
            both(Case::new(format!("new task's {name}"))).regs(&[
                ("error", rec::EAX),
                ("vector", rec::EBX),
                ("by", rec::ECX),
            ]),
            |b| {
                catchers(b)?;
                b.copy(&[0xCD, 0x41], 0x9000)?;
                let hit = b.rt.hit;
                tss32(b, TSS2, hit, STACK2, 0)?;
                b.descriptor(SEGMENT, desc::segment(0, 0xFFFF, 0x9B, desc::D))?;
                b.poke(TSS2 + at::CS, u32::from(SEGMENT))?;
                b.poke(TSS2 + at::EIP, 0x9000)?;
                b.poke(TSS2 + field, value)
            },
            |b| b.a.jmp_far(TARGET, 0),
        )?;
    }
    // CR3 of the new task counts with paging only.
    b.case(
        both(Case::new("cr3 without paging")).show(show("cr3", rec::CR3)),
        |b| {
            let hit = b.rt.hit;
            tss32(b, TSS2, hit, STACK2, 0)?;
            b.poke(TSS2 + at::CR3, 0x7000)
        },
        |b| b.a.jmp_far(TARGET, 0),
    )?;
    // The old TSS is too small to be saved in.
    for limit in [0x1F, 0x5E, 0x5F] {
        b.case(
            Case::new(format!("old tss limit {limit:x}")).regs(&[("error", rec::EAX), ("vector", rec::EBX)]),
            |b| {
                let hit = b.rt.hit;
                tss32(b, TSS2, hit, STACK2, 0)?;
                b.descriptor(SEGMENT, desc::segment(TSS3, limit, 0x89, 0))?;
                asm!(b; mov(eax, u32::from(SEGMENT)); ltr(ax); xor(eax, eax));
                Ok(())
            },
            |b| b.a.jmp_far(TARGET, 0),
        )?;
    }
    Ok(())
}

/// The program.
pub fn build() -> Result<Vec<u8>, IcedError> {
    let mut b = Builder::new()?;
    ways(&mut b)?;
    contents(&mut b)?;
    nesting(&mut b)?;
    privileges(&mut b)?;
    b.finish()
}

/// Switches that fault.
pub fn build_faults() -> Result<Vec<u8>, IcedError> {
    let mut b = Builder::new()?;
    bad_descriptors(&mut b)?;
    bad_contents(&mut b)?;
    b.finish()
}
