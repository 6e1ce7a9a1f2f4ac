//! Those who run the image of kernels.

pub mod env86;
pub mod protocol;
pub mod v86;

use anyhow::Result;
use serde::Deserialize;

use crate::image::Image;

/// One run of one kernel.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Sample {
    /// Host time from START to END.
    pub seconds: f64,
    /// Guest instructions, as this engine counts them.
    pub instructions: u64,
    /// What the kernel returned.
    pub checksum: u32,
}

/// An emulator, set up in one way.
pub trait Engine {
    /// Name in tables and in JSON.
    fn name(&self) -> &'static str;

    /// Runs one kernel of the image, in a machine that is new.
    ///
    /// # Errors
    /// The emulator does not run, or the guest does not end as it should.
    fn run(&mut self, image: &Image, kernel: usize) -> Result<Sample>;
}
