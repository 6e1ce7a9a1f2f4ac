//! Wire protocol between host and guest service, and the guest service itself.
//!
//! The service runs inside the guest and is reached through the second serial port. The layers, bottom to
//! top:
//!
//! | module | layer |
//! | --- | --- |
//! | [`frame`] | mux frames: seven types, fixed headers, big-endian numbers |
//! | [`mux`] | channels and windows, for either end; no input or output of its own |
//! | [`link`] | the same for threads: blocking channels over any byte stream |
//! | [`cbor`] | the data items that travel on channels |
//! | [`codec`] | items on a channel: a 32-bit length, then one item |
//! | [`call`] | call and response headers, requests, output records |
//! | [`limits`] | what the other end may make us hold |
//! | `service` | the methods, on Linux (feature `service`) |
//!
//! Everything but `service` is shared with the host and does no system calls beyond waiting on a lock. The
//! wire is that of the Go service and host this replaces, byte for byte; what this service can do beyond it
//! is in [`call::Info::features`], and is asked for, never assumed.

pub mod call;
pub mod cbor;
pub mod codec;
pub mod frame;
pub mod limits;
pub mod link;
pub mod mux;
#[cfg(all(feature = "service", target_os = "linux"))]
pub mod service;
