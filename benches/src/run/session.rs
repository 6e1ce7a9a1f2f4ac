//! One booted guest per engine, of which one at a time runs: the others are stopped.

use std::time::Duration;

use anyhow::{Context, Result};

use super::console::Console;
use super::engines::{Contestants, Engine};
use super::image::GuestImage;
use crate::clock::{now, progress};

/// A guest that is not there by then does not boot.
const BOOT: Duration = Duration::from_secs(400);
/// A guest that went on gets this time to look after its timers.
const SETTLE: Duration = Duration::from_millis(60);
/// After so many failures an engine is left alone.
const MAX_FAILURES: u32 = 4;

/// The guest of one engine.
pub struct Session {
    engine: Engine,
    console: Option<Console>,
    failures: u32,
}

impl Session {
    /// Starts one for each engine, all at once, and waits for them.
    ///
    /// # Errors
    /// The host's. A guest that does not boot is found out when it is used.
    pub fn start_all(contestants: &Contestants, guest: &GuestImage) -> Result<Vec<Self>> {
        let mut consoles = Vec::new();
        for engine in contestants.engines() {
            consoles.push((engine, Console::start(contestants.start(engine, guest)?)?));
        }
        let mut sessions = Vec::new();
        for (engine, mut console) in consoles {
            progress(&format!("waiting for {}", engine.name()));
            let console = match ready(engine, &mut console, guest, now() + BOOT) {
                Ok(()) => Some(console),
                Err(error) => {
                    progress(&format!("{}: {error:#}", engine.name()));
                    None
                }
            };
            let failures = u32::from(console.is_none());
            sessions.push(Self { engine, console, failures });
        }
        Ok(sessions)
    }

    /// Whose guest it is.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// Lets the guest go on, do some work, and stop. A guest that failed is started anew before the next turn.
    ///
    /// # Errors
    /// The guest cannot be started; it does not answer within `timeout`; the work's.
    pub fn turn(
        &mut self,
        contestants: &Contestants,
        guest: &GuestImage,
        timeout: Duration,
        work: &mut dyn FnMut(&mut Console) -> Result<()>,
    ) -> Result<()> {
        anyhow::ensure!(self.failures < MAX_FAILURES, "it failed too often");
        let result = self.try_turn(contestants, guest, timeout, work);
        if result.is_err() {
            self.console = None;
            self.failures += 1;
        }
        result
    }

    fn try_turn(
        &mut self,
        contestants: &Contestants,
        guest: &GuestImage,
        timeout: Duration,
        work: &mut dyn FnMut(&mut Console) -> Result<()>,
    ) -> Result<()> {
        let console = match &mut self.console {
            Some(console) => console,
            none => {
                progress(&format!("starting {} again", self.engine.name()));
                let mut console = Console::start(contestants.start(self.engine, guest)?)?;
                ready(self.engine, &mut console, guest, now() + BOOT)?;
                none.insert(console)
            }
        };
        console.go_on()?;
        console.command(":", now() + timeout).context("after it was stopped")?;
        std::thread::sleep(SETTLE);
        work(console)?;
        console.stop()
    }
}

/// Waits until the agent answers; stops the guest.
fn ready(
    engine: Engine,
    console: &mut Console,
    guest: &GuestImage,
    deadline: std::time::Instant,
) -> Result<()> {
    if engine != Engine::Native {
        console.wait_for_prompt(guest.prompt, deadline)?;
        console.send("stty -echo; PS1=; exec sh /bench/agent")?;
    }
    console.wait_for_line("AGENT", deadline)?;
    console.stop()
}
