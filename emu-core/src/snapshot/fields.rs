//! An array read field by field, with v86's tolerance and our errors.

use super::error::FieldError;
use super::value::{Kind, Typed, Value};

type Result<T> = std::result::Result<T, FieldError>;

/// The fields of an array.
///
/// A field that is missing or `null` reads as `None`: the caller keeps its power-up value. Integers are
/// taken modulo the field's size if they lie in -2^31 .. 2^32-1, because v86 writes the same register
/// now signed, now unsigned; booleans may be 0 and 1 and the other way round.
#[derive(Debug)]
pub struct Fields<'a> {
    items: &'a mut [Value],
}

fn wrong<T>(index: usize, value: &Value, expected: &str) -> Result<T> {
    Err(FieldError::at(index, format!("expected {expected}, found {}", value.describe())))
}

impl<'a> Fields<'a> {
    /// The fields of `value`; `None` if it is `null`.
    ///
    /// # Errors
    /// It is no array.
    pub fn of(value: &'a mut Value) -> Result<Option<Self>> {
        match value {
            Value::Null => Ok(None),
            Value::Array(items) => Ok(Some(Self { items })),
            other => Err(FieldError::here(format!("expected an array, found {}", other.describe()))),
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// True without elements.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Element `index`, whatever it is.
    pub fn get(&self, index: usize) -> &Value {
        self.items.get(index).unwrap_or(&Value::Null)
    }

    /// Takes element `index` out.
    pub fn take(&mut self, index: usize) -> Value {
        self.items.get_mut(index).map_or(Value::Null, std::mem::take)
    }

    /// A number as 64-bit integer. Booleans count as 0 and 1.
    ///
    /// # Errors
    /// It is something else, or has a fraction.
    pub fn i64(&self, index: usize) -> Result<Option<i64>> {
        match self.get(index) {
            Value::Null => Ok(None),
            Value::Bool(b) => Ok(Some(i64::from(*b))),
            Value::Int(n) => Ok(Some(*n)),
            Value::Float(f) if f.fract() == 0.0 && f.abs() < 9.2e18 => Ok(Some(*f as i64)),
            Value::Float(_) => Err(FieldError::at(index, "expected an integer, found a fraction")),
            other => wrong(index, other, "a number"),
        }
    }

    /// The bits of a 32-bit register.
    ///
    /// # Errors
    /// It is no integer, or has more bits.
    pub fn u32(&self, index: usize) -> Result<Option<u32>> {
        let Some(n) = self.i64(index)? else { return Ok(None) };
        if (i64::from(i32::MIN)..=i64::from(u32::MAX)).contains(&n) {
            Ok(Some(n as u32))
        } else {
            Err(FieldError::at(index, format!("{n} is no 32-bit number")))
        }
    }

    /// The low bits of a 32-bit number.
    ///
    /// # Errors
    /// As [`Fields::u32`].
    pub fn u16(&self, index: usize) -> Result<Option<u16>> {
        Ok(self.u32(index)?.map(|n| n as u16))
    }

    /// The low bits of a 32-bit number.
    ///
    /// # Errors
    /// As [`Fields::u32`].
    pub fn u8(&self, index: usize) -> Result<Option<u8>> {
        Ok(self.u32(index)?.map(|n| n as u8))
    }

    /// A boolean, or a number that is not 0.
    ///
    /// # Errors
    /// It is something else.
    pub fn bool(&self, index: usize) -> Result<Option<bool>> {
        match self.get(index) {
            Value::Null => Ok(None),
            Value::Bool(b) => Ok(Some(*b)),
            Value::Int(n) => Ok(Some(*n != 0)),
            Value::Float(f) => Ok(Some(*f != 0.0)),
            other => wrong(index, other, "a boolean"),
        }
    }

    /// A finite number.
    ///
    /// # Errors
    /// It is something else.
    pub fn f64(&self, index: usize) -> Result<Option<f64>> {
        match self.get(index) {
            Value::Null => Ok(None),
            Value::Bool(b) => Ok(Some(f64::from(u8::from(*b)))),
            Value::Int(n) => Ok(Some(*n as f64)),
            Value::Float(f) => Ok(Some(*f)),
            other => wrong(index, other, "a number"),
        }
    }

    /// A string's bytes.
    ///
    /// # Errors
    /// It is something else.
    pub fn text(&self, index: usize) -> Result<Option<&[u8]>> {
        match self.get(index) {
            Value::Null => Ok(None),
            Value::Text(text) => Ok(Some(text)),
            other => wrong(index, other, "a string"),
        }
    }

    /// Takes the bytes of a typed array whose elements have `size` bytes.
    fn elements(&mut self, index: usize, size: usize) -> Result<Option<Vec<u8>>> {
        match self.take(index) {
            Value::Null => Ok(None),
            Value::Typed(typed) if typed.kind.size() == size => Ok(Some(typed.data)),
            Value::Typed(typed) => {
                let name = typed.kind.name();
                Err(FieldError::at(index, format!("expected elements of {size} bytes, found {name}")))
            }
            other => wrong(index, &other, "a typed array"),
        }
    }

    /// Takes a byte array of any length up to `max`.
    ///
    /// # Errors
    /// It is something else, or longer.
    pub fn bytes_up_to(&mut self, index: usize, max: usize) -> Result<Option<Vec<u8>>> {
        let Some(data) = self.elements(index, 1)? else { return Ok(None) };
        if data.len() > max {
            return Err(FieldError::at(index, format!("{} bytes; at most {max} are possible", data.len())));
        }
        Ok(Some(data))
    }

    /// Takes a byte array of exactly `len` bytes.
    ///
    /// # Errors
    /// It is something else, or of another length.
    pub fn bytes(&mut self, index: usize, len: usize) -> Result<Option<Vec<u8>>> {
        let Some(data) = self.elements(index, 1)? else { return Ok(None) };
        if data.len() != len {
            return Err(FieldError::at(index, format!("{} bytes instead of {len}", data.len())));
        }
        Ok(Some(data))
    }

    fn exact<const N: usize, const S: usize>(&mut self, index: usize) -> Result<Option<[[u8; S]; N]>> {
        let Some(data) = self.elements(index, S)? else { return Ok(None) };
        let mut out = [[0; S]; N];
        if data.len() != N * S {
            return Err(FieldError::at(index, format!("{} elements instead of {N}", data.len() / S)));
        }
        for (to, from) in out.iter_mut().zip(data.chunks_exact(S)) {
            to.copy_from_slice(from);
        }
        Ok(Some(out))
    }

    /// Takes a byte array of exactly `N` elements.
    ///
    /// # Errors
    /// It is something else, or of another length.
    pub fn u8s<const N: usize>(&mut self, index: usize) -> Result<Option<[u8; N]>> {
        Ok(self.exact::<N, 1>(index)?.map(|a| a.map(|[b]| b)))
    }

    /// Takes an array of exactly `N` 16-bit elements.
    ///
    /// # Errors
    /// It is something else, or of another length.
    pub fn u16s<const N: usize>(&mut self, index: usize) -> Result<Option<[u16; N]>> {
        Ok(self.exact::<N, 2>(index)?.map(|a| a.map(u16::from_le_bytes)))
    }

    /// Takes an array of exactly `N` 32-bit elements, signed or not.
    ///
    /// # Errors
    /// It is something else, or of another length.
    pub fn u32s<const N: usize>(&mut self, index: usize) -> Result<Option<[u32; N]>> {
        Ok(self.exact::<N, 4>(index)?.map(|a| a.map(u32::from_le_bytes)))
    }

    /// Takes an array of exactly `N` doubles.
    ///
    /// # Errors
    /// It is something else, or of another length.
    pub fn f64s<const N: usize>(&mut self, index: usize) -> Result<Option<[f64; N]>> {
        Ok(self.exact::<N, 8>(index)?.map(|a| a.map(f64::from_le_bytes)))
    }

    /// Takes any typed array.
    ///
    /// # Errors
    /// It is something else.
    pub fn typed(&mut self, index: usize) -> Result<Option<Typed>> {
        match self.take(index) {
            Value::Null => Ok(None),
            Value::Typed(typed) => Ok(Some(*typed)),
            other => wrong(index, &other, "a typed array"),
        }
    }

    /// Reads an array inside the array with `f`, whose errors get the place put before them.
    ///
    /// # Errors
    /// It is no array, or what `f` says.
    pub fn array<T>(
        &mut self,
        index: usize,
        f: impl FnOnce(&mut Fields<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.items.get_mut(index) else { return Ok(None) };
        let read = Fields::of(value).and_then(|fields| match fields {
            None => Ok(None),
            Some(mut fields) => f(&mut fields).map(Some),
        });
        read.map_err(|error| error.within(index))
    }

    /// Reads each element with `f`.
    ///
    /// # Errors
    /// What `f` says.
    pub fn each(&mut self, mut f: impl FnMut(usize, &mut Value) -> Result<()>) -> Result<()> {
        for (index, item) in self.items.iter_mut().enumerate() {
            f(index, item).map_err(|error| error.within(index))?;
        }
        Ok(())
    }
}

impl Typed {
    /// The elements as 32-bit numbers, if they are.
    pub fn to_u32s(&self) -> Option<Vec<u32>> {
        matches!(self.kind, Kind::Int32 | Kind::Uint32).then(|| {
            self.data
                .chunks_exact(4)
                .map(|b| b.iter().rev().fold(0, |v, byte| v << 8 | u32::from(*byte)))
                .collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values;

    #[test]
    fn fields_missing_and_null_are_none() {
        let mut v = values![1, Value::Null];
        let mut f = Fields::of(&mut v).unwrap().unwrap();
        assert_eq!(f.u8(0), Ok(Some(1)));
        assert_eq!(f.u8(1), Ok(None));
        assert_eq!(f.u32(9), Ok(None));
        assert_eq!(f.u16s::<3>(1), Ok(None));
    }

    #[test]
    fn fields_registers_are_taken_signed_and_unsigned() {
        let mut v = values![-1, 0xFFFF_FFFFu32, 0x1_0000_0000i64, 1.5, true];
        let f = Fields::of(&mut v).unwrap().unwrap();
        assert_eq!(f.u32(0), Ok(Some(u32::MAX)));
        assert_eq!(f.u16(1), Ok(Some(0xFFFF)));
        assert!(f.u32(2).is_err());
        assert!(f.u32(3).is_err());
        assert_eq!(f.u8(4), Ok(Some(1)));
        assert_eq!(f.bool(0), Ok(Some(true)));
    }

    #[test]
    fn fields_errors_name_the_place() {
        let mut v = values![0, values![0, values![Value::text("x")]]];
        let mut f = Fields::of(&mut v).unwrap().unwrap();
        let error = f.array(1, |f| f.array(1, |f| f.u8(0))).unwrap_err();
        assert_eq!(error.to_string(), "[1][1][0]: expected a number, found a string");
    }

    #[test]
    fn fields_typed_arrays_have_the_right_length_and_width() {
        let mut v = values![Value::bytes([1, 2]), Value::i32s(&[7, 8]), Value::u16s(&[1])];
        let mut f = Fields::of(&mut v).unwrap().unwrap();
        assert!(f.u8s::<3>(0).is_err());
        assert_eq!(f.u32s::<2>(1), Ok(Some([7, 8])));
        assert!(f.u32s::<1>(2).is_err());
    }
}
