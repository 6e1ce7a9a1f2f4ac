//! Answers of silicon, recorded: what a case's registers and memory are afterwards, as differences from
//! what they were before. The cases themselves are made again by the generators. `vectors/README.md`
//! describes the format.

use std::io::{Read as _, Write as _};

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use crate::campaign::{integer::Flavour, program::Program};
use crate::compare::Generate;
use crate::fp::Pointers;
use crate::gen_int::Rng;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use crate::layout::CODE_LEN;
use crate::layout::{
    CS, DS, EXIT_CS, End, LEAVE, Processor, Registers, SS, base, is_big, selector, with_exit,
};
use crate::operand::Places;
use crate::policy::{self, Case, FLAGS, Host};
use crate::report;
use crate::{ARENA, ARENA_LEN, CODE, Fault, Outcome, State};

/// Raised whenever the generators make other cases from the same seed: then answers are recorded again.
pub const GENERATOR: u32 = 1;
/// EFLAGS bits that are stored: those compared, and NT, which tells what IRET means.
const KEPT: u32 = FLAGS | 0x4000;
/// Cases that share a seed.
const BLOCK: u32 = 1024;
const MAGIC: &str = "env86 answers of silicon 1";
/// Longest file, uncompressed: files may come from anywhere.
const MAX_LEN: u64 = 64 << 20;

/// A case: code and what it starts from.
#[derive(Clone, Debug)]
pub struct Input {
    /// Instructions, without the jump that ends the case.
    pub code: Vec<u8>,
    /// Registers; CS:EIP is where the code lies.
    pub regs: Registers,
    /// Contents of the arena.
    pub arena: Vec<u8>,
    /// What the integer generator knows of the program, which is compared as in campaigns. The code then
    /// is the program's and ends as it likes.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    pub program: Option<Program>,
}

impl Default for Input {
    fn default() -> Self {
        Self {
            code: Vec::new(),
            regs: Registers::default(),
            arena: vec![0; ARENA_LEN as usize],
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            program: None,
        }
    }
}

impl Input {
    /// Default operand size of the code.
    pub fn bits(&self) -> u32 {
        if is_big(self.regs.seg[CS]) { 32 } else { 16 }
    }

    /// Puts code and arena in place.
    pub fn store(&self, processor: &mut impl Processor) {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if let Some(p) = &self.program {
            // Such programs may end anywhere.
            processor.store(CODE, &[0xF4; CODE_LEN as usize]);
            processor.store(p.at, &self.code);
            processor.store(ARENA, &self.arena);
            return;
        }
        let at = base(self.regs.seg[CS]).wrapping_add(self.regs.eip);
        processor.store(at, &with_exit(&self.code, self.bits() == 32));
        processor.store(ARENA, &self.arena);
    }

    /// A repeated store has hit the program: processors look at the instruction again when they like.
    fn is_vague(&self, processor: &impl Processor) -> bool {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if let Some(p) = &self.program {
            let changed = processor.memory(p.at, p.code.len() as u32) != p.code;
            return changed && p.steps.iter().any(|s| s.repeated);
        }
        let _ = processor;
        false
    }

    /// Floating-point registers take part.
    pub fn fp(&self) -> bool {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if self.program.is_some() {
            return false;
        }
        true
    }

    /// As [`Self::difference`] by the rules of campaigns.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    fn program_difference(
        &self,
        p: &Program,
        want: &End,
        want_arena: &[u8],
        got: &End,
        got_arena: &[u8],
    ) -> Option<String> {
        use crate::campaign::{incomparable, scratch_places, settle};
        let (mut w, mut g) = (want.clone(), got.clone());
        settle(p, &mut w, &mut g);
        let mut arena = want_arena.to_vec();
        if let Some(fault) = want.fault {
            for at in scratch_places(p, want, fault) {
                arena[(at - ARENA) as usize] = got_arena[(at - ARENA) as usize];
            }
        }
        if w == g && arena == got_arena || incomparable(p, want, got) {
            return None;
        }
        let expected = Outcome { state: state(&w.regs, &arena), fault: w.fault };
        let actual = Outcome { state: state(&g.regs, got_arena), fault: g.fault };
        let (eip, before) = (self.regs.eip, self.state());
        let text = report::difference(&self.code, eip, self.bits(), &before, &expected, &actual);
        let (w, g) = (w.regs, g.regs);
        Some(format!("{text}  silicon {:x?} {:x}, ours {:x?} {:x}\n", w.seg, w.eip, g.seg, g.eip))
    }

    fn state(&self) -> State {
        state(&self.regs, &self.arena)
    }

    /// What differs between two ends that should be the same, apart from what the policy leaves out.
    pub fn difference(
        &self,
        host: Host,
        want: &End,
        want_arena: &[u8],
        got: &End,
        got_arena: &[u8],
    ) -> Option<String> {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if let Some(p) = &self.program {
            return self.program_difference(p, want, want_arena, got, got_arena);
        }
        let (w, g) = (&want.regs, &got.regs);
        let same = w.gpr == g.gpr
            && (w.eflags ^ g.eflags) & FLAGS == 0
            && w.seg == g.seg
            && w.eip == g.eip
            && w.fp == g.fp
            && want.fault == got.fault
            && want_arena == got_arena;
        if same {
            return None;
        }
        let before = self.state();
        let ss = self.regs.seg[SS];
        let case = Case { code: &self.code, origin: self.regs.eip, bits: self.bits(), ss, before: &before };
        let mut expected = Outcome { state: state(w, want_arena), fault: want.fault };
        let actual = Outcome { state: state(g, got_arena), fault: got.fault };
        policy::settle(host, case, &mut expected, &actual);
        let ended_alike = want.fault.is_some() == got.fault.is_some();
        if expected == actual && (!ended_alike || w.seg == g.seg && w.eip == g.eip) {
            return None;
        }
        let mut text =
            report::difference(&self.code, self.regs.eip, self.bits(), &before, &expected, &actual);
        if w.seg != g.seg || w.eip != g.eip {
            text += &format!("  silicon {:x?} {:x}, ours {:x?} {:x}\n", w.seg, w.eip, g.seg, g.eip);
        }
        Some(text)
    }
}

fn state(regs: &Registers, arena: &[u8]) -> State {
    State { gpr: regs.gpr, eflags: regs.eflags, fp: regs.fp.clone(), arena: arena.to_vec() }
}

/// What makes the next case from the one before.
type Maker = Box<dyn FnMut(&mut Rng, &mut Input)>;

/// Cases of one kind.
pub struct Family {
    /// Its name, and that of its file.
    pub name: &'static str,
    /// Makes a generator.
    generator: fn() -> Maker,
    /// Cases recorded, in blocks.
    pub blocks: u32,
}

/// All families.
pub const FAMILIES: &[Family] = &[
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Family { name: "integer", generator: || programs(Flavour::Flat), blocks: 40 },
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Family { name: "segments", generator: || programs(Flavour::Segments), blocks: 40 },
    Family { name: "x87", generator: || Box::new(x87), blocks: 56 },
    Family { name: "x87-16", generator: || Box::new(x87_16), blocks: 16 },
    Family { name: "simd", generator: || Box::new(simd), blocks: 56 },
];

/// The integer programs of campaigns: faults, 16-bit code, segments of all kinds.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn programs(flavour: Flavour) -> Maker {
    use crate::campaign::{Family as _, coverage::Coverage, integer::Integer};
    let mut family = Integer::new(flavour);
    let mut coverage = Coverage::default();
    Box::new(move |rng, input| {
        if input.arena.is_empty() {
            input.arena.resize(ARENA_LEN as usize, 0);
            family.fill(rng, &mut input.arena);
        }
        let mut p = input.program.take().unwrap_or_default();
        family.program(rng, &mut coverage, &mut p);
        family.registers(rng, &p, &mut input.regs);
        family.perturb(rng, &p, &input.regs, &mut |at, bytes| {
            let start = (at - ARENA) as usize;
            input.arena[start..start + bytes.len()].copy_from_slice(bytes);
        });
        input.code.clone_from(&p.code);
        input.program = Some(p);
    })
}

/// Flat segments.
fn take(input: &mut Input, before: State) {
    input.regs = Registers { gpr: before.gpr, eflags: before.eflags, fp: before.fp, ..Registers::default() };
    input.arena = before.arena;
}

/// Lets a generator of states change the input.
fn with_state(rng: &mut Rng, input: &mut Input, generate: Generate) {
    let mut before = State {
        gpr: input.regs.gpr,
        eflags: input.regs.eflags,
        fp: std::mem::take(&mut input.regs.fp),
        arena: std::mem::take(&mut input.arena),
    };
    generate(rng, &mut input.code, &mut before);
    take(input, before);
}

fn x87(rng: &mut Rng, input: &mut Input) {
    with_state(rng, input, crate::gen_x87::generate);
}

/// In 16-bit code, with selectors of the LDT.
fn x87_16(rng: &mut Rng, input: &mut Input) {
    let small: Generate = |rng, code, state| {
        use crate::gen_x87::{Mode, fill, program};
        if state.arena.is_empty() {
            state.arena.resize(ARENA_LEN as usize, 0);
            fill(rng, &mut state.arena);
        }
        program(rng, code, state, &mut Places::default(), Mode::SMALL)
    };
    with_state(rng, input, small);
    let flat = |rng: &mut Rng| selector([0, 4][rng.below(2) as usize]);
    let seg = &mut input.regs.seg;
    *seg = [flat(rng); 6];
    seg[DS] = flat(rng);
    seg[SS] = selector(0);
    // Flat 16-bit code, or based at the code.
    (seg[CS], input.regs.eip) = if rng.below(2) == 0 { (selector(25), CODE) } else { (selector(22), 0) };
}

fn simd(rng: &mut Rng, input: &mut Input) {
    with_state(rng, input, crate::gen_simd::generate);
}

/// Where answers come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// The processor, in its own words, with family, model and stepping.
    pub cpu: String,
    /// YYYY-MM-DD.
    pub date: String,
    /// What the policy has to know.
    pub host: Host,
}

struct Header {
    family: String,
    from: Provenance,
    generator: u32,
    seed: u64,
    blocks: u32,
}

impl Header {
    fn text(&self) -> String {
        format!(
            "{MAGIC}\nfamily {}\ncpu {}\ndate {}\namd {}\npointers {}\ngenerator {}\nseed {}\nblocks {}\n\n",
            self.family,
            self.from.cpu,
            self.from.date,
            self.from.host.amd,
            self.from.host.pointers,
            self.generator,
            self.seed,
            self.blocks,
        )
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next()? != MAGIC {
            return None;
        }
        let mut value = |key: &str| lines.next()?.strip_prefix(key)?.strip_prefix(' ');
        Some(Self {
            family: value("family")?.into(),
            from: Provenance {
                cpu: value("cpu")?.into(),
                date: value("date")?.into(),
                host: Host { amd: value("amd")?.parse().ok()?, pointers: value("pointers")?.parse().ok()? },
            },
            generator: value("generator")?.parse().ok()?,
            seed: value("seed")?.parse().ok()?,
            blocks: value("blocks")?.parse().ok()?,
        })
    }
}

/// The cases of a block, one after the other.
struct Cases<'a> {
    make: &'a mut Maker,
    rng: Rng,
    input: Input,
    /// Of all inputs so far.
    sum: u64,
}

impl<'a> Cases<'a> {
    fn new(make: &'a mut Maker, seed: u64, block: u32) -> Self {
        let mut input = Input::default();
        // Generators fill the arena when it is empty.
        input.arena.clear();
        Self { make, rng: Rng::new(seed ^ u64::from(block) << 32), input, sum: 0 }
    }

    fn next(&mut self) {
        (self.make)(&mut self.rng, &mut self.input);
        let mut add = |v: u64| self.sum = (self.sum.rotate_left(5) ^ v).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let regs = &self.input.regs;
        for b in &self.input.code {
            add(u64::from(*b));
        }
        for r in &regs.gpr {
            add(u64::from(*r));
        }
        for v in regs.fp.st.iter().chain(&regs.fp.xmm) {
            add(*v as u64 ^ (*v >> 64) as u64);
        }
        add(u64::from(regs.eip) << 32 | u64::from(regs.eflags));
        add(u64::from(regs.fp.control) << 48 | u64::from(regs.fp.status) << 32 | u64::from(regs.fp.mxcsr));
        add(regs.seg.iter().fold(u64::from(regs.fp.valid), |v, s| v << 9 ^ u64::from(*s)));
    }

    /// Checksum of all cases of the block and the arena at its end.
    fn sum(&self) -> u64 {
        self.input.arena.as_chunks::<8>().0.iter().fold(self.sum, |sum, bytes| {
            (sum.rotate_left(5) ^ u64::from_le_bytes(*bytes)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        })
    }
}

/// Records what `processor` answers to the cases of `family`.
///
/// # Errors
/// When a case has no stable answer, or the compressor's.
pub fn record(
    family: &Family,
    from: Provenance,
    seed: u64,
    processor: &mut impl Processor,
) -> Result<Vec<u8>, String> {
    let header =
        Header { family: family.name.into(), from, generator: GENERATOR, seed, blocks: family.blocks };
    let mut out = header.text().into_bytes();
    let mut make = (family.generator)();
    for block in 0..family.blocks {
        let mut cases = Cases::new(&mut make, seed, block);
        let mut records = Vec::new();
        for n in 0..BLOCK {
            cases.next();
            let end = stable(&cases.input, processor);
            match end.filter(|_| !cases.input.is_vague(processor)) {
                Some(end) => encode(&cases.input, &end, processor.memory(ARENA, ARENA_LEN), &mut records),
                None if cases.input.fp() => {
                    return Err(format!("{} {block}.{n}: no stable answer", family.name));
                }
                None => records.extend_from_slice(&has::NOTHING.to_le_bytes()),
            }
        }
        out.extend_from_slice(&cases.sum().to_le_bytes());
        out.extend_from_slice(&(records.len() as u32).to_le_bytes());
        out.extend_from_slice(&records);
    }
    let mut encoder = zstd::Encoder::new(Vec::new(), 19).map_err(|e| e.to_string())?;
    encoder.write_all(&out).and_then(|()| encoder.finish()).map_err(|e| e.to_string())
}

/// Runs a case until two answers in a row are the same: an interrupt of the host forgets the pointers of
/// the last x87 instruction.
fn stable(input: &Input, processor: &mut impl Processor) -> Option<End> {
    let mut run = || {
        input.store(processor);
        let mut end = processor.exec(&input.regs, input.fp());
        end.regs.eflags &= KEPT;
        // The host's kernel makes 0 of null selectors whenever it returns.
        end.regs.seg.iter_mut().filter(|s| **s < 4).for_each(|s| *s = 0);
        if input.fp() && end.fault.is_some() {
            end.regs.fp.pointers = Pointers::default();
        }
        (end, processor.memory(ARENA, ARENA_LEN).to_vec())
    };
    let mut last = run();
    for _ in 0..5 {
        let next = run();
        if next == last {
            return Some(next.0);
        }
        last = next;
    }
    None
}

/// What a replay found.
#[derive(Debug)]
pub struct Replay {
    /// Where the answers come from.
    pub from: Provenance,
    /// Cases compared.
    pub cases: u32,
    /// Of them, those that raise each vector.
    pub faults: [u32; 32],
    /// Of them, those that differ.
    pub found: u32,
    /// The first differences in words.
    pub differences: Vec<String>,
}

/// Runs the cases of a recording on `processor`, whose x87 is like that of `local`, and compares.
///
/// # Errors
/// When the file is damaged, or the generators now make other cases than those recorded.
pub fn replay(file: &[u8], local: Host, processor: &mut impl Processor) -> Result<Replay, String> {
    let mut bytes = Vec::new();
    zstd::Decoder::new(file)
        .and_then(|decoder| decoder.take(MAX_LEN).read_to_end(&mut bytes))
        .map_err(|e| e.to_string())?;
    let split = bytes.windows(2).position(|w| w == b"\n\n").ok_or("no header")?;
    let header = std::str::from_utf8(&bytes[..split]).ok().and_then(Header::parse).ok_or("bad header")?;
    let family = FAMILIES.iter().find(|f| f.name == header.family).ok_or("unknown family")?;
    let stale = || format!("{}: the generators have changed; record again", family.name);
    if header.generator != GENERATOR {
        return Err(stale());
    }
    let mut result = Replay {
        from: Provenance { host: header.from.host.and(local), ..header.from },
        cases: 0,
        faults: [0; 32],
        found: 0,
        differences: Vec::new(),
    };
    let mut make = (family.generator)();
    let mut reader = Reader(&bytes[split + 2..]);
    let mut want_arena = Vec::new();
    for block in 0..header.blocks {
        let damaged = || format!("{} block {block} is damaged", family.name);
        let sum = u64::from_le_bytes(reader.take().ok_or_else(damaged)?);
        let len = u32::from_le_bytes(reader.take().ok_or_else(damaged)?);
        let mut records = Reader(reader.slice(len as usize).ok_or_else(damaged)?);
        let mut cases = Cases::new(&mut make, header.seed, block);
        // All answers are used before the sum is known: differences of a stale block do not count.
        let (found, shown) = (result.found, result.differences.len());
        for n in 0..BLOCK {
            cases.next();
            let input = &cases.input;
            if records.0.starts_with(&has::NOTHING.to_le_bytes()) {
                records = Reader(&records.0[2..]);
                continue;
            }
            let want = decode(&mut records, input, &mut want_arena);
            let Some(want) = want else { return Err(if n == 0 { damaged() } else { stale() }) };
            input.store(processor);
            let mut got = processor.exec(&input.regs, input.fp());
            got.regs.eflags &= KEPT;
            if input.fp() && want.fault.is_some() {
                got.regs.fp.pointers = Pointers::default();
            }
            result.cases += 1;
            if let Some(fault) = &want.fault {
                result.faults[usize::from(fault.vector & 31)] += 1;
            }
            let got_arena = processor.memory(ARENA, ARENA_LEN);
            if let Some(text) = input.difference(result.from.host, &want, &want_arena, &got, got_arena) {
                result.found += 1;
                if result.differences.len() < 10 {
                    result.differences.push(format!("{} {block}.{n}\n{text}", family.name));
                }
            }
        }
        if cases.sum() != sum {
            (result.found, _) = (found, result.differences.drain(shown..));
            return Err(stale());
        }
    }
    Ok(result)
}

/// What a record holds.
mod has {
    pub(super) const FAULT: u16 = 1;
    pub(super) const EFLAGS: u16 = 1 << 1;
    pub(super) const GPR: u16 = 1 << 2;
    pub(super) const SEG: u16 = 1 << 3;
    pub(super) const CONTROL: u16 = 1 << 4;
    pub(super) const STATUS: u16 = 1 << 5;
    pub(super) const VALID: u16 = 1 << 6;
    pub(super) const POINTERS: u16 = 1 << 7;
    pub(super) const ST: u16 = 1 << 8;
    pub(super) const MXCSR: u16 = 1 << 9;
    pub(super) const XMM: u16 = 1 << 10;
    pub(super) const ARENA: u16 = 1 << 11;
    /// No answer: what the processor does may be otherwise next time.
    pub(super) const NOTHING: u16 = 1 << 15;
}

/// Segments at the end if nothing loads any.
fn expected_segments(input: &Input, fault: bool) -> [u16; 6] {
    let mut seg = input.regs.seg;
    if !fault {
        seg[CS] = EXIT_CS;
    }
    seg
}

/// Physical registers, so that a change of TOP moves none.
fn physical(fp: &crate::fp::FpState) -> [u128; 8] {
    let mut regs = [0; 8];
    for (n, v) in fp.st.iter().enumerate() {
        regs[fp.physical(n)] = *v;
    }
    regs
}

fn pointers(p: &Pointers) -> [u32; 5] {
    [p.opcode.into(), p.ip, p.cs.into(), p.dp, p.ds.into()]
}

/// Appends a mask of the values that differ and those values, `len` bytes each.
fn put_changes(out: &mut Vec<u8>, before: &[u128], after: &[u128], len: usize) {
    let changed = |n: usize| before[n] != after[n];
    out.push((0..after.len()).fold(0, |mask, n| mask | u8::from(changed(n)) << n));
    for n in (0..after.len()).filter(|n| changed(*n)) {
        out.extend_from_slice(&after[n].to_le_bytes()[..len]);
    }
}

fn encode(input: &Input, end: &End, arena: &[u8], out: &mut Vec<u8>) {
    let (b, a) = (&input.regs, &end.regs);
    let start = out.len();
    out.extend_from_slice(&[0, 0]);
    let mut mask = 0;
    if let Some(f) = &end.fault {
        mask |= has::FAULT;
        out.push(f.vector);
        out.extend_from_slice(&(f.error as u16).to_le_bytes());
        out.extend_from_slice(&f.eip.wrapping_sub(b.eip).to_le_bytes());
        if f.vector == 14 {
            out.extend_from_slice(&f.cr2.to_le_bytes());
        }
    }
    if (a.eflags ^ b.eflags) & KEPT != 0 {
        mask |= has::EFLAGS;
        out.extend_from_slice(&((a.eflags & KEPT) as u16).to_le_bytes());
    }
    if a.gpr != b.gpr {
        mask |= has::GPR;
        put_changes(out, &b.gpr.map(u128::from), &a.gpr.map(u128::from), 4);
    }
    let seg = expected_segments(input, end.fault.is_some());
    if a.seg != seg {
        mask |= has::SEG;
        put_changes(out, &seg.map(u128::from), &a.seg.map(u128::from), 2);
    }
    let (bf, af) = (&b.fp, &a.fp);
    if af.control != bf.control {
        mask |= has::CONTROL;
        out.extend_from_slice(&af.control.to_le_bytes());
    }
    if af.status != bf.status {
        mask |= has::STATUS;
        out.extend_from_slice(&af.status.to_le_bytes());
    }
    if af.valid != bf.valid {
        mask |= has::VALID;
        out.push(af.valid);
    }
    if end.fault.is_none() && af.pointers != bf.pointers {
        mask |= has::POINTERS;
        let wide = |p: &Pointers| pointers(p).map(u128::from);
        put_changes(out, &wide(&bf.pointers), &wide(&af.pointers), 4);
    }
    if physical(af) != physical(bf) {
        mask |= has::ST;
        put_changes(out, &physical(bf), &physical(af), 10);
    }
    if af.mxcsr != bf.mxcsr {
        mask |= has::MXCSR;
        out.extend_from_slice(&af.mxcsr.to_le_bytes());
    }
    if af.xmm != bf.xmm {
        mask |= has::XMM;
        put_changes(out, &bf.xmm, &af.xmm, 16);
    }
    if arena != input.arena {
        mask |= has::ARENA;
        put_runs(out, &input.arena, arena);
    }
    out[start..start + 2].copy_from_slice(&mask.to_le_bytes());
}

/// Stretches of bytes that differ: start, length, bytes; ended by a length of 0. Gaps of a few equal
/// bytes are part of a stretch.
fn put_runs(out: &mut Vec<u8>, before: &[u8], after: &[u8]) {
    const GAP: usize = 4;
    let differ = |n: usize| before[n] != after[n];
    let mut at = 0;
    while let Some(start) = (at..after.len()).find(|n| differ(*n)) {
        let mut end = start + 1;
        while let Some(next) = (end..after.len().min(end + GAP)).find(|n| differ(*n)) {
            end = next + 1;
        }
        out.extend_from_slice(&((end - start) as u16).to_le_bytes());
        out.extend_from_slice(&(start as u16).to_le_bytes());
        out.extend_from_slice(&after[start..end]);
        at = end;
    }
    out.extend_from_slice(&[0, 0]);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn slice(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.slice(N)?.try_into().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    /// See [`put_changes`].
    fn changes(&mut self, count: usize, len: usize, mut set: impl FnMut(usize, u128)) -> Option<()> {
        let [mask] = self.take()?;
        for n in (0..count).filter(|n| mask >> n & 1 != 0) {
            let mut bytes = [0; 16];
            bytes[..len].copy_from_slice(self.slice(len)?);
            set(n, u128::from_le_bytes(bytes));
        }
        Some(())
    }
}

fn decode(r: &mut Reader<'_>, input: &Input, arena: &mut Vec<u8>) -> Option<End> {
    let mut regs = input.regs.clone();
    arena.clone_from(&input.arena);
    let mask = r.u16()?;
    let on = |bit: u16| mask & bit != 0;
    let mut fault = None;
    if on(has::FAULT) {
        let [vector] = r.take()?;
        let error = u32::from(r.u16()?);
        let eip = r.u32()?.wrapping_add(regs.eip);
        let cr2 = if vector == 14 { r.u32()? } else { 0 };
        fault = Some(Fault { vector, error, cr2, eip });
    }
    regs.eip = fault.map_or(LEAVE, |f| f.eip);
    regs.eflags = if on(has::EFLAGS) { r.u16()?.into() } else { regs.eflags & KEPT };
    if on(has::GPR) {
        r.changes(8, 4, |n, v| regs.gpr[n] = v as u32)?;
    }
    regs.seg = expected_segments(input, fault.is_some());
    if on(has::SEG) {
        r.changes(6, 2, |n, v| regs.seg[n] = v as u16)?;
    }
    let mut st = physical(&regs.fp);
    let fp = &mut regs.fp;
    if on(has::CONTROL) {
        fp.control = r.u16()?;
    }
    if on(has::STATUS) {
        fp.status = r.u16()?;
    }
    if on(has::VALID) {
        [fp.valid] = r.take()?;
    }
    let mut p = pointers(&fp.pointers);
    if on(has::POINTERS) {
        r.changes(5, 4, |n, v| p[n] = v as u32)?;
    }
    let [opcode, ip, cs, dp, ds] = p;
    fp.pointers = Pointers { opcode: opcode as u16, ip, cs: cs as u16, dp, ds: ds as u16 };
    if fault.is_some() && input.fp() {
        fp.pointers = Pointers::default();
    }
    if on(has::ST) {
        r.changes(8, 10, |n, v| st[n] = v)?;
    }
    fp.st = std::array::from_fn(|n| st[fp.physical(n)]);
    if on(has::MXCSR) {
        fp.mxcsr = r.u32()?;
    }
    if on(has::XMM) {
        r.changes(8, 16, |n, v| fp.xmm[n] = v)?;
    }
    if on(has::ARENA) {
        loop {
            let len = usize::from(r.u16()?);
            if len == 0 {
                break;
            }
            let start = usize::from(r.u16()?);
            arena.get_mut(start..start + len)?.copy_from_slice(r.slice(len)?);
        }
    }
    Some(End { regs, fault })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_give_back_what_was_recorded() {
        let mut rng = Rng::new(5);
        for family in FAMILIES {
            let mut make = (family.generator)();
            let mut input = Input::default();
            let mut other = Input::default();
            for n in 0..200 {
                make(&mut rng, &mut input);
                make(&mut rng, &mut other);
                if !input.fp() {
                    other.regs.fp = input.regs.fp.clone();
                }
                let mut end = End { regs: other.regs.clone(), fault: None };
                end.regs.eip = LEAVE;
                if n % 3 == 0 {
                    let eip = CODE + 3;
                    end.fault = Some(Fault { vector: 14 - n as u8 % 2, error: 4, cr2: 0, eip });
                    if input.fp() {
                        end.regs.fp.pointers = Pointers::default();
                    }
                    end.regs.eip = eip;
                }
                end.regs.eflags &= KEPT;
                let mut bytes = Vec::new();
                encode(&input, &end, &other.arena, &mut bytes);
                let mut arena = Vec::new();
                let mut reader = Reader(&bytes);
                assert_eq!(decode(&mut reader, &input, &mut arena), Some(end));
                assert_eq!(arena, other.arena);
                assert!(reader.0.is_empty());
            }
        }
    }

    #[test]
    fn header_is_read_back() {
        let from = Provenance { cpu: "A b c".into(), date: "2026-01-02".into(), host: Host::AMD };
        let header = Header { family: "x87".into(), from: from.clone(), generator: 3, seed: 9, blocks: 2 };
        let read = Header::parse(&header.text()).unwrap();
        assert_eq!(
            (read.from, read.family, read.generator, read.seed, read.blocks),
            (from, "x87".into(), 3, 9, 2)
        );
        assert!(Header::parse("env86 answers of silicon 0\n").is_none());
    }
}
