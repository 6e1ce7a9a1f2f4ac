//! The host's processors: which of them is ours alone now, and who runs on it.
//!
//! On a virtual machine, others use the same cores: a run can take twice its time with every nanosecond of it
//! accounted to this process, because a hardware thread shares its core's execution units with another one, which
//! belongs to somebody else. The host's kernel does not know. A short loop that keeps all of these units busy does:
//! it takes up to twice its time then. Others come and go, on each processor by themselves, in seconds.

use std::fs;
use std::hint::black_box;
use std::thread;
use std::time::Duration;

use crate::clock::now;

/// So much longer than the shortest time so far means that someone else was there.
const DISTURBED: f64 = 1.2;
/// Iterations of the loop; a third of a millisecond.
const ITERATIONS: u64 = 250_000;
/// A processor is calm if, of so many loops, ...
const LOOPS: usize = 6;
/// ... no more were disturbed: this host's own timer takes its share.
const TOLERATED: usize = 1;
/// While none is calm, they are looked at this often.
const PAUSE: Duration = Duration::from_millis(20);

/// The processors this process may use.
pub struct Processors {
    ids: Vec<usize>,
    /// The shortest time of the loop, seconds.
    best: f64,
}

impl Processors {
    /// Learns how long the loop takes.
    pub fn new() -> Self {
        let mut processors = Self { ids: affinity::allowed(), best: f64::INFINITY };
        for id in processors.ids.clone() {
            for _ in 0..10 {
                processors.is_calm(id);
            }
        }
        processors
    }

    /// A processor that nobody else uses, and true; waits for one. One of them and false if there was none
    /// within `patience`.
    pub fn wait_for_calm(&mut self, patience: Duration) -> (usize, bool) {
        let deadline = now() + patience;
        loop {
            if let Some(at) = (0..self.ids.len()).find(|&at| self.is_calm(self.ids[at])) {
                // What runs next finds its data in this one's caches.
                self.ids[..=at].rotate_right(1);
                return (self.ids[0], true);
            }
            if now() >= deadline {
                return (self.ids.first().copied().unwrap_or_default(), false);
            }
            thread::sleep(PAUSE);
        }
    }

    /// Whether nobody else uses this processor now.
    pub fn is_calm(&mut self, id: usize) -> bool {
        affinity::bind(None, &[id]);
        let disturbed = (0..LOOPS).filter(|_| self.is_loop_disturbed()).count();
        affinity::bind(None, &self.ids);
        disturbed <= TOLERATED
    }

    fn is_loop_disturbed(&mut self) -> bool {
        let start = now();
        black_box(work(black_box(1)));
        let time = start.elapsed().as_secs_f64();
        self.best = self.best.min(time);
        time > self.best * DISTURBED
    }

    /// Makes a thread run on one processor.
    pub fn bind(&self, thread: u32, id: usize) {
        affinity::bind(Some(thread), &[id]);
    }
}

/// The thread of a process that has used the most processor time: of an emulator, the one that runs the guest.
/// Of a process that is gone, itself.
pub fn busiest_thread(process: u32) -> u32 {
    let ticks = |thread: u32| {
        let text = fs::read_to_string(format!("/proc/{process}/task/{thread}/stat")).ok()?;
        // Numbers follow the thread's name in parentheses; the 12th and 13th are its times.
        let fields = text.rsplit_once(')')?.1.split_whitespace().skip(11).take(2);
        fields.map(|field| field.parse::<u64>().ok()).sum::<Option<u64>>()
    };
    let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let threads = tasks.filter_map(|task| task.file_name().to_str()?.parse().ok());
    threads.max_by_key(|thread| ticks(*thread)).unwrap_or(process)
}

/// Sums that do not depend on each other, more than any core can work at in a cycle.
fn work(seed: u64) -> u64 {
    let mut sums: [u64; 8] = std::array::from_fn(|i| seed + i as u64);
    for i in 0..ITERATIONS {
        for (sum, by) in sums.iter_mut().zip(1..) {
            *sum = sum.wrapping_add(i).rotate_left(by);
        }
    }
    sums.iter().fold(0, |all, sum| all ^ sum)
}

/// What the host's kernel offers to bind threads to processors.
#[cfg(target_os = "linux")]
mod affinity {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    /// The processors this process may use.
    pub fn allowed() -> Vec<usize> {
        let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
        (0..CpuSet::MAX_CPU).filter(|id| set.is_set(*id)).collect()
    }

    /// Makes a thread, or the calling one, run on these. A thread that is gone does not mind.
    pub fn bind(thread: Option<u32>, ids: &[usize]) {
        let mut set = CpuSet::new();
        ids.iter().for_each(|id| set.set(*id));
        let thread = thread.map(|id| rustix::process::Pid::from_raw(id.cast_signed()));
        if thread != Some(None) {
            let _ = sched_setaffinity(thread.flatten(), &set);
        }
    }
}

/// Elsewhere, threads run where the kernel likes.
#[cfg(not(target_os = "linux"))]
mod affinity {
    pub fn allowed() -> Vec<usize> {
        vec![0]
    }

    pub fn bind(_: Option<u32>, _: &[usize]) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_is_one_of_those_allowed_and_this_thread_may_use_all_afterwards() {
        let before = affinity::allowed();
        let mut processors = Processors::new();
        let (id, _) = processors.wait_for_calm(Duration::ZERO);
        assert!(before.contains(&id));
        assert_eq!(affinity::allowed(), before);
    }

    #[test]
    fn thread_is_bound_to_its_processor() {
        let processors = Processors::new();
        let id = *processors.ids.last().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let process = std::process::id();
        let bound = thread::spawn(move || {
            let link = fs::read_link("/proc/thread-self").unwrap();
            sender.send(link.file_name().unwrap().to_str().unwrap().parse::<u32>().unwrap()).unwrap();
            while affinity::allowed().len() != 1 {
                thread::yield_now();
            }
            affinity::allowed()
        });
        let thread = receiver.recv().unwrap();
        assert!(fs::exists(format!("/proc/{process}/task/{thread}")).unwrap());
        processors.bind(thread, id);
        assert_eq!(bound.join().unwrap(), [id]);
    }

    #[test]
    fn busiest_thread_of_a_process_without_others_is_itself() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        assert_eq!(busiest_thread(child.id()), child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(busiest_thread(child.id()), child.id(), "it is gone");
    }
}
