//! The loudspeaker behind port 61h and counter 2 of the 8254.
//!
//! It has no port of its own: the board tells it the tone when port 61h or the counter changed, and
//! the host asks it for samples at the pace of its sound output.

use emu_core::time::{NS_PER_SEC, VmTime};

use super::{AudioSink, Frame};

/// Input clock of the counter, hertz.
pub const COUNTER_HZ: u64 = 1_193_182;

/// Loudness of the square wave.
const LEVEL: i16 = 6_000;

/// Samples made at a time.
const BLOCK: usize = 512;

/// Most samples made up for a gap between two calls of [`PcSpeaker::run_to`].
const MAX_GAP: u64 = 9_600;

/// A square wave that follows the counter.
pub struct PcSpeaker {
    /// Half a period in input clocks; 0 = silence.
    half_period: u32,
    /// Position in the period, input clocks scaled by `rate`.
    phase: u64,
    rate: u32,
    now: VmTime,
    sink: Option<Box<dyn AudioSink>>,
}

impl PcSpeaker {
    /// A silent speaker that makes `rate` samples per second.
    pub fn new(rate: u32) -> Self {
        Self { half_period: 0, phase: 0, rate: rate.max(1), now: 0, sink: None }
    }

    /// Connects or disconnects the output.
    pub fn set_sink(&mut self, sink: Option<Box<dyn AudioSink>>) {
        self.sink = sink;
    }

    /// From `now` on the tone has a period of `period` input clocks of the counter; `None` is
    /// silence (see `Pit8254::speaker_period`).
    pub fn set_tone(&mut self, now: VmTime, period: Option<u32>) {
        self.run_to(now);
        self.half_period = period.map_or(0, |period| (period / 2).clamp(1, 0x8000));
    }

    /// Frequency being played, hertz; `None` when silent.
    pub fn frequency(&self) -> Option<u64> {
        COUNTER_HZ.checked_div(2 * u64::from(self.half_period))
    }

    /// Plays what happened up to `now`.
    pub fn run_to(&mut self, now: VmTime) {
        let rate = u64::from(self.rate);
        let passed = now.saturating_sub(self.now);
        let due = u128::from(passed) * u128::from(rate) / u128::from(NS_PER_SEC);
        let due = u64::try_from(due).unwrap_or(u64::MAX);
        // Only whole samples are consumed, so that no time is lost over many calls.
        self.now = if due > MAX_GAP { now } else { self.now + due * NS_PER_SEC / rate };
        let mut left = due.min(MAX_GAP);
        let mut block = [[0i16; 2]; BLOCK];
        while left > 0 {
            let n = left.min(BLOCK as u64);
            if let Some(frames) = block.get_mut(..n as usize) {
                self.fill(frames);
                if let Some(sink) = self.sink.as_mut() {
                    sink.play(self.rate, frames);
                }
            }
            left -= n;
        }
    }

    /// Fills `frames` with the current tone.
    pub fn fill(&mut self, frames: &mut [Frame]) {
        if self.half_period == 0 {
            frames.fill([0; 2]);
            return;
        }
        let half = u64::from(self.half_period) * u64::from(self.rate);
        for frame in frames {
            let level = if self.phase < half { LEVEL } else { -LEVEL };
            *frame = [level; 2];
            self.phase = (self.phase + COUNTER_HZ) % (2 * half);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Recorder(Arc<Mutex<Vec<Frame>>>);

    impl AudioSink for Recorder {
        fn play(&mut self, rate: u32, frames: &[Frame]) {
            assert_eq!(rate, 48_000);
            self.0.lock().unwrap().extend(frames);
        }
    }

    #[test]
    fn pc_speaker_tone_has_its_frequency_and_then_silence() {
        let (mut speaker, recorder) = (PcSpeaker::new(48_000), Recorder::default());
        speaker.set_sink(Some(Box::new(recorder.clone())));
        speaker.set_tone(0, Some(1193)); // 1000 Hz
        assert_eq!(speaker.frequency(), Some(1000));
        for ms in 1..=100 {
            speaker.run_to(ms * 1_000_000);
        }
        speaker.set_tone(100_000_000, None);
        speaker.run_to(200_000_000);
        let samples = recorder.0.lock().unwrap();
        assert_eq!(samples.len(), 9600);
        let rises = samples.windows(2).filter(|w| w[0][0] < w[1][0] && w[1][0] > 0).count();
        assert!((99..=101).contains(&rises), "{rises} periods in 100 ms");
        assert!(samples[4800..].iter().all(|f| *f == [0; 2]));
    }

    #[test]
    fn pc_speaker_long_gap_makes_a_bounded_number_of_samples() {
        let (mut speaker, recorder) = (PcSpeaker::new(48_000), Recorder::default());
        speaker.set_sink(Some(Box::new(recorder.clone())));
        speaker.set_tone(0, Some(1));
        speaker.run_to(u64::MAX);
        assert_eq!(recorder.0.lock().unwrap().len() as u64, MAX_GAP);
    }
}
