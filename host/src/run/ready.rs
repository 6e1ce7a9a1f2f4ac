//! Whether a guest is as its user wants it: what others do in it waits for that.

use std::sync::{Condvar, Mutex, PoisonError};

use crate::rpc::Deadline;

/// A gate that is opened once.
#[derive(Debug, Default)]
pub struct Ready {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Ready {
    /// One that is open.
    pub fn now() -> Self {
        Self { open: Mutex::new(true), opened: Condvar::new() }
    }

    /// Lets everybody pass from now on.
    pub fn open(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.opened.notify_all();
    }

    /// Waits until it is open. False at the deadline.
    pub fn wait(&self, deadline: Deadline) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        while !*open {
            open = match deadline.left() {
                None => self.opened.wait(open).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => return false,
                Some(left) => self.opened.wait_timeout(open, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn gate_that_is_opened_lets_everybody_pass() {
        let ready = Arc::new(Ready::default());
        assert!(!ready.wait(Deadline::after(Duration::ZERO)));
        let other = ready.clone();
        let waiting = std::thread::spawn(move || other.wait(Deadline::never()));
        ready.open();
        assert!(waiting.join().unwrap());
        assert!(ready.wait(Deadline::after(Duration::ZERO)));
        assert!(Ready::now().wait(Deadline::after(Duration::ZERO)));
    }
}
