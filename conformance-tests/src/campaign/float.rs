//! Programs of x87 and of vector instructions, MMX among both.

use iced_x86::{Decoder, DecoderOptions};

use super::Family;
use super::coverage::Coverage;
use super::program::Program;
use crate::gen_int::Rng;
use crate::gen_simd::{self, Contents};
use crate::gen_x87::{self, Mode};
use crate::layout::{End, Registers, with_exit};
use crate::operand::Places;
use crate::policy::{self, Host};
use crate::{CODE, Outcome, State};

/// Which programs are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// x87 and MMX.
    X87,
    /// MMX and SSE.
    Simd,
}

/// The family of floating-point instructions.
pub struct Float {
    unit: Unit,
    host: Host,
    code: Vec<u8>,
    /// Its arena is not used: operands go to both memories.
    state: State,
    x87: Places<gen_x87::Kind>,
    simd: Places<Contents>,
    /// Row that SIMD registers are made for.
    row: usize,
    /// The program has not run yet.
    fresh: bool,
}

impl Float {
    /// Compared with `host`.
    pub fn new(unit: Unit, host: Host) -> Self {
        Self {
            unit,
            host,
            code: Vec::new(),
            state: State::default(),
            x87: Places::default(),
            simd: Places::default(),
            row: 0,
            fresh: true,
        }
    }
}

impl Family for Float {
    fn name(&self) -> &'static str {
        match self.unit {
            Unit::X87 => "x87",
            Unit::Simd => "simd",
        }
    }

    fn program(&mut self, rng: &mut Rng, coverage: &mut Coverage, p: &mut Program) {
        p.clear();
        p.fp = true;
        p.at = CODE;
        p.seg = Registers::default().seg;
        match self.unit {
            Unit::X87 => {
                gen_x87::program(rng, &mut self.code, &mut self.state, &mut self.x87, Mode::ALL);
            }
            Unit::Simd => {
                let (code, state) = (&mut self.code, &mut self.state);
                self.row = gen_simd::program(rng, code, state, &mut self.simd, true).1;
            }
        }
        self.fresh = true;
        let mut at = 0;
        for ins in Decoder::with_ip(32, &self.code, CODE.into(), DecoderOptions::NONE) {
            let place = coverage.place(&ins);
            let end = (at + ins.len()).min(self.code.len());
            p.push(&self.code[at..end], &ins, true, place);
            at = end;
        }
        p.code = with_exit(&self.code, true);
    }

    fn registers(&mut self, rng: &mut Rng, _: &Program, regs: &mut Registers) {
        if !std::mem::take(&mut self.fresh) {
            match self.unit {
                Unit::X87 => gen_x87::unit(rng, &mut self.state.fp),
                Unit::Simd => gen_simd::registers(rng, self.row, &mut self.state.fp),
            }
        }
        let defaults = Registers::default();
        regs.gpr = self.state.gpr;
        regs.eip = defaults.eip;
        regs.eflags = self.state.eflags | 0x202;
        regs.seg = defaults.seg;
        regs.fp.clone_from(&self.state.fp);
    }

    fn perturb(&mut self, rng: &mut Rng, _: &Program, _: &Registers, both: &mut dyn FnMut(u32, &[u8])) {
        match self.unit {
            Unit::X87 => gen_x87::refill(rng, &self.state.fp, &self.x87, both),
            Unit::Simd => gen_simd::refill(rng, &self.simd, both),
        }
    }

    fn fill(&mut self, rng: &mut Rng, arena: &mut [u8]) {
        gen_x87::fill(rng, arena);
    }

    fn agree(&mut self, p: &Program, regs: &Registers, want: (&End, &[u8]), got: (&End, &[u8])) -> bool {
        let state = |r: &Registers, arena: &[u8]| State {
            gpr: r.gpr,
            eflags: r.eflags,
            fp: r.fp.clone(),
            arena: arena.to_vec(),
        };
        let outcome =
            |(end, arena): (&End, &[u8])| Outcome { state: state(&end.regs, arena), fault: end.fault };
        let before = state(regs, &[]);
        let code = p.steps.last().map_or(&p.code[..], |s| &p.code[..s.offset + s.len]);
        let (mut w, g) = (outcome(want), outcome(got));
        policy::settle(self.host, policy::Case::flat(code, &before), &mut w, &g);
        // CS tells how a case ended, which the policy may have taken over.
        let ended_alike = want.0.fault.is_some() == got.0.fault.is_some();
        w == g && (!ended_alike || want.0.regs.seg == got.0.regs.seg)
    }
}
