//! Reading an input, and writing seeds in the same format.
//!
//! Everything is taken from the front, so that a seed is written as it is read. Behind the end all is zero.

use arbitrary::Unstructured;

/// An input being read.
pub struct Input<'a>(Unstructured<'a>);

impl<'a> Input<'a> {
    /// From its beginning.
    pub fn new(data: &'a [u8]) -> Self {
        Self(Unstructured::new(data))
    }

    /// Nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A byte.
    pub fn u8(&mut self) -> u8 {
        self.0.arbitrary().unwrap_or_default()
    }

    /// Two bytes.
    pub fn u16(&mut self) -> u16 {
        self.0.arbitrary().unwrap_or_default()
    }

    /// Four bytes.
    pub fn u32(&mut self) -> u32 {
        self.0.arbitrary().unwrap_or_default()
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> u64 {
        self.0.arbitrary().unwrap_or_default()
    }

    /// At most `len` bytes: what is left of them.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        self.0.bytes(len.min(self.0.len())).unwrap_or_default()
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        self.bytes(usize::MAX)
    }
}

/// An input being written.
#[derive(Clone, Default)]
pub struct Seed(pub Vec<u8>);

impl Seed {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A byte.
    #[must_use]
    pub fn u8(self, v: u8) -> Self {
        self.bytes(&[v])
    }

    /// Two bytes.
    #[must_use]
    pub fn u16(self, v: u16) -> Self {
        self.bytes(&v.to_le_bytes())
    }

    /// Four bytes.
    #[must_use]
    pub fn u32(self, v: u32) -> Self {
        self.bytes(&v.to_le_bytes())
    }

    /// Eight bytes.
    #[must_use]
    pub fn u64(self, v: u64) -> Self {
        self.bytes(&v.to_le_bytes())
    }

    /// Bytes.
    #[must_use]
    pub fn bytes(mut self, v: &[u8]) -> Self {
        self.0.extend_from_slice(v);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_is_read_as_it_was_written_and_ends_in_zeros() {
        let seed = Seed::new().u8(1).u16(0x203).u32(0x0405_0607).u64(8).bytes(b"abc");
        let mut input = Input::new(&seed.0);
        assert_eq!((input.u8(), input.u16(), input.u32(), input.u64()), (1, 0x203, 0x0405_0607, 8));
        assert_eq!((input.bytes(2), input.rest()), (&b"ab"[..], &b"c"[..]));
        assert!(input.is_empty());
        assert_eq!((input.u32(), input.bytes(3)), (0, &b""[..]));
    }
}
