//! The software floating point against the processor the test runs on: result bits, exception flags,
//! C1 and condition codes. `SOFTFLOAT_CASES=100` runs a hundred times as many cases.
#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code, reason = "the oracle is inline assembly")]

mod f80;
mod operands;
mod sse;
mod transcendental;
mod x87;
