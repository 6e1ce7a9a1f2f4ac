//! Timers and the clock.

pub mod pit8254;
