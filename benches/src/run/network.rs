//! `benches network`: how fast a guest's network is, beside QEMU's user network with the same guest, kernel and
//! card.
//!
//! The server is in this process, on the loopback address: what is measured is the way between it and a program in
//! the guest. A download is timed from the connection to the end of the guest's program, an upload from the
//! connection to the arrival of the last byte. The guest's program (`benches/guest/transfer.c`) reads and writes 64 KiB
//! at a time: BusyBox's `nc` moves 1 KiB with three system calls, and would measure these.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

use super::console::Console;
use super::engines::{Contestants, Engine};
use super::image::GuestImage;
use super::programs;
use crate::clock::now;
use crate::report::{Header, write_json};
use crate::stats::Summary;
use crate::workspace;

/// Options of `network`.
#[derive(Args)]
pub struct Options {
    /// Network cards
    #[arg(long, value_name = "CARDS", value_delimiter = ',', default_value = "virtio,ne2k",
          value_parser = ["virtio", "ne2k"])]
    nic: Vec<String>,
    /// Mebibytes of a transfer over virtio; an NE2000 gets a sixteenth, since QEMU's loses most of a download
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=2047))]
    mib: u64,
    /// How often each is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only env86
    #[arg(long)]
    alone: bool,
    /// Write the results to FILE as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// A guest that is not there by then does not boot.
const BOOT: Duration = Duration::from_secs(400);
/// A transfer that is not over by then hangs.
const TRANSFER: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Direction {
    Download,
    Upload,
}

/// One card, one direction.
#[derive(Serialize)]
struct Row {
    card: String,
    direction: Direction,
    /// Of one transfer.
    mib: u64,
    /// Megabytes (10^6) per second by engine; env86 is the first.
    speeds: Vec<(Engine, Summary)>,
}

#[derive(Serialize)]
struct Results {
    header: Header,
    rows: Vec<Row>,
}

/// Runs the comparison.
///
/// # Errors
/// A guest does not boot, or its network does not work.
pub fn run(options: &Options) -> Result<()> {
    let wanted = if options.alone { vec![] } else { vec![Engine::Qemu] };
    let contestants = Contestants::find(&wanted, None)?;
    let mini = workspace::fixtures().join("mini");
    ensure!(mini.join("image.json").is_file(), "`cargo xtask fixtures` builds {}", mini.display());
    let programs = programs::build()?;
    let guest = GuestImage::prepare(&mini, "mini-bench", "mini# ", Some(&programs))?;
    let mut header = Header::new(options.rounds);
    for (engine, why) in &contestants.missing {
        header.leave_out(format!("{}: {why}", engine.name()));
    }
    let mut rows = Vec::new();
    for card in &options.nic {
        let mib = if card == "virtio" { options.mib } else { (options.mib / 16).max(1) };
        rows.extend(measure(&contestants, &guest, card, mib, options.rounds)?);
    }
    println!("{header}");
    println!("\nOne TCP connection, MB/s (10^6 bytes), median of {}", options.rounds);
    println!("{:<8} {:<10} {:>5} {:>10} {:>10} {:>8}", "card", "direction", "MiB", "env86", "qemu", "ratio");
    for row in &rows {
        let speed = |wanted| row.speeds.iter().find(|(engine, _)| *engine == wanted).map(|(_, s)| s.median);
        let text = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
        let (env86, qemu) = (speed(Engine::Env86), speed(Engine::Qemu));
        let ratio = env86.zip(qemu).map_or("-".to_owned(), |(a, b)| format!("{:.2}", a / b));
        let direction = if row.direction == Direction::Download { "download" } else { "upload" };
        println!(
            "{:<8} {direction:<10} {:>5} {:>10} {:>10} {ratio:>8}",
            row.card,
            row.mib,
            text(env86),
            text(qemu)
        );
    }
    if let Some(file) = &options.json {
        write_json(file, &Results { header, rows })?;
    }
    Ok(())
}

/// A connection that is over, as the server saw it.
struct Seen {
    begun: Instant,
    ended: Instant,
    bytes: u64,
}

/// Two ports: one gives, one takes.
struct Server {
    download: u16,
    upload: u16,
    bytes: u64,
    seen: Receiver<io::Result<Seen>>,
}

impl Server {
    fn start(bytes: u64) -> Result<Self> {
        let (sender, seen) = mpsc::channel();
        let listen = |serve: fn(TcpStream, u64) -> io::Result<Seen>| -> Result<u16> {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let (port, sender) = (listener.local_addr()?.port(), sender.clone());
            thread::spawn(move || {
                for stream in listener.incoming() {
                    if sender.send(stream.and_then(|stream| serve(stream, bytes))).is_err() {
                        break;
                    }
                }
            });
            Ok(port)
        };
        Ok(Self { download: listen(give)?, upload: listen(take)?, bytes, seen })
    }
}

fn give(mut stream: TcpStream, bytes: u64) -> io::Result<Seen> {
    let begun = now();
    let piece = vec![0x55; 256 << 10];
    let mut left = bytes;
    while left > 0 {
        let n = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        stream.write_all(&piece[..n])?;
        left -= n as u64;
    }
    Ok(Seen { begun, ended: now(), bytes })
}

fn take(mut stream: TcpStream, _: u64) -> io::Result<Seen> {
    let begun = now();
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(Seen { begun, ended: now(), bytes }),
            n => bytes += n as u64,
        }
    }
}

/// A guest with a network.
struct Guest {
    engine: Engine,
    console: Console,
    /// The host's address as the guest sees it.
    host: &'static str,
}

impl Guest {
    fn boot(contestants: &Contestants, engine: Engine, image: &GuestImage, card: &str) -> Result<Self> {
        let mut command = contestants.start(engine, image)?;
        let host = match engine {
            Engine::Qemu => {
                let model = if card == "virtio" { "virtio-net-pci" } else { "ne2k_pci" };
                command.args(["-nic", &format!("user,model={model}")]);
                "10.0.2.2"
            }
            _ => {
                command.args(["--net", "--host-access", "--nic", card]);
                "192.168.127.254"
            }
        };
        let driver = if card == "virtio" { "virtio_net" } else { "ne2k-pci" };
        let mut console = Console::start(command)?;
        let deadline = now() + BOOT;
        console.wait_for_prompt(image.prompt, deadline)?;
        console
            .send(&format!("modprobe {driver}; ip link set eth0 up; udhcpc -n -q -i eth0 && echo RE''ADY"))?;
        console.wait_for_line("READY", deadline).context("the guest gets no address")?;
        console.stop()?;
        Ok(Self { engine, console, host })
    }

    /// Megabytes per second.
    fn transfer(&mut self, direction: Direction, server: &Server) -> Result<f64> {
        let deadline = now() + TRANSFER;
        let (role, port) = match direction {
            Direction::Download => ("get", server.download),
            Direction::Upload => ("put", server.upload),
        };
        let line = format!("/bench/transfer {role} {} {port} {}", self.host, server.bytes >> 20);
        self.console.go_on()?;
        self.console.send(&line)?;
        loop {
            let said = self.console.line(deadline)?.text;
            ensure!(!said.starts_with("BAD "), "{said}");
            if let Some(moved) = said.strip_prefix("BYTES ") {
                ensure!(moved == server.bytes.to_string(), "{moved} of {} bytes were moved", server.bytes);
                break;
            }
        }
        let done = now();
        // When a program has written everything, much of it is still on its way.
        let seen = server.seen.recv_timeout(deadline.saturating_duration_since(now()));
        self.console.stop()?;
        let seen = seen.context("no connection came")?.context("the connection broke")?;
        ensure!(seen.bytes == server.bytes, "{} of {} bytes came", seen.bytes, server.bytes);
        let end = if direction == Direction::Download { done } else { seen.ended };
        Ok(server.bytes as f64 / 1e6 / (end - seen.begun).as_secs_f64())
    }
}

fn measure(
    contestants: &Contestants,
    image: &GuestImage,
    card: &str,
    mib: u64,
    rounds: u32,
) -> Result<Vec<Row>> {
    let server = Server::start(mib << 20)?;
    let mut guests = Vec::new();
    for engine in contestants.engines() {
        eprintln!("{card}: booting {}", engine.name());
        guests.push(Guest::boot(contestants, engine, image, card).with_context(|| engine.name())?);
    }
    let mut rows = Vec::new();
    for direction in [Direction::Download, Direction::Upload] {
        let mut samples: Vec<(Engine, Vec<f64>)> =
            guests.iter().map(|guest| (guest.engine, Vec::new())).collect();
        for round in 1..=rounds {
            for (guest, (engine, samples)) in guests.iter_mut().zip(&mut samples) {
                let speed = guest.transfer(direction, &server).with_context(|| engine.name())?;
                eprintln!("{card} {round} of {rounds}: {} {speed:.1} MB/s", engine.name());
                samples.push(speed);
            }
        }
        let speeds = samples.iter().filter_map(|(engine, list)| Some((*engine, Summary::of(list)?)));
        rows.push(Row { card: card.to_owned(), direction, mib, speeds: speeds.collect() });
    }
    Ok(rows)
}
