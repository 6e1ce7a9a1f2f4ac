//! A difference, made small and written down.

use std::fmt::Write as _;

use emu_core::engine::CpuEngine;
use iced_x86::{Decoder, DecoderOptions, Formatter, NasmFormatter};

use super::{Campaign, Case, Family, Verdict};
use crate::layout::{CS, End, base, is_big};
use crate::{ARENA, Fault};

/// Takes away what the difference does not need: instructions, registers, memory.
pub fn minimise<E: CpuEngine>(campaign: &mut Campaign<'_, E>, family: &mut dyn Family, case: &Case) -> Case {
    let mut best = case.clone();
    let mut try_out = |candidate: Case, best: &mut Case| {
        if campaign.replay(family, &candidate).0 == Verdict::Differs {
            *best = candidate;
        }
    };
    for n in (0..best.program.steps.len()).rev() {
        let step = best.program.steps[n].clone();
        let mut candidate = best.clone();
        let end = (step.offset + step.len).min(candidate.program.code.len());
        if step.offset < end {
            candidate.program.code[step.offset..end].fill(0x90);
            try_out(candidate, &mut best);
        }
    }
    for n in 0..8 {
        let mut candidate = best.clone();
        candidate.regs.gpr[n] = 0;
        try_out(candidate, &mut best);
    }
    let mut candidate = best.clone();
    candidate.regs.eflags = 0x202;
    try_out(candidate, &mut best);
    let mut len = best.arena.len();
    while len >= 4 {
        for start in (0..best.arena.len()).step_by(len) {
            if best.arena[start..start + len].iter().any(|b| *b != 0) {
                let mut candidate = best.clone();
                candidate.arena[start..start + len].fill(0);
                try_out(candidate, &mut best);
            }
        }
        len /= 4;
    }
    best
}

fn fault(f: Option<Fault>) -> String {
    f.map_or("none".into(), |f| {
        format!("vector {} error {:x} cr2 {:08x} eip {:08x}", f.vector, f.error, f.cr2, f.eip)
    })
}

fn end(text: &mut String, name: &str, e: &End) {
    let _ = writeln!(
        text,
        "{name} gpr {:08x?} eflags {:06x} seg {:04x?} fault {}",
        e.regs.gpr,
        e.regs.eflags,
        e.regs.seg,
        fault(e.fault)
    );
}

/// The case as a named vector: its bytes, what they start from, what silicon and ours make of it.
pub fn describe<E: CpuEngine>(
    campaign: &mut Campaign<'_, E>,
    family: &mut dyn Family,
    case: &Case,
) -> String {
    use crate::layout::Processor;
    let (verdict, want, got) = campaign.replay(family, case);
    let p = &case.program;
    let mut text = String::new();
    let hash = p.code.iter().fold(0u32, |h, b| h.rotate_left(5) ^ u32::from(*b).wrapping_mul(0x9E37_79B9));
    let _ = writeln!(text, "vector {}-{hash:08x} ({verdict:?})", family.name());
    let _ = writeln!(text, "code {:08x} {:02x?}", p.at, p.code);
    let mut formatter = NasmFormatter::new();
    for step in &p.steps {
        let bits = if is_big(case.regs.seg[CS]) { 32 } else { 16 };
        let ip = (p.at + step.offset as u32).wrapping_sub(base(case.regs.seg[CS]));
        let bytes = p.code.get(step.offset..step.offset + step.len).unwrap_or(&[]);
        if bytes.iter().all(|b| *b == 0x90) {
            continue;
        }
        let ins = Decoder::with_ip(bits, bytes, ip.into(), DecoderOptions::NONE).decode();
        let mut line = String::new();
        formatter.format(&ins, &mut line);
        let _ = writeln!(text, "  {ip:08x} {bytes:02x?} {line} ({:?})", step.mnemonic);
    }
    let r = &case.regs;
    let _ = writeln!(
        text,
        "before gpr {:08x?} eflags {:06x} seg {:04x?} eip {:08x}",
        r.gpr, r.eflags, r.seg, r.eip
    );
    if p.fp {
        let _ = writeln!(text, "before fp {:x?}", r.fp);
    }
    for (n, line) in case.arena.chunks(16).enumerate().filter(|(_, l)| l.iter().any(|b| *b != 0)).take(40) {
        let _ = writeln!(text, "mem {:08x} {line:02x?}", ARENA + 16 * n as u32);
    }
    end(&mut text, "silicon", &want);
    end(&mut text, "ours   ", &got);
    if p.fp {
        let _ = writeln!(text, "silicon fp {:x?}\nours    fp {:x?}", want.regs.fp, got.regs.fp);
    }
    let len = crate::ARENA_LEN;
    let memories = campaign.silicon.memory(ARENA, len).iter().zip(campaign.subject.memory(ARENA, len));
    for (n, (a, b)) in memories.enumerate().filter(|(_, (a, b))| a != b).take(8) {
        let _ = writeln!(text, "differs {:08x} silicon {a:02x} ours {b:02x}", ARENA + n as u32);
    }
    text
}
