//! The cable between a network card and its network: a bounded queue of frames for each direction.
//!
//! The card's end belongs to the vCPU thread, the network's end to the network's thread. Frames are handed
//! over in batches: whoever takes, takes everything there is under one lock and then works without it.
//!
//! * Card to network: [`CardEnd`] never blocks. What does not fit is dropped and counted, as on a wire.
//! * Network to card: [`NetEnd::deliver`] refuses what does not fit, and the network's thread is woken when
//!   half of the queue is free again, so that nothing the network has promised to deliver gets lost here.
//!
//! Each side is woken only if it may be asleep: the network's thread by an eventfd that it waits for together
//! with its sockets, the card by a call-back when the queue stops being empty.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use emu_devices::net::NetSink;
use rustix::event::EventfdFlags;

use crate::limits::{CABLE_TO_CARD, CABLE_TO_NET};

/// Shortest frame: two addresses and a type.
pub const MIN_FRAME: usize = 14;

/// Longest frame: header, VLAN tag and 1500 bytes, without check sequence.
pub const MAX_FRAME: usize = 1518;

/// What a frame counts for beside its bytes, so that short frames are bounded too.
const OVERHEAD: usize = 32;

/// The network publishes that many bytes at the latest, so that the card can work meanwhile.
const BURST: usize = 32 << 10;

/// Frames one after the other.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Frames {
    /// Number of frames.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The frame with that number.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)?;
        let start = match index.checked_sub(1) {
            Some(before) => *self.ends.get(before)?,
            None => 0,
        };
        self.bytes.get(start..end)
    }

    /// What they count for.
    fn cost(&self) -> usize {
        self.bytes.len() + self.ends.len() * OVERHEAD
    }

    /// Adds a frame.
    pub(super) fn push(&mut self, frame: &[u8]) {
        self.bytes.extend_from_slice(frame);
        self.ends.push(self.bytes.len());
    }

    /// Adds a frame of `len` bytes that `fill` writes; it finds zeros.
    fn push_with<R>(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let start = self.bytes.len();
        self.bytes.resize(start + len, 0);
        self.ends.push(start + len);
        fill(self.bytes.get_mut(start..).unwrap_or_default())
    }

    fn append(&mut self, other: &mut Self) {
        if self.is_empty() {
            std::mem::swap(self, other);
        } else {
            let base = self.bytes.len();
            self.bytes.extend_from_slice(&other.bytes);
            self.ends.extend(other.ends.iter().map(|end| base + end));
        }
        other.clear();
    }

    /// Forgets the frames, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

/// Frames the card has taken and the guest has not.
#[derive(Default)]
struct Arrived {
    frames: Frames,
    next: usize,
}

struct Shared {
    to_net: Mutex<Frames>,
    to_card: Mutex<Frames>,
    arrived: Mutex<Arrived>,
    /// What frames for the card count for that it has not delivered yet.
    card_cost: AtomicUsize,
    /// Frames published for the card that it has not delivered yet. Added to under `to_card`'s lock.
    card_frames: AtomicUsize,
    /// The network's thread sleeps or is about to.
    asleep: AtomicBool,
    /// The network has something for the card that did not fit.
    wants_space: AtomicBool,
    /// Frames of the card that did not fit or are none.
    dropped: AtomicU64,
    wake_net: OwnedFd,
    wake_card: Mutex<Arc<dyn Fn() + Send + Sync>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn wake_card(&self) {
        // Not under the lock: who is woken may plug the cable elsewhere.
        let wake = lock(&self.wake_card).clone();
        wake();
    }

    fn wake_net(&self) {
        // The counter cannot overflow, and a wake-up that is already there is as good as another.
        let _ = rustix::io::write(&self.wake_net, &1_u64.to_ne_bytes());
    }
}

/// A cable. `wake_card` is called on the network's thread when there is something to receive and there was
/// nothing before.
///
/// # Errors
/// The host has no descriptor left.
pub fn cable(wake_card: Arc<dyn Fn() + Send + Sync>) -> std::io::Result<(CardEnd, NetEnd)> {
    let wake_net = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let shared = Arc::new(Shared {
        to_net: Mutex::default(),
        to_card: Mutex::default(),
        arrived: Mutex::default(),
        card_cost: AtomicUsize::new(0),
        card_frames: AtomicUsize::new(0),
        asleep: AtomicBool::new(false),
        wants_space: AtomicBool::new(false),
        dropped: AtomicU64::new(0),
        wake_net,
        wake_card: Mutex::new(wake_card),
    });
    Ok((
        CardEnd { shared: shared.clone() },
        NetEnd { shared, staged: Frames::default(), taken: Taken::default() },
    ))
}

/// The card's end. Clones are the same end: one is the card's [`NetSink`], another one receives.
#[derive(Clone)]
pub struct CardEnd {
    shared: Arc<Shared>,
}

impl CardEnd {
    /// Hands frames for the guest to `deliver` until there are no more or it returns false. A frame that is
    /// refused stays the first one; call again when there may be room for it, because `wake_card` tells
    /// nothing while frames wait here. Returns how many were delivered.
    pub fn receive(&self, deliver: &mut dyn FnMut(&[u8]) -> bool) -> usize {
        let mut arrived = lock(&self.shared.arrived);
        let mut delivered = 0;
        loop {
            let (mut cost, mut count) = (0, 0);
            let mut refused = false;
            while let Some(frame) = arrived.frames.get(arrived.next) {
                if !deliver(frame) {
                    refused = true;
                    break;
                }
                cost += frame.len() + OVERHEAD;
                count += 1;
                arrived.next += 1;
            }
            delivered += count;
            self.done(count, cost);
            if refused {
                return delivered;
            }
            arrived.next = 0;
            arrived.frames.clear();
            let mut waiting = lock(&self.shared.to_card);
            if waiting.is_empty() {
                return delivered;
            }
            std::mem::swap(&mut *waiting, &mut arrived.frames);
        }
    }

    /// Plugs the cable into another card: a machine that was restored in this process goes on with the network of
    /// the one that was saved, and with its connections. `wake_card` takes the place of that of [`cable`].
    pub fn rewire(&self, wake_card: Arc<dyn Fn() + Send + Sync>) {
        *lock(&self.shared.wake_card) = wake_card;
        // What the old card was told of, and has not taken, the new one does not know of.
        if self.has_frames() {
            self.shared.wake_card();
        }
    }

    /// Something waits to be received.
    pub fn has_frames(&self) -> bool {
        self.shared.card_frames.load(Ordering::Acquire) > 0
    }

    /// Throws away what waits to be received: a card that was reset does not want it.
    pub fn discard(&self) {
        self.receive(&mut |_| true);
    }

    /// Frames the card has sent that were dropped because the network was behind or because they are shorter
    /// than [`MIN_FRAME`] or longer than [`MAX_FRAME`].
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    fn done(&self, count: usize, cost: usize) {
        if count == 0 {
            return;
        }
        self.shared.card_frames.fetch_sub(count, Ordering::AcqRel);
        let before = self.shared.card_cost.fetch_sub(cost, Ordering::SeqCst);
        if before.saturating_sub(cost) <= CABLE_TO_CARD / 2
            && self.shared.wants_space.load(Ordering::SeqCst)
            && self.shared.wants_space.swap(false, Ordering::SeqCst)
        {
            self.shared.wake_net();
        }
    }
}

impl NetSink for CardEnd {
    fn send(&mut self, frame: &[u8]) {
        let shared = &*self.shared;
        let mut queue = lock(&shared.to_net);
        let fits = queue.cost() + frame.len() + OVERHEAD <= CABLE_TO_NET;
        if !fits || !(MIN_FRAME..=MAX_FRAME).contains(&frame.len()) {
            shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.push(frame);
        drop(queue);
        // The sleeper says so before it looks at the queue for the last time, under the same lock.
        if shared.asleep.load(Ordering::Acquire) && shared.asleep.swap(false, Ordering::AcqRel) {
            shared.wake_net();
        }
    }
}

/// What [`NetEnd::next_frame`] works off.
#[derive(Default)]
struct Taken {
    frames: Frames,
    next: usize,
}

/// The network's end.
pub struct NetEnd {
    shared: Arc<Shared>,
    /// Frames for the card that are not published yet.
    staged: Frames,
    taken: Taken,
}

impl NetEnd {
    /// The next frame the card has sent, if there is one.
    pub fn next_frame(&mut self) -> Option<&[u8]> {
        if self.taken.next >= self.taken.frames.len() {
            self.taken.frames.clear();
            self.taken.next = 0;
            std::mem::swap(&mut *lock(&self.shared.to_net), &mut self.taken.frames);
        }
        let index = self.taken.next;
        self.taken.next += 1;
        self.taken.frames.get(index)
    }

    /// Takes all frames the card has sent, in exchange for an empty `batch`.
    pub fn take_all(&mut self, batch: &mut Frames) {
        batch.clear();
        std::mem::swap(&mut *lock(&self.shared.to_net), batch);
    }

    /// Sends a frame to the card. False if the queue is full: nothing is sent, and the eventfd of
    /// [`Self::event`] gets readable when it pays to try again. What is no frame ([`MIN_FRAME`],
    /// [`MAX_FRAME`]) vanishes.
    #[must_use]
    pub fn deliver(&mut self, frame: &[u8]) -> bool {
        if !(MIN_FRAME..=MAX_FRAME).contains(&frame.len()) {
            return true;
        }
        let sent = self.stage(frame.len(), |space| space.copy_from_slice(frame)).is_some();
        self.flush();
        sent
    }

    /// There is room for a frame of any length.
    pub fn has_room(&mut self) -> bool {
        let fits = || self.shared.card_cost.load(Ordering::SeqCst) + MAX_FRAME + OVERHEAD <= CABLE_TO_CARD;
        if fits() {
            return true;
        }
        // The card may have made room before it could see that somebody waits for it.
        self.shared.wants_space.store(true, Ordering::SeqCst);
        fits()
    }

    /// Makes a frame of `len` bytes (at least [`MIN_FRAME`], at most [`MAX_FRAME`]) for the card, which `fill`
    /// writes over zeros. `None` if the queue is full. The card may get it only with [`Self::flush`].
    pub fn stage<R>(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        self.has_room().then(|| self.stage_unchecked(len, fill))
    }

    /// [`Self::stage`] after [`Self::has_room`] has said that there is room.
    pub(super) fn stage_unchecked<R>(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let len = len.clamp(MIN_FRAME, MAX_FRAME);
        self.shared.card_cost.fetch_add(len + OVERHEAD, Ordering::SeqCst);
        let result = self.staged.push_with(len, fill);
        if self.staged.cost() >= BURST {
            self.flush();
        }
        result
    }

    /// Publishes what is staged.
    pub fn flush(&mut self) {
        let count = self.staged.len();
        if count == 0 {
            return;
        }
        let mut queue = lock(&self.shared.to_card);
        let before = self.shared.card_frames.fetch_add(count, Ordering::AcqRel);
        queue.append(&mut self.staged);
        drop(queue);
        if before == 0 {
            self.shared.wake_card();
        }
    }

    /// Declares that the network's thread is going to wait for [`Self::event`]. False if it must not, because
    /// there is something to do.
    pub fn prepare_sleep(&mut self) -> bool {
        self.flush();
        self.shared.asleep.store(true, Ordering::Release);
        let idle = lock(&self.shared.to_net).is_empty();
        if !idle {
            self.shared.asleep.store(false, Ordering::Release);
        }
        idle
    }

    /// The network's thread is awake: it looks at the queue anyway and need not be told.
    pub fn awake(&mut self) {
        self.shared.asleep.store(false, Ordering::Release);
    }

    /// Readable when there is something to do, after [`Self::prepare_sleep`] or a refused frame.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.shared.wake_net.as_fd()
    }

    /// Takes the event back.
    pub fn clear_event(&self) {
        let mut counter = [0; 8];
        // Fails if there was none.
        let _ = rustix::io::read(&self.shared.wake_net, &mut counter);
    }

    /// For waking the network's thread from elsewhere.
    pub fn waker(&self) -> NetWaker {
        NetWaker { shared: self.shared.clone() }
    }
}

/// Wakes the network's thread.
#[derive(Clone)]
pub struct NetWaker {
    shared: Arc<Shared>,
}

impl NetWaker {
    /// Makes [`NetEnd::event`] readable.
    pub fn wake(&self) {
        self.shared.wake_net();
    }

    /// Frames the card has sent that were dropped; see [`CardEnd::dropped`].
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted() -> (CardEnd, NetEnd, Arc<AtomicUsize>) {
        let wakes = Arc::new(AtomicUsize::new(0));
        let counter = wakes.clone();
        let (card, net) = cable(Arc::new(move || {
            counter.fetch_add(1, Ordering::SeqCst);
        }))
        .unwrap();
        (card, net, wakes)
    }

    fn readable(net: &NetEnd) -> bool {
        let mut counter = [0; 8];
        rustix::io::read(net.event(), &mut counter).is_ok()
    }

    #[test]
    fn cable_frames_arrive_in_order_in_both_directions() {
        let (mut card, mut net, _) = counted();
        for n in 0..50_u8 {
            card.send(&[n; 60]);
            assert!(net.deliver(&vec![n; 14 + usize::from(n)]));
        }
        for n in 0..50 {
            assert_eq!(net.next_frame(), Some([n; 60].as_slice()));
        }
        assert_eq!(net.next_frame(), None);
        let mut seen = Vec::new();
        let delivered = card.receive(&mut |frame| {
            seen.push((frame.first().copied(), frame.len()));
            true
        });
        assert_eq!(delivered, 50);
        assert_eq!(seen, (0..50).map(|n| (Some(n), 14 + usize::from(n))).collect::<Vec<_>>());
    }

    #[test]
    fn cable_plugged_into_another_card_keeps_what_waits() {
        let (card, mut net, wakes) = counted();
        assert!(net.deliver(&[1; 60]));
        let others = Arc::new(AtomicUsize::new(0));
        let counter = others.clone();
        card.rewire(Arc::new(move || {
            counter.fetch_add(1, Ordering::SeqCst);
        }));
        assert_eq!(others.load(Ordering::SeqCst), 1, "something waits");
        assert_eq!(card.receive(&mut |frame| frame == [1; 60]), 1);
        assert!(net.deliver(&[2; 60]));
        assert_eq!((wakes.load(Ordering::SeqCst), others.load(Ordering::SeqCst)), (1, 2));
        card.discard();
        card.rewire(Arc::new(|| panic!("nothing waits")));
    }

    #[test]
    fn cable_refused_frame_stays_the_first() {
        let (card, mut net, wakes) = counted();
        for n in 1..=3 {
            assert!(net.deliver(&[n; 20]));
        }
        let mut room = 1;
        let mut seen = Vec::new();
        let mut deliver = |frame: &[u8]| {
            if room == 0 {
                return false;
            }
            room -= 1;
            seen.push(frame[0]);
            true
        };
        assert_eq!(card.receive(&mut deliver), 1);
        assert_eq!(card.receive(&mut deliver), 0);
        assert!(card.has_frames());
        assert!(net.deliver(&[4; 20]));
        assert_eq!(card.receive(&mut |frame| frame[0] == 2), 1, "3 is refused, 4 waits");
        card.discard();
        assert!(!card.has_frames());
        assert_eq!(seen, [1]);
        assert_eq!(wakes.load(Ordering::SeqCst), 1);
        assert!(net.deliver(&[5; 20]));
        assert_eq!(wakes.load(Ordering::SeqCst), 2, "the queue had been empty");
    }

    #[test]
    fn cable_full_towards_the_card_refuses_and_wakes_at_half() {
        let (card, mut net, _) = counted();
        let frame = [0; 1000];
        let mut sent = 0;
        while net.deliver(&frame) {
            sent += 1;
        }
        assert!((sent + 1) * (1000 + OVERHEAD) + MAX_FRAME > CABLE_TO_CARD, "{sent} frames");
        assert!(sent * (1000 + OVERHEAD) <= CABLE_TO_CARD);
        assert!(!readable(&net));
        let take = |count: usize| {
            let mut left = count;
            card.receive(&mut |_| {
                let room = left > 0;
                left = left.saturating_sub(1);
                room
            })
        };
        assert_eq!(take(sent / 4), sent / 4);
        assert!(!readable(&net), "a quarter is free");
        assert_eq!(take(sent / 2), sent / 2);
        assert!(readable(&net), "half is free");
        assert!(net.deliver(&frame));
        card.discard();
        assert!(!readable(&net), "nobody waits any more");
    }

    #[test]
    fn cable_full_towards_the_network_drops_and_counts() {
        let (mut card, mut net, _) = counted();
        let fit = CABLE_TO_NET / (100 + OVERHEAD);
        for _ in 0..fit + 7 {
            card.send(&[1; 100]);
        }
        assert_eq!(card.dropped(), 7);
        assert_eq!(std::iter::from_fn(|| net.next_frame().map(<[u8]>::len)).count(), fit);
        for len in [0, 13, MAX_FRAME + 1, 65536] {
            card.send(&vec![0; len]);
        }
        assert_eq!(card.dropped(), 11, "no frames at all");
        assert_eq!(net.next_frame(), None);
    }

    #[test]
    fn cable_wakes_the_network_only_when_it_sleeps() {
        let (mut card, mut net, _) = counted();
        card.send(&[0; 60]);
        assert!(!readable(&net), "awake");
        assert!(!net.prepare_sleep(), "there is a frame");
        assert!(net.next_frame().is_some());
        assert!(net.prepare_sleep());
        card.send(&[0; 60]);
        card.send(&[0; 60]);
        let mut counter = [0; 8];
        rustix::io::read(net.event(), &mut counter).unwrap();
        assert_eq!(u64::from_ne_bytes(counter), 1, "woken once");
    }

    #[test]
    fn cable_staged_frames_are_published_by_flush() {
        let (card, mut net, wakes) = counted();
        assert_eq!(net.stage(30, |frame| frame.fill(9)), Some(()));
        assert!(!card.has_frames());
        net.flush();
        assert_eq!(wakes.load(Ordering::SeqCst), 1);
        assert_eq!(card.receive(&mut |frame| frame == [9; 30]), 1);
    }

    #[test]
    fn cable_hands_over_between_threads_without_losing_a_frame() {
        const FRAMES: u32 = 50_000;
        let (tell, told) = std::sync::mpsc::channel();
        let tell = Mutex::new(tell);
        let (card, mut net) = cable(Arc::new(move || {
            let _ = lock(&tell).send(());
        }))
        .unwrap();
        let thread = std::thread::spawn(move || {
            let mut next = 0_u32;
            while next < FRAMES {
                told.recv().unwrap();
                card.receive(&mut |frame| {
                    assert_eq!(frame[..4], next.to_le_bytes());
                    next += 1;
                    true
                });
            }
        });
        let mut frame = [0; 64];
        for n in 0..FRAMES {
            frame[..4].copy_from_slice(&n.to_le_bytes());
            while !net.deliver(&frame) {
                let mut fds =
                    [rustix::event::PollFd::new(&net.shared.wake_net, rustix::event::PollFlags::IN)];
                rustix::event::poll(&mut fds, None).unwrap();
                net.clear_event();
            }
        }
        thread.join().unwrap();
    }
}
