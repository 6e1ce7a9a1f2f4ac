//! File systems offered to guests.
//!
//! An image's tree is described by `fs.json` ([`fsjson`]); the contents of its files lie in a store
//! of content files ([`blobs`]), read when first needed ([`cache`]) and never written. What a guest
//! changes is kept in memory ([`contents`], [`tree`]); [`overlay`] puts all this together as a
//! [`Filesystem`](emu_devices::p9::Filesystem) for the 9P server.

pub mod blobs;
pub mod cache;
pub mod contents;
pub mod fsjson;
mod guest_tree;
pub mod image_blobs;
mod json;
pub mod overlay;
mod saving;
#[cfg(test)]
pub(crate) mod tests;
pub mod tree;
