//! The machine and its run loop.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use emu_core::bus::CpuContext;
use emu_core::cpu::{CpuState, flags, gpr, seg};
use emu_core::engine::{Counter, CpuEngine, EngineStats, Exit};
use emu_core::mem::{Memory, PageKind};
use emu_core::snapshot::Value;
use emu_core::time::{VmClock, VmTime};

use super::board::Board;
use super::builder::{self, Nic, VirtioParts, Wiring};
use super::config::{Boot, MachineConfig, SERIAL_PORTS, ram_size};
use super::loader::{self, LoadError};
use super::mailbox::{HostMessage, MAX_QUEUED_BYTES, MachineStatus, Mailbox};
use crate::device::{Device, ResetKind};
use crate::input::i8042::I8042;
use crate::net::ne2000::Ne2000Pci;
use crate::serial::uart16550::Uart16550;
use crate::vga::Vga;
use crate::virtio::rng::EntropySource;
use crate::virtio::{VirtioNet, VirtioPci};

/// Why [`Machine::run`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The guest switched the power off.
    PowerOff,
    /// HLT with interrupts disabled: nothing can wake the machine. Linux powers off this way when
    /// there is no ACPI.
    Halted,
    /// Triple fault.
    TripleFault,
    /// [`HostMessage::Stop`].
    Stopped,
    /// [`HostMessage::Pause`].
    Paused,
    /// The guest rebooted, and there is nothing to boot: see [`Machine::reboot_error`].
    RebootFailed,
    /// A test device ended the run.
    GuestExit(u8),
}

/// Why a machine cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The host does not give the memory.
    #[error("Cannot allocate {0} MiB of guest memory")]
    Memory(u64, #[source] std::io::Error),
    /// The kernel cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The guest of a restored machine rebooted, and what it boots cannot be had.
    #[error("Cannot reboot: {0}")]
    Deferred(String),
    /// A firmware image has an impossible size.
    #[error("The {what} image has {len} bytes; at most {max} are possible")]
    Firmware {
        /// Which image.
        what: &'static str,
        /// Its size.
        len: usize,
        /// Largest possible size.
        max: usize,
    },
}

/// Longest stay in the engine, in instructions: bounds the latency of interrupts and messages.
const SLICE: u64 = 50_000;
/// Shortest slice worth entering the engine for.
const MIN_SLICE: u64 = 200;
/// A busy guest's serial output is flushed this often, in slices (some milliseconds).
const FLUSH_SLICES: u64 = 32;
/// Longest sleep of an idle machine; it is woken by messages before.
const MAX_SLEEP: Duration = Duration::from_millis(100);
/// A guest that does less than this between two waits handles a timer tick and nothing else, instructions.
const QUIET_WORK: u64 = 8_000;
/// After so many such waits (50 ms at 250 Hz) ticks may come a little late, several at a time: each
/// wake-up finds cold caches, and costs the host more than the guest's work.
const QUIET_WAITS: u32 = 12;
/// Unread input per serial port that is kept here when the UART's queue is full; more stays in the
/// mailbox, whose bound then holds the sender back.
const MAX_SERIAL_BACKLOG: usize = MAX_QUEUED_BYTES;

/// A PC: CPU, memory, board. Runs on the thread that calls [`Machine::run`].
pub struct Machine<E> {
    pub(super) cpu: Box<CpuState>,
    pub(super) mem: Memory,
    pub(super) board: Board,
    /// Slots of the snapshot this machine comes from that it has no devices for.
    pub(super) foreign: Vec<(usize, Value)>,
    engine: E,
    pub(super) wiring: Wiring,
    boot: Boot,
    mailbox: Arc<Mailbox>,
    serial_input: [VecDeque<u8>; SERIAL_PORTS],
    /// Running estimate of guest speed, to turn a deadline into an instruction budget.
    instructions_per_us: u64,
    cpuid_level: u32,
    /// Instructions completed when the CPU last waited for an interrupt.
    waited_at: Option<u64>,
    /// Waits in a row between which the CPU did next to nothing.
    quiet_waits: u32,
    reboot_error: Option<BuildError>,
}

type Random = Box<dyn FnMut() -> u32 + Send>;

/// A source of random numbers that several devices use.
fn source(random: &Arc<Mutex<Random>>) -> Random {
    let random = random.clone();
    Box::new(move || random.lock().unwrap_or_else(PoisonError::into_inner)())
}

/// Random numbers as bytes.
fn entropy(mut random: Random) -> EntropySource {
    Box::new(move |out| {
        for chunk in out.chunks_mut(4) {
            for (to, from) in chunk.iter_mut().zip(random().to_le_bytes()) {
                *to = from;
            }
        }
    })
}

impl<E: CpuEngine> Machine<E> {
    /// Builds the machine and loads what it boots.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn new(config: MachineConfig, engine: E, mailbox: Arc<Mailbox>) -> Result<Self, BuildError> {
        let card = config.network_card;
        let mut machine = Self::assemble(config, engine, mailbox, |rng| VirtioParts {
            rng: Some(rng),
            console: false,
            balloon: false,
            card,
        })?;
        machine.reset(ResetKind::Cold)?;
        Ok(machine)
    }

    /// A machine that has not been powered up. `virtio` says which of these functions it has.
    pub(super) fn assemble(
        config: MachineConfig,
        engine: E,
        mailbox: Arc<Mailbox>,
        virtio: impl FnOnce(EntropySource) -> VirtioParts,
    ) -> Result<Self, BuildError> {
        let ram = ram_size(config.memory_size);
        let mut mem = usize::try_from(ram)
            .map_err(std::io::Error::other)
            .and_then(Memory::new)
            .map_err(|e| BuildError::Memory(ram >> 20, e))?;
        mem.set_kind(0xA_0000, 0x2_0000, PageKind::Device);
        let MachineConfig { boot, cpuid_level, clock, random, acpi, .. } = config;
        let random = Arc::new(Mutex::new(random));
        let board = Board::new(VmClock::new(clock), acpi, source(&random));
        let mut virtio = virtio(entropy(source(&random)));
        if !config.virtio_rng {
            virtio.rng = None;
        }
        let parts = builder::Parts {
            vga_memory_size: config.vga_memory_size,
            serial: config.serial,
            filesystem: config.filesystem,
            shares: config.shares,
            network: config.network,
            mac: config.mac,
            preserve_mac: config.preserve_mac,
            virtio,
            debug_exit: matches!(&boot, Boot::Linux(linux) if loader::is_multiboot(&linux.kernel)),
        };
        let (board, wiring) = builder::wire(board, ram, parts);
        Ok(Self {
            cpu: Box::new(CpuState::new()),
            mem,
            board,
            foreign: Vec::new(),
            engine,
            wiring,
            boot,
            mailbox,
            serial_input: Default::default(),
            instructions_per_us: 100,
            cpuid_level,
            waited_at: None,
            quiet_waits: 0,
            reboot_error: None,
        })
    }

    /// Puts a device on the board that no PC has, at `ports` as `(first, count)` and `windows` of physical
    /// memory as `(first, length)`. It is no part of snapshots. False, and nothing is attached, if there is
    /// no room: a window overlaps another one, or the board is full.
    pub fn attach(&mut self, device: Box<dyn Device>, ports: &[(u16, u16)], windows: &[(u64, u64)]) -> bool {
        self.board.attach(device, ports, windows)
    }

    /// Brings CPU and chips to their power-up state; nothing is loaded.
    pub(super) fn power_up(&mut self) {
        self.reset_hardware(ResetKind::Cold);
    }

    fn reset_hardware(&mut self, kind: ResetKind) {
        let retired = self.cpu.retired;
        *self.cpu = CpuState::new();
        self.cpu.retired = retired;
        self.cpu.cpuid_level = self.cpuid_level;
        self.cpu.has_apic = self.board.acpi;
        self.mem.select_view(false);
        self.mem.flush_views();
        self.engine.flush(&mut self.mem);
        let cx = self.context();
        self.board.reset(&mut self.mem, cx, kind);
    }

    /// Brings CPU and chips to their power-up state and loads what the machine boots.
    fn reset(&mut self, kind: ResetKind) -> Result<(), BuildError> {
        if let Boot::Deferred(boot) = &mut self.boot {
            self.boot = boot().map_err(BuildError::Deferred)?;
        }
        self.reset_hardware(kind);
        let cx = self.context();
        match &self.boot {
            Boot::Linux(linux) => {
                self.board.firmware_setup(&mut self.mem, cx);
                builder::firmware_defaults(&mut self.board, &self.wiring);
                if self.board.acpi {
                    super::acpi_tables::write(&mut self.mem);
                }
                loader::load(linux, &mut self.mem, &mut self.cpu)?;
            }
            Boot::Firmware { bios, vga_bios } => {
                copy_firmware(&mut self.mem, bios, vga_bios.as_deref())?;
            }
            Boot::Deferred(_) => return Err(BuildError::Deferred("nothing to boot".to_owned())),
        }
        Ok(())
    }

    pub(super) fn context(&self) -> CpuContext {
        CpuContext { retired: self.cpu.retired, vm86: self.cpu.vm86() }
    }

    /// Runs until the machine stops. After [`StopReason::Paused`] it may be called again.
    pub fn run(&mut self) -> StopReason {
        // The end of time is 584 years away.
        let reason = self.run_until(VmTime::MAX).unwrap_or(StopReason::Stopped);
        if reason != StopReason::Paused {
            self.mailbox.close();
        }
        reason
    }

    /// Runs until the machine stops or guest time reaches `end`, nanoseconds since power-on; `None`
    /// in the latter case. With the deterministic clock the instruction is exact, and how a run is
    /// divided does not matter to the guest.
    pub fn run_until(&mut self, end: VmTime) -> Option<StopReason> {
        self.board.clock.resume();
        let reason = self.run_loop(end);
        if reason == Some(StopReason::Paused) {
            self.board.clock.pause();
        }
        self.publish(self.is_resting());
        reason
    }

    /// Guest time, nanoseconds since power-on.
    pub fn now(&mut self) -> VmTime {
        self.board.now(self.cpu.retired)
    }

    fn run_loop(&mut self, end: VmTime) -> Option<StopReason> {
        let mut last = (self.board.now(self.cpu.retired), self.cpu.retired);
        for slice in 0u64.. {
            if slice % FLUSH_SLICES == 0 {
                self.publish(self.board.clock.is_deterministic() && self.is_resting());
            }
            if self.mailbox.has_messages()
                && let Some(stop) = self.read_mailbox()
            {
                return Some(stop);
            }
            let cx = self.context();
            self.feed_serial(cx);
            if self.mailbox.take_network() {
                self.feed_network(cx);
            }
            self.board.run_events(&mut self.mem, cx);
            if self.board.requests.any()
                && let Some(stop) = self.serve_requests()
            {
                return Some(stop);
            }
            let now = self.board.now(self.cpu.retired);
            if now >= end {
                return None;
            }
            self.board.refresh_wall(now);
            self.measure_speed(&mut last, now);
            let budget = self.budget(now, end);
            match self.engine.run(&mut self.cpu, &mut self.mem, &mut self.board, budget) {
                Exit::Budget | Exit::Request => {}
                Exit::Shutdown => return Some(StopReason::TripleFault),
                Exit::Halted => {
                    if let Some(stop) = self.wait_for_interrupt(end) {
                        return Some(stop);
                    }
                    last = (self.board.now(self.cpu.retired), self.cpu.retired);
                }
            }
        }
        None
    }

    /// Instructions until something is due.
    fn budget(&mut self, now: VmTime, end: VmTime) -> u64 {
        let deadline = self.board.events.next_deadline().unwrap_or(VmTime::MAX).min(end);
        self.board.slice_deadline = deadline;
        self.board.sooner = false;
        let ns = deadline.saturating_sub(now);
        match self.board.clock.instructions_for(ns) {
            Some(n) => n.clamp(1, SLICE),
            None => (ns.saturating_mul(self.instructions_per_us) / 1000).clamp(MIN_SLICE, SLICE),
        }
    }

    fn measure_speed(&mut self, last: &mut (u64, u64), now: u64) {
        let (ns, n) = (now - last.0, self.cpu.retired - last.1);
        if ns >= 100_000 {
            let speed = (n.saturating_mul(1000) / ns).clamp(1, 10_000);
            self.instructions_per_us = (self.instructions_per_us * 7 + speed) / 8;
            *last = (now, self.cpu.retired);
        }
    }

    /// The CPU is halted: sleeps until a deadline or a message. Tells why the machine stops instead.
    fn wait_for_interrupt(&mut self, end: VmTime) -> Option<StopReason> {
        if self.cpu.eflags & flags::IF == 0 {
            return Some(StopReason::Halted);
        }
        let retired = self.cpu.retired;
        let now = self.board.now(retired);
        let quiet = self.waited_at.is_some_and(|at| retired - at < QUIET_WORK);
        self.quiet_waits = if quiet { self.quiet_waits.saturating_add(1) } else { 0 };
        let lazy = self.quiet_waits >= QUIET_WAITS && !self.board.clock.is_deterministic();
        let events = &self.board.events;
        let next = if lazy { events.next_wake() } else { events.next_deadline() };
        let deadline = next.unwrap_or(VmTime::MAX).min(end);
        self.publish(true);
        let ns = deadline.saturating_sub(now);
        if self.board.clock.is_deterministic() && deadline != VmTime::MAX {
            self.board.clock.warp_to(deadline, retired);
        } else if ns > 0 {
            self.mailbox.wait(Duration::from_nanos(ns).min(MAX_SLEEP));
        }
        self.waited_at = Some(retired);
        // The deterministic clock jumps over the wait: for those who look, short work is still rest.
        if !self.board.clock.is_deterministic() {
            self.publish(false);
        }
        None
    }

    /// The CPU has done next to nothing since it last waited.
    fn is_resting(&self) -> bool {
        self.waited_at.is_some_and(|at| self.cpu.retired - at < SLICE)
    }

    fn publish(&mut self, idle: bool) {
        let [com1, ..] = &self.serial_input;
        let queued = com1.len();
        let mut unread = 0;
        let mut listening = false;
        for (n, id) in self.wiring.uarts.into_iter().enumerate() {
            if let Some(uart) = id.and_then(|id| self.board.device_mut::<Uart16550>(id)) {
                listening |= n == 0 && uart.is_listening();
                unread += if n == 0 { uart.pending_input() } else { 0 };
                uart.flush_output();
            }
        }
        let status =
            MachineStatus { idle, listening, serial_backlog: queued + unread, retired: self.cpu.retired };
        self.mailbox.publish(status);
    }

    /// Takes messages; tells why the machine is to stop or pause.
    fn read_mailbox(&mut self) -> Option<StopReason> {
        let mut stop = None;
        let mut room = [MAX_SERIAL_BACKLOG; SERIAL_PORTS];
        for (room, queue) in room.iter_mut().zip(&self.serial_input) {
            *room = room.saturating_sub(queue.len());
        }
        for message in self.mailbox.take(room) {
            match message {
                HostMessage::Stop => return Some(StopReason::Stopped),
                HostMessage::Pause => stop = Some(StopReason::Paused),
                HostMessage::Serial { port, bytes } => {
                    if let Some(queue) = self.serial_input.get_mut(usize::from(port)) {
                        queue.extend(bytes);
                    }
                }
                HostMessage::Keyboard(codes) => {
                    let cx = self.context();
                    let id = self.wiring.i8042;
                    let _ = self.board.access(&mut self.mem, cx, id, |d, ctx| {
                        if let Some(kbd) = d.as_any().downcast_mut::<I8042>() {
                            kbd.key(ctx, &codes);
                        }
                    });
                }
            }
        }
        stop
    }

    /// Moves waiting serial input into the UARTs as far as they take it.
    fn feed_serial(&mut self, cx: CpuContext) {
        for (queue, id) in self.serial_input.iter_mut().zip(self.wiring.uarts) {
            let Some(id) = id else { continue };
            if queue.is_empty() {
                continue;
            }
            let bytes = queue.make_contiguous();
            let taken = self.board.access(&mut self.mem, cx, id, |d, ctx| {
                d.as_any().downcast_mut::<Uart16550>().map_or(0, |uart| uart.receive(ctx, bytes))
            });
            queue.drain(..taken.unwrap_or(0).min(queue.len()));
        }
    }

    /// Lets the network card fetch the frames that wait for it.
    fn feed_network(&mut self, cx: CpuContext) {
        match self.wiring.nic {
            Some(Nic::Ne2000(id)) => {
                let _ = self.board.access(&mut self.mem, cx, id, |d, ctx| {
                    if let Some(nic) = d.as_any().downcast_mut::<Ne2000Pci>() {
                        nic.fetch(ctx);
                    }
                });
            }
            Some(Nic::Virtio(id)) => {
                let _ = self.board.access(&mut self.mem, cx, id, |d, ctx| {
                    if let Some(nic) = d.as_any().downcast_mut::<VirtioPci<VirtioNet>>() {
                        nic.fetch(ctx);
                    }
                });
            }
            None => {}
        }
    }

    /// Address of the network card, if there is one. A restored card may have that of the snapshot.
    pub fn mac(&mut self) -> Option<[u8; 6]> {
        match self.wiring.nic? {
            Nic::Ne2000(id) => self.board.device_mut::<Ne2000Pci>(id).map(|nic| nic.chip().mac()),
            Nic::Virtio(id) => {
                self.board.device_mut::<VirtioPci<VirtioNet>>(id).map(|nic| nic.device().mac())
            }
        }
    }

    fn serve_requests(&mut self) -> Option<StopReason> {
        let requests = std::mem::take(&mut self.board.requests);
        if let Some(code) = requests.exit_code {
            return Some(StopReason::GuestExit(code));
        }
        if requests.power_off {
            return Some(StopReason::PowerOff);
        }
        if requests.reset
            && let Err(error) = self.reset(ResetKind::Warm)
        {
            self.reboot_error = Some(error);
            return Some(StopReason::RebootFailed);
        }
        None
    }

    /// Why the guest could not reboot.
    pub fn reboot_error(&self) -> Option<&BuildError> {
        self.reboot_error.as_ref()
    }

    /// Instructions completed since power-on.
    pub fn retired(&self) -> u64 {
        self.cpu.retired
    }

    /// The CPU, for tests and reports.
    pub fn cpu(&self) -> &CpuState {
        &self.cpu
    }

    /// The video card, for whoever draws the screen.
    pub fn vga(&mut self) -> Option<&mut Vga> {
        self.board.device_mut(self.wiring.vga)
    }

    /// Memory, for tests and reports.
    pub fn memory(&self) -> &Memory {
        &self.mem
    }

    /// Counters of the engine.
    pub fn stats(&self) -> EngineStats {
        self.engine.stats()
    }

    /// Everything that is counted, for reports.
    pub fn counters(&self) -> Vec<Counter> {
        let mut all = vec![Counter::new("machine", "instructions", self.cpu.retired)];
        all.extend(self.engine.counters());
        let views = self.mem.view_stats();
        let list = [
            ("pages entered", views.fills),
            ("pages dropped", views.dropped),
            ("loads of CR3", views.switches),
            ("flushes", views.flushes),
            ("INVLPG", views.invalidations),
            ("pages protected for their code", views.protections),
        ];
        all.extend(list.map(|(name, value)| Counter::new("views", name, value)));
        all
    }

    /// The engine.
    pub fn engine(&self) -> &E {
        &self.engine
    }

    /// A 64-bit hash (FNV-1a) of registers and RAM: equal for equal deterministic runs.
    pub fn state_hash(&self) -> u64 {
        let mut hash = Fnv::default();
        let cpu = &self.cpu;
        for r in &cpu.gpr[..8] {
            hash.add(u64::from(*r));
        }
        for v in [cpu.eip, cpu.eflags(), cpu.cr0, cpu.cr2, cpu.cr3, cpu.cr4, cpu.mxcsr] {
            hash.add(u64::from(v));
        }
        for s in &cpu.seg {
            hash.add(u64::from(s.selector) | u64::from(s.base) << 32);
        }
        for r in &cpu.x87.regs {
            hash.add(r.significand);
            hash.add(u64::from(r.sign_exponent));
        }
        for x in &cpu.xmm {
            hash.add(*x as u64);
            hash.add((*x >> 64) as u64);
        }
        hash.add(cpu.retired);
        for chunk in self.mem.ram().as_slice().chunks_exact(8) {
            hash.add(chunk.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b)));
        }
        hash.0
    }

    /// Registers and mode in a few lines, for the report after a triple fault.
    pub fn report(&self) -> String {
        let c = &self.cpu;
        let mut out = String::new();
        let names = ["EAX", "ECX", "EDX", "EBX", "ESP", "EBP", "ESI", "EDI"];
        for (n, name) in names.iter().enumerate() {
            let end = if n % 4 == 3 { "\n" } else { "  " };
            let _ = write!(out, "{name}={:08x}{end}", c.r32(n as u8));
        }
        let mode = match (c.protected(), c.vm86()) {
            (false, _) => "real mode",
            (true, true) => "virtual-8086 mode",
            (true, false) => "protected mode",
        };
        let _ = writeln!(
            out,
            "EIP={:08x}  EFLAGS={:08x}  CPL={}  {mode}, {}-bit code",
            c.eip,
            c.eflags(),
            c.cpl,
            if c.mode.code32() { 32 } else { 16 }
        );
        let segments = [
            ("ES", seg::ES),
            ("CS", seg::CS),
            ("SS", seg::SS),
            ("DS", seg::DS),
            ("FS", seg::FS),
            ("GS", seg::GS),
        ];
        for (name, n) in segments {
            let s = &c.seg[n];
            let _ = write!(out, "{name}={:04x}:{:08x}  ", s.selector, s.base);
        }
        let _ = writeln!(
            out,
            "\nCR0={:08x}  CR2={:08x}  CR3={:08x}  CR4={:08x}  IDT={:08x}/{:04x}  GDT={:08x}/{:04x}",
            c.cr0, c.cr2, c.cr3, c.cr4, c.idtr.base, c.idtr.limit, c.gdtr.base, c.gdtr.limit
        );
        let lin = c.seg[seg::CS].base.wrapping_add(c.eip);
        let code: Vec<String> = (0..16)
            .map_while(|n| emu_core::cpu::paging::translate_quiet(c, &self.mem, lin.wrapping_add(n)))
            .map_while(|phys| self.mem.dma_slice(phys, 1).and_then(|b| b.first().copied()))
            .map(|b| format!("{b:02x}"))
            .collect();
        let _ = writeln!(
            out,
            "Code at EIP: {}",
            if code.is_empty() { "not mapped".into() } else { code.join(" ") }
        );
        let _ = writeln!(out, "Stack pointer {:08x}, {} instructions executed", c.gpr[gpr::ESP], c.retired);
        out
    }
}

#[derive(Clone, Copy)]
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, v: u64) {
        self.0 = (self.0 ^ v).wrapping_mul(0x100_0000_01B3);
    }
}

/// Largest system BIOS.
const MAX_BIOS: usize = 256 << 10;
/// Largest VGA BIOS.
const MAX_VGA_BIOS: usize = 64 << 10;

fn copy_firmware(mem: &mut Memory, bios: &[u8], vga_bios: Option<&[u8]>) -> Result<(), BuildError> {
    if bios.len() > MAX_BIOS || !mem.dma_write(0x10_0000 - bios.len() as u64, bios) {
        return Err(BuildError::Firmware { what: "BIOS", len: bios.len(), max: MAX_BIOS });
    }
    if let Some(vga) = vga_bios
        && (vga.len() > MAX_VGA_BIOS || !mem.dma_write(0xC_0000, vga))
    {
        return Err(BuildError::Firmware { what: "VGA BIOS", len: vga.len(), max: MAX_VGA_BIOS });
    }
    Ok(())
}
