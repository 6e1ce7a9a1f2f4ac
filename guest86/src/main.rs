//! The guest service: `guest86 [DEVICE]`, by default on the second serial port.

use guest86::service::{Linux, Service, open_terminal, serve};
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// The second serial port.
const DEVICE: &str = "/dev/ttyS1";

/// Pause before the line is opened again after it has ended.
const AGAIN: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let device = match (arguments.next(), arguments.next()) {
        (None, _) => DEVICE.to_owned(),
        (Some(word), None) if word == "--version" => {
            println!("guest86 {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        (Some(device), None) if !device.starts_with('-') => device,
        _ => {
            eprintln!("usage: guest86 [DEVICE]\n\nServes the host on a serial line, by default {DEVICE}.");
            return ExitCode::from(2);
        }
    };
    let Err(error) = run(Path::new(&device));
    eprintln!("guest86: {device}: {error}");
    ExitCode::FAILURE
}

/// Serves the device for ever; an error means that it cannot be opened.
fn run(device: &Path) -> io::Result<std::convert::Infallible> {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let service = Service::new(env!("CARGO_PKG_VERSION"), Box::new(Linux));
    loop {
        let line = open_terminal(device)?;
        // A line that ends (a hang-up, a driver that was unloaded) may come back.
        let _ = serve(&service, line.try_clone()?, line);
        std::thread::sleep(AGAIN);
    }
}
