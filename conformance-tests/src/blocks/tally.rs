//! What a campaign has done: counts of everything that it is meant to cover.

use std::fmt::Write as _;

use emu_jit::{Part, Parts};
use iced_x86::{Decoder, DecoderOptions, Mnemonic};

/// What kind of code a block consists of, and where it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Sort {
    /// Integer instructions in flat segments.
    Integer,
    /// Accesses to a stack frame.
    Frame,
    /// x87 and MMX.
    X87,
    /// MMX and SSE.
    Simd,
    /// Protected mode, segments that are not flat, 16-bit code.
    Protected16,
    /// The same, 32-bit code.
    Protected32,
    /// VM86.
    Vm86,
    /// Real mode.
    Real,
}

const SORTS: [(Sort, &str); 8] = [
    (Sort::Integer, "flat integer"),
    (Sort::Frame, "flat frames"),
    (Sort::X87, "x87"),
    (Sort::Simd, "SIMD"),
    (Sort::Protected16, "segments, 16-bit"),
    (Sort::Protected32, "segments, 32-bit"),
    (Sort::Vm86, "VM86"),
    (Sort::Real, "real mode"),
];

impl Sort {
    /// Size of code and addresses.
    fn bits(self) -> u32 {
        match self {
            Self::Protected16 | Self::Vm86 | Self::Real => 16,
            _ => 32,
        }
    }
}

/// How the translator of a block was set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Setting {
    /// Given from outside.
    Fixed,
    /// Everything on, translated at once.
    Eager,
    /// What is dead is poisoned.
    Poison,
    /// One part is off.
    WithoutOne,
    /// Several parts are off.
    WithoutSome,
    /// The code cache holds a few blocks.
    TinyCache,
    /// Every instruction is a call.
    Calls,
    /// Blocks are not linked.
    T1,
    /// Translated at the second execution.
    Second,
}

const SETTINGS: [(Setting, &str); 9] = [
    (Setting::Fixed, "as given"),
    (Setting::Eager, "everything"),
    (Setting::Poison, "poisoned"),
    (Setting::WithoutOne, "without one part"),
    (Setting::WithoutSome, "without some parts"),
    (Setting::TinyCache, "tiny cache"),
    (Setting::Calls, "calls"),
    (Setting::T1, "t1"),
    (Setting::Second, "second execution"),
];

/// Vectors that the guest's tables have.
const VECTORS: usize = 256;
/// Blocks end with it.
const REGULAR: usize = 0x80;

/// What has been done.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Blocks (loops) compared.
    pub blocks: u64,
    /// Programs.
    pub programs: u64,
    /// Blocks that faulted.
    pub faults: u64,
    /// Blocks that did not end in time: they are equal as far as they went.
    pub endless: u64,
    /// Translations that were made for them.
    pub translated: u64,
    /// Regions that were made.
    pub regions: u64,
    /// Guest instructions.
    pub instructions: u64,
    /// By how they ended.
    vectors: Vec<u64>,
    sorts: [u64; SORTS.len()],
    settings: [u64; SETTINGS.len()],
    /// Blocks that ran without a part.
    without: [u64; Part::ALL.len()],
    /// Instructions written, by number of the mnemonic, in 16-bit and in 32-bit code.
    mnemonics: [Vec<u64>; 2],
}

impl Default for Tally {
    fn default() -> Self {
        let mnemonics = vec![0; Mnemonic::values().len()];
        Self {
            blocks: 0,
            programs: 0,
            faults: 0,
            endless: 0,
            translated: 0,
            regions: 0,
            instructions: 0,
            vectors: vec![0; VECTORS],
            sorts: [0; SORTS.len()],
            settings: [0; SETTINGS.len()],
            without: [0; Part::ALL.len()],
            mnemonics: [mnemonics.clone(), mnemonics],
        }
    }
}

impl Tally {
    /// A block is about to run.
    pub(super) fn begin(&mut self, sort: Sort, setting: Setting, without: Parts) {
        self.blocks += 1;
        self.sorts[sort as usize] += 1;
        self.settings[setting as usize] += 1;
        for (n, part) in Part::ALL.into_iter().enumerate() {
            self.without[n] += u64::from(without.has(part));
        }
    }

    /// A block has ended in the handler of an interrupt or exception.
    pub(super) fn end(&mut self, vector: u8) {
        self.vectors[usize::from(vector)] += 1;
        self.faults += u64::from(usize::from(vector) != REGULAR);
    }

    /// Counts the instructions of a block.
    pub(super) fn written(&mut self, sort: Sort, code: &[u8]) {
        let bits = sort.bits();
        let counts = &mut self.mnemonics[usize::from(bits == 32)];
        for ins in &mut Decoder::new(bits, code, DecoderOptions::NONE) {
            counts[ins.mnemonic() as usize] += 1;
        }
    }

    /// Adds what others have done.
    pub fn add(&mut self, other: &Self) {
        fn sum(all: &mut [u64], more: &[u64]) {
            all.iter_mut().zip(more).for_each(|(x, y)| *x += y);
        }
        self.blocks += other.blocks;
        self.programs += other.programs;
        self.faults += other.faults;
        self.endless += other.endless;
        self.translated += other.translated;
        self.regions += other.regions;
        self.instructions += other.instructions;
        sum(&mut self.vectors, &other.vectors);
        sum(&mut self.sorts, &other.sorts);
        sum(&mut self.settings, &other.settings);
        sum(&mut self.without, &other.without);
        for (all, more) in self.mnemonics.iter_mut().zip(&other.mnemonics) {
            sum(all, more);
        }
    }

    /// Instructions written of each mnemonic in 16-bit and in 32-bit code, rarest first.
    fn instructions_met(&self) -> Vec<(String, [u64; 2])> {
        let mut met: Vec<_> = Mnemonic::values()
            .map(|m| (format!("{m:?}").to_lowercase(), [0, 1].map(|n: usize| self.mnemonics[n][m as usize])))
            .filter(|(_, [small, big])| small + big > 0)
            .collect();
        met.sort_by_key(|(_, [small, big])| small + big);
        met
    }

    /// What was covered, in some lines of text; `in_full`: with all instructions.
    pub fn coverage(&self, in_full: bool) -> String {
        let list = |names: &mut dyn Iterator<Item = (String, u64)>| {
            let words: Vec<_> =
                names.filter(|(_, n)| *n > 0).map(|(name, n)| format!("{name} {n}")).collect();
            words.join(", ")
        };
        let mut text = String::new();
        let sorts = &mut SORTS.iter().map(|(sort, name)| ((*name).to_owned(), self.sorts[*sort as usize]));
        let _ = writeln!(text, "blocks: {}", list(sorts));
        let settings = &mut SETTINGS.iter().map(|(s, name)| ((*name).to_owned(), self.settings[*s as usize]));
        let _ = writeln!(text, "translator: {}", list(settings));
        let parts = &mut Part::ALL.iter().zip(self.without).map(|(part, n)| (part.name().to_owned(), n));
        let _ = writeln!(text, "without: {}", list(parts));
        let vectors = self.vectors.iter().enumerate().filter(|(vector, _)| *vector != REGULAR);
        let vectors = &mut vectors.map(|(vector, n)| (format!("vector {vector}:"), *n));
        let _ = writeln!(
            text,
            "ends: {} regularly, {} not in time, {}",
            self.vectors[REGULAR],
            self.endless,
            list(vectors)
        );
        let met = self.instructions_met();
        let in_code = |n: usize| met.iter().filter(|(_, counts)| counts[n] > 0).count();
        let shown = if in_full { met.len() } else { 12 };
        let rarest = &mut met.iter().take(shown).map(|(name, [small, big])| (name.clone(), small + big));
        let _ = writeln!(
            text,
            "instructions: {} kinds in 16-bit, {} in 32-bit code; rarest: {}",
            in_code(0),
            in_code(1),
            list(rarest)
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_sorts_and_settings_are_their_places_in_the_lists() {
        assert!(SORTS.iter().enumerate().all(|(n, (sort, _))| *sort as usize == n));
        assert!(SETTINGS.iter().enumerate().all(|(n, (setting, _))| *setting as usize == n));
    }

    #[test]
    fn sum_of_tallies_tells_of_both() {
        let (mut a, mut b) = (Tally::default(), Tally::default());
        a.begin(Sort::Real, Setting::Poison, Parts::of(&[Part::Lazy]));
        // 16-bit code: INC AX, FLD1.
        a.written(Sort::Real, &[0x40, 0xD9, 0xE8]);
        a.end(0x80);
        b.begin(Sort::X87, Setting::Eager, Parts::NONE);
        b.written(Sort::X87, &[0xD9, 0xE8]);
        b.end(14);
        a.add(&b);
        assert_eq!((a.blocks, a.faults), (2, 1));
        let text = a.coverage(true);
        for line in [
            "blocks: x87 1, real mode 1",
            "translator: everything 1, poisoned 1",
            "without: lazy 1",
            "ends: 1 regularly, 0 not in time, vector 14: 1",
            "instructions: 2 kinds in 16-bit, 1 in 32-bit code; rarest: inc 1, fld1 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }
}
