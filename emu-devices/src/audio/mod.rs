//! Sound: Sound Blaster 16 and the PC's loudspeaker.

pub mod ct1745;
pub mod pc_speaker;
pub mod sb16;

/// A stereo sample, left and right.
pub type Frame = [i16; 2];

/// Where sound goes.
pub trait AudioSink: Send {
    /// Takes samples at `rate` hertz. Must not block: a sink that is full drops them.
    fn play(&mut self, rate: u32, frames: &[Frame]);
}
