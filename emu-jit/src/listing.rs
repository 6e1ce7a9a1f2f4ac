//! Translations as text, for tests, reports and bug hunts.

use std::fmt::Write;

use iced_x86::{Decoder, DecoderOptions, FastFormatter, Instruction, OpKind};

use crate::code::CodeCache;
use crate::entry::Routines;

/// Where the two parts of a translation lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Host address of the part that runs often.
    pub(crate) address: usize,
    /// Its length.
    pub(crate) hot: usize,
    /// Host address of the rest.
    pub(crate) cold_address: usize,
    /// Length of both.
    pub(crate) len: usize,
}

impl Layout {
    /// Address of an offset.
    pub(crate) fn address_of(&self, at: usize) -> usize {
        if at < self.hot { self.address + at } else { self.cold_address + (at - self.hot) }
    }

    /// Offset of an address.
    pub(crate) fn offset_of(&self, address: usize) -> Option<usize> {
        let (hot, cold) = (address.wrapping_sub(self.address), address.wrapping_sub(self.cold_address));
        if hot < self.hot { Some(hot) } else { (cold < self.len - self.hot).then_some(self.hot + cold) }
    }
}

impl Routines {
    /// Address and length of all of them.
    pub(crate) fn start(&self, cache: &CodeCache) -> (usize, usize) {
        (cache.address(0), cache.kept())
    }

    /// Name of the routine at an address, for listings and checks.
    pub(crate) fn name(&self, address: usize) -> Option<&'static str> {
        let all = [
            (self.exec, "exec"),
            (self.exec_keep, "exec_keep"),
            (self.load_xmm, "load_xmm"),
            (self.load_fpu, "load_fpu"),
            (self.segment, "segment"),
            (self.edge, "edge"),
            (self.edge_in_page, "edge_in_page"),
            (self.entry, "entry"),
            (self.target_eip, "target_eip"),
            (self.return_missed, "return_missed"),
            (self.target, "target"),
            (self.target_missed, "target_missed"),
        ];
        all.into_iter().find(|(at, _)| *at == address).map(|(_, name)| name)
    }
}

/// A block and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Guest-physical address of the block.
    pub phys: u32,
    /// It is a region that begins there.
    pub region: bool,
    /// Its bytes.
    pub guest: Vec<u8>,
    /// Host address of the part of the translation that runs often.
    pub address: usize,
    /// Its bytes, and those of the rest, which lies elsewhere.
    pub host: Vec<u8>,
    /// The block's instructions, one a line.
    pub guest_text: String,
    /// The translation's, one a line, with offsets in [`Listing::host`] and names of shared routines.
    pub host_text: String,
}

/// Instructions of 32-bit guest code at an offset, one a line: offset in the page, bytes, text.
#[must_use]
pub fn guest_text(bytes: &[u8], offset: u32) -> String {
    guest_text_of(32, bytes, offset)
}

/// The same of code with any number of bits.
pub(crate) fn guest_text_of(bits: u32, bytes: &[u8], offset: u32) -> String {
    let mut text = String::new();
    let mut decoder = Decoder::with_ip(bits, bytes, u64::from(offset), DecoderOptions::NONE);
    let mut formatter = FastFormatter::new();
    while decoder.can_decode() {
        let ins = decoder.decode();
        let at = (ins.ip32() - offset) as usize;
        let own = bytes.get(at..at + ins.len()).unwrap_or_default();
        let hex: Vec<_> = own.iter().map(|b| format!("{b:02x}")).collect();
        let mut line = String::new();
        formatter.format(&ins, &mut line);
        let _ = writeln!(text, "{:03x}  {:<36}{line}", ins.ip32() & 0xFFF, hex.join(" "));
    }
    text
}

/// Instructions of host code.
pub(crate) fn host_text(code: &[u8], layout: Layout, routines: &Routines) -> String {
    let mut text = String::new();
    let mut at = 0;
    let mut formatter = FastFormatter::new();
    while at < code.len() {
        let rest = code.get(at..).unwrap_or_default();
        if at == layout.hot && at != 0 {
            text.push_str("      (cold)\n");
        }
        if let Some(shift) = Shift::read(rest) {
            let _ = writeln!(text, "{at:4x}  {shift}");
            at += Shift::LEN;
            continue;
        }
        let ins = Decoder::with_ip(64, rest, layout.address_of(at) as u64, DecoderOptions::NONE).decode();
        let _ = write!(text, "{at:4x}  ");
        line(&mut text, &ins, layout, routines, &mut formatter);
        at += ins.len().max(1);
    }
    text
}

fn line(
    text: &mut String,
    ins: &Instruction,
    layout: Layout,
    routines: &Routines,
    formatter: &mut FastFormatter,
) {
    if ins.op_count() == 1 && ins.op0_kind() == OpKind::NearBranch64 {
        let to = ins.near_branch64() as usize;
        let mnemonic = format!("{:?}", ins.mnemonic()).to_lowercase();
        let _ = match (routines.name(to), layout.offset_of(to)) {
            (Some(name), _) => writeln!(text, "{mnemonic} {name}"),
            (None, Some(offset)) => writeln!(text, "{mnemonic} +{offset:x}"),
            (None, None) => writeln!(text, "{mnemonic} (another block)"),
        };
        return;
    }
    let mut out = String::new();
    formatter.format(ins, &mut out);
    let _ = writeln!(text, "{out}");
}

/// SHLX, SHRX or SARX of registers, the only instructions with a VEX prefix: the decoder is built without.
#[derive(Clone, Copy)]
pub(crate) struct Shift {
    pub(crate) name: &'static str,
    /// The register that is written.
    pub(crate) to: u8,
    pub(crate) from: u8,
    pub(crate) count: u8,
}

impl Shift {
    /// Bytes of one.
    pub(crate) const LEN: usize = 5;

    /// Reads one from the start of host code.
    pub(crate) fn read(code: &[u8]) -> Option<Self> {
        let &[0xC4, b1, b2, 0xF7, modrm, ..] = code else { return None };
        if b1 & 0x1F != 2 || b2 & 0x84 != 0 || modrm < 0xC0 {
            return None;
        }
        let name = match b2 & 3 {
            1 => "shlx",
            2 => "sarx",
            3 => "shrx",
            _ => return None,
        };
        Some(Self {
            name,
            to: modrm >> 3 & 7 | (!b1 >> 7 & 1) << 3,
            from: modrm & 7 | (!b1 >> 5 & 1) << 3,
            count: !b2 >> 3 & 15,
        })
    }
}

impl std::fmt::Display for Shift {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const NAMES: [&str; 16] = [
            "eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "r8d", "r9d", "r10d", "r11d", "r12d",
            "r13d", "r14d", "r15d",
        ];
        let name = |n: u8| NAMES[usize::from(n & 15)];
        write!(f, "{} {},{},{}", self.name, name(self.to), name(self.from), name(self.count))
    }
}
