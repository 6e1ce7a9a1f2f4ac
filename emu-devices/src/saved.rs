//! Shared by the chips' `saved` modules.

use emu_core::snapshot::{FieldError, Fields, Value};
use emu_core::time::VmTime;

/// Version of what chips put into [`DeviceState::extra`](crate::device::DeviceState::extra): its first
/// element.
pub(crate) const EXTRA_VERSION: u8 = 1;

/// Takes over a value that the file has; otherwise the field stays as it is.
pub(crate) fn keep<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// Reads a chip's extra array with `f`, if the file has one.
///
/// # Errors
/// It is no array, of another version, or what `f` says.
pub(crate) fn read_extra(
    extra: &mut Value,
    f: impl FnOnce(&mut Fields<'_>) -> Result<(), FieldError>,
) -> Result<(), FieldError> {
    let read = || {
        let Some(mut fields) = Fields::of(extra)? else { return Ok(()) };
        match fields.i64(0)? {
            Some(version) if version == i64::from(EXTRA_VERSION) => f(&mut fields),
            _ => Err(FieldError::at(0, "a version that is not known")),
        }
    };
    read().map_err(FieldError::in_extra)
}

/// A moment of guest time that has passed: what lies in the future counts as now.
pub(crate) fn past_time(
    fields: &Fields<'_>,
    index: usize,
    now: VmTime,
) -> Result<Option<VmTime>, FieldError> {
    Ok(fields.i64(index)?.map(|ns| VmTime::try_from(ns).unwrap_or(0).min(now)))
}
