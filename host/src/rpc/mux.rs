//! One line and the sessions on it.
//!
//! A session is attached by asking. Nothing on the wire marks its beginning, and after a restore both
//! directions may be in the middle of a frame that was never finished, so: the first channel number is random,
//! what comes before the answer to it is skipped, and when no answer comes the line is left alone for long
//! enough for the service to give up its unfinished frame, before the next attempt with another number.

use super::channel::{Line, Port, SEND};
use super::{Deadline, RpcError};
use crate::clock;
use guest86::call::{ATTACH, Info, method};
use guest86::cbor::Value;
use guest86::link::Link;
use guest86::mux::{Role, Session};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Patience of the first attempt to attach; later ones have twice that of the one before.
const FIRST_ATTEMPT: Duration = Duration::from_millis(500);

/// Patience of an attempt at most.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(4);

/// Silence before another attempt. The service takes 0.1 s for a pause.
const SILENCE: Duration = Duration::from_millis(300);

/// A service that answers.
#[derive(Clone)]
pub struct Attached {
    /// Its session.
    pub link: Arc<Link>,
    /// What it says about itself.
    pub info: Arc<Info>,
    /// How long its first answer took.
    pub latency: Duration,
}

#[derive(Default)]
struct State {
    port: Port,
    /// The session that gets what arrives.
    link: Option<Arc<Link>>,
    attached: Option<Attached>,
    /// The machine has ended.
    over: bool,
}

/// For a session that does not begin here.
struct NoLine;

impl Line for NoLine {
    fn send(&self, _bytes: &[u8]) -> bool {
        false
    }

    fn wait_space(&self) -> bool {
        false
    }
}

/// A line to a guest.
pub struct Connection {
    line: Arc<dyn Line>,
    state: Mutex<State>,
    changed: Condvar,
    /// Held by the one session that sends.
    sending: Mutex<()>,
    /// Held while attaching.
    attaching: Mutex<()>,
}

impl Connection {
    /// A connection on which nobody has spoken yet.
    pub fn new(line: Arc<dyn Line>) -> Arc<Self> {
        Arc::new(Self {
            line,
            state: Mutex::default(),
            changed: Condvar::new(),
            sending: Mutex::default(),
            attaching: Mutex::default(),
        })
    }

    /// A session that somebody else has begun and looks after. When it ends, everything does.
    pub fn of_session(link: Arc<Link>, info: Info) -> Arc<Self> {
        let attached = Attached { link, info: Arc::new(info), latency: Duration::ZERO };
        Arc::new(Self {
            line: Arc::new(NoLine),
            state: Mutex::new(State { attached: Some(attached), over: true, ..State::default() }),
            changed: Condvar::new(),
            sending: Mutex::default(),
            attaching: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes bytes from the guest. Never waits for anybody; what nobody has asked for is dropped.
    pub fn receive(&self, bytes: &[u8]) {
        let link = self.lock().link.clone();
        if let Some(link) = link {
            // A breach is reported to those who use the session.
            let _ = link.push(bytes);
        }
    }

    /// Tells whether somebody listens at the other end.
    pub fn set_port(&self, port: Port) {
        let mut state = self.lock();
        if state.port == port {
            return;
        }
        state.port = port;
        if port == Port::Closed {
            // Whoever listens next knows nothing of this session.
            end(&mut state);
        }
        self.changed.notify_all();
    }

    /// What was told last.
    pub fn port(&self) -> Port {
        self.lock().port
    }

    /// Ends the session, because the guest is another one from now on (restored). The next call attaches anew.
    pub fn reconnect(&self) {
        end(&mut self.lock());
    }

    /// Ends everything: the machine has stopped.
    pub fn shut_down(&self) {
        let mut state = self.lock();
        state.over = true;
        if let Some(attached) = state.attached.take() {
            attached.link.down();
        }
        end(&mut state);
        self.changed.notify_all();
    }

    /// The service, attached if need be.
    pub fn attach(self: &Arc<Self>, deadline: Deadline) -> Result<Attached, RpcError> {
        if let Some(attached) = self.healthy() {
            return Ok(attached);
        }
        let _one_at_a_time = self.attaching.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(attached) = self.healthy() {
            return Ok(attached);
        }
        let mut patience = FIRST_ATTEMPT;
        loop {
            self.wait(deadline, |state| state.port != Port::Closed)?;
            let link = self.begin();
            match hello(&link, deadline.or_after(patience)) {
                Ok((info, latency)) => {
                    let attached = Attached { link, info: Arc::new(info), latency };
                    self.lock().attached = Some(attached.clone());
                    return Ok(attached);
                }
                Err(error @ RpcError::Remote(_)) => return Err(error),
                Err(_) => {}
            }
            end(&mut self.lock());
            patience = (2 * patience).min(LONGEST_ATTEMPT);
            let silence = deadline.or_after(SILENCE);
            // Only the end of the machine cuts the silence short.
            match self.wait(silence, |_| false) {
                Err(RpcError::Gone) => return Err(RpcError::Gone),
                _ if deadline.left().is_some_and(|left| left.is_zero()) => return Err(RpcError::NoService),
                _ => {}
            }
        }
    }

    /// The attached service, if its session works.
    fn healthy(&self) -> Option<Attached> {
        self.lock().attached.clone().filter(|attached| attached.link.ended().is_none())
    }

    fn wait(&self, deadline: Deadline, ready: impl Fn(&State) -> bool) -> Result<(), RpcError> {
        let mut state = self.lock();
        loop {
            if state.over {
                return Err(RpcError::Gone);
            }
            if ready(&state) {
                return Ok(());
            }
            state = match deadline.left() {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return Err(RpcError::NoService),
                Some(left) => {
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Starts a session and the thread that sends for it.
    fn begin(self: &Arc<Self>) -> Arc<Link> {
        let mut first = [0; 4];
        // Without random numbers the time has to do: it only has to differ from earlier sessions.
        if getrandom::fill(&mut first).is_err() {
            first = clock::wall().subsec_nanos().to_be_bytes();
        }
        let mut session = Session::new(Role::Opens { first: u32::from_be_bytes(first) });
        session.hunt();
        let link = Link::new(session);
        let mut state = self.lock();
        end(&mut state);
        if state.over {
            link.down();
        }
        state.link = Some(link.clone());
        drop(state);
        let (connection, sender) = (self.clone(), link.clone());
        let started = std::thread::Builder::new().name("guest line".into()).spawn(move || {
            connection.send_all(&sender);
        });
        if started.is_err() {
            link.down();
        }
        link
    }

    fn send_all(&self, link: &Link) {
        // A session before this one may still be giving its last bytes.
        let _mine = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = Vec::new();
        while link.take_output(&mut buffer) {
            for piece in buffer.chunks(SEND) {
                while !self.line.send(piece) {
                    if !self.line.wait_space() {
                        link.down();
                    }
                    if link.is_down() {
                        return;
                    }
                }
            }
        }
    }
}

fn end(state: &mut State) {
    state.attached = None;
    if let Some(link) = state.link.take() {
        link.down();
    }
}

/// Asks the service who it is; what earlier sessions have left running ends. Also says how long the first
/// answer took.
fn hello(link: &Arc<Link>, deadline: Deadline) -> Result<(Info, Duration), RpcError> {
    let asked = clock::now();
    let none = Value::Array(Vec::new());
    let answer = super::client::call_on(link, method::ATTACH, &none, deadline);
    let latency = clock::now().saturating_duration_since(asked);
    match answer {
        Ok(value) => Ok((Info::from_value(&value).ok_or(RpcError::WrongAnswer(ATTACH))?, latency)),
        // The Go service knows no such thing.
        Err(RpcError::Remote(_)) => {
            let version = super::client::call_on(link, method::VERSION, &none, deadline)?;
            let version = version.as_text().ok_or(RpcError::WrongAnswer(method::VERSION))?.to_owned();
            Ok((Info { version, ..Info::default() }, latency))
        }
        Err(error) => Err(error),
    }
}
