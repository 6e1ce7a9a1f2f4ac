//! Arithmetic, comparison and conversion of the 80-bit format.

use crate::operands::{Differences, Random, scaled};
use crate::x87::{C0, C1, C2, C3, EXCEPTIONS, Frame, UNTOUCHED, control, flags_of, x87};
use emu_core::softfloat::exception::{ALL, DE, IE, OE, UE, ZE};
use emu_core::softfloat::{Env, F32, F64, F80, Relation, Remainder};

type Unary = fn(F80, &mut Env) -> F80;
type Binary = fn(F80, F80, &mut Env) -> F80;
type Oracle = fn(&mut Frame);

/// Every rounding mode with every precision, the reserved one too.
fn controls(masks: u16) -> impl Iterator<Item = u16> {
    (0..16).map(move |i| control(i & 3, i >> 2, masks))
}

/// Masks for the unmasked responses: each exception alone, some together, and none masked.
const PARTIAL_MASKS: [u16; 10] = [
    EXCEPTIONS & !(IE as u16),
    EXCEPTIONS & !(DE as u16),
    EXCEPTIONS & !(ZE as u16),
    EXCEPTIONS & !(OE as u16),
    EXCEPTIONS & !(UE as u16),
    0x1f,
    EXCEPTIONS & !((OE | UE) as u16),
    EXCEPTIONS & !((DE | UE) as u16),
    EXCEPTIONS & !((DE | IE | ZE) as u16),
    0,
];

/// The masks of a case: all masked for three quarters of them.
fn masks(random: &mut Random) -> u16 {
    if random.below(4) != 0 { u16::from(ALL) } else { PARTIAL_MASKS[random.below(10) as usize] }
}

/// Compares `ours` with the register result and flags; suppressed results leave `a`.
fn check_register(
    differences: &mut Differences,
    name: &str,
    (a, b, control): (F80, F80, u16),
    (ours, env): (F80, Env),
    frame: &Frame,
) {
    let ours = if env.suppresses_result() { a } else { ours };
    if ours != frame.st(0) || flags_of(&env) != frame.flags() {
        differences.report(|| {
            format!(
                "{name} cw {control:03x} a {:04x}:{:016x} b {:04x}:{:016x} ours {:04x}:{:016x} {:03x} \
                 silicon {:04x}:{:016x} {:03x}",
                a.se,
                a.sig,
                b.se,
                b.sig,
                ours.se,
                ours.sig,
                flags_of(&env),
                frame.st(0).se,
                frame.st(0).sig,
                frame.flags()
            )
        });
    }
}

fn check_binary(name: &str, seed: u64, ours: Binary, oracle: Oracle) {
    let mut random = Random::new(seed);
    let mut differences = Differences::new();
    for _ in 0..scaled(12_000) {
        let (a, b) = random.f80_pair();
        let masks = masks(&mut random);
        for control in controls(masks) {
            let mut frame = Frame::new(a, b, control);
            oracle(&mut frame);
            let mut env = Env::x87(control);
            let value = ours(a, b, &mut env);
            check_register(&mut differences, name, (a, b, control), (value, env), &frame);
        }
    }
    differences.assert_none();
}

fn check_unary(name: &str, seed: u64, ours: Unary, oracle: Oracle) {
    let mut random = Random::new(seed);
    let mut differences = Differences::new();
    for _ in 0..scaled(12_000) {
        let a = random.f80();
        let masks = masks(&mut random);
        for control in controls(masks) {
            let mut frame = Frame::new(a, F80::ZERO, control);
            oracle(&mut frame);
            let mut env = Env::x87(control);
            let value = ours(a, &mut env);
            check_register(&mut differences, name, (a, F80::ZERO, control), (value, env), &frame);
        }
    }
    differences.assert_none();
}

#[test]
fn add_matches_silicon() {
    check_binary("fadd", 1, F80::add, |frame| x87!(frame, "fadd st, st(1)"));
}

#[test]
fn sub_matches_silicon() {
    check_binary("fsub", 2, F80::sub, |frame| x87!(frame, "fsub st, st(1)"));
}

#[test]
fn sub_reversed_matches_silicon() {
    check_binary("fsubr", 3, |a, b, env| b.sub(a, env), |frame| x87!(frame, "fsubr st, st(1)"));
}

#[test]
fn mul_matches_silicon() {
    check_binary("fmul", 4, F80::mul, |frame| x87!(frame, "fmul st, st(1)"));
}

#[test]
fn div_matches_silicon() {
    check_binary("fdiv", 5, F80::div, |frame| x87!(frame, "fdiv st, st(1)"));
}

#[test]
fn sqrt_matches_silicon() {
    check_unary("fsqrt", 6, F80::sqrt, |frame| x87!(frame, "fsqrt"));
}

#[test]
fn round_to_integral_matches_silicon() {
    check_unary("frndint", 7, F80::round_to_integral, |frame| x87!(frame, "frndint"));
}

#[test]
fn scale_matches_silicon() {
    check_binary("fscale", 8, F80::scale, |frame| x87!(frame, "fscale"));
}

#[test]
fn extract_matches_silicon() {
    check_unary("fxtract", 9, |a, env| a.extract(env).1, |frame| x87!(frame, "fxtract"));
    let mut random = Random::new(10);
    for _ in 0..scaled(50_000) {
        let a = random.f80();
        let mut frame = Frame::new(a, F80::ZERO, 0x37f);
        x87!(&mut frame, "fxtract");
        let mut env = Env::DEFAULT;
        assert_eq!(a.extract(&mut env).0, frame.st(1), "{a:x?}");
    }
}

fn check_remainder(name: &str, seed: u64, ours: fn(F80, F80, &mut Env) -> Remainder, oracle: Oracle) {
    let mut random = Random::new(seed);
    let mut differences = Differences::new();
    for _ in 0..scaled(100_000) {
        let (a, b) = random.f80_pair();
        let control = control(random.below(4) as u16, random.below(4) as u16, masks(&mut random));
        let mut frame = Frame::new(a, b, control);
        oracle(&mut frame);
        let mut env = Env::x87(control);
        let result = ours(a, b, &mut env);
        let bit = |bit: u8, code: u16| if result.quotient & bit != 0 { code } else { 0 };
        let codes = bit(4, C0) | bit(2, C3) | bit(1, C1) | if result.partial { C2 } else { 0 };
        let silicon = frame.status() & (C0 | C1 | C2 | C3 | EXCEPTIONS);
        let value = if env.suppresses_result() { a } else { result.value };
        if value != frame.st(0) || silicon != codes | u16::from(env.flags) {
            differences.report(|| {
                format!(
                    "{name} cw {control:03x} a {:04x}:{:016x} b {:04x}:{:016x} ours {:04x}:{:016x} {:04x} \
                     silicon {:04x}:{:016x} {:04x}",
                    a.se,
                    a.sig,
                    b.se,
                    b.sig,
                    value.se,
                    value.sig,
                    codes | u16::from(env.flags),
                    frame.st(0).se,
                    frame.st(0).sig,
                    silicon
                )
            });
        }
    }
    differences.assert_none();
}

#[test]
fn remainder_truncated_matches_silicon() {
    check_remainder("fprem", 11, F80::remainder_truncated, |frame| x87!(frame, "fprem"));
}

#[test]
fn remainder_nearest_matches_silicon() {
    check_remainder("fprem1", 12, F80::remainder_nearest, |frame| x87!(frame, "fprem1"));
}

fn check_compare(name: &str, seed: u64, ours: fn(F80, F80, &mut Env) -> Relation, oracle: Oracle) {
    let mut random = Random::new(seed);
    let mut differences = Differences::new();
    for _ in 0..scaled(100_000) {
        let (a, b) = random.f80_pair();
        let mut frame = Frame::new(a, b, 0x37f);
        oracle(&mut frame);
        let mut env = Env::DEFAULT;
        let codes = match ours(a, b, &mut env) {
            Relation::Greater => 0,
            Relation::Less => C0,
            Relation::Equal => C3,
            Relation::Unordered => C0 | C2 | C3,
        };
        let silicon = frame.status() & (C0 | C1 | C2 | C3 | EXCEPTIONS);
        if silicon != codes | flags_of(&env) {
            differences.report(|| {
                format!(
                    "{name} a {:04x}:{:016x} b {:04x}:{:016x} ours {codes:04x} {:02x} silicon {silicon:04x}",
                    a.se, a.sig, b.se, b.sig, env.flags
                )
            });
        }
    }
    differences.assert_none();
}

#[test]
fn compare_matches_silicon() {
    check_compare("fcom", 13, F80::compare, |frame| x87!(frame, "fcom st(1)"));
    check_compare("fucom", 14, F80::compare_quiet, |frame| x87!(frame, "fucom st(1)"));
    check_compare("ftst", 15, |a, _, env| a.compare(F80::ZERO, env), |frame| x87!(frame, "ftst"));
}

/// Compares a store to memory; suppressed stores leave memory untouched.
fn check_store<const N: usize>(
    name: &str,
    seed: u64,
    ours: fn(F80, &mut Env) -> [u8; N],
    oracle: Oracle,
    operand: fn(&mut Random) -> F80,
) {
    let mut random = Random::new(seed);
    let mut differences = Differences::new();
    for _ in 0..scaled(50_000) {
        let a = operand(&mut random);
        let control = control(random.below(4) as u16, random.below(4) as u16, masks(&mut random));
        let mut frame = Frame::new(a, F80::ZERO, control);
        oracle(&mut frame);
        let mut env = Env::x87(control);
        let mut value = ours(a, &mut env);
        if env.suppresses_store() {
            value = [UNTOUCHED; N];
        }
        if value != frame.bytes::<N>() || flags_of(&env) != frame.flags() {
            differences.report(|| {
                format!(
                    "{name} cw {control:03x} a {:04x}:{:016x} ours {value:02x?} {:03x} silicon {:02x?} {:03x}",
                    a.se,
                    a.sig,
                    flags_of(&env),
                    frame.bytes::<N>(),
                    frame.flags()
                )
            });
        }
    }
    differences.assert_none();
}

/// Operands piled up around the ends of the integers.
fn near_integers(random: &mut Random) -> F80 {
    let mut a = random.f80();
    if a.sig >> 63 != 0 && random.below(2) != 0 {
        a.se = a.se & 0x8000 | (0x3fff + [0, 7, 14, 15, 30, 31, 59, 62, 63][random.below(9) as usize]);
    }
    a
}

#[test]
fn integer_stores_match_silicon() {
    let run = check_store::<2>;
    run(
        "fistp m16",
        16,
        |a, env| a.to_i16(env).to_le_bytes(),
        |f| x87!(f, "fistp word ptr [{f}]"),
        near_integers,
    );
    let run = check_store::<4>;
    run(
        "fistp m32",
        17,
        |a, env| a.to_i32(env).to_le_bytes(),
        |f| x87!(f, "fistp dword ptr [{f}]"),
        near_integers,
    );
    let run = check_store::<8>;
    run(
        "fistp m64",
        18,
        |a, env| a.to_i64(env).to_le_bytes(),
        |f| x87!(f, "fistp qword ptr [{f}]"),
        near_integers,
    );
}

#[test]
fn truncating_integer_stores_match_silicon() {
    let run = check_store::<2>;
    run(
        "fisttp m16",
        19,
        |a, env| a.to_i16_truncated(env).to_le_bytes(),
        |f| x87!(f, "fisttp word ptr [{f}]"),
        near_integers,
    );
    let run = check_store::<4>;
    run(
        "fisttp m32",
        20,
        |a, env| a.to_i32_truncated(env).to_le_bytes(),
        |f| x87!(f, "fisttp dword ptr [{f}]"),
        near_integers,
    );
    let run = check_store::<8>;
    run(
        "fisttp m64",
        21,
        |a, env| a.to_i64_truncated(env).to_le_bytes(),
        |f| x87!(f, "fisttp qword ptr [{f}]"),
        near_integers,
    );
}

#[test]
fn bcd_store_matches_silicon() {
    check_store::<10>("fbstp", 22, |a, env| a.to_bcd(env), |f| x87!(f, "fbstp [{f}]"), near_integers);
}

#[test]
fn binary_stores_match_silicon() {
    let run = check_store::<4>;
    run(
        "fstp m32",
        23,
        |a, env| a.to_f32(env).0.to_le_bytes(),
        |f| x87!(f, "fstp dword ptr [{f}]"),
        Random::f80,
    );
    let run = check_store::<8>;
    run(
        "fstp m64",
        24,
        |a, env| a.to_f64(env).0.to_le_bytes(),
        |f| x87!(f, "fstp qword ptr [{f}]"),
        Random::f80,
    );
}

/// Compares a load from memory.
fn check_load<const N: usize>(
    name: &str,
    seed: u64,
    ours: fn([u8; N], &mut Env) -> F80,
    oracle: Oracle,
    operand: fn(&mut Random) -> [u8; N],
) {
    let mut random = Random::new(seed);
    let mut differences = Differences::new();
    for _ in 0..scaled(50_000) {
        let bytes = operand(&mut random);
        let mut frame = Frame::with_memory(&bytes, 0x37f);
        oracle(&mut frame);
        let mut env = Env::DEFAULT;
        let value = ours(bytes, &mut env);
        if value != frame.st(0) || flags_of(&env) != frame.flags() {
            differences.report(|| {
                format!(
                    "{name} {bytes:02x?} ours {:04x}:{:016x} {:03x} silicon {:04x}:{:016x} {:03x}",
                    value.se,
                    value.sig,
                    flags_of(&env),
                    frame.st(0).se,
                    frame.st(0).sig,
                    frame.flags()
                )
            });
        }
    }
    differences.assert_none();
}

#[test]
fn loads_match_silicon() {
    check_load(
        "fld m32",
        25,
        |bytes, env| F80::from_f32(F32(u32::from_le_bytes(bytes)), env),
        |f| x87!(f, "fld dword ptr [{f}]"),
        |random| (random.binary(8, 23) as u32).to_le_bytes(),
    );
    check_load(
        "fld m64",
        26,
        |bytes, env| F80::from_f64(F64(u64::from_le_bytes(bytes)), env),
        |f| x87!(f, "fld qword ptr [{f}]"),
        |random| random.binary(11, 52).to_le_bytes(),
    );
    check_load(
        "fild m64",
        27,
        |bytes, _| F80::from_i64(i64::from_le_bytes(bytes)),
        |f| x87!(f, "fild qword ptr [{f}]"),
        |random| random.significand().to_le_bytes(),
    );
}

#[test]
fn bcd_load_matches_silicon() {
    check_load(
        "fbld",
        28,
        |bytes, _| F80::from_bcd(bytes),
        |f| x87!(f, "fbld [{f}]"),
        |random| {
            let digits = random.below(1_000_000_000_000_000_000);
            let mut env = Env::DEFAULT;
            let mut bcd = F80::from_i64(digits as i64).to_bcd(&mut env);
            bcd[9] = random.next() as u8;
            bcd
        },
    );
}

#[test]
fn constants_match_silicon() {
    type Constant = fn(&Env) -> F80;
    let constants: [(Oracle, Constant); 7] = [
        (|f| x87!(f, "fld1"), |_| F80::ONE),
        (|f| x87!(f, "fldl2t"), |env| F80::log2_10(env.rounding)),
        (|f| x87!(f, "fldl2e"), |env| F80::log2_e(env.rounding)),
        (|f| x87!(f, "fldpi"), |env| F80::pi(env.rounding)),
        (|f| x87!(f, "fldlg2"), |env| F80::log10_2(env.rounding)),
        (|f| x87!(f, "fldln2"), |env| F80::ln_2(env.rounding)),
        (|f| x87!(f, "fldz"), |_| F80::ZERO),
    ];
    for (i, (oracle, ours)) in constants.iter().enumerate() {
        for control in controls(0x3f) {
            let mut frame = Frame::new(F80::ZERO, F80::ZERO, control);
            oracle(&mut frame);
            assert_eq!(ours(&Env::x87(control)), frame.st(0), "constant {i} cw {control:03x}");
            assert_eq!(frame.flags(), 0, "constant {i} cw {control:03x}");
        }
    }
}
