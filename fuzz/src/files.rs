//! A file tree in memory: what virtio-9p serves to a guest.

use std::sync::Arc;

use emu_devices::p9::Server;
use emu_devices::p9::fs::Time;
use host::fs::blobs::MemoryBlobs;
use host::fs::overlay::{Overlay, OverlayOptions};

/// Bytes a guest may add. Small, so that the limit is met.
const ROOM: u64 = 1 << 20;
/// Contents of `/etc/motd`.
const MOTD: &[u8] = b"welcome\n";

/// An index with a bit of everything.
pub const INDEX: &str = r#"{"fsroot":[
["etc",4096,100,16877,0,0,[["motd",8,200,33188,0,0,"motd"],["large",10000,200,33188,0,0,"large"],
["absent",9,200,33188,0,0,"nowhere"]]],["bin",3,1,41471,0,0,"etc"],["tmp",4096,5,17407,0,0,[]]],
"version":3,"size":20000}"#;

/// Settings: no clock, no messages.
pub fn options() -> OverlayOptions {
    let options = OverlayOptions::new(Box::new(Time::default), Box::new(|_| {}));
    OverlayOptions { limit: ROOM, ..options }
}

/// The contents the index names.
pub fn blobs() -> Arc<MemoryBlobs> {
    let mut blobs = MemoryBlobs::new("fuzz");
    blobs.insert("motd", MOTD.to_vec());
    blobs.insert("large", vec![b'x'; 10_000]);
    Arc::new(blobs)
}

/// A tree.
///
/// # Panics
/// If the index is not valid.
pub fn tree() -> Overlay {
    Overlay::from_fs_json(INDEX.as_bytes(), "fs.json", blobs(), options()).expect("a valid index")
}

/// A server of the tree.
pub fn server() -> Server {
    Server::new(Box::new(tree()))
}
