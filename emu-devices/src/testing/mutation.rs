//! Snapshots that are not quite what they were: [`Base::mutate`] damages a valid one at random,
//! [`exercise`] restores it and lets the machine run.
//!
//! Damage is done where the format has structure: words of the header, JSON values, entries of buffers,
//! places in guest memory that devices read. It is a function of the random numbers alone, so that a seed is
//! all it takes to see a failure again.

use std::ops::Range;

use emu_core::interp::Interpreter;
use emu_core::snapshot::{Limits, Reader, Source, slots};
use emu_core::time::VmTime;

use super::random::Random;
use super::scripted::{self, PLACES};
use crate::machine::{Machine, MachineConfig, Mailbox, RestoreFailure};

const HEADER: usize = 16;
const PAGE: usize = 4096;

/// What a mutated snapshot may cost. The guests have 2 MiB.
pub const LIMITS: Limits =
    Limits { file: 16 << 20, info: 4 << 20, values: 1 << 20, buffers: 8 << 20, memory: 4 << 20 };

/// Guest time a restored machine runs, nanoseconds: some thousand instructions at ten million a second.
const RUN_NS: VmTime = 250_000;

/// A valid snapshot, taken apart.
pub struct Base {
    file: Vec<u8>,
    info: Range<usize>,
    /// The values of the info block.
    values: Vec<Span>,
    /// The elements of the state array, and all of buffer_infos, by index into `values`.
    slots: Vec<usize>,
    infos: Vec<usize>,
    /// The buffers in the file, guest memory first.
    buffers: Vec<Range<usize>>,
    /// Where in the file the guest's interesting memory is.
    places: Vec<Range<usize>>,
}

/// A value in the info block.
#[derive(Clone, Debug)]
struct Span {
    range: Range<usize>,
    children: Vec<usize>,
}

/// A change of the file's bytes.
struct Edit {
    range: Range<usize>,
    with: Vec<u8>,
}

impl Base {
    /// Takes apart a snapshot written by this emulator, whose guest is [`scripted`].
    ///
    /// # Panics
    /// If it is not valid.
    pub fn new(file: Vec<u8>) -> Self {
        let reader = Reader::open(&file[..], LIMITS).expect("a valid snapshot");
        let base = reader.layout().base as usize;
        let info = HEADER..HEADER + reader.layout().info as usize;
        let state = reader.load(None).expect("a valid snapshot");
        assert!(scripted::has_session(state.get(slots::VIRTIO_9P)), "the guest uses its files");
        let mut scan = Scan { text: &file, at: info.start, values: Vec::new() };
        let root = scan.value();
        let values = scan.values;
        let member = |n: usize| values[root].children[n];
        let infos = values[member(0)].children.clone();
        let slots = values[member(1)].children.clone();
        let buffers: Vec<Range<usize>> = infos
            .iter()
            .map(|info| {
                let numbers = values[*info].children.iter().map(|n| number(&file[values[*n].range.clone()]));
                let numbers: Vec<usize> = numbers.collect();
                base + numbers[0]..base + numbers[0] + numbers[1]
            })
            .collect();
        let emu_core::snapshot::Value::Typed(bitmap) = state.get(slots::MEMORY_BITMAP) else {
            panic!("no memory bitmap")
        };
        let stored = |page: usize| bitmap.data[page / 8] >> (page % 8) & 1 != 0;
        let mut places = Vec::new();
        for (address, len) in PLACES {
            let (address, len) = (address as usize, len as usize);
            let mut at = address;
            while at < address + len {
                let end = (at / PAGE + 1) * PAGE;
                if stored(at / PAGE) {
                    let page = (0..at / PAGE).filter(|page| stored(*page)).count();
                    let start = buffers[0].start + page * PAGE + at % PAGE;
                    places.push(start..start + end.min(address + len) - at);
                }
                at = end;
            }
        }
        Self { info, values, slots, infos, buffers, places, file }
    }

    /// The valid file.
    pub fn file(&self) -> &[u8] {
        &self.file
    }

    /// Writes a damaged copy into `out`.
    pub fn mutate(&self, r: &mut Random, out: &mut Vec<u8>) {
        let mut edits = Vec::new();
        let count = if r.one_in(3) { 1 + r.below(6) } else { 1 };
        // What the header says is made right again, most of the time: else nothing gets any further.
        let mut header = Vec::new();
        let mut cut = None;
        for _ in 0..count {
            match r.below(100) {
                0..=1 => header.push((r.below(4) * 4, r.value())),
                2..=4 => cut = Some(self.cut(r)),
                5..=8 => edits.push(self.damaged_text(r)),
                9..=11 => edits.extend(self.damaged_info(r)),
                12..=57 => {
                    let value = self.some_value(r);
                    edits.push(Edit { range: value.clone(), with: self.replacement(r, value) });
                }
                58..=63 => edits.extend(self.rearranged(r)),
                64..=79 => edits.push(self.damaged_buffer(r)),
                _ => edits.push(self.damaged_place(r)),
            }
        }
        edits.sort_by_key(|edit| edit.range.start);
        out.clear();
        let mut at = 0;
        for edit in &edits {
            if edit.range.start >= at {
                out.extend_from_slice(&self.file[at..edit.range.start]);
                out.extend_from_slice(&edit.with);
                at = edit.range.end;
            }
        }
        out.extend_from_slice(&self.file[at..]);
        // Buffers begin at the next multiple of four after the text.
        let grown = out.len() as i64 - self.file.len() as i64;
        let info = (self.info.len() as i64 + grown) as usize;
        let base = (HEADER + self.info.len()).next_multiple_of(4) as i64 + grown;
        let pad = (HEADER + info).next_multiple_of(4) as i64 - base;
        let at = base as usize;
        match pad {
            0 => {}
            1.. => drop(out.splice(at..at, std::iter::repeat_n(0, pad as usize))),
            _ => drop(out.drain(at - pad.unsigned_abs() as usize..at)),
        }
        if let Some(cut) = cut {
            out.truncate(cut);
        }
        let mut word = |at: usize, value: u32| {
            if let Some(place) = out.get_mut(at..at + 4) {
                place.copy_from_slice(&value.to_le_bytes());
            }
        };
        word(12, info as u32);
        if cut.is_none() || r.one_in(2) {
            let len = cut.unwrap_or(usize::MAX).min((self.file.len() as i64 + grown + pad) as usize);
            word(8, len as u32);
        }
        for (at, value) in header {
            word(at, value);
        }
    }

    /// Where to cut the file off: at the edge of something, or anywhere.
    fn cut(&self, r: &mut Random) -> usize {
        let edge = match r.below(4) {
            0 => self.values[r.below(self.values.len())].range.clone(),
            1 | 2 => self.buffers[r.below(self.buffers.len())].clone(),
            _ => return r.below(self.file.len()),
        };
        let at = if r.one_in(2) { edge.start } else { edge.end };
        (at + r.below(3)).saturating_sub(1)
    }

    /// A value of the state: every slot as likely as any other, however much is in it.
    fn some_value(&self, r: &mut Random) -> Range<usize> {
        let favourites = [slots::VIRTIO_9P, slots::VIRTIO_9P, slots::EXTRA, slots::EXTRA];
        let slot = match r.below(4) {
            0 => r.pick(&favourites),
            _ => r.below(self.slots.len()),
        };
        let mut at = self.slots.get(slot).copied().unwrap_or(self.slots[0]);
        while let children = &self.values[at].children
            && !children.is_empty()
            && !r.one_in(12)
        {
            at = children[r.below(children.len())];
        }
        self.values[at].range.clone()
    }

    fn replacement(&self, r: &mut Random, old: Range<usize>) -> Vec<u8> {
        const WORDS: &[&str] = &[
            "-1",
            "0",
            "1",
            "2",
            "3",
            "4",
            "255",
            "256",
            "65535",
            "65536",
            "2147483647",
            "-2147483648",
            "2147483648",
            "4294967295",
            "4294967296",
            "9007199254740991",
            "9007199254740993",
            "-9007199254740992",
            "9223372036854775807",
            "-9223372036854775808",
            "18446744073709551615",
            "999999999999999999999999",
            "1e308",
            "-1e308",
            "1e309",
            "1e-320",
            "0.5",
            "-0",
            "-0.0",
            "1.5e9",
            "NaN",
            "Infinity",
            "-Infinity",
            "null",
            "true",
            "false",
            "[]",
            "[[]]",
            "[null]",
            "{}",
            "\"\"",
            "\".\"",
            "\"..\"",
            "\"/\"",
            "\"a/b\"",
            "\"../../etc/passwd\"",
            "\"\\u0000\"",
            "\"\\ud800\"",
            "\"\\udcff\"",
            "\"x\"",
            "\"env86\"",
            "\"virtio-rng\"",
            "[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]",
            "{\"__state_type__\":\"Map\",\"args\":[]}",
            "{\"__state_type__\":\"Map\",\"args\":[[1,2],[3]]}",
        ];
        let text = &self.file[old];
        match r.below(12) {
            0..=4 => r.pick(WORDS).as_bytes().to_vec(),
            5 => (r.value() as i32).to_string().into_bytes(),
            6 => r.below(64).to_string().into_bytes(),
            7 => {
                // A number that is a little wrong, or of another size.
                let n = std::str::from_utf8(text).ok().and_then(|t| t.parse::<i64>().ok()).unwrap_or(7);
                let n = match r.below(5) {
                    0 => n.wrapping_add(1),
                    1 => n.wrapping_sub(1),
                    2 => n.wrapping_mul(2),
                    3 => n ^ 1 << r.below(63),
                    _ => n.wrapping_neg(),
                };
                n.to_string().into_bytes()
            }
            8 => {
                let kind =
                    r.pick(&["Uint8", "Int8", "Uint16", "Int16", "Uint32", "Int32", "Float32", "Float64"]);
                let buffer = r.below(self.buffers.len() + 2);
                format!("{{\"__state_type__\":\"{kind}Array\",\"buffer_id\":{buffer}}}").into_bytes()
            }
            9 => {
                let depth = r.pick(&[2, 20, 31, 32, 33, 1000]);
                [vec![b'['; depth], b"1".to_vec(), vec![b']'; depth]].concat()
            }
            10 if r.one_in(8) => {
                let long = [vec![b'"'], vec![b'n'; r.pick(&[255, 256, 4096, 65_536, 70_000])], vec![b'"']];
                long.concat()
            }
            // Something that belongs elsewhere.
            _ => self.file[self.some_value(r)].to_vec(),
        }
    }

    /// Elements missing, twice, or in the place of others.
    fn rearranged(&self, r: &mut Random) -> Vec<Edit> {
        let range = self.some_value(r);
        let text = self.file[range.clone()].to_vec();
        match r.below(4) {
            0 => {
                let comma = self.file.get(range.end) == Some(&b',');
                vec![Edit { range: range.start..range.end + usize::from(comma), with: Vec::new() }]
            }
            1 => vec![Edit { range, with: [&text[..], b",", &text].concat() }],
            2 => {
                // Many, but not so many that there is no room.
                let count = r.pick(&[3usize, 100, 5000]).min(100_000 / text.len().max(1) + 1);
                let many = std::iter::repeat_n(&text[..], count).collect::<Vec<_>>().join(&b","[..]);
                vec![Edit { range, with: many }]
            }
            _ => {
                let other = self.some_value(r);
                let there = self.file[other.clone()].to_vec();
                if range.start < other.end && other.start < range.end {
                    return Vec::new();
                }
                vec![Edit { range, with: there }, Edit { range: other, with: text }]
            }
        }
    }

    fn damaged_text(&self, r: &mut Random) -> Edit {
        let at = self.info.start + r.below(self.info.len());
        let byte = match r.below(3) {
            0 => self.file[at] ^ 1 << r.below(8),
            1 => r.pick(b"[]{},:\"\\0123456789-.eE \x00\x80\xFF"),
            _ => r.number() as u8,
        };
        Edit { range: at..at + 1, with: vec![byte] }
    }

    fn damaged_info(&self, r: &mut Random) -> Option<Edit> {
        let info = &self.values[self.infos[r.below(self.infos.len())]];
        let range = if r.one_in(6) {
            info.range.clone()
        } else {
            self.values[*info.children.get(r.below(info.children.len()))?].range.clone()
        };
        Some(Edit { with: self.replacement(r, range.clone()), range })
    }

    fn damaged_buffer(&self, r: &mut Random) -> Edit {
        // Not only memory and pictures: those are the largest, but few.
        let buffer = self.buffers[r.below(self.buffers.len())].clone();
        if buffer.is_empty() {
            return Edit { range: buffer, with: Vec::new() };
        }
        let at = match r.below(3) {
            0 => buffer.start + r.below(buffer.len().min(64)),
            _ => buffer.start + r.below(buffer.len()),
        };
        damage(r, at, buffer.end)
    }

    fn damaged_place(&self, r: &mut Random) -> Edit {
        let place = self.places[r.below(self.places.len())].clone();
        let at = place.start + r.below(place.len());
        if r.one_in(2) && at + 12 <= place.end {
            let entry = at - (at - place.start) % 12;
            return Edit { range: entry..entry + 12, with: scripted::random_entry(r).to_vec() };
        }
        damage(r, at, place.end)
    }
}

/// Other bytes at `at`, as many as fit before `end`.
fn damage(r: &mut Random, at: usize, end: usize) -> Edit {
    let value = r.value().to_le_bytes();
    let len = r.pick(&[1, 1, 2, 4]).min(end.saturating_sub(at));
    Edit { range: at..at + len, with: value[..len].to_vec() }
}

fn number(text: &[u8]) -> usize {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).expect("a number")
}

/// Finds the values of a JSON text that is known to be valid.
struct Scan<'a> {
    text: &'a [u8],
    at: usize,
    values: Vec<Span>,
}

impl Scan<'_> {
    fn value(&mut self) -> usize {
        let start = self.at;
        let id = self.values.len();
        self.values.push(Span { range: start..start, children: Vec::new() });
        let mut children = Vec::new();
        match self.text[self.at] {
            open @ (b'[' | b'{') => {
                self.at += 1;
                while !matches!(self.text[self.at], b']' | b'}') {
                    if open == b'{' {
                        self.string();
                        self.at += 1;
                    }
                    children.push(self.value());
                    if self.text[self.at] == b',' {
                        self.at += 1;
                    }
                }
                self.at += 1;
            }
            b'"' => self.string(),
            _ => {
                while !matches!(self.text[self.at], b',' | b']' | b'}') {
                    self.at += 1;
                }
            }
        }
        self.values[id] = Span { range: start..self.at, children };
        id
    }

    fn string(&mut self) {
        self.at += 1;
        while self.text[self.at] != b'"' {
            self.at += 1 + usize::from(self.text[self.at] == b'\\');
        }
        self.at += 1;
    }
}

/// What became of a mutated snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was refused, with this message.
    Refused(String),
    /// It was restored, ran, and was saved and restored again.
    Ran,
    /// It ran, but cannot be saved: files that could not be read.
    Unsaved(String),
}

/// Restores a snapshot into the machine that `config` describes, runs it for a moment, draws its screen if
/// asked to, saves it, restores what was saved and runs that too.
///
/// # Panics
/// If what was saved cannot be restored.
pub fn exercise<S: Source>(source: S, draw: bool, config: &mut dyn FnMut() -> MachineConfig) -> Outcome {
    let mut machine = match restore(source, LIMITS, config()) {
        Ok(machine) => machine,
        Err(error) => return Outcome::Refused(error.to_string()),
    };
    run(&mut machine);
    if let Some(vga) = machine.vga().filter(|_| draw) {
        let _ = vga.render(&mut Vec::new());
        let _ = vga.text_screen();
    }
    let mut saved = Vec::with_capacity(1 << 20);
    if let Err(error) = machine.snapshot().write(&mut saved, false) {
        return Outcome::Unsaved(error.to_string());
    }
    drop(machine);
    // A session may have grown: its reply buffer has up to 16 MiB.
    match restore(&saved[..], Limits::default(), config()) {
        Ok(mut machine) => run(&mut machine),
        Err(error) => panic!("what was saved is refused: {error}"),
    }
    Outcome::Ran
}

/// Restores a snapshot.
///
/// # Errors
/// Those of [`Machine::restore`].
pub fn restore<S: Source>(
    source: S,
    limits: Limits,
    config: MachineConfig,
) -> Result<Machine<Interpreter>, RestoreFailure> {
    let reader = Reader::open(source, limits)?;
    Machine::restore(config, Interpreter::new(), Mailbox::new(), reader)
}

fn run(machine: &mut Machine<Interpreter>) {
    let end = machine.now().saturating_add(RUN_NS);
    let _ = machine.run_until(end);
}

/// Snapshots of [`scripted`] at several moments of its life.
///
/// # Panics
/// If the guest does not run.
pub fn bases(config: &mut dyn FnMut() -> MachineConfig) -> Vec<Base> {
    let mut machine = Machine::new(
        MachineConfig { boot: scripted::boot(), ..config() },
        Interpreter::new(),
        Mailbox::new(),
    )
    .expect("a machine");
    let mut bases = Vec::new();
    for n in 0..3 {
        // Somewhere in the next rounds of requests, where all files are open.
        let mut end = machine.now() + 350_000 + 700_000 * n;
        for _ in 0..100 {
            assert_eq!(machine.run_until(end), None, "the guest runs");
            if scripted::has_session(machine.snapshot().state().get(slots::VIRTIO_9P)) {
                break;
            }
            end += 10_000;
        }
        let mut file = Vec::new();
        machine.snapshot().write(&mut file, n == 1).expect("writing to memory");
        bases.push(Base::new(file));
    }
    bases
}
