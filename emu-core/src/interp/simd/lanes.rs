//! Lane-wise loops over the bytes of a vector.
//!
//! They are functions of their own, on arrays in memory, because that is the form the compiler turns
//! into a handful of vector instructions; inlined into an instruction function they stay scalar.

/// `f` of each byte of `a` and `b`, to `a`.
#[inline(never)]
pub(super) fn zip8<const N: usize>(a: &mut [u8; N], b: &[u8; N], f: impl Fn(u8, u8) -> u8) {
    for (x, y) in a.iter_mut().zip(b) {
        *x = f(*x, *y);
    }
}

macro_rules! zip {
    ($(#[$doc:meta])* $name:ident $t:ty) => {
        $(#[$doc])*
        #[inline(never)]
        pub(super) fn $name<const N: usize>(a: &mut [u8; N], b: &[u8; N], f: impl Fn($t, $t) -> $t) {
            let (a, _) = a.as_chunks_mut();
            let (b, _) = b.as_chunks();
            for (x, y) in a.iter_mut().zip(b) {
                *x = f(<$t>::from_le_bytes(*x), <$t>::from_le_bytes(*y)).to_le_bytes();
            }
        }
    };
}

zip! {
    /// `f` of each word of `a` and `b`, to `a`.
    zip16 u16
}
zip! {
    /// `f` of each doubleword of `a` and `b`, to `a`.
    zip32 u32
}
zip! {
    /// `f` of each quadword of `a` and `b`, to `a`.
    zip64 u64
}

/// The words of `a` and then of `b` narrowed to bytes, to `a`.
#[inline(never)]
pub(super) fn pack16<const N: usize>(a: &mut [u8; N], b: &[u8; N], narrow: impl Fn(i16) -> u8) {
    let mut packed = [0; N];
    let words = a.as_chunks().0.iter().chain(b.as_chunks().0);
    for (to, word) in packed.iter_mut().zip(words) {
        *to = narrow(i16::from_le_bytes(*word));
    }
    *a = packed;
}

/// The doublewords of `a` and then of `b` narrowed to words, to `a`.
#[inline(never)]
pub(super) fn pack32<const N: usize>(a: &mut [u8; N], b: &[u8; N], narrow: impl Fn(i32) -> u16) {
    let mut packed = [0; N];
    let doublewords = a.as_chunks().0.iter().chain(b.as_chunks().0);
    for (to, doubleword) in packed.as_chunks_mut().0.iter_mut().zip(doublewords) {
        *to = narrow(i32::from_le_bytes(*doubleword)).to_le_bytes();
    }
    *a = packed;
}
