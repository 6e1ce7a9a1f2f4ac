//! Signals and window sizes on their way to the command.
//!
//! A guest may be slow to answer; whoever gives an order does not wait for that.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use super::Window;
use crate::rpc::{Control, Deadline, Guest};

/// How long the guest may take for one order.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the command is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// This signal.
    Signal(i32),
    /// The size of the terminal has changed.
    Resize,
}

/// The way to the thread that tells it.
pub struct Controller {
    orders: Sender<Order>,
    /// Nothing more will come from the guest.
    ended: Box<dyn Fn() + Send>,
}

impl Controller {
    /// Starts the thread.
    pub(super) fn start(guest: Guest, control: Control, window: Window) -> io::Result<Self> {
        let (orders, received) = channel();
        let body = move || obey(&received, &control, &*window);
        thread::Builder::new().name("control".to_owned()).spawn(body)?;
        Ok(Self { orders, ended: Box::new(move || guest.shut_down()) })
    }

    /// One whose orders somebody else obeys. Also gives those.
    pub(super) fn of_console(ended: impl Fn() + Send + 'static) -> (Self, Receiver<Order>) {
        let (orders, received) = channel();
        (Self { orders, ended: Box::new(ended) }, received)
    }

    pub(super) fn give(&self, order: Order) {
        // The thread lives as long as this.
        let _ = self.orders.send(order);
    }

    /// The machine has stopped: nothing more will come from the guest.
    pub(super) fn shut_down(&self) {
        (self.ended)();
    }
}

fn obey(orders: &Receiver<Order>, control: &Control, window: &dyn Fn() -> Option<(u16, u16)>) {
    while let Ok(order) = orders.recv() {
        let deadline = Deadline::after(PATIENCE);
        // A command that has just ended takes no orders.
        let _ = match order {
            Order::Signal(signal) => control.signal(signal, deadline),
            Order::Resize => {
                window().map_or(Ok(()), |(rows, columns)| control.resize(rows, columns, deadline))
            }
        };
    }
}
