//! Golden listings: guest code, what it is translated to, and what it does (`tests/listings/*.txt`).
//!
//! A file has sections. `asm:` is the source, in GNU as's Intel syntax, at address 1000h; `before:` gives
//! registers and dwords of memory that are not 0. The rest is written by `ENV86_BLESS=1 cargo test -p emu-jit`
//! (which needs GNU as): `code:` the bytes, `after:` what has changed, `host:` the translations in the order in
//! which they were made. A file with only the first two is a new test.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use emu_core::bus::NoBus;
use emu_core::cpu::{CpuState, Segment, cr0, cr4, seg};
use emu_core::engine::{CpuEngine, Exit};
use emu_core::interp::Interpreter;
use emu_core::mem::Memory;
use emu_jit::{Jit, Options, Part, Parts};

/// Where the code lies.
const CODE: u32 = 0x1000;
const RAM: usize = 1 << 20;
const NAMES: [&str; 8] = ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"];

/// Sections by name; the text before the first has the name "".
fn sections(text: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut name = String::new();
    for line in text.lines() {
        match line.strip_suffix(':').filter(|name| name.chars().all(|c| c.is_ascii_lowercase())) {
            Some(next) => next.clone_into(&mut name),
            None => {
                let section: &mut String = all.entry(name.clone()).or_default();
                let _ = writeln!(section, "{line}");
            }
        }
    }
    all
}

/// Runs a tool of the GNU assembler's package.
fn tool(command: &mut Command) {
    let status = command.status().expect("GNU as is needed to bless");
    assert!(status.success(), "{command:?}");
}

fn assemble(source: &str, name: &str) -> Vec<u8> {
    let at = |suffix| PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.{suffix}"));
    fs::write(at("s"), format!(".intel_syntax noprefix\n{source}")).unwrap();
    tool(Command::new("as").arg("--32").arg("-o").arg(at("o")).arg(at("s")));
    tool(Command::new("objcopy").args(["-O", "binary", "-j", ".text"]).arg(at("o")).arg(at("bin")));
    fs::read(at("bin")).unwrap()
}

fn hex(text: &str) -> u32 {
    u32::from_str_radix(text, 16).unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// Sets what a `before:` section says.
fn set_up(before: &str, code: &[u8]) -> (CpuState, Memory) {
    let mut cpu = CpuState::new();
    let mut mem = Memory::new(RAM).unwrap();
    cpu.cr0 = cr0::PE | cr0::ET | cr0::NE;
    cpu.cr4 = cr4::OSFXSR | cr4::OSXMMEXCPT;
    cpu.set_segment(seg::CS, Segment { base: 0, limit: u32::MAX, selector: 8, attr: 0xC09B });
    for n in [seg::ES, seg::SS, seg::DS] {
        cpu.set_segment(n, Segment { base: 0, limit: u32::MAX, selector: 0x10, attr: 0xC093 });
    }
    cpu.set_segment(seg::FS, Segment { base: 0x100, limit: u32::MAX, selector: 0x18, attr: 0xC093 });
    cpu.set_segment(seg::GS, Segment { base: 0x200, limit: 0xFFF, selector: 0x20, attr: 0x4093 });
    cpu.gpr[4] = 0x8000;
    cpu.eip = CODE;
    cpu.set_eflags(2);
    assert!(mem.dma_write(u64::from(CODE), code));
    for word in before.split_whitespace() {
        let (name, value) = word.split_once('=').unwrap_or_else(|| panic!("{word}"));
        let value = hex(value);
        if let Some(at) = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
            assert!(mem.dma_write(hex(at).into(), &value.to_le_bytes()));
        } else if name == "eflags" {
            cpu.set_eflags(value | 2);
        } else {
            let n = NAMES.iter().position(|n| *n == name).unwrap_or_else(|| panic!("{name}"));
            cpu.gpr[n] = value;
        }
    }
    mem.flush_views();
    mem.select_view(false);
    (cpu, mem)
}

/// What differs from the state before.
fn after(cpu: &CpuState, mem: &Memory, start: &(CpuState, Memory)) -> String {
    let mut text = String::new();
    for (name, (now, then)) in NAMES.iter().zip(cpu.gpr.iter().zip(&start.0.gpr)) {
        if now != then {
            let _ = writeln!(text, "{name}={now:08x}");
        }
    }
    let _ = writeln!(text, "eip={:08x}\neflags={:08x}\ninstructions={}", cpu.eip, cpu.eflags(), cpu.retired);
    if cpu.x87 != start.0.x87 {
        let registers: Vec<_> =
            cpu.x87.regs.iter().map(|r| format!("{:04x}:{:016x}", r.sign_exponent, r.significand)).collect();
        let _ = writeln!(text, "x87 status={:04x} {}", cpu.x87.status_word(), registers.join(" "));
    }
    for (n, x) in cpu.xmm.iter().enumerate().filter(|(n, x)| **x != start.0.xmm[*n]) {
        let _ = writeln!(text, "xmm{n}={x:032x}");
    }
    let (now, then) = (mem.ram().as_slice(), start.1.ram().as_slice());
    let dwords = now.chunks_exact(4).zip(then.chunks_exact(4)).enumerate();
    for (n, (now, _)) in dwords.filter(|(_, (now, then))| now != then).take(16) {
        let value = now.iter().rev().fold(0u32, |v, b| v << 8 | u32::from(*b));
        let _ = writeln!(text, "[{:x}]={value:08x}", n * 4);
    }
    text
}

fn run<E: CpuEngine>(engine: &mut E, before: &str, code: &[u8]) -> (CpuState, Memory, String) {
    let start = set_up(before, code);
    let (mut cpu, mut mem) = set_up(before, code);
    let exit = engine.run(&mut cpu, &mut mem, &mut NoBus, 10_000);
    assert_eq!(exit, Exit::Halted, "the code ends with HLT");
    let text = after(&cpu, &mem, &start);
    (cpu, mem, text)
}

/// The file as it should be.
fn expected(path: &Path, text: &str, bless: bool) -> String {
    let name = path.file_stem().unwrap().to_string_lossy().into_owned();
    let sections = sections(text);
    let get = |name: &str| sections.get(name).cloned().unwrap_or_default();
    let bytes = |section: &str| -> Vec<u8> {
        let column = |line: &str| line.get(5..41).unwrap_or_default().to_owned();
        section
            .lines()
            .flat_map(|l| column(l).split_whitespace().map(|b| hex(b) as u8).collect::<Vec<_>>())
            .collect()
    };
    let code = if bless { assemble(&get("asm"), &name) } else { bytes(&get("code")) };
    let before = get("before");
    let region = name.starts_with("region");
    let options = Options {
        threshold: 1,
        region_threshold: if region { 0 } else { Options::NEVER },
        // Not every host has it.
        without: Parts::of(&[Part::Bmi2]),
        verify: true,
        ..Options::default()
    };
    let mut jit = Jit::with_options(options).unwrap();
    let (_, mem, translated) = run(&mut jit, &before, &code);
    let (_, _, interpreted) = run(&mut Interpreter::new(), &before, &code);
    assert_eq!(interpreted, translated, "{name}: interpreter and translated code");
    let poisoned = Options { poison: true, ..options };
    let (_, _, poisoned) = run(&mut Jit::with_options(poisoned).unwrap(), &before, &code);
    assert_eq!(interpreted, poisoned, "{name}: with dead state poisoned");
    for part in Part::ALL {
        let without = Options { without: options.without.with(part), cache_bytes: 64 << 10, ..options };
        let (_, _, without) = run(&mut Jit::with_options(without).unwrap(), &before, &code);
        assert_eq!(interpreted, without, "{name}: without {}", part.name());
    }
    let mut out = get("");
    let _ = write!(out, "asm:\n{}before:\n{before}code:\n", get("asm"));
    let mut host = String::new();
    for listing in jit.listings(&mem) {
        let kind = if listing.region { "region" } else { "block" };
        let _ = write!(host, "{kind} {:x}\n{}", listing.phys, listing.host_text);
    }
    let _ = write!(out, "{}after:\n{translated}host:\n{host}", emu_jit::guest_text(&code, CODE));
    out
}

#[test]
fn listings_are_as_expected() {
    let bless = std::env::var_os("ENV86_BLESS").is_some();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/listings");
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 12, "{paths:?}");
    let mut wrong = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        let expected = expected(&path, &text, bless);
        if bless {
            fs::write(&path, expected).unwrap();
        } else if text != expected {
            let first = text.lines().zip(expected.lines()).find(|(a, b)| a != b);
            wrong.push(format!("{}: {first:?}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "ENV86_BLESS=1 writes what it is now:\n{}", wrong.join("\n"));
}
