//! What calls change in the whole guest.

use super::{network, sys};
use rustix::time::{ClockId, Timespec, clock_settime};
use std::fs::File;
use std::io;

/// The parts of the system that are not files and processes. Tests put something harmless in its place.
pub trait System: Send + Sync {
    /// Sets the clock: seconds since 1970 and nanoseconds.
    fn set_time(&self, seconds: i64, nanos: u32) -> io::Result<()>;
    /// Gives the kernel's generator entropy and makes it use it.
    fn add_entropy(&self, bytes: &[u8]) -> io::Result<()>;
    /// Brings the network up after the machine has been restored.
    fn reset_network(&self) -> Result<(), String>;
}

/// The Linux this runs on.
pub struct Linux;

impl System for Linux {
    fn set_time(&self, seconds: i64, nanos: u32) -> io::Result<()> {
        Ok(clock_settime(ClockId::Realtime, Timespec { tv_sec: seconds, tv_nsec: nanos as _ })?)
    }

    fn add_entropy(&self, bytes: &[u8]) -> io::Result<()> {
        let random = File::options().write(true).open("/dev/urandom")?;
        for piece in bytes.chunks(sys::ENTROPY) {
            sys::add_entropy(&random, piece)?;
        }
        // A guest restored from a snapshot would otherwise give out the same numbers as its siblings.
        sys::reseed(&random)
    }

    fn reset_network(&self) -> Result<(), String> {
        network::reset()
    }
}
