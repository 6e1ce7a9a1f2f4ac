//! `fs.json`: any bytes give a tree or a reason; the tree can be listed, read and saved.

#![no_main]

use emu_devices::p9::Filesystem;
use env86_fuzz::files::{INDEX, blobs, options};
use host::fs::overlay::Overlay;

/// Longest file that is read.
const LIMIT: u64 = 1 << 16;
/// Directories that are listed.
const MAX_DIRS: usize = 64;

fn seeds() -> Vec<Vec<u8>> {
    let rows = [
        r#"["a",5,200,33188,0,0,"motd"]"#,
        r#"["su \u003c\u0026",3,5,8421869,0,0,"x.bin"]"#,
        r#"["d",4096,5,2148549119,0,0,[["l",4,5,134259199,0,0,"/etc"]]]"#,
        r#"["null",0,0,8630,0,0],["fifo",0,0,4516,0,0],["f",0,0,33188,0,0,"large"]"#,
        r#"["é\ud83d\ude00",1e2,-5,33188,4294967295,0,"e"]"#,
    ];
    let mut seeds: Vec<_> =
        rows.map(|row| format!("{{\"fsroot\":[{row}],\"version\":3,\"size\":7}}").into_bytes()).to_vec();
    seeds.push(INDEX.as_bytes().to_vec());
    seeds
}

env86_fuzz::target!(seeds, |data: &[u8]| {
    let mut tree = match Overlay::from_fs_json(data, "fs.json", blobs(), options()) {
        Ok(tree) => tree,
        Err(error) => return assert!(!error.to_string().contains('\n'), "an error of one line"),
    };
    let mut dirs = vec![Vec::new()];
    let mut next = 0;
    while let Some(dir) = dirs.get(next).cloned() {
        next += 1;
        for (name, mode) in tree.list_dir(&dir).unwrap_or_default() {
            let path = [&dir[..], b"/", &name].concat();
            if mode & 0xF000 == 0x4000 && dirs.len() < MAX_DIRS {
                dirs.push(path);
            } else {
                let _ = tree.read_file(&path, LIMIT);
            }
        }
    }
    assert_eq!(tree.added(), 0, "looking adds nothing");
    let _ = tree.save();
});
