//! Datagrams in fragments, put together (RFC 815, with bytes instead of holes).

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::packet::{IPV4, Ipv4, Ipv4Head};
use crate::limits::NET_REASSEMBLIES;

/// How long fragments wait for the others.
const PATIENCE: Duration = Duration::from_secs(15);

/// Largest payload of a packet.
const LARGEST: usize = 65535 - IPV4;

#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    src: Ipv4Addr,
    dst: Ipv4Addr,
    protocol: u8,
    id: u16,
}

struct Partial {
    key: Key,
    until: Instant,
    payload: Vec<u8>,
    /// Which blocks of eight bytes are there.
    blocks: Vec<bool>,
    missing: usize,
    len: Option<usize>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Reassembly {
    /// Oldest first.
    partial: VecDeque<Partial>,
}

impl Reassembly {
    /// Datagrams that are not complete.
    pub(super) fn len(&self) -> usize {
        self.partial.len()
    }

    /// Adds a fragment. Returns the whole packet if it was the last one that was missing.
    pub(super) fn add(&mut self, ip: &Ipv4<'_>, now: Instant) -> Option<Vec<u8>> {
        while self.partial.front().is_some_and(|partial| partial.until <= now) {
            self.partial.pop_front();
        }
        let key = Key { src: ip.src, dst: ip.dst, protocol: ip.protocol, id: ip.id };
        let index = match self.partial.iter().position(|partial| partial.key == key) {
            Some(index) => index,
            None => {
                if self.partial.len() >= NET_REASSEMBLIES {
                    self.partial.pop_front();
                }
                let until = now + PATIENCE;
                let (payload, blocks) = (Vec::new(), Vec::new());
                self.partial.push_back(Partial { key, until, payload, blocks, missing: 0, len: None });
                self.partial.len() - 1
            }
        };
        match self.partial.get_mut(index)?.add(ip) {
            Some(false) => None,
            Some(true) => self.partial.remove(index).map(|partial| partial.finish()),
            None => {
                // Fragments that contradict each other: none of them counts.
                self.partial.remove(index);
                None
            }
        }
    }
}

impl Partial {
    /// True when complete, `None` when impossible.
    fn add(&mut self, ip: &Ipv4<'_>) -> Option<bool> {
        let end = ip.offset + ip.payload.len();
        if ip.payload.is_empty() || end > LARGEST || (ip.more && !ip.payload.len().is_multiple_of(8)) {
            return None;
        }
        if !ip.more {
            if self.len.is_some_and(|len| len != end) || self.payload.len() > end {
                return None;
            }
            self.len = Some(end);
        }
        if self.len.is_some_and(|len| end > len) {
            return None;
        }
        if self.payload.len() < end {
            self.payload.resize(end, 0);
            let blocks = end.div_ceil(8);
            self.missing += blocks.saturating_sub(self.blocks.len());
            self.blocks.resize(blocks.max(self.blocks.len()), false);
        }
        let blocks = self.blocks.get_mut(ip.offset / 8..end.div_ceil(8))?;
        if blocks.iter().any(|there| *there) {
            // The same again is fine, something else in the same place is not.
            return (self.payload.get(ip.offset..end) == Some(ip.payload)).then_some(false);
        }
        self.missing = self.missing.saturating_sub(blocks.len());
        blocks.fill(true);
        self.payload.get_mut(ip.offset..end)?.copy_from_slice(ip.payload);
        Some(self.len.is_some() && self.missing == 0)
    }

    fn finish(self) -> Vec<u8> {
        let Key { src, dst, protocol, id } = self.key;
        let mut packet = vec![0; IPV4];
        let head = Ipv4Head { src, dst, protocol, id, offset: 0, more: false };
        head.write(&mut packet, self.payload.len());
        packet.extend(self.payload);
        packet
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock;

    const A: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 2);
    const B: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 8);

    fn fragment(id: u16, offset: usize, more: bool, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; IPV4];
        Ipv4Head { src: A, dst: B, protocol: 17, id, offset, more }.write(&mut packet, payload.len());
        packet.extend(payload);
        packet
    }

    fn add(reassembly: &mut Reassembly, bytes: &[u8], now: Instant) -> Option<Vec<u8>> {
        let packet = reassembly.add(&Ipv4::parse(bytes).unwrap(), now)?;
        let ip = Ipv4::parse(&packet).unwrap();
        assert!(!ip.is_fragment());
        Some(ip.payload.to_vec())
    }

    #[test]
    fn reassembly_takes_any_order_and_repetitions() {
        let payload: Vec<u8> = (0..=255).cycle().take(4000).collect();
        let mut pieces: Vec<_> = payload
            .chunks(1480)
            .enumerate()
            .map(|(n, piece)| fragment(1, n * 1480, (n + 1) * 1480 < 4000, piece))
            .collect();
        let now = clock::now();
        for _ in 0..3 {
            pieces.rotate_left(1);
            let mut reassembly = Reassembly::default();
            assert_eq!(add(&mut reassembly, &pieces[0], now), None);
            assert_eq!(add(&mut reassembly, &pieces[0], now), None);
            assert_eq!(add(&mut reassembly, &pieces[1], now), None);
            assert_eq!(add(&mut reassembly, &pieces[2], now), Some(payload.clone()));
            assert_eq!(reassembly.len(), 0);
        }
    }

    #[test]
    fn reassembly_contradictions_are_dropped() {
        let now = clock::now();
        let mut reassembly = Reassembly::default();
        add(&mut reassembly, &fragment(1, 0, true, &[1; 16]), now);
        assert_eq!(add(&mut reassembly, &fragment(1, 8, true, &[2; 16]), now), None);
        assert_eq!(reassembly.len(), 0, "overlap (teardrop)");
        add(&mut reassembly, &fragment(1, 16, false, &[1; 5]), now);
        add(&mut reassembly, &fragment(1, 32, true, &[1; 8]), now);
        assert_eq!(reassembly.len(), 0, "beyond the end");
        add(&mut reassembly, &fragment(1, 65528, false, &[1; 8]), now);
        assert_eq!(reassembly.len(), 0, "larger than a packet (ping of death)");
    }

    #[test]
    fn reassembly_is_bounded_and_impatient() {
        let now = clock::now();
        let mut reassembly = Reassembly::default();
        for id in 0..1000 {
            add(&mut reassembly, &fragment(id, 0, true, &[1; 8]), now);
        }
        assert_eq!(reassembly.len(), NET_REASSEMBLIES);
        assert_eq!(
            add(&mut reassembly, &fragment(999, 8, false, &[2; 1]), now),
            Some(vec![1, 1, 1, 1, 1, 1, 1, 1, 2])
        );
        assert_eq!(add(&mut reassembly, &fragment(998, 8, false, &[2; 1]), now + PATIENCE), None);
        assert_eq!(reassembly.len(), 1);
    }

    proptest! {
        #[test]
        fn reassembly_any_fragments_are_survived(
            pieces in proptest::collection::vec((0..3_u16, 0..8192_usize, any::<bool>(), 0..64_usize), 0..40),
        ) {
            let now = clock::now();
            let mut reassembly = Reassembly::default();
            for (id, offset, more, len) in pieces {
                let bytes = fragment(id, offset * 8, more, &vec![id as u8; len]);
                add(&mut reassembly, &bytes, now);
                prop_assert!(reassembly.len() <= NET_REASSEMBLIES);
            }
        }
    }
}
