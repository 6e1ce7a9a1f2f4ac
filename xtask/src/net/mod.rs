//! `cargo xtask net-bars` and `net-soak`: the guest's network at full size and for a long time.

mod addresses;
pub mod bars;
pub mod relay;
mod servers;
pub mod session;
pub mod soak;
