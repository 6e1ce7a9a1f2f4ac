//! The contents of content files, loaded when first needed.
//!
//! What no guest has open is dropped, least recently used first, when it gets too much; what is open
//! stays, up to a much higher bound, because a guest reads it in small pieces. A content file that
//! cannot be used is reported once and gives EIO ever after.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use emu_devices::p9::Errno;

use super::blobs::{self, Blob, BlobError, BlobSource};
use crate::limits;

/// Number of a content file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobId(u32);

/// Takes messages for the user, one line each.
pub type Warn = Box<dyn FnMut(&str) + Send>;

/// What is known about a content file.
struct Known {
    name: Box<str>,
    size: u64,
    /// Files a guest has open.
    pins: u32,
    failed: bool,
    /// The number of the first one used with the same name and size, once this one is used.
    same: Option<BlobId>,
}

struct Loaded {
    blob: Blob,
    /// Bytes that dropping it frees.
    memory: u64,
    /// Position in `order`.
    key: (bool, u64),
}

/// Content files in use.
pub struct BlobCache {
    source: Arc<dyn BlobSource>,
    warn: Warn,
    known: Vec<Known>,
    /// Those that were used.
    ids: HashMap<(Box<str>, u64), BlobId>,
    loaded: HashMap<BlobId, Loaded>,
    /// By (pinned, time of last use): what is dropped first comes first.
    order: BTreeMap<(bool, u64), BlobId>,
    clock: u64,
    /// Bytes in memory, not pinned and pinned.
    memory: [u64; 2],
    files: usize,
    budget: u64,
}

impl BlobCache {
    /// Nothing loaded. `budget` is the number of bytes to keep without need.
    pub fn new(source: Arc<dyn BlobSource>, budget: u64, warn: Warn) -> Self {
        Self {
            source,
            warn,
            known: Vec::new(),
            ids: HashMap::new(),
            loaded: HashMap::new(),
            order: BTreeMap::new(),
            clock: 0,
            memory: [0; 2],
            files: 0,
            budget,
        }
    }

    /// A number for a content file that is to have `size` bytes. Trees have many that are never used, so
    /// that it is not looked up whether another number means the same file.
    pub fn register(&mut self, name: impl Into<Box<str>>, size: u64) -> BlobId {
        let next = BlobId(self.known.len() as u32);
        self.known.push(Known { name: name.into(), size, pins: 0, failed: false, same: None });
        next
    }

    /// Gets ready for this many more content files.
    pub fn reserve(&mut self, count: usize) {
        self.known.reserve(count);
    }

    /// The number that stands for the file in what follows.
    fn used(&mut self, id: BlobId) -> BlobId {
        let Some(known) = self.known.get_mut(id.0 as usize) else { return id };
        *known.same.get_or_insert_with(|| *self.ids.entry((known.name.clone(), known.size)).or_insert(id))
    }

    /// Name of a content file.
    pub fn name(&self, id: BlobId) -> &str {
        self.known.get(id.0 as usize).map_or("", |known| &known.name)
    }

    /// Reads from a content file, which is loaded if need be. All of `buf` has to be inside.
    pub fn read(&mut self, id: BlobId, offset: u64, buf: &mut [u8]) -> Result<(), Errno> {
        if buf.is_empty() {
            return Ok(());
        }
        let id = self.used(id);
        if !self.loaded.contains_key(&id) {
            self.load(id)?;
        }
        self.touch(id);
        let Some(loaded) = self.loaded.get(&id) else { return Err(Errno::EIO) };
        loaded.blob.read_exact_at(offset, buf).map_err(|error| self.fail(id, &error.into()))
    }

    /// A guest has opened a file with these contents.
    pub fn pin(&mut self, id: BlobId) {
        let id = self.used(id);
        if let Some(known) = self.known.get_mut(id.0 as usize) {
            known.pins = known.pins.saturating_add(1);
            self.touch(id);
        }
    }

    /// A guest has closed it.
    pub fn unpin(&mut self, id: BlobId) {
        let id = self.used(id);
        if let Some(known) = self.known.get_mut(id.0 as usize) {
            known.pins = known.pins.saturating_sub(1);
            self.touch(id);
            self.make_room(None);
        }
    }

    /// Bytes in memory.
    pub fn memory(&self) -> u64 {
        self.memory[0] + self.memory[1]
    }

    fn load(&mut self, id: BlobId) -> Result<(), Errno> {
        let Some(known) = self.known.get(id.0 as usize) else { return Err(Errno::EIO) };
        if known.failed {
            return Err(Errno::EIO);
        }
        let blob = match blobs::load(&*self.source, &known.name, known.size) {
            Ok(blob) => blob,
            Err(error) => return Err(self.fail(id, &error)),
        };
        let key = (known.pins > 0, self.tick());
        let memory = blob.memory();
        self.memory[usize::from(key.0)] += memory;
        self.files += usize::from(matches!(blob, Blob::File(..)));
        self.order.insert(key, id);
        self.loaded.insert(id, Loaded { blob, memory, key });
        self.make_room(Some(id));
        Ok(())
    }

    /// Reports a content file that cannot be used, and gives it up.
    fn fail(&mut self, id: BlobId, error: &BlobError) -> Errno {
        self.unload(id);
        if let Some(known) = self.known.get_mut(id.0 as usize)
            && !std::mem::replace(&mut known.failed, true)
        {
            let file = self.source.describe(&known.name);
            (self.warn)(&format!("Cannot use content file {file}: {error}"));
        }
        Errno::EIO
    }

    /// Makes it the most recently used one, and files it under pinned or not.
    fn touch(&mut self, id: BlobId) {
        let pinned = self.known.get(id.0 as usize).is_some_and(|known| known.pins > 0);
        let now = self.tick();
        let Some(loaded) = self.loaded.get_mut(&id) else { return };
        let memory = loaded.memory;
        self.order.remove(&loaded.key);
        self.memory[usize::from(loaded.key.0)] -= memory;
        loaded.key = (pinned, now);
        self.order.insert(loaded.key, id);
        self.memory[usize::from(pinned)] += memory;
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Drops what is too much, but not `keep`.
    fn make_room(&mut self, keep: Option<BlobId>) {
        loop {
            let too_much = self.memory[0] > self.budget || self.files > limits::OPEN_BLOBS;
            let far_too_much =
                self.memory() > self.budget.max(limits::BLOB_PINNED) || self.files > limits::OPEN_BLOBS;
            let victim = self.order.iter().find(|(_, id)| Some(**id) != keep);
            match victim.map(|((pinned, _), id)| (*pinned, *id)) {
                Some((false, id)) if too_much || far_too_much => self.unload(id),
                Some((true, id)) if far_too_much => self.unload(id),
                _ => return,
            }
        }
    }

    fn unload(&mut self, id: BlobId) {
        if let Some(loaded) = self.loaded.remove(&id) {
            self.order.remove(&loaded.key);
            self.memory[usize::from(loaded.key.0)] -= loaded.memory;
            self.files -= usize::from(matches!(loaded.blob, Blob::File(..)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::blobs::{DirectoryBlobs, RawBlob};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Files of zeros whose name is their size; counts how often one is opened.
    #[derive(Default)]
    struct Zeros(AtomicU32);

    impl BlobSource for Zeros {
        fn open(&self, name: &str) -> Result<RawBlob, BlobError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            let size = name.split('-').next().unwrap().parse().map_err(|_| BlobError::Missing)?;
            Ok(RawBlob::Bytes(vec![0; size].into()))
        }
        fn describe(&self, name: &str) -> String {
            format!("fs/{name}")
        }
    }

    fn cache(budget: u64) -> (BlobCache, Arc<Zeros>, Arc<Mutex<Vec<String>>>) {
        let source = Arc::new(Zeros::default());
        let warnings = Arc::new(Mutex::new(Vec::new()));
        let sink = warnings.clone();
        let warn = Box::new(move |message: &str| sink.lock().unwrap().push(message.to_owned()));
        (BlobCache::new(source.clone(), budget, warn), source, warnings)
    }

    #[test]
    fn read_loads_once() {
        let (mut cache, source, _) = cache(1000);
        let id = cache.register("10-a", 10);
        assert_eq!(source.0.load(Ordering::Relaxed), 0);
        for _ in 0..3 {
            assert_eq!(cache.read(id, 5, &mut [1; 5]), Ok(()));
        }
        assert_eq!((source.0.load(Ordering::Relaxed), cache.memory()), (1, 10));
        let same = cache.register("10-a", 10);
        assert_eq!(cache.read(same, 5, &mut [1; 5]), Ok(()));
        assert_eq!((source.0.load(Ordering::Relaxed), cache.memory()), (1, 10));
        let other = cache.register("10-a", 11);
        assert_eq!(cache.read(other, 5, &mut [1; 5]), Err(Errno::EIO), "that is another one");
        assert_eq!(source.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn read_over_budget_drops_least_recently_used() {
        let (mut cache, source, _) = cache(100);
        let ids = ["40-a", "40-b", "40-c"].map(|name| cache.register(name, 40));
        for id in [ids[0], ids[1], ids[0], ids[2]] {
            cache.read(id, 0, &mut [0]).unwrap();
        }
        assert_eq!((source.0.load(Ordering::Relaxed), cache.memory()), (3, 80));
        cache.read(ids[0], 0, &mut [0]).unwrap();
        assert_eq!(source.0.load(Ordering::Relaxed), 3, "still there");
        cache.read(ids[1], 0, &mut [0]).unwrap();
        assert_eq!(source.0.load(Ordering::Relaxed), 4, "dropped before");
    }

    #[test]
    fn pinned_contents_stay_until_closed() {
        let (mut cache, source, _) = cache(100);
        let ids = ["80-a", "80-b", "80-c"].map(|name| cache.register(name, 80));
        cache.pin(ids[0]);
        cache.pin(ids[1]);
        for id in [ids[0], ids[1], ids[2], ids[0], ids[1]] {
            cache.read(id, 0, &mut [0]).unwrap();
        }
        assert_eq!((source.0.load(Ordering::Relaxed), cache.memory()), (3, 240));
        cache.unpin(ids[0]);
        assert_eq!(cache.memory(), 160, "80-c was the oldest that may go");
        cache.unpin(ids[1]);
        assert_eq!(cache.memory(), 80);
    }

    #[test]
    fn pinned_contents_beyond_limit_are_dropped() {
        let (mut cache, _, _) = cache(0);
        let size = limits::BLOB_PINNED / 4 + 1;
        for i in 0..5 {
            let id = cache.register(format!("{size}-{i}"), size);
            cache.pin(id);
            cache.read(id, 0, &mut [0]).unwrap();
            assert!(cache.memory() <= limits::BLOB_PINNED);
        }
        assert_eq!(cache.memory(), 3 * size);
    }

    #[test]
    fn contents_larger_than_budget_can_be_read() {
        let (mut cache, _, _) = cache(10);
        let id = cache.register("50-a", 50);
        assert_eq!(cache.read(id, 49, &mut [0]), Ok(()));
        assert_eq!(cache.read(id, 0, &mut [0; 50]), Ok(()));
    }

    #[test]
    fn unusable_content_file_is_eio_and_reported_once() {
        let (mut cache, source, warnings) = cache(100);
        let missing = cache.register("gone", 5);
        let wrong = cache.register("7-a", 8);
        for id in [missing, wrong, missing, wrong] {
            assert_eq!(cache.read(id, 0, &mut [0]), Err(Errno::EIO));
        }
        assert_eq!(source.0.load(Ordering::Relaxed), 2);
        let warnings = warnings.lock().unwrap();
        assert_eq!(
            *warnings,
            [
                "Cannot use content file fs/gone: No such file",
                "Cannot use content file fs/7-a: Size is 7 bytes, expected 8",
            ]
        );
    }

    #[test]
    fn large_files_open_at_a_time_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let size = limits::SMALL_BLOB + 1;
        let path = dir.path().join("large-0");
        std::fs::File::create(&path).unwrap().set_len(size).unwrap();
        let mut cache = BlobCache::new(
            Arc::new(DirectoryBlobs::new(dir.path())),
            0,
            Box::new(|message| panic!("{message}")),
        );
        for i in 0..limits::OPEN_BLOBS + 10 {
            let name = format!("large-{i}");
            if i > 0 {
                std::fs::hard_link(&path, dir.path().join(&name)).unwrap();
            }
            let id = cache.register(name.as_str(), size);
            cache.pin(id);
            cache.read(id, size - 1, &mut [0]).unwrap();
            assert!(cache.files <= limits::OPEN_BLOBS);
        }
        assert_eq!(cache.files, limits::OPEN_BLOBS);
        assert_eq!(cache.memory(), 0);
    }
}
