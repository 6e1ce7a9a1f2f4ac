//! The network's end of the cable with what can be done to it: captured, counted, made worse.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use super::cable::{Frames, NetEnd};
use super::config::Impairments;
use super::impair::Impaired;
use super::packet::{ETHERNET, Mac, write_ethernet};
use super::pcap::Pcap;
use super::stats::Counters;
use crate::clock;

/// The line to the guest.
pub(super) struct Line {
    end: NetEnd,
    pcap: Option<Pcap>,
    worse: Option<Box<Worse>>,
    counters: Arc<Counters>,
    now: Instant,
    scratch: Vec<u8>,
}

struct Worse {
    from_guest: Impaired,
    to_guest: Impaired,
    /// What has arrived for the guest waits for room in the cable.
    stuck: bool,
}

impl Line {
    pub(super) fn new(
        end: NetEnd,
        pcap: Option<Pcap>,
        impairments: Impairments,
        counters: Arc<Counters>,
    ) -> Self {
        let worse = (!impairments.is_none()).then(|| {
            Box::new(Worse {
                from_guest: Impaired::new(impairments, 0),
                to_guest: Impaired::new(impairments, 1),
                stuck: false,
            })
        });
        Self { end, pcap, worse, counters, now: clock::now(), scratch: Vec::new() }
    }

    /// Takes the frames that have arrived.
    pub(super) fn take(&mut self, batch: &mut Frames, now: Instant) {
        self.now = now;
        self.end.take_all(batch);
        if let Some(worse) = &mut self.worse {
            for index in 0..batch.len() {
                if !batch.get(index).is_none_or(|frame| worse.from_guest.send(frame, now)) {
                    self.counters.impaired.inc();
                }
            }
            batch.clear();
            worse.from_guest.arrive(now, |frame| {
                batch.push(frame);
                true
            });
            let (end, stuck) = (&mut self.end, &mut worse.stuck);
            *stuck = false;
            worse.to_guest.arrive(now, |frame| {
                let delivered = end.deliver(frame);
                *stuck = !delivered;
                delivered
            });
        }
        let frames = (0..batch.len()).filter_map(|index| batch.get(index));
        let mut bytes = 0;
        for frame in frames {
            bytes += frame.len() as u64;
            if let Some(pcap) = &mut self.pcap {
                pcap.write(frame, clock::wall());
            }
        }
        self.counters.rx_frames.add(batch.len() as u64);
        self.counters.rx_bytes.add(bytes);
    }

    /// There is room for a frame. If not, the event tells when there is.
    pub(super) fn has_room(&mut self) -> bool {
        self.worse.is_some() || self.end.has_room()
    }

    /// Sends a frame with `len` bytes behind its head, which `fill` writes over zeros. If there is no room for
    /// it, it is written to nowhere.
    pub(super) fn send<R>(
        &mut self,
        mac: Mac,
        ethertype: u16,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> R,
    ) -> R {
        if self.worse.is_none() && !self.end.has_room() {
            self.counters.limited.inc();
            self.scratch.clear();
            self.scratch.resize(len, 0);
            return fill(&mut self.scratch);
        }
        let counters = &*self.counters;
        let pcap = &mut self.pcap;
        let write = |frame: &mut [u8]| {
            write_ethernet(frame, mac, ethertype);
            let result = fill(frame.get_mut(ETHERNET..).unwrap_or_default());
            counters.tx_frames.inc();
            counters.tx_bytes.add(frame.len() as u64);
            if let Some(pcap) = pcap {
                pcap.write(frame, clock::wall());
            }
            result
        };
        if let Some(worse) = &mut self.worse {
            self.scratch.clear();
            self.scratch.resize(ETHERNET + len, 0);
            let result = write(&mut self.scratch);
            if !worse.to_guest.send(&self.scratch, self.now) {
                counters.impaired.inc();
            }
            return result;
        }
        self.end.stage_unchecked(ETHERNET + len, write)
    }

    /// When frames arrive that are on their way.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let worse = self.worse.as_ref()?;
        let to_guest = worse.to_guest.deadline().filter(|_| !worse.stuck);
        [worse.from_guest.deadline(), to_guest].into_iter().flatten().min()
    }

    /// Sends what was written.
    pub(super) fn flush(&mut self) {
        self.end.flush();
    }

    /// The thread wants to sleep. False if it must not.
    pub(super) fn prepare_sleep(&mut self) -> bool {
        let may = self.end.prepare_sleep();
        if may && let Some(pcap) = &mut self.pcap {
            pcap.flush();
        }
        may
    }

    /// The thread is awake.
    pub(super) fn awake(&mut self) {
        self.end.awake();
    }

    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.end.event()
    }

    pub(super) fn clear_event(&self) {
        self.end.clear_event();
    }
}
