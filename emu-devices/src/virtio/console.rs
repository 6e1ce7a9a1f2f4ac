//! virtio-console: four ports, the first of which is a terminal.

mod saved;

use std::collections::VecDeque;

use emu_core::snapshot::{FieldError, Value};

use crate::device::{Ctx, DeviceState};
use crate::limits::{VIRTIO_CONSOLE_BACKLOG, VIRTIO_CONSOLE_WRITE};

use super::pci::{CorePlace, Queues, VirtioDevice, VirtioPci};
use super::spec::{feature, kind};
use super::state::QueueSpec;
use saved::SavedConsole;

/// Number of ports.
pub const PORTS: u8 = 4;

/// Control queues, named from the driver's side as the specification does: the device writes the
/// first and reads the second.
const CONTROL_RX: u16 = 2;
const CONTROL_TX: u16 = 3;
/// Receive and transmit queue of port 0, the control queues, then a pair for each other port.
/// Queues of the same kind share a notification address.
const QUEUES: [QueueSpec; 10] = [
    QueueSpec { max_size: 16, notify_off: 0 },
    QueueSpec { max_size: 16, notify_off: 1 },
    QueueSpec { max_size: 16, notify_off: 2 },
    QueueSpec { max_size: 16, notify_off: 3 },
    QueueSpec { max_size: 16, notify_off: 0 },
    QueueSpec { max_size: 8, notify_off: 1 },
    QueueSpec { max_size: 16, notify_off: 0 },
    QueueSpec { max_size: 8, notify_off: 1 },
    QueueSpec { max_size: 16, notify_off: 0 },
    QueueSpec { max_size: 8, notify_off: 1 },
];

/// VIRTIO_CONSOLE_F_SIZE and MULTIPORT.
const FEATURES: u64 = 1 << 0 | 1 << 1;

/// Columns, rows, number of ports, emergency write (not offered).
const WIDTHS: [u8; 4] = [2, 2, 4, 4];
const COLS: u16 = 0;
const ROWS: u16 = 2;
const MAX_PORTS: u16 = 4;

/// Control events.
const DEVICE_READY: u16 = 0;
const DEVICE_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const CONSOLE_PORT: u16 = 4;
const RESIZE: u16 = 5;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;

/// What happens to bytes the guest writes.
pub trait ConsoleSink: Send {
    /// Bytes written to port `port` (0-3).
    fn output(&mut self, port: u8, bytes: &[u8]);

    /// A program in the guest opened or closed the port.
    fn connected(&mut self, _port: u8, _open: bool) {}
}

/// virtio-console device.
pub struct VirtioConsole {
    pub(crate) cols: u16,
    pub(crate) rows: u16,
    sink: Box<dyn ConsoleSink>,
    /// Control messages that wait for a buffer.
    control: VecDeque<Vec<u8>>,
    /// Ports a program in the guest has open.
    open: [bool; PORTS as usize],
}

/// Receive queue of a port.
const fn rx_queue(port: u8) -> u16 {
    if port == 0 { 0 } else { 2 + 2 * port as u16 }
}

/// Port whose transmit queue `q` is.
const fn tx_port(q: u16) -> Option<u8> {
    match q {
        1 => Some(0),
        5 | 7 | 9 => Some(((q - 3) / 2) as u8),
        _ => None,
    }
}

impl VirtioConsole {
    /// A console of 80 columns and 25 rows.
    pub fn new(sink: Box<dyn ConsoleSink>) -> Self {
        Self { cols: 80, rows: 25, sink, control: VecDeque::new(), open: [false; PORTS as usize] }
    }

    /// True while a program in the guest has the port open.
    pub fn is_open(&self, port: u8) -> bool {
        self.open.get(usize::from(port)).copied().unwrap_or(false)
    }

    /// Input for a port; returns the bytes taken. What the guest has no buffer for is left to the
    /// caller (v86 drops it).
    pub fn input(&mut self, queues: &mut Queues<'_>, port: u8, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        if port >= PORTS {
            return 0;
        }
        let q = rx_queue(port);
        while !rest.is_empty()
            && let Some(mut chain) = queues.pop(q)
        {
            let n = chain.write(queues.mem_mut(), rest);
            rest = rest.get(n..).unwrap_or_default();
            queues.push(q, chain);
        }
        queues.flush(q);
        bytes.len() - rest.len()
    }

    fn output(&mut self, q: u16, port: u8, queues: &mut Queues<'_>) {
        while let Some(chain) = queues.pop(q) {
            let mut room = VIRTIO_CONSOLE_WRITE;
            for s in chain.readable() {
                let n = room.min(s.len as usize);
                if n == 0 {
                    break;
                }
                room -= n;
                if let Some(bytes) = queues.mem().dma_slice(u64::from(s.addr), n) {
                    self.sink.output(port, bytes);
                }
            }
            queues.push(q, chain);
        }
        queues.flush(q);
    }

    fn take_control(&mut self, queues: &mut Queues<'_>) {
        while let Some(chain) = queues.pop(CONTROL_TX) {
            let mut m = [0; 8];
            let complete = chain.read_prefix(queues.mem(), &mut m) == m.len();
            queues.push(CONTROL_TX, chain);
            if complete {
                let [p0, p1, p2, p3, e0, e1, v0, v1] = m;
                let port = u32::from_le_bytes([p0, p1, p2, p3]);
                self.event(port, u16::from_le_bytes([e0, e1]), u16::from_le_bytes([v0, v1]));
            }
        }
        queues.flush(CONTROL_TX);
        self.send_control(queues);
    }

    fn event(&mut self, port: u32, event: u16, value: u16) {
        if event == DEVICE_READY {
            if value == 1 {
                (0..PORTS).for_each(|p| self.queue_control(p, DEVICE_ADD, 0, &[]));
            }
            return;
        }
        let Some(port) = u8::try_from(port).ok().filter(|&p| p < PORTS) else { return };
        match event {
            PORT_READY if value == 1 => {
                self.queue_control(port, CONSOLE_PORT, 1, &[]);
                self.queue_control(port, PORT_NAME, 1, format!("virtio-{port}\0").as_bytes());
                self.queue_control(port, PORT_OPEN, 1, &[]);
            }
            PORT_OPEN => {
                if let Some(open) = self.open.get_mut(usize::from(port)) {
                    *open = value != 0;
                }
                self.sink.connected(port, value != 0);
                if port == 0 {
                    self.queue_resize();
                }
            }
            _ => {}
        }
    }

    fn queue_resize(&mut self) {
        let ([r0, r1], [c0, c1]) = (self.rows.to_le_bytes(), self.cols.to_le_bytes());
        self.queue_control(0, RESIZE, 0, &[r0, r1, c0, c1]);
    }

    fn queue_control(&mut self, port: u8, event: u16, value: u16, data: &[u8]) {
        if self.control.len() >= VIRTIO_CONSOLE_BACKLOG {
            return; // a driver that asks for more without taking any
        }
        let mut message = u32::from(port).to_le_bytes().to_vec();
        message.extend(event.to_le_bytes());
        message.extend(value.to_le_bytes());
        message.extend(data);
        self.control.push_back(message);
    }

    fn send_control(&mut self, queues: &mut Queues<'_>) {
        while !self.control.is_empty()
            && let Some(mut chain) = queues.pop(CONTROL_RX)
            && let Some(message) = self.control.pop_front()
        {
            chain.write(queues.mem_mut(), &message);
            queues.push(CONTROL_RX, chain);
        }
        queues.flush(CONTROL_RX);
    }
}

impl VirtioDevice for VirtioConsole {
    fn name(&self) -> &'static str {
        "virtio-console"
    }

    fn device_id(&self) -> u16 {
        kind::CONSOLE
    }

    fn features(&self) -> u64 {
        FEATURES | feature::VERSION_1
    }

    fn queues(&self) -> &'static [QueueSpec] {
        &QUEUES
    }

    fn config_widths(&self) -> &'static [u8] {
        &WIDTHS
    }

    fn config_read(&self, offset: u16) -> u32 {
        match offset {
            COLS => self.cols.into(),
            ROWS => self.rows.into(),
            MAX_PORTS => PORTS.into(),
            _ => 0,
        }
    }

    fn notify(&mut self, q: u16, queues: &mut Queues<'_>) {
        match q {
            CONTROL_TX => self.take_control(queues),
            CONTROL_RX => self.send_control(queues),
            _ => {
                if let Some(port) = tx_port(q) {
                    self.output(q, port, queues);
                }
            }
        }
    }

    fn reset(&mut self) {
        self.control.clear();
        for port in 0..PORTS {
            if self.is_open(port) {
                self.sink.connected(port, false);
            }
        }
        self.open = [false; PORTS as usize];
    }

    fn core_place(&self) -> CorePlace {
        CorePlace::V86(0)
    }

    fn save(&mut self, core: Value) -> DeviceState {
        SavedConsole::capture(self).into_state(core)
    }

    fn restore(&mut self, state: &mut DeviceState) -> Result<(), FieldError> {
        SavedConsole::read(state, self)?.apply(self);
        Ok(())
    }
}

impl VirtioPci<VirtioConsole> {
    /// Input for a port (0-3); returns the bytes the guest had room for.
    pub fn input(&mut self, ctx: &mut Ctx<'_>, port: u8, bytes: &[u8]) -> usize {
        self.with(ctx, |console, queues| console.input(queues, port, bytes))
    }

    /// The host's terminal has another size. A driver that has not come up yet learns it when it
    /// opens the port.
    pub fn resize(&mut self, ctx: &mut Ctx<'_>, cols: u16, rows: u16) {
        self.with(ctx, |console, queues| {
            (console.cols, console.rows) = (cols, rows);
            if queues.has_chain(CONTROL_RX) {
                console.queue_resize();
                console.send_control(queues);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use emu_core::bus::AccessSize::{Byte, Dword, Word};
    use proptest::prelude::*;

    use super::*;
    use crate::virtio::Slot;
    use crate::virtio::driver::Driver;

    type Outputs = Vec<(u8, Vec<u8>)>;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Outputs>>, Arc<Mutex<Vec<(u8, bool)>>>);

    impl ConsoleSink for Sink {
        fn output(&mut self, port: u8, bytes: &[u8]) {
            self.0.lock().unwrap().push((port, bytes.to_vec()));
        }
        fn connected(&mut self, port: u8, open: bool) {
            self.1.lock().unwrap().push((port, open));
        }
    }

    fn console() -> (Driver<VirtioConsole>, Sink) {
        let sink = Sink::default();
        (Driver::new(VirtioConsole::new(Box::new(sink.clone())), Slot::CONSOLE), sink)
    }

    fn control(d: &mut Driver<VirtioConsole>, port: u8, event: u8, value: u8) {
        d.add(CONTROL_TX, &[&[port, 0, 0, 0, event, 0, value, 0]], &[]);
        d.kick(CONTROL_TX);
        assert_eq!(d.used(CONTROL_TX).len(), 1);
    }

    /// Messages the device sent into `buffers` of 32 bytes since the last call.
    fn messages(d: &mut Driver<VirtioConsole>, buffers: &[(u16, u64)]) -> Vec<Vec<u8>> {
        let used = d.used(CONTROL_RX);
        let find = |head| buffers.iter().find(|b| b.0 == head).unwrap().1;
        used.iter().map(|&(head, len)| d.get(find(head), len as usize)).collect()
    }

    fn post(d: &mut Driver<VirtioConsole>, n: usize) -> Vec<(u16, u64)> {
        (0..n)
            .map(|_| {
                let sent = d.add(CONTROL_RX, &[], &[32]);
                (sent.head, sent.out[0])
            })
            .collect()
    }

    #[test]
    fn console_configuration_is_80_by_25_with_four_ports() {
        let (mut d, _) = console();
        assert_eq!(d.input(0, Word), Some(80));
        assert_eq!(d.input(2, Word), Some(25));
        assert_eq!(d.input(4, Dword), Some(4));
        assert_eq!(d.input(8, Dword), Some(0));
        assert_eq!(d.input(12, Byte), None);
        let sizes: Vec<u16> = d.dev.state().queues.iter().map(|q| q.max_size).collect();
        assert_eq!(sizes, [16, 16, 16, 16, 16, 8, 16, 8, 16, 8]);
        let offsets: Vec<u16> = d.dev.state().queues.iter().map(|q| q.notify_off).collect();
        assert_eq!(offsets, [0, 1, 2, 3, 0, 1, 0, 1, 0, 1]);
        assert_eq!(d.dev.device().features(), 0x1_0000_0003);
    }

    #[test]
    fn console_control_protocol_adds_names_and_opens_ports() {
        let (mut d, sink) = console();
        let buffers = post(&mut d, 16);
        control(&mut d, 0, 0, 1);
        let added: Vec<Vec<u8>> = (0..4).map(|p| vec![p, 0, 0, 0, 1, 0, 0, 0]).collect();
        assert_eq!(messages(&mut d, &buffers), added);
        control(&mut d, 2, 3, 1);
        assert_eq!(
            messages(&mut d, &buffers),
            [&[2, 0, 0, 0, 4, 0, 1, 0][..], b"\x02\0\0\0\x07\0\x01\0virtio-2\0", &[2, 0, 0, 0, 6, 0, 1, 0]]
        );
        control(&mut d, 0, 6, 1);
        assert_eq!(messages(&mut d, &buffers), [[0, 0, 0, 0, 5, 0, 0, 0, 25, 0, 80, 0]]);
        control(&mut d, 1, 6, 1);
        control(&mut d, 7, 6, 1); // no such port
        control(&mut d, 1, 3, 0); // failed to set up
        assert_eq!(messages(&mut d, &buffers), [[0; 0]; 0]);
        assert_eq!(*sink.1.lock().unwrap(), [(0, true), (1, true)]);
        assert!(d.dev.device().is_open(1) && !d.dev.device().is_open(2));
        // The host's terminal changes.
        d.dev.resize(&mut d.bench.ctx(), 132, 43);
        assert_eq!(messages(&mut d, &buffers), [[0, 0, 0, 0, 5, 0, 0, 0, 43, 0, 132, 0]]);
        assert_eq!(d.input(0, Word), Some(132));
    }

    #[test]
    fn console_control_messages_wait_for_buffers_up_to_the_limit() {
        let (mut d, _) = console();
        for _ in 0..40 {
            control(&mut d, 0, 0, 1); // four messages each
        }
        assert_eq!(d.dev.device().control.len(), VIRTIO_CONSOLE_BACKLOG);
        let buffers = post(&mut d, 6);
        d.kick(CONTROL_RX);
        let ports: Vec<u8> = messages(&mut d, &buffers).iter().map(|m| m[0]).collect();
        assert_eq!(ports, [0, 1, 2, 3, 0, 1]);
        assert_eq!(d.dev.device().control.len(), VIRTIO_CONSOLE_BACKLOG - 6);
    }

    #[test]
    fn console_output_goes_to_the_port_of_its_queue() {
        let (mut d, sink) = console();
        for q in [1, 5, 7, 9] {
            d.add(q, &[b"out", &[q as u8]], &[]);
            d.kick(q);
            assert_eq!(d.used(q).len(), 1);
        }
        let mut by_port = vec![Vec::<u8>::new(); 4];
        for (port, bytes) in sink.0.lock().unwrap().iter() {
            by_port[usize::from(*port)].extend(bytes);
        }
        assert_eq!(by_port, [b"out\x01", b"out\x05", b"out\x07", b"out\x09"]);
    }

    #[test]
    fn console_output_of_one_chain_is_limited() {
        let (mut d, sink) = console();
        let (table, ..) = Driver::<VirtioConsole>::rings(1);
        d.put_desc(table, (0, VIRTIO_CONSOLE_WRITE as u32 - 1, 1, 1));
        d.put_desc(table + 16, (0, 100, 0, 0));
        d.offer(1, 0);
        d.kick(1);
        let lens: Vec<usize> = sink.0.lock().unwrap().iter().map(|o| o.1.len()).collect();
        assert_eq!(lens, [VIRTIO_CONSOLE_WRITE - 1, 1]);
        assert_eq!(d.used(1), [(0, 0)]);
    }

    #[test]
    fn console_input_fills_buffers_and_reports_what_fitted() {
        let (mut d, _) = console();
        assert_eq!(d.dev.input(&mut d.bench.ctx(), 3, b"lost"), 0);
        let (a, b) = (d.add(8, &[], &[4]), d.add(8, &[], &[4]));
        d.kick(8);
        assert_eq!(d.dev.input(&mut d.bench.ctx(), 3, b"hello, world"), 8);
        assert_eq!(d.used(8), [(a.head, 4), (b.head, 4)]);
        assert_eq!([d.get(a.out[0], 4), d.get(b.out[0], 4)].concat(), b"hello, w");
        assert!(d.irq());
        assert_eq!(d.dev.input(&mut d.bench.ctx(), 4, b"x"), 0, "no such port");
    }

    #[test]
    fn console_reset_closes_ports_and_forgets_messages() {
        let (mut d, sink) = console();
        control(&mut d, 3, 6, 1);
        control(&mut d, 0, 0, 1);
        d.output(0x214, Byte, 0);
        assert_eq!(*sink.1.lock().unwrap(), [(3, true), (3, false)]);
        assert!(d.dev.device().control.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn console_survives_random_chains(
            chains in prop::collection::vec((0u16..10, prop::collection::vec(0u8..9, 0..12), 0u32..20), 1..60),
        ) {
            let (mut d, _) = console();
            for (q, readable, writable) in chains {
                d.add(q, &[&readable], &[writable]);
                d.kick(q);
                d.dev.input(&mut d.bench.ctx(), q as u8 % 4, &readable);
            }
            prop_assert!(d.dev.device().control.len() <= VIRTIO_CONSOLE_BACKLOG);
        }
    }
}
