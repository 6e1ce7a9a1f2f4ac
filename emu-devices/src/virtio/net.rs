//! virtio-net: a network card with one pair of queues.
//!
//! As v86 has it, it offloads nothing ([`Offload::None`]). With [`Offload::Tcp`] it takes over checksums and the
//! cutting and joining of TCP segments from guests that want that ([`offload`]), and interrupts less: a machine of
//! our own may ask for that.

mod offload;
mod saved;

use emu_core::snapshot::{FieldError, Value};

use crate::device::{Ctx, DeviceState};
use crate::limits::VIRTIO_NET_FRAME;
use crate::net::{Cable, Reception};

use super::pci::{CorePlace, Queues, VirtioDevice, VirtioPci};
use super::queue::Chain;
use super::spec::{feature, kind};
use super::state::QueueSpec;
use offload::{Header, Joined};
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
/// VIRTIO_NET_F_GUEST_CSUM: the guest takes frames whose checksum is said to be right.
const GUEST_CSUM: u64 = 1 << 1;
/// VIRTIO_NET_F_GUEST_TSO4: the guest takes TCP segments that are larger than frames.
const GUEST_TSO4: u64 = 1 << 7;
/// VIRTIO_NET_F_MRG_RXBUF: a frame may lie in several buffers.
const MRG_RXBUF: u64 = 1 << 15;
/// VIRTIO_NET_F_CSUM and HOST_TSO4: the same for what the guest sends; and all of the above.
const OFFLOADS: u64 = 1 | 1 << 11 | GUEST_CSUM | GUEST_TSO4 | MRG_RXBUF;

/// What the card takes over from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// Nothing, as v86.
    None,
    /// Checksums and TCP segmentation.
    Tcp,
}

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
/// order where the specification wants little-endian; drivers without mergeable buffers do not look at it, and
/// these are v86's bytes.
const RX_HEADER: [u8; HEADER] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/// Most buffers of a received frame: the longest in buffers of a page.
const RX_BUFFERS: usize = 64;

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
    offload: Offload,
    cable: Box<dyn Cable>,
    frame: Vec<u8>,
    piece: Vec<u8>,
    /// Segments on their way to the guest.
    joined: Joined,
    /// Frames wait in the cable, or in `joined`, because the guest had no buffers.
    waiting: bool,
}

impl VirtioNet {
    /// A card with address `mac` at this end of `cable`. v86's MTU is 1500.
    pub fn new(mac: [u8; 6], mtu: u16, offload: Offload, cable: Box<dyn Cable>) -> Self {
        let (frame, piece) = (Vec::new(), Vec::new());
        Self { mac, mtu, offload, cable, frame, piece, joined: Joined::default(), waiting: false }
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
        let reception = deliver(queues, Header::VALID, frame);
        queues.flush(RX);
        reception == Reception::Taken
    }

    /// Fetches the frames that wait in the cable, as far as the guest has buffers.
    pub fn fetch(&mut self, queues: &mut Queues<'_>) {
        let Self { cable, joined, waiting, .. } = self;
        let joins = queues.negotiated(GUEST_TSO4 | MRG_RXBUF);
        // Half of the buffers, so that a frame fits whenever the guest has filled its queue.
        let limit = VIRTIO_NET_FRAME.min(usize::from(queues.size(RX)) * 512);
        *waiting = false;
        cable.receive(&mut |frame| {
            if joined.add(frame, limit) {
                return true;
            }
            let reception = match deliver_joined(queues, joined) {
                Reception::Full => Reception::Full,
                _ if joins && joined.begin(frame) => Reception::Taken,
                _ => deliver(queues, Header::VALID, frame),
            };
            *waiting = reception == Reception::Full;
            !*waiting
        });
        *waiting |= deliver_joined(queues, joined) == Reception::Full;
        queues.flush(RX);
        if *waiting {
            queues.notify_on_next(RX);
        }
    }

    fn transmit(&mut self, queues: &mut Queues<'_>) {
        let Self { cable, frame, piece, offload, .. } = self;
        while let Some(chain) = queues.pop(TX) {
            if chain.read_all(queues.mem(), HEADER + VIRTIO_NET_FRAME, frame)
                && let Some((header, frame)) = frame.split_first_chunk_mut::<HEADER>()
            {
                match offload {
                    Offload::None => cable.send(frame),
                    Offload::Tcp => {
                        offload::transmit(Header::parse(header), frame, piece, &mut |f| cable.send(f));
                    }
                }
            }
            queues.push(TX, chain);
        }
        queues.flush(TX);
        queues.notify_on_next(TX);
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
        queues.notify_on_next(CONTROL);
    }
}

fn deliver_joined(queues: &mut Queues<'_>, joined: &mut Joined) -> Reception {
    if joined.is_empty() {
        return Reception::Ignored;
    }
    let (header, frame) = joined.finish();
    let reception = deliver(queues, header, frame);
    if reception != Reception::Full {
        joined.clear();
    }
    reception
}

/// Puts a frame into the guest's buffers; [`Queues::flush`] shows them to it.
fn deliver(queues: &mut Queues<'_>, header: Header, frame: &[u8]) -> Reception {
    if frame.len() > VIRTIO_NET_FRAME || !queues.is_live(RX) {
        return Reception::Ignored;
    }
    // The work is bounded by what the network sends, not by what the guest has in its rings.
    queues.renew_budget();
    let mergeable = queues.negotiated(MRG_RXBUF);
    let needed = (HEADER + frame.len()) as u64;
    let mut room = 0;
    let mut chains: Vec<Chain> = Vec::new();
    while room < needed && chains.len() < if mergeable { RX_BUFFERS } else { 1 } {
        let Some(chain) = queues.pop(RX) else {
            queues.put_back(RX, chains.len() as u16);
            // A driver that broke its ring gets nothing any more.
            return if queues.is_live(RX) { Reception::Full } else { Reception::Ignored };
        };
        room += chain.writable_len();
        chains.push(chain);
    }
    let fits = room >= needed;
    let head = match (mergeable, queues.negotiated(GUEST_CSUM)) {
        (true, true) => header.to_bytes(chains.len() as u16),
        (true, false) => Header::default().to_bytes(chains.len() as u16),
        (false, _) => RX_HEADER,
    };
    let (mut head, mut rest) = (&head[..], frame);
    for mut chain in chains {
        if fits {
            let n = chain.write(queues.mem_mut(), head);
            head = head.get(n..).unwrap_or_default();
            if head.is_empty() {
                let n = chain.write(queues.mem_mut(), rest);
                rest = rest.get(n..).unwrap_or_default();
            }
        }
        queues.push(RX, chain);
    }
    if fits { Reception::Taken } else { Reception::Ignored }
}

impl VirtioDevice for VirtioNet {
    fn name(&self) -> &'static str {
        "virtio-net"
    }

    fn device_id(&self) -> u16 {
        kind::NET
    }

    fn features(&self) -> u64 {
        let more = match self.offload {
            Offload::None => 0,
            Offload::Tcp => OFFLOADS | feature::INDIRECT_DESC | feature::EVENT_IDX,
        };
        FEATURES | feature::VERSION_1 | more
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
            RX if self.waiting => self.fetch(queues),
            _ => {} // fresh receive buffers: they wait for a frame
        }
    }

    fn reset(&mut self) {
        self.joined.clear();
        self.waiting = false;
    }

    fn exact_interrupts(&self) -> bool {
        true
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

    /// Fetches the frames that wait in the cable, as far as the guest has buffers.
    pub fn fetch(&mut self, ctx: &mut Ctx<'_>) {
        self.with(ctx, VirtioNet::fetch);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use emu_core::bus::AccessSize::{Byte, Dword, Word};
    use proptest::prelude::*;

    use super::*;
    use crate::net::NetSink;
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

    impl Cable for Sink {}

    fn net() -> (Driver<VirtioNet>, Sink) {
        let sink = Sink::default();
        (Driver::new(VirtioNet::new(ADDRESS, 1500, Offload::None, Box::new(sink.clone())), Slot::NET), sink)
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

    /// A cable with frames in it.
    #[derive(Clone, Default)]
    struct Waiting(Arc<Mutex<std::collections::VecDeque<Vec<u8>>>>);

    impl NetSink for Waiting {
        fn send(&mut self, frame: &[u8]) {
            self.0.lock().unwrap().push_back(frame.to_vec());
        }
    }

    impl Cable for Waiting {
        fn receive(&mut self, deliver: &mut dyn FnMut(&[u8]) -> bool) -> usize {
            let mut frames = self.0.lock().unwrap();
            let before = frames.len();
            while frames.front().is_some_and(|frame| deliver(frame)) {
                frames.pop_front();
            }
            before - frames.len()
        }
    }

    fn waiting(offload: Offload) -> (Driver<VirtioNet>, Waiting) {
        let cable = Waiting::default();
        let net = VirtioNet::new(ADDRESS, 1500, offload, Box::new(cable.clone()));
        (Driver::new(net, Slot::NET), cable)
    }

    #[test]
    fn net_frames_wait_in_the_cable_until_the_guest_posts_buffers() {
        for offload in [Offload::None, Offload::Tcp] {
            let (mut d, cable) = waiting(offload);
            let left = || cable.0.lock().unwrap().len();
            cable.0.lock().unwrap().extend([b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
            d.add(RX, &[], &[100]);
            d.dev.fetch(&mut d.bench.ctx());
            assert_eq!(left(), 2);
            d.add(RX, &[], &[100]);
            d.kick(RX);
            assert_eq!(left(), 1, "{offload:?}");
            assert_eq!(d.used(RX).len(), 2);
            d.output(0x214, Byte, 0);
            d.dev.fetch(&mut d.bench.ctx());
            assert_eq!(left(), 0, "nobody listens after a reset");
        }
    }

    #[test]
    fn net_with_offload_spreads_a_frame_over_buffers_and_takes_none_if_they_do_not_do() {
        let (mut d, cable) = waiting(Offload::Tcp);
        cable.0.lock().unwrap().push_back((0..50).collect());
        let first = d.add(RX, &[], &[30]);
        d.dev.fetch(&mut d.bench.ctx());
        assert_eq!(d.used(RX), [], "put back");
        let second = d.add(RX, &[], &[40]);
        d.kick(RX);
        assert_eq!(d.used(RX), [(first.head, 30), (second.head, 32)]);
        assert_eq!(d.get(first.out[0], 12), [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0], "valid, two buffers");
        assert_eq!(d.get(first.out[0] + 12, 18), (0..18).collect::<Vec<u8>>());
        assert_eq!(d.get(second.out[0], 32), (18..50).collect::<Vec<u8>>());
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
