//! Differences between two outcomes, for people.

use std::fmt::Write as _;

use iced_x86::{Decoder, DecoderOptions};

use crate::{ARENA, Outcome, State};

/// The instructions of a case.
pub fn listing(code: &[u8], origin: u32, bits: u32) -> String {
    let mut text = String::new();
    for ins in Decoder::with_ip(bits, code, u64::from(origin), DecoderOptions::NONE) {
        let at = (ins.ip() as u32).wrapping_sub(origin) as usize;
        let bytes = code.get(at..at + ins.len()).unwrap_or(&[]);
        let _ = writeln!(text, "  {:05x} {:?} {bytes:02x?}", ins.ip(), ins.code());
    }
    text
}

/// All of a case: where it starts from, and what differs.
pub fn difference(
    code: &[u8],
    origin: u32,
    bits: u32,
    before: &State,
    want: &Outcome,
    got: &Outcome,
) -> String {
    let mut text = listing(code, origin, bits);
    let _ = writeln!(text, "  code {code:02x?}\n  before  {}", registers(before));
    let _ = writeln!(text, "  silicon {} {:x?}", registers(&want.state), want.fault);
    let _ = writeln!(text, "  ours    {} {:x?}", registers(&got.state), got.fault);
    let cells = before.arena.iter().zip(want.state.arena.iter().zip(&got.state.arena));
    for (n, (b, (w, g))) in cells.enumerate().filter(|(_, (_, (w, g)))| w != g).take(16) {
        let _ = writeln!(text, "  [{:x}] before {b:02x} silicon {w:02x} ours {g:02x}", ARENA + n as u32);
    }
    text
}

/// Registers that are not as after reset.
fn registers(s: &State) -> String {
    let mut text = format!("{:08x?} {:03x}", s.gpr, s.eflags);
    let fp = &s.fp;
    let _ = write!(
        text,
        " fcw {:04x} fsw {:04x} valid {:02x} {:x?} mxcsr {:x}",
        fp.control, fp.status, fp.valid, fp.pointers, fp.mxcsr
    );
    let _ = write!(text, "\n          st {:020x?}", fp.st);
    if fp.xmm.iter().any(|x| *x != 0) {
        let _ = write!(text, "\n          xmm {:032x?}", fp.xmm);
    }
    text
}
