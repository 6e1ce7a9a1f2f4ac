//! Clock and CMOS memory: whatever guest and host do to it, and saved and restored on the way (see `device`).

#![no_main]

env86_fuzz::device!(env86_fuzz::device::chips::cmos_rtc);
