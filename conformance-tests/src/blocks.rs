//! A campaign of random blocks on the interpreter and on translated code, fast enough for tens of millions.
//!
//! A program fills four pages with loops; each runs to its INT 80h or to a fault, then registers are compared
//! and the next one starts from new registers. Memory is compared behind the last. A few programs make a chunk,
//! which has a new pair of machines and a translator of its own: all of it, with dead state poisoned, without some
//! of its parts, with tiny caches. Chunks know nothing of each other, so they can be run in any order and again.

mod tally;

pub use tally::Tally;
use tally::{Setting, Sort};

use emu_core::cpu::{CpuState, seg};
use emu_core::engine::Exit;
use emu_core::interp::Interpreter;
use emu_jit::{Jit, Level, Options, Part, Parts};

use crate::gen_int::{self, Rng, sequence};
use crate::gen_seg::{Kind, Segments};
use crate::gen_x87::Mode;
use crate::operand::Places;
use crate::rig::{self, CODE_PAGES, LOW_ARENA, LOW_CODE, Rig};
use crate::{ARENA, ARENA_LEN, CODE, State, gen_frame, gen_seg, gen_simd, gen_x87};

/// All of the memory, which real mode with wide limits can reach.
const RAM_LEN: usize = 4 << 20;
/// Programs of a chunk.
const PROGRAMS: u64 = 24;
/// The emitted code of one chunk in so many is verified, which takes several times as long as all the rest.
const VERIFIED: u32 = 32;
/// Blocks of a chunk in a short run.
const SOME: u64 = 300;
/// Most bytes of a block with its loop.
const LONGEST: usize = 0x200;
/// Slices after which a block that does not end is given up.
const SLICES: u32 = 4;
/// The same if slices are short.
const SHORT_SLICES: u32 = 60;

/// A loop of a few rounds over random instructions, then INT 80h. The counter is the arena's last dword.
pub fn program(rng: &mut Rng, rounds: u32, into: &mut Vec<u8>) {
    looped(rounds, into, |into| {
        for _ in 0..1 + rng.below(3) {
            let code = sequence(rng).code;
            match rng.below(8) {
                // A call of the rest, whose return address may get lost.
                0 => {
                    into.extend_from_slice(&[0xE8, 0, 0, 0, 0]);
                    into.extend_from_slice(&code);
                    into.push(0xC3);
                }
                // An access through a segment with a base.
                1 => {
                    into.extend_from_slice(&[
                        [0x64, 0x65][rng.below(2) as usize],
                        0x8B,
                        0x40 | rng.below(4) as u8,
                    ]);
                    into.push(rng.next_u64() as u8);
                    into.extend_from_slice(&code);
                }
                // MOV ES, AX and POP DS: what translated code assumes may end.
                2 => {
                    let load = [0x8E, [0xC0, 0xD8][rng.below(2) as usize]];
                    into.extend_from_slice(&load);
                    into.extend_from_slice(&code);
                }
                _ => into.extend_from_slice(&code),
            }
        }
    });
}

/// A loop around what `body` appends, then INT 80h.
fn looped(rounds: u32, into: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let counter = ARENA + ARENA_LEN - 4;
    into.extend_from_slice(&[0xC7, 0x05]);
    into.extend_from_slice(&counter.to_le_bytes());
    into.extend_from_slice(&rounds.to_le_bytes());
    let start = into.len();
    body(into);
    into.extend_from_slice(&[0xFF, 0x0D]);
    into.extend_from_slice(&counter.to_le_bytes());
    let back = (start as i32) - (into.len() as i32 + 6);
    into.extend_from_slice(&[0x0F, 0x85]);
    into.extend_from_slice(&back.to_le_bytes());
    into.extend_from_slice(&[0xCD, 0x80]);
}

/// A function that is called and calls, and a return through the stack: CALL over it, body, RET.
fn function(rng: &mut Rng, into: &mut Vec<u8>) {
    let mut body = Vec::new();
    gen_frame::append(rng, &mut body);
    body.push(0xC3);
    // call f; jmp over; f: body; over:
    into.extend_from_slice(&[0xE8, 5, 0, 0, 0, 0xE9]);
    into.extend_from_slice(&(body.len() as u32).to_le_bytes());
    into.extend_from_slice(&body);
}

/// Where a block lies and what it starts from.
struct Block {
    at: u32,
    len: u32,
    state: State,
    /// Mode and segments, if they are not the ordinary ones.
    segments: Option<Segments>,
    sort: Sort,
}

/// A campaign: chunks of programs, each of which depends on nothing but the seed and its number.
#[derive(Clone, Copy, Debug)]
pub struct Blocks {
    seed: u64,
    /// Fixed options instead of changing ones.
    fixed: Option<Options>,
}

impl Blocks {
    /// The campaign of a seed.
    pub fn new(seed: u64, fixed: Option<Options>) -> Self {
        Self { seed, fixed }
    }

    /// Compares at most `most` blocks of a chunk.
    ///
    /// # Errors
    /// A difference, described. The host's when it has no memory.
    pub fn chunk(&self, number: u64, most: u64) -> Result<Tally, String> {
        let mut rng = Rng::new(self.seed.wrapping_mul(0xD134_2543_DE82_EF95) ^ number.rotate_left(32));
        let (setting, options) = match self.fixed {
            Some(options) => (Setting::Fixed, options),
            None => options(&mut rng),
        };
        let jit = Jit::with_options(options).map_err(|e| e.to_string())?;
        let mut chunk = Chunk {
            name: format!("seed {} chunk {number}", self.seed),
            rng,
            a: Rig::new(Interpreter::new()).map_err(|e| e.to_string())?,
            b: Rig::new(jit).map_err(|e| e.to_string())?,
            setting,
            options,
            tally: Tally::default(),
            scratch: State::default(),
            own: Vec::new(),
            places: (Places::default(), Places::default()),
        };
        for _ in 0..PROGRAMS {
            chunk.program(most)?;
            if chunk.tally.blocks >= most {
                break;
            }
        }
        let stats = chunk.b.engine.jit_stats();
        chunk.tally.translated = stats.translated;
        chunk.tally.regions = stats.regions;
        Ok(chunk.tally)
    }

    /// Compares `count` blocks, some of each chunk.
    ///
    /// # Errors
    /// See [`Blocks::chunk`].
    pub fn run(&self, count: u64) -> Result<Tally, String> {
        let mut all = Tally::default();
        for number in 0.. {
            if all.blocks >= count {
                break;
            }
            all.add(&self.chunk(number, SOME.min(count - all.blocks))?);
        }
        Ok(all)
    }
}

/// Options for a chunk.
fn options(rng: &mut Rng) -> (Setting, Options) {
    let region_threshold = [0, 0, 1, 3, Options::NEVER][rng.below(5) as usize];
    let verify = rng.below(VERIFIED) == 0;
    let eager = Options { threshold: 1, region_threshold, verify, ..Options::default() };
    match rng.below(8) {
        0 | 1 => (Setting::Eager, eager),
        2 => (Setting::Poison, Options { poison: true, ..eager }),
        3 => {
            let without = Parts::from_bits(1 << rng.below(Part::ALL.len() as u32));
            (Setting::WithoutOne, Options { without, ..eager })
        }
        4 => {
            let bits = rng.next_u64() as u32 & rng.next_u64() as u32;
            let poison = rng.below(2) == 0;
            (Setting::WithoutSome, Options { without: Parts::from_bits(bits), poison, ..eager })
        }
        5 => {
            let threshold = 1 + rng.below(2) as u16;
            (Setting::TinyCache, Options { cache_bytes: 64 << 10, threshold, ..eager })
        }
        6 => {
            let (setting, level) = match rng.below(2) {
                0 => (Setting::Calls, Level::Calls),
                _ => (Setting::T1, Level::T1),
            };
            (setting, Options { threshold: 1, ..Options::level(level) })
        }
        _ => (Setting::Second, Options { threshold: 2, count: true, ..eager }),
    }
}

/// Both sides and what they run.
struct Chunk {
    name: String,
    rng: Rng,
    a: Rig<Interpreter>,
    b: Rig<Jit>,
    setting: Setting,
    options: Options,
    tally: Tally,
    scratch: State,
    /// Code of x87 and SIMD programs.
    own: Vec<u8>,
    places: (Places<gen_x87::Kind>, Places<gen_simd::Contents>),
}

impl Chunk {
    /// Writes one block for segments that are not flat.
    fn segmented(&mut self, kind: Kind, code: &mut Vec<u8>) -> (State, Option<Segments>, Sort) {
        let rng = &mut self.rng;
        let mut state = State { eflags: rng.next_u64() as u32 & 0xCD5, ..State::default() };
        let segments = gen_seg::segments(rng, kind, code.len() as u32);
        gen_seg::registers(rng, &mut state.gpr);
        let rounds = 1 + rng.below(3);
        gen_seg::append(rng, &segments, rounds, code);
        let sort = match kind {
            Kind::Real => Sort::Real,
            Kind::Vm86 => Sort::Vm86,
            Kind::Protected if segments.seg[seg::CS].is_big() => Sort::Protected32,
            Kind::Protected => Sort::Protected16,
        };
        (state, Some(segments), sort)
    }

    /// Writes one block.
    fn block(&mut self, real: bool, code: &mut Vec<u8>) -> (State, Option<Segments>, Sort) {
        if real {
            return self.segmented(Kind::Real, code);
        }
        match self.rng.below(8) {
            0 | 1 => self.segmented(Kind::Protected, code),
            2 => self.segmented(Kind::Vm86, code),
            _ => {
                let (state, sort) = self.flat(code);
                (state, None, sort)
            }
        }
    }

    fn flat(&mut self, code: &mut Vec<u8>) -> (State, Sort) {
        let (rng, own) = (&mut self.rng, &mut self.own);
        let most = if rng.below(4) == 0 { 12 } else { 4 };
        let rounds = 1 + rng.below(most);
        let mut state = State { eflags: rng.next_u64() as u32 & 0xCD5, ..State::default() };
        let made = |scratch: &State| State {
            gpr: scratch.gpr,
            eflags: scratch.eflags,
            fp: scratch.fp.clone(),
            arena: Vec::new(),
        };
        match rng.below(10) {
            0..4 => {
                program(rng, rounds, code);
                for r in &mut state.gpr {
                    *r = if rng.below(2) == 0 { gen_int::pointer(rng) } else { rng.corner() };
                }
                if rng.below(8) != 0 {
                    state.gpr[4] = gen_int::pointer(rng);
                }
                if rng.below(3) != 0 {
                    state.gpr[1] = rng.below(9);
                }
                (state, Sort::Integer)
            }
            4..7 => {
                let functions = rng.below(2) == 0;
                looped(rounds, code, |code| {
                    gen_frame::append(rng, code);
                    if functions {
                        function(rng, code);
                    }
                });
                for r in &mut state.gpr {
                    *r = if rng.below(2) == 0 { gen_int::pointer(rng) } else { rng.corner() };
                }
                gen_frame::registers(rng, &mut state.gpr);
                (state, Sort::Frame)
            }
            7 | 8 => {
                gen_x87::program(rng, own, &mut self.scratch, &mut self.places.0, Mode::SMALL);
                looped(rounds, code, |code| {
                    if rng.below(3) == 0 {
                        code.extend_from_slice(&sequence(rng).code);
                    }
                    code.extend_from_slice(own);
                });
                (made(&self.scratch), Sort::X87)
            }
            _ => {
                gen_simd::program(rng, own, &mut self.scratch, &mut self.places.1, false);
                looped(rounds, code, |code| code.extend_from_slice(own));
                (made(&self.scratch), Sort::Simd)
            }
        }
    }

    /// Four pages of blocks, of which at most as many run as are wanted in all.
    fn program(&mut self, most: u64) -> Result<(), String> {
        let room = (CODE_PAGES * 0x1000) as usize - LONGEST;
        let real = self.rng.below(6) == 0;
        let base = if real { LOW_CODE } else { CODE & !0xFFF };
        let (mut code, mut blocks) = (Vec::with_capacity(room + LONGEST), Vec::new());
        code.resize(self.rng.below(64) as usize, 0xF4);
        while code.len() < room && self.tally.blocks + (blocks.len() as u64) < most {
            let (at, start) = (base + code.len() as u32, code.len());
            let (state, segments, sort) = self.block(real, &mut code);
            let len = code.len() - start;
            if len > LONGEST {
                code.truncate(start);
                continue;
            }
            self.tally.written(sort, &code[start..]);
            blocks.push(Block { at, len: len as u32, state, segments, sort });
        }
        // Nothing of an earlier program stays.
        code.resize((CODE_PAGES * 0x1000) as usize, 0xF4);
        let mut arena = vec![0; ARENA_LEN as usize];
        if self.rng.below(2) == 0 {
            gen_x87::fill(&mut self.rng, &mut arena);
        } else {
            for chunk in arena.chunks_exact_mut(4) {
                chunk.copy_from_slice(&self.rng.corner().to_le_bytes());
            }
        }
        let before = State { arena, ..State::default() };
        if real {
            for mem in [&mut self.a.mem, &mut self.b.mem] {
                assert!(mem.dma_write(u64::from(LOW_ARENA), &before.arena));
            }
        }
        self.a.load_fixed();
        self.b.load_fixed();
        self.a.load(base, &code, &before);
        self.b.load(base, &code, &before);
        let start = self.a.cpu.retired;
        for block in &blocks {
            // Real mode may have overwritten its handlers.
            if real && !self.a.is_fixed() {
                self.a.load_fixed();
                self.b.load_fixed();
            }
            self.compare(block).map_err(|difference| {
                let offset = (block.at - base) as usize;
                self.describe(block, &code[offset..offset + block.len as usize], &difference)
            })?;
        }
        self.tally.programs += 1;
        self.tally.instructions += self.a.cpu.retired - start;
        // Real mode gets everywhere.
        let places = if real { vec![(0, RAM_LEN)] } else { rig::PLACES.to_vec() };
        for (at, len) in places {
            let at = u64::from(at);
            let (x, y) = (self.a.mem.ram().get(at, len), self.b.mem.ram().get(at, len));
            if x != y {
                let (x, y) = (x.unwrap_or_default(), y.unwrap_or_default());
                let differ = x.iter().zip(y).zip(at..).filter(|((x, y), _)| x != y).take(8);
                let differ: Vec<_> = differ.map(|((x, y), at)| format!("{at:x}: {x:02x} {y:02x}")).collect();
                let block = Block { at: base, len: 0, state: before, segments: None, sort: Sort::Integer };
                let difference = format!("memory behind all blocks of the program: {differ:?}");
                return Err(self.describe(&block, &code, &difference));
            }
        }
        Ok(())
    }

    fn compare(&mut self, block: &Block) -> Result<(), String> {
        let (a, b) = (&mut self.a, &mut self.b);
        a.start(block.at, &block.state);
        b.start(block.at, &block.state);
        if let Some(segments) = &block.segments {
            a.set_segments(segments);
            b.set_segments(segments);
        }
        self.tally.begin(block.sort, self.setting, self.options.without);
        let short = self.rng.below(8) == 0;
        for _ in 0..if short { SHORT_SLICES } else { SLICES } {
            let budget = if short { 1 + u64::from(self.rng.below(12)) } else { 300 };
            let (x, y) = (a.run(budget), b.run(budget));
            if x != y || !same(&a.cpu, &b.cpu) {
                return Err(format!(
                    "interpreter {x:?} {}\ntranslated  {y:?} {}",
                    a.registers(),
                    b.registers()
                ));
            }
            if x != Exit::Budget {
                // Behind the HLT of the vector's handler.
                self.tally.end((a.cpu.eip as u8).wrapping_sub(1));
                return Ok(());
            }
        }
        self.tally.endless += 1;
        Ok(())
    }

    fn describe(&self, block: &Block, code: &[u8], difference: &str) -> String {
        let end = block.at + code.len() as u32;
        let mut text = format!(
            "{} program {} block {} at {:x}, without {}\n{:?}\n{:x?}\n{code:02x?}\n{:08x?} flags {:x}\n\
             {difference}\n",
            self.name,
            self.tally.programs,
            self.tally.blocks,
            block.at,
            self.options.without.names().join(","),
            self.options,
            block.segments,
            block.state.gpr,
            block.state.eflags,
        );
        let listings = self.b.engine.listings(&self.b.mem);
        for listing in listings.iter().filter(|l| (block.at..end).contains(&l.phys)) {
            text += &format!("{:x}\n{}{}", listing.phys, listing.guest_text, listing.host_text);
        }
        text
    }
}

/// Everything that the guest can see.
fn same(a: &CpuState, b: &CpuState) -> bool {
    a.gpr[..8] == b.gpr[..8]
        && (a.eip, a.cpl, a.cr2, a.retired, a.halted, a.mxcsr)
            == (b.eip, b.cpl, b.cr2, b.retired, b.halted, b.mxcsr)
        && a.eflags() == b.eflags()
        && a.xmm == b.xmm
        && a.x87 == b.x87
        && a.seg
            .iter()
            .zip(&b.seg)
            .all(|(x, y)| (x.selector, x.base, x.limit, x.attr) == (y.selector, y.base, y.limit, y.attr))
}
