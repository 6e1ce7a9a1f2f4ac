//! Snapshots as files.

pub mod atomic;
pub mod output;
pub mod source;
mod zstd_source;
