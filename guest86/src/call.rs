//! Calls: one channel each.
//!
//! The caller sends a header and exactly one argument; the responder a header and at least one value. With
//! "continue" in the response header the channel stays open: towards the guest it then carries raw bytes,
//! towards the host raw bytes or, for `vm.Run`, [`Record`]s.

use crate::cbor::Value;

/// Version of what this service adds to the Go service's methods; [`Info::protocol`].
pub const PROTOCOL: i64 = 1;

/// Selectors of the methods, as they are sent.
pub mod method {
    /// `[]` → text.
    pub const VERSION: &str = "vm.Version";
    /// `[]` → null. Brings the network of a restored guest up again.
    pub const RESET_NETWORK: &str = "vm.ResetNetwork";
    /// [`RunRequest`](super::RunRequest) → process id, then raw input and [`Record`](super::Record)s.
    pub const RUN: &str = "vm.Run";
    /// anything → null, then raw bytes both ways: a shell on a terminal.
    pub const TERMINAL: &str = "vm.Terminal";
    /// text `host:port` → null, then raw bytes both ways: a TCP connection made in the guest.
    pub const DIAL: &str = "vm.Dial";
    /// text path → null, then 9P messages: requests of the guest's kernel, answers of the host.
    pub const MOUNT_9P: &str = "vm.Mount9P";
    /// `[path]` → [`Entry`](super::Entry), links followed.
    pub const STAT: &str = "vm.Stat";
    /// `[path]` → byte string.
    pub const READ_FILE: &str = "vm.ReadFile";
    /// `[path]` → array of [`Entry`](super::Entry), or null if there is none.
    pub const READ_DIR: &str = "vm.ReadDir";
    /// `[path, byte string]` → null.
    pub const WRITE_FILE: &str = "vm.WriteFile";
    /// `[path]` → null. With parents.
    pub const MAKE_DIR: &str = "vm.MakeDir";
    /// `[path]` → null. Recursive; a missing path is no error.
    pub const REMOVE_ALL: &str = "vm.RemoveAll";
    /// `[old, new]` → null.
    pub const RENAME: &str = "vm.Rename";
    /// `[process id, signal]` → null. To the process group of a command, else to one process.
    pub const SIGNAL: &str = "vm.Signal";
    /// `[process id]` → null. SIGTERM, and SIGKILL to what is left after a while.
    pub const TERMINATE: &str = "vm.Terminate";
    /// `[path, selector]` → null. The Go service does nothing here; neither does this one.
    pub const MOUNT_FUSE: &str = "vm.MountFuse";

    /// `[]` → [`Info`](super::Info). Addition.
    pub const INFO: &str = "vm.Info";
    /// `[]` → [`Info`](super::Info). Addition: ends everything that earlier sessions have left running.
    pub const ATTACH: &str = "vm.Attach";
    /// `[seconds, nanoseconds]` since 1970 → null. Addition.
    pub const SET_TIME: &str = "vm.SetTime";
    /// `[byte string]` → null. Addition: counts as entropy, and the kernel's generator is seeded again.
    pub const ADD_ENTROPY: &str = "vm.AddEntropy";
    /// `[process id, rows, columns]` → null. Addition.
    pub const RESIZE: &str = "vm.Resize";
    /// `[path]` → null, when a mount begun by [`MOUNT_9P`] can be used. Addition.
    pub const WAIT_MOUNT: &str = "vm.WaitMount";
    /// `[path]` → null. Addition.
    pub const UNMOUNT: &str = "vm.Unmount";
    /// `[path]` → [`Entry`](super::Entry) with details, links not followed. Addition.
    pub const LSTAT: &str = "vm.Lstat";
    /// `[path]` → array of [`Entry`](super::Entry) with details, links not followed. Addition.
    pub const LIST: &str = "vm.List";
    /// `[path]` → [`Entry`](super::Entry) with details, then the file's contents as raw bytes, EOF and CLOSE;
    /// CLOSE without EOF means that they are not complete. Addition.
    pub const GET: &str = "vm.Get";
    /// [`Attributes`](super::Attributes) → null, then the host sends contents and EOF, and the service one
    /// codec frame: null, or an error text. Addition.
    pub const PUT: &str = "vm.Put";
    /// [`Attributes`](super::Attributes) → null. Addition: mode, owner and time of what is there already.
    pub const SET_ATTRIBUTES: &str = "vm.SetAttributes";
    /// `[target, path]` → null. Addition: a symbolic link.
    pub const SYMLINK: &str = "vm.Symlink";
}

/// The form in which selectors are compared and named in errors: `/` in front and instead of dots.
pub fn normalize(selector: &str) -> String {
    let path = selector.replace('.', "/");
    if path.starts_with('/') { path } else { format!("/{path}") }
}

/// The call header for a method.
pub fn header(selector: &str) -> Value {
    Value::map([("S", Value::text(selector))])
}

/// The selector in a call header, normalized; `None` if it is none. One without a selector asks for "/".
pub fn selector(header: &Value) -> Option<String> {
    match (header, header.get("S")) {
        (Value::Map(_), None | Some(Value::Null)) => Some(normalize("")),
        (Value::Map(_), Some(Value::Text(text))) => Some(normalize(text)),
        _ => None,
    }
}

/// Start of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// What went wrong, for people.
    pub error: Option<String>,
    /// Whether the channel stays open.
    pub goes_on: bool,
}

impl Response {
    /// As it is sent.
    pub fn to_value(&self) -> Value {
        let error = self.error.clone().map_or(Value::Null, Value::Text);
        Value::map([("E", error), ("C", Value::Bool(self.goes_on))])
    }

    /// From the wire; `None` if it is no response header.
    pub fn from_value(value: &Value) -> Option<Self> {
        let Value::Map(_) = value else { return None };
        let error = match value.get("E") {
            None | Some(Value::Null) => None,
            Some(Value::Text(text)) => Some(text.clone()),
            Some(_) => return None,
        };
        let goes_on = match value.get("C") {
            None | Some(Value::Null) => false,
            Some(flag) => flag.as_bool()?,
        };
        Some(Self { error, goes_on })
    }
}

/// A command to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunRequest {
    /// Program; searched for if there is no slash in it.
    pub name: String,
    /// Arguments without the program's name.
    pub args: Vec<String>,
    /// Working directory; empty for the service's own.
    pub dir: String,
    /// `KEY=value`, instead of the service's environment; `None` keeps that.
    pub env: Option<Vec<String>>,
    /// Whether the command gets a terminal.
    pub pty: bool,
    /// What the Go service does not know. It is sent only to services that name [`RUN_OPTIONS`].
    pub options: Option<RunOptions>,
}

/// Additions to a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// `KEY=value` on top of the environment.
    pub extra_env: Vec<String>,
    /// `USER`, `UID`, `USER:GROUP` or `UID:GID`; empty for the service's own.
    pub user: String,
    /// Height of the terminal in lines.
    pub rows: u16,
    /// Width of the terminal in columns.
    pub columns: u16,
    /// Kind of the terminal, for `TERM`.
    pub term: String,
    /// Standard input is `/dev/null`, not a pipe.
    pub no_input: bool,
}

/// Feature: [`RunOptions`] are understood, records may carry a signal, errors a number.
pub const RUN_OPTIONS: &str = "run-options";
/// Feature: [`method::ATTACH`].
pub const ATTACH: &str = "attach";
/// Feature: all output comes before the status.
pub const OUTPUT_FIRST: &str = "output-first";
/// Feature: [`method::SET_TIME`] and [`method::ADD_ENTROPY`].
pub const FRESHEN: &str = "freshen";
/// Feature: [`method::SIGNAL`], [`method::TERMINATE`], [`method::RESIZE`] do something.
pub const PROCESSES: &str = "processes";
/// Feature: [`method::GET`], [`method::PUT`], [`method::LIST`], [`method::LSTAT`],
/// [`method::SET_ATTRIBUTES`], [`method::SYMLINK`].
pub const FILES: &str = "files";
/// Feature: [`method::WAIT_MOUNT`], [`method::UNMOUNT`].
pub const MOUNTS: &str = "mounts";

/// All features of this service.
pub const FEATURES: &[&str] = &[RUN_OPTIONS, ATTACH, OUTPUT_FIRST, FRESHEN, PROCESSES, FILES, MOUNTS];

fn texts(items: &[String]) -> Value {
    Value::Array(items.iter().map(Value::text).collect())
}

/// A text, empty if it is missing or null.
fn text(map: &Value, key: &str) -> Option<String> {
    match map.get(key) {
        None | Some(Value::Null) => Some(String::new()),
        Some(value) => value.as_text().map(str::to_owned),
    }
}

/// An array of texts, `None` if it is missing or null.
fn text_array(map: &Value, key: &str) -> Option<Option<Vec<String>>> {
    match map.get(key) {
        None | Some(Value::Null) => Some(None),
        Some(value) => {
            let items = value.as_array()?.iter();
            items.map(|item| item.as_text().map(str::to_owned)).collect::<Option<Vec<_>>>().map(Some)
        }
    }
}

fn flag(map: &Value, key: &str) -> Option<bool> {
    match map.get(key) {
        None | Some(Value::Null) => Some(false),
        Some(value) => value.as_bool(),
    }
}

fn integer(map: &Value, key: &str) -> Option<i64> {
    match map.get(key) {
        None | Some(Value::Null) => Some(0),
        Some(value) => value.as_int(),
    }
}

impl RunRequest {
    /// As it is sent. Without options it is what the Go host sends.
    pub fn to_value(&self) -> Value {
        let args = if self.args.is_empty() { Value::Null } else { texts(&self.args) };
        let mut value = Value::map([
            ("Name", Value::text(&self.name)),
            ("Args", args),
            ("Dir", Value::text(&self.dir)),
            ("Env", self.env.as_deref().map_or(Value::Null, texts)),
            ("PTY", Value::Bool(self.pty)),
        ]);
        if let (Value::Map(pairs), Some(options)) = (&mut value, &self.options) {
            let additions = [
                ("Options", Value::Int(PROTOCOL.into())),
                ("ExtraEnv", texts(&options.extra_env)),
                ("User", Value::text(&options.user)),
                ("Rows", Value::Int(options.rows.into())),
                ("Cols", Value::Int(options.columns.into())),
                ("Term", Value::text(&options.term)),
                ("NoInput", Value::Bool(options.no_input)),
            ];
            pairs.extend(additions.map(|(key, value)| (Value::text(key), value)));
        }
        value
    }

    /// From the wire; `Err` names the key that has a wrong type.
    pub fn from_value(value: &Value) -> Result<Self, &'static str> {
        let mut options = None;
        if integer(value, "Options").ok_or("Options")? > 0 {
            let size = |key| {
                let size = integer(value, key)?;
                Some(u16::try_from(size).unwrap_or(u16::MAX))
            };
            options = Some(RunOptions {
                extra_env: text_array(value, "ExtraEnv").ok_or("ExtraEnv")?.unwrap_or_default(),
                user: text(value, "User").ok_or("User")?,
                rows: size("Rows").ok_or("Rows")?,
                columns: size("Cols").ok_or("Cols")?,
                term: text(value, "Term").ok_or("Term")?,
                no_input: flag(value, "NoInput").ok_or("NoInput")?,
            });
        }
        Ok(Self {
            name: text(value, "Name").ok_or("Name")?,
            args: text_array(value, "Args").ok_or("Args")?.unwrap_or_default(),
            dir: text(value, "Dir").ok_or("Dir")?,
            env: text_array(value, "Env").ok_or("Env")?,
            pty: flag(value, "PTY").ok_or("PTY")?,
            options,
        })
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Exit status, or -1 after death by a signal.
    pub code: i64,
    /// The signal, if it is known: the Go service does not tell.
    pub signal: Option<i32>,
}

/// What comes from a running command: one thing at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Standard output, or terminal output.
    Stdout(Vec<u8>),
    /// Standard error.
    Stderr(Vec<u8>),
    /// The end.
    Status(Status),
}

impl Record {
    /// As it is sent.
    pub fn to_value(&self) -> Value {
        let record =
            |stdout, stderr, status| Value::map([("Stdout", stdout), ("Stderr", stderr), ("Status", status)]);
        match self {
            Self::Stdout(bytes) => record(Value::Bytes(bytes.clone()), Value::Null, Value::Null),
            Self::Stderr(bytes) => record(Value::Null, Value::Bytes(bytes.clone()), Value::Null),
            Self::Status(status) => {
                let mut value = record(Value::Null, Value::Null, Value::Int(status.code.into()));
                if let (Value::Map(pairs), Some(signal)) = (&mut value, status.signal) {
                    pairs.push((Value::text("Signal"), Value::Int(signal.into())));
                }
                value
            }
        }
    }

    /// From the wire; `None` if it is no record. Output goes before a status, should both be there.
    pub fn from_value(value: Value) -> Option<Self> {
        let Value::Map(_) = value else { return None };
        let output = |key| match value.get(key) {
            None | Some(Value::Null) => Some(Vec::new()),
            Some(Value::Bytes(bytes)) => Some(bytes.clone()),
            Some(_) => None,
        };
        let (stdout, stderr) = (output("Stdout")?, output("Stderr")?);
        if !stdout.is_empty() {
            return Some(Self::Stdout(stdout));
        }
        if !stderr.is_empty() {
            return Some(Self::Stderr(stderr));
        }
        match value.get("Status") {
            Some(Value::Int(code)) => Some(Self::Status(Status {
                code: i64::try_from(*code).ok()?,
                signal: value
                    .get("Signal")
                    .and_then(Value::as_int)
                    .and_then(|signal| i32::try_from(signal).ok()),
            })),
            None | Some(Value::Null) => Some(Self::Stdout(stdout)),
            Some(_) => None,
        }
    }
}

/// A file or directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Last part of the path.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Bytes.
    pub size: i64,
    /// What the Go service does not tell.
    pub details: Option<Details>,
}

/// More about a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Nanoseconds of the modification time.
    pub mtime_nanos: u32,
    /// Where a symbolic link points; empty for others.
    pub target: String,
}

impl Entry {
    /// As it is sent.
    pub fn to_value(&self) -> Value {
        let mut value = Value::map([
            ("IsDir", Value::Bool(self.is_dir)),
            ("Ctime", Value::Int(0)),
            ("Mtime", Value::Int(self.mtime.into())),
            ("Size", Value::Int(self.size.into())),
            ("Name", Value::text(&self.name)),
        ]);
        if let (Value::Map(pairs), Some(details)) = (&mut value, &self.details) {
            let additions = [
                ("Mode", Value::Int(details.mode.into())),
                ("Uid", Value::Int(details.uid.into())),
                ("Gid", Value::Int(details.gid.into())),
                ("MtimeNsec", Value::Int(details.mtime_nanos.into())),
                ("Target", Value::text(&details.target)),
            ];
            pairs.extend(additions.map(|(key, value)| (Value::text(key), value)));
        }
        value
    }

    /// From the wire; `None` if it is no entry.
    pub fn from_value(value: &Value) -> Option<Self> {
        let Value::Map(_) = value else { return None };
        let number = |key| u32::try_from(integer(value, key)?).ok();
        let mut details = None;
        if value.get("Mode").is_some() {
            details = Some(Details {
                mode: number("Mode")?,
                uid: number("Uid")?,
                gid: number("Gid")?,
                mtime_nanos: number("MtimeNsec")?,
                target: text(value, "Target")?,
            });
        }
        Some(Self {
            name: text(value, "Name")?,
            is_dir: flag(value, "IsDir")?,
            mtime: integer(value, "Mtime")?,
            size: integer(value, "Size")?,
            details,
        })
    }
}

/// What a file is to become. What is `None` stays, or is as for any new file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Which file.
    pub path: String,
    /// Permissions.
    pub mode: Option<u32>,
    /// Owner and group.
    pub owner: Option<(u32, u32)>,
    /// Modification time: seconds since 1970 and nanoseconds.
    pub mtime: Option<(i64, u32)>,
}

impl Attributes {
    /// As it is sent.
    pub fn to_value(&self) -> Value {
        let number = |value: Option<u32>| value.map_or(Value::Null, |value| Value::Int(value.into()));
        Value::map([
            ("Path", Value::text(&self.path)),
            ("Mode", number(self.mode)),
            ("Uid", number(self.owner.map(|owner| owner.0))),
            ("Gid", number(self.owner.map(|owner| owner.1))),
            ("Mtime", self.mtime.map_or(Value::Null, |time| Value::Int(time.0.into()))),
            ("MtimeNsec", number(self.mtime.map(|time| time.1))),
        ])
    }

    /// From the wire; `None` if it is not that.
    pub fn from_value(value: &Value) -> Option<Self> {
        let Value::Map(_) = value else { return None };
        let optional = |key| match value.get(key) {
            None | Some(Value::Null) => Some(None),
            Some(number) => Some(Some(u32::try_from(number.as_int()?).ok()?)),
        };
        let nanos = optional("MtimeNsec")?.unwrap_or(0);
        Some(Self {
            path: text(value, "Path")?,
            mode: optional("Mode")?,
            owner: optional("Uid")?.zip(optional("Gid")?),
            mtime: match value.get("Mtime") {
                None | Some(Value::Null) => None,
                Some(seconds) => Some((seconds.as_int()?, nanos.min(999_999_999))),
            },
        })
    }
}

/// What a service says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Its version, as `vm.Version` gives it.
    pub version: String,
    /// [`PROTOCOL`]; zero for the Go service.
    pub protocol: i64,
    /// Release of the guest's kernel.
    pub kernel: String,
    /// What it can do beyond the Go service.
    pub features: Vec<String>,
}

impl Info {
    /// As it is sent.
    pub fn to_value(&self) -> Value {
        Value::map([
            ("Version", Value::text(&self.version)),
            ("Protocol", Value::Int(self.protocol.into())),
            ("Kernel", Value::text(&self.kernel)),
            ("Features", texts(&self.features)),
        ])
    }

    /// From the wire; `None` if it is not that.
    pub fn from_value(value: &Value) -> Option<Self> {
        let Value::Map(_) = value else { return None };
        Some(Self {
            version: text(value, "Version")?,
            protocol: integer(value, "Protocol")?,
            kernel: text(value, "Kernel")?,
            features: text_array(value, "Features")?.unwrap_or_default(),
        })
    }

    /// Whether the service can do something; [`FEATURES`].
    pub fn can(&self, feature: &str) -> bool {
        self.features.iter().any(|name| name == feature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_of_all_spellings_are_the_same() {
        for spelling in ["vm.Version", "vm/Version", "/vm/Version"] {
            assert_eq!(normalize(spelling), "/vm/Version");
        }
        assert_ne!(normalize("vm.version"), "/vm/Version");
        assert_eq!(selector(&Value::map([])), Some("/".into()));
        assert_eq!(selector(&Value::map([("S", Value::Int(1))])), None);
        assert_eq!(selector(&Value::Array(vec![])), None);
    }

    #[test]
    fn run_request_goes_both_ways() {
        let mut request = RunRequest { name: "sh".into(), args: vec!["-c".into()], ..Default::default() };
        assert_eq!(RunRequest::from_value(&request.to_value()), Ok(request.clone()));
        request.env = Some(vec![]);
        request.options = Some(RunOptions { rows: 24, user: "1:2".into(), ..Default::default() });
        assert_eq!(RunRequest::from_value(&request.to_value()), Ok(request));
        assert_eq!(RunRequest::from_value(&Value::map([("Args", Value::Int(1))])), Err("Args"));
        assert_eq!(RunRequest::from_value(&Value::Null), Ok(RunRequest::default()));
    }

    #[test]
    fn records_go_both_ways() {
        let killed = Record::Status(Status { code: -1, signal: Some(9) });
        for record in [Record::Stdout(vec![1]), Record::Stderr(vec![2]), killed] {
            assert_eq!(Record::from_value(record.to_value()), Some(record));
        }
        assert_eq!(Record::from_value(Value::Null), None);
        assert_eq!(Record::from_value(Value::map([("Status", Value::text("0"))])), None);
    }

    #[test]
    fn entries_attributes_and_info_go_both_ways() {
        let mut entry = Entry { name: "a".into(), size: 3 << 30, mtime: -1, ..Default::default() };
        assert_eq!(Entry::from_value(&entry.to_value()), Some(entry.clone()));
        entry.details = Some(Details { mode: 0o100644, target: "b".into(), ..Default::default() });
        assert_eq!(Entry::from_value(&entry.to_value()), Some(entry));
        let attributes = Attributes { path: "/a".into(), mtime: Some((5, 6)), ..Default::default() };
        assert_eq!(Attributes::from_value(&attributes.to_value()), Some(attributes));
        let info = Info { features: vec!["x".into()], ..Default::default() };
        assert_eq!(Info::from_value(&info.to_value()), Some(info.clone()));
        assert!(info.can("x") && !info.can("y"));
    }
}
