//! Integer kernels: guest code without an operating system, devices or interrupts.
//!
//! Each kernel is a subroutine for 32-bit flat mode. It may use every register and the scratch memory at
//! [`DATA`], sets up whatever it reads, and returns a checksum in EAX. Its `size` sets how long it runs.
//! Beside the assembly stands the same computation in Rust, which says what the checksum has to be.
//!
//! | kernel | what it stresses |
//! | --- | --- |
//! | `sieve` | strided byte stores |
//! | `crc32` | dependent loads from a small table |
//! | `fib` | calls, returns, stack |
//! | `heapsort` | branches that depend on data, loads and stores all over 256 KiB |
//! | `matmul` | multiplication, streaming loads |
//! | `words` | byte loads, short branches, a hash table |
//! | `bytecode` | indirect jumps of an interpreter loop |
//! | `x87`, `sse2` | floating point, packed integers; only counted, see [`counted`] |
//! | `segments` | 16-bit code, segments with bases; only counted |

mod bytecode;
mod crc32;
mod fib;
mod heapsort;
mod matmul;
mod segments;
mod sieve;
mod sse2;
mod words;
mod x87;

use iced_x86::IcedError;
use iced_x86::code_asm::{CodeAssembler, CodeLabel};

/// A kernel at its full size or a smaller one.
#[derive(Clone, Copy)]
pub struct Kernel {
    /// Name in tables.
    pub name: &'static str,
    /// Passes, iterations or the argument; see the kernel's own documentation.
    pub size: u32,
    emit: fn(&mut CodeAssembler, u32) -> Result<(), IcedError>,
    reference: fn(u32) -> u32,
}

/// Scratch memory of the kernels: [`DATA_LEN`] bytes of unspecified content.
pub const DATA: u32 = 0x20_0000;
/// Length of the scratch memory.
pub const DATA_LEN: u32 = 0x10_0000;

/// All kernels, at sizes of about 100 million instructions.
pub const ALL: &[Kernel] = &[
    Kernel { name: "sieve", size: 25, emit: sieve::emit, reference: sieve::reference },
    Kernel { name: "crc32", size: 200, emit: crc32::emit, reference: crc32::reference },
    Kernel { name: "fib", size: 33, emit: fib::emit, reference: fib::reference },
    Kernel { name: "heapsort", size: 6, emit: heapsort::emit, reference: heapsort::reference },
    Kernel { name: "matmul", size: 6, emit: matmul::emit, reference: matmul::reference },
    Kernel { name: "words", size: 120, emit: words::emit, reference: words::reference },
    Kernel { name: "bytecode", size: 1_200_000, emit: bytecode::emit, reference: bytecode::reference },
];

/// Kernels of which only instructions are counted.
const COUNTED_ONLY: &[Kernel] = &[
    Kernel { name: "x87", size: 100, emit: x87::emit, reference: x87::reference },
    Kernel { name: "segments", size: 4, emit: segments::emit, reference: segments::reference },
    Kernel { name: "sse2", size: 100, emit: sse2::emit, reference: sse2::reference },
];

/// All kernels at sizes for counting under tools that make everything fifty times slower: long enough that what
/// is done once does not matter.
pub fn counted() -> Vec<Kernel> {
    let size = |kernel: &Kernel| match kernel.name {
        "fib" => 24,
        "bytecode" => 24_000,
        "x87" | "sse2" | "segments" => kernel.size,
        _ => (kernel.size / 50).max(1),
    };
    ALL.iter().chain(COUNTED_ONLY).map(|kernel| kernel.with_size(size(kernel))).collect()
}

impl Kernel {
    /// Machine code for linear address `origin`.
    ///
    /// # Errors
    /// The assembler's.
    pub fn code(&self, origin: u32) -> Result<Vec<u8>, IcedError> {
        let mut a = CodeAssembler::new(32)?;
        (self.emit)(&mut a, self.size)?;
        a.assemble(u64::from(origin))
    }

    /// The same kernel at another size.
    pub fn with_size(self, size: u32) -> Self {
        Self { size, ..self }
    }

    /// The checksum it must return.
    pub fn checksum(&self) -> u32 {
        (self.reference)(self.size)
    }
}

/// New labels.
fn labels<const N: usize>(a: &mut CodeAssembler) -> [CodeLabel; N] {
    std::array::from_fn(|_| a.create_label())
}

/// Multiplier and increment of the linear congruential generator that fills arrays (ANSI C's `rand`).
const LCG: (u32, u32) = (1_103_515_245, 12_345);

/// Next state of the generator.
fn lcg(state: u32) -> u32 {
    state.wrapping_mul(LCG.0).wrapping_add(LCG.1)
}

/// Adds a word to a checksum that depends on the order of the words.
fn mix(sum: u32, word: u32) -> u32 {
    sum.rotate_left(5).wrapping_add(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_at_full_size_are_the_known_ones() {
        let known = [
            ("sieve", 575_000), // 23,000 primes below 2^18, 25 times
            ("crc32", 0x1781_4D6D),
            ("fib", 3_524_578),
            ("heapsort", 0x44FE_6BEA),
            ("matmul", 0x9237_F844),
            ("words", 0xDC97_9C19),
            ("bytecode", 0x6973_2658),
        ];
        let found: Vec<_> = ALL.iter().map(|kernel| (kernel.name, kernel.checksum())).collect();
        assert_eq!(found, known);
    }
}
