//! Replacing members of a gzip-compressed tar archive, the others being copied as they are.
//!
//! tar is blocks of 512 bytes: a header, content filled up to whole blocks, and so on to a block of zeros.
//! Headers of type `L`, `K` and `x` belong to the one after them. Blocks are copied, not understood, as
//! far as possible, so that nothing of a member is lost.

use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

use crate::image::clean_name;

const BLOCK: usize = 512;

/// Longest header content (long names and the like) that is kept.
const MAX_EXTENSION: u64 = 1 << 20;

/// A member to add.
pub struct Member<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its content, exactly `len` bytes.
    pub content: &'a mut dyn Read,
    /// Length of its content.
    pub len: u64,
}

/// Copies the archive `old` to `new` without the members that `leave_out` names, adding `members` at the
/// end.
///
/// # Errors
/// The host's, or the archive is damaged.
pub fn rewrite<W: Write>(
    old: impl Read,
    new: W,
    leave_out: &dyn Fn(&str) -> bool,
    members: &mut [Member<'_>],
) -> io::Result<W> {
    let mut old = MultiGzDecoder::new(old);
    // Archives are large and disks are patient: speed counts, and most of it is compressed already.
    let mut new = GzEncoder::new(new, Compression::fast());
    let mut held = Vec::new();
    let mut extension = Extension::default();
    while let Some(header) = read_header(&mut old)? {
        let mut size = header.size()?;
        let kind = header.0[156];
        let blocks = |size: u64| size.checked_next_multiple_of(BLOCK as u64).ok_or_else(|| damaged("size"));
        if matches!(kind, b'L' | b'K' | b'x') {
            if size > MAX_EXTENSION || held.len() as u64 > MAX_EXTENSION {
                return Err(damaged("a header is too long"));
            }
            held.extend_from_slice(&header.0);
            let start = held.len();
            let copied = (&mut old).take(blocks(size)?).read_to_end(&mut held)?;
            if copied as u64 != blocks(size)? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            extension.note(kind, held.get(start..start + size as usize).unwrap_or_default());
            continue;
        }
        let Extension { name, size: long_size } = std::mem::take(&mut extension);
        size = long_size.unwrap_or(size);
        if !has_content(kind) {
            size = 0;
        }
        let name = name.unwrap_or_else(|| header.name());
        let drop = clean_name(&name).is_ok_and(|name| leave_out(&name));
        let out: &mut dyn Write = if drop { &mut io::sink() } else { &mut new };
        out.write_all(&held)?;
        held.clear();
        out.write_all(&header.0)?;
        // GNU's sparse files: more headers may follow.
        let mut more = kind == b'S' && header.0[482] != 0;
        while more {
            let mut block = [0; BLOCK];
            old.read_exact(&mut block)?;
            out.write_all(&block)?;
            more = block[504] != 0;
        }
        if io::copy(&mut (&mut old).take(blocks(size)?), out)? != blocks(size)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    // What was there is known to be whole only when its checksum has been read.
    io::copy(&mut old, &mut io::sink())?;

    for member in members {
        let mut header = tar::Header::new_gnu();
        header.set_path(member.name)?;
        header.set_size(member.len);
        header.set_mode(0o644);
        header.set_mtime(crate::clock::wall().as_secs());
        header.set_cksum();
        new.write_all(header.as_bytes())?;
        if io::copy(&mut member.content.take(member.len), &mut new)? != member.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let padding = member.len.next_multiple_of(BLOCK as u64) - member.len;
        new.write_all([0; BLOCK].get(..padding as usize).unwrap_or_default())?;
    }
    new.write_all(&[0; 2 * BLOCK])?;
    new.finish()
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the archive is damaged: {what}"))
}

/// What headers before a member say about it.
#[derive(Default)]
struct Extension {
    name: Option<String>,
    size: Option<u64>,
}

impl Extension {
    fn note(&mut self, kind: u8, content: &[u8]) {
        match kind {
            b'L' => {
                let end = content.iter().position(|b| *b == 0).unwrap_or(content.len());
                self.name = Some(text(content.get(..end).unwrap_or_default()));
            }
            b'x' => {
                for record in tar::PaxExtensions::new(content).flatten() {
                    match record.key_bytes() {
                        b"path" => self.name = Some(text(record.value_bytes())),
                        b"size" => self.size = record.value().ok().and_then(|size| size.parse().ok()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// True if a member of that type is followed by as much content as its header says.
fn has_content(kind: u8) -> bool {
    // Links, devices, directories and FIFOs have none, whatever their size says (POSIX: 1 to 6).
    !matches!(kind, b'1'..=b'6')
}

struct Header([u8; BLOCK]);

/// The next header; `None` at the end of the archive.
fn read_header(old: &mut impl Read) -> io::Result<Option<Header>> {
    let mut block = [0; BLOCK];
    let mut got = 0;
    while got < BLOCK {
        match old.read(block.get_mut(got..).unwrap_or_default()) {
            // Some archives lack the blocks of zeros at the end.
            Ok(0) if got == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => got += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if block.iter().all(|b| *b == 0) {
        return Ok(None);
    }
    Ok(Some(Header(block)))
}

impl Header {
    fn size(&self) -> io::Result<u64> {
        tar::Header::from_byte_slice(&self.0).entry_size()
    }

    fn name(&self) -> String {
        text(&tar::Header::from_byte_slice(&self.0).path_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// An archive with names of every kind.
    fn archive(dotted: bool) -> Vec<u8> {
        let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        let long = "x".repeat(150);
        for (name, content) in
            [("image.json", "{}"), ("initial.state", "old state"), (&long, "long"), ("fs/a", "content")]
        {
            let name = if dotted { format!("./{name}") } else { name.to_owned() };
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(7);
            if name.len() < 100 {
                // As it is: the library would clean it.
                header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
                header.set_cksum();
                tar.append(&header, content.as_bytes()).unwrap();
            } else {
                tar.append_data(&mut header, name, content.as_bytes()).unwrap();
            }
        }
        tar.append_pax_extensions([("path", &b"initial.state"[..]), ("comment", b"renamed")]).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_path("short").unwrap();
        header.set_size(3);
        header.set_cksum();
        tar.append(&header, &b"pax"[..]).unwrap();
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        tar.append_link(&mut link, "link", "fs/a").unwrap();
        tar.into_inner().unwrap().finish().unwrap()
    }

    fn read(archive: &[u8]) -> BTreeMap<String, (String, u64, u32)> {
        let mut out = BTreeMap::new();
        for entry in tar::Archive::new(MultiGzDecoder::new(archive)).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_str().unwrap().to_owned();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            let (mtime, mode) = (entry.header().mtime().unwrap(), entry.header().mode().unwrap_or(0));
            assert!(out.insert(name, (content, mtime, mode)).is_none());
        }
        out
    }

    #[test]
    fn archive_member_is_replaced_and_the_others_stay() {
        for dotted in [false, true] {
            let old = archive(dotted);
            let content = "n".repeat(1000);
            let mut members = [Member { name: "initial.state", content: &mut content.as_bytes(), len: 1000 }];
            let new = rewrite(&old[..], Vec::new(), &|name| name == "initial.state", &mut members).unwrap();
            let mut new = read(&new);
            assert_eq!(new.remove("initial.state").unwrap().0, content);
            let mut expected = BTreeMap::new();
            for (name, entry) in tar_entries(&old) {
                if clean_name(&name).unwrap() != "initial.state" {
                    expected.insert(name, entry);
                }
            }
            assert_eq!(new, expected);
        }
    }

    fn tar_entries(archive: &[u8]) -> Vec<(String, (String, u64, u32))> {
        let mut out = Vec::new();
        for entry in tar::Archive::new(MultiGzDecoder::new(archive)).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_str().unwrap().to_owned();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            let (mtime, mode) = (entry.header().mtime().unwrap(), entry.header().mode().unwrap_or(0));
            out.push((name, (content, mtime, mode)));
        }
        out
    }

    #[test]
    fn archive_that_is_cut_off_or_damaged_is_not_rewritten() {
        let old = archive(false);
        for cut in [1, 8, old.len() / 2, old.len() - 10] {
            let new = rewrite(&old[..old.len() - cut], Vec::new(), &|_| false, &mut []);
            assert!(new.is_err(), "{cut}");
        }
        let mut wrong = old;
        let crc = wrong.len() - 6;
        wrong[crc] ^= 1;
        assert!(rewrite(&wrong[..], Vec::new(), &|_| false, &mut []).is_err());
    }

    #[test]
    fn member_shorter_than_announced_is_an_error() {
        let old = archive(false);
        let mut members = [Member { name: "x", content: &mut &b"abc"[..], len: 4 }];
        assert!(rewrite(&old[..], Vec::new(), &|_| false, &mut members).is_err());
    }
}
