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
    /// How late a deadline may be met while the machine is at rest, nanoseconds.
    slack: Option<(EventId, VmTime)>,
    /// Whose deadline only waits for the CPU to have nothing to do.
    impatient: Option<EventId>,
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
        Self { pending: Vec::new(), next: NEVER, slack: None, impatient: None }
    }

    /// Sets the deadline of `id`, replacing an earlier one.
    pub fn schedule(&mut self, id: EventId, at: VmTime) {
        if self.impatient == Some(id) {
            self.impatient = None;
        }
        self.pending.retain(|&(_, other)| other != id);
        if at != NEVER {
            self.pending.push((at, id));
        }
        self.next = self.pending.iter().map(|&(at, _)| at).min().unwrap_or(NEVER);
    }

    /// Sets the deadline of `id`, which may be met `slack` nanoseconds late while the machine is at rest:
    /// an idle guest's timer ticks then wake the host less often. One id can have that.
    pub fn schedule_lazily(&mut self, id: EventId, at: VmTime, slack: VmTime) {
        self.schedule(id, at);
        self.slack = Some((id, slack));
    }

    /// Sets the deadline of `id`, which is met as soon as the CPU waits, if that is earlier.
    pub fn schedule_impatiently(&mut self, id: EventId, at: VmTime) {
        self.schedule(id, at);
        self.impatient = Some(id);
    }

    /// The CPU waits: the deadline that waited for it is now. True if there is one.
    pub fn hurry(&mut self, now: VmTime) -> bool {
        let Some(id) = self.impatient else { return false };
        self.schedule(id, now);
        true
    }

    /// When a machine at rest has to be awake: the earliest deadline, slack included.
    pub fn next_wake(&self) -> Option<VmTime> {
        let latest = |&(at, id): &(VmTime, EventId)| match self.slack {
            Some((lazy, slack)) if lazy == id => at.saturating_add(slack),
            _ => at,
        };
        self.pending.iter().map(latest).min()
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
    fn event_queue_lazy_deadline_may_be_late_and_no_other() {
        let mut q = EventQueue::new();
        q.schedule_lazily(1, 10, 5);
        assert_eq!((q.next_deadline(), q.next_wake()), (Some(10), Some(15)));
        q.schedule(2, 12);
        assert_eq!((q.next_deadline(), q.next_wake()), (Some(10), Some(12)));
        q.cancel(2);
        q.cancel(1);
        assert_eq!(q.next_wake(), None);
    }

    #[test]
    fn event_queue_impatient_deadline_comes_when_the_cpu_waits() {
        let mut q = EventQueue::new();
        assert!(!q.hurry(1));
        q.schedule_impatiently(4, 100);
        assert_eq!(q.pop_due(50), None);
        assert!(q.hurry(50));
        assert_eq!(q.pop_due(50), Some(4));
        q.schedule(4, 100);
        assert!(!q.hurry(60), "an ordinary one does not");
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
