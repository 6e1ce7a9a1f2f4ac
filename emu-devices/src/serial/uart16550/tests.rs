//! The chip as drivers see it.

use super::*;
use crate::testing::TestBoard;
use std::sync::mpsc;

const IRQ4: IrqLine = IrqLine::wired_to(4);
const COM1: u16 = 0x3F8;

type Setup = (u8, u8, u16);

struct Channel(mpsc::Sender<u8>, mpsc::Sender<Setup>);
impl SerialSink for Channel {
    fn write(&mut self, byte: u8) {
        let _ = self.0.send(byte);
    }

    fn setup(&mut self, ier: u8, mcr: u8, divisor: u16) {
        let _ = self.1.send((ier, mcr, divisor));
    }
}

struct Bench {
    board: TestBoard,
    uart: Uart16550,
    sent: mpsc::Receiver<u8>,
    setups: mpsc::Receiver<Setup>,
}

impl Bench {
    fn new() -> Self {
        let ((tx, sent), (told, setups)) = (mpsc::channel(), mpsc::channel());
        let mut board = TestBoard::new();
        let mut uart = Uart16550::new(IRQ4, Box::new(Channel(tx, told)));
        board.power_up(&mut uart, 1);
        Self { board, uart, sent, setups }
    }

    fn read(&mut self, register: u16) -> u8 {
        self.board.inb(&mut self.uart, COM1 + register)
    }

    fn write(&mut self, register: u16, value: u8) {
        self.board.outb(&mut self.uart, COM1 + register, value);
    }

    fn receive(&mut self, data: &[u8]) -> usize {
        self.uart.receive(&mut self.board.ctx(), data)
    }

    fn irq(&self) -> bool {
        self.board.irq.is_high(IRQ4)
    }

    fn sent(&self) -> Vec<u8> {
        self.sent.try_iter().collect()
    }
}

#[test]
fn uart_powered_up_shows_the_reference_values() {
    let mut b = Bench::new();
    assert_eq!([IER, IIR_FCR, LSR, MSR].map(|r| b.read(r)), [0x00, 0x01, 0x60, 0x00]);
    b.write(IIR_FCR, 0x01);
    assert_eq!(b.read(IIR_FCR), 0xC1);
    assert_eq!(b.board.port_in(&mut b.uart, COM1, AccessSize::Word), 0xFFFF);
}

#[test]
fn uart_looks_like_a_16550a_to_linux_autoconfig() {
    let mut b = Bench::new();
    // Presence: IER keeps four bits.
    b.write(IER, 0);
    assert_eq!(b.read(IER), 0);
    b.write(IER, 0xFF);
    assert_eq!(b.read(IER), 0x0F);
    b.write(IER, 0);
    // Loopback of the modem lines: RTS and OUT2 come back as CTS and DCD.
    b.write(MCR, MCR_LOOP | 0x0A);
    assert_eq!(b.read(MSR) & 0xF0, 0x90);
    b.write(MCR, 0);
    // FIFO type: 16550A, not 16550 (no FIFO bits), not 16750 (bit 5).
    b.write(IIR_FCR, FCR_ENABLE);
    assert_eq!(b.read(IIR_FCR) >> 6, 3);
    b.write(LCR, LCR_DLAB);
    b.write(IIR_FCR, FCR_ENABLE | 0x20);
    assert_eq!(b.read(IIR_FCR) & 0x20, 0);
    // No extended feature register (16650), no alternate bank (NS16C5xx).
    b.write(LCR, 0xBF);
    assert_ne!(b.read(IIR_FCR), 0);
    b.write(LCR, 0xE0);
    assert_eq!(b.read(IIR_FCR) & MCR_LOOP, 0);
    b.write(LCR, 0);
    b.write(SCR, 0xA5);
    assert_eq!(b.read(SCR), 0xA5);
}

#[test]
fn uart_divisor_is_behind_dlab_and_sends_nothing() {
    let mut b = Bench::new();
    b.write(LCR, 0x83);
    b.write(DATA, 0x0C);
    b.write(IER, 0x01);
    assert_eq!((b.read(DATA), b.read(IER)), (0x0C, 0x01));
    b.write(LCR, 0x03);
    assert_eq!(b.read(IER), 0);
    assert!(b.sent().is_empty());
}

#[test]
fn uart_tells_how_the_driver_sets_it_up_and_that_it_was_reset() {
    let mut b = Bench::new();
    // Linux opens the port at 9600 baud, and then the program sets the speed.
    let opening = [(IER, 5), (MCR, 0x0B), (LCR, 0x93), (DATA, 12), (IER, 0), (LCR, 0x13)];
    let faster = [(LCR, 0x93), (DATA, 1), (IER, 0), (LCR, 0x13)];
    opening.into_iter().chain(faster).for_each(|(register, value)| b.write(register, value));
    let told: Vec<_> = b.setups.try_iter().collect();
    assert_eq!(told, [(0, 0, 0), (5, 0, 0), (5, 0x0B, 0), (5, 0x0B, 12), (5, 0x0B, 1)]);
    [(DATA, b'x'), (IER, 5), (SCR, 9)].into_iter().for_each(|(register, value)| b.write(register, value));
    assert_eq!(b.setups.try_iter().count(), 0);
    b.write(IER, 0);
    b.write(MCR, 0);
    assert_eq!(b.setups.try_iter().collect::<Vec<_>>(), [(0, 0x0B, 1), (0, 0, 1)]);
    b.uart.reset(&mut b.board.ctx(), ResetKind::Warm);
    assert_eq!(b.setups.try_iter().collect::<Vec<_>>(), [(0, 0, 0)]);
}

#[test]
fn uart_tells_how_a_snapshot_has_it_set_up() {
    let mut b = Bench::new();
    [(LCR, 0x93), (DATA, 1), (LCR, 0x13), (IER, 5), (MCR, 0x0B)]
        .into_iter()
        .for_each(|(register, value)| b.write(register, value));
    let state = b.uart.save(&mut b.board.ctx());
    let mut b = Bench::new();
    b.uart.restore(&mut b.board.ctx(), state).unwrap();
    assert_eq!(b.setups.try_iter().last(), Some((5, 0x0B, 1)));
}

#[test]
fn uart_sends_bytes_words_and_strings_in_order() {
    let mut b = Bench::new();
    b.write(DATA, b'a');
    b.uart.port_write(&mut b.board.ctx(), COM1, AccessSize::Word, u32::from(b'c') << 8 | u32::from(b'b'));
    assert_eq!(b.uart.port_write_block(&mut b.board.ctx(), COM1, AccessSize::Byte, b"def"), 3);
    assert_eq!(b.sent(), b"abcdef");
    assert_eq!(b.read(LSR), 0x60);
}

#[test]
fn uart_thre_interrupt_on_enable_and_after_each_write_cleared_by_iir() {
    let mut b = Bench::new();
    b.write(IER, IER_THRE);
    assert!(b.irq());
    assert_eq!(b.read(IIR_FCR), IIR_THRE);
    assert!(!b.irq());
    assert_eq!(b.read(IIR_FCR), IIR_NONE);
    // Linux tests that it is asserted again when switched off and on.
    b.write(IER, 0);
    b.write(IER, IER_THRE);
    assert_eq!(b.read(IIR_FCR), IIR_THRE);
    b.write(DATA, b'x');
    assert!(b.irq());
    assert_eq!(b.read(IIR_FCR), IIR_THRE);
}

#[test]
fn uart_transmit_interrupt_pauses_after_a_burst_and_loses_nothing() {
    let mut b = Bench::new();
    b.write(IIR_FCR, FCR_ENABLE);
    b.write(IER, IER_THRE);
    let (mut rounds, mut interrupts, mut total) = (0, 0, 0);
    while total < 65_536 {
        // One interrupt: the handler loops until the UART is quiet.
        let mut in_this = 0;
        while b.read(IIR_FCR) & 0x0F == IIR_THRE {
            for _ in 0..16 {
                b.write(DATA, 0x55);
            }
            total += 16;
            in_this += 1;
        }
        assert!((1..=256).contains(&in_this), "{in_this} rounds");
        rounds += in_this;
        interrupts += 1;
        let at = b.board.events.next_deadline().expect("a deadline for the next interrupt");
        let wait = at - b.board.now;
        assert!(wait <= SEND_PAUSE_NS, "the handler has looked");
        b.board.advance(&mut b.uart, wait);
        assert!(b.irq());
    }
    assert_eq!(rounds, total / 16);
    assert!(interrupts <= 33);
    assert_eq!(b.sent().len(), total);
}

#[test]
fn uart_transmit_interrupt_comes_back_although_nobody_looks() {
    let mut b = Bench::new();
    b.write(IER, IER_THRE);
    for _ in 0..=SEND_BURST {
        b.write(DATA, 0);
    }
    assert!(!b.irq());
    b.board.advance(&mut b.uart, SEND_WINDOW_NS);
    assert!(b.irq());
}

#[test]
fn uart_enabling_the_transmit_interrupt_asserts_it_even_within_a_pause() {
    let mut b = Bench::new();
    b.write(IER, IER_THRE);
    for _ in 0..=SEND_BURST {
        b.write(DATA, 0);
    }
    assert!(!b.irq());
    b.write(IER, 0);
    b.write(IER, IER_THRE);
    assert!(b.irq());
}

#[test]
fn uart_receive_without_fifo_holds_one_byte() {
    let mut b = Bench::new();
    b.write(IER, IER_RECEIVE);
    assert_eq!(b.receive(b"hi"), 2);
    assert_eq!((b.read(IIR_FCR), b.read(LSR)), (IIR_RECEIVE, 0x61));
    assert_eq!(b.uart.fifo.len(), 1);
    assert_eq!((b.read(DATA), b.read(DATA)), (b'h', b'i'));
    assert!(!b.irq());
    assert_eq!((b.read(DATA), b.read(LSR)), (0, 0x60));
}

#[test]
fn uart_receive_with_fifo_reports_trigger_level_then_timeout() {
    let mut b = Bench::new();
    b.write(IIR_FCR, 0x81); // trigger 8
    b.write(IER, IER_RECEIVE);
    b.receive(&[7; 9]);
    assert_eq!(b.read(IIR_FCR), 0xC0 | IIR_RECEIVE);
    b.read(DATA);
    assert_eq!(b.read(IIR_FCR), 0xC0 | IIR_RECEIVE);
    b.read(DATA);
    assert_eq!(b.read(IIR_FCR), 0xC0 | IIR_TIMEOUT);
    for _ in 0..7 {
        assert!(b.irq());
        b.read(DATA);
    }
    assert_eq!(b.read(IIR_FCR), 0xC1);
    assert!(!b.irq());
}

#[test]
fn uart_priorities_are_line_receive_transmit_modem() {
    let mut b = Bench::new();
    b.write(IER, 0x0F);
    b.uart.set_modem_inputs(&mut b.board.ctx(), MSR_CTS);
    b.receive(b"x");
    b.uart.line_errors = LSR_OVERRUN;
    assert_eq!(b.read(IIR_FCR), IIR_LINE);
    assert_eq!(b.read(LSR), 0x63);
    assert_eq!(b.read(IIR_FCR), IIR_RECEIVE);
    b.read(DATA);
    assert_eq!(b.read(IIR_FCR), IIR_THRE);
    assert_eq!(b.read(IIR_FCR), IIR_MODEM);
    assert_eq!(b.read(MSR), 0x11);
    assert_eq!(b.read(MSR), 0x10);
    assert_eq!(b.read(IIR_FCR), IIR_NONE);
}

#[test]
fn uart_ring_counts_only_when_it_ends() {
    let mut b = Bench::new();
    b.uart.set_modem_inputs(&mut b.board.ctx(), MSR_RI);
    assert_eq!(b.read(MSR), MSR_RI);
    b.uart.set_modem_inputs(&mut b.board.ctx(), 0);
    assert_eq!(b.read(MSR), 0x04);
}

#[test]
fn uart_loopback_returns_data_and_overruns() {
    let mut b = Bench::new();
    b.write(IIR_FCR, FCR_ENABLE);
    b.write(MCR, MCR_LOOP);
    b.receive(b"host");
    for i in 0..17 {
        b.write(DATA, i);
    }
    assert_eq!(b.read(LSR), 0x63);
    assert_eq!(b.read(LSR), 0x61);
    assert_eq!((0..16).map(|_| b.read(DATA)).collect::<Vec<_>>(), (0..16).collect::<Vec<_>>());
    assert_eq!(b.read(LSR), 0x60);
    assert!(b.sent().is_empty());
    // Host input waited outside.
    b.write(MCR, 0);
    assert_eq!(b.read(DATA), b'h');
}

#[test]
fn uart_fifo_reset_keeps_host_input_nobody_listened_for() {
    let mut b = Bench::new();
    b.receive(b"ls\n");
    // Linux opening the port: empties the FIFO, reads the data register for luck, enables the
    // interrupt and then the FIFO.
    for fcr in [0x01, 0x07, 0x00] {
        b.write(IIR_FCR, fcr);
    }
    assert_eq!((b.read(LSR), b.read(DATA)), (0x60, 0));
    b.write(IER, IER_RECEIVE);
    b.write(IIR_FCR, 0x81);
    assert_eq!([DATA; 3].map(|r| b.read(r)), *b"ls\n");
    b.write(IER, IER_RECEIVE);
    b.receive(b"noise");
    b.write(IIR_FCR, 0x03);
    assert_eq!(b.read(LSR), 0x60);
}

#[test]
fn uart_polling_driver_gets_input_a_moment_after_emptying_the_fifo() {
    let mut b = Bench::new();
    b.receive(b"x");
    b.write(IIR_FCR, 0x07);
    assert_eq!(b.read(LSR), 0x60);
    b.board.advance(&mut b.uart, QUIET_NS);
    assert_eq!((b.read(LSR), b.read(DATA)), (0x61, b'x'));
}

#[test]
fn uart_input_is_bounded_and_paced() {
    let mut b = Bench::new();
    b.write(IIR_FCR, FCR_ENABLE);
    b.write(IER, IER_RECEIVE);
    let data: Vec<u8> = (0..70_000u32).map(|i| i as u8).collect();
    let taken = b.receive(&data);
    assert_eq!(taken, INPUT_QUEUE);
    assert!(b.uart.space() <= FIFO_SIZE);
    let mut got = Vec::new();
    let mut bursts = 0;
    while got.len() < taken {
        let mut burst = 0;
        while b.read(LSR) & LSR_DATA != 0 {
            let byte = b.read(DATA);
            got.push(byte);
            burst += 1;
        }
        assert!((1..=RECEIVE_BURST).contains(&burst));
        bursts += 1;
        b.board.advance(&mut b.uart, RECEIVE_WINDOW_NS);
    }
    assert_eq!(got, data[..taken]);
    assert_eq!(bursts, INPUT_QUEUE as u32 / RECEIVE_BURST);
    assert_eq!(b.uart.space(), INPUT_QUEUE);
}

#[test]
fn uart_reset_keeps_host_input_and_modem_lines() {
    let mut b = Bench::new();
    b.write(IER, IER_RECEIVE);
    b.uart.set_modem_inputs(&mut b.board.ctx(), MSR_DCD);
    b.receive(b"ab");
    b.uart.reset(&mut b.board.ctx(), ResetKind::Warm);
    assert!(!b.irq());
    assert_eq!(b.read(IER), 0);
    assert_eq!(b.read(MSR), MSR_DCD);
    assert_eq!((b.read(DATA), b.read(DATA)), (b'a', b'b'));
}
