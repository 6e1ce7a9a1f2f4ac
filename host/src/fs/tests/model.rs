//! Random operations against a model that keeps paths and plain vectors.

use std::collections::BTreeMap;

use emu_devices::p9::Errno;
use emu_devices::p9::wire::AT_REMOVEDIR;
use proptest::prelude::*;

use super::client::Client;
use super::overlay;

/// Identity of a file in the model.
type Id = usize;

#[derive(Clone, Debug, PartialEq)]
enum Object {
    Directory,
    File(Id),
    Symlink(String),
}

/// Paths to objects; the root is "". A file's data is by identity, so that it can have two paths.
#[derive(Default)]
struct Model {
    paths: BTreeMap<String, Object>,
    files: Vec<Vec<u8>>,
}

type Outcome = Result<(), Errno>;

impl Model {
    fn new() -> Self {
        let mut model = Self::default();
        model.paths.insert(String::new(), Object::Directory);
        model
    }

    /// What a walk finds.
    fn get(&self, path: &str) -> Result<&Object, Errno> {
        // A partial walk looks like ENOENT to the test's client; a first name in a file cannot be.
        self.paths.get(path).ok_or(Errno::ENOENT)
    }

    fn dir(&self, path: &str) -> Outcome {
        match self.get(path)? {
            Object::Directory => Ok(()),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn children(&self, dir: &str) -> Vec<String> {
        let inside = |path: &str| {
            let rest = path.strip_prefix(dir)?.strip_prefix('/')?;
            (!rest.contains('/')).then(|| rest.to_owned())
        };
        self.paths.keys().filter_map(|path| inside(path)).collect()
    }

    fn make(&mut self, dir: &str, name: &str, object: Object) -> Outcome {
        self.dir(dir)?;
        let path = format!("{dir}/{name}");
        if self.paths.contains_key(&path) {
            return Err(Errno::EEXIST);
        }
        self.paths.insert(path, object);
        Ok(())
    }

    fn create(&mut self, dir: &str, name: &str) -> Outcome {
        self.make(dir, name, Object::File(self.files.len()))?;
        self.files.push(Vec::new());
        Ok(())
    }

    fn remove(&mut self, dir: &str, name: &str, directory: bool) -> Outcome {
        self.dir(dir)?;
        let path = format!("{dir}/{name}");
        match (self.get(&path)?, directory) {
            (Object::Directory, false) => return Err(Errno::EISDIR),
            (Object::Directory, true) if !self.children(&path).is_empty() => return Err(Errno::ENOTEMPTY),
            (Object::Directory, true) => {}
            (_, true) => return Err(Errno::ENOTDIR),
            _ => {}
        }
        self.paths.remove(&path);
        Ok(())
    }

    fn rename(&mut self, from: &str, old: &str, to: &str, new: &str) -> Outcome {
        // The directories are walked to before anything else happens.
        self.get(from)?;
        self.get(to)?;
        self.dir(from)?;
        let source = format!("{from}/{old}");
        let object = self.get(&source)?.clone();
        self.dir(to)?;
        let target = format!("{to}/{new}");
        let is_dir = object == Object::Directory;
        if source == target {
            return Ok(());
        }
        if is_dir && (to == source || to.starts_with(&format!("{source}/"))) {
            return Err(Errno::EINVAL);
        }
        match self.paths.get(&target) {
            Some(existing) if *existing == object && matches!(object, Object::File(_)) => return Ok(()),
            Some(Object::Directory) if !is_dir => return Err(Errno::EISDIR),
            Some(Object::Directory) if !self.children(&target).is_empty() => return Err(Errno::ENOTEMPTY),
            Some(Object::File(_) | Object::Symlink(_)) if is_dir => return Err(Errno::ENOTDIR),
            _ => {}
        }
        self.paths.remove(&target);
        let moved: Vec<String> = self
            .paths
            .keys()
            .filter(|path| **path == source || path.starts_with(&format!("{source}/")))
            .cloned()
            .collect();
        for path in moved {
            let object = self.paths.remove(&path).unwrap();
            self.paths.insert(format!("{target}{}", &path[source.len()..]), object);
        }
        Ok(())
    }

    fn link(&mut self, file: &str, dir: &str, name: &str) -> Outcome {
        let object = self.get(file)?.clone();
        self.get(dir)?;
        match object {
            Object::Directory => Err(Errno::EPERM),
            // Two names of a link would need an identity here; not tried.
            Object::Symlink(_) => Ok(()),
            Object::File(_) => self.make(dir, name, object),
        }
    }

    fn file(&mut self, path: &str) -> Result<&mut Vec<u8>, Errno> {
        match *self.get(path)? {
            Object::File(id) => Ok(&mut self.files[id]),
            Object::Directory => Err(Errno::EISDIR),
            Object::Symlink(_) => Err(Errno::ELOOP),
        }
    }

    fn write(&mut self, path: &str, offset: usize, data: &[u8]) -> Outcome {
        let file = self.file(path)?;
        if !data.is_empty() {
            let end = offset + data.len();
            if file.len() < end {
                file.resize(end, 0);
            }
            file[offset..end].copy_from_slice(data);
        }
        Ok(())
    }

    fn truncate(&mut self, path: &str, size: usize) -> Outcome {
        match self.get(path)? {
            Object::Symlink(_) => Err(Errno::EINVAL),
            _ => {
                self.file(path)?.resize(size, 0);
                Ok(())
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Create(String, &'static str),
    Mkdir(String, &'static str),
    Symlink(String, &'static str, &'static str),
    Remove(String, &'static str, bool),
    Rename(String, &'static str, String, &'static str),
    Link(String, String, &'static str),
    Write(String, usize, usize),
    Truncate(String, usize),
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let name = || proptest::sample::select(vec!["a", "b", "c"]);
    let path = || {
        let names = proptest::collection::vec(name(), 0..4);
        names.prop_map(|names| names.iter().map(|name| format!("/{name}")).collect::<String>())
    };
    prop_oneof![
        3 => (path(), name()).prop_map(|(dir, name)| Op::Create(dir, name)),
        3 => (path(), name()).prop_map(|(dir, name)| Op::Mkdir(dir, name)),
        1 => (path(), name(), name()).prop_map(|(dir, name, target)| Op::Symlink(dir, name, target)),
        3 => (path(), name(), any::<bool>()).prop_map(|(dir, name, directory)| Op::Remove(dir, name, directory)),
        4 => (path(), name(), path(), name()).prop_map(|(from, old, to, new)| Op::Rename(from, old, to, new)),
        1 => (path(), path(), name()).prop_map(|(file, dir, name)| Op::Link(file, dir, name)),
        3 => (path(), 0usize..100_000, 0usize..100_000).prop_map(|(file, at, length)| Op::Write(file, at, length)),
        1 => (path(), 0usize..150_000).prop_map(|(file, size)| Op::Truncate(file, size)),
        1 => Just(Op::Restart),
    ]
}

/// An operation's outcome at the server.
fn apply(client: &mut Client, op: &Op, fill: u8) -> Outcome {
    match op {
        Op::Create(dir, name) => client.create(dir, name, 1).map(|()| client.clunk(1)),
        Op::Mkdir(dir, name) => client.mkdir(dir, name),
        Op::Symlink(dir, name, target) => client.symlink(dir, name, target),
        Op::Remove(dir, name, directory) => {
            client.unlink(dir, name, if *directory { AT_REMOVEDIR } else { 0 })
        }
        Op::Rename(from, old, to, new) => client.rename(from, old, to, new),
        Op::Link(file, dir, name) => client.link(file, dir, name),
        Op::Write(file, at, length) => {
            client.open(file, 1, 1)?;
            assert_eq!(client.write(1, *at as u64, &vec![fill; *length]), Ok(*length as u32));
            client.clunk(1);
            Ok(())
        }
        Op::Truncate(file, size) => client.truncate(file, *size as u64),
        Op::Restart => Ok(()),
    }
}

fn apply_to_model(model: &mut Model, op: &Op, fill: u8) -> Outcome {
    match op {
        Op::Create(dir, name) => model.create(dir, name),
        Op::Mkdir(dir, name) => model.make(dir, name, Object::Directory),
        Op::Symlink(dir, name, target) => model.make(dir, name, Object::Symlink((*target).to_owned())),
        Op::Remove(dir, name, directory) => model.remove(dir, name, *directory),
        Op::Rename(from, old, to, new) => model.rename(from, old, to, new),
        Op::Link(file, dir, name) => model.link(file, dir, name),
        Op::Write(file, at, length) => model.write(file, *at, &vec![fill; *length]),
        Op::Truncate(file, size) => model.truncate(file, *size),
        Op::Restart => Ok(()),
    }
}

fn assert_same(client: &mut Client, model: &Model) -> Result<(), TestCaseError> {
    for (path, object) in &model.paths {
        let attr = client.stat(path).map_err(|error| TestCaseError::fail(format!("{path}: {error}")))?;
        match object {
            Object::Directory => {
                let mut names = client.names(path).unwrap();
                names.sort();
                prop_assert_eq!(&names, &model.children(path), "{}", path);
                let is_sub = |name: &&String| model.paths[&format!("{path}/{name}")] == Object::Directory;
                prop_assert_eq!(attr.nlink, 2 + names.iter().filter(is_sub).count() as u64);
            }
            Object::File(id) => {
                prop_assert!(client.contents(path).unwrap() == model.files[*id], "contents of {}", path);
                let names = model.paths.values().filter(|other| *other == object).count() as u64;
                prop_assert_eq!((attr.size, attr.nlink), (model.files[*id].len() as u64, names));
            }
            Object::Symlink(target) => prop_assert_eq!(&client.readlink(path).unwrap(), target),
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_operations_match_model(ops in proptest::collection::vec(op(), 1..60)) {
        let mut client = Client::new(overlay(r#"{"version":3,"size":0,"fsroot":[]}"#));
        let mut model = Model::new();
        for (step, op) in ops.iter().enumerate() {
            if let Op::Link(file, ..) = op
                && let Ok(Object::Symlink(_)) = model.get(file)
            {
                continue;
            }
            if let Op::Restart = op {
                // A snapshot in between changes nothing.
                let saved = super::saving::save(&mut client.server);
                client.server.restore(saved).unwrap();
            }
            let fill = step as u8 + 1;
            let expected = apply_to_model(&mut model, op, fill);
            let outcome = apply(&mut client, op, fill);
            // A name below a file: ENOTDIR if it is the first one walked, otherwise not told apart.
            let same = outcome == expected || (outcome, expected) == (Err(Errno::ENOTDIR), Err(Errno::ENOENT));
            prop_assert!(same, "{:?}: {:?}, expected {:?}", op, outcome, expected);
        }
        assert_same(&mut client, &model)?;
        // Everything can be removed, and then nothing is left but the root.
        let mut paths: Vec<_> = model.paths.into_iter().filter(|(path, _)| !path.is_empty()).collect();
        paths.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        for (path, object) in paths {
            let (dir, name) = path.rsplit_once('/').unwrap();
            let flags = if object == Object::Directory { AT_REMOVEDIR } else { 0 };
            client.unlink(dir, name, flags).unwrap();
        }
        let tree = client.server.save().unwrap().tree;
        prop_assert_eq!(tree.inodes.iter().flatten().count(), 1);
    }
}
