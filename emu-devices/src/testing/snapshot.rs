//! What every device's saving and restoring must pass: [`snapshot_conformance`](crate::snapshot_conformance).

use emu_core::snapshot::{FieldError, Value};

use super::TestBoard;
use crate::device::{Device, DeviceId, DeviceState, ResetKind};

/// Id of the device under test.
const ID: DeviceId = 7;

/// How to check one device.
pub struct Subject<D> {
    /// A new device.
    pub make: fn() -> D,
    /// Brings a powered-up device into a state that differs from power-up in as much as possible.
    pub exercise: fn(&mut D, &mut TestBoard),
    /// Elements of v86's array, as paths, that are written but not read. Each with a reason in the
    /// device's `saved` module.
    pub ignored: &'static [&'static [usize]],
}

fn powered<D: Device>(subject: &Subject<D>) -> (D, TestBoard) {
    let mut board = TestBoard::new();
    let mut device = (subject.make)();
    board.power_up(&mut device, ID);
    (device, board)
}

fn save<D: Device>(device: &mut D, board: &mut TestBoard) -> DeviceState {
    device.save(&mut board.ctx())
}

fn copy(state: &DeviceState) -> DeviceState {
    DeviceState { v86: state.v86.clone(), extra: state.extra.clone() }
}

/// Restores into a new device on the board's memory at the board's time.
fn restored<D: Device>(
    subject: &Subject<D>,
    board: &mut TestBoard,
    state: DeviceState,
) -> Result<D, FieldError> {
    board.events = emu_core::time::EventQueue::new();
    let mut device = (subject.make)();
    board.power_up(&mut device, ID);
    device.restore(&mut board.ctx(), state)?;
    Ok(device)
}

/// Runs all checks.
///
/// # Panics
/// If one fails.
pub fn check<D: Device>(subject: &Subject<D>) {
    let (mut device, mut board) = powered(subject);
    let fresh = save(&mut device, &mut board);
    (subject.exercise)(&mut device, &mut board);
    let saved = save(&mut device, &mut board);
    assert_eq!(saved, save(&mut device, &mut board), "saving twice gives the same");
    assert_ne!(saved, fresh, "what happened shows");

    let mut again = restored(subject, &mut board, copy(&saved)).expect("restoring what was saved");
    assert_eq!(save(&mut again, &mut board), saved, "restoring and saving gives the same");

    // What v86 leaves out must have defaults.
    let plain = DeviceState { v86: saved.v86.clone(), extra: Value::Null };
    let mut plain = restored(subject, &mut board, plain).expect("restoring without what only env86 saves");
    let _ = save(&mut plain, &mut board);

    again.reset(&mut board.ctx(), ResetKind::Cold);
    let (mut reset, _) = powered(subject);
    (subject.exercise)(&mut reset, &mut TestBoard::new());
    reset.reset(&mut board.ctx(), ResetKind::Cold);
    assert_eq!(save(&mut again, &mut board), save(&mut reset, &mut board), "restore then reset equals reset");

    let nothing = restored(subject, &mut board, DeviceState::default());
    assert!(nothing.is_ok(), "a snapshot without this device");
    damage(subject, &mut board, &saved);
}

/// Every element of a state once of each wrong kind: an error that names it, and never a panic.
fn damage<D: Device>(subject: &Subject<D>, board: &mut TestBoard, saved: &DeviceState) {
    let wrong = [
        Value::text("x"),
        Value::Array(vec![Value::text("y")]),
        Value::Array(Vec::new()),
        Value::bytes([1, 2, 3]),
        Value::f64s(&[f64::NAN]),
        Value::Int(i64::MAX),
        Value::Int(-1),
        Value::Int(0xFFFF_FFFF),
        Value::Float(1.5e300),
        Value::Float(0.5),
        Value::Bool(true),
        Value::Null,
    ];
    for in_extra in [false, true] {
        let whole = if in_extra { &saved.extra } else { &saved.v86 };
        let mut paths = Vec::new();
        collect(whole, &mut Vec::new(), &mut paths);
        for path in paths {
            for value in &wrong {
                let mut state = copy(saved);
                let target = if in_extra { &mut state.extra } else { &mut state.v86 };
                let Some(place) = at(target, &path) else { continue };
                let before = std::mem::replace(place, value.clone());
                let result = restored(subject, board, state);
                let text = matches!(value, Value::Text(_)) && !matches!(before, Value::Text(_) | Value::Null);
                if text && !subject.ignored.iter().any(|ignored| path.starts_with(ignored)) {
                    let error = result.err().unwrap_or_else(|| panic!("a string at {path:?} is accepted"));
                    assert!(
                        in_extra || starts(&error.path, &path),
                        "error at {:?}, not {path:?}",
                        error.path
                    );
                } else if let Ok(mut device) = result {
                    // Whatever was accepted must run.
                    board.advance(&mut device, 2_000_000);
                    let _ = save(&mut device, board);
                }
            }
            // Arrays cut off there.
            let (Some(&last), parent) = (path.last(), &path[..path.len().saturating_sub(1)]) else {
                continue;
            };
            let mut state = copy(saved);
            let target = if in_extra { &mut state.extra } else { &mut state.v86 };
            if let Some(Value::Array(items)) = at(target, parent) {
                items.truncate(last);
            }
            if let Ok(mut device) = restored(subject, board, state) {
                board.advance(&mut device, 2_000_000);
                let _ = save(&mut device, board);
            }
        }
    }
}

fn starts(reported: &[u32], path: &[usize]) -> bool {
    reported.iter().zip(path).all(|(a, b)| *a as usize == *b)
}

fn collect(value: &Value, path: &mut Vec<usize>, out: &mut Vec<Vec<usize>>) {
    if !value.is_null() {
        out.push(path.clone());
    }
    if let Value::Array(items) = value {
        // Long arrays repeat themselves.
        for (n, item) in items.iter().enumerate().take(300) {
            path.push(n);
            collect(item, path, out);
            path.pop();
        }
    }
}

fn at<'a>(value: &'a mut Value, path: &[usize]) -> Option<&'a mut Value> {
    path.iter().try_fold(value, |value, &n| match value {
        Value::Array(items) => items.get_mut(n),
        _ => None,
    })
}

/// The test every device that is part of snapshots has: a test function `NAME` that checks a
/// [`Subject`](crate::testing::snapshot::Subject) given field by field.
///
/// Saving is repeatable, changes nothing and shows what happened; restoring gives the saved state back;
/// a reset afterwards equals a reset of any other device; states without env86's own part are accepted;
/// every element of a wrong type is an error that names it, and nothing panics.
#[macro_export]
macro_rules! snapshot_conformance {
    ($name:ident, $($field:ident: $value:expr),* $(,)?) => {
        #[test]
        fn $name() {
            $crate::testing::snapshot::check(&$crate::testing::snapshot::Subject { $($field: $value),* });
        }
    };
}
