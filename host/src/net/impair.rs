//! A line that is worse than a queue in memory: it loses frames, takes time, and is slow.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::config::Impairments;

/// Bytes on their way; what comes on top is lost, as in a router's queue.
pub(super) const IN_FLIGHT: usize = 1 << 20;

/// A frame's share of [`IN_FLIGHT`] beside its bytes.
const OVERHEAD: usize = 64;

/// One direction of a line.
pub(super) struct Impaired {
    how: Impairments,
    random: u64,
    frames: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    /// When the line has sent everything that was given to it.
    free_at: Option<Instant>,
}

impl Impaired {
    /// `direction` makes the two directions of a line lose different frames.
    pub(super) fn new(how: Impairments, direction: u64) -> Self {
        let random = how.seed.wrapping_mul(2).wrapping_add(direction);
        Self { how, random, frames: VecDeque::new(), bytes: 0, free_at: None }
    }

    /// A number from 0 to 1 (SplitMix64).
    fn chance(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Sends a frame on its way. False if it gets lost.
    pub(super) fn send(&mut self, frame: &[u8], now: Instant) -> bool {
        let lost = self.chance() < self.how.loss;
        if lost || self.bytes + frame.len() + OVERHEAD > IN_FLIGHT {
            return false;
        }
        let mut at = now;
        if let Some(rate) = self.how.rate {
            let nanos = (frame.len() as u64).saturating_mul(1_000_000_000) / rate.max(1);
            at = self.free_at.map_or(now, |free| free.max(now)) + Duration::from_nanos(nanos);
            self.free_at = Some(at);
        }
        self.bytes += frame.len() + OVERHEAD;
        self.frames.push_back((at + self.how.delay, frame.to_vec()));
        true
    }

    /// When the next frame arrives.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.frames.front().map(|(at, _)| *at)
    }

    /// Takes out the frames that have arrived, as long as `deliver` takes them.
    pub(super) fn arrive(&mut self, now: Instant, mut deliver: impl FnMut(&[u8]) -> bool) {
        while let Some((at, frame)) = self.frames.front() {
            if *at > now || !deliver(frame) {
                return;
            }
            self.bytes = self.bytes.saturating_sub(frame.len() + OVERHEAD);
            self.frames.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn line(loss: f64, delay: u64, rate: Option<u64>) -> Impaired {
        Impaired::new(Impairments { loss, delay: Duration::from_millis(delay), rate, seed: 86 }, 0)
    }

    fn arrived(line: &mut Impaired, now: Instant) -> Vec<u8> {
        let mut first = Vec::new();
        line.arrive(now, |frame| {
            first.push(frame[0]);
            true
        });
        first
    }

    #[test]
    fn impaired_delay_is_kept_to_the_millisecond() {
        let (mut line, start) = (line(0.0, 20, None), clock::now());
        assert!(line.send(&[1; 60], start));
        assert!(line.send(&[2; 60], start + Duration::from_millis(5)));
        assert_eq!(line.deadline(), Some(start + Duration::from_millis(20)));
        assert!(arrived(&mut line, start + Duration::from_millis(19)).is_empty());
        assert_eq!(arrived(&mut line, start + Duration::from_millis(20)), [1]);
        assert_eq!(arrived(&mut line, start + Duration::from_millis(25)), [2]);
        assert_eq!(line.deadline(), None);
    }

    #[test]
    fn impaired_rate_spreads_frames() {
        let (mut line, start) = (line(0.0, 0, Some(1000)), clock::now());
        for n in 0..5 {
            assert!(line.send(&[n; 100], start));
        }
        assert!(arrived(&mut line, start + Duration::from_millis(99)).is_empty());
        assert_eq!(arrived(&mut line, start + Duration::from_millis(300)), [0, 1, 2]);
        assert_eq!(arrived(&mut line, start + Duration::from_millis(500)), [3, 4]);
        let later = start + Duration::from_secs(9);
        assert!(line.send(&[9; 100], later));
        assert_eq!(line.deadline(), Some(later + Duration::from_millis(100)), "an idle line is free");
    }

    #[test]
    fn impaired_loss_is_the_asked_part_and_repeats() {
        let lost = || {
            let (mut line, start) = (line(0.1, 0, None), clock::now());
            let mut pattern = Vec::new();
            for _ in 0..5000 {
                pattern.push(line.send(&[0; 60], start));
                arrived(&mut line, start);
            }
            pattern
        };
        let pattern = lost();
        let count = pattern.iter().filter(|sent| !**sent).count();
        assert!((400..600).contains(&count), "{count} of 5000");
        assert_eq!(pattern, lost());
    }

    #[test]
    fn impaired_line_holds_a_bounded_number_of_bytes() {
        let (mut line, start) = (line(0.0, 1000, None), clock::now());
        let sent = (0..2000).filter(|_| line.send(&[0; 1500], start)).count();
        assert_eq!(sent, IN_FLIGHT / (1500 + OVERHEAD));
    }
}
