//! Which instructions, operand sizes and memory forms have met which exception.

use std::collections::HashMap;
use std::fmt::Write as _;

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// Index of a [`Key`] in the table.
pub type Place = u32;

/// How an operand in memory is addressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Form {
    /// No memory operand.
    Register,
    /// Implied: strings, stack.
    Implied,
    /// Displacement only.
    Displacement,
    /// One register.
    Base,
    /// One register and displacement.
    BaseDisplacement,
    /// Two registers, or one that is scaled.
    Indexed,
    /// 16-bit displacement only.
    Displacement16,
    /// 16-bit address with one register.
    Base16,
    /// 16-bit address with two registers.
    Indexed16,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Instruction.
    pub mnemonic: u16,
    /// Operand size in bits; 0 where it has none.
    pub size: u16,
    /// Memory form.
    pub form: Form,
}

impl Key {
    /// Of an instruction.
    pub fn of(ins: &Instruction) -> Self {
        let size = match ins.op0_kind() {
            _ if ins.op_count() == 0 => 0,
            OpKind::Register if !ins.op0_register().is_segment_register() => ins.op0_register().size() * 8,
            OpKind::Register => 16,
            k if is_memory(k) => ins.memory_size().size() * 8,
            OpKind::NearBranch16 | OpKind::FarBranch16 => 16,
            OpKind::NearBranch32 | OpKind::FarBranch32 => 32,
            _ => 0,
        };
        Self { mnemonic: ins.mnemonic() as u16, size: size as u16, form: form(ins) }
    }
}

fn is_memory(kind: OpKind) -> bool {
    kind == OpKind::Memory || is_implied(kind)
}

fn is_implied(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::MemorySegSI
            | OpKind::MemorySegESI
            | OpKind::MemorySegDI
            | OpKind::MemorySegEDI
            | OpKind::MemoryESDI
            | OpKind::MemoryESEDI
    )
}

fn form(ins: &Instruction) -> Form {
    let kinds = || (0..ins.op_count()).map(|n| ins.op_kind(n));
    if kinds().any(is_implied) {
        return Form::Implied;
    }
    if !kinds().any(|k| k == OpKind::Memory) {
        return Form::Register;
    }
    let (base, index) = (ins.memory_base(), ins.memory_index());
    let small = base.is_gpr16() || index.is_gpr16() || ins.memory_displ_size() == 2;
    match (base == Register::None, index == Register::None) {
        (true, true) if small => Form::Displacement16,
        (true, true) => Form::Displacement,
        (false, true) if small => Form::Base16,
        (false, true) if ins.memory_displ_size() == 0 => Form::Base,
        (false, true) => Form::BaseDisplacement,
        _ if small => Form::Indexed16,
        _ => Form::Indexed,
    }
}

/// Vectors 0 to 31, and none.
const OUTCOMES: usize = 33;
const NONE: usize = 32;

/// Counts.
#[derive(Default)]
pub struct Coverage {
    index: HashMap<Key, Place>,
    counts: Vec<(Key, [u64; OUTCOMES])>,
}

impl Coverage {
    /// Where an instruction is counted.
    pub fn place(&mut self, ins: &Instruction) -> Place {
        let key = Key::of(ins);
        *self.index.entry(key).or_insert_with(|| {
            self.counts.push((key, [0; OUTCOMES]));
            self.counts.len() as Place - 1
        })
    }

    /// Counts an instruction that completed (`None`) or raised a vector.
    pub fn count(&mut self, place: Place, vector: Option<u8>) {
        let column = vector.map_or(NONE, |v| usize::from(v & 31));
        if let Some((_, counts)) = self.counts.get_mut(place as usize) {
            counts[column] += 1;
        }
    }

    /// Adds another table.
    pub fn add(&mut self, other: &Self) {
        for (key, counts) in &other.counts {
            self.add_row(*key, counts);
        }
    }

    fn add_row(&mut self, key: Key, counts: &[u64; OUTCOMES]) {
        let place = *self.index.entry(key).or_insert_with(|| {
            self.counts.push((key, [0; OUTCOMES]));
            self.counts.len() as Place - 1
        });
        for (sum, n) in self.counts[place as usize].1.iter_mut().zip(counts) {
            *sum += n;
        }
    }

    /// The keys and how often each completed or faulted.
    pub fn rows(&self) -> impl Iterator<Item = (Key, u64, u64)> {
        self.counts.iter().map(|(key, counts)| (*key, counts[NONE], counts[..NONE].iter().sum()))
    }

    /// The table in Markdown.
    pub fn markdown(&self) -> String {
        let name = |key: &Key| {
            Mnemonic::values()
                .nth(usize::from(key.mnemonic))
                .map_or(String::new(), |m| format!("{m:?}").to_lowercase())
        };
        let mut rows: Vec<_> = self.counts.iter().map(|(k, c)| (name(k), k, c)).collect();
        rows.sort_by(|a, b| (&a.0, a.1.size, a.1.form).cmp(&(&b.0, b.1.size, b.1.form)));
        let mut text = String::from(
            "| instruction | bits | operand | completed | exceptions (vector: cases) |\n| --- | --- | --- | --- | --- |\n",
        );
        for (name, key, counts) in &rows {
            let mut faults = String::new();
            for (vector, n) in counts[..NONE].iter().enumerate().filter(|(_, n)| **n != 0) {
                let _ = write!(faults, "{vector}: {n}  ");
            }
            let _ = writeln!(
                text,
                "| {name} | {} | {:?} | {} | {} |",
                key.size,
                key.form,
                counts[NONE],
                faults.trim_end()
            );
        }
        text.push_str("\n## Never met\n\n");
        for (name, key, _) in rows.iter().filter(|(_, _, c)| c.iter().all(|n| *n == 0)) {
            let _ = writeln!(text, "- {name} {} {:?}", key.size, key.form);
        }
        text
    }

    /// The counts in lines of text, for [`Coverage::parse`].
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (key, counts) in &self.counts {
            let _ = write!(text, "{} {} {}", key.mnemonic, key.size, key.form as u8);
            for n in counts {
                let _ = write!(text, " {n}");
            }
            text.push('\n');
        }
        text
    }

    /// Adds counts from [`Coverage::to_text`]; lines that are none are ignored.
    pub fn parse(&mut self, text: &str) {
        const FORMS: [Form; 9] = [
            Form::Register,
            Form::Implied,
            Form::Displacement,
            Form::Base,
            Form::BaseDisplacement,
            Form::Indexed,
            Form::Displacement16,
            Form::Base16,
            Form::Indexed16,
        ];
        for line in text.lines() {
            let numbers: Vec<u64> = line.split_whitespace().filter_map(|w| w.parse().ok()).collect();
            if numbers.len() != OUTCOMES + 3 {
                continue;
            }
            let Some(form) = FORMS.get(numbers[2] as usize) else { continue };
            let key = Key { mnemonic: numbers[0] as u16, size: numbers[1] as u16, form: *form };
            let mut counts = [0; OUTCOMES];
            counts.copy_from_slice(&numbers[3..]);
            self.add_row(key, &counts);
        }
    }
}
