//! A guest program that computes with x87 and SSE registers only (`guests/floats.s`), and the same
//! computation here: what it prints says whether each of these registers was kept.

use crate::fixtures::hex;
use sha2::{Digest, Sha256};

/// Bytes that the program writes at a time.
pub const RECORD: usize = 128;

/// Steps between two records.
const STEPS: usize = 50_000;

const PI: [u8; 10] = [0x35, 0xC2, 0x68, 0x21, 0xA2, 0xDA, 0x0F, 0xC9, 0x00, 0x40];
const LOG2E: [u8; 10] = [0xBC, 0xF0, 0x17, 0x5C, 0x29, 0x3B, 0xAA, 0xB8, 0xFF, 0x3F];
const FACTOR: u64 = 1_103_515_245;
const MODULUS: u64 = 0x7FFF_FFFF;
const RATE: [f64; 2] = [3.99, 3.75];

/// The program: a static i386 Linux executable.
pub fn program() -> Vec<u8> {
    let digits: Vec<u8> =
        include_str!("../guests/floats.hex").bytes().filter(u8::is_ascii_hexdigit).collect();
    let value = |digit: u8| char::from(digit).to_digit(16).unwrap_or(0) as u8;
    digits.chunks_exact(2).map(|pair| value(pair[0]) << 4 | value(pair[1])).collect()
}

/// The program's state after so many records, and their hash.
pub struct Floats {
    records: usize,
    hash: Sha256,
    state: State,
}

impl Floats {
    /// Before the first record.
    pub fn new() -> Self {
        Self { records: 0, hash: Sha256::new(), state: State::new() }
    }

    /// SHA-256 of the first `records` records that the program writes, in hexadecimal digits. There may be
    /// no fewer of them than last time.
    pub fn sha256(&mut self, records: usize) -> String {
        while self.records < records {
            (0..STEPS).for_each(|_| self.state.step());
            self.hash.update(self.state.record());
            self.records += 1;
        }
        hex(&self.hash.clone().finalize())
    }
}

/// What is in the registers.
struct State {
    /// On the x87 stack.
    x: u64,
    y: u64,
    /// XMM0.
    lanes: [u32; 4],
    /// XMM1.
    chaos: [f64; 2],
    /// XMM5 to XMM7.
    sums: [[u32; 4]; 3],
}

impl State {
    fn new() -> Self {
        let lanes = [1, 0x1234_5678, 0x9ABC_DEF0, 0xFFFF_FFFF];
        Self { x: 1, y: 20_220_607, lanes, chaos: [0.25, 0.7], sums: [[0; 4]; 3] }
    }

    fn step(&mut self) {
        self.x = (self.x * FACTOR + 1) % MODULUS;
        self.y = (self.y * FACTOR + 1) % MODULUS;
        for (x, rate) in self.chaos.iter_mut().zip(RATE) {
            *x = *x * (1.0 - *x) * rate;
        }
        let [a, b] = self.chaos.map(f64::to_bits);
        let chaos = [a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32];
        let [first, second, third] = &mut self.sums;
        for (i, lane) in self.lanes.iter_mut().enumerate() {
            *lane ^= *lane << 13;
            *lane ^= *lane >> 17;
            *lane ^= *lane << 5;
            first[i] = first[i].wrapping_add(*lane);
            second[i] ^= chaos[i];
            third[i] = third[i].wrapping_add(first[i]);
        }
    }

    fn record(&self) -> Vec<u8> {
        let words = |words: &[u32; 4]| words.map(u32::to_le_bytes).concat();
        let mut record = [self.x, self.y].map(u64::to_le_bytes).concat();
        record.extend(PI.iter().chain(&LOG2E).chain(&[0; 12]));
        record.extend(words(&self.lanes));
        record.extend(self.chaos.map(f64::to_le_bytes).concat());
        record.extend(self.sums.iter().flat_map(words));
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program printed on a real processor.
    #[test]
    fn records_are_those_of_a_real_processor() {
        assert_eq!(
            Floats::new().sha256(10),
            "7c409764d7ab94e6b9b90ed5f2573975e97e0b521994a68e79d33d21c9baefba"
        );
    }

    #[test]
    fn program_is_an_i386_executable() {
        let program = program();
        assert_eq!(program[..7], *b"\x7FELF\x01\x01\x01");
        assert_eq!(program.len(), 448);
    }
}
