//! The guest service's line: the machine's second serial port.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use emu_devices::machine::{HostMessage, Mailbox};
use emu_devices::serial::SerialSink;

use super::channel::{Line, Port, SEND};
use super::fresh::freshen;
use super::{Deadline, Guest, RpcError, network};
use crate::clock::{self, Random};

/// COM2, where the service listens.
const PORT: u8 = 1;

/// How long the service of a restored guest may take to get the guest's clock right.
const FRESH: Duration = Duration::from_secs(10);
/// How long the service may take to get an address.
const RAISE: Duration = Duration::from_secs(20);
/// How long a service may take to be there, and how often to look.
const LOOK_FOR: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// A guest that has booted to a shell and then rested for so long has no service.
const AT_REST: Duration = Duration::from_secs(5);

/// Bytes collected before they are handed on.
const PIECE: usize = 4096;

/// The way to the guest: the machine's mailbox.
struct Com2 {
    mailbox: Arc<Mailbox>,
    ended: Arc<AtomicBool>,
}

impl Line for Com2 {
    fn send(&self, bytes: &[u8]) -> bool {
        self.mailbox.send(HostMessage::Serial { port: PORT, bytes: bytes.to_vec() })
    }

    fn wait_space(&self) -> bool {
        self.mailbox.wait_space(SEND);
        !self.ended.load(Ordering::Acquire)
    }
}

/// The way back: what COM2 sends.
struct FromGuest {
    guest: Arc<Guest>,
    bytes: Vec<u8>,
    /// What the guest was last said to have done with the port.
    port: Port,
    ended: Arc<AtomicBool>,
}

impl SerialSink for FromGuest {
    fn write(&mut self, byte: u8) {
        self.bytes.push(byte);
        if self.bytes.len() >= PIECE {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if !self.bytes.is_empty() {
            self.guest.receive(&self.bytes);
            self.bytes.clear();
        }
    }

    /// A port that closes ends the session: whoever waits for an answer would wait for ever.
    fn setup(&mut self, ier: u8, mcr: u8, divisor: u16) {
        if let Some(port) = Port::from_registers(ier, mcr, divisor)
            && port != self.port
        {
            // What was sent before counts.
            self.flush();
            self.port = port;
            self.guest.set_port(port);
        }
    }
}

impl Drop for FromGuest {
    /// The machine is gone.
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        self.guest.shut_down();
    }
}

/// Connects a client to COM2 of the machine with this mailbox. The sink belongs to the port.
pub fn connect(mailbox: &Arc<Mailbox>) -> (Arc<Guest>, Box<dyn SerialSink>) {
    let ended = Arc::new(AtomicBool::new(false));
    let line = Com2 { mailbox: mailbox.clone(), ended: ended.clone() };
    let guest = Arc::new(Guest::new(Arc::new(line)));
    let sink = FromGuest { guest: guest.clone(), bytes: Vec::new(), port: Port::Unknown, ended };
    (guest, Box::new(sink))
}

/// The service of a machine, and what the machine says about its port. Clones are the same service.
#[derive(Clone)]
pub struct Service {
    guest: Arc<Guest>,
    mailbox: Arc<Mailbox>,
    /// The guest has a network card that is connected.
    network: bool,
    /// A service had the port open. Held by the one who waits for that: what a restored guest needs then is
    /// done once.
    found: Arc<Mutex<bool>>,
}

impl Service {
    pub(crate) fn new(guest: Arc<Guest>, mailbox: Arc<Mailbox>) -> Self {
        Self { guest, mailbox, found: Arc::default(), network: false }
    }

    /// Says whether the guest's network card is connected.
    pub(crate) fn with_network(mut self, network: bool) -> Self {
        self.network = network;
        self
    }

    /// Calls of the service.
    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    /// Waits until a service has the port open. False if there is none: in a `restored` guest at once; in one
    /// that boots, when a shell has waited at the console for a while, or at the deadline.
    pub fn wait_open(&self, restored: bool, deadline: Deadline) -> bool {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let mut resting: Option<Deadline> = None;
        loop {
            if self.guest.port() == Port::Open {
                if restored && !*found {
                    self.guest.reconnect();
                }
                *found = true;
                return true;
            }
            // One that has been there may come back: it is restarted, or the guest is.
            if restored && !*found {
                return false;
            }
            let status = self.mailbox.status();
            if status.idle && status.listening {
                let until = *resting.get_or_insert_with(|| Deadline::after(AT_REST));
                if until.left().is_some_and(|left| left.is_zero()) {
                    return false;
                }
            }
            if deadline.left().is_some_and(|left| left.is_zero()) || self.mailbox.is_closed() {
                return false;
            }
            clock::pause(LOOK_EVERY);
        }
    }

    /// Sets the clock of a restored guest and gives its kernel entropy.
    ///
    /// # Errors
    /// See [`freshen`].
    pub fn freshen(&self, deadline: Deadline) -> Result<(), RpcError> {
        let mut entropy = Vec::new();
        if let Ok(mut random) = Random::system() {
            (0..16).for_each(|_| entropy.extend_from_slice(&random.next_u32().to_le_bytes()));
        }
        let done = freshen(&self.guest, clock::wall(), &entropy, deadline);
        self.raise_network();
        done
    }

    /// Makes a guest whose card is connected use it, if it does not do so already. What it cannot do is no reason
    /// not to go on.
    pub fn raise_network(&self) {
        if self.network {
            let _ = network::raise(&self.guest, Deadline::after(RAISE));
        }
    }

    /// Makes a restored guest a new one, in the background: its clock is set, its kernel gets entropy. Does
    /// nothing if no service has COM2 open: what is sent there would be taken for something else.
    pub fn freshen_in_background(self) {
        // Without a thread the guest runs on as it is, which is no reason to stop it.
        let _ = thread::Builder::new().name("freshen".to_owned()).spawn(move || {
            if self.wait_open(true, Deadline::after(LOOK_FOR)) {
                // Nobody waits for it, and a guest whose service is busy or broken still runs.
                let _ = self.freshen(Deadline::after(FRESH));
            }
        });
    }
}
