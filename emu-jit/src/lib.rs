//! Execution engine that translates guest code to host code.
//!
//! [`Jit`] runs the blocks that the interpreter decodes; blocks that are executed often get host code.
//! Everything rare (faults, interrupts, single-step) stays with the
//! interpreter, which therefore remains the specification: an instruction without a lowering is a call of
//! its interpreter function, and so is every memory access that leaves the fast path.
//!
//! | file | contents |
//! | --- | --- |
//! | `engine.rs` | the run loop, translations, links |
//! | `engine/regions.rs` | several blocks translated as one, where the guest spends its time |
//! | `assembler.rs` | code under construction, its rare parts to be put elsewhere |
//! | `calls.rs` | the calls under way between two stays in host code |
//! | `code.rs` | the code cache: one memory object mapped twice, writable and executable |
//! | `counters.rs` | everything that is counted, for reports |
//! | `counts.rs` | what was left to the interpreter, by mnemonic |
//! | `descriptors.rs` | segment descriptors that were checked before |
//! | `look.rs` | looks around without leaving host code |
//! | `segments.rs` | 16-bit code, segments with a base or a limit |
//! | `entry.rs` | the way into host code and back, what host code calls |
//! | `targets.rs` | where indirect branches lead |
//! | `fpu.rs` | the guest's x87 unit in the host's |
//! | `listing.rs` | translations as text |
//! | `options.rs`, `parts.rs` | what can be chosen and what can be switched off |
//! | `verify.rs` | checks of emitted code |
//! | `layout.rs` | which guest register lives where; offsets from the state pointer |
//! | `encode.rs` | host instructions whose opcode is chosen at run time |
//! | `lazy.rs` | flags that a block leaves behind without computing them |
//! | `lower/` | one block: guest instructions to host instructions |
//!
//! Only Linux on x86-64 has translated code; elsewhere the crate offers its options and nothing to choose with them.

// `dynasm!` converts register numbers to what they are already.
#![allow(clippy::useless_conversion)]

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod assembler;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod assume;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod calls;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod code;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod counters;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod counts;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod descriptors;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod encode;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod engine;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod entry;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod fpu;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod layout;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod lazy;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod listing;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod look;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod lower;
mod options;
mod parts;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod segments;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod targets;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod verify;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub use engine::{Jit, JitStats};
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub use listing::{Listing, guest_text};
pub use options::{Level, Options};
pub use parts::{Part, Parts};
