//! The parts together.

pub(crate) mod client;
mod fsjson;
mod model;
mod overlay;
mod saving;

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use emu_devices::p9::fs::Time;

use super::blobs::MemoryBlobs;
use super::overlay::{Overlay, OverlayOptions};

/// Messages for the user.
pub(super) type Warnings = Arc<Mutex<Vec<String>>>;

/// Every look at this clock is a second later, beginning at 1001.
pub(super) fn options() -> (OverlayOptions, Warnings) {
    let seconds = AtomicI64::new(1000);
    let warnings = Warnings::default();
    let sink = warnings.clone();
    let clock = move || Time { sec: seconds.fetch_add(1, Ordering::Relaxed) + 1, nsec: 7 };
    let warn = move |message: &str| sink.lock().unwrap().push(message.to_owned());
    (OverlayOptions::new(Box::new(clock), Box::new(warn)), warnings)
}

/// Content files `hello`, `large` (200,000 bytes) and `wrong` (4 bytes instead of 5).
pub(super) fn blobs() -> MemoryBlobs {
    let mut blobs = MemoryBlobs::new("test");
    blobs.insert("hello", b"hello".to_vec());
    blobs.insert("large", large());
    blobs.insert("wrong", b"four".to_vec());
    blobs
}

pub(super) fn large() -> Vec<u8> {
    (0..200_000u32).map(|i| (i / 3) as u8).collect()
}

/// A tree with [`blobs`].
pub(super) fn overlay(fs_json: &str) -> Overlay {
    Overlay::from_fs_json(fs_json.as_bytes(), "fs.json", Arc::new(blobs()), options().0).unwrap()
}

/// `/etc/{motd,large,wrong,missing}`, `/lib` -> `etc`.
pub(super) const SAMPLE: &str = r#"{"fsroot":[
    ["etc",4096,100,16877,1,2,[
        ["motd",5,200,33188,0,0,"hello"],
        ["large",200000,200,33261,0,0,"large"],
        ["wrong",5,200,33188,0,0,"wrong"],
        ["missing",5,200,33188,0,0,"missing"]
    ]],
    ["lib",3,100,41471,0,0,"etc"]
],"version":3,"size":204113}"#;
