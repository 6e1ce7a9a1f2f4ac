//! Looks for a text in the guest's output, across the pieces in which it arrives.

/// Finds a sequence of bytes in a stream (Knuth, Morris, Pratt 1977: no byte is looked at twice,
/// and nothing of the stream is kept).
#[derive(Debug)]
pub struct Matcher {
    pattern: Vec<u8>,
    /// For each length of a partial match, the length of the longest shorter one that ends it.
    shorter: Vec<usize>,
    matched: usize,
}

impl Matcher {
    /// Looks for `pattern`; an empty one is never found.
    pub fn new(pattern: Vec<u8>) -> Self {
        let mut shorter = vec![0; pattern.len()];
        let mut matched = 0;
        for (i, &byte) in pattern.iter().enumerate().skip(1) {
            while matched > 0 && pattern[matched] != byte {
                matched = shorter[matched - 1];
            }
            matched += usize::from(pattern[matched] == byte);
            shorter[i] = matched;
        }
        Self { pattern, shorter, matched: 0 }
    }

    /// Takes the next piece. True from the piece on in which the pattern ends.
    pub fn feed(&mut self, piece: &[u8]) -> bool {
        if self.pattern.is_empty() {
            return false;
        }
        for &byte in piece {
            if self.matched == self.pattern.len() {
                break;
            }
            while self.matched > 0 && self.pattern[self.matched] != byte {
                self.matched = self.shorter[self.matched - 1];
            }
            self.matched += usize::from(self.pattern[self.matched] == byte);
        }
        self.matched == self.pattern.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// True if `pattern` is found in `text` cut into pieces of `size`.
    fn found(pattern: &[u8], text: &[u8], size: usize) -> bool {
        let mut matcher = Matcher::new(pattern.to_vec());
        text.chunks(size).any(|piece| matcher.feed(piece))
    }

    #[test]
    fn pattern_is_found_however_the_stream_is_cut() {
        let text = b"boot: aabaabaaab login: \xFF\x00\xFFend";
        let patterns: [&[u8]; 6] = [b"boot", b"aabaaab", b"login: ", b"\xFF\x00\xFF", b"end", b"aaab l"];
        for pattern in patterns {
            for size in 1..=text.len() {
                assert!(found(pattern, text, size), "{pattern:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn pattern_that_is_not_there_is_not_found() {
        let text = b"aabaabaaab login";
        let patterns: [&[u8]; 5] = [b"", b"aaaa", b"aabaabaab", b"login:", b"Login"];
        for pattern in patterns {
            for size in 1..=text.len() {
                assert!(!found(pattern, text, size), "{pattern:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn all_short_streams_agree_with_a_plain_search() {
        let letters = |mut n: usize, len: usize| -> Vec<u8> {
            (0..len)
                .map(|_| {
                    let c = b'a' + (n % 2) as u8;
                    n /= 2;
                    c
                })
                .collect()
        };
        for pattern_len in 1..=4 {
            for p in 0..1 << pattern_len {
                let pattern = letters(p, pattern_len);
                for t in 0..1 << 9 {
                    let text = letters(t, 9);
                    let plain = text.windows(pattern_len).any(|w| w == pattern);
                    assert_eq!(found(&pattern, &text, 2), plain, "{pattern:?} in {text:?}");
                }
            }
        }
    }
}
