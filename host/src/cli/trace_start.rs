//! `--trace-start`: a line on standard error at the moment before the guest's first instruction, so that a
//! benchmark can tell loading from running without anything in the way of either.

use emu_core::engine::Counter;

use crate::snapshot::save::Capture;
use crate::vm::{Runner, StopReason};

/// What is printed.
const STARTED: &str = "trace: the guest starts\n";

/// A machine that says when it starts.
pub(super) struct TraceStart {
    runner: Box<dyn Runner>,
    started: bool,
}

impl TraceStart {
    /// Wraps a machine.
    pub(super) fn new(runner: Box<dyn Runner>) -> Self {
        Self { runner, started: false }
    }
}

impl Runner for TraceStart {
    fn run(&mut self) -> StopReason {
        // Pauses end here too.
        if !std::mem::replace(&mut self.started, true) {
            eprint!("{STARTED}");
        }
        self.runner.run()
    }

    fn retired(&self) -> u64 {
        self.runner.retired()
    }

    fn counters(&self) -> Vec<Counter> {
        self.runner.counters()
    }

    fn state_hash(&mut self) -> u64 {
        self.runner.state_hash()
    }

    fn report(&self) -> String {
        self.runner.report()
    }

    fn reboot_error(&self) -> Option<String> {
        self.runner.reboot_error()
    }

    fn capture(&mut self) -> Box<dyn Capture + '_> {
        self.runner.capture()
    }

    fn capture_copy(&mut self) -> Box<dyn Capture + Send> {
        self.runner.capture_copy()
    }
}
