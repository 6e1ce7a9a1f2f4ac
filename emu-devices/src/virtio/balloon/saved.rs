//! The balloon as snapshots hold it.
//!
//! v86's array: registers and queues, pages wanted, pages given. Our own state: version, free page hint
//! command, bytes zeroed, reports, the last report's values by tag.

use emu_core::snapshot::{FieldError, Fields, Value};
use emu_core::values;

use super::{BalloonStats, VirtioBalloon};
use crate::device::DeviceState;
use crate::virtio::saved::{VERSION, own_fields};

type Result<T> = std::result::Result<T, FieldError>;

pub(super) struct SavedBalloon {
    num_pages: u32,
    actual: u32,
    hint_command: u32,
    zeroed: u64,
    stats: BalloonStats,
}

impl SavedBalloon {
    pub(super) fn capture(balloon: &VirtioBalloon) -> Self {
        let VirtioBalloon { num_pages, actual, hint_command, zeroed, stats } = *balloon;
        Self { num_pages, actual, hint_command, zeroed, stats }
    }

    pub(super) fn into_state(self, core: Value) -> DeviceState {
        let BalloonStats { values, reports } = self.stats;
        // The guest may report any 64 bits, so their sign means nothing.
        let values = values.map(|value| Value::from(value.map(|bits| bits as i64))).to_vec();
        let (zeroed, reports) = (count(self.zeroed), count(reports));
        DeviceState {
            v86: values![core, self.num_pages, self.actual],
            extra: values![VERSION, self.hint_command, zeroed, reports, values],
        }
    }

    /// What is missing is as in `balloon`.
    pub(super) fn read(state: &mut DeviceState, balloon: &VirtioBalloon) -> Result<Self> {
        let mut saved = Self::capture(balloon);
        if let Some(f) = Fields::of(&mut state.v86)? {
            saved.num_pages = f.u32(1)?.unwrap_or(saved.num_pages);
            saved.actual = f.u32(2)?.unwrap_or(saved.actual);
        }
        saved.read_own(&mut state.extra).map_err(FieldError::in_extra)?;
        Ok(saved)
    }

    fn read_own(&mut self, extra: &mut Value) -> Result<()> {
        let Some(mut f) = own_fields(extra)? else { return Ok(()) };
        let read = |f: &Fields<'_>, n| -> Result<Option<u64>> {
            match f.i64(n)?.map(u64::try_from) {
                Some(Err(_)) => Err(FieldError::at(n, "negative")),
                Some(Ok(count)) => Ok(Some(count)),
                None => Ok(None),
            }
        };
        self.hint_command = f.u32(1)?.unwrap_or(self.hint_command);
        self.zeroed = read(&f, 2)?.unwrap_or(self.zeroed);
        self.stats.reports = read(&f, 3)?.unwrap_or(self.stats.reports);
        f.array(4, |f| {
            for (tag, value) in self.stats.values.iter_mut().enumerate() {
                *value = f.i64(tag)?.map(|bits| bits as u64);
            }
            Ok(())
        })?;
        Ok(())
    }

    pub(super) fn apply(self, balloon: &mut VirtioBalloon) {
        let Self { num_pages, actual, hint_command, zeroed, stats } = self;
        *balloon = VirtioBalloon { num_pages, actual, hint_command, zeroed, stats };
    }
}

fn count(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use emu_core::bus::AccessSize::Dword;

    use super::*;
    use crate::device::Device;
    use crate::snapshot_conformance;
    use crate::virtio::balloon::{FREE_PAGES, INFLATE, STATS};
    use crate::virtio::driver::Driver;
    use crate::virtio::{Slot, VirtioDevice, VirtioPci};

    fn make() -> VirtioPci<VirtioBalloon> {
        VirtioPci::new(VirtioBalloon::new(), Slot::BALLOON)
    }

    /// Inflated, a report given (its buffer is kept), in the middle of reporting free pages.
    fn busy(d: &mut Driver<VirtioBalloon>) {
        d.start(d.dev.device().features());
        d.dev.set_target(&mut d.bench.ctx(), 9);
        d.add(INFLATE, &[&[0; 20]], &[]);
        d.kick(INFLATE);
        d.add(STATS, &[&[4, 0, 255, 255, 255, 255, 255, 255, 255, 255]], &[]);
        d.kick(STATS);
        d.dev.request_free_pages(&mut d.bench.ctx());
        d.add(FREE_PAGES, &[], &[4096]);
        d.kick(FREE_PAGES);
    }

    snapshot_conformance!(
        saved_balloon_conforms,
        make: make,
        exercise: |dev, board| {
            let mut d = Driver::over(std::mem::replace(dev, make()), std::mem::take(board));
            busy(&mut d);
            (*dev, *board) = (d.dev, d.bench);
        },
        ignored: &[],
    );

    #[test]
    fn restored_balloon_goes_on_in_the_middle_of_reports() {
        let mut d = Driver::over(make(), crate::testing::TestBoard::new());
        busy(&mut d);
        d.used(FREE_PAGES);
        let state = d.dev.save(&mut d.bench.ctx());
        let Value::Array(items) = &state.v86 else { panic!() };
        assert_eq!(items[1..], [9, 5].map(Value::Int));
        let Value::Array(core) = &items[0] else { panic!() };
        let Value::Array(stats) = &core[12] else { panic!() };
        assert_eq!((&stats[6], &stats[8]), (&Value::Int(1), &Value::Int(1)), "the buffer is staged");
        d.dev = make();
        d.dev.restore(&mut d.bench.ctx(), state).unwrap();
        assert_eq!([0, 4, 8].map(|at| d.input(at, Dword)), [Some(9), Some(5), Some(2)]);
        let stats = d.dev.device().stats();
        assert_eq!((stats.get(4), stats.get(5), stats.reports), (Some(u64::MAX), None, 1));
        assert_eq!(d.used(STATS), []);
        d.dev.request_stats(&mut d.bench.ctx());
        assert_eq!(d.used(STATS).len(), 1, "the driver gets its buffer back");
        d.add(FREE_PAGES, &[], &[4096]);
        d.add(FREE_PAGES, &[&0u32.to_le_bytes()], &[]);
        d.kick(FREE_PAGES);
        assert_eq!(d.dev.device().zeroed(), Some(8192));
    }
}
