//! Progress on standard error, for what takes long enough to be worth it.

use std::io::{self, IsTerminal, Read};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::clock;

/// Nothing is shown before a task has taken this long.
const PATIENCE: Duration = Duration::from_millis(400);

/// Shows progress, or does not.
pub struct Progress {
    visible: bool,
}

impl Progress {
    /// Progress bars, if standard error is a terminal.
    pub fn on_terminal() -> Self {
        Self { visible: io::stderr().is_terminal() }
    }

    /// Shows nothing.
    pub fn hidden() -> Self {
        Self { visible: false }
    }

    /// Starts a task that reads or writes about `total` bytes.
    pub fn bytes(&self, what: &'static str, total: u64) -> Task {
        let bar = self.visible.then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
            let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes}");
            if let Ok(style) = style {
                bar.set_style(style);
            }
            bar.with_message(what)
        });
        Task { bar, start: clock::now() }
    }
}

/// A task in progress. Its bar disappears when it is done or dropped.
pub struct Task {
    bar: Option<ProgressBar>,
    start: Instant,
}

impl Task {
    /// Counts what is read through the returned reader.
    pub fn reader<R: Read>(&self, inner: R) -> Counted<R> {
        Counted { inner, counter: self.counter() }
    }

    /// Counts what is done in any other way.
    pub fn counter(&self) -> Counter {
        Counter { bar: self.bar.clone(), start: self.start, shown: false }
    }

    /// Ends the task.
    pub fn done(self) {}
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Moves a task's bar.
pub struct Counter {
    bar: Option<ProgressBar>,
    start: Instant,
    shown: bool,
}

impl Counter {
    /// So many bytes more are done.
    pub fn add(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            if !self.shown && clock::now().saturating_duration_since(self.start) > PATIENCE {
                bar.set_draw_target(ProgressDrawTarget::stderr());
                self.shown = true;
            }
            bar.inc(bytes);
        }
    }
}

/// A reader that moves a task's bar.
pub struct Counted<R> {
    inner: R,
    counter: Counter,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.counter.add(n as u64);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_reader_passes_everything_through() {
        let task = Progress { visible: true }.bytes("Testing", 5);
        let mut out = Vec::new();
        task.reader(&b"hello"[..]).read_to_end(&mut out).unwrap();
        assert_eq!(out, b"hello");
        assert_eq!(task.bar.as_ref().map(ProgressBar::position), Some(5));
        task.done();
    }
}
