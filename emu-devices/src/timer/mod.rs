//! Timers and the clock.

pub mod calendar;
pub mod cmos_rtc;
pub mod pit8254;
