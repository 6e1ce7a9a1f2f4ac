//! Linear to physical translation: two-level and PAE tables, permissions, accessed and dirty bits
//! (SDM vol. 3, chapter 4).

use super::fault::{Exec, Trap, vector};
use super::state::{CpuState, cr0, cr4};
use super::tlb::Fill;
use crate::mem::{CODE, Memory, PageKind};

/// What an access wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Data read.
    Read,
    /// Data write.
    Write,
    /// Instruction fetch.
    Fetch,
}

/// Page-fault error code bits.
mod pf {
    pub(super) const P: u16 = 1 << 0;
    pub(super) const W: u16 = 1 << 1;
    pub(super) const U: u16 = 1 << 2;
    pub(super) const RSVD: u16 = 1 << 3;
}

/// Page-table entry bits.
mod pte {
    pub(super) const P: u64 = 1 << 0;
    pub(super) const RW: u64 = 1 << 1;
    pub(super) const US: u64 = 1 << 2;
    pub(super) const A: u64 = 1 << 5;
    pub(super) const D: u64 = 1 << 6;
    pub(super) const PS: u64 = 1 << 7;
    pub(super) const G: u64 = 1 << 8;
}

/// Reserved bits of PAE entries: everything from MAXPHYADDR (36) up; there is no NX bit.
const PAE_RESERVED: u64 = !((1 << 36) - 1);

/// A successful walk.
#[derive(Clone, Copy, Debug)]
struct Walk {
    /// Physical address of the byte.
    phys: u64,
    /// The class may write (WP taken into account).
    writable: bool,
    /// The dirty bit of the leaf is set (always true without paging).
    dirty: bool,
    global: bool,
    large: bool,
}

/// One table entry on the way.
#[derive(Clone, Copy)]
struct Entry {
    at: u64,
    value: u64,
    wide: bool,
}

impl Entry {
    fn set(&self, mem: &mut Memory, bits: u64) {
        if self.value & bits != bits {
            // A and D live in the low dword, so one 32-bit store serves both entry formats.
            mem.walk_write32(self.at, (self.value | bits) as u32);
        }
    }
}

fn read_entry(mem: &Memory, at: u64, wide: bool) -> Entry {
    let low = u64::from(mem.walk_read32(at));
    let value = if wide { low | u64::from(mem.walk_read32(at + 4)) << 32 } else { low };
    Entry { at, value, wide }
}

fn page_fault(cpu: &mut CpuState, lin: u32, error: u16) -> Trap {
    cpu.fault_address = lin;
    Trap::with_error(vector::PF, error)
}

/// Walks the tables for `lin` in class `user`, sets A (and D for writes), checks permissions.
fn walk(cpu: &mut CpuState, mem: &mut Memory, lin: u32, access: Access, user: bool) -> Exec<Walk> {
    if cpu.cr0 & cr0::PG == 0 {
        return Ok(Walk { phys: u64::from(lin), writable: true, dirty: true, global: false, large: false });
    }
    let write = access == Access::Write;
    let code = if write { pf::W } else { 0 } | if user { pf::U } else { 0 };
    let pae = cpu.cr4 & cr4::PAE != 0;

    let directory = if pae {
        let pdpte = cpu.pdpte[(lin >> 30) as usize];
        if pdpte & pte::P == 0 {
            return Err(page_fault(cpu, lin, code));
        }
        let at = (pdpte & 0xF_FFFF_F000) + u64::from((lin >> 21) & 0x1FF) * 8;
        read_entry(mem, at, true)
    } else {
        read_entry(mem, u64::from(cpu.cr3 & 0xFFFF_F000) + u64::from(lin >> 22) * 4, false)
    };
    let pde = directory.value;
    if pde & pte::P == 0 {
        return Err(page_fault(cpu, lin, code));
    }
    if directory.wide && pde & PAE_RESERVED != 0 {
        return Err(page_fault(cpu, lin, code | pf::P | pf::RSVD));
    }

    let large = pde & pte::PS != 0 && (pae || cpu.cr4 & cr4::PSE != 0);
    let (leaf, frame, offset_bits, rights) = if large {
        let reserved = if pae { 0x1F_E000 } else { 0x3F_E000 };
        if pde & reserved != 0 {
            return Err(page_fault(cpu, lin, code | pf::P | pf::RSVD));
        }
        let (bits, frame) = if pae { (21, pde & 0xF_FFE0_0000) } else { (22, pde & 0xFFC0_0000) };
        (directory, frame, bits, pde)
    } else {
        let table = if pae {
            read_entry(mem, (pde & 0xF_FFFF_F000) + u64::from((lin >> 12) & 0x1FF) * 8, true)
        } else {
            read_entry(mem, (pde & 0xFFFF_F000) + u64::from((lin >> 12) & 0x3FF) * 4, false)
        };
        let value = table.value;
        if value & pte::P == 0 {
            return Err(page_fault(cpu, lin, code));
        }
        if table.wide && value & PAE_RESERVED != 0 {
            return Err(page_fault(cpu, lin, code | pf::P | pf::RSVD));
        }
        (table, value & 0xF_FFFF_F000, 12, pde & value)
    };

    let user_page = rights & pte::US != 0;
    let writable_page = rights & pte::RW != 0;
    let writable = writable_page || (!user && cpu.cr0 & cr0::WP == 0);
    if (user && !user_page) || (write && !writable) {
        return Err(page_fault(cpu, lin, code | pf::P));
    }

    if !large {
        directory.set(mem, pte::A);
    }
    leaf.set(mem, if write { pte::A | pte::D } else { pte::A });
    Ok(Walk {
        phys: frame | u64::from(lin & ((1u32 << offset_bits) - 1)),
        writable,
        dirty: write || leaf.value & pte::D != 0,
        global: leaf.value & pte::G != 0 && cpu.cr4 & cr4::PGE != 0,
        large,
    })
}

/// Translates `lin` for the given class, sets A/D, and caches the result in the view of that class.
///
/// # Errors
/// #PF, with `cpu.fault_address` set.
pub fn translate(cpu: &mut CpuState, mem: &mut Memory, lin: u32, access: Access, user: bool) -> Exec<u64> {
    let walk = walk(cpu, mem, lin, access, user)?;
    let phys = walk.phys & !u64::from(!mem.a20_mask());
    let pfn = phys >> 12;
    let kind = mem.kind(pfn);
    if kind != PageKind::Device {
        let lin_page = lin >> 12;
        let pfn = pfn as u32;
        if access == Access::Fetch {
            mem.views.fill_code(user, lin_page, pfn, walk.global, walk.large);
        }
        let watched = cpu.debug_armed && super::debug_regs::watches_page(cpu, lin_page);
        if access != Access::Fetch && !watched {
            let write =
                kind == PageKind::Ram && walk.writable && walk.dirty && mem.flags().get(pfn) & CODE == 0;
            mem.fill_view(
                user,
                Fill { lin_page, pfn, write, read: true, global: walk.global, large: walk.large },
            );
        }
    }
    Ok(phys)
}

/// Translates without side effects (debugger, code that must not set A bits). `None` if not mapped.
pub fn translate_quiet(cpu: &CpuState, mem: &Memory, lin: u32) -> Option<u64> {
    if cpu.cr0 & cr0::PG == 0 {
        return Some(u64::from(lin & mem.a20_mask()));
    }
    let pae = cpu.cr4 & cr4::PAE != 0;
    let pde = if pae {
        let pdpte = cpu.pdpte[(lin >> 30) as usize];
        if pdpte & pte::P == 0 {
            return None;
        }
        read_entry(mem, (pdpte & 0xF_FFFF_F000) + u64::from((lin >> 21) & 0x1FF) * 8, true).value
    } else {
        read_entry(mem, u64::from(cpu.cr3 & 0xFFFF_F000) + u64::from(lin >> 22) * 4, false).value
    };
    if pde & pte::P == 0 {
        return None;
    }
    if pde & pte::PS != 0 && (pae || cpu.cr4 & cr4::PSE != 0) {
        return Some(if pae {
            (pde & 0xF_FFE0_0000) | u64::from(lin & 0x1F_FFFF)
        } else {
            (pde & 0xFFC0_0000) | u64::from(lin & 0x3F_FFFF)
        });
    }
    let value = if pae {
        read_entry(mem, (pde & 0xF_FFFF_F000) + u64::from((lin >> 12) & 0x1FF) * 8, true).value
    } else {
        read_entry(mem, (pde & 0xFFFF_F000) + u64::from((lin >> 12) & 0x3FF) * 4, false).value
    };
    (value & pte::P != 0).then_some((value & 0xF_FFFF_F000) | u64::from(lin & 0xFFF))
}

/// Loads the four PAE page-directory pointers from the table CR3 names. Called on MOV CR3, task
/// switches and changes of CR0/CR4 paging bits while PAE paging is on.
///
/// # Errors
/// #GP(0) if a present entry has reserved bits set; nothing is loaded then.
pub fn load_pdptes(cpu: &mut CpuState, mem: &Memory, cr3: u32) -> Exec {
    let base = u64::from(cr3 & 0xFFFF_FFE0);
    let mut loaded = [0; 4];
    for (slot, at) in loaded.iter_mut().zip((base..).step_by(8)) {
        let entry = read_entry(mem, at, true).value;
        // bits 2:1, 8:5 and everything above MAXPHYADDR are reserved in a PDPTE
        if entry & pte::P != 0 && entry & (PAE_RESERVED | 0x1E6) != 0 {
            return Err(Trap::GP0);
        }
        *slot = entry;
    }
    cpu.pdpte = loaded;
    Ok(())
}
