//! The serial console on the user's terminal, and what ends a session.
//!
//! | thread | what it does |
//! | --- | --- |
//! | vCPU | runs the machine; puts COM1's output into a queue (`output`) |
//! | output | writes the queue to standard output, looks for the `--exit-on` text |
//! | input | reads standard input; keys at a terminal (`escape`), or paced bytes of a pipe (`pacer`) |
//! | signals | turns signals into events (`crate::signals`) |
//! | main | waits for the first event that ends the session, then stops the rest (`session`) |
//!
//! The queues are bounded. A terminal that does not take output makes the guest wait, not the
//! host's memory grow; but nobody waits for it once the session ends.

pub mod escape;
pub mod exit_on;
mod input;
pub mod keys;
pub mod output;
pub mod pacer;
pub mod session;
pub mod terminal;

/// Why the console cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// The terminal refused raw mode.
    #[error("Cannot use the terminal")]
    Terminal(#[source] std::io::Error),
    /// A thread could not be started.
    #[error("Cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// Signals cannot be received.
    #[error("Cannot listen for signals")]
    Signals(#[source] std::io::Error),
}
