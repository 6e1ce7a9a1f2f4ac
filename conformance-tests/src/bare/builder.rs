//! Puts a program together: code of cases around a small runtime, texts and tables beside it.

use iced_x86::code_asm::*;
use iced_x86::{BlockEncoderOptions, IcedError};

use super::layout::*;
use super::runtime::{self, Runtime};

/// What code that emits instructions returns.
pub type Asm = Result<(), IcedError>;

/// Emits instructions: `asm!(b; mov(eax, 1); int(0x40));` in a function that returns [`Asm`].
#[macro_export]
macro_rules! asm {
    ($b:expr; $($op:ident ( $($arg:expr),* $(,)? ));* $(;)?) => { $( $b.a.$op($($arg),*)?; )* };
}

/// First value of what stands for the addresses of labels until they are known.
const PLACEHOLDER: u32 = 0x7A5E_0000;

/// Magic of a multiboot header (Multiboot Specification 0.6.96, 3.1.1).
const HEADER_MAGIC: u32 = 0x1BAD_B002;
/// The header has address fields.
const HAS_ADDRESSES: u32 = 1 << 16;

/// Resume flag.
pub const RF: u32 = 1 << 16;

/// Something a case prints behind its outcome: ` text=value`.
#[derive(Clone, Debug)]
pub struct Show {
    text: String,
    /// Address of a dword.
    at: u32,
    mask: u32,
    /// Print it as a distance from the case's first instruction.
    relative: bool,
}

/// A field of the record.
pub fn show(text: &str, field: u32) -> Show {
    // A selector's upper half is whatever its push left there.
    let mask = match field {
        rec::GS | rec::FS | rec::ES | rec::DS | rec::CS | rec::OUTER_SS => 0xFFFF,
        rec::VM_ES | rec::VM_DS | rec::VM_FS | rec::VM_GS => 0xFFFF,
        // RF has cases of its own: QEMU never pushes it.
        rec::EFLAGS => !RF,
        _ => u32::MAX,
    };
    Show { text: text.into(), at: RECORD + field, mask, relative: false }
}

/// A dword in memory.
pub fn show_at(text: &str, at: u32) -> Show {
    Show { text: text.into(), at, mask: u32::MAX, relative: false }
}

impl Show {
    /// Only these bits.
    pub fn mask(mut self, mask: u32) -> Self {
        self.mask = mask;
        self
    }

    /// As a distance from the case's first instruction, unless it is 0.
    pub fn relative(mut self) -> Self {
        self.relative = true;
        self
    }
}

/// One case: where it runs and what it prints.
#[derive(Clone, Debug)]
pub struct Case {
    name: String,
    ring: u16,
    eflags: u32,
    mode: u32,
    origin: Option<u32>,
    shows: Vec<Show>,
}

impl Case {
    /// A case in ring 0 that prints its outcome.
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        debug_assert!(!name.contains(": "), "a colon and a space end the name");
        Self { name, ring: 0, eflags: 2, mode: mode::END, origin: None, shows: Vec::new() }
    }

    /// The code under test runs in this ring.
    pub fn ring(mut self, ring: u16) -> Self {
        self.ring = ring;
        self
    }

    /// EFLAGS when the code under test begins.
    pub fn eflags(mut self, eflags: u32) -> Self {
        self.eflags = eflags | 2;
        self
    }

    /// What the recorder does: see [`mode`].
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// EIP that distances are printed from, if it is not that of the code under test.
    pub fn origin(mut self, eip: u32) -> Self {
        self.origin = Some(eip);
        self
    }

    /// Prints something more.
    pub fn show(mut self, show: Show) -> Self {
        self.shows.push(show);
        self
    }

    /// Prints registers of the record.
    pub fn regs(mut self, fields: &[(&str, u32)]) -> Self {
        self.shows.extend(fields.iter().map(|&(text, field)| show(text, field)));
        self
    }
}

/// A place in the code, whose address can be had as a number.
#[derive(Clone, Copy, Debug)]
pub struct Mark(usize);

/// A program under construction.
pub struct Builder {
    /// Code so far.
    pub a: CodeAssembler,
    data: Vec<u8>,
    marks: Vec<CodeLabel>,
    /// Marks whose addresses are needed, in the order of their placeholders.
    addresses: Vec<Mark>,
    pub(super) rt: Runtime,
}

impl Builder {
    /// A program whose runtime is there and that has no case yet.
    ///
    /// # Errors
    /// The assembler's.
    pub fn new() -> Result<Self, IcedError> {
        let mut a = CodeAssembler::new(32)?;
        let mut marks = Vec::new();
        let rt = Runtime::new(|| {
            marks.push(a.create_label());
            Mark(marks.len() - 1)
        });
        let mut builder = Self { a, data: Vec::new(), marks, addresses: Vec::new(), rt };
        runtime::emit(&mut builder)?;
        Ok(builder)
    }

    /// A place in the code that is still to be determined.
    pub fn mark(&mut self) -> Mark {
        self.marks.push(self.a.create_label());
        Mark(self.marks.len() - 1)
    }

    /// The next instruction is where `mark` is.
    ///
    /// # Errors
    /// The mark has a place already, or another one is here.
    pub fn place(&mut self, mark: Mark) -> Asm {
        self.a.set_label(&mut self.marks[mark.0])
    }

    /// A mark as a branch target.
    pub fn at(&self, mark: Mark) -> CodeLabel {
        self.marks[mark.0]
    }

    /// A constant that stands for the address of a mark; use it once.
    pub fn addr(&mut self, mark: Mark) -> u32 {
        self.addresses.push(mark);
        PLACEHOLDER + self.addresses.len() as u32 - 1
    }

    /// Puts bytes into the image. Returns their address.
    pub fn data(&mut self, bytes: &[u8]) -> u32 {
        self.data.resize(self.data.len().next_multiple_of(4), 0);
        let at = DATA + self.data.len() as u32;
        self.data.extend_from_slice(bytes);
        at
    }

    /// Puts dwords into the image. Returns their address.
    pub fn words(&mut self, words: &[u32]) -> u32 {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.data(&bytes)
    }

    /// Puts a text into the image, with a zero behind it. Returns its address.
    pub fn text(&mut self, text: &str) -> u32 {
        self.data(&[text.as_bytes(), &[0]].concat())
    }

    /// Stores a dword.
    ///
    /// # Errors
    /// The assembler's.
    pub fn poke(&mut self, at: u32, value: u32) -> Asm {
        self.a.mov(dword_ptr(at), value)
    }

    /// Stores the address of a mark.
    ///
    /// # Errors
    /// The assembler's.
    pub fn poke_addr(&mut self, at: u32, mark: Mark) -> Asm {
        let value = self.addr(mark);
        self.poke(at, value)
    }

    /// Stores a descriptor in the GDT (or, with bit 2 of the selector, the LDT).
    ///
    /// # Errors
    /// The assembler's.
    pub fn descriptor(&mut self, selector: u16, descriptor: u64) -> Asm {
        let table = if selector & 4 == 0 { GDT } else { LDT };
        self.poke64(table + u32::from(selector & !7), descriptor)
    }

    /// Stores 64 bits.
    ///
    /// # Errors
    /// The assembler's.
    pub fn poke64(&mut self, at: u32, value: u64) -> Asm {
        self.poke(at, value as u32)?;
        self.poke(at + 4, (value >> 32) as u32)
    }

    /// Stores a gate that leads to a mark. Changes EAX.
    ///
    /// # Errors
    /// The assembler's.
    pub fn gate_at(&mut self, at: u32, access: u8, selector: u16, target: Mark, parameters: u8) -> Asm {
        let target = self.addr(target);
        let middle = u32::from(access) << 8 | u32::from(parameters);
        asm!(self;
            mov(eax, target);
            mov(word_ptr(at), ax);
            mov(word_ptr(at + 2), u32::from(selector));
            and(eax, 0xFFFF_0000u32 as i32);
            or(eax, middle as i32);
            mov(dword_ptr(at + 4), eax);
        );
        Ok(())
    }

    /// Stores an IDT gate that leads to a mark. Changes EAX.
    ///
    /// # Errors
    /// The assembler's.
    pub fn idt_gate(&mut self, vector: u8, access: u8, selector: u16, target: Mark) -> Asm {
        self.gate_at(IDT + u32::from(vector) * 8, access, selector, target, 0)
    }

    /// Stores a call gate that leads to a mark. Changes EAX.
    ///
    /// # Errors
    /// The assembler's.
    pub fn call_gate(&mut self, slot: u16, access: u8, selector: u16, target: Mark, parameters: u8) -> Asm {
        self.gate_at(GDT + u32::from(slot & !7), access, selector, target, parameters)
    }

    /// Copies bytes of the image to an address. Changes ECX, ESI, EDI.
    ///
    /// # Errors
    /// The assembler's.
    pub fn copy(&mut self, bytes: &[u8], to: u32) -> Asm {
        let from = self.data(bytes);
        asm!(self;
            mov(esi, from);
            mov(edi, to);
            mov(ecx, bytes.len() as u32);
        );
        self.a.rep().movsb()
    }

    /// Assembles 16-bit code for offset `ip` and copies it to `to`. Changes ECX, ESI, EDI.
    ///
    /// # Errors
    /// The assembler's.
    pub fn code16(&mut self, to: u32, ip: u32, emit: impl FnOnce(&mut CodeAssembler) -> Asm) -> Asm {
        let bytes = assemble16(ip, emit)?;
        self.copy(&bytes, to)
    }

    /// Writes bytes to `at` through AL. Changes EAX, EDX.
    ///
    /// # Errors
    /// The assembler's.
    pub fn out8(&mut self, port: u16, value: u8) -> Asm {
        asm!(self; mov(edx, u32::from(port)); mov(eax, u32::from(value)); out(dx, al));
        Ok(())
    }

    /// A case: `setup` runs in ring 0 with everything as the runtime's reset leaves it, `test` in the case's
    /// ring. What ends `test` is an exception, or its last instruction.
    ///
    /// # Errors
    /// The assembler's.
    pub fn case(
        &mut self,
        case: Case,
        setup: impl FnOnce(&mut Self) -> Asm,
        test: impl FnOnce(&mut Self) -> Asm,
    ) -> Asm {
        let [base, done] = [self.mark(), self.mark()];
        let reset = self.at(self.rt.reset);
        self.a.call(reset)?;
        self.poke_addr(RESUME, done)?;
        if case.mode != mode::END {
            self.poke(MODE, case.mode)?;
        }
        self.a.xor(ebx, ebx)?;
        setup(self)?;
        if case.ring > 0 {
            self.enter_ring(case.ring, case.eflags, base)?;
        } else {
            asm!(self; push(case.eflags as i32); popfd());
        }
        self.place(base)?;
        test(self)?;
        self.a.int(0x40)?;
        self.place(done)?;
        self.report(&case, base)
    }

    /// Goes to flat code of an outer ring by IRET; general registers stay.
    ///
    /// # Errors
    /// The assembler's.
    pub fn enter_ring(&mut self, ring: u16, eflags: u32, target: Mark) -> Asm {
        let target = self.addr(target);
        asm!(self;
            push(i32::from(sel::data(ring)));
            push(OUTER as i32);
            push(eflags as i32);
            push(i32::from(sel::code(ring)));
            push(target as i32);
            iretd();
        );
        Ok(())
    }

    /// Prints the line of a case.
    ///
    /// # Errors
    /// The assembler's.
    pub fn report(&mut self, case: &Case, base: Mark) -> Asm {
        let name = self.text(&case.name);
        let mut words = vec![name, case.shows.len() as u32];
        for show in &case.shows {
            let text = self.text(&format!(" {}=", show.text));
            words.extend([text, show.at, show.mask, u32::from(show.relative)]);
        }
        let table = self.words(&words);
        let report = self.at(self.rt.report);
        let origin = match case.origin {
            Some(eip) => eip,
            None => self.addr(base),
        };
        asm!(self; mov(esi, table); mov(ebp, origin); call(report));
        Ok(())
    }

    /// Ends the program and gives its image.
    ///
    /// # Errors
    /// The assembler's.
    ///
    /// # Panics
    /// A part is too long.
    pub fn finish(mut self) -> Result<Vec<u8>, IcedError> {
        asm!(self; xor(eax, eax); out(0xF4, al));
        self.image()
    }

    /// The image of a program that ends by itself.
    ///
    /// # Errors
    /// The assembler's.
    ///
    /// # Panics
    /// A part is too long.
    pub fn image(mut self) -> Result<Vec<u8>, IcedError> {
        asm!(self; cli(); hlt());
        let options = BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS;
        let result = self.a.assemble_options(u64::from(ENTRY), options)?;
        let mut code = result.inner.code_buffer.clone();
        let values = self.addresses.iter().map(|mark| Ok(result.label_ip(&self.marks[mark.0])? as u32));
        patch(&mut code, &values.collect::<Result<Vec<_>, IcedError>>()?);
        let checksum = 0u32.wrapping_sub(HEADER_MAGIC).wrapping_sub(HAS_ADDRESSES);
        let header = [HEADER_MAGIC, HAS_ADDRESSES, checksum, LOAD, LOAD, 0, 0, ENTRY];
        let mut image: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
        image.extend(code);
        assert!(image.len() <= (DATA - LOAD) as usize, "too much code");
        assert!(self.data.len() <= (IMAGE_END - DATA) as usize, "too much data");
        image.resize((DATA - LOAD) as usize, 0);
        image.extend(self.data);
        Ok(image)
    }
}

/// 16-bit code for offset `ip`.
///
/// # Errors
/// The assembler's.
pub fn assemble16(ip: u32, emit: impl FnOnce(&mut CodeAssembler) -> Asm) -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(16)?;
    emit(&mut a)?;
    a.assemble(u64::from(ip))
}

/// Replaces the placeholders, each of which must occur exactly once.
fn patch(code: &mut [u8], values: &[u32]) {
    let mut seen = vec![0; values.len()];
    for at in 0..code.len().saturating_sub(3) {
        let Some(&word) = code[at..].first_chunk::<4>() else { continue };
        let n = u32::from_le_bytes(word).wrapping_sub(PLACEHOLDER) as usize;
        if let (Some(value), Some(count)) = (values.get(n), seen.get_mut(n)) {
            code[at..at + 4].copy_from_slice(&value.to_le_bytes());
            *count += 1;
        }
    }
    assert!(seen.iter().all(|&count| count == 1), "an address is to be used exactly once");
}
