//! The guest's file tree as a snapshot has it, for looking at and comparing.
//!
//! It is slot 45, element 9: `[inodes, last qid, [[inode, bytes], …], total, used]`; an inode is
//! `[mode, names or content file or target, locks, status, size, uid, gid, …]`. What does not look like
//! that is left out: whoever restores the snapshot checks it.

use std::collections::BTreeMap;

use emu_core::snapshot::{State, Value, slots};

/// File type bits of a mode.
const TYPE: i64 = 0xF000;
const DIRECTORY: i64 = 0x4000;
const REGULAR: i64 = 0x8000;

/// Directories inside each other that are looked into.
const MAX_DEPTH: usize = 1024;

/// The tree of a snapshot.
#[derive(Debug)]
pub struct GuestFiles<'a> {
    inodes: &'a [Value],
    /// Contents in the snapshot, by inode.
    held: BTreeMap<usize, &'a [u8]>,
    /// Largest message of the 9P session.
    pub msize: u64,
}

/// A file, directory or whatever else has a name.
#[derive(Clone, Copy, Debug)]
struct File<'a> {
    mode: i64,
    owner: (i64, i64),
    size: i64,
    body: &'a Value,
    held: Option<&'a [u8]>,
}

impl PartialEq for File<'_> {
    fn eq(&self, other: &Self) -> bool {
        // Go's bits above the type come and go with a chmod that changes nothing else.
        let same = self.mode & 0xFFFF == other.mode & 0xFFFF && self.owner == other.owner;
        let kind = self.mode & TYPE;
        same && match (kind, self.held, other.held) {
            (DIRECTORY, ..) => true,
            (REGULAR, None, None) => self.size == other.size && (self.body == other.body || self.size == 0),
            (REGULAR, a, b) => {
                let bytes = |held: Option<&[u8]>| {
                    held.map(|h| h.iter().take(self.size.max(0) as usize).copied().collect::<Vec<_>>())
                };
                self.size == other.size && bytes(a) == bytes(b)
            }
            _ => self.body == other.body,
        }
    }
}

fn array(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(items) => Some(items),
        _ => None,
    }
}

fn integer(value: Option<&Value>) -> i64 {
    match value {
        Some(Value::Int(n)) => *n,
        Some(Value::Float(f)) => *f as i64,
        _ => 0,
    }
}

impl<'a> GuestFiles<'a> {
    /// The tree in `state`, if there is one.
    pub fn of(state: &'a State) -> Option<Self> {
        let slot = array(state.get(slots::VIRTIO_9P))?;
        let tree = array(slot.get(9)?)?;
        let inodes = array(tree.first()?)?;
        let mut held = BTreeMap::new();
        for entry in tree.get(2).and_then(array).unwrap_or_default() {
            let Some([Value::Text(inode), Value::Typed(data), ..]) = array(entry) else { continue };
            let inode = std::str::from_utf8(inode).ok().and_then(|text| text.parse().ok());
            if let Some(inode) = inode {
                held.insert(inode, &data.data[..]);
            }
        }
        Some(Self { inodes, held, msize: integer(slot.get(5)).max(0) as u64 })
    }

    /// Number of inodes in use.
    pub fn inodes(&self) -> usize {
        self.inodes.iter().filter(|inode| array(inode).is_some_and(|i| integer(i.get(3)) != -1)).count()
    }

    /// Files whose contents are in the snapshot, and how many bytes these have.
    pub fn held(&self) -> (usize, u64) {
        (self.held.len(), self.held.values().map(|data| data.len() as u64).sum())
    }

    fn file(&self, inode: usize) -> Option<File<'a>> {
        let fields = array(self.inodes.get(inode)?)?;
        Some(File {
            mode: integer(fields.first()),
            owner: (integer(fields.get(5)), integer(fields.get(6))),
            size: integer(fields.get(4)),
            body: fields.get(1)?,
            held: self.held.get(&inode).copied(),
        })
    }

    /// Everything that has a name, by path.
    fn paths(&self) -> BTreeMap<Vec<u8>, File<'a>> {
        let mut found = BTreeMap::new();
        let mut seen = vec![false; self.inodes.len()];
        let mut to_do = vec![(Vec::new(), 0, 0)];
        while let Some((path, inode, depth)) = to_do.pop() {
            // A directory that is its own child would be visited for ever.
            if depth > MAX_DEPTH || seen.get_mut(inode).is_none_or(|seen| std::mem::replace(seen, true)) {
                continue;
            }
            let names = self.file(inode).and_then(|file| array(file.body)).unwrap_or_default();
            for name in names {
                let Some([Value::Text(name), Value::Int(child), ..]) = array(name) else { continue };
                if matches!(&name[..], b"." | b"..") {
                    continue;
                }
                let Ok(child) = usize::try_from(*child) else { continue };
                let Some(file) = self.file(child) else { continue };
                let mut path = path.clone();
                path.push(b'/');
                path.extend_from_slice(name);
                if file.mode & TYPE == DIRECTORY {
                    to_do.push((path.clone(), child, depth + 1));
                }
                found.insert(path, file);
            }
        }
        found
    }
}

/// What is different about a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// Only the second one has it.
    Added,
    /// Only the first one has it.
    Removed,
    /// Contents, owner or permissions differ.
    Changed,
}

/// How the trees of two snapshots differ, by path. Times do not count.
pub fn compare(before: &GuestFiles<'_>, after: &GuestFiles<'_>) -> Vec<(String, Change)> {
    let (before, mut after) = (before.paths(), after.paths());
    let mut changes: BTreeMap<Vec<u8>, Change> = BTreeMap::new();
    for (path, old) in before {
        match after.remove(&path) {
            None => drop(changes.insert(path, Change::Removed)),
            Some(new) if old != new => drop(changes.insert(path, Change::Changed)),
            Some(_) => {}
        }
    }
    changes.extend(after.into_keys().map(|path| (path, Change::Added)));
    changes.into_iter().map(|(path, change)| (String::from_utf8_lossy(&path).into_owned(), change)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use emu_core::values;

    fn inode(mode: u32, body: Value, size: usize) -> Value {
        values![mode, body, values![], 0, size as i64, 0, 0, 0, 1, 2, 3, 0, 1, 1]
    }

    fn dir(names: &[(&str, i64)]) -> Value {
        let names = names.iter().map(|(name, inode)| values![Value::text(name), *inode]).collect();
        inode(0x8000_41ED, Value::Array(names), 4096)
    }

    fn file(name: &str, size: usize) -> Value {
        inode(0o100_644, Value::text(name), size)
    }

    fn state(inodes: Vec<Value>, held: &[(&str, &[u8])]) -> State {
        let held: Vec<Value> =
            held.iter().map(|(inode, data)| values![Value::text(inode), Value::bytes(*data)]).collect();
        let tree = values![inodes, 9, held, 0, 0];
        let mut state = State::new();
        let null = Value::Null;
        state.set(
            slots::VIRTIO_9P,
            values![null.clone(), 6, null.clone(), null.clone(), 8192, 8192, null.clone(), 0, null, tree],
        );
        state
    }

    #[test]
    fn trees_that_differ_say_where() {
        let before = state(
            vec![
                dir(&[(".", 0), ("..", 0), ("etc", 1), ("gone", 4), ("same", 5)]),
                dir(&[("hosts", 2), ("motd", 3)]),
                file("aaaa.bin", 5),
                file("bbbb.bin", 4),
                file("cccc.bin", 1),
                file("", 3),
            ],
            &[("5", b"abc")],
        );
        let after = state(
            vec![
                dir(&[("etc", 1), ("new", 6), ("same", 5)]),
                dir(&[("hosts", 2), ("motd", 3)]),
                file("aaaa.bin", 6),
                file("bbbb.bin", 4),
                Value::Null,
                file("stale", 3),
                file("", 0),
            ],
            &[("2", b"change"), ("5", b"abcdef")],
        );
        let (before, after) = (GuestFiles::of(&before).unwrap(), GuestFiles::of(&after).unwrap());
        assert_eq!((before.inodes(), before.held(), before.msize), (6, (1, 3), 8192));
        let expected = [("/etc/hosts", Change::Changed), ("/gone", Change::Removed), ("/new", Change::Added)];
        let expected: Vec<_> = expected.iter().map(|(path, change)| ((*path).to_owned(), *change)).collect();
        assert_eq!(compare(&before, &after), expected);
        assert_eq!(compare(&before, &before), []);
    }

    #[test]
    fn trees_that_make_no_sense_are_looked_at_in_finite_time() {
        let odd = state(
            vec![
                dir(&[("a", 1), ("self", 0), ("b", -1), ("c", 99)]),
                dir(&[("up", 0), ("me", 1)]),
                Value::Int(7),
            ],
            &[("x", b""), ("99999999999999999999", b"")],
        );
        let odd = GuestFiles::of(&odd).unwrap();
        assert_eq!(compare(&odd, &odd), []);
        assert_eq!(odd.inodes(), 2);
        assert!(GuestFiles::of(&State::new()).is_none());
    }
}
