//! The data items of the protocol: CBOR (RFC 8949) without floats and tags.
//!
//! Writing gives definite lengths and shortest forms, so that equal values are equal bytes. Reading takes
//! what others may write as well: indefinite lengths, tags (skipped), floats (as integers where they are
//! whole). Depth and number of items are limited, so that a few bytes cannot ask for much memory.

use crate::limits;

/// A data item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `null`, and everything that has no value of its own here (`undefined`, broken floats).
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// Integer from -2^64 to 2^64-1.
    Int(i128),
    /// Byte string.
    Bytes(Vec<u8>),
    /// Text string. Broken UTF-8 is replaced while reading.
    Text(String),
    /// Array.
    Array(Vec<Value>),
    /// Map, in the order of the wire.
    Map(Vec<(Value, Value)>),
}

/// Why bytes are no data item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CborError {
    /// They end before the item does.
    Truncated,
    /// They break the grammar.
    Malformed,
    /// The items are nested deeper than [`limits::CBOR_DEPTH`].
    TooDeep,
    /// There are more items than the reader takes.
    TooMany,
}

impl std::fmt::Display for CborError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Truncated => "CBOR item ends too early",
            Self::Malformed => "malformed CBOR item",
            Self::TooDeep => "CBOR item is nested too deep",
            Self::TooMany => "CBOR item has too many parts",
        })
    }
}

impl std::error::Error for CborError {}

const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
const SIMPLE: u8 = 7;

/// Appends the head of an item: major type and the number that goes with it.
fn head(major: u8, number: u64, out: &mut Vec<u8>) {
    let kind = major << 5;
    match number {
        0..=23 => out.push(kind | number as u8),
        24..=0xff => out.extend_from_slice(&[kind | 24, number as u8]),
        0x100..=0xffff => {
            out.push(kind | 25);
            out.extend_from_slice(&(number as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            out.push(kind | 26);
            out.extend_from_slice(&(number as u32).to_be_bytes());
        }
        _ => {
            out.push(kind | 27);
            out.extend_from_slice(&number.to_be_bytes());
        }
    }
}

/// Head of a byte string whose contents are sent separately.
pub fn bytes_head(length: u64) -> Vec<u8> {
    let mut out = Vec::new();
    head(BYTES, length, &mut out);
    out
}

/// Takes apart the start of the argument `[text, byte string]`, whose byte string need not be there yet.
/// Returns the text, where the byte string's contents begin and how long they are.
pub fn text_and_bytes_head(input: &[u8]) -> Result<(String, usize, u64), CborError> {
    let mut reader = Reader { input, at: 0, items: limits::REQUEST_ITEMS };
    let (ARRAY, Some(2)) = reader.head()? else { return Err(CborError::Malformed) };
    let text = match reader.item(1)? {
        Value::Text(text) => text,
        _ => return Err(CborError::Malformed),
    };
    let (BYTES, Some(length)) = reader.head()? else { return Err(CborError::Malformed) };
    Ok((text, reader.at, length))
}

impl Value {
    /// A text string.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A map with text keys, in this order.
    pub fn map<const N: usize>(pairs: [(&str, Value); N]) -> Self {
        Self::Map(pairs.into_iter().map(|(key, value)| (Self::text(key), value)).collect())
    }

    /// Appends the item to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.push(0xf6),
            Self::Bool(value) => out.push(0xf4 | u8::from(*value)),
            Self::Int(value) => match u64::try_from(*value) {
                Ok(number) => head(UNSIGNED, number, out),
                Err(_) => head(NEGATIVE, u64::try_from(-1 - *value).unwrap_or(u64::MAX), out),
            },
            Self::Bytes(bytes) => {
                head(BYTES, bytes.len() as u64, out);
                out.extend_from_slice(bytes);
            }
            Self::Text(text) => {
                head(TEXT, text.len() as u64, out);
                out.extend_from_slice(text.as_bytes());
            }
            Self::Array(items) => {
                head(ARRAY, items.len() as u64, out);
                items.iter().for_each(|item| item.encode(out));
            }
            Self::Map(pairs) => {
                head(MAP, pairs.len() as u64, out);
                for (key, value) in pairs {
                    key.encode(out);
                    value.encode(out);
                }
            }
        }
    }

    /// The item as bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }

    /// Reads the item at the start of `input` and returns it with its length. `items` is how many items it
    /// may consist of.
    pub fn decode(input: &[u8], items: usize) -> Result<(Self, usize), CborError> {
        let mut reader = Reader { input, at: 0, items };
        let value = reader.item(0)?;
        Ok((value, reader.at))
    }

    /// The value of a map's key. Exact spelling goes first, then any case.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Map(pairs) = self else { return None };
        let find = |same: &dyn Fn(&str) -> bool| {
            pairs.iter().find_map(|(name, value)| match name {
                Self::Text(name) if same(name) => Some(value),
                _ => None,
            })
        };
        find(&|name| name == key).or_else(|| find(&|name| name.eq_ignore_ascii_case(key)))
    }

    /// The integer, if it is one that fits.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(value) => i64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The bytes, if it is a byte string.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The elements, if it is an array.
    pub fn as_array(&self) -> Option<&[Self]> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }

    /// The truth value, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }
}

struct Reader<'a> {
    input: &'a [u8],
    at: usize,
    /// Items that may still come.
    items: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: u64) -> Result<&'a [u8], CborError> {
        let length = usize::try_from(length).map_err(|_| CborError::Truncated)?;
        let end = self.at.checked_add(length).ok_or(CborError::Truncated)?;
        let bytes = self.input.get(self.at..end).ok_or(CborError::Truncated)?;
        self.at = end;
        Ok(bytes)
    }

    fn number(&mut self, length: u64) -> Result<u64, CborError> {
        Ok(self.take(length)?.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    /// Major type and number; no number stands for an indefinite length (or, after [`SIMPLE`], the "break").
    fn head(&mut self) -> Result<(u8, Option<u64>), CborError> {
        let first = self.number(1)? as u8;
        let number = match first & 31 {
            small @ 0..=23 => Some(u64::from(small)),
            24 => Some(self.number(1)?),
            25 => Some(self.number(2)?),
            26 => Some(self.number(4)?),
            27 => Some(self.number(8)?),
            31 => None,
            _ => return Err(CborError::Malformed),
        };
        Ok((first >> 5, number))
    }

    /// Whether the next byte is a "break", which is then skipped.
    fn at_break(&mut self) -> Result<bool, CborError> {
        let found = *self.input.get(self.at).ok_or(CborError::Truncated)? == 0xff;
        self.at += usize::from(found);
        Ok(found)
    }

    fn item(&mut self, depth: usize) -> Result<Value, CborError> {
        if depth > limits::CBOR_DEPTH {
            return Err(CborError::TooDeep);
        }
        self.items = self.items.checked_sub(1).ok_or(CborError::TooMany)?;
        let start = self.at;
        let (major, number) = self.head()?;
        Ok(match (major, number) {
            (UNSIGNED, Some(number)) => Value::Int(i128::from(number)),
            (NEGATIVE, Some(number)) => Value::Int(-1 - i128::from(number)),
            (BYTES, length) => Value::Bytes(self.string(BYTES, length)?),
            (TEXT, length) => Value::Text(match String::from_utf8(self.string(TEXT, length)?) {
                Ok(text) => text,
                Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
            }),
            (ARRAY, length) => {
                let mut items = Vec::new();
                while self.more(length, items.len())? {
                    items.push(self.item(depth + 1)?);
                }
                Value::Array(items)
            }
            (MAP, length) => {
                let mut pairs = Vec::new();
                while self.more(length, pairs.len())? {
                    pairs.push((self.item(depth + 1)?, self.item(depth + 1)?));
                }
                Value::Map(pairs)
            }
            (TAG, Some(_)) => self.item(depth + 1)?,
            (SIMPLE, Some(number)) => match self.input.get(start).map_or(0, |first| first & 31) {
                20 => Value::Bool(false),
                21 => Value::Bool(true),
                25 => float(half(number as u16)),
                26 => float(f64::from(f32::from_bits(number as u32))),
                27 => float(f64::from_bits(number)),
                _ => Value::Null,
            },
            _ => return Err(CborError::Malformed),
        })
    }

    /// Whether an array or a map has another element after `so_far`.
    fn more(&mut self, length: Option<u64>, so_far: usize) -> Result<bool, CborError> {
        match length {
            Some(length) => Ok((so_far as u64) < length),
            None => Ok(!self.at_break()?),
        }
    }

    fn string(&mut self, major: u8, length: Option<u64>) -> Result<Vec<u8>, CborError> {
        if let Some(length) = length {
            return Ok(self.take(length)?.to_vec());
        }
        let mut all = Vec::new();
        while !self.at_break()? {
            self.items = self.items.checked_sub(1).ok_or(CborError::TooMany)?;
            match self.head()? {
                (kind, Some(length)) if kind == major => all.extend_from_slice(self.take(length)?),
                _ => return Err(CborError::Malformed),
            }
        }
        Ok(all)
    }
}

/// A whole float is its integer; there are no others in this protocol.
fn float(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 9.0e18 { Value::Int(value as i128) } else { Value::Null }
}

/// A 16-bit float.
fn half(bits: u16) -> f64 {
    let (exponent, mantissa) = (i32::from(bits >> 10 & 31), f64::from(bits & 0x3ff));
    let value = match exponent {
        0 => mantissa * 2f64.powi(-24),
        31 => f64::NAN,
        _ => (mantissa + 1024.0) * 2f64.powi(exponent - 25),
    };
    if bits >> 15 == 0 { value } else { -value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    fn decode(bytes: &[u8]) -> Result<Value, CborError> {
        Value::decode(bytes, 1000).map(|(value, _)| value)
    }

    #[test]
    fn canonical_forms_go_both_ways() {
        let cases = [
            ("00", Value::Int(0)),
            ("17", Value::Int(23)),
            ("1818", Value::Int(24)),
            ("1903e8", Value::Int(1000)),
            ("1a000f4240", Value::Int(1_000_000)),
            ("1bffffffffffffffff", Value::Int(u64::MAX.into())),
            ("20", Value::Int(-1)),
            ("3903e7", Value::Int(-1000)),
            ("3bffffffffffffffff", Value::Int(-1 - i128::from(u64::MAX))),
            ("f4", Value::Bool(false)),
            ("f5", Value::Bool(true)),
            ("f6", Value::Null),
            ("430102ff", Value::Bytes(vec![1, 2, 255])),
            ("62c3bc", Value::text("ü")),
            ("83010203", Value::Array([1, 2, 3].map(Value::Int).into())),
            ("a161538102", Value::map([("S", Value::Array(vec![Value::Int(2)]))])),
        ];
        for (bytes, value) in cases {
            assert_eq!(decode(&hex(bytes)), Ok(value.clone()), "{bytes}");
            assert_eq!(value.to_vec(), hex(bytes), "{value:?}");
        }
    }

    #[test]
    fn liberal_forms_are_read() {
        let cases = [
            ("9f0102ff", Value::Array([1, 2].map(Value::Int).into())),
            ("bf6153f5ff", Value::map([("S", Value::Bool(true))])),
            ("5f41014102ff", Value::Bytes(vec![1, 2])),
            ("7f61616162ff", Value::text("ab")),
            ("f7", Value::Null),
            ("c11a00000005", Value::Int(5)),
            ("1900ff", Value::Int(255)),
            ("f94900", Value::Int(10)),
            ("fa41200000", Value::Int(10)),
            ("fbc024000000000000", Value::Int(-10)),
            ("fb7ff8000000000000", Value::Null),
            ("61ff", Value::text("\u{fffd}")),
        ];
        for (bytes, value) in cases {
            assert_eq!(decode(&hex(bytes)), Ok(value), "{bytes}");
        }
    }

    #[test]
    fn malformed_items_are_errors() {
        for (bytes, error) in [
            ("", CborError::Truncated),
            ("19ff", CborError::Truncated),
            ("43ff", CborError::Truncated),
            ("5bffffffffffffffff", CborError::Truncated),
            ("9bffffffffffffffff", CborError::Truncated),
            ("9f01", CborError::Truncated),
            ("1c", CborError::Malformed),
            ("ff", CborError::Malformed),
            ("1f", CborError::Malformed),
            ("5f6161ff", CborError::Malformed),
            ("df", CborError::Malformed),
        ] {
            assert_eq!(decode(&hex(bytes)), Err(error), "{bytes}");
        }
    }

    #[test]
    fn depth_is_limited() {
        let mut bytes = vec![0x81; limits::CBOR_DEPTH];
        bytes.push(0);
        assert!(decode(&bytes).is_ok());
        bytes.insert(0, 0x81);
        assert_eq!(decode(&bytes), Err(CborError::TooDeep));
        assert_eq!(decode(&[0xc1; 1 << 20]), Err(CborError::TooDeep));
        assert_eq!(decode(&[0x9f; 1 << 20]), Err(CborError::TooDeep));
    }

    #[test]
    fn number_of_items_is_limited() {
        let mut bytes = vec![0x9f];
        bytes.resize(1000, 0);
        bytes.push(0xff);
        assert!(Value::decode(&bytes, 1000).is_ok());
        assert_eq!(Value::decode(&bytes, 999), Err(CborError::TooMany));
        let mut pieces = vec![0x5f];
        pieces.resize(1001, 0x40);
        assert_eq!(Value::decode(&pieces, 999), Err(CborError::TooMany));
    }

    #[test]
    fn get_prefers_exact_spelling() {
        let map = Value::map([("s", Value::Int(1)), ("S", Value::Int(2))]);
        assert_eq!(map.get("S"), Some(&Value::Int(2)));
        assert_eq!(Value::map([("pty", Value::Int(1))]).get("PTY"), Some(&Value::Int(1)));
        assert_eq!(Value::Null.get("S"), None);
    }

    #[test]
    fn text_and_bytes_head_finds_the_contents() {
        let value = Value::Array(vec![Value::text("/x"), Value::Bytes(vec![7; 300])]);
        let bytes = value.to_vec();
        let (text, at, length) = text_and_bytes_head(&bytes[..10]).unwrap();
        assert_eq!((text.as_str(), length), ("/x", 300));
        assert_eq!(bytes[at..], [7; 300]);
        assert_eq!(text_and_bytes_head(&[0x81, 0x60]), Err(CborError::Malformed));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_value_or_an_error(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            if let Ok((value, length)) = Value::decode(&bytes, 100) {
                assert!(length <= bytes.len());
                assert_eq!(decode(&value.to_vec()), Ok(value));
            }
        }
    }
}
