//! What is measured. The sources of the programs are in `benches/guest/`.

use serde::Serialize;

/// Kinds of workloads, in the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// Integer arithmetic, loads, stores.
    Integer,
    /// Floating point on the x87.
    X87,
    /// Floating point and packed integers in SSE registers.
    Sse2,
    /// Calls, returns, indirect jumps.
    Branches,
    /// Caches, TLB, copying.
    Memory,
    /// The kernel's work: system calls, processes, faults, files.
    System,
    /// Programs of the guest's distribution.
    Programs,
    /// Transfers over the network cards.
    Network,
    /// The machine as a whole: boot, restore, idle, memory.
    Machine,
}

impl Group {
    /// In the order of the report.
    pub const ALL: [Self; 9] = [
        Self::Integer,
        Self::X87,
        Self::Sse2,
        Self::Branches,
        Self::Memory,
        Self::System,
        Self::Programs,
        Self::Network,
        Self::Machine,
    ];

    /// Name in reports and for `--only`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Integer => "integer",
            Self::X87 => "x87",
            Self::Sse2 => "sse2",
            Self::Branches => "branches",
            Self::Memory => "memory",
            Self::System => "system",
            Self::Programs => "programs",
            Self::Network => "network",
            Self::Machine => "machine",
        }
    }

    /// Whether the native time is what no emulator can beat. In `system` and `network` the native run asks the
    /// host's kernel, which may be slower than a guest's: it may be a guest itself.
    pub fn native_is_limit(self) -> bool {
        !matches!(self, Self::System | Self::Network | Self::Machine)
    }

    /// Whether nothing but the processor decides about the time: no caches, no kernel.
    pub fn is_processor_alone(self) -> bool {
        matches!(self, Self::Integer | Self::X87 | Self::Sse2 | Self::Branches)
    }
}

/// How a program of ours is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Math {
    /// For a 686 without SSE.
    X87,
    /// With SSE2, scalar and packed.
    Sse2,
}

/// One workload that runs in a guest.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Name in reports; of the program too, with `-x87` or `-sse2` where it is compiled for both.
    pub name: &'static str,
    /// Its kind.
    pub group: Group,
    /// Source file in `benches/guest/` without `.c`; `None`: a program of the distribution, run by `whole`.
    pub source: Option<&'static str>,
    /// How it is compiled.
    pub math: Math,
    /// Its argument in a full run and in a quick one.
    pub size: [u32; 2],
}

const fn program(name: &'static str, group: Group, full: u32, quick: u32) -> Workload {
    Workload { name, group, source: Some(name), math: Math::X87, size: [full, quick] }
}

const fn float(name: &'static str, source: &'static str, math: Math, full: u32, quick: u32) -> Workload {
    let group = match math {
        Math::X87 => Group::X87,
        Math::Sse2 => Group::Sse2,
    };
    Workload { name, group, source: Some(source), math, size: [full, quick] }
}

const fn whole(name: &'static str, full: u32, quick: u32) -> Workload {
    Workload { name, group: Group::Programs, source: None, math: Math::X87, size: [full, quick] }
}

use Group::{Branches, Integer, Memory, System};
use Math::{Sse2, X87};

/// All of them. Sizes are such that the bare CPU takes 20 to 100 ms in a full run; less where emulators are slow.
pub const ALL: &[Workload] = &[
    program("sort", Integer, 6, 1),
    program("crc", Integer, 200, 40),
    program("sieve", Integer, 12, 2),
    program("matrix", Integer, 60, 12),
    program("sha256", Integer, 400, 80),
    program("string", Integer, 40, 8),
    program("control", Integer, 500, 100),
    program("records", Integer, 500, 100),
    program("mul64", Integer, 300, 60),
    float("nbody-x87", "nbody", X87, 120, 20),
    float("mandel-x87", "mandel", X87, 1500, 300),
    float("fft-x87", "fft", X87, 300, 60),
    float("matmul-x87", "matmul", X87, 60, 12),
    float("spectral-x87", "spectral", X87, 20, 4),
    float("nbody-sse2", "nbody", Sse2, 240, 40),
    float("mandel-sse2", "mandel", Sse2, 3000, 600),
    float("fft-sse2", "fft", Sse2, 600, 100),
    float("matmul-sse2", "matmul", Sse2, 160, 40),
    float("spectral-sse2", "spectral", Sse2, 40, 8),
    float("packed-sse2", "packed", Sse2, 20_000, 4000),
    program("bytecode", Branches, 1000, 100),
    program("virtual", Branches, 2000, 300),
    program("recursion", Branches, 240, 20),
    program("switch", Branches, 80, 16),
    program("copy", Memory, 200, 40),
    program("chase", Memory, 2, 1),
    program("random", Memory, 6000, 600),
    program("tlb", Memory, 900, 60),
    program("syscall", System, 60, 6),
    program("sysenter", System, 100, 20),
    program("fork", System, 100, 20),
    program("exec", System, 50, 10),
    program("fault", System, 20, 4),
    program("signal", System, 40, 4),
    program("pipe", System, 200, 40),
    program("stream", System, 200, 40),
    program("file", System, 64, 16),
    program("files", System, 100, 20),
    whole("gzip", 2048, 256),
    whole("bzip2", 512, 64),
    whole("awk", 1024, 128),
    whole("gcc", 2, 1),
    whole("python3", 60, 5),
    whole("openssl", 4096, 512),
    whole("shell", 60, 10),
];

/// What the list will have once env86 has the parts for it.
pub const NOT_YET: &[(&str, &str)] = &[];

impl Workload {
    /// Line for the guest's agent.
    pub fn command(&self, quick: bool) -> String {
        let size = self.size[usize::from(quick)];
        match self.source {
            Some(_) => format!("/bench/{} {size}", self.name),
            None => format!("/bench/whole {} {size}", self.name),
        }
    }

    /// Whether `--only` with these words chooses it; no words choose all.
    pub fn is_chosen(&self, only: &[String]) -> bool {
        is_chosen(self.name, self.group, only)
    }
}

/// The same for any name: a word is a group or part of a name.
pub fn is_chosen(name: &str, group: Group, only: &[String]) -> bool {
    only.is_empty() || only.iter().any(|word| group.name() == word || name.contains(word.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_sources_are_there() {
        let names: BTreeSet<_> = ALL.iter().map(|workload| workload.name).collect();
        assert_eq!(names.len(), ALL.len());
        let directory = crate::workspace::root().join("benches/guest");
        for source in ALL.iter().filter_map(|workload| workload.source) {
            assert!(directory.join(format!("{source}.c")).is_file(), "{source}");
        }
    }

    #[test]
    fn what_is_the_processors_alone_comes_first() {
        assert!(ALL.is_sorted_by_key(|workload| !workload.group.is_processor_alone()));
    }

    #[test]
    fn only_takes_groups_and_parts_of_names() {
        let chosen = |words: &[&str]| -> Vec<_> {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            ALL.iter().filter(|workload| workload.is_chosen(&words)).map(|workload| workload.name).collect()
        };
        assert_eq!(chosen(&[]).len(), ALL.len());
        assert_eq!(chosen(&["fft", "awk"]), ["fft-x87", "fft-sse2", "awk"]);
        assert_eq!(chosen(&["branches"]), ["bytecode", "virtual", "recursion", "switch"]);
        assert!(chosen(&["no such"]).is_empty());
    }

    #[test]
    fn quick_sizes_are_smaller() {
        assert!(ALL.iter().all(|workload| workload.size[1] < workload.size[0] && workload.size[1] > 0));
    }
}
