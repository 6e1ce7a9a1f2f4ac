//! Channels for threads.
//!
//! A [`Link`] is a [`Session`] behind a lock. Somebody [pushes](Link::push) what arrives on the line and
//! somebody [takes](Link::take_output) what has to be sent; both never wait for users of channels, whose
//! reads and writes wait for each other's progress.

use crate::mux::{Handle, Role, Session, Stage, Violation};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Tells how much longer to wait: `None` for ever, zero not at all. It is asked again after each wait.
pub type Patience<'a> = &'a dyn Fn() -> Option<Duration>;

/// Waits for ever.
pub fn forever() -> Option<Duration> {
    None
}

/// Why a channel does not work (any more).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkError {
    /// The channel is closed.
    Closed,
    /// The other end refused the channel.
    Refused,
    /// The other end broke the protocol; all channels are gone.
    Lost(Violation),
    /// The line has ended, or another session has begun.
    Down,
    /// Patience is over.
    TimedOut,
}

impl std::fmt::Display for LinkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed => f.write_str("the channel is closed"),
            Self::Refused => f.write_str("the channel was refused"),
            Self::Lost(violation) => write!(f, "out of sync: {violation}"),
            Self::Down => f.write_str("the line is down"),
            Self::TimedOut => f.write_str("timed out"),
        }
    }
}

impl std::error::Error for LinkError {}

struct State {
    session: Session,
    /// Why the session has ended, if it has.
    ended: Option<LinkError>,
}

/// A session that several threads use.
pub struct Link {
    state: Mutex<State>,
    changed: Condvar,
}

impl Link {
    /// A link with a session that has just begun.
    pub fn new(session: Session) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { session, ended: None }), changed: Condvar::new() })
    }

    /// A link for the end that accepts channels.
    pub fn accepting() -> Arc<Self> {
        Self::new(Session::new(Role::Accepts))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock leaves things half done where it could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready` gives a value.
    fn wait<T>(
        &self,
        patience: Patience<'_>,
        mut ready: impl FnMut(&mut State) -> Option<Result<T, LinkError>>,
    ) -> Result<T, LinkError> {
        let mut state = self.lock();
        loop {
            let queued = state.session.output().len();
            let result = ready(&mut state);
            if state.session.output().len() != queued {
                // The one who sends has work, or those who write have room.
                self.changed.notify_all();
            }
            if let Some(result) = result {
                return result;
            }
            state = match patience() {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return Err(LinkError::TimedOut),
                Some(left) => {
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Takes bytes from the line. Never waits for long. After an error all channels are gone; the accepting
    /// end goes on with [`Link::restart`].
    pub fn push(&self, bytes: &[u8]) -> Result<(), Violation> {
        self.settle(|session| session.receive(bytes))
    }

    /// Waits for bytes to be sent and swaps them into `buffer`, which is cleared first. `false` when there
    /// will be none any more.
    pub fn take_output(&self, buffer: &mut Vec<u8>) -> bool {
        buffer.clear();
        let taken = self.wait(&forever, |state| {
            if !state.session.output().is_empty() {
                std::mem::swap(state.session.output(), buffer);
                return Some(Ok(true));
            }
            state.ended.filter(|why| *why == LinkError::Down).map(|_| Ok(false))
        });
        taken.unwrap_or(false)
    }

    /// Whether a frame has begun to arrive and not ended.
    pub fn mid_frame(&self) -> bool {
        self.lock().session.mid_frame()
    }

    /// See [`Session::pause`].
    pub fn pause(&self) -> Result<(), Violation> {
        self.settle(|session| session.pause())
    }

    /// Lets bytes reach the session. A breach ends it.
    fn settle(&self, act: impl FnOnce(&mut Session) -> Result<(), Violation>) -> Result<(), Violation> {
        let mut state = self.lock();
        if state.ended.is_some() {
            return Ok(());
        }
        let result = act(&mut state.session);
        if let Err(violation) = result {
            state.ended = Some(LinkError::Lost(violation));
        }
        self.changed.notify_all();
        result
    }

    /// Drops all channels and starts a new session.
    pub fn restart(&self) {
        let mut state = self.lock();
        state.session.reset();
        state.ended = None;
        self.changed.notify_all();
    }

    /// Ends the session: the line is gone.
    pub fn down(&self) {
        let mut state = self.lock();
        state.session.output().clear();
        state.ended = Some(LinkError::Down);
        self.changed.notify_all();
    }

    /// Why the session has ended, if it has.
    pub fn ended(&self) -> Option<LinkError> {
        self.lock().ended
    }

    /// Whether the line is gone (and not merely out of step).
    pub fn is_down(&self) -> bool {
        self.ended() == Some(LinkError::Down)
    }

    /// Opens a channel and waits for the answer.
    pub fn open(self: &Arc<Self>, patience: Patience<'_>) -> Result<Channel, LinkError> {
        let mut opened = None;
        let result = self.wait(patience, |state| {
            if let Some(why) = state.ended {
                return Some(Err(why));
            }
            let handle = *opened.get_or_insert_with(|| state.session.open());
            match state.session.stage(handle) {
                Stage::Opening => None,
                Stage::Refused => Some(Err(LinkError::Refused)),
                Stage::Gone => Some(Err(LinkError::Down)),
                Stage::Open | Stage::Closed => Some(Ok(())),
            }
        });
        let handle = opened.ok_or(LinkError::Down)?;
        // On an error, dropping this gives the number back.
        let channel = Channel { link: self.clone(), handle };
        result.map(|()| channel)
    }

    /// Waits for a channel that the other end opens.
    pub fn accept(self: &Arc<Self>, patience: Patience<'_>) -> Result<Channel, LinkError> {
        let handle = self.wait(patience, |state| match state.session.accept() {
            Some(handle) => Some(Ok(handle)),
            None => state.ended.map(Err),
        })?;
        Ok(Channel { link: self.clone(), handle })
    }
}

/// One end of a channel. Dropping it closes the channel.
pub struct Channel {
    link: Arc<Link>,
    handle: Handle,
}

impl Channel {
    fn broken(&self, state: &State) -> Option<LinkError> {
        match state.session.stage(self.handle) {
            Stage::Gone => Some(state.ended.unwrap_or(LinkError::Down)),
            Stage::Refused => Some(LinkError::Refused),
            Stage::Closed => Some(LinkError::Closed),
            _ => state.ended,
        }
    }

    /// Reads at least one byte; zero means that the other end has no more. What came before the channel or
    /// the link ended is delivered first.
    pub fn read(&self, buffer: &mut [u8], patience: Patience<'_>) -> Result<usize, LinkError> {
        if buffer.is_empty() {
            return Ok(0);
        }
        self.link.wait(patience, |state| {
            let count = state.session.read(self.handle, buffer);
            if count > 0 {
                return Some(Ok(count));
            }
            if let (0, true) = state.session.readable(self.handle) {
                return Some(match state.session.stage(self.handle) {
                    Stage::Gone => Err(state.ended.unwrap_or(LinkError::Down)),
                    _ => Ok(0),
                });
            }
            if let Some(why) = self.broken(state) {
                return Some(Err(why));
            }
            state.session.credit(self.handle);
            None
        })
    }

    /// Reads output that comes after the other end has closed the channel. Zero when patience is over.
    pub fn read_late(&self, buffer: &mut [u8], patience: Patience<'_>) -> usize {
        let read = self.link.wait(patience, |state| {
            let count = state.session.read(self.handle, buffer);
            (count > 0 || state.ended.is_some()).then_some(Ok(count))
        });
        read.unwrap_or(0)
    }

    /// Writes all of `payload`.
    pub fn write(&self, payload: &[u8], patience: Patience<'_>) -> Result<(), LinkError> {
        let mut done = 0;
        self.link.wait(patience, |state| {
            if let Some(why) = state.ended {
                return Some(Err(why));
            }
            match state.session.write(self.handle, payload.get(done..).unwrap_or_default()) {
                Some(count) => done += count,
                None => return Some(Err(self.broken(state).unwrap_or(LinkError::Closed))),
            }
            (done == payload.len()).then_some(Ok(()))
        })
    }

    /// Tells the other end that no more payload follows.
    pub fn eof(&self) {
        self.link.lock().session.eof(self.handle);
        self.link.changed.notify_all();
    }

    /// Closes the channel; whoever reads or writes it gets an error.
    pub fn close(&self) {
        self.link.lock().session.close(self.handle);
        self.link.changed.notify_all();
    }

    /// Waits until either end has closed the channel, or it is gone.
    pub fn wait_closed(&self, patience: Patience<'_>) -> Result<(), LinkError> {
        self.link.wait(patience, |state| self.broken(state).is_some().then_some(Ok(())))
    }

    /// Ends all channels that were opened before this one; whoever uses them finds them gone.
    pub fn end_older(&self) {
        self.link.lock().session.end_before(self.handle);
        self.link.changed.notify_all();
    }

    /// Whether the channel is of no more use to the other end: closed, or gone with its session.
    pub fn hung_up(&self) -> bool {
        let state = self.link.lock();
        state.ended.is_some() || state.session.closed_by_peer(self.handle)
    }

    /// Waits until payload or the end of it is there; `false` if patience was over first.
    pub fn wait_readable(&self, patience: Patience<'_>) -> bool {
        let ready = self.link.wait(patience, |state| {
            let (count, end) = state.session.readable(self.handle);
            (count > 0 || end || state.ended.is_some()).then_some(Ok(()))
        });
        ready.is_ok()
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.link.lock().session.release(self.handle);
        self.link.changed.notify_all();
    }
}
