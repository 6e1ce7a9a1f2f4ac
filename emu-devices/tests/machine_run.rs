//! Time, interrupts, messages and reproducibility of whole machines.

mod machine_support;

use emu_core::interp::Interpreter;
use emu_devices::machine::{HostMessage, MAX_QUEUED_BYTES, Machine, Mailbox, StopReason};
use machine_support::{Code, HLT, STI, Screen, cell, config, machine};

const MS: u64 = 1_000_000;

/// A guest with a handler for all vectors that runs `handler`, and then does `main`.
fn guest(handler: impl Fn(&mut Code), main: impl Fn(&mut Code)) -> Vec<u8> {
    let mut body = Code::new();
    handler(&mut body);
    let mut code = Code::new();
    // jmp over the handler
    code.bytes(&[0xE9]).u32(body.0.len() as u32);
    let at = code.here();
    code.bytes(&body.0).stack_and_idt(at);
    main(&mut code);
    code.image()
}

/// Counts timer interrupts at 100 Hz; `idle` is what the guest does in between.
fn timer_guest(idle: &[u8]) -> Vec<u8> {
    guest(
        |code| {
            // push eax; push edx; inc [CELL]; EOI; rdtsc; add [2000h], eax; pop edx; pop eax; iret
            code.bytes(&[0x50, 0x52]).count().out8(0x20, 0x20);
            code.bytes(&[0x0F, 0x31, 0x01, 0x05]).u32(0x2000).bytes(&[0x5A, 0x58, 0xCF]);
        },
        |code| {
            let [low, high] = 11_932u16.to_le_bytes();
            code.pics(0xFE, 0xFF).out8(0x43, 0x34).out8(0x40, low).out8(0x40, high).bytes(&[STI]);
            let back = -(idle.len() as i32 + 2);
            code.bytes(idle).bytes(&[0xEB, back as u8]);
        },
    )
}

/// inc ecx; imul ebx, ecx, 12345h; in al, 40h; rdrand esi
const BUSY: &[u8] = &[0x41, 0x69, 0xD9, 0x45, 0x23, 0x01, 0x00, 0xE4, 0x40, 0x0F, 0xC7, 0xF6];

#[test]
fn timer_interrupts_come_at_their_rate_while_the_guest_halts() {
    let mut m = machine(config(timer_guest(&[HLT])));
    assert_eq!(m.run_until(1000 * MS), None);
    assert_eq!(cell(&m), 99, "the 100th comes 70 microseconds after one second");
    assert_eq!(m.run_until(1001 * MS), None);
    assert_eq!(cell(&m), 100);
    assert!(m.retired() < 3000, "it sleeps in between");
}

#[test]
fn timer_interrupts_come_at_their_rate_while_the_guest_works() {
    let mut m = machine(config(timer_guest(BUSY)));
    assert_eq!(m.run_until(1000 * MS), None);
    assert_eq!(cell(&m), 99);
}

#[test]
fn a_deadline_set_in_the_middle_of_a_slice_is_kept() {
    // One-shot of 12 clocks (10 us) after a while of nothing; 50,000 instructions are 5 ms.
    let image = guest(
        |code| {
            code.bytes(&[0x0F, 0x31, 0xA3]).u32(machine_support::CELL).halt();
        },
        |code| {
            code.pics(0xFE, 0xFF).out8(0x43, 0x30).bytes(&[STI]);
            code.out8(0x40, 12).out8(0x40, 0).bytes(&[0x0F, 0x31, 0x89, 0xC5, 0xEB, 0xFE]);
        },
    );
    let mut m = machine(config(image));
    assert_eq!(m.run_until(100 * MS), Some(StopReason::Halted));
    let waited = cell(&m) - m.cpu().gpr[5];
    assert!((9_000..12_000).contains(&waited), "{waited} ns");
}

#[test]
fn coprocessor_errors_interrupt_on_irq_13_without_native_reporting() {
    let image = guest(
        |code| {
            // inc [CELL]; out F0h; fnclex; EOI to slave and master; iret
            code.count().out8(0xF0, 0).bytes(&[0xDB, 0xE2]).out8(0xA0, 0x20).out8(0x20, 0x20).bytes(&[0xCF]);
        },
        |code| {
            code.pics(0xFB, 0xDF).bytes(&[STI]);
            // fninit; push 37Bh; fldcw [esp] (zero divide unmasked); fld1; fldz; fdivp; fwait
            code.bytes(&[0xDB, 0xE3, 0x68]).u32(0x37B).bytes(&[0xD9, 0x2C, 0x24]);
            code.bytes(&[0xD9, 0xE8, 0xD9, 0xEE, 0xDE, 0xF9, 0x9B]).halt();
        },
    );
    let mut m = machine(config(image));
    assert_eq!(m.run_until(100 * MS), Some(StopReason::Halted));
    assert_eq!(cell(&m), 1);
}

#[test]
fn equal_deterministic_runs_end_in_equal_states() {
    let run = |step: u64| {
        let mut m = machine(config(timer_guest(BUSY)));
        let mut at = 0;
        while at < 200 * MS {
            at = (at + step).min(200 * MS);
            assert_eq!(m.run_until(at), None);
        }
        (m.state_hash(), m.retired(), cell(&m))
    };
    let whole = run(200 * MS);
    assert_eq!(whole, run(200 * MS));
    assert_eq!(whole, run(777_777), "however it is divided");
    assert_eq!(whole, run(12_345));
    assert_eq!(whole.2, 19);
}

#[test]
fn a_different_guest_ends_in_a_different_state() {
    let hash = |image| {
        let mut m = machine(config(image));
        assert_eq!(m.run_until(20 * MS), None);
        m.state_hash()
    };
    assert_ne!(hash(timer_guest(BUSY)), hash(timer_guest(&BUSY[..8])));
}

/// Echoes COM1 until a `q` comes.
fn echo() -> Vec<u8> {
    let mut code = Code::new();
    // wait: mov dx, 3FDh; in al, dx; test al, 1; jz wait
    code.dx(0x3FD).bytes(&[0xEC, 0xA8, 0x01, 0x74, 0xF7]);
    // mov dx, 3F8h; in al, dx; out dx, al; cmp al, 'q'; jne wait
    code.dx(0x3F8).bytes(&[0xEC, 0xEE, 0x3C, b'q', 0x75, 0xED]).halt();
    code.image()
}

#[test]
fn serial_input_from_the_mailbox_is_echoed() {
    let (screen, mailbox) = (Screen::default(), Mailbox::new());
    let mut with = config(echo());
    with.serial[0] = Some(Box::new(screen.clone()));
    let mut m = Machine::new(with, Interpreter::new(), mailbox.clone()).unwrap();
    // more than the FIFO holds
    let text = format!("hello, {}q", "0123456789".repeat(20));
    assert!(mailbox.send(HostMessage::Serial { port: 0, bytes: text.clone().into_bytes() }));
    assert_eq!(m.run_until(1000 * MS), Some(StopReason::Halted));
    assert_eq!(screen.text(), text);
    assert_eq!(mailbox.status().serial_backlog, 0);
}

#[test]
fn serial_input_that_nobody_reads_is_refused_before_it_is_lost() {
    let (screen, mailbox) = (Screen::default(), Mailbox::new());
    let mut with = config(echo());
    with.serial[0] = Some(Box::new(screen.clone()));
    let mut m = Machine::new(with, Interpreter::new(), mailbox.clone()).unwrap();
    let line = HostMessage::Serial { port: 0, bytes: vec![b'x'; 64 << 10] };
    // Much more than mailbox and backlog hold, faster than the guest (8 instructions a byte) reads.
    let mut sent = 0;
    for step in 1..=40 {
        while mailbox.send(line.clone()) {
            sent += 64 << 10;
        }
        assert_eq!(m.run_until(step * MS / 10), None);
        assert!(mailbox.status().serial_backlog < 3 * MAX_QUEUED_BYTES);
    }
    assert!(mailbox.send(HostMessage::Keyboard(vec![0x1E])) || sent > MAX_QUEUED_BYTES);
    // What was accepted arrives.
    while m.now() < 10_000 * MS && screen.text().len() < sent {
        let next = m.now() + 100 * MS;
        assert_eq!(m.run_until(next), None);
    }
    assert_eq!(screen.text().len(), sent);
    assert!(mailbox.send(HostMessage::Serial { port: 0, bytes: b"q".to_vec() }));
    let end = m.now() + 100 * MS;
    assert_eq!(m.run_until(end), Some(StopReason::Halted));
}

#[test]
fn a_guest_that_mostly_halts_is_reported_as_idle_and_a_busy_one_is_not() {
    for (idle, work) in [(true, &[HLT][..]), (false, BUSY)] {
        let mailbox = Mailbox::new();
        let mut m = Machine::new(config(timer_guest(work)), Interpreter::new(), mailbox.clone()).unwrap();
        // 1 us behind the second tick: in the handler
        let tick = 2 * 11_932 * 3_000_000_000 / 3_579_545;
        assert_eq!(m.run_until(tick + 1000), None);
        assert_eq!(mailbox.status().idle, idle);
    }
}

#[test]
fn stop_message_ends_the_run_of_a_busy_guest() {
    let mailbox = Mailbox::new();
    let spin = Code::new().bytes(&[0xEB, 0xFE]).image();
    let mut m = Machine::new(config(spin), Interpreter::new(), mailbox.clone()).unwrap();
    assert!(mailbox.send(HostMessage::Stop));
    assert_eq!(m.run(), StopReason::Stopped);
    assert!(!mailbox.send(HostMessage::Stop), "the machine is gone");
}
