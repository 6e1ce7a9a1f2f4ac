//! The values a state consists of.

/// Element type of a typed array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // JavaScript's names
pub enum Kind {
    Uint8,
    Int8,
    Uint16,
    Int16,
    Uint32,
    Int32,
    Float32,
    Float64,
}

impl Kind {
    const NAMES: [(Self, &'static str); 8] = [
        (Self::Uint8, "Uint8Array"),
        (Self::Int8, "Int8Array"),
        (Self::Uint16, "Uint16Array"),
        (Self::Int16, "Int16Array"),
        (Self::Uint32, "Uint32Array"),
        (Self::Int32, "Int32Array"),
        (Self::Float32, "Float32Array"),
        (Self::Float64, "Float64Array"),
    ];

    /// JavaScript's name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }

    /// By JavaScript's name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::NAMES.iter().find(|(_, n)| n.as_bytes() == name).map(|(kind, _)| *kind)
    }

    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::Uint8 | Self::Int8 => 1,
            Self::Uint16 | Self::Int16 => 2,
            Self::Uint32 | Self::Int32 | Self::Float32 => 4,
            Self::Float64 => 8,
        }
    }
}

/// A typed array.
#[derive(Clone, Debug, PartialEq)]
pub struct Typed {
    /// Type of its elements.
    pub kind: Kind,
    /// Its elements, little-endian. Empty while only the info block has been read.
    pub data: Vec<u8>,
    /// Number of its buffer in the file it was read from.
    pub(super) buffer: u32,
}

/// A value.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// `null`: nothing, or whatever the machine has after power-up.
    #[default]
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number without fraction.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// A string: UTF-8, and bytes that are not (see `json`).
    Text(Box<[u8]>),
    /// An array.
    Array(Vec<Value>),
    /// A typed array.
    Typed(Box<Typed>),
    /// A JavaScript map: key and value in turn.
    Map(Vec<Value>),
}

impl Value {
    /// A typed array of bytes.
    pub fn bytes(data: impl Into<Vec<u8>>) -> Self {
        Self::typed(Kind::Uint8, data.into())
    }

    /// A typed array from its little-endian bytes.
    pub fn typed(kind: Kind, data: Vec<u8>) -> Self {
        Self::Typed(Box::new(Typed { kind, data, buffer: u32::MAX }))
    }

    /// `Uint16Array`.
    pub fn u16s(items: &[u16]) -> Self {
        Self::typed(Kind::Uint16, items.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// `Uint32Array`.
    pub fn u32s(items: &[u32]) -> Self {
        Self::typed(Kind::Uint32, items.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// `Int32Array`, from the bits of its elements.
    pub fn i32s(items: &[u32]) -> Self {
        Self::typed(Kind::Int32, items.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// `Float64Array`.
    pub fn f64s(items: &[f64]) -> Self {
        Self::typed(Kind::Float64, items.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// A 32-bit number that v86 keeps signed.
    pub fn signed(bits: u32) -> Self {
        Self::Int(i64::from(bits as i32))
    }

    /// A string.
    pub fn text(text: impl AsRef<[u8]>) -> Self {
        Self::Text(text.as_ref().into())
    }

    /// True for [`Value::Null`].
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// What it is, for messages.
    pub fn describe(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Int(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a string",
            Self::Array(_) => "an array",
            Self::Typed(_) => "a typed array",
            Self::Map(_) => "a map",
        }
    }
}

macro_rules! from_integer {
    ($($t:ty),*) => {$(
        impl From<$t> for Value {
            fn from(v: $t) -> Self {
                Self::Int(i64::from(v))
            }
        }
    )*};
}
from_integer!(u8, i8, u16, i16, u32, i32, i64);

impl From<bool> for Value {
    fn from(v: bool) -> Self {
        Self::Bool(v)
    }
}

impl From<f64> for Value {
    fn from(v: f64) -> Self {
        // 2^53: beyond, a number is not exactly an integer any more.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        if v.fract() == 0.0 && v.abs() <= EXACT { Self::Int(v as i64) } else { Self::Float(v) }
    }
}

impl From<Vec<Value>> for Value {
    fn from(v: Vec<Value>) -> Self {
        Self::Array(v)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(v: Option<T>) -> Self {
        v.map_or(Self::Null, Into::into)
    }
}

/// An array of values of different types: `values![1, true, Value::bytes(b"x")]`.
#[macro_export]
macro_rules! values {
    ($($v:expr),* $(,)?) => {
        $crate::snapshot::Value::Array(vec![$($crate::snapshot::Value::from($v)),*])
    };
}
