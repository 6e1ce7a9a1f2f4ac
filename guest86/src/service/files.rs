//! Methods on files.

use super::{Answer, parameters, reason, reply, respond, text};
use crate::call::{Attributes, Details, Entry};
use crate::cbor::{self, Value};
use crate::codec;
use crate::limits;
use crate::link::{Channel, LinkError, forever};
use rustix::fs::{AtFlags, CWD, Gid, Timespec, Timestamps, UTIME_OMIT, Uid, chownat, utimensat};
use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Contents moved at once, in bytes.
const PIECE: usize = 32 << 10;

/// An argument of `vm.WriteFile` up to this many bytes is read as a whole; a longer one goes straight into the
/// file.
const SMALL: u64 = 64 << 10;

/// An absolute path without `.` and `..`; relative ones start at the root.
pub fn clean(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The path in a method's parameters.
pub fn path(params: &[Value], index: usize) -> Result<String, String> {
    Ok(clean(text(params, index)?))
}

fn failed<'a>(what: &'a str, path: &'a str) -> impl Fn(io::Error) -> String + 'a {
    move |error| format!("{what} {path}: {}", reason(&error))
}

fn entry(path: &Path, meta: &Metadata, details: bool) -> Entry {
    let name = path.file_name().map_or("/".into(), |name| name.to_string_lossy().into_owned());
    let target = || fs::read_link(path).map(|target| target.to_string_lossy().into_owned());
    Entry {
        name,
        is_dir: meta.is_dir(),
        mtime: meta.mtime(),
        size: i64::try_from(meta.size()).unwrap_or(i64::MAX),
        details: details.then(|| Details {
            mode: meta.mode(),
            uid: meta.uid(),
            gid: meta.gid(),
            mtime_nanos: u32::try_from(meta.mtime_nsec()).unwrap_or(0),
            target: if meta.is_symlink() { target().unwrap_or_default() } else { String::new() },
        }),
    }
}

/// `vm.Stat`
pub fn stat(params: &[Value]) -> Answer {
    let path = path(params, 0)?;
    let meta = fs::metadata(&path).map_err(failed("stat", &path))?;
    Ok(entry(path.as_ref(), &meta, false).to_value())
}

/// `vm.Lstat`
pub fn lstat(params: &[Value]) -> Answer {
    let path = path(params, 0)?;
    let meta = fs::symlink_metadata(&path).map_err(failed("lstat", &path))?;
    Ok(entry(path.as_ref(), &meta, true).to_value())
}

fn entries(params: &[Value], details: bool) -> Result<Vec<Value>, String> {
    let path = path(params, 0)?;
    let mut found = Vec::new();
    for item in fs::read_dir(&path).map_err(failed("open", &path))? {
        let item = item.map_err(failed("readdir", &path))?;
        // An entry may be gone by now.
        if let Ok(meta) = fs::symlink_metadata(item.path()) {
            found.push((item.file_name(), entry(&item.path(), &meta, details).to_value()));
        }
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(found.into_iter().map(|(_, value)| value).collect())
}

/// `vm.ReadDir`
pub fn read_dir(params: &[Value]) -> Answer {
    let entries = entries(params, false)?;
    Ok(if entries.is_empty() { Value::Null } else { Value::Array(entries) })
}

/// `vm.List`
pub fn list(params: &[Value]) -> Answer {
    Ok(Value::Array(entries(params, true)?))
}

/// Makes a directory and its parents.
pub fn make_all(path: &str) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)
}

/// `vm.MakeDir`
pub fn make_dir(params: &[Value]) -> Answer {
    let path = path(params, 0)?;
    make_all(&path).map_err(failed("mkdir", &path))?;
    Ok(Value::Null)
}

/// `vm.RemoveAll`
pub fn remove_all(params: &[Value]) -> Answer {
    let path = path(params, 0)?;
    let removed = match fs::symlink_metadata(&path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(&path),
        Ok(_) => fs::remove_file(&path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("unlinkat", &path)(error)),
        _ => Ok(Value::Null),
    }
}

/// `vm.Rename`
pub fn rename(params: &[Value]) -> Answer {
    let (old, new) = (path(params, 0)?, path(params, 1)?);
    fs::rename(&old, &new).map_err(failed(&format!("rename {old}"), &new))?;
    Ok(Value::Null)
}

/// `vm.Symlink`
pub fn symlink(params: &[Value]) -> Answer {
    let (target, path) = (text(params, 0)?, path(params, 1)?);
    std::os::unix::fs::symlink(target, &path).map_err(failed("symlink", &path))?;
    Ok(Value::Null)
}

/// Sends exactly `size` bytes of a file; `false` if it has fewer.
fn send(file: &mut File, size: u64, channel: &Channel) -> Result<bool, LinkError> {
    let mut buffer = vec![0; PIECE];
    let mut left = size;
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let count = match file.read(buffer.get_mut(..want).unwrap_or_default()) {
            Ok(0) => return Ok(false),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return Ok(false),
        };
        channel.write(buffer.get(..count).unwrap_or_default(), &forever)?;
        left -= count as u64;
    }
    Ok(true)
}

fn open(path: &str) -> Result<(File, Metadata), String> {
    let file = File::open(path).map_err(failed("open", path))?;
    let meta = file.metadata().map_err(failed("stat", path))?;
    if meta.is_dir() {
        return Err(format!("read {path}: is a directory"));
    }
    Ok((file, meta))
}

/// `vm.ReadFile`
pub fn read_file(channel: &Channel, params: &[Value]) -> Result<(), LinkError> {
    let opened = path(params, 0).and_then(|path| Ok((open(&path)?, path)));
    let ((mut file, meta), path) = match opened {
        Ok(opened) => opened,
        Err(error) => return reply(channel, Err(error)),
    };
    if !meta.is_file() || meta.size() == 0 {
        // Files of the kernel do not know their size.
        let mut bytes = Vec::new();
        let read = file.take(limits::UNSIZED_FILE as u64 + 1).read_to_end(&mut bytes);
        let answer = match read {
            Err(error) => Err(failed("read", &path)(error)),
            Ok(count) if count > limits::UNSIZED_FILE => Err(format!("read {path}: file too large")),
            Ok(_) => Ok(Value::Bytes(bytes)),
        };
        return reply(channel, answer);
    }
    let size = meta.size();
    let head = cbor::bytes_head(size);
    let prefix = (size <= limits::FILE).then(|| codec::prefix(head.len() as u64 + size)).flatten();
    let Some(prefix) = prefix else {
        return reply(channel, Err(format!("read {path}: file too large")));
    };
    let header = crate::call::Response { error: None, goes_on: false };
    channel.write(&codec::encode(&header.to_value()), &forever)?;
    channel.write(&[&prefix[..], &head].concat(), &forever)?;
    // A file that has shrunk ends the call in the middle of the value, which is an error for its reader.
    send(&mut file, size, channel)?;
    channel.close();
    Ok(())
}

/// `vm.Get`
pub fn get(channel: &Channel, params: &[Value]) -> Result<(), LinkError> {
    let opened = path(params, 0).and_then(|path| Ok((open(&path)?, path)));
    let ((mut file, meta), path) = match opened {
        Ok(opened) => opened,
        Err(error) => return reply(channel, Err(error)),
    };
    respond(channel, Ok(entry(path.as_ref(), &meta, true).to_value()), true)?;
    // Without EOF the host knows that something is missing.
    if send(&mut file, meta.size(), channel)? {
        channel.eof();
    }
    channel.close();
    Ok(())
}

fn create(path: &str) -> Result<File, String> {
    let options = File::options().write(true).create(true).truncate(true).mode(0o644).open(path);
    options.map_err(failed("open", path))
}

/// `vm.WriteFile`
pub fn write_file(channel: &Channel) -> Result<(), LinkError> {
    let answer = match receive_file(channel) {
        Err(Refusal::Line(error)) => return Err(error),
        Err(Refusal::Answer(error)) => Err(error),
        Ok(()) => Ok(Value::Null),
    };
    reply(channel, answer)
}

/// Why a file was not written.
enum Refusal {
    Line(LinkError),
    Answer(String),
}

impl From<LinkError> for Refusal {
    fn from(error: LinkError) -> Self {
        Self::Line(error)
    }
}

impl From<String> for Refusal {
    fn from(error: String) -> Self {
        Self::Answer(error)
    }
}

impl From<codec::CodecError> for Refusal {
    fn from(error: codec::CodecError) -> Self {
        match error {
            codec::CodecError::Link(error) => Self::Line(error),
            other => Self::Answer(format!("fn: args: {other}")),
        }
    }
}

fn receive_file(channel: &Channel) -> Result<(), Refusal> {
    let length = codec::read_prefix(channel, &forever)?;
    let start = codec::read_body(channel, length.min(SMALL), &forever)?;
    if length <= SMALL {
        let decoded = Value::decode(&start, limits::REQUEST_ITEMS).map_err(codec::CodecError::from)?;
        let params = parameters(&decoded.0, 2)?;
        let path = path(params, 0)?;
        let bytes =
            params.get(1).and_then(Value::as_bytes).ok_or("parameter 2 is no byte string".to_owned())?;
        create(&path)?.write_all(bytes).map_err(failed("write", &path))?;
        return Ok(());
    }
    let (path, at, size) = cbor::text_and_bytes_head(&start).map_err(codec::CodecError::from)?;
    if length.checked_sub(at as u64).is_none_or(|most| size > most) {
        return Err(codec::CodecError::Truncated.into());
    }
    let path = clean(&path);
    let mut file = match create(&path) {
        Ok(file) => file,
        Err(error) => {
            // A host that sends its whole argument before it listens has to get through with it.
            let mut left = length - start.len() as u64;
            let mut buffer = vec![0; PIECE];
            while left > 0 {
                match channel.read(&mut buffer, &forever)? {
                    0 => break,
                    count => left = left.saturating_sub(count as u64),
                }
            }
            return Err(error.into());
        }
    };
    let mut left = size;
    let mut write = |bytes: &[u8]| -> Result<u64, Refusal> {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        file.write_all(bytes.get(..count).unwrap_or_default()).map_err(failed("write", &path))?;
        left -= count as u64;
        Ok(left)
    };
    let mut left = write(start.get(at..).unwrap_or_default())?;
    let mut buffer = vec![0; PIECE];
    while left > 0 {
        match channel.read(&mut buffer, &forever)? {
            0 => return Err(codec::CodecError::Truncated.into()),
            count => left = write(buffer.get(..count).unwrap_or_default())?,
        }
    }
    Ok(())
}

/// `vm.Put`
pub fn put(channel: &Channel, argument: &Value) -> Result<(), LinkError> {
    let Some(attributes) = Attributes::from_value(argument) else {
        return reply(channel, Err("these are no attributes".into()));
    };
    let path = clean(&attributes.path);
    let mut file = match create(&path) {
        Ok(file) => file,
        Err(error) => return reply(channel, Err(error)),
    };
    respond(channel, Ok(Value::Null), true)?;
    let mut result = Ok(());
    let mut buffer = vec![0; PIECE];
    loop {
        let count = channel.read(&mut buffer, &forever)?;
        if count == 0 {
            break;
        }
        if result.is_ok() {
            result = file.write_all(buffer.get(..count).unwrap_or_default()).map_err(failed("write", &path));
        }
        if result.is_err() {
            // The host need not send the rest.
            break;
        }
    }
    drop(file);
    let result = result.and_then(|()| apply(&path, &attributes));
    channel.write(&codec::encode(&result.map_or_else(Value::Text, |()| Value::Null)), &forever)?;
    channel.close();
    Ok(())
}

/// `vm.SetAttributes`
pub fn set_attributes(argument: &Value) -> Answer {
    let attributes = Attributes::from_value(argument).ok_or("these are no attributes")?;
    apply(&clean(&attributes.path), &attributes)?;
    Ok(Value::Null)
}

/// Sets owner, permissions and time, in this order: a change of the owner takes set-user-id bits away.
fn apply(path: &str, attributes: &Attributes) -> Result<(), String> {
    let link = fs::symlink_metadata(path).map_err(failed("lstat", path))?.is_symlink();
    if let Some((uid, gid)) = attributes.owner.filter(|&(uid, gid)| uid != u32::MAX && gid != u32::MAX) {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        chownat(CWD, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| failed("chown", path)(errno.into()))?;
    }
    if let Some(mode) = attributes.mode.filter(|_| !link) {
        fs::set_permissions(path, Permissions::from_mode(mode & 0o7777)).map_err(failed("chmod", path))?;
    }
    if let Some((seconds, nanos)) = attributes.mtime {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: seconds, tv_nsec: nanos as _ },
        };
        utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| failed("utimes", path)(errno.into()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn paths_are_absolute_and_lexical() {
        for (given, expected) in
            [("", "/"), ("tmp/x", "/tmp/x"), ("/a/../../b/./c/", "/b/c"), ("..", "/"), ("//x", "/x")]
        {
            assert_eq!(clean(given), expected, "{given}");
        }
    }
}
