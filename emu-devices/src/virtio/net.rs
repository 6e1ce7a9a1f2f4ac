//! virtio-net: a network card without offloads, one pair of queues.

mod saved;

use emu_core::snapshot::{FieldError, Value};

use crate::device::{Ctx, DeviceState};
use crate::limits::VIRTIO_NET_FRAME;
use crate::net::NetSink;

use super::pci::{CorePlace, Queues, VirtioDevice, VirtioPci};
use super::spec::{feature, kind};
use super::state::QueueSpec;
use saved::SavedNet;

/// Queue numbers.
const RX: u16 = 0;
const TX: u16 = 1;
const CONTROL: u16 = 2;
const QUEUES: [QueueSpec; 3] = [
    QueueSpec { max_size: 1024, notify_off: 0 },
    QueueSpec { max_size: 1024, notify_off: 1 },
    QueueSpec { max_size: 16, notify_off: 2 },
];

/// VIRTIO_NET_F_MTU, MAC, STATUS, CTRL_VQ, MQ and CTRL_MAC_ADDR.
const FEATURES: u64 = 1 << 3 | 1 << 5 | 1 << 16 | 1 << 17 | 1 << 22 | 1 << 23;

/// MAC bytes; status; queue pairs; MTU.
const WIDTHS: [u8; 9] = [1, 1, 1, 1, 1, 1, 2, 2, 2];
const STATUS: u16 = 6;
const MAX_PAIRS: u16 = 8;
const MTU: u16 = 10;

/// VIRTIO_NET_S_LINK_UP.
const LINK_UP: u32 = 1;
/// Queue pairs.
const PAIRS: u16 = 1;

/// Bytes before each frame.
const HEADER: usize = 12;
/// Header of a received frame: nothing is offloaded, one buffer. The count is in network byte
/// order where the specification wants little-endian; drivers without mergeable buffers, the only
/// ones this device has, do not look at it, and these are v86's bytes.
const RX_HEADER: [u8; HEADER] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// Control commands: class, command.
const MAC_ADDR_SET: [u8; 2] = [1, 1];
const MQ_PAIRS_SET: [u8; 2] = [4, 0];
/// Answers to control commands.
const OK: u8 = 0;
const ERROR: u8 = 1;

/// virtio-net device.
pub struct VirtioNet {
    mac: [u8; 6],
    mtu: u16,
    sink: Box<dyn NetSink>,
    frame: Vec<u8>,
}

impl VirtioNet {
    /// A card with address `mac`; frames the guest sends go to `sink`. v86's MTU is 1500.
    pub fn new(mac: [u8; 6], mtu: u16, sink: Box<dyn NetSink>) -> Self {
        Self { mac, mtu, sink, frame: Vec::new() }
    }

    /// Current address.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Gives the card another address (restored machines).
    pub fn set_mac(&mut self, mac: [u8; 6]) {
        self.mac = mac;
    }

    /// A frame for the guest. False if it was dropped: the guest has no buffer, or too small a one.
    pub fn receive(&mut self, queues: &mut Queues<'_>, frame: &[u8]) -> bool {
        if frame.len() > VIRTIO_NET_FRAME {
            return false;
        }
        let Some(mut chain) = queues.pop(RX) else { return false };
        let fits = chain.writable_len() >= (HEADER + frame.len()) as u64;
        if fits {
            chain.write(queues.mem_mut(), &RX_HEADER);
            chain.write(queues.mem_mut(), frame);
        }
        queues.complete(RX, chain);
        fits
    }

    fn transmit(&mut self, queues: &mut Queues<'_>) {
        while let Some(chain) = queues.pop(TX) {
            if chain.read_all(queues.mem(), HEADER + VIRTIO_NET_FRAME, &mut self.frame)
                && let Some(frame) = self.frame.get(HEADER..)
            {
                self.sink.send(frame);
            }
            queues.push(TX, chain);
        }
        queues.flush(TX);
    }

    fn control(&mut self, queues: &mut Queues<'_>) {
        while let Some(mut chain) = queues.pop(CONTROL) {
            let mut request = [0; 8];
            let len = chain.read_prefix(queues.mem(), &mut request);
            let [class, command, data @ ..] = request;
            let answer = match [class, command] {
                MAC_ADDR_SET if len == 8 => {
                    self.mac = data;
                    OK
                }
                MQ_PAIRS_SET if len >= 4 && u16::from_le_bytes([data[0], data[1]]) == PAIRS => OK,
                _ => ERROR,
            };
            chain.write(queues.mem_mut(), &[answer]);
            queues.push(CONTROL, chain);
        }
        queues.flush(CONTROL);
    }
}

impl VirtioDevice for VirtioNet {
    fn name(&self) -> &'static str {
        "virtio-net"
    }

    fn device_id(&self) -> u16 {
        kind::NET
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
            STATUS => LINK_UP,
            MAX_PAIRS => PAIRS.into(),
            MTU => self.mtu.into(),
            i => self.mac.get(usize::from(i)).copied().unwrap_or(0).into(),
        }
    }

    fn notify(&mut self, q: u16, queues: &mut Queues<'_>) {
        match q {
            TX => self.transmit(queues),
            CONTROL => self.control(queues),
            _ => {} // fresh receive buffers: they wait for a frame
        }
    }

    fn core_place(&self) -> CorePlace {
        CorePlace::V86(0)
    }

    fn save(&mut self, core: Value) -> DeviceState {
        SavedNet::capture(self).into_state(core)
    }

    fn restore(&mut self, state: &mut DeviceState) -> Result<(), FieldError> {
        SavedNet::read(state, self)?.apply(self);
        Ok(())
    }
}

impl VirtioPci<VirtioNet> {
    /// A frame for the guest. False if it was dropped.
    pub fn receive(&mut self, ctx: &mut Ctx<'_>, frame: &[u8]) -> bool {
        self.with(ctx, |net, queues| net.receive(queues, frame))
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

    const ADDRESS: [u8; 6] = [0x00, 0x22, 0x15, 1, 2, 3];

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<Vec<u8>>>>);

    impl NetSink for Sink {
        fn send(&mut self, frame: &[u8]) {
            self.0.lock().unwrap().push(frame.to_vec());
        }
    }

    fn net() -> (Driver<VirtioNet>, Sink) {
        let sink = Sink::default();
        (Driver::new(VirtioNet::new(ADDRESS, 1500, Box::new(sink.clone())), Slot::NET), sink)
    }

    #[test]
    fn net_configuration_holds_mac_link_pairs_and_mtu() {
        let (mut d, _) = net();
        let mac: Vec<u32> = (0..6).filter_map(|i| d.input(i, Byte)).collect();
        assert_eq!(mac, ADDRESS.map(u32::from));
        assert_eq!(d.input(0, Dword), None, "the address is six bytes");
        assert_eq!(d.input(6, Word), Some(1));
        assert_eq!(d.input(8, Word), Some(1));
        assert_eq!(d.input(10, Word), Some(1500));
        assert_eq!(d.dev.device().features(), 0x1_00C3_0028);
        let queues: Vec<_> = d.dev.state().queues.iter().map(|q| (q.max_size, q.notify_off)).collect();
        assert_eq!(queues, [(1024, 0), (1024, 1), (16, 2)]);
    }

    #[test]
    fn net_frames_go_out_without_their_header() {
        let (mut d, sink) = net();
        d.add(TX, &[&[0; 12], b"frame one"], &[]);
        d.add(TX, &[b"header......frame two"], &[]);
        d.add(TX, &[b"short"], &[]);
        d.kick(TX);
        assert_eq!(*sink.0.lock().unwrap(), [b"frame one", b"frame two"]);
        assert_eq!(d.used(TX).len(), 3);
    }

    #[test]
    fn net_frame_size_limit_is_exact_in_both_directions() {
        let (mut d, sink) = net();
        let longest = vec![7; HEADER + VIRTIO_NET_FRAME];
        d.add(TX, &[&longest], &[]);
        d.add(TX, &[&longest, b"."], &[]);
        d.kick(TX);
        assert_eq!(sink.0.lock().unwrap().iter().map(Vec::len).collect::<Vec<_>>(), [VIRTIO_NET_FRAME]);
        assert_eq!(d.used(TX).len(), 2);
        d.add(RX, &[], &[100_000]);
        assert!(!d.dev.receive(&mut d.bench.ctx(), &vec![7; VIRTIO_NET_FRAME + 1]));
        assert_eq!(d.used(RX), []);
        assert!(d.dev.receive(&mut d.bench.ctx(), &vec![7; VIRTIO_NET_FRAME]));
        assert_eq!(d.used(RX), [(0, longest.len() as u32)]);
    }

    #[test]
    fn net_received_frame_has_v86s_header() {
        let (mut d, _) = net();
        let sent = d.add(RX, &[], &[12, 1514]);
        d.kick(RX);
        assert!(d.dev.receive(&mut d.bench.ctx(), b"to the guest"));
        assert_eq!(d.used(RX), [(sent.head, 24)]);
        assert_eq!(d.get(sent.out[0], 12), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(d.get(sent.out[1], 12), b"to the guest");
        assert!(d.irq());
    }

    #[test]
    fn net_frame_without_a_fitting_buffer_is_dropped() {
        let (mut d, _) = net();
        assert!(!d.dev.receive(&mut d.bench.ctx(), b"nobody listens"));
        let small = d.add(RX, &[], &[20]);
        assert!(!d.dev.receive(&mut d.bench.ctx(), b"too long for it"));
        assert_eq!(d.used(RX), [(small.head, 0)]);
    }

    #[test]
    fn net_control_sets_the_address_and_refuses_the_rest() {
        let (mut d, _) = net();
        let requests: [(&[u8], u8); 6] = [
            (&[1, 1, 2, 4, 6, 8, 10, 12], 0),
            (&[1, 1, 2, 4], 1),
            (&[4, 0, 1, 0], 0),
            (&[4, 0, 2, 0], 1),
            (&[0, 0, 1], 1),
            (&[], 1),
        ];
        for (request, answer) in requests {
            let sent = d.add(CONTROL, &[request], &[1]);
            d.put(sent.out[0], &[0xFF]);
            d.kick(CONTROL);
            assert_eq!(d.get(sent.out[0], 1), [answer], "{request:?}");
            assert_eq!(d.used(CONTROL), [(sent.head, 1)]);
        }
        assert_eq!(d.dev.device().mac(), [2, 4, 6, 8, 10, 12]);
        assert_eq!(d.input(5, Byte), Some(12));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn net_survives_random_chains(
            chains in prop::collection::vec((0u16..3, prop::collection::vec(any::<u8>(), 0..40), 0u32..40), 1..60),
        ) {
            let (mut d, sink) = net();
            for (q, readable, writable) in chains {
                d.add(q, &[&readable], &[writable]);
                d.kick(q);
                d.dev.receive(&mut d.bench.ctx(), &readable);
            }
            prop_assert!(sink.0.lock().unwrap().iter().all(|f| f.len() <= 40 - HEADER));
        }
    }
}
