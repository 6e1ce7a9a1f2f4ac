//! Deadlines of devices.

use super::VmTime;

/// Names whose deadline it is; small numbers chosen by the board.
pub type EventId = u8;

/// At most one deadline per id. Ties are delivered in id order, so runs are reproducible.
///
/// A machine has a handful of timers, so the list is short and unsorted; the earliest is remembered.
#[derive(Clone, Debug)]
pub struct EventQueue {
    pending: Vec<(VmTime, EventId)>,
    next: VmTime,
}

const NEVER: VmTime = VmTime::MAX;

impl Default for EventQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl EventQueue {
    /// No deadlines.
    pub fn new() -> Self {
        Self { pending: Vec::new(), next: NEVER }
    }

    /// Sets the deadline of `id`, replacing an earlier one.
    pub fn schedule(&mut self, id: EventId, at: VmTime) {
        self.pending.retain(|&(_, other)| other != id);
        if at != NEVER {
            self.pending.push((at, id));
        }
        self.next = self.pending.iter().map(|&(at, _)| at).min().unwrap_or(NEVER);
    }

    /// Forgets the deadline of `id`.
    pub fn cancel(&mut self, id: EventId) {
        self.schedule(id, NEVER);
    }

    /// Earliest deadline, if any.
    #[inline]
    pub fn next_deadline(&self) -> Option<VmTime> {
        (self.next != NEVER).then_some(self.next)
    }

    /// Removes and returns an id whose deadline is at or before `now`.
    pub fn pop_due(&mut self, now: VmTime) -> Option<EventId> {
        if now < self.next {
            return None;
        }
        let &(at, id) = self.pending.iter().min()?;
        if at > now {
            return None;
        }
        self.cancel(id);
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_queue_delivers_in_time_order_and_ties_by_id() {
        let mut q = EventQueue::new();
        q.schedule(9, 100);
        q.schedule(3, 100);
        q.schedule(5, 50);
        assert_eq!(q.next_deadline(), Some(50));
        assert_eq!(q.pop_due(49), None);
        assert_eq!(q.pop_due(100), Some(5));
        assert_eq!(q.pop_due(100), Some(3));
        assert_eq!(q.pop_due(100), Some(9));
        assert_eq!(q.pop_due(u64::MAX - 1), None);
    }

    #[test]
    fn event_queue_rescheduling_replaces_the_deadline() {
        let mut q = EventQueue::new();
        q.schedule(1, 10);
        q.schedule(1, 20);
        assert_eq!(q.pop_due(15), None);
        q.cancel(1);
        assert_eq!(q.next_deadline(), None);
    }
}
