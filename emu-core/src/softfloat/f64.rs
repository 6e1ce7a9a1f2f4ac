//! Double precision (f64).

use super::binary::{self, Format, binary_type};
use super::{Env, F32, Relation, Rounding};

binary_type!(F64, u64, 11, 52, "f64");

impl F64 {
    /// CVTSD2SS: rounds to single precision.
    #[inline]
    pub fn to_f32(self, env: &mut Env) -> F32 {
        F32(binary::convert::<11, 52, 8, 23>(self.0, env) as u32)
    }
}
