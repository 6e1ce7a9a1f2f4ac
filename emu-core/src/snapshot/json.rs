//! The info block: JSON text to [`Value`]s and back.
//!
//! Strings are bytes here. JSON has only Unicode; a byte *b* that is not part of UTF-8 is written as the
//! lone surrogate U+DC00+*b*, as Python does, and read back. File names of a Linux guest need this.

use super::error::SnapshotError;
use super::value::{Kind, Typed, Value};

/// Arrays and objects inside each other; v86 writes at most 8.
const MAX_DEPTH: u32 = 32;
/// Longest string in bytes: link targets are the longest there are.
const MAX_STRING: usize = 64 << 10;
/// Longest number in characters.
const MAX_NUMBER: usize = 64;

type Result<T> = std::result::Result<T, SnapshotError>;

/// A parser over a text that is completely in memory.
pub(super) struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    /// Offset of the text in the file.
    base: u64,
    /// Values that may still be made.
    values_left: u64,
    limit: u64,
}

/// What the info block says of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BufferInfo {
    /// Offset from the beginning of the buffers.
    pub(super) offset: u64,
    /// Length in bytes.
    pub(super) length: u64,
}

/// A parsed info block.
pub(super) struct Info {
    pub(super) buffers: Vec<BufferInfo>,
    pub(super) slots: Vec<Value>,
    /// Offsets of the slots in the file.
    pub(super) offsets: Vec<u64>,
}

impl<'a> Parser<'a> {
    /// A parser for `text`, which begins at offset `base` of the file, and may make up to `limit` values.
    pub(super) fn new(text: &'a [u8], base: u64, limit: u64) -> Self {
        Self { text, at: 0, base, values_left: limit, limit }
    }

    fn fail<T>(&self, reason: &'static str) -> Result<T> {
        Err(SnapshotError::Json { offset: self.base + self.at as u64, reason })
    }

    fn count(&mut self) -> Result<()> {
        match self.values_left.checked_sub(1) {
            Some(left) => {
                self.values_left = left;
                Ok(())
            }
            None => Err(SnapshotError::Limit {
                what: "values",
                found: self.limit.saturating_add(1),
                limit: self.limit,
            }),
        }
    }

    #[inline]
    fn peek(&mut self) -> Option<u8> {
        while let Some(&b) = self.text.get(self.at) {
            if !matches!(b, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(b);
            }
            self.at += 1;
        }
        None
    }

    fn expect(&mut self, byte: u8, reason: &'static str) -> Result<()> {
        if self.peek() != Some(byte) {
            return self.fail(reason);
        }
        self.at += 1;
        Ok(())
    }

    /// After an element: true if another one follows, false if `close` does.
    fn more(&mut self, close: u8) -> Result<bool> {
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            Some(b) if b == close => {
                self.at += 1;
                Ok(false)
            }
            _ => self.fail("expected a comma or the end of an array or object"),
        }
    }

    /// Elements of an array, each read by `f`.
    fn array(&mut self, mut f: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        self.expect(b'[', "expected an array")?;
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            f(self)?;
            if !self.more(b']')? {
                return Ok(());
            }
        }
    }

    /// Members of an object: `f` reads each value.
    fn object(&mut self, mut f: impl FnMut(&mut Self, &[u8]) -> Result<()>) -> Result<()> {
        self.expect(b'{', "expected an object")?;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            let key = self.string()?;
            self.expect(b':', "expected a colon")?;
            f(self, &key)?;
            if !self.more(b'}')? {
                return Ok(());
            }
        }
    }

    /// The whole info block.
    pub(super) fn info(mut self) -> Result<Info> {
        let (mut buffers, mut state) = (None, None);
        self.object(|p, key| match key {
            b"buffer_infos" => {
                buffers = Some(p.buffer_infos()?);
                Ok(())
            }
            b"state" => {
                let (mut slots, mut offsets) = (Vec::new(), Vec::new());
                p.array(|p| {
                    p.peek();
                    offsets.push(p.base + p.at as u64);
                    slots.push(p.value(1)?);
                    Ok(())
                })?;
                state = Some((slots, offsets));
                Ok(())
            }
            _ => p.value(1).map(drop),
        })?;
        if self.peek().is_some() {
            return self.fail("something follows the object");
        }
        let Some(buffers) = buffers else { return self.fail("buffer_infos is missing") };
        let Some((slots, offsets)) = state else { return self.fail("state is missing") };
        Ok(Info { buffers, slots, offsets })
    }

    fn buffer_infos(&mut self) -> Result<Vec<BufferInfo>> {
        let mut infos = Vec::new();
        self.array(|p| {
            p.count()?;
            let mut info = BufferInfo { offset: 0, length: 0 };
            p.object(|p, key| {
                let into = match key {
                    b"offset" => &mut info.offset,
                    b"length" => &mut info.length,
                    _ => return p.value(2).map(drop),
                };
                *into = match p.value(2)? {
                    Value::Int(n) if n >= 0 => n as u64,
                    _ => return p.fail("offset and length of a buffer are whole numbers"),
                };
                Ok(())
            })?;
            infos.push(info);
            Ok(())
        })?;
        Ok(infos)
    }

    fn value(&mut self, depth: u32) -> Result<Value> {
        self.count()?;
        if depth > MAX_DEPTH {
            return self.fail("nested too deeply");
        }
        match self.peek() {
            Some(b'[') => {
                let mut items = Vec::new();
                self.array(|p| {
                    items.push(p.value(depth + 1)?);
                    Ok(())
                })?;
                items.shrink_to_fit();
                Ok(Value::Array(items))
            }
            Some(b'{') => self.typed(depth),
            Some(b'"') => Ok(Value::Text(self.string()?.into())),
            Some(b't') => self.word(b"true", Value::Bool(true)),
            Some(b'f') => self.word(b"false", Value::Bool(false)),
            Some(b'n') => self.word(b"null", Value::Null),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.fail("expected a value"),
        }
    }

    fn word(&mut self, word: &[u8], value: Value) -> Result<Value> {
        if !self.text.get(self.at..).is_some_and(|rest| rest.starts_with(word)) {
            return self.fail("expected a value");
        }
        self.at += word.len();
        Ok(value)
    }

    fn number(&mut self) -> Result<Value> {
        let start = self.at;
        let mut integer = true;
        while let Some(b) = self.text.get(self.at) {
            match b {
                b'0'..=b'9' | b'-' => {}
                b'.' | b'e' | b'E' | b'+' => integer = false,
                _ => break,
            }
            self.at += 1;
        }
        let digits = self.text.get(start..self.at).unwrap_or_default();
        if digits.len() > MAX_NUMBER {
            return self.fail("a number is too long");
        }
        if integer && let Some(n) = parse_integer(digits) {
            return Ok(Value::Int(n));
        }
        match std::str::from_utf8(digits).ok().and_then(|text| text.parse::<f64>().ok()) {
            Some(f) if f.is_finite() => Ok(Value::from(f)),
            _ => self.fail("not a number"),
        }
    }

    fn string(&mut self) -> Result<Vec<u8>> {
        self.expect(b'"', "expected a string")?;
        let mut out = Vec::new();
        // First half of a surrogate pair.
        let mut high = None;
        loop {
            let start = self.at;
            while self.text.get(self.at).is_some_and(|b| !matches!(b, b'"' | b'\\' | 0..0x20)) {
                self.at += 1;
            }
            let plain = self.text.get(start..self.at).unwrap_or_default();
            if std::str::from_utf8(plain).is_err() {
                return self.fail("a string is not UTF-8");
            }
            if !plain.is_empty()
                && let Some(high) = high.take()
            {
                push_lone(&mut out, high);
            }
            out.extend_from_slice(plain);
            if out.len() > MAX_STRING {
                return self.fail("a string is too long");
            }
            let b = self.text.get(self.at).copied();
            self.at += 1;
            match b {
                Some(b'"') => {
                    if let Some(high) = high {
                        push_lone(&mut out, high);
                    }
                    return Ok(out);
                }
                Some(b'\\') => {
                    let unit = self.escape()?;
                    match (high.take(), unit) {
                        (Some(first), 0xDC00..=0xDFFF) => {
                            let code =
                                0x1_0000 + ((u32::from(first) - 0xD800) << 10) + u32::from(unit) - 0xDC00;
                            push_char(&mut out, code);
                        }
                        (first, unit) => {
                            if let Some(first) = first {
                                push_lone(&mut out, first);
                            }
                            match unit {
                                0xD800..=0xDBFF => high = Some(unit),
                                0xDC00..=0xDFFF => push_lone(&mut out, unit),
                                _ => push_char(&mut out, u32::from(unit)),
                            }
                        }
                    }
                }
                _ => return self.fail("a string does not end"),
            }
        }
    }

    /// The UTF-16 unit that an escape stands for; the backslash is behind us.
    fn escape(&mut self) -> Result<u16> {
        let b = self.text.get(self.at).copied();
        self.at += 1;
        Ok(match b {
            Some(b @ (b'"' | b'\\' | b'/')) => u16::from(b),
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => 10,
            Some(b'r') => 13,
            Some(b't') => 9,
            Some(b'u') => {
                let digits = self.text.get(self.at..self.at + 4).and_then(|d| std::str::from_utf8(d).ok());
                match digits.and_then(|d| u16::from_str_radix(d, 16).ok()) {
                    Some(unit) => {
                        self.at += 4;
                        unit
                    }
                    None => return self.fail("an escape in a string is wrong"),
                }
            }
            _ => return self.fail("an escape in a string is wrong"),
        })
    }

    /// An object: a typed array or a map.
    fn typed(&mut self, depth: u32) -> Result<Value> {
        let (mut kind, mut buffer, mut args) = (Vec::new(), None, None);
        self.object(|p, key| {
            match key {
                b"__state_type__" => kind = p.string()?,
                b"buffer_id" => match p.value(depth + 1)? {
                    Value::Int(n) => buffer = u32::try_from(n).ok(),
                    _ => return p.fail("buffer_id is a number"),
                },
                b"args" => args = Some(p.value(depth + 1)?),
                _ => return p.fail("unknown member of an object"),
            }
            Ok(())
        })?;
        match (kind.as_slice(), Kind::from_name(&kind), buffer, args) {
            (_, Some(kind), Some(buffer), _) => {
                Ok(Value::Typed(Box::new(Typed { kind, data: Vec::new(), buffer })))
            }
            (b"Map", _, _, Some(Value::Array(pairs))) => {
                let mut items = Vec::new();
                for pair in pairs {
                    match pair {
                        Value::Array(pair) if pair.len() == 2 => items.extend(pair),
                        _ => return self.fail("a map consists of pairs"),
                    }
                }
                Ok(Value::Map(items))
            }
            _ => self.fail("an object that is neither typed array nor map"),
        }
    }
}

/// An integer that fits.
fn parse_integer(digits: &[u8]) -> Option<i64> {
    let (negative, digits) = match digits.split_first()? {
        (b'-', rest) => (true, rest),
        _ => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    // Below zero, where there is room for one more.
    let mut n = 0i64;
    for b in digits {
        if !b.is_ascii_digit() {
            return None;
        }
        n = n.checked_mul(10)?.checked_sub(i64::from(b - b'0'))?;
    }
    if negative { Some(n) } else { n.checked_neg() }
}

fn push_char(out: &mut Vec<u8>, code: u32) {
    let c = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

/// A surrogate without its other half: a byte that is not UTF-8, or else its three bytes as they are.
fn push_lone(out: &mut Vec<u8>, unit: u16) {
    match unit {
        0xDC80..=0xDCFF => out.push(unit as u8),
        _ => out.extend_from_slice(&[
            0xE0 | (unit >> 12) as u8,
            0x80 | (unit >> 6 & 0x3F) as u8,
            0x80 | (unit & 0x3F) as u8,
        ]),
    }
}

/// Writes values as JSON.
pub(super) struct Printer {
    pub(super) out: Vec<u8>,
}

impl Printer {
    /// Writes `value`; `buffer` gives a typed array its number.
    pub(super) fn value(&mut self, value: &Value, buffer: &mut dyn FnMut(&Typed) -> usize) {
        match value {
            Value::Null => self.out.extend_from_slice(b"null"),
            Value::Bool(true) => self.out.extend_from_slice(b"true"),
            Value::Bool(false) => self.out.extend_from_slice(b"false"),
            Value::Int(n) => self.integer(*n),
            // What JavaScript writes for them.
            Value::Float(f) if !f.is_finite() => self.out.extend_from_slice(b"null"),
            Value::Float(f) => self.float(*f),
            Value::Text(text) => self.string(text),
            Value::Array(items) => self.array(items, buffer),
            Value::Typed(typed) => {
                self.out.extend_from_slice(b"{\"__state_type__\":\"");
                self.out.extend_from_slice(typed.kind.name().as_bytes());
                self.out.extend_from_slice(b"\",\"buffer_id\":");
                let id = buffer(typed);
                self.integer(id as i64);
                self.out.push(b'}');
            }
            Value::Map(items) => {
                self.out.extend_from_slice(b"{\"__state_type__\":\"Map\",\"args\":[");
                for (n, pair) in items.chunks(2).enumerate() {
                    if n > 0 {
                        self.out.push(b',');
                    }
                    self.array(pair, buffer);
                }
                self.out.extend_from_slice(b"]}");
            }
        }
    }

    pub(super) fn array(&mut self, items: &[Value], buffer: &mut dyn FnMut(&Typed) -> usize) {
        self.out.push(b'[');
        for (n, item) in items.iter().enumerate() {
            if n > 0 {
                self.out.push(b',');
            }
            self.value(item, buffer);
        }
        self.out.push(b']');
    }

    pub(super) fn integer(&mut self, n: i64) {
        let mut digits = [0u8; 20];
        let mut at = digits.len();
        let mut rest = n.unsigned_abs();
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if n < 0 {
            self.out.push(b'-');
        }
        self.out.extend_from_slice(&digits[at..]);
    }

    /// With an exponent where JavaScript writes one too: written out, numbers can have hundreds of digits,
    /// which nobody reads.
    fn float(&mut self, f: f64) {
        let text = if (1e-6..1e21).contains(&f.abs()) { f.to_string() } else { format!("{f:e}") };
        self.out.extend_from_slice(text.as_bytes());
    }

    fn string(&mut self, text: &[u8]) {
        self.out.push(b'"');
        for chunk in text.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '"' => self.out.extend_from_slice(b"\\\""),
                    '\\' => self.out.extend_from_slice(b"\\\\"),
                    c if u32::from(c) < 0x20 => {
                        self.out.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes());
                    }
                    c => self.out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                }
            }
            for b in chunk.invalid() {
                self.out.extend_from_slice(format!("\\udc{b:02x}").as_bytes());
            }
        }
        self.out.push(b'"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Value> {
        let whole = format!("{{\"buffer_infos\":[],\"state\":[{text}]}}");
        let info = Parser::new(whole.as_bytes(), 16, 1000).info()?;
        Ok(Value::Array(info.slots))
    }

    fn print(value: &Value) -> String {
        let mut printer = Printer { out: Vec::new() };
        printer.value(value, &mut |_| 3);
        String::from_utf8(printer.out).unwrap()
    }

    #[test]
    fn json_what_v86_writes_is_read_and_written_alike() {
        let text = "[null,true,false,-2147481387,274877906944,0.9765625,\"a\\\"\\\\b\",[],[[1,2]]]";
        let value = parse(&text[1..text.len() - 1]).unwrap();
        assert_eq!(print(&value), text);
        let Value::Array(items) = parse("{\"__state_type__\":\"Map\",\"args\":[[1,\"x\"]]}").unwrap() else {
            panic!()
        };
        assert_eq!(print(&items[0]), "{\"__state_type__\":\"Map\",\"args\":[[1,\"x\"]]}");
        let Value::Array(items) = parse("{\"__state_type__\":\"Int32Array\",\"buffer_id\":9}").unwrap()
        else {
            panic!()
        };
        assert_eq!(print(&items[0]), "{\"__state_type__\":\"Int32Array\",\"buffer_id\":3}");
    }

    #[test]
    fn json_bytes_that_are_not_utf8_survive_as_lone_surrogates() {
        let name = Value::text(b"a\xFF\xC3\xA4\xED\xA0\x80\x01");
        let text = print(&name);
        assert_eq!(text, "\"a\\udcff\u{e4}\\udced\\udca0\\udc80\\u0001\"");
        assert_eq!(parse(&text).unwrap(), Value::Array(vec![name]));
        assert_eq!(parse("\"\\ud83d\\ude00\"").unwrap(), Value::Array(vec![Value::text("\u{1F600}")]));
        assert_eq!(parse("\"\\ud83dx\"").unwrap(), Value::Array(vec![Value::text(b"\xED\xA0\xBDx")]));
    }

    #[test]
    fn json_errors_name_the_offset() {
        let Err(SnapshotError::Json { offset, .. }) = parse("1,x") else { panic!() };
        assert_eq!(offset, 16 + 28 + 2);
        for text in ["[", "\"", "\"\\u12\"", "tru", "1e999", "--1", "{\"a\":1}", "[1 2]", "]", ""] {
            let result = parse(text);
            assert!(result.is_err() || text.is_empty(), "{text} gives {result:?}");
        }
    }

    #[test]
    fn json_nesting_and_number_of_values_are_bounded() {
        let deep = format!("{}{}", "[".repeat(40), "]".repeat(40));
        assert!(matches!(parse(&deep), Err(SnapshotError::Json { reason: "nested too deeply", .. })));
        let many = vec!["1"; 2000].join(",");
        assert!(matches!(parse(&many), Err(SnapshotError::Limit { what: "values", .. })));
        let long = "x".repeat(MAX_STRING + 1);
        assert!(parse(&format!("\"{long}\"")).is_err());
    }

    #[test]
    fn json_extreme_integers_are_written_right_and_read_back() {
        for n in [0, 1, -1, i64::MAX, i64::MIN, 10, 99] {
            assert_eq!(print(&Value::Int(n)), n.to_string());
            // A lock or a time may have all 64 bits.
            assert_eq!(parse(&n.to_string()).unwrap(), Value::Array(vec![Value::Int(n)]));
        }
    }

    #[test]
    fn json_extreme_floats_are_read_back() {
        for f in [1e308, -1e308, f64::MAX, f64::MIN_POSITIVE, 5e-324, 1e21, 1.5e20, 1e-7, 0.1, -2.5] {
            let text = print(&Value::Float(f));
            let Ok(read) = parse(&text) else { panic!("{text} is refused") };
            assert_eq!(read, Value::Array(vec![Value::from(f)]), "{text}");
        }
    }
}
