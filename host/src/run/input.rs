//! The host's input on its way to the command.

use std::io::{self, Read};
use std::thread;
use std::time::Duration;

use crate::clock;
use crate::rpc::{Deadline, Input};

/// Bytes read at once.
const PIECE: usize = 32 << 10;

/// Pause before reading again from an input that is non-blocking and empty.
const RETRY: Duration = Duration::from_millis(5);

/// Starts the thread that feeds the command. It ends with the input, or with the process: nothing can
/// interrupt a read from a terminal.
pub(super) fn start(from: Box<dyn Read + Send>, to: Input) -> io::Result<()> {
    thread::Builder::new().name("input".to_owned()).spawn(move || feed(from, &to)).map(drop)
}

fn feed(mut from: Box<dyn Read + Send>, to: &Input) {
    let mut buffer = vec![0; PIECE];
    loop {
        match from.read(&mut buffer) {
            // An input that fails has ended, as for any program that reads it.
            Ok(0) => break,
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default();
                if to.write(bytes, Deadline::never()).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => clock::pause(RETRY),
            Err(_) => break,
        }
    }
    // The command has ended when this fails.
    let _ = to.end(Deadline::never());
}
