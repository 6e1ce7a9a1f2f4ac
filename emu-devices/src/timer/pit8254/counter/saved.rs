//! A counter in snapshots.

use emu_core::snapshot::{FieldError, Fields, Value};
use emu_core::values;

use super::super::saved::V86Counter;
use super::{ACCESS_BOTH, ACCESS_HIGH, ACCESS_LOW, Clocks, Counter, Pending, State};
use crate::saved::keep;

/// Largest count.
const MAX_COUNT: u32 = 0x1_0000;
/// A load, a period or its end is never farther in the future than this, nor before power-on by more.
const REACH: Clocks = 4 * MAX_COUNT as Clocks;

/// A counter without its gate, which follows from port 61h.
#[derive(Debug)]
pub(in super::super) struct SavedCounter {
    mode: u8,
    access: u8,
    bcd: bool,
    reload: u16,
    has_count: bool,
    write_low: Option<u8>,
    read_high: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
    state: State,
    pending: Option<Pending>,
}

impl SavedCounter {
    pub(in super::super) fn capture(counter: &Counter) -> Self {
        let &Counter {
            mode,
            access,
            bcd,
            gate: _,
            reload,
            has_count,
            write_low,
            read_high,
            latched_count,
            latched_status,
            state,
            pending,
        } = counter;
        Self {
            mode,
            access,
            bcd,
            reload,
            has_count,
            write_low,
            read_high,
            latched_count,
            latched_status,
            state,
            pending,
        }
    }

    /// The counter at `now`. Times and counts that cannot be become such that can.
    pub(in super::super) fn into_counter(self, gate: bool, now: Clocks) -> Counter {
        let Self {
            mode,
            access,
            bcd,
            reload,
            has_count,
            write_low,
            read_high,
            latched_count,
            latched_status,
            state,
            pending,
        } = self;
        let latest = now.saturating_add(REACH);
        let state = match state {
            State::Idle { value } => State::Idle { value: value & 0xFFFF },
            State::Counting { origin, count } => {
                State::Counting { origin: origin.clamp(-REACH, latest), count: count.clamp(1, MAX_COUNT) }
            }
            State::Paused { elapsed, count } => {
                State::Paused { elapsed: elapsed.clamp(-1, latest), count: count.clamp(1, MAX_COUNT) }
            }
        };
        let pending = pending.map(|Pending { at, count }| Pending {
            at: at.clamp(-REACH, latest),
            count: count.clamp(1, MAX_COUNT),
        });
        Counter {
            mode,
            access,
            bcd,
            gate,
            reload,
            has_count,
            write_low,
            read_high,
            latched_count,
            latched_status,
            state,
            pending,
        }
    }

    pub(in super::super) fn to_v86(&self, now: Clocks) -> V86Counter {
        // The gate has no influence on what is asked here.
        let mut counter = Self { ..*self }.into_counter(true, now);
        counter.settle(now);
        let left = match counter.state {
            State::Counting { origin, count } if counter.is_periodic() => {
                let count = Clocks::from(count);
                Some(count - (now - origin).max(0) % count)
            }
            State::Counting { .. } => counter.next_rise(now).map(|at| at - now),
            _ => None,
        };
        let pointer_moved =
            self.write_low.is_some() || (self.mode == 3 && self.read_high && self.latched_count.is_none());
        V86Counter {
            next_low: match self.access {
                ACCESS_LOW => true,
                ACCESS_HIGH => false,
                _ => !pointer_moved,
            },
            enabled: left.is_some(),
            mode: self.mode,
            access: self.access,
            latch: match (self.latched_count, self.access) {
                (None, _) => 0,
                (_, ACCESS_HIGH) => 1,
                _ => 2 - u8::from(self.read_high),
            },
            latched: self.latched_count.unwrap_or(0),
            reload: match self.write_low {
                Some(low) => self.reload & 0xFF00 | u16::from(low),
                None if self.reload == 0 && self.has_count => u16::MAX,
                None => self.reload,
            },
            left: left.map_or(0, |left| u16::try_from(left).unwrap_or(u16::MAX)),
        }
    }

    /// Takes over what v86 knows at `now`.
    pub(in super::super) fn read_v86(&mut self, v86: &V86Counter, now: Clocks) {
        let access = if v86.access == 0 { ACCESS_BOTH } else { v86.access };
        let mode = match v86.mode & 7 {
            mode @ 0..=5 => mode,
            mode => mode & 3,
        };
        let pointer_moved = access == ACCESS_BOTH && !v86.next_low;
        let [low, _] = v86.reload.to_le_bytes();
        let latched_count = match (v86.latch, access) {
            (2, _) | (1, ACCESS_BOTH | ACCESS_HIGH) => Some(v86.latched),
            _ => None,
        };
        *self = Self {
            mode,
            access,
            bcd: false,
            // Where v86 has FFFFh, the guest has almost certainly written 0.
            reload: if v86.reload == u16::MAX { 0 } else { v86.reload },
            has_count: v86.enabled || v86.reload != 0,
            write_low: pointer_moved.then_some(low),
            read_high: match latched_count {
                Some(_) => access == ACCESS_BOTH && v86.latch == 1,
                None => pointer_moved && mode == 3,
            },
            latched_count,
            latched_status: None,
            state: State::Idle { value: 0 },
            pending: None,
        };
        if v86.enabled {
            let count = match self.reload {
                0 => MAX_COUNT,
                reload => u32::from(reload),
            };
            let left = match v86.left {
                u16::MAX => count,
                left => u32::from(left).clamp(1, count),
            };
            self.state = State::Counting { origin: now - Clocks::from(count - left), count };
        }
    }

    pub(in super::super) fn to_extra(&self) -> Value {
        let (kind, time, count) = match self.state {
            State::Idle { value } => (0, 0, value),
            State::Counting { origin, count } => (1, origin, count),
            State::Paused { elapsed, count } => (2, elapsed, count),
        };
        values![
            self.mode,
            self.access,
            self.bcd,
            self.reload,
            self.has_count,
            self.write_low,
            self.read_high,
            self.latched_count,
            self.latched_status,
            kind,
            time,
            count,
            self.pending.map(|pending| pending.at),
            self.pending.map(|pending| pending.count),
        ]
    }

    /// Takes over an exact state, valid at `now`.
    pub(in super::super) fn read_extra(
        &mut self,
        fields: &mut Fields<'_>,
        now: Clocks,
    ) -> Result<(), FieldError> {
        keep(&mut self.mode, fields.u8(0)?);
        keep(&mut self.access, fields.u8(1)?);
        if self.mode > 5 {
            return Err(FieldError::at(0, "no such mode"));
        }
        if !matches!(self.access, ACCESS_LOW | ACCESS_HIGH | ACCESS_BOTH) {
            return Err(FieldError::at(1, "no such way of access"));
        }
        keep(&mut self.bcd, fields.bool(2)?);
        keep(&mut self.reload, fields.u16(3)?);
        keep(&mut self.has_count, fields.bool(4)?);
        self.write_low = fields.u8(5)?;
        keep(&mut self.read_high, fields.bool(6)?);
        self.latched_count = fields.u16(7)?;
        self.latched_status = fields.u8(8)?;
        let time = fields.i64(10)?.unwrap_or(now);
        let count = fields.u32(11)?.unwrap_or(MAX_COUNT);
        match fields.u8(9)? {
            None => {}
            Some(0) => self.state = State::Idle { value: count },
            Some(1) => self.state = State::Counting { origin: time, count },
            Some(2) => self.state = State::Paused { elapsed: time, count },
            Some(_) => return Err(FieldError::at(9, "no such state of a counter")),
        }
        let (at, count) = (fields.i64(12)?, fields.u32(13)?);
        self.pending = at.zip(count).map(|(at, count)| Pending { at, count });
        Ok(())
    }
}
