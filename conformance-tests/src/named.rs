//! Named cases: text that people read and write, one case per mistake that was ever found
//! (`vectors/named.txt`, whose head explains the format).

use std::fmt::Write as _;

use crate::layout::{CS, EXIT_CS, End, LEAVE, Registers, selector};
use crate::policy::FLAGS;
use crate::vectors::Input;
use crate::{ARENA, ARENA_LEN, Fault};

const GPR: [&str; 8] = ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"];
const SEG: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];
/// LDT entries of 16-bit code and data: offsets are distances from the code and from the arena.
const CODE16: usize = 22;
const DATA16: usize = 11;

/// A case with its answer.
#[derive(Clone, Debug)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// What it is about.
    pub why: String,
    /// The case.
    pub input: Input,
    /// What comes out.
    pub want: End,
    /// The arena afterwards.
    pub arena: Vec<u8>,
}

/// Reads a file of named cases.
///
/// # Errors
/// The number of the line that is not understood, and why.
pub fn parse(text: &str) -> Result<Vec<Named>, String> {
    let mut all: Vec<Named> = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, rest) = line.split_once(' ').unwrap_or((line, ""));
        let result = if key == "case" {
            all.last_mut().map_or(Ok(()), finish).map(|()| all.push(start(rest)))
        } else {
            let case = all.last_mut().ok_or("before the first case");
            case.map_err(String::from).and_then(|case| case.line(key, rest.trim()))
        };
        result.map_err(|e| format!("line {}: {e}", n + 1))?;
    }
    all.last_mut().map_or(Ok(()), finish)?;
    Ok(all)
}

/// A case nothing is known of yet. Until [`finish`], `want` marks what was given.
fn start(name: &str) -> Named {
    let input = Input::default();
    let want = End { regs: input.regs.clone(), fault: None };
    let arena = input.arena.clone();
    Named { name: name.into(), why: String::new(), input, want, arena }
}

fn finish(case: &mut Named) -> Result<(), String> {
    if case.input.code.is_empty() {
        return Err(format!("{} has no code", case.name));
    }
    match &case.want.fault {
        Some(f) => case.want.regs.eip = f.eip,
        None => (case.want.regs.eip, case.want.regs.seg[CS]) = (LEAVE, EXIT_CS),
    }
    case.want.regs.eflags &= FLAGS;
    Ok(())
}

impl Named {
    fn line(&mut self, key: &str, rest: &str) -> Result<(), String> {
        match key {
            "why" => {
                let space = if self.why.is_empty() { "" } else { " " };
                let _ = write!(self.why, "{space}{rest}");
            }
            "bits" if rest == "16" => {
                let regs = &mut self.input.regs;
                regs.seg = [selector(DATA16); 6];
                regs.seg[CS] = selector(CODE16);
                regs.eip = 0;
                self.want.regs = regs.clone();
            }
            "code" => self.input.code = hex(&rest.replace(' ', ""))?,
            // What a case starts from stays unless it says otherwise.
            "before" => {
                set(rest, &mut self.input.regs, &mut self.input.arena)?;
                self.want.regs = self.input.regs.clone();
                self.arena.clone_from(&self.input.arena);
            }
            "after" => set(rest, &mut self.want.regs, &mut self.arena)?,
            "fault" => {
                let mut fault = Fault { vector: 0, error: 0, cr2: 0, eip: self.input.regs.eip };
                for (n, word) in rest.split_whitespace().enumerate() {
                    match word.split_once('=') {
                        None if n == 0 => fault.vector = word.parse().map_err(|_| "no vector")?,
                        Some(("error", v)) => fault.error = number(v)? as u32,
                        Some(("cr2", v)) => fault.cr2 = number(v)? as u32,
                        Some(("eip", v)) => {
                            let offset = v.strip_prefix('+').ok_or("EIP is +OFFSET")?;
                            fault.eip = fault.eip.wrapping_add(number(offset)? as u32);
                        }
                        _ => return Err(format!("what is {word}?")),
                    }
                }
                self.want.fault = Some(fault);
            }
            _ => return Err(format!("what is {key}?")),
        }
        Ok(())
    }

    /// The case as text.
    pub fn text(&self) -> String {
        let mut text = format!("case {}\n", self.name);
        if !self.why.is_empty() {
            let _ = writeln!(text, "  why {}", self.why);
        }
        let mut reference = Input::default();
        if self.input.bits() == 16 {
            text += "  bits 16\n";
            let case = parse("case x\nbits 16\ncode 90").ok().and_then(|mut c| c.pop());
            reference = case.map_or(reference, |c| c.input);
        }
        let bytes: Vec<String> = self.input.code.iter().map(|b| format!("{b:02x}")).collect();
        let _ = writeln!(text, "  code {}", bytes.join(" "));
        changes(&mut text, "before", &reference.regs, &reference.arena, &self.input.regs, &self.input.arena);
        let mut want = self.want.regs.clone();
        if let Some(f) = &self.want.fault {
            let _ = write!(text, "  fault {}", f.vector);
            let offset = f.eip.wrapping_sub(self.input.regs.eip);
            for (key, v) in [("error", f.error), ("cr2", f.cr2)].into_iter().filter(|(_, v)| *v != 0) {
                let _ = write!(text, " {key}={v:x}");
            }
            let _ =
                writeln!(text, "{}", if offset == 0 { String::new() } else { format!(" eip=+{offset:x}") });
        } else {
            want.seg[CS] = self.input.regs.seg[CS];
        }
        changes(&mut text, "after", &self.input.regs, &self.input.arena, &want, &self.arena);
        text
    }
}

fn number(v: &str) -> Result<u128, String> {
    u128::from_str_radix(v, 16).map_err(|_| format!("{v} is no hexadecimal number"))
}

fn hex(v: &str) -> Result<Vec<u8>, String> {
    let digits = v.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return Err(format!("{v} has half a byte"));
    }
    digits
        .chunks_exact(2)
        .map(|pair| std::str::from_utf8(pair).map_err(|e| e.to_string()).and_then(|s| Ok(number(s)? as u8)))
        .collect()
}

/// Sets what `KEY=VALUE …` says.
fn set(words: &str, regs: &mut Registers, arena: &mut [u8]) -> Result<(), String> {
    for word in words.split_whitespace() {
        let (key, value) = word.split_once('=').ok_or_else(|| format!("{word} is not KEY=VALUE"))?;
        if let Some(at) = key.strip_prefix('[').and_then(|k| k.strip_suffix(']')) {
            let bytes = hex(value)?;
            let offset = (number(at)? as usize).wrapping_sub(ARENA as usize);
            let cells = offset.checked_add(bytes.len()).and_then(|end| arena.get_mut(offset..end));
            cells.ok_or_else(|| format!("{at} is outside of the arena"))?.copy_from_slice(&bytes);
            continue;
        }
        let v = number(value)?;
        let fp = &mut regs.fp;
        let indexed = |prefix: &str| {
            let n: usize = key.strip_prefix(prefix)?.parse().ok()?;
            (n < 8).then_some(n)
        };
        match key {
            "eflags" => regs.eflags = v as u32,
            "fcw" => fp.control = v as u16,
            "fsw" => fp.status = v as u16,
            "valid" => fp.valid = v as u8,
            "fop" => fp.pointers.opcode = v as u16,
            "fip" => fp.pointers.ip = v as u32,
            "fcs" => fp.pointers.cs = v as u16,
            "fdp" => fp.pointers.dp = v as u32,
            "fds" => fp.pointers.ds = v as u16,
            "mxcsr" => fp.mxcsr = v as u32,
            _ => {
                if let Some(n) = GPR.iter().position(|g| *g == key) {
                    regs.gpr[n] = v as u32;
                } else if let Some(n) = SEG.iter().position(|s| *s == key) {
                    regs.seg[n] = v as u16;
                } else if let Some(n) = indexed("st") {
                    fp.st[n] = v;
                } else if let Some(n) = indexed("xmm") {
                    fp.xmm[n] = v;
                } else {
                    return Err(format!("what is {key}?"));
                }
            }
        }
    }
    Ok(())
}

/// What differs between two states, as `KEY=VALUE …` lines.
fn changes(text: &mut String, title: &str, b: &Registers, from: &[u8], a: &Registers, to: &[u8]) {
    let mut words = Vec::new();
    let mut add = |key: &str, before: u128, after: u128| {
        if before != after {
            words.push(format!("{key}={after:x}"));
        }
    };
    for (n, name) in GPR.iter().enumerate() {
        add(name, b.gpr[n].into(), a.gpr[n].into());
    }
    add("eflags", (b.eflags & (FLAGS | 1 << 18)).into(), (a.eflags & (FLAGS | 1 << 18)).into());
    for (n, name) in SEG.iter().enumerate() {
        add(name, b.seg[n].into(), a.seg[n].into());
    }
    let (bf, af) = (&b.fp, &a.fp);
    add("fcw", bf.control.into(), af.control.into());
    add("fsw", bf.status.into(), af.status.into());
    add("valid", bf.valid.into(), af.valid.into());
    let (bp, ap) = (&bf.pointers, &af.pointers);
    add("fop", bp.opcode.into(), ap.opcode.into());
    add("fip", bp.ip.into(), ap.ip.into());
    add("fcs", bp.cs.into(), ap.cs.into());
    add("fdp", bp.dp.into(), ap.dp.into());
    add("fds", bp.ds.into(), ap.ds.into());
    for n in 0..8 {
        add(&format!("st{n}"), bf.st[n], af.st[n]);
    }
    add("mxcsr", bf.mxcsr.into(), af.mxcsr.into());
    for n in 0..8 {
        add(&format!("xmm{n}"), bf.xmm[n], af.xmm[n]);
    }
    let differ = |n: &usize| from[*n] != to[*n];
    let mut at = 0;
    while let Some(start) = (at..ARENA_LEN as usize).find(differ) {
        let end = (start..ARENA_LEN as usize).find(|n| !differ(n)).unwrap_or(ARENA_LEN as usize);
        let bytes: String = to[start..end].iter().map(|b| format!("{b:02x}")).collect();
        words.push(format!("[{:x}]={bytes}", ARENA as usize + start));
        at = end;
    }
    for line in words.chunks(6) {
        let _ = writeln!(text, "  {title} {}", line.join(" "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_back() {
        let text = "case add-with-carry\n  why because\n  code 11 03\n  before eax=1 ebx=300010 eflags=1\n  \
                    before [300010]=ff000000\n  after eflags=10 [300010]=0101\n";
        let [case] = &parse(text).unwrap()[..] else { panic!() };
        assert_eq!(case.input.regs.gpr[3], 0x30_0010);
        assert_eq!((case.want.regs.eip, case.want.fault), (LEAVE, None));
        assert_eq!(case.arena[0x10..0x14], [1, 1, 0, 0]);
        let again = &parse(&case.text()).unwrap()[0];
        assert_eq!((&again.want, &again.arena), (&case.want, &case.arena));
        assert_eq!((&again.input.regs, &again.why), (&case.input.regs, &case.why));
    }

    #[test]
    fn faults_and_16_bit_code_are_read_back() {
        let text =
            "case x\nbits 16\ncode 90 8b 07\nbefore ebx=ffff st3=3fff8000000000000000\nfault 13 eip=+1\n";
        let [case] = &parse(text).unwrap()[..] else { panic!() };
        assert_eq!(case.input.bits(), 16);
        assert_eq!(case.want.regs.eip, 1);
        let again = &parse(&case.text()).unwrap()[0];
        assert_eq!((&again.want, &again.input.regs), (&case.want, &case.input.regs));
    }

    #[test]
    fn mistakes_name_their_line() {
        for (text, line) in [("code 90", 1), ("case x\ncode 9", 2), ("case x\n\nbefore exx=1", 3)] {
            assert!(parse(text).unwrap_err().starts_with(&format!("line {line}: ")));
        }
        assert!(parse("case x").is_err());
    }
}
