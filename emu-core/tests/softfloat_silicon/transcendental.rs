//! The transcendental functions. Vendors compute them differently; ours are rounded correctly and may
//! differ from the host's by one unit in the last place. Special cases and exceptions are exact.
//!
//! Where the SDM leaves something undefined (operands out of range, precision and underflow of results
//! that happen to be exact), ours follow AMD's processors, and others are not compared.

use crate::operands::{Differences, Random, scaled};
use crate::x87::{C2, EXCEPTIONS, Frame, control, x87};
use emu_core::softfloat::exception::{ALL, OE, PE, UE};
use emu_core::softfloat::{Env, F80};

/// What an instruction leaves: ST(0), and ST(1) if it pushes; or nothing but C2.
type Outcome = Option<(F80, Option<F80>)>;
type Ours = fn(F80, F80, &mut Env) -> Outcome;

/// The order of an image among the numbers of its sign.
fn position(a: F80) -> i128 {
    let magnitude = i128::from(a.exponent()) << 63 | i128::from(a.sig & !(1 << 63));
    if a.is_negative() { -magnitude } else { magnitude }
}

/// Whether a result is finite and not zero: only such a result may deviate.
fn is_ordinary(a: F80) -> bool {
    a.exponent() != 0x7fff && a.sig != 0
}

/// Whether the host is one of those whose undefined behaviour is ours.
fn host_is_amd() -> bool {
    // No other vendor has SSE4A.
    std::is_x86_feature_detected!("sse4a")
}

fn close(ours: F80, silicon: F80) -> bool {
    ours == silicon
        || ((is_ordinary(ours) || is_ordinary(silicon)) && (position(ours) - position(silicon)).abs() <= 1)
}

fn check(
    name: &str,
    seed: u64,
    ours: Ours,
    oracle: fn(&mut Frame),
    operands: fn(&mut Random) -> (F80, F80),
    cases: u32,
) {
    let mut random = Random::new(seed);
    let mut differences = Differences::new();
    let mut deviating = 0;
    let amd = host_is_amd();
    for i in 0..scaled(cases) {
        let (a, b) = operands(&mut random);
        let masks = if i % 8 == 0 { random.next() as u16 & u16::from(ALL) } else { u16::from(ALL) };
        let control = control(random.below(4) as u16, random.below(4) as u16, masks);
        let mut frame = Frame::new(a, b, control);
        oracle(&mut frame);
        let mut env = Env::x87(control);
        let outcome = ours(a, b, &mut env);
        let (first, second) = match outcome {
            Some(values) if !env.suppresses_result() => values,
            // Nothing is written, pushed or popped.
            _ => (a, Some(b)),
        };
        let silicon = (frame.st(0), second.map(|_| frame.st(1)));
        let flags = frame.status() & (EXCEPTIONS | C2);
        let expected = u16::from(env.flags) | if outcome.is_none() { C2 } else { 0 };
        let same = (first, second) == silicon;
        let near = close(first, silicon.0) && second.is_none_or(|second| close(second, frame.st(1)));
        // A deviation may lie across an end of the normal numbers.
        let differing = flags ^ expected;
        let at_end =
            (!same && differing & !u16::from(OE | UE) == 0) || (!amd && differing & !u16::from(UE | PE) == 0);
        deviating += u32::from(!same);
        if !near || (flags != expected && !at_end) {
            differences.report(|| {
                format!(
                    "{name} cw {control:03x} a {:04x}:{:016x} b {:04x}:{:016x} ours {:04x}:{:016x} {:04x}:{:016x} \
                     {expected:03x} silicon {:04x}:{:016x} {:04x}:{:016x} {flags:03x}",
                    a.se,
                    a.sig,
                    b.se,
                    b.sig,
                    first.se,
                    first.sig,
                    second.map_or(0, |second| second.se),
                    second.map_or(0, |second| second.sig),
                    frame.st(0).se,
                    frame.st(0).sig,
                    frame.st(1).se,
                    frame.st(1).sig,
                )
            });
        }
    }
    println!("{name}: {deviating} of {} deviate", scaled(cases));
    differences.assert_none();
}

/// Angles: corners, and those that matter.
fn angle(random: &mut Random) -> (F80, F80) {
    let mut a = random.f80();
    if random.below(2) != 0 && a.sig >> 63 != 0 {
        a.se = a.se & 0x8000 | (0x3fff - 8 + random.below(72) as u16);
    }
    // Neighbours of multiples of pi / 4.
    if random.below(4) == 0 {
        let mut env = Env::DEFAULT;
        let quarter = F80 { sig: 0xc90f_daa2_2168_c235, se: 0x3ffe };
        a = F80::from_i64(random.below(1000) as i64 - 500).mul(quarter, &mut env);
        a.sig = a.sig.wrapping_add(random.below(5)).wrapping_sub(2);
    }
    (a, F80::ZERO)
}

#[test]
fn sin_matches_silicon() {
    let ours: Ours = |a, _, env| a.sin(env).map(|sin| (sin, None));
    check("fsin", 200, ours, |f| x87!(f, "fsin"), angle, 100_000);
}

#[test]
fn cos_matches_silicon() {
    let ours: Ours = |a, _, env| a.cos(env).map(|cos| (cos, None));
    check("fcos", 201, ours, |f| x87!(f, "fcos"), angle, 100_000);
}

#[test]
fn sin_cos_matches_silicon() {
    let ours: Ours = |a, _, env| a.sin_cos(env).map(|(sin, cos)| (cos, Some(sin)));
    check("fsincos", 202, ours, |f| x87!(f, "fsincos"), angle, 100_000);
}

#[test]
fn tan_matches_silicon() {
    let ours: Ours = |a, _, env| a.tan(env).map(|(tan, one)| (one, Some(tan)));
    check("fptan", 203, ours, |f| x87!(f, "fptan"), angle, 100_000);
}

#[test]
fn atan2_matches_silicon() {
    let ours: Ours = |x, y, env| Some((y.atan2(x, env), None));
    check("fpatan", 204, ours, |f| x87!(f, "fpatan"), Random::f80_pair, 200_000);
}

#[test]
fn exp2_minus_1_matches_silicon() {
    let ours: Ours = |a, _, env| Some((a.exp2_minus_1(env), None));
    let operands = |random: &mut Random| {
        let mut a = random.f80();
        if random.below(2) != 0 && a.sig >> 63 != 0 {
            a.se = a.se & 0x8000 | (0x3fff - random.below(10) as u16);
        }
        if !host_is_amd() && (0x3fff..0x7fff).contains(&a.exponent()) {
            a = F80::ONE;
        }
        (a, F80::ZERO)
    };
    check("f2xm1", 205, ours, |f| x87!(f, "f2xm1"), operands, 200_000);
}

#[test]
fn log2_times_matches_silicon() {
    let ours: Ours = |x, y, env| Some((x.log2_times(y, env), None));
    let operands = |random: &mut Random| {
        let (mut x, y) = (random.f80(), random.f80());
        if random.below(4) != 0 {
            x.se &= 0x7fff;
        }
        // Neighbours of one.
        if random.below(4) == 0 {
            let bits = random.below(64) as u32;
            x = F80 { sig: 1 << 63 | random.next() >> 1 >> bits, se: 0x3fff };
            if random.below(2) == 0 {
                x = F80 { sig: x.sig.wrapping_neg() | 1 << 63, se: 0x3ffe };
            }
        }
        (x, y)
    };
    check("fyl2x", 206, ours, |f| x87!(f, "fyl2x"), operands, 200_000);
}

#[test]
fn log2_1p_times_matches_silicon() {
    let ours: Ours = |x, y, env| Some((x.log2_1p_times(y, env), None));
    let operands = |random: &mut Random| {
        let (mut x, y) = (random.f80(), random.f80());
        if random.below(2) != 0 && x.sig >> 63 != 0 {
            x.se = x.se & 0x8000 | (0x3fff - random.below(12) as u16);
        }
        if !host_is_amd() && (0x3ffd..0x7fff).contains(&x.exponent()) {
            x.se -= x.exponent() - 0x3ffc;
        }
        (x, y)
    };
    check("fyl2xp1", 207, ours, |f| x87!(f, "fyl2xp1"), operands, 200_000);
}
