//! A campaign of random blocks on the interpreter and on translated code, fast enough for tens of millions.
//!
//! A program fills four pages with loops; each runs to its INT 80h or to a fault, then registers are compared
//! and the next one starts from new registers. Memory is compared behind the last. The translator changes
//! every few programs: all of it, with dead state poisoned, without some of its parts, with tiny caches.

use emu_core::cpu::CpuState;
use emu_core::engine::Exit;
use emu_core::interp::Interpreter;
use emu_core::mem::Memory;
use emu_jit::{Jit, Level, Options, Part, Parts};

use crate::gen_int::{self, Rng, sequence};
use crate::gen_seg::{Kind, Segments};
use crate::gen_x87::Mode;
use crate::operand::Places;
use crate::rig::{CODE_PAGES, LOW_ARENA, LOW_CODE, Rig};
use crate::{ARENA, ARENA_LEN, CODE, State, gen_frame, gen_seg, gen_simd, gen_x87};

/// All of the memory, which real mode with wide limits can reach.
const RAM_LEN: usize = 4 << 20;
/// Programs that one translator runs.
const PROGRAMS: u64 = 24;
/// Most bytes of a block with its loop.
const LONGEST: usize = 0x200;
/// Slices after which a block that does not end is given up.
const SLICES: u32 = 60;

/// What has been done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Blocks (loops) compared.
    pub blocks: u64,
    /// Programs.
    pub programs: u64,
    /// Those that faulted.
    pub faults: u64,
    /// Translations that were made for them.
    pub translated: u64,
    /// Regions that were made.
    pub regions: u64,
    /// Guest instructions.
    pub instructions: u64,
}

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
    state: State,
    /// Mode and segments, if they are not the ordinary ones.
    segments: Option<Segments>,
}

/// Both sides and what they run.
pub struct Blocks {
    rng: Rng,
    seed: u64,
    a: Rig<Interpreter>,
    /// Fixed options instead of changing ones.
    fixed: Option<Options>,
    tally: Tally,
    scratch: State,
    /// The last program ran in real mode.
    was_real: bool,
    places: (Places<gen_x87::Kind>, Places<gen_simd::Contents>),
}

impl Blocks {
    /// The campaign of a seed.
    ///
    /// # Errors
    /// The host's when it has no memory.
    pub fn new(seed: u64, fixed: Option<Options>) -> std::io::Result<Self> {
        Ok(Self {
            rng: Rng::new(seed),
            seed,
            a: Rig::new(Interpreter::new())?,
            fixed,
            tally: Tally::default(),
            scratch: State::default(),
            was_real: false,
            places: (Places::default(), Places::default()),
        })
    }

    /// Options for the next programs.
    fn options(&mut self) -> Options {
        if let Some(options) = self.fixed {
            return options;
        }
        let rng = &mut self.rng;
        let region_threshold = [0, 0, 1, 3, Options::NEVER][rng.below(5) as usize];
        let verify = rng.below(16) == 0;
        let eager = Options { threshold: 1, region_threshold, verify, ..Options::default() };
        match rng.below(8) {
            0 | 1 => eager,
            2 => Options { poison: true, ..eager },
            3 => Options { without: Parts::from_bits(1 << rng.below(Part::ALL.len() as u32)), ..eager },
            4 => {
                let bits = rng.next_u64() as u32 & rng.next_u64() as u32;
                Options { without: Parts::from_bits(bits), poison: rng.below(2) == 0, ..eager }
            }
            5 => Options { cache_bytes: 64 << 10, threshold: 1 + rng.below(2) as u16, ..eager },
            6 => Options { threshold: 1, ..Options::level([Level::Calls, Level::T1][rng.below(2) as usize]) },
            _ => Options { threshold: 2, count: true, ..eager },
        }
    }

    /// Compares until `count` blocks are done. `progress` sees what has been done after each translator.
    ///
    /// # Errors
    /// A difference, described.
    pub fn run(&mut self, count: u64, progress: &mut dyn FnMut(&Tally)) -> Result<Tally, String> {
        let first = self.tally.blocks;
        while self.tally.blocks - first < count {
            let options = self.options();
            let jit = Jit::with_options(options).map_err(|e| e.to_string())?;
            let mut b = Rig::new(jit).map_err(|e| e.to_string())?;
            for _ in 0..PROGRAMS {
                self.program(&mut b, &options)?;
                if self.tally.blocks - first >= count {
                    break;
                }
            }
            self.tally.translated += b.engine.jit_stats().translated;
            self.tally.regions += b.engine.jit_stats().regions;
            progress(&self.tally);
        }
        Ok(self.tally)
    }

    /// Writes one block for segments that are not flat.
    fn segmented(&mut self, kind: Kind, code: &mut Vec<u8>) -> (State, Option<Segments>) {
        let rng = &mut self.rng;
        let mut state = State { eflags: rng.next_u64() as u32 & 0xCD5, ..State::default() };
        let segments = gen_seg::segments(rng, kind, code.len() as u32);
        gen_seg::registers(rng, &mut state.gpr);
        let rounds = 1 + rng.below(3);
        gen_seg::append(rng, &segments, rounds, code);
        state.arena = Vec::new();
        (state, Some(segments))
    }

    /// Writes one block.
    fn block(&mut self, real: bool, code: &mut Vec<u8>) -> (State, Option<Segments>) {
        if real {
            return self.segmented(Kind::Real, code);
        }
        match self.rng.below(8) {
            0 | 1 => self.segmented(Kind::Protected, code),
            2 => self.segmented(Kind::Vm86, code),
            _ => (self.flat(code), None),
        }
    }

    fn flat(&mut self, code: &mut Vec<u8>) -> State {
        let rng = &mut self.rng;
        let most = if rng.below(4) == 0 { 12 } else { 4 };
        let rounds = 1 + rng.below(most);
        let mut state = State { eflags: rng.next_u64() as u32 & 0xCD5, ..State::default() };
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
            }
            7 | 8 => {
                let mut own = Vec::new();
                gen_x87::program(rng, &mut own, &mut self.scratch, &mut self.places.0, Mode::SMALL);
                looped(rounds, code, |code| {
                    if rng.below(3) == 0 {
                        code.extend_from_slice(&sequence(rng).code);
                    }
                    code.extend_from_slice(&own);
                });
                state.clone_from(&self.scratch);
            }
            _ => {
                let mut own = Vec::new();
                gen_simd::program(rng, &mut own, &mut self.scratch, &mut self.places.1, false);
                looped(rounds, code, |code| code.extend_from_slice(&own));
                state.clone_from(&self.scratch);
                state.arena = Vec::new();
            }
        }
        state.arena = Vec::new();
        state
    }

    fn program(&mut self, b: &mut Rig<Jit>, options: &Options) -> Result<(), String> {
        let room = (CODE_PAGES * 0x1000) as usize - LONGEST;
        let real = self.rng.below(6) == 0;
        let base = if real { LOW_CODE } else { CODE & !0xFFF };
        let (mut code, mut blocks) = (Vec::with_capacity(room + LONGEST), Vec::new());
        code.resize(self.rng.below(64) as usize, 0xF4);
        while code.len() < room {
            let (at, start) = (base + code.len() as u32, code.len());
            let (state, segments) = self.block(real, &mut code);
            if code.len() - start > LONGEST {
                code.truncate(start);
                continue;
            }
            blocks.push(Block { at, state, segments });
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
        if std::mem::replace(&mut self.was_real, real) || real {
            // Real mode gets everywhere.
            for mem in [&mut self.a.mem, &mut b.mem] {
                assert!(mem.dma_write(0, &vec![0; RAM_LEN]));
            }
        }
        if real {
            for mem in [&mut self.a.mem, &mut b.mem] {
                assert!(mem.dma_write(u64::from(LOW_ARENA), &before.arena));
            }
        }
        self.a.load_fixed();
        b.load_fixed();
        self.a.load(base, &code, &before);
        b.load(base, &code, &before);
        b.cpu.retired = self.a.cpu.retired;
        let start = self.a.cpu.retired;
        for block in &blocks {
            self.compare(b, block).map_err(|difference| {
                let offset = (block.at - base) as usize;
                let own = &code[offset..(offset + LONGEST).min(code.len())];
                self.describe(b, options, block, own, &difference)
            })?;
        }
        self.tally.programs += 1;
        self.tally.instructions += self.a.cpu.retired - start;
        let (ma, mb) = (self.a.memory(), b.memory());
        if ma != mb {
            let differ: Vec<_> =
                ma.iter().zip(&mb).enumerate().filter(|(_, (x, y))| x != y).take(8).collect();
            let difference = format!("memory behind all blocks of the program: {differ:x?}");
            let block = Block { at: base, state: before, segments: None };
            return Err(self.describe(b, options, &block, &code, &difference));
        }
        let all = |mem: &Memory| mem.ram().get(0, RAM_LEN).map(<[u8]>::to_vec);
        if real && all(&self.a.mem) != all(&b.mem) {
            let block = Block { at: base, state: before, segments: None };
            let difference = "memory behind all blocks of the program: all of it";
            return Err(self.describe(b, options, &block, &code, difference));
        }
        Ok(())
    }

    fn compare(&mut self, b: &mut Rig<Jit>, block: &Block) -> Result<(), String> {
        self.a.start(block.at, &block.state);
        b.start(block.at, &block.state);
        if let Some(segments) = &block.segments {
            self.a.set_segments(segments);
            b.set_segments(segments);
        }
        self.tally.blocks += 1;
        let short = self.rng.below(8) == 0;
        for _ in 0..SLICES {
            let budget = if short { 1 + u64::from(self.rng.below(12)) } else { 300 };
            let (x, y) = (self.a.run(budget), b.run(budget));
            if x != y || !same(&self.a.cpu, &b.cpu) {
                return Err(format!(
                    "interpreter {x:?} {}\ntranslated  {y:?} {}",
                    self.a.registers(),
                    b.registers()
                ));
            }
            if x != Exit::Budget {
                self.tally.faults += u64::from(self.a.cpu.eip & 0xFFF != 0x81);
                break;
            }
        }
        Ok(())
    }

    fn describe(
        &self,
        b: &Rig<Jit>,
        options: &Options,
        block: &Block,
        code: &[u8],
        difference: &str,
    ) -> String {
        let end = block.at + code.len() as u32;
        let mut text = format!(
            "seed {} program {} block {} at {:x}, without {}\n{options:?}\n{:x?}\n{code:02x?}\n{:08x?} flags {:x}\n\
             {difference}\n",
            self.seed,
            self.tally.programs,
            self.tally.blocks,
            block.at,
            options.without.names().join(","),
            block.segments,
            block.state.gpr,
            block.state.eflags,
        );
        let listings = b.engine.listings(&b.mem);
        for listing in listings.iter().filter(|l| (block.at..end.min(block.at + 0x100)).contains(&l.phys)) {
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
