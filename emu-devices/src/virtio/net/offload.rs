//! Work that a guest leaves to the card: checksums, cutting large TCP segments, and joining small ones.
//!
//! The guest's processor is emulated, the host's is not: a packet less for the guest's TCP saves some ten
//! thousand instructions, and what is done here instead is a copy and a sum.
//!
//! Only TCP over IPv4 without VLAN tags and IP options is cut or joined; everything else passes as it is.

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// Bytes of an IPv4 header without options.
const IPV4: usize = 20;
/// First byte of the TCP header in a frame that is joined.
const TCP: usize = ETHERNET + IPV4;
/// Offset of the checksum in a TCP header.
const TCP_CHECKSUM: usize = 16;
/// Longest IP packet.
const IP_MAX: usize = 0xFFFF;
/// Shortest segments a guest may ask for: Linux uses no shorter ones either. Bounds the frames that a chain
/// becomes.
const MIN_SEGMENT: usize = 48;

/// virtio_net_hdr flags.
const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
/// virtio_net_hdr gso_type.
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;

/// TCP flags.
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// Header before each frame (virtio 1.0, 5.1.6), but for the number of buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    flags: u8,
    gso_type: u8,
    header_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
}

impl Header {
    /// Header of a frame whose checksums are right.
    pub(super) const VALID: Self = Self {
        flags: DATA_VALID,
        gso_type: GSO_NONE,
        header_len: 0,
        gso_size: 0,
        csum_start: 0,
        csum_offset: 0,
    };

    pub(super) fn parse(bytes: &[u8; 12]) -> Self {
        let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1, _, _] = *bytes;
        Self {
            flags,
            gso_type,
            header_len: u16::from_le_bytes([h0, h1]),
            gso_size: u16::from_le_bytes([g0, g1]),
            csum_start: u16::from_le_bytes([s0, s1]),
            csum_offset: u16::from_le_bytes([o0, o1]),
        }
    }

    pub(super) fn to_bytes(self, buffers: u16) -> [u8; 12] {
        let Self { flags, gso_type, header_len, gso_size, csum_start, csum_offset } = self;
        let ([h0, h1], [g0, g1]) = (header_len.to_le_bytes(), gso_size.to_le_bytes());
        let ([s0, s1], [o0, o1]) = (csum_start.to_le_bytes(), csum_offset.to_le_bytes());
        let [b0, b1] = buffers.to_le_bytes();
        [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1, b0, b1]
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at.saturating_add(value.len())) {
        place.copy_from_slice(value);
    }
}

/// Sum of 16-bit words, not folded. Not more than a frame is ever summed, so that it cannot overflow.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut sum: u64 = words.iter().map(|word| u64::from(u32::from_be_bytes(*word))).sum();
    let mut last = [0; 4];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    sum += u64::from(u32::from_be_bytes(last));
    sum
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

/// Sum of the pseudo header of a TCP segment of `len` bytes.
fn pseudo(frame: &[u8], len: usize) -> u64 {
    const PROTOCOL: u64 = 6;
    sum(frame.get(ETHERNET + 12..ETHERNET + IPV4).unwrap_or_default()) + PROTOCOL + len as u64
}

/// What is needed of a TCP/IPv4 frame's headers.
struct Segment {
    /// Bytes of all headers.
    headers: usize,
    /// Bytes of frame that the IP packet takes; Ethernet may pad short ones.
    end: usize,
    sequence: u32,
    flags: u8,
}

impl Segment {
    /// `None` if the frame is something else.
    fn parse(frame: &[u8]) -> Option<Self> {
        const TYPE_IPV4: u16 = 0x0800;
        let fragment = be16(frame, ETHERNET + 6)? & 0x3FFF;
        let plain = be16(frame, 12)? == TYPE_IPV4
            && *frame.get(ETHERNET)? == 0x45
            && fragment == 0
            && *frame.get(ETHERNET + 9)? == 6;
        if !plain {
            return None;
        }
        let end = ETHERNET + usize::from(be16(frame, ETHERNET + 2)?);
        let headers = TCP + usize::from(*frame.get(TCP + 12)? >> 4) * 4;
        let fits = (TCP + 20..=end).contains(&headers) && end <= frame.len();
        fits.then_some(Self { headers, end, sequence: be32(frame, TCP + 4)?, flags: *frame.get(TCP + 13)? })
    }
}

/// Sets length and checksum of the IP header.
fn finish_ip(frame: &mut [u8], ip_len: usize) {
    put(frame, ETHERNET + 2, &(ip_len as u16).to_be_bytes());
    put(frame, ETHERNET + 10, &[0; 2]);
    let checksum = !fold(sum(frame.get(ETHERNET..TCP).unwrap_or_default()));
    put(frame, ETHERNET + 10, &checksum.to_be_bytes());
}

/// Sends a frame of the guest after doing what its header asks for. `scratch` is for pieces.
pub(super) fn transmit(header: Header, frame: &mut [u8], scratch: &mut Vec<u8>, send: &mut dyn FnMut(&[u8])) {
    match header.gso_type {
        GSO_NONE => {
            if header.flags & NEEDS_CSUM != 0 {
                complete_checksum(frame, header.csum_start.into(), header.csum_offset.into());
            }
            send(frame);
        }
        GSO_TCPV4 => cut(frame, header.gso_size.into(), scratch, send),
        // Not offered.
        _ => {}
    }
}

/// The driver has put the pseudo header's sum where the checksum belongs.
fn complete_checksum(frame: &mut [u8], start: usize, offset: usize) {
    let at = start.saturating_add(offset);
    let Some(covered) = frame.get(start..).filter(|_| at + 2 <= frame.len()) else { return };
    let checksum = match !fold(sum(covered)) {
        // In UDP 0 means that there is none; for TCP both are the same.
        0 => 0xFFFF,
        checksum => checksum,
    };
    put(frame, at, &checksum.to_be_bytes());
}

/// Cuts a TCP segment into such of `size` bytes of payload.
fn cut(frame: &[u8], size: usize, scratch: &mut Vec<u8>, send: &mut dyn FnMut(&[u8])) {
    let Some(segment) = Segment::parse(frame).filter(|_| size >= MIN_SEGMENT) else { return };
    let (Some(headers), Some(payload)) =
        (frame.get(..segment.headers), frame.get(segment.headers..segment.end))
    else {
        return;
    };
    let id = be16(frame, ETHERNET + 4).unwrap_or(0);
    let pieces = payload.len().div_ceil(size).max(1);
    let mut rest = payload;
    for n in 0..pieces {
        let (now, later) = rest.split_at(rest.len().min(size));
        rest = later;
        scratch.clear();
        scratch.extend_from_slice(headers);
        scratch.extend_from_slice(now);
        put(scratch, ETHERNET + 4, &id.wrapping_add(n as u16).to_be_bytes());
        put(scratch, TCP + 4, &segment.sequence.wrapping_add((n * size) as u32).to_be_bytes());
        if n + 1 < pieces {
            put(scratch, TCP + 13, &[segment.flags & !(FIN | PSH)]);
        }
        let end = scratch.len();
        finish_ip(scratch, end - ETHERNET);
        put(scratch, TCP + TCP_CHECKSUM, &[0; 2]);
        let covered = sum(scratch.get(TCP..).unwrap_or_default()) + pseudo(scratch, end - TCP);
        put(scratch, TCP + TCP_CHECKSUM, &(!fold(covered)).to_be_bytes());
        send(scratch);
    }
}

/// TCP segments of one connection, joined while they follow each other without a gap.
#[derive(Debug, Default)]
pub(super) struct Joined {
    frame: Vec<u8>,
    /// Segments in it; 0 = nothing there.
    count: u16,
    headers: usize,
    /// Payload of each segment but the last.
    size: usize,
    /// Sequence number that follows.
    next: u32,
    /// A segment has ended it: a short one, or one with PSH.
    complete: bool,
}

impl Joined {
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn clear(&mut self) {
        self.count = 0;
        self.frame.clear();
    }

    /// Begins with `frame`. False, and it stays empty, if nothing can follow that.
    pub(super) fn begin(&mut self, frame: &[u8]) -> bool {
        let Some(segment) = Segment::parse(frame) else { return false };
        let size = segment.end - segment.headers;
        // What is pushed is the end of something.
        if segment.flags != ACK || size < MIN_SEGMENT {
            return false;
        }
        self.frame.clear();
        self.frame.extend_from_slice(frame.get(..segment.end).unwrap_or_default());
        let next = segment.sequence.wrapping_add(size as u32);
        (self.count, self.headers, self.size, self.next) = (1, segment.headers, size, next);
        self.complete = false;
        true
    }

    /// Adds `frame`, if it is the next segment; `limit` is the longest frame.
    pub(super) fn add(&mut self, frame: &[u8], limit: usize) -> bool {
        if self.is_empty() || self.complete {
            return false;
        }
        let Some(segment) = Segment::parse(frame) else { return false };
        let size = segment.end - segment.headers;
        let total = self.frame.len() + size;
        let follows = segment.headers == self.headers
            && segment.sequence == self.next
            && segment.flags & !PSH == ACK
            && (1..=self.size).contains(&size)
            && total <= limit.min(ETHERNET + IP_MAX)
            && self.same_headers(frame);
        if !follows {
            return false;
        }
        self.frame.extend_from_slice(frame.get(segment.headers..segment.end).unwrap_or_default());
        self.count += 1;
        self.next = segment.sequence.wrapping_add(size as u32);
        self.complete = segment.flags & PSH != 0 || size < self.size;
        if segment.flags & PSH != 0 {
            put(&mut self.frame, TCP + 13, &[segment.flags]);
        }
        true
    }

    /// All that may not differ: addresses, ports, acknowledgement, window, options.
    fn same_headers(&self, frame: &[u8]) -> bool {
        let same = |from, to| self.frame.get(from..to) == frame.get(from..to);
        same(0, ETHERNET + 2)
            && same(ETHERNET + 8, ETHERNET + 10)
            && same(ETHERNET + 12, TCP + 4)
            && same(TCP + 8, TCP + 13)
            && same(TCP + 14, TCP + 16)
            && same(TCP + 18, self.headers)
    }

    /// The frame for the guest and its header.
    pub(super) fn finish(&mut self) -> (Header, &[u8]) {
        if self.count <= 1 {
            return (Header::VALID, &self.frame);
        }
        let end = self.frame.len();
        finish_ip(&mut self.frame, end - ETHERNET);
        let partial = fold(pseudo(&self.frame, end - TCP));
        put(&mut self.frame, TCP + TCP_CHECKSUM, &partial.to_be_bytes());
        let header = Header {
            flags: NEEDS_CSUM,
            gso_type: GSO_TCPV4,
            header_len: self.headers as u16,
            gso_size: self.size as u16,
            csum_start: TCP as u16,
            csum_offset: TCP_CHECKSUM as u16,
        };
        (header, &self.frame)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut f = vec![0; TCP + 20];
        f[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
        f[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
        f[ETHERNET + 6] = 0x40;
        f[ETHERNET + 8] = 64;
        f[ETHERNET + 9] = 6;
        f[ETHERNET + 12..TCP].copy_from_slice(&[192, 168, 127, 2, 10, 0, 0, 1]);
        f[TCP..TCP + 4].copy_from_slice(&[0x12, 0x34, 0, 80]);
        f[TCP + 4..TCP + 8].copy_from_slice(&sequence.to_be_bytes());
        f[TCP + 12] = 5 << 4;
        f[TCP + 13] = flags;
        f[TCP + 14] = 0x40;
        f.extend_from_slice(payload);
        let len = f.len();
        finish_ip(&mut f, len - ETHERNET);
        let covered = sum(&f[TCP..]) + pseudo(&f, len - TCP);
        put(&mut f, TCP + TCP_CHECKSUM, &(!fold(covered)).to_be_bytes());
        f
    }

    fn checksums_are_right(f: &[u8]) -> bool {
        fold(sum(&f[ETHERNET..TCP])) == 0xFFFF && fold(sum(&f[TCP..]) + pseudo(f, f.len() - TCP)) == 0xFFFF
    }

    fn sent(header: Header, mut f: Vec<u8>) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        transmit(header, &mut f, &mut Vec::new(), &mut |f| out.push(f.to_vec()));
        out
    }

    fn gso(size: u16) -> Header {
        Header { flags: NEEDS_CSUM, gso_type: GSO_TCPV4, gso_size: size, ..Header::default() }
    }

    #[test]
    fn offload_cuts_a_segment_into_frames_with_right_checksums_and_flags() {
        let payload: Vec<u8> = (0..4001u32).map(|n| n as u8).collect();
        let frames = sent(gso(1460), frame(0xFFFF_FF00, ACK | PSH | FIN, &payload));
        assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), [1514, 1514, 54 + 4001 - 2 * 1460]);
        let flags: Vec<u8> = frames.iter().map(|f| f[TCP + 13]).collect();
        assert_eq!(flags, [ACK, ACK, ACK | PSH | FIN]);
        assert!(frames.iter().all(|f| checksums_are_right(f)));
        assert_eq!(be32(&frames[1], TCP + 4), Some(0xFFFF_FF00u32.wrapping_add(1460)));
        let together: Vec<u8> = frames.iter().flat_map(|f| f[54..].to_vec()).collect();
        assert_eq!(together, payload);
    }

    #[test]
    fn offload_drops_requests_it_does_not_know() {
        let f = frame(1, ACK, &[1; 5000]);
        assert!(sent(gso(47), f.clone()).is_empty(), "a flood of tiny frames");
        assert!(sent(Header { gso_type: 3, ..gso(1460) }, f).is_empty(), "UDP");
        assert!(sent(gso(1460), vec![0; 60]).is_empty(), "no TCP");
    }

    #[test]
    fn offload_completes_a_partial_checksum() {
        let whole = frame(7, ACK, b"odd");
        let mut partial = whole.clone();
        let seed = fold(pseudo(&whole, whole.len() - TCP));
        put(&mut partial, TCP + TCP_CHECKSUM, &seed.to_be_bytes());
        let header =
            Header { flags: NEEDS_CSUM, csum_start: TCP as u16, csum_offset: 16, ..Header::default() };
        assert_eq!(sent(header, partial.clone()), [whole]);
        let far = Header { csum_start: 0xFFFF, csum_offset: 0xFFFF, ..header };
        assert_eq!(sent(far, partial.clone()), [partial]);
    }

    #[test]
    fn offload_joins_what_it_has_cut() {
        let payload: Vec<u8> = (0..9000u32).map(|n| (n / 7) as u8).collect();
        let whole = frame(100, ACK | PSH, &payload);
        let mut joined = Joined::default();
        for (n, f) in sent(gso(1000), whole.clone()).iter().enumerate() {
            assert!(if n == 0 { joined.begin(f) } else { joined.add(f, 65536) }, "{n}");
        }
        let (header, f) = joined.finish();
        assert_eq!((header.gso_size, header.gso_type, header.header_len), (1000, GSO_TCPV4, 54));
        assert_eq!(f[54..], payload);
        let again = sent(header, f.to_vec());
        assert_eq!(again, sent(gso(1000), whole));
    }

    #[test]
    fn offload_does_not_join_across_gaps_pushes_limits_and_other_connections() {
        let data = [9; 100];
        let start = || {
            let mut joined = Joined::default();
            assert!(joined.begin(&frame(0, ACK, &data)));
            joined
        };
        assert!(start().add(&frame(100, ACK, &data), 1000));
        assert!(!start().add(&frame(101, ACK, &data), 1000), "a gap");
        assert!(!start().add(&frame(100, ACK | FIN, &data), 1000));
        assert!(!start().add(&frame(100, ACK, &[9; 101]), 1000), "longer than the first");
        assert!(!start().add(&frame(100, ACK, &data), 200), "the limit");
        let mut other = frame(100, ACK, &data);
        other[TCP + 1] ^= 1;
        assert!(!start().add(&other, 1000), "another port");
        let mut joined = start();
        assert!(joined.add(&frame(100, ACK, &data[..99]), 1000));
        assert!(!joined.add(&frame(199, ACK, &data), 1000), "behind a short one");
        assert!(!Joined::default().begin(&frame(0, ACK | PSH, &data)));
        assert!(!Joined::default().begin(&[0; 20]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn offload_survives_damaged_frames(
            edits in prop::collection::vec((0usize..120, any::<u8>()), 0..6),
            cut in 0usize..200,
            header in any::<[u8; 12]>(),
        ) {
            let mut f = frame(5, ACK, &[3; 100]);
            for (at, value) in edits {
                if let Some(byte) = f.get_mut(at) {
                    *byte = value;
                }
            }
            f.truncate(cut);
            let header = Header::parse(&header);
            let _ = sent(header, f.clone());
            let _ = sent(gso(48), f.clone());
            let mut joined = Joined::default();
            joined.begin(&f);
            joined.add(&f, 65536);
            let _ = joined.finish();
        }
    }
}
