//! f32 and f64 with the semantics of SSE.

use crate::operands::{Differences, Random, scaled};
use emu_core::softfloat::exception::ALL;
use emu_core::softfloat::{Env, F32, F64, Relation};

/// Flags of MXCSR, IE to PE.
const FLAGS: u32 = 0x3f;

/// Runs one scalar instruction with `$a` in xmm0 and `$b` in xmm1 under an MXCSR; gives the
/// low half of xmm0 and MXCSR afterwards. Unmasked exceptions only under [`trap::flags_at_trap`].
macro_rules! sse {
    ($mxcsr:expr, $a:expr, $b:expr, $instruction:expr) => {{
        let mut mxcsr: u32 = $mxcsr;
        let mut host: u32 = 0;
        let result: u64;
        // SAFETY: registers and two locals are touched; MXCSR is restored.
        unsafe {
            core::arch::asm!(
                "stmxcsr [{host}]",
                "movq xmm0, {a}",
                "movq xmm1, {b}",
                "ldmxcsr [{mxcsr}]",
                $instruction,
                "stmxcsr [{mxcsr}]",
                "ldmxcsr [{host}]",
                "movq {result}, xmm0",
                host = in(reg) &mut host,
                mxcsr = in(reg) &mut mxcsr,
                a = in(reg) u64::from($a),
                b = in(reg) u64::from($b),
                result = lateout(reg) result,
                out("xmm0") _,
                out("xmm1") _,
                out("eax") _,
                options(nostack),
            );
        }
        (result, mxcsr)
    }};
}

/// Every rounding mode with FZ and DAZ off and on.
fn modes() -> impl Iterator<Item = u32> {
    (0..16).map(|i| (i & 3) << 13 | (i >> 2 & 1) << 15 | (i >> 3) << 6)
}

type Oracle = fn(u32, u64, u64) -> (u64, u32);

/// Compares results and flags with everything masked, over all modes; `operands` draws a pair.
fn check(
    name: &str,
    seed: u64,
    ours: fn(u64, u64, &mut Env) -> u64,
    oracle: Oracle,
    operands: fn(&mut Random) -> (u64, u64),
) {
    let mut random = Random::new(seed);
    let mut differences = Differences::new();
    for i in 0..scaled(20_000) {
        let (a, b) = operands(&mut random);
        for mode in modes() {
            let masked = mode | u32::from(ALL) << 7;
            let mut env = Env::sse(masked);
            let value = ours(a, b, &mut env);
            let (silicon, mxcsr) = oracle(masked, a, b);
            if value != silicon || u32::from(env.flags) != mxcsr & FLAGS {
                differences.report(|| {
                    format!(
                        "{name} mxcsr {masked:04x} a {a:x} b {b:x} ours {value:x} {:02x} silicon {silicon:x} {:02x}",
                        env.flags,
                        mxcsr & FLAGS
                    )
                });
            }
            // Unmasked exceptions are slow to take from the host.
            if i % 8 == 0 && env.flags != 0 {
                let masks = random.next() as u32 & u32::from(ALL);
                let mut env = Env::sse(mode | masks << 7);
                ours(a, b, &mut env);
                let Some(silicon) = trap::flags_at_trap(|| oracle(mode | masks << 7, a, b).1) else {
                    continue;
                };
                if u32::from(env.flags) != silicon & FLAGS {
                    differences.report(|| {
                        format!(
                            "{name} mxcsr {:04x} a {a:x} b {b:x} unmasked: ours {:02x} silicon {:02x}",
                            mode | masks << 7,
                            env.flags,
                            silicon & FLAGS
                        )
                    });
                }
            }
        }
    }
    differences.assert_none();
}

/// Reads the flags of an unmasked exception in the signal it causes.
#[cfg(target_os = "linux")]
mod trap {
    use std::cell::Cell;
    use std::sync::Once;

    thread_local! {
        /// MXCSR at the last SIGFPE of this thread.
        static MXCSR: Cell<Option<u32>> = const { Cell::new(None) };
    }

    /// Runs an operation; MXCSR as the trap saw it, or as the operation left it if it did not trap.
    pub fn flags_at_trap(operation: impl FnOnce() -> u32) -> Option<u32> {
        static INSTALL: Once = Once::new();
        INSTALL.call_once(install);
        MXCSR.set(None);
        let after = operation();
        MXCSR.get().or(Some(after))
    }

    #[repr(C)]
    struct SigAction {
        handler: extern "C" fn(i32, *const u8, *mut u8),
        mask: [u64; 16],
        flags: i32,
        restorer: usize,
    }

    unsafe extern "C" {
        fn sigaction(signal: i32, action: *const SigAction, old: *mut SigAction) -> i32;
    }

    fn install() {
        const SIGFPE: i32 = 8;
        const SA_SIGINFO: i32 = 4;
        let action = SigAction { handler, mask: [0; 16], flags: SA_SIGINFO, restorer: 0 };
        // SAFETY: the structure is the C library's on x86-64 Linux, and the handler touches only the
        // interrupted thread's context and a thread-local cell without a destructor.
        let result = unsafe { sigaction(SIGFPE, &action, core::ptr::null_mut()) };
        assert_eq!(result, 0);
    }

    /// Records MXCSR and masks everything, so that the instruction completes when it is restarted.
    extern "C" fn handler(_signal: i32, _info: *const u8, context: *mut u8) {
        // `ucontext_t`: flags, link, stack (40 bytes), 23 registers, then the pointer to the FXSAVE
        // image, which holds MXCSR at offset 24.
        const FPREGS: usize = 40 + 23 * 8;
        // SAFETY: the kernel passes a complete context that outlives the handler.
        unsafe {
            let image = context.add(FPREGS).cast::<*mut u8>().read();
            let mxcsr = image.add(24).cast::<u32>();
            MXCSR.set(Some(mxcsr.read()));
            mxcsr.write(mxcsr.read() | 0x1f80);
        }
    }
}

/// Taking the signal is written for Linux only.
#[cfg(not(target_os = "linux"))]
mod trap {
    pub fn flags_at_trap(_operation: impl FnOnce() -> u32) -> Option<u32> {
        None
    }
}

fn pair32(random: &mut Random) -> (u64, u64) {
    random.binary_pair(8, 23)
}

fn pair64(random: &mut Random) -> (u64, u64) {
    random.binary_pair(11, 52)
}

/// Checks a two-operand operation of both formats.
macro_rules! check_both {
    ($seed:literal, $operation:ident, $single:literal, $double:literal) => {
        check(
            $single,
            $seed,
            |a, b, env| u64::from(F32(a as u32).$operation(F32(b as u32), env).0),
            |mxcsr, a, b| sse!(mxcsr, a, b, $single),
            pair32,
        );
        check(
            $double,
            $seed + 1,
            |a, b, env| F64(a).$operation(F64(b), env).0,
            |mxcsr, a, b| sse!(mxcsr, a, b, $double),
            pair64,
        );
    };
}

#[test]
fn add_and_sub_match_silicon() {
    check_both!(100, add, "addss xmm0, xmm1", "addsd xmm0, xmm1");
    check_both!(102, sub, "subss xmm0, xmm1", "subsd xmm0, xmm1");
}

#[test]
fn mul_matches_silicon() {
    check_both!(104, mul, "mulss xmm0, xmm1", "mulsd xmm0, xmm1");
}

#[test]
fn div_matches_silicon() {
    check_both!(106, div, "divss xmm0, xmm1", "divsd xmm0, xmm1");
}

#[test]
fn min_and_max_match_silicon() {
    check_both!(108, min, "minss xmm0, xmm1", "minsd xmm0, xmm1");
    check_both!(110, max, "maxss xmm0, xmm1", "maxsd xmm0, xmm1");
}

#[test]
fn sqrt_matches_silicon() {
    check(
        "sqrtss",
        112,
        |a, _, env| u64::from(F32(a as u32).sqrt(env).0),
        |mxcsr, a, b| sse!(mxcsr, a, b, "sqrtss xmm0, xmm0"),
        pair32,
    );
    check(
        "sqrtsd",
        113,
        |a, _, env| F64(a).sqrt(env).0,
        |mxcsr, a, b| sse!(mxcsr, a, b, "sqrtsd xmm0, xmm0"),
        pair64,
    );
}

/// ZF, PF and CF of a comparison, where LAHF leaves them.
fn compare_flags(relation: Relation) -> u64 {
    match relation {
        Relation::Greater => 0,
        Relation::Less => 0x01,
        Relation::Equal => 0x40,
        Relation::Unordered => 0x45,
    }
}

#[test]
fn compare_matches_silicon() {
    macro_rules! check_flags {
        ($seed:literal, $type:ident, $bits:ty, $operation:ident, $pair:ident, $instruction:literal) => {
            check(
                $instruction,
                $seed,
                |a, b, env| compare_flags($type(a as $bits).$operation($type(b as $bits), env)),
                |mxcsr, a, b| {
                    sse!(
                        mxcsr,
                        a,
                        b,
                        concat!(
                            $instruction,
                            " xmm0, xmm1\n lahf\n shr eax, 8\n and eax, 0x45\n movd xmm0, eax"
                        )
                    )
                },
                $pair,
            );
        };
    }
    check_flags!(114, F32, u32, compare, pair32, "comiss");
    check_flags!(115, F64, u64, compare, pair64, "comisd");
    check_flags!(116, F32, u32, compare_quiet, pair32, "ucomiss");
    check_flags!(117, F64, u64, compare_quiet, pair64, "ucomisd");
}

#[test]
fn predicates_match_silicon() {
    macro_rules! check_predicates {
        ($($predicate:literal),+) => {
            $(
                check(
                    concat!("cmpss ", $predicate),
                    118 + $predicate,
                    |a, b, env| {
                        u64::from(F32(a as u32).predicate(F32(b as u32), $predicate, env)) * 0xffff_ffff
                    },
                    |mxcsr, a, b| sse!(mxcsr, a, b, concat!("cmpss xmm0, xmm1, ", $predicate)),
                    pair32,
                );
                check(
                    concat!("cmpsd ", $predicate),
                    126 + $predicate,
                    |a, b, env| u64::from(F64(a).predicate(F64(b), $predicate, env)) * u64::MAX,
                    |mxcsr, a, b| sse!(mxcsr, a, b, concat!("cmpsd xmm0, xmm1, ", $predicate)),
                    pair64,
                );
            )+
        };
    }
    check_predicates!(0, 1, 2, 3, 4, 5, 6, 7);
}

#[test]
fn format_conversions_match_silicon() {
    check(
        "cvtsd2ss",
        134,
        |a, _, env| u64::from(F64(a).to_f32(env).0),
        |mxcsr, a, _| sse!(mxcsr, 0u64, a, "cvtsd2ss xmm0, xmm1"),
        |random| {
            // Half of them near the range of single precision.
            let (a, b) = pair64(random);
            let exp = 1023 - 152 + random.below(290);
            (if random.below(2) == 0 { a } else { a & !(0x7ff << 52) | exp << 52 }, b)
        },
    );
    check(
        "cvtss2sd",
        135,
        |a, _, env| F32(a as u32).to_f64(env).0,
        |mxcsr, a, _| sse!(mxcsr, 0u64, a, "cvtss2sd xmm0, xmm1"),
        pair32,
    );
}

#[test]
fn integer_conversions_match_silicon() {
    macro_rules! check_to {
        ($seed:literal, $type:ident, $bits:ty, $operation:ident, $e:literal, $m:literal, $instruction:literal) => {
            check(
                $instruction,
                $seed,
                |a, _, env| u64::from($type(a as $bits).$operation(env) as u32),
                |mxcsr, a, b| sse!(mxcsr, a, b, concat!($instruction, " eax, xmm0\n movd xmm0, eax")),
                |random| {
                    let (a, b) = random.binary_pair($e, $m);
                    let exp = (1 << ($e - 1)) - 3 + random.below(36);
                    let near = a & !(((1 << $e) - 1) << $m) | exp << $m;
                    (if random.below(2) == 0 { a } else { near }, b)
                },
            );
        };
    }
    check_to!(136, F32, u32, to_i32, 8, 23, "cvtss2si");
    check_to!(137, F64, u64, to_i32, 11, 52, "cvtsd2si");
    check_to!(138, F32, u32, to_i32_truncated, 8, 23, "cvttss2si");
    check_to!(139, F64, u64, to_i32_truncated, 11, 52, "cvttsd2si");
    fn integer(random: &mut Random) -> (u64, u64) {
        (random.significand() >> random.below(40), 0)
    }
    check(
        "cvtsi2ss",
        140,
        |a, _, env| u64::from(F32::from_i32(a as i32, env).0),
        |mxcsr, a, _| sse!(mxcsr, 0u64, a, "movd eax, xmm1\n cvtsi2ss xmm0, eax"),
        integer,
    );
    check(
        "cvtsi2sd",
        141,
        |a, _, env| F64::from_i32(a as i32, env).0,
        |mxcsr, a, _| sse!(mxcsr, 0u64, a, "movd eax, xmm1\n cvtsi2sd xmm0, eax"),
        integer,
    );
}
