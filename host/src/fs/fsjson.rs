//! `fs.json`: the index of an image's tree, version 3.
//!
//! ```text
//! {"fsroot": [row, ...], "version": 3, "size": total}
//! row = [name, size, mtime, mode, uid, gid, rows | target | content file]
//! ```
//!
//! Written by env86's `create` and by v86's `fs2json.py`. The old `create` stored Go's file mode,
//! whose type and set-uid bits are above bit 15; see [`unix_mode`]. Sockets, FIFOs and devices have
//! no seventh element and are left out of the tree, as v86 does: their numbers are not recorded.
//!
//! The parser is strict about everything that would otherwise show as an odd file later, and says
//! which row and field is wrong. It does not recurse.

use std::fmt;

use emu_devices::p9::fs::mode;

use super::blobs;
use super::json::{JsonError, Lexer, Number};
use crate::limits;

/// Number of an object: 0 is the root, *n* is `rows[n - 1]`.
pub type Index = u32;

/// A parsed `fs.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsJson {
    /// Every object in file order, directories before what they contain.
    pub rows: Vec<Row>,
    /// Size of everything in bytes, for statfs.
    pub size: u64,
    /// Number of rows, including those left out.
    pub row_count: u64,
    /// Number of sockets, FIFOs and devices left out.
    pub left_out: u64,
}

/// A file, directory or symbolic link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The directory it is in. A later row may have the same parent and name; it counts then.
    pub parent: Index,
    /// One path component; bytes, not necessarily UTF-8.
    pub name: Box<[u8]>,
    /// Size in bytes.
    pub size: u64,
    /// Time of last change, seconds since 1970.
    pub mtime: i64,
    /// Type and permissions as Unix has them.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// `qid.path`: 2 for the first row, counting rows left out too.
    pub qid_path: u64,
    /// Seventh element.
    pub body: RowBody,
}

/// What a row stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowBody {
    /// A directory; its rows follow.
    Directory,
    /// A regular file and the name of its content file. `None` only if the file is empty.
    File(Option<Box<str>>),
    /// A symbolic link and its target.
    Symlink(Box<[u8]>),
}

/// Why an `fs.json` cannot be used. Displays as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsJsonError {
    /// The file, as the caller named it.
    pub file: String,
    /// Path of the row, made printable; empty if it is not about a row.
    pub path: String,
    /// The field; empty if it is not about one.
    pub field: &'static str,
    /// What is wrong.
    pub reason: String,
    /// Where, as a byte position.
    pub at: usize,
}

impl fmt::Display for FsJsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file)?;
        for part in [&self.path[..], self.field] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        write!(f, "{} (at byte {})", self.reason, self.at)
    }
}

impl std::error::Error for FsJsonError {}

/// Mode bits as Unix has them, from a mode that may be Go's: there, set-uid is bit 23, set-gid bit 22
/// and sticky bit 20, while bits 8:0 and - in images - 15:12 are where they belong.
pub fn unix_mode(stored: u32) -> u32 {
    let go = |bit: u32, unix: u32| if stored & 1 << bit != 0 { unix } else { 0 };
    stored & 0xffff | go(23, 0o4000) | go(22, 0o2000) | go(20, 0o1000)
}

/// Parses an `fs.json`. `file` names it in errors.
pub fn parse(text: &[u8], file: &str) -> Result<FsJson, FsJsonError> {
    let mut parser = Parser {
        lexer: Lexer::new(text),
        rows: Vec::new(),
        row_count: 0,
        left_out: 0,
        context: Context::default(),
    };
    let outcome = match std::str::from_utf8(text) {
        Err(error) => Err(JsonError { at: error.valid_up_to(), reason: "not UTF-8".into() }),
        Ok(_) => parser.file(),
    };
    match outcome {
        Ok(size) => Ok(FsJson {
            size: size.unwrap_or_else(|| parser.rows.iter().fold(0, |sum, row| sum.saturating_add(row.size))),
            rows: parser.rows,
            row_count: parser.row_count,
            left_out: parser.left_out,
        }),
        Err(JsonError { at, reason }) => Err(FsJsonError {
            file: file.into(),
            path: parser.path(),
            field: parser.context.field,
            reason: reason.into_owned(),
            at,
        }),
    }
}

/// Where the parser is, for errors.
#[derive(Default)]
struct Context {
    /// The directory whose rows are read, if any.
    parent: Option<Index>,
    /// Name of the row being read, as soon as it is known.
    name: Option<Box<[u8]>>,
    field: &'static str,
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    rows: Vec<Row>,
    row_count: u64,
    left_out: u64,
    context: Context,
}

type Parsed<T> = std::result::Result<T, JsonError>;

impl Parser<'_> {
    /// The whole file. Returns its `size`.
    fn file(&mut self) -> Parsed<Option<u64>> {
        // The version says how to read the rows, but may come behind them.
        let start = self.lexer.clone();
        let mut version = false;
        let mut fsroot = false;
        let mut size = None;
        self.members(|parser, key| {
            match key {
                b"version" => {
                    parser.context.field = "version";
                    if std::mem::replace(&mut version, true) {
                        return parser.lexer.error("given twice");
                    }
                    let at = parser.lexer.clone();
                    if parser.lexer.number()? != Number::Integer(3) {
                        parser.lexer = at;
                        return parser.lexer.error("expected 3, other versions cannot be read");
                    }
                }
                b"fsroot" => {
                    parser.context.field = "fsroot";
                    if std::mem::replace(&mut fsroot, true) {
                        return parser.lexer.error("given twice");
                    }
                    let start = parser.lexer.clone();
                    if let Err(error) = parser.lexer.skip_value() {
                        // Not even JSON: taking it as rows tells in which one.
                        parser.lexer = start;
                        return parser.rows().and(Err(error));
                    }
                }
                b"size" => {
                    parser.context.field = "size";
                    if size.is_some() {
                        return parser.lexer.error("given twice");
                    }
                    size = Some(parser.integer(0, i64::MAX.into())?);
                }
                _ => parser.lexer.skip_value()?,
            }
            Ok(())
        })?;
        for (present, field) in [(version, "version"), (fsroot, "fsroot")] {
            if !present {
                self.context.field = field;
                return self.lexer.error("missing");
            }
        }
        self.lexer = start;
        self.members(|parser, key| match key {
            b"fsroot" => parser.rows(),
            _ => parser.lexer.skip_value(),
        })?;
        Ok(size.and_then(|size| u64::try_from(size).ok()))
    }

    /// An object and nothing behind it.
    fn members(&mut self, mut member: impl FnMut(&mut Self, &[u8]) -> Parsed<()>) -> Parsed<()> {
        if !self.lexer.take(b'{') {
            return self.lexer.unexpected("an object");
        }
        if !self.lexer.take(b'}') {
            loop {
                let key = self.lexer.key()?;
                member(self, &key)?;
                self.context = Context::default();
                if self.lexer.take(b'}') {
                    break;
                }
                self.lexer.expect(b',')?;
            }
        }
        self.lexer.end()
    }

    /// The array of the root's rows and everything in it.
    fn rows(&mut self) -> Parsed<()> {
        // The directories that are open; their arrays have been entered.
        let mut open: Vec<Index> = vec![0];
        self.context = Context { parent: Some(0), name: None, field: "" };
        if !self.lexer.take(b'[') {
            return self.lexer.unexpected("an array of rows");
        }
        let mut first = true;
        while let Some(parent) = open.last().copied() {
            self.context = Context { parent: Some(parent), name: None, field: "" };
            if self.lexer.take(b']') {
                open.pop();
                if let Some(row) = (parent as usize).checked_sub(1).and_then(|at| self.rows.get(at)) {
                    self.context =
                        Context { parent: Some(row.parent), name: Some(row.name.clone()), field: "" };
                    self.end_of_row()?;
                }
                first = false;
                continue;
            }
            if !first {
                self.lexer.expect(b',')?;
            }
            first = self.row(parent)?;
            if first {
                open.push(self.rows.len() as Index);
                if open.len() > limits::MAX_TREE_DEPTH {
                    return self
                        .lexer
                        .error(format!("more than {} directories deep", limits::MAX_TREE_DEPTH));
                }
            }
        }
        Ok(())
    }

    /// A row. True if it is a directory, whose array of rows has been entered then.
    fn row(&mut self, parent: Index) -> Parsed<bool> {
        if !self.lexer.take(b'[') {
            return self.lexer.unexpected("a row, which is an array");
        }
        self.row_count += 1;
        if self.row_count > limits::MAX_INODES as u64 {
            return self.lexer.error(format!("more than {} files", limits::MAX_INODES));
        }
        self.context.field = "name";
        let name: Box<[u8]> = self.lexer.string()?.into();
        self.context.name = Some(name.clone());
        if let Some(reason) = bad_name(&name) {
            return self.lexer.error(reason);
        }
        let size = self.field("size", 0, i64::MAX.into())? as u64;
        let mtime = self.field("mtime", i64::MIN.into(), i64::MAX.into())? as i64;
        let stored = self.field("mode", 0, u32::MAX.into())? as u32;
        let uid = self.field("uid", 0, u32::MAX.into())? as u32;
        let gid = self.field("gid", 0, u32::MAX.into())? as u32;
        let mode = unix_mode(stored);
        let qid_path = self.row_count + 1;
        let mut row = Row { parent, name, size, mtime, mode, uid, gid, qid_path, body: RowBody::Directory };
        match mode & mode::TYPE {
            mode::DIRECTORY => {
                self.context.field = "contents of the directory";
                self.next_element("an array of rows")?;
                if !self.lexer.take(b'[') {
                    return self.lexer.unexpected("an array of rows");
                }
                self.rows.push(row);
                return Ok(true);
            }
            mode::REGULAR => {
                self.context.field = "size";
                if size > limits::MAX_FILE_SIZE {
                    return self.lexer.error(format!("larger than {} bytes", limits::MAX_FILE_SIZE));
                }
                self.context.field = "content file";
                row.body = RowBody::File(self.content_file(size)?);
                self.rows.push(row);
            }
            mode::SYMLINK => {
                self.context.field = "link target";
                self.next_element("a string")?;
                let target = self.lexer.string()?;
                if target.is_empty() || target.contains(&0) || target.len() > limits::MAX_LINK_TARGET {
                    return self.lexer.error("no possible target of a link");
                }
                row.body = RowBody::Symlink(target.into());
                self.rows.push(row);
            }
            _ => {
                self.left_out += 1;
                if self.lexer.take(b',') {
                    self.lexer.skip_value()?;
                }
            }
        }
        self.end_of_row()?;
        Ok(false)
    }

    /// The comma before an element that has to be there.
    fn next_element(&mut self, expected: &str) -> Parsed<()> {
        if self.lexer.take(b',') { Ok(()) } else { self.lexer.unexpected(expected) }
    }

    fn end_of_row(&mut self) -> Parsed<()> {
        if self.lexer.take(b']') {
            return Ok(());
        }
        self.context.field = "";
        match self.lexer.peek() {
            Some(b',') => self.lexer.error("a row with more than seven elements"),
            _ => self.lexer.unexpected("']'"),
        }
    }

    /// The name of a content file. It may be missing if the file is empty.
    fn content_file(&mut self, size: u64) -> Parsed<Option<Box<str>>> {
        if size == 0 && self.lexer.peek() == Some(b']') {
            return Ok(None);
        }
        self.next_element("a string")?;
        let name = self.lexer.string()?;
        match std::str::from_utf8(&name) {
            Ok(name) if blobs::is_valid_name(name) => Ok(Some(name.into())),
            _ => self.lexer.error("not a plain file name"),
        }
    }

    /// A comma and an integer.
    fn field(&mut self, field: &'static str, min: i128, max: i128) -> Parsed<i128> {
        self.context.field = field;
        self.next_element("a number")?;
        self.integer(min, max)
    }

    fn integer(&mut self, min: i128, max: i128) -> Parsed<i128> {
        let before = self.lexer.clone();
        match self.lexer.number()? {
            Number::Integer(value) if (min..=max).contains(&value) => Ok(value),
            _ => {
                self.lexer = before;
                self.lexer.error(format!("expected an integer from {min} to {max}"))
            }
        }
    }

    /// Path of the row being read, printable.
    fn path(&self) -> String {
        let Some(mut index) = self.context.parent else { return String::new() };
        let mut names: Vec<&[u8]> = self.context.name.iter().map(|name| &name[..]).collect();
        while let Some(row) = (index as usize).checked_sub(1).and_then(|at| self.rows.get(at)) {
            names.push(&row.name);
            index = row.parent;
        }
        let mut path = String::new();
        for name in names.iter().rev() {
            path.push('/');
            path.push_str(&printable(name));
        }
        // The row itself has no name yet.
        if self.context.name.is_none() {
            path.push('/');
        }
        path
    }
}

/// Why this cannot be the name of a file.
pub(super) fn bad_name(name: &[u8]) -> Option<String> {
    match name {
        b"" => Some("empty".into()),
        b"." | b".." => Some("'.' and '..' are not allowed".into()),
        _ if name.contains(&b'/') => Some("contains '/'".into()),
        _ if name.contains(&0) => Some("contains a NUL character".into()),
        _ if name.len() > limits::MAX_FILE_NAME => {
            Some(format!("longer than {} bytes", limits::MAX_FILE_NAME))
        }
        _ => None,
    }
}

/// A name for messages: without control characters, and not longer than a name may be.
pub(super) fn printable(name: &[u8]) -> String {
    let shown = name.get(..limits::MAX_FILE_NAME).unwrap_or(name);
    let mut text = String::new();
    for character in String::from_utf8_lossy(shown).chars() {
        if character.is_control() {
            text.extend(character.escape_unicode());
        } else {
            text.push(character);
        }
    }
    if shown.len() < name.len() {
        text.push('…');
    }
    text
}
