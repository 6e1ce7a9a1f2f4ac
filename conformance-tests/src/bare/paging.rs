//! Paging: every combination of rights in both table formats, large pages, reserved bits, accessed and dirty
//! bits, what the TLB may keep, and faults of accesses the processor makes for itself (SDM vol. 3,
//! chapter 4).

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::builder::{Asm, Builder, Case, Show, show_at};
use super::layout::*;
use crate::asm;

const P: u32 = 1;
const RW: u32 = 2;
const US: u32 = 4;
const A: u32 = 1 << 5;
const D: u32 = 1 << 6;
const PS: u32 = 1 << 7;
const G: u32 = 1 << 8;

const CR0_PG: u32 = 1 << 31;
const CR0_WP: u32 = 1 << 16;
const CR4_PSE: u32 = 1 << 4;
const CR4_PAE: u32 = 1 << 5;
const CR4_PGE: u32 = 1 << 7;

/// Linear address of the page under test, and of the one behind it.
const PAGE: u32 = 0x4000_0000;
/// Page tables in the order they are used.
const LOW_TABLES: u32 = PAGE_TABLES;
const TEST_TABLE: u32 = PAGE_TABLES + 0x4000;
const TEST_DIR: u32 = PAGE_TABLES + 0x5000;
/// Physical pages behind the test pages.
const FRAME: u32 = PAGES;
const OTHER_FRAME: u32 = PAGES + 0x1000;
/// 4 MiB aligned physical address.
const LARGE_FRAME: u32 = 0x80_0000;

type Test = fn(&mut Builder) -> Asm;

/// The two formats.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Legacy,
    Pae,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Legacy => "32-bit",
            Self::Pae => "PAE",
        }
    }

    /// Address of the directory entry for [`PAGE`].
    fn pde(self) -> u32 {
        match self {
            Self::Legacy => PAGE_DIR + (PAGE >> 22) * 4,
            Self::Pae => TEST_DIR,
        }
    }

    fn cr4(self) -> u32 {
        match self {
            Self::Legacy => 0,
            Self::Pae => CR4_PAE,
        }
    }
}

/// What is done with a page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Fetch,
}

const KINDS: [(Kind, &str); 3] = [(Kind::Read, "read"), (Kind::Write, "write"), (Kind::Fetch, "fetch")];

/// The first 4 MiB mapped to themselves, for all rings; the test page's tables; everything off.
fn tables(b: &mut Builder, format: Format, pde: u64, pte: u64) -> Asm {
    let mut next = b.a.create_label();
    match format {
        Format::Legacy => {
            asm!(b; mov(edi, PAGE_DIR); mov(ecx, 1024); xor(eax, eax));
            b.a.rep().stosd()?;
            b.poke(PAGE_DIR, LOW_TABLES | P | RW | US)?;
            asm!(b;
                mov(edi, LOW_TABLES);
                mov(eax, P | RW | US);
                set_label(&mut next);
                mov(dword_ptr(edi), eax);
                add(eax, 0x1000);
                add(edi, 4);
                cmp(eax, 0x40_0000);
                jb(next);
            );
            b.poke(format.pde(), pde as u32)?;
            b.poke(TEST_TABLE, pte as u32)?;
            b.poke(TEST_TABLE + 4, OTHER_FRAME | P | RW | US)
        }
        Format::Pae => {
            asm!(b; mov(edi, PAGE_DIR); mov(ecx, 1024); xor(eax, eax));
            b.a.rep().stosd()?;
            // pointers, directory of the first GiB, two tables
            b.poke(PAGE_DIR, (LOW_TABLES + 0x2000) | P)?;
            b.poke(PAGE_DIR + 8, TEST_DIR | P)?;
            for n in 0..2 {
                b.poke(LOW_TABLES + 0x2000 + n * 8, (LOW_TABLES + n * 0x1000) | P | RW | US)?;
                b.poke(LOW_TABLES + 0x2000 + n * 8 + 4, 0)?;
            }
            asm!(b;
                mov(edi, LOW_TABLES);
                mov(eax, P | RW | US);
                set_label(&mut next);
                mov(dword_ptr(edi), eax);
                mov(dword_ptr(edi + 4), 0);
                add(eax, 0x1000);
                add(edi, 8);
                cmp(eax, 0x40_0000);
                jb(next);
            );
            b.poke64(format.pde(), pde)?;
            b.poke64(TEST_TABLE, pte)?;
            b.poke64(TEST_TABLE + 8, u64::from(OTHER_FRAME | P | RW | US))
        }
    }
}

/// Code that ends a case, and a known value, in the frames.
fn fill(b: &mut Builder) -> Asm {
    for frame in [FRAME, OTHER_FRAME, LARGE_FRAME] {
        b.poke(frame, 0x41CD)?;
        b.poke(frame + 0xFFC, 0x1111_1111)?;
    }
    Ok(())
}

fn switch_on(b: &mut Builder, features: u32, wp: bool) -> Asm {
    let control = CR0_PG | 0x11 | if wp { CR0_WP } else { 0 };
    asm!(b;
        mov(eax, features);
        mov(cr4, eax);
        mov(eax, PAGE_DIR);
        mov(cr3, eax);
        mov(eax, control);
        mov(cr0, eax);
        xor(eax, eax);
    );
    Ok(())
}

fn access(b: &mut Builder, kind: Kind, at: u32) -> Asm {
    match kind {
        Kind::Read => b.a.mov(eax, dword_ptr(at)),
        Kind::Write => b.a.mov(dword_ptr(at), 0x2222_2222u32),
        Kind::Fetch => {
            asm!(b; mov(eax, at); jmp(eax));
            Ok(())
        }
    }
}

fn rights(entry: u32) -> String {
    if entry & P == 0 {
        return "-".into();
    }
    let flag = |bit, letter: &str| if entry & bit != 0 { letter.to_owned() } else { String::new() };
    format!("p{}{}{}", flag(RW, "w"), flag(US, "u"), flag(PS, "L"))
}

const RIGHTS: [u32; 5] = [0, P, P | RW, P | US, P | RW | US];

/// A and D of an entry.
fn accessed(text: &str, at: u32) -> Show {
    show_at(text, at).mask(A | D)
}

/// All rights of directory and table entries, CPL, WP, kinds of access.
fn small_pages(b: &mut Builder, format: Format) -> Asm {
    for pde in RIGHTS {
        for pte in RIGHTS {
            for (ring, wp) in [(0, false), (0, true), (3, false), (3, true)] {
                for (kind, verb) in KINDS {
                    let name = format!(
                        "{} pde {} pte {} ring {ring} wp {} {verb}",
                        format.name(),
                        rights(pde),
                        rights(pte),
                        u32::from(wp)
                    );
                    let pde = u64::from(pde | TEST_TABLE);
                    let pte = u64::from(pte | FRAME);
                    b.case(
                        Case::new(name).ring(ring).show(accessed("pte", TEST_TABLE)),
                        |b| {
                            tables(b, format, pde, pte)?;
                            fill(b)?;
                            switch_on(b, format.cr4(), wp)
                        },
                        |b| access(b, kind, PAGE),
                    )?;
                }
            }
        }
    }
    Ok(())
}

fn large_pages(b: &mut Builder, format: Format, features: u32) -> Asm {
    for pde in RIGHTS {
        for (ring, wp) in [(0, false), (0, true), (3, false), (3, true)] {
            for (kind, verb) in KINDS {
                let name = format!(
                    "{} large pde {} ring {ring} wp {} pse {} {verb}",
                    format.name(),
                    rights(pde),
                    u32::from(wp),
                    u32::from(features & CR4_PSE != 0)
                );
                // Without PSE a 32-bit entry's PS bit means nothing: the frame is taken as a table.
                let case = Case::new(name).ring(ring).show(accessed("pde", format.pde()));
                b.case(
                    case,
                    |b| {
                        tables(b, format, u64::from(pde | LARGE_FRAME | PS), 0)?;
                        fill(b)?;
                        if format == Format::Legacy && features & CR4_PSE == 0 {
                            b.poke(LARGE_FRAME, FRAME | P | RW | US)?;
                        }
                        switch_on(b, format.cr4() | features, wp)
                    },
                    |b| access(b, kind, PAGE),
                )?;
            }
        }
    }
    Ok(())
}

/// Every bit that is reserved in an entry, one at a time.
fn reserved_bits(b: &mut Builder) -> Asm {
    for bit in 12..22 {
        let pde = u64::from(LARGE_FRAME | P | RW | US | PS) | 1 << bit;
        b.case(
            Case::new(format!("32-bit large pde bit {bit}")),
            |b| {
                tables(b, Format::Legacy, pde, 0)?;
                switch_on(b, CR4_PSE, false)
            },
            |b| access(b, Kind::Read, PAGE),
        )?;
    }
    for bit in (12..21).chain(36..64) {
        let pde = u64::from(LARGE_FRAME | P | RW | US | PS) | 1u64 << bit;
        b.case(
            Case::new(format!("PAE large pde bit {bit}")),
            |b| {
                tables(b, Format::Pae, pde, 0)?;
                switch_on(b, CR4_PAE, false)
            },
            |b| access(b, Kind::Read, PAGE),
        )?;
    }
    for bit in (7..10).chain(36..64) {
        for (level, ring) in [("pde", 0), ("pte", 0), ("pte", 3)] {
            if level == "pde" && bit == 7 {
                continue;
            }
            let [mut pde, mut pte] = [TEST_TABLE | P | RW | US, FRAME | P | RW | US].map(u64::from);
            *(if level == "pde" { &mut pde } else { &mut pte }) |= 1u64 << bit;
            b.case(
                Case::new(format!("PAE {level} bit {bit} ring {ring}")).ring(ring),
                |b| {
                    tables(b, Format::Pae, pde, pte)?;
                    switch_on(b, CR4_PAE, false)
                },
                |b| access(b, Kind::Read, PAGE),
            )?;
        }
    }
    // A reserved bit in an entry that is not present, and one below an entry without rights.
    for (name, pde, pte, ring) in [
        ("PAE reserved bit in an absent pte", TEST_TABLE | P | RW | US, 0u64, 0),
        ("PAE reserved bit, no user rights", TEST_TABLE | P | RW, u64::from(FRAME | P | RW), 3),
    ] {
        for (kind, verb) in KINDS {
            b.case(
                Case::new(format!("{name} {verb}")).ring(ring),
                |b| {
                    tables(b, Format::Pae, u64::from(pde), pte | 1 << 52)?;
                    switch_on(b, CR4_PAE, false)
                },
                |b| access(b, kind, PAGE),
            )?;
        }
    }
    Ok(())
}

/// PAE's page-directory pointers: reserved bits are found when CR3 is loaded, and changes of the table in
/// memory count from the next load only (SDM vol. 3, 4.4.1).
fn directory_pointers(b: &mut Builder) -> Asm {
    for bit in (1..12).chain(36..64) {
        for n in [1, 3] {
            b.case(
                Case::new(format!("PAE pdpte {n} bit {bit} mov cr3")).regs(&[("cr0", rec::CR0)]),
                |b| {
                    tables(b, Format::Pae, u64::from(TEST_TABLE | P | RW | US), u64::from(FRAME | P))?;
                    switch_on(b, CR4_PAE, false)?;
                    b.poke64(PAGE_DIR + 8 * n, u64::from(TEST_DIR | P) | 1u64 << bit)?;
                    asm!(b; mov(eax, cr3));
                    Ok(())
                },
                |b| {
                    asm!(b; mov(cr3, eax));
                    Ok(())
                },
            )?;
        }
    }
    b.case(
        Case::new("PAE absent pdpte with reserved bits mov cr3"),
        |b| {
            tables(b, Format::Pae, 0, 0)?;
            switch_on(b, CR4_PAE, false)?;
            b.poke64(PAGE_DIR + 16, !1)?;
            asm!(b; mov(eax, cr3));
            Ok(())
        },
        |b| {
            asm!(b; mov(cr3, eax));
            Ok(())
        },
    )?;
    for (name, reload) in [("without", false), ("with", true)] {
        b.case(
            Case::new(format!("PAE pdpte cleared {name} mov cr3")),
            |b| {
                tables(b, Format::Pae, u64::from(TEST_TABLE | P | RW | US), u64::from(FRAME | P))?;
                switch_on(b, CR4_PAE, false)?;
                b.poke(PAGE_DIR + 8, 0)?;
                if reload {
                    asm!(b; mov(eax, cr3); mov(cr3, eax));
                }
                Ok(())
            },
            |b| access(b, Kind::Read, PAGE),
        )?;
    }
    for (kind, verb) in KINDS {
        for ring in [0, 3] {
            b.case(
                Case::new(format!("PAE absent pdpte ring {ring} {verb}")).ring(ring),
                |b| {
                    tables(b, Format::Pae, 0, 0)?;
                    switch_on(b, CR4_PAE, false)
                },
                |b| access(b, kind, 0xC000_0123),
            )?;
        }
    }
    for bit in [5, 36] {
        b.case(
            Case::new(format!("PAE pdpte bit {bit} mov cr0 sets PG")).regs(&[("cr0", rec::CR0)]),
            |b| {
                tables(b, Format::Pae, 0, 0)?;
                b.poke64(PAGE_DIR + 16, u64::from(TEST_DIR | P) | 1u64 << bit)?;
                asm!(b;
                    mov(eax, CR4_PAE);
                    mov(cr4, eax);
                    mov(eax, PAGE_DIR);
                    mov(cr3, eax);
                    mov(eax, CR0_PG | 0x11);
                );
                Ok(())
            },
            |b| {
                asm!(b; mov(cr0, eax));
                Ok(())
            },
        )?;
    }
    Ok(())
}

/// Accessed and dirty bits of both levels, with what they were before.
fn accessed_and_dirty(b: &mut Builder) -> Asm {
    for format in [Format::Legacy, Format::Pae] {
        for before in [0, A, A | D] {
            for (kind, verb) in KINDS {
                let pte_at = TEST_TABLE;
                b.case(
                    Case::new(format!("{} {verb} with bits {before:x}", format.name()))
                        .show(accessed("pde", format.pde()))
                        .show(accessed("pte", pte_at)),
                    |b| {
                        let pde = u64::from(TEST_TABLE | P | RW | US);
                        tables(b, format, pde, u64::from(FRAME | P | RW | US | before))?;
                        fill(b)?;
                        switch_on(b, format.cr4(), false)
                    },
                    |b| access(b, kind, PAGE),
                )?;
            }
        }
        for (name, second) in [("write", Kind::Write), ("fetch", Kind::Fetch)] {
            b.case(
                Case::new(format!("{} read then {name}", format.name())).show(accessed("pte", TEST_TABLE)),
                |b| {
                    let pde = u64::from(TEST_TABLE | P | RW | US);
                    tables(b, format, pde, u64::from(FRAME | P | RW | US))?;
                    fill(b)?;
                    switch_on(b, format.cr4(), false)
                },
                |b| {
                    access(b, Kind::Read, PAGE)?;
                    access(b, second, PAGE)
                },
            )?;
        }
    }
    for (what, ring, pte) in [("read-only", 3, P | US), ("supervisor", 3, P | RW)] {
        b.case(
            Case::new(format!("write to a {what} page leaves D"))
                .ring(ring)
                .show(show_at("pte", TEST_TABLE).mask(D)),
            |b| {
                tables(b, Format::Legacy, u64::from(TEST_TABLE | P | RW | US), u64::from(FRAME | pte))?;
                switch_on(b, 0, false)
            },
            |b| access(b, Kind::Write, PAGE),
        )?;
    }
    b.case(
        Case::new("locked read-modify-write that compares unequal sets D").show(accessed("pte", TEST_TABLE)),
        |b| {
            tables(b, Format::Legacy, u64::from(TEST_TABLE | P | RW | US), u64::from(FRAME | P | RW | US))?;
            switch_on(b, 0, false)
        },
        |b| {
            asm!(b; mov(eax, 5));
            b.a.lock().cmpxchg(dword_ptr(PAGE), ecx)
        },
    )
}

/// Accesses across the boundary of two pages.
fn crossing(b: &mut Builder) -> Asm {
    let first = u64::from(TEST_TABLE | P | RW | US);
    for (second, entry) in
        [("absent", 0), ("read-only", OTHER_FRAME | P | US), ("supervisor", OTHER_FRAME | P | RW)]
    {
        for ring in [0, 3] {
            for before in 1..4 {
                let at = PAGE + 0x1000 - before;
                let setup = move |b: &mut Builder| {
                    tables(b, Format::Legacy, first, u64::from(FRAME | P | RW | US))?;
                    b.poke(TEST_TABLE + 4, entry)?;
                    fill(b)?;
                    switch_on(b, 0, true)?;
                    asm!(b; mov(esi, at); mov(edi, at); mov(ecx, 2); mov(ebx, at));
                    Ok(())
                };
                let name = |what: &str| format!("{second} second page ring {ring} {what} at -{before}");
                let case = |what: &str| {
                    Case::new(name(what))
                        .ring(ring)
                        .show(show_at("end", FRAME + 0xFFC))
                        .regs(&[("esi", rec::ESI), ("edi", rec::EDI)])
                };
                b.case(case("read"), setup, |b| b.a.mov(eax, dword_ptr(ebx)))?;
                b.case(case("write"), setup, |b| b.a.mov(dword_ptr(ebx), 0x2222_2222u32))?;
                b.case(case("add"), setup, |b| b.a.add(dword_ptr(ebx), 1))?;
                b.case(case("movsd"), setup, |b| b.a.movsd())?;
                b.case(case("rep stosb"), setup, |b| b.a.rep().stosb())?;
            }
        }
    }
    // Instructions with more than one access, the last of which faults.
    let stack = PAGE + 0x1008;
    let cases: [(&str, Test); 8] = [
        ("pushad", |b| b.a.pushad()),
        ("enter with display", |b| b.a.enter(16, 3)),
        ("call", |b| {
            let mut next = b.a.create_label();
            asm!(b; mov(esp, PAGE + 0x1000); call(next); set_label(&mut next));
            Ok(())
        }),
        ("push m32", |b| {
            asm!(b; mov(esp, PAGE + 0x1000); push(dword_ptr(RECORD)));
            Ok(())
        }),
        ("pop to absent", |b| {
            asm!(b; mov(esp, OUTER - 0x100); pop(dword_ptr(PAGE)));
            Ok(())
        }),
        ("popad from absent", |b| {
            asm!(b; mov(esp, PAGE + 0xFF8); popad());
            Ok(())
        }),
        ("leave to absent", |b| {
            asm!(b; mov(ebp, PAGE + 0x10); leave());
            Ok(())
        }),
        ("xchg", |b| {
            asm!(b; mov(ebx, PAGE); mov(eax, 7); xchg(dword_ptr(ebx), eax));
            Ok(())
        }),
    ];
    for (name, test) in cases {
        b.case(
            Case::new(format!("absent page {name}"))
                .ring(3)
                .regs(&[("eax", rec::EAX), ("ebp", rec::EBP), ("esp", rec::OUTER_ESP)])
                .show(show_at("first", OTHER_FRAME).mask(0xFFFF)),
            |b| {
                tables(b, Format::Legacy, first, 0)?;
                fill(b)?;
                switch_on(b, 0, false)?;
                asm!(b; mov(ebp, OUTER - 0x40));
                Ok(())
            },
            |b| {
                asm!(b; mov(esp, stack));
                test(b)
            },
        )?;
    }
    Ok(())
}

/// What a change of an entry does with and without each kind of flush. Only flushes that the SDM promises
/// are here (vol. 3, 4.10.4.1): without one either translation may be used.
fn flushes(b: &mut Builder) -> Asm {
    let invlpg: Test = |b| b.a.invlpg(ptr(PAGE));
    let cr3_load: Test = |b| {
        asm!(b; mov(eax, cr3); mov(cr3, eax));
        Ok(())
    };
    let paging_off: Test = |b| {
        asm!(b; mov(eax, cr0); btr(eax, 31); mov(cr0, eax); bts(eax, 31); mov(cr0, eax));
        Ok(())
    };
    let pge_toggle: Test = |b| {
        asm!(b; mov(eax, cr4); xor(eax, CR4_PGE as i32); mov(cr4, eax); xor(eax, CR4_PGE as i32); mov(cr4, eax));
        Ok(())
    };
    for (global, pge) in [(0, 0), (G, 0), (0, CR4_PGE), (G, CR4_PGE)] {
        for (name, flush) in [
            ("invlpg", invlpg),
            ("mov cr3", cr3_load),
            ("paging off and on", paging_off),
            ("pge", pge_toggle),
        ] {
            if global == G && pge != 0 && name == "mov cr3" {
                continue;
            }
            for (change, entry) in
                [("cleared", 0), ("remapped", OTHER_FRAME | P | RW), ("made read-only", FRAME | P)]
            {
                b.case(
                    Case::new(format!("g {} pge {} {change} {name}", global >> 8, pge >> 7))
                        .regs(&[("eax", rec::EAX), ("ebx", rec::EBX)]),
                    |b| {
                        tables(
                            b,
                            Format::Legacy,
                            u64::from(TEST_TABLE | P | RW | US),
                            u64::from(FRAME | P | RW | global),
                        )?;
                        fill(b)?;
                        b.poke(OTHER_FRAME, 0x77)?;
                        switch_on(b, pge, true)?;
                        asm!(b; mov(ebx, dword_ptr(PAGE)); mov(dword_ptr(PAGE + 4), ebx));
                        b.poke(TEST_TABLE, entry)?;
                        flush(b)
                    },
                    |b| {
                        asm!(b; mov(ebx, dword_ptr(PAGE)); mov(dword_ptr(PAGE + 4), ebx));
                        Ok(())
                    },
                )?;
            }
        }
    }
    // Large pages: one INVLPG with any address inside drops the whole page.
    for (format, pse) in [(Format::Legacy, CR4_PSE), (Format::Pae, 0)] {
        for (change, entry) in [("cleared", 0), ("made read-only", LARGE_FRAME | PS | P)] {
            b.case(
                Case::new(format!("{} large page {change} invlpg inside", format.name()))
                    .regs(&[("ebx", rec::EBX)]),
                |b| {
                    tables(b, format, u64::from(LARGE_FRAME | PS | P | RW | G), 0)?;
                    fill(b)?;
                    switch_on(b, format.cr4() | pse | CR4_PGE, true)?;
                    asm!(b; mov(ebx, dword_ptr(PAGE)); mov(dword_ptr(PAGE + 0x10_0000), ebx); xor(ebx, ebx));
                    b.poke(format.pde(), entry)?;
                    b.a.invlpg(ptr(PAGE + 0x1F_F000))
                },
                |b| {
                    asm!(b; mov(ebx, dword_ptr(PAGE)); mov(dword_ptr(PAGE + 0x10_0000), ebx));
                    Ok(())
                },
            )?;
        }
    }
    // Rights that grow count at once: the faulting access walks again (4.10.4.3).
    for (what, entry) in [("absent page is mapped", 0), ("read-only page becomes writable", FRAME | P | US)] {
        b.case(
            Case::new(format!("{what} without a flush")).ring(3),
            |b| {
                tables(b, Format::Legacy, u64::from(TEST_TABLE | P | RW | US), u64::from(entry))?;
                fill(b)?;
                switch_on(b, 0, false)?;
                if entry != 0 {
                    asm!(b; mov(eax, dword_ptr(PAGE)));
                }
                b.poke(TEST_TABLE, FRAME | P | RW | US)
            },
            |b| access(b, Kind::Write, PAGE),
        )?;
    }
    // A #PF drops the entries of its address.
    b.case(
        Case::new("invlpg of an absent page"),
        |b| {
            tables(b, Format::Legacy, 0, 0)?;
            switch_on(b, 0, false)
        },
        |b| b.a.invlpg(ptr(PAGE)),
    )?;
    b.case(Case::new("invlpg ring 3").ring(3), |_| Ok(()), |b| b.a.invlpg(ptr(PAGE)))?;
    b.case(Case::new("invlpg of a register"), |_| Ok(()), |b| b.a.db(&[0x0F, 0x01, 0xF8]))
}

/// Accesses of the processor itself: tables are read with supervisor rights, whatever CPL is.
fn system_accesses(b: &mut Builder) -> Asm {
    let load_ds: Test = |b| {
        asm!(b; mov(eax, u32::from(sel::ldt(1)) | 3); mov(ds, eax));
        Ok(())
    };
    let verr: Test = |b| {
        asm!(b; mov(eax, u32::from(sel::ldt(1)) | 3); verr(ax));
        Ok(())
    };
    let interrupt: Test = |b| b.a.int(0x42);
    let io: Test = |b| b.a.in_(al, dx);
    for (name, page, test) in [
        ("mov ds, LDT", LDT, load_ds),
        ("verr, LDT", LDT, verr),
        ("int, TSS", TSS, interrupt),
        ("int, inner stack", INNER0 - 0x1000, interrupt),
        ("in, I/O map", TSS, io),
    ] {
        for entry in [0, P, P | RW, P | US, P | RW | US] {
            for ring in [0, 3] {
                let delivers = page == TSS || page == INNER0 - 0x1000;
                if delivers && ring == 3 && (entry == 0 || (page != TSS && entry & RW == 0)) {
                    // The delivery of the fault needs what is absent.
                    continue;
                }
                b.case(
                    Case::new(format!("{name} {} ring {ring}", rights(entry)))
                        .ring(ring)
                        .show(accessed("pte", LOW_TABLES + (page >> 12) * 4)),
                    |b| {
                        b.descriptor(sel::ldt(1), desc::flat(0xF2))?;
                        asm!(b; mov(eax, u32::from(sel::LDT)); lldt(ax));
                        tables(b, Format::Legacy, 0, 0)?;
                        switch_on(b, 0, true)?;
                        b.poke(LOW_TABLES + (page >> 12) * 4, page | entry)?;
                        asm!(b; mov(eax, cr3); mov(cr3, eax));
                        Ok(())
                    },
                    test,
                )?;
            }
        }
    }
    Ok(())
}

/// Writes of CR0, CR3 and CR4 that paging has opinions about.
fn control_registers(b: &mut Builder) -> Asm {
    for (name, value) in [
        ("NW without CD", 1 << 29 | 0x11),
        ("NW and CD", 3 << 29 | 0x11),
        ("reserved bits", 0x1FFA_FFD1 & !CR0_WP),
    ] {
        b.case(
            Case::new(format!("mov cr0, {name}")).regs(&[("eax", rec::EAX)]),
            |b| b.a.mov(ebx, value),
            |b| {
                asm!(b; mov(cr0, ebx); mov(eax, cr0));
                Ok(())
            },
        )?;
    }
    for (name, value) in [("low bits", 0xFFFu32), ("PCD PWT", 0x18), ("high bits", 0xFFFF_F000)] {
        b.case(
            Case::new(format!("mov cr3, {name}")).regs(&[("eax", rec::EAX)]),
            |b| b.a.mov(ebx, value),
            |b| {
                asm!(b; mov(cr3, ebx); mov(eax, cr3));
                Ok(())
            },
        )?;
    }
    for ring in 1..4 {
        for n in [0, 2, 3, 4] {
            b.case(
                Case::new(format!("mov cr{n}, eax ring {ring}")).ring(ring),
                |_| Ok(()),
                |b| b.a.db(&[0x0F, 0x22, 0xC0 | n << 3]),
            )?;
            b.case(
                Case::new(format!("mov eax, cr{n} ring {ring}")).ring(ring),
                |_| Ok(()),
                |b| b.a.db(&[0x0F, 0x20, 0xC0 | n << 3]),
            )?;
        }
    }
    for n in [1, 5, 6, 7] {
        for ring in [0, 3] {
            b.case(
                Case::new(format!("mov eax, cr{n} ring {ring}")).ring(ring),
                |_| Ok(()),
                |b| b.a.db(&[0x0F, 0x20, 0xC0 | n << 3]),
            )?;
            b.case(
                Case::new(format!("mov cr{n}, eax ring {ring}")).ring(ring),
                |_| Ok(()),
                |b| b.a.db(&[0x0F, 0x22, 0xC0 | n << 3]),
            )?;
        }
    }
    // Last: a processor that lets these through does not come back.
    for (name, value) in [("PE cleared with PG", CR0_PG | 0x10), ("PG without PE", CR0_PG)] {
        b.case(
            Case::new(format!("mov cr0, {name}")).regs(&[("eax", rec::EAX)]),
            |b| b.a.mov(ebx, value),
            |b| {
                asm!(b; mov(cr0, ebx); mov(eax, cr0));
                Ok(())
            },
        )?;
    }
    Ok(())
}

/// Rights of 4 KiB pages.
pub fn build_rights() -> Result<Vec<u8>, IcedError> {
    let mut b = Builder::new()?;
    small_pages(&mut b, Format::Legacy)?;
    large_pages(&mut b, Format::Legacy, 0)?;
    large_pages(&mut b, Format::Legacy, CR4_PSE)?;
    b.finish()
}

/// Rights in PAE tables.
pub fn build_pae() -> Result<Vec<u8>, IcedError> {
    let mut b = Builder::new()?;
    small_pages(&mut b, Format::Pae)?;
    large_pages(&mut b, Format::Pae, 0)?;
    reserved_bits(&mut b)?;
    directory_pointers(&mut b)?;
    b.finish()
}

/// Everything else.
pub fn build() -> Result<Vec<u8>, IcedError> {
    let mut b = Builder::new()?;
    accessed_and_dirty(&mut b)?;
    crossing(&mut b)?;
    flushes(&mut b)?;
    system_accesses(&mut b)?;
    control_registers(&mut b)?;
    b.finish()
}
