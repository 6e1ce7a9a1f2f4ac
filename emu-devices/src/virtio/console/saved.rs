//! The console as snapshots hold it.
//!
//! v86's array: registers and queues, rows, columns, number of ports. Our own state: version, which ports
//! are open, control messages that wait for a buffer. From v86's snapshots all ports come back closed,
//! because v86 does not keep that.

use emu_core::snapshot::{FieldError, Fields, Value};
use emu_core::values;

use super::{PORTS, VirtioConsole};
use crate::device::DeviceState;
use crate::limits::{VIRTIO_CONSOLE_BACKLOG, VIRTIO_CONSOLE_MESSAGE};
use crate::virtio::saved::{VERSION, own_fields};

type Result<T> = std::result::Result<T, FieldError>;

pub(super) struct SavedConsole {
    cols: u16,
    rows: u16,
    control: Vec<Vec<u8>>,
    open: [bool; PORTS as usize],
}

impl SavedConsole {
    pub(super) fn capture(console: &VirtioConsole) -> Self {
        let VirtioConsole { cols, rows, sink: _, control, open } = console;
        Self { cols: *cols, rows: *rows, control: control.iter().cloned().collect(), open: *open }
    }

    pub(super) fn into_state(self, core: Value) -> DeviceState {
        let open = self.open.into_iter().map(Value::from).collect::<Vec<_>>();
        let control = self.control.into_iter().map(Value::bytes).collect::<Vec<_>>();
        DeviceState {
            v86: values![core, self.rows, self.cols, PORTS],
            extra: values![VERSION, open, control],
        }
    }

    /// What is missing is as in `console`.
    pub(super) fn read(state: &mut DeviceState, console: &VirtioConsole) -> Result<Self> {
        let mut saved = Self::capture(console);
        if let Some(f) = Fields::of(&mut state.v86)? {
            saved.rows = f.u16(1)?.unwrap_or(saved.rows);
            saved.cols = f.u16(2)?.unwrap_or(saved.cols);
            // Another number would be another number of queues.
            f.u32(3)?;
        }
        saved.read_own(&mut state.extra).map_err(FieldError::in_extra)?;
        Ok(saved)
    }

    fn read_own(&mut self, extra: &mut Value) -> Result<()> {
        let Some(mut f) = own_fields(extra)? else { return Ok(()) };
        f.array(1, |f| {
            if f.len() > self.open.len() {
                return Err(FieldError::at(self.open.len(), "more ports than there are"));
            }
            for (n, open) in self.open.iter_mut().enumerate() {
                *open = f.bool(n)?.unwrap_or(*open);
            }
            Ok(())
        })?;
        f.array(2, |f| {
            if f.len() > VIRTIO_CONSOLE_BACKLOG {
                return Err(FieldError::at(VIRTIO_CONSOLE_BACKLOG, "too many messages"));
            }
            for n in 0..f.len() {
                self.control.extend(f.bytes_up_to(n, VIRTIO_CONSOLE_MESSAGE)?);
            }
            Ok(())
        })?;
        Ok(())
    }

    pub(super) fn apply(self, console: &mut VirtioConsole) {
        let Self { cols, rows, control, open } = self;
        (console.cols, console.rows) = (cols, rows);
        console.control = control.into();
        for (port, now) in (0u8..).zip(open) {
            if now != console.is_open(port) {
                console.sink.connected(port, now);
            }
        }
        console.open = open;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::device::Device;
    use crate::snapshot_conformance;
    use crate::virtio::console::{CONTROL_RX, CONTROL_TX, ConsoleSink, QUEUES};
    use crate::virtio::driver::Driver;
    use crate::virtio::{Slot, VirtioDevice, VirtioPci};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<(u8, bool)>>>);

    impl ConsoleSink for Sink {
        fn output(&mut self, _: u8, _: &[u8]) {}
        fn connected(&mut self, port: u8, open: bool) {
            self.0.lock().unwrap().push((port, open));
        }
    }

    fn make() -> VirtioPci<VirtioConsole> {
        VirtioPci::new(VirtioConsole::new(Box::new(Sink::default())), Slot::CONSOLE)
    }

    fn control(d: &mut Driver<VirtioConsole>, port: u8, event: u8, value: u8) {
        d.add(CONTROL_TX, &[&[port, 0, 0, 0, event, 0, value, 0]], &[]);
        d.kick(CONTROL_TX);
    }

    /// Port 2 is open, four messages wait, the terminal has another size.
    fn busy(d: &mut Driver<VirtioConsole>) {
        d.start(d.dev.device().features());
        d.dev.resize(&mut d.bench.ctx(), 132, 43);
        control(d, 2, 6, 1);
        control(d, 0, 0, 1);
    }

    snapshot_conformance!(
        saved_console_conforms,
        make: make,
        exercise: |dev, board| {
            let mut d = Driver::over(std::mem::replace(dev, make()), std::mem::take(board));
            busy(&mut d);
            (*dev, *board) = (d.dev, d.bench);
        },
        ignored: &[],
    );

    #[test]
    fn saved_console_is_v86s_array() {
        let mut d = Driver::cold(VirtioConsole::new(Box::new(Sink::default())), Slot::CONSOLE);
        busy(&mut d);
        let Value::Array(items) = d.dev.save(&mut d.bench.ctx()).v86 else { panic!() };
        assert_eq!(items[1..], [43, 132, 4].map(Value::Int));
        let Value::Array(core) = &items[0] else { panic!() };
        assert_eq!(core.len(), 10 + QUEUES.len());
        assert_eq!(core[2], Value::u32s(&[3, 1, 0, 0]));
    }

    #[test]
    fn restored_console_sends_what_waited_and_tells_which_ports_are_open() {
        let mut d = Driver::cold(VirtioConsole::new(Box::new(Sink::default())), Slot::CONSOLE);
        busy(&mut d);
        d.used(CONTROL_TX);
        let state = d.dev.save(&mut d.bench.ctx());
        let sink = Sink::default();
        d.dev = VirtioPci::new(VirtioConsole::new(Box::new(sink.clone())), Slot::CONSOLE);
        d.dev.restore(&mut d.bench.ctx(), state).unwrap();
        assert_eq!(*sink.0.lock().unwrap(), [(2, true)]);
        let sent: Vec<_> = (0..5).map(|_| d.add(CONTROL_RX, &[], &[32])).collect();
        d.kick(CONTROL_RX);
        let used = d.used(CONTROL_RX);
        assert_eq!(used.len(), 4);
        assert_eq!(d.get(sent[3].out[0], 8), [3, 0, 0, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn restored_console_with_too_many_messages_is_refused() {
        let mut d = Driver::cold(VirtioConsole::new(Box::new(Sink::default())), Slot::CONSOLE);
        let messages = vec![Value::bytes([0; 8]); VIRTIO_CONSOLE_BACKLOG + 1];
        let state = DeviceState { v86: Value::Null, extra: values![VERSION, Value::Null, messages] };
        assert_eq!(d.dev.restore(&mut d.bench.ctx(), state).unwrap_err().path, [2, 64]);
        let messages = vec![Value::bytes([0; VIRTIO_CONSOLE_MESSAGE + 1])];
        let state = DeviceState { v86: Value::Null, extra: values![VERSION, Value::Null, messages] };
        assert_eq!(d.dev.restore(&mut d.bench.ctx(), state).unwrap_err().path, [2, 0]);
    }
}
