//! Images that are archives: compressed as they come, or tar that is compressed here. What is in one can be
//! read, its tree opened, and a snapshot put into a copy of it.

#![no_main]

use std::io::Write;

use env86_fuzz::files::{INDEX, options};
use flate2::Compression;
use flate2::write::GzEncoder;
use host::image::{Image, tree};
use host::limits::ArchiveLimits;
use host::progress::Progress;
use host::snapshot::archive::{Member, rewrite};

/// What an archive may cost here.
const LIMITS: ArchiveLimits = ArchiveLimits { total_bytes: 4 << 20, entries: 1000, header_bytes: 1 << 16 };
/// Longest file that is read.
const LIMIT: u64 = 1 << 20;

fn compressed(tar: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::none());
    // Writing to memory does not fail.
    let _ = out.write_all(tar);
    out.finish().unwrap_or_default()
}

fn seeds() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for prefix in ["", "./", "image/"] {
        let mut tar = tar::Builder::new(Vec::new());
        let long = "x".repeat(150);
        let files = [
            ("image.json", r#"{"filesystem":{},"bzimage":{"url":"k"}}"#),
            ("fs.json", INDEX),
            ("fs/motd", "welcome\n"),
            (&*long, "long name"),
        ];
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            // Writing to memory does not fail.
            let _ = tar.append_data(&mut header, format!("{prefix}{name}"), content.as_bytes());
        }
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        let _ = tar.append_link(&mut link, format!("{prefix}k"), "fs/motd");
        let bytes = tar.into_inner().unwrap_or_default();
        all.push([&[1], &compressed(&bytes)[..]].concat());
        all.push([&[0], &bytes[..]].concat());
    }
    all
}

fn main(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let packed = if kind & 1 == 0 { compressed(rest) } else { rest.to_vec() };
    // Two bombs do not make a finding: what is rewritten is bounded by the first reading.
    let Ok(mut file) = tempfile::NamedTempFile::new() else { return };
    if file.write_all(&packed).is_err() {
        return;
    }
    let Ok(image) = Image::open_with_limits(file.path(), &Progress::hidden(), LIMITS) else { return };
    for name in ["image.json", "fs.json", "./fs/../k", "/etc/passwd", "fs"] {
        let _ = image.read(name, LIMIT);
        let _ = image.contains(name);
    }
    if let Ok(Some(mut tree)) = tree::open(&image, options()) {
        let _ = tree.list_dir("/");
        let _ = tree.read_file("/etc/motd", LIMIT);
    }
    let mut content: &[u8] = b"state";
    let mut members = [Member { name: "state/new", content: &mut content, len: 5 }];
    if let Ok(copy) = rewrite(&packed[..], Vec::new(), &|name| name == "k", &mut members) {
        assert!(!copy.is_empty());
    }
}

env86_fuzz::target!(seeds, main);
