//! The network: how long a program in the guest takes to move some mebibytes over one TCP connection, with each
//! network card.
//!
//! The server is in this process, on the loopback address: what is measured is the way between it and a program in
//! the guest. A download is timed from the connection to the end of the guest's program, an upload from the
//! connection to the arrival of the last byte. The guest's program (`benches/guest/transfer.c`) reads and writes 64 KiB
//! at a time: BusyBox's `nc` moves 1 KiB with three system calls, and would measure these.
//!
//! env86 and QEMU have a user network in their process. v86 has none that passes TCP through; it is connected to
//! `env86 network`. The native program talks to the server directly.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::console::Console;
use super::engines::{Contestants, Engine};
use super::image::GuestImage;
use super::results::{Cell, Row, Unit};
use super::workloads::{Group, is_chosen};
use crate::clock::{now, progress};
use crate::workspace::output;

/// A network card.
struct Card {
    /// Name for `--nic`, and of the rows.
    name: &'static str,
    /// QEMU's name for it.
    model: &'static str,
    /// The guest's driver.
    driver: &'static str,
    /// Mebibytes of a transfer. QEMU's NE2000 loses so much of a download that one takes ten seconds.
    mib: u64,
}

const CARDS: [Card; 2] = [
    Card { name: "virtio", model: "virtio-net-pci", driver: "virtio_net", mib: 64 },
    Card { name: "ne2k", model: "ne2k_pci", driver: "ne2k-pci", mib: 1 },
];

/// A guest that is not there by then does not boot.
const BOOT: Duration = Duration::from_secs(400);
/// A transfer that is not over by then hangs.
const TRANSFER: Duration = Duration::from_secs(60);
/// The host's address in env86's network.
const HOST: &str = "192.168.127.254";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Download,
    Upload,
}

impl Direction {
    const ALL: [Self; 2] = [Self::Download, Self::Upload];

    fn row(self, card: &Card) -> String {
        let direction = if self == Self::Download { "down" } else { "up" };
        format!("{}-{direction}", card.name)
    }
}

/// The rows of this group that `--only` chooses.
pub fn rows(only: &[String]) -> Vec<Row> {
    let mut rows = Vec::new();
    for card in &CARDS {
        for direction in Direction::ALL {
            let name = direction.row(card);
            if is_chosen(&name, Group::Network, only) {
                let note = format!("{} MiB over one TCP connection", card.mib);
                rows.push(Row::new(&name, Group::Network, Unit::Seconds, &note));
            }
        }
    }
    rows
}

/// Measures these rows. What fails is noted in its cell.
///
/// # Errors
/// The host's.
pub fn measure(contestants: &Contestants, image: &GuestImage, rounds: u32, rows: &mut [Row]) -> Result<()> {
    for card in &CARDS {
        let names = Direction::ALL.map(|direction| direction.row(card));
        if !rows.iter().any(|row| names.contains(&row.name)) {
            continue;
        }
        progress(&format!("network: booting guests with {}", card.name));
        let mut guests: Vec<_> = contestants
            .engines()
            .into_iter()
            .map(|engine| (engine, Guest::boot(contestants, engine, image, card)))
            .collect();
        for (_, guest) in &mut guests {
            if let Err(error) = guest.as_mut().map_or(Ok(()), |guest| guest.wait(image, card)) {
                *guest = Err(error);
            }
        }
        for round in 1..=rounds {
            for direction in Direction::ALL {
                let name = direction.row(card);
                let Some(row) = rows.iter_mut().find(|row| row.name == name) else { continue };
                progress(&format!("network {round} of {rounds}: {name}"));
                for (engine, guest) in &mut guests {
                    turn(row.cell(*engine), guest, direction);
                }
            }
        }
    }
    Ok(())
}

/// One transfer. A guest in which one failed is given up: its card has stopped, or its shell still waits.
fn turn(cell: &mut Cell, guest: &mut Result<Guest>, direction: Direction) {
    match guest.as_mut().map(|guest| guest.transfer(direction)) {
        Ok(Ok(time)) => cell.samples.push(time.as_secs_f64()),
        Ok(Err(error)) => {
            cell.error = Some(format!("{error:#}"));
            *guest = Err(error);
        }
        Err(error) if cell.samples.is_empty() => cell.error = Some(format!("{error:#}")),
        // What it did before counts.
        Err(_) => {}
    }
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
    /// `env86 network`, if the guest needs it.
    _relay: Option<Console>,
    /// Its own: a connection that hangs is no other guest's concern.
    server: Server,
    /// The host's address as the guest sees it.
    host: &'static str,
}

impl Guest {
    fn boot(contestants: &Contestants, engine: Engine, image: &GuestImage, card: &Card) -> Result<Self> {
        let server = Server::start(card.mib << 20)?;
        let mut command = contestants.start(engine, image)?;
        let mut relay = None;
        let host = match engine {
            Engine::Native => "127.0.0.1",
            Engine::Env86 => {
                command.args(["--net", "--host-access", "--nic", card.name]);
                HOST
            }
            Engine::Qemu => {
                command.args(["-nic", &format!("user,model={}", card.model)]);
                "10.0.2.2"
            }
            Engine::V86 => {
                let (console, url) = start_relay(contestants, &server)?;
                relay = Some(console);
                command.args(["--network", &url, "--nic", card.name]);
                if let Some(option) = websocket_option()? {
                    command.env("NODE_OPTIONS", option);
                }
                HOST
            }
        };
        Ok(Self { engine, console: Console::start(command)?, _relay: relay, server, host })
    }

    /// Waits until the guest has an address.
    fn wait(&mut self, image: &GuestImage, card: &Card) -> Result<()> {
        let deadline = now() + BOOT;
        if self.engine == Engine::Native {
            self.console.wait_for_line("AGENT", deadline)?;
        } else {
            self.console.wait_for_prompt(image.prompt, deadline)?;
            let driver = card.driver;
            self.console.send(&format!(
                "modprobe {driver}; ip link set eth0 up; udhcpc -n -q -i eth0 && echo RE''ADY"
            ))?;
            self.console.wait_for_line("READY", deadline).context("the guest gets no address")?;
        }
        self.console.stop()
    }

    /// How long a transfer takes.
    fn transfer(&mut self, direction: Direction) -> Result<Duration> {
        let (deadline, server) = (now() + TRANSFER, &self.server);
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
        Ok(end - seen.begun)
    }
}

/// `env86 network`, from which the server can be reached; its URL.
fn start_relay(contestants: &Contestants, server: &Server) -> Result<(Console, String)> {
    let mut command = Command::new(&contestants.env86);
    command.args(["network", "--port", "0"]);
    for port in [server.download, server.upload] {
        command.arg("--allow").arg(format!("host.env86.internal:{port}"));
    }
    let mut console = Console::start(command)?;
    let line = console.line(now() + Duration::from_secs(10)).context("`env86 network`")?.text;
    let url = line.strip_prefix("Network URL: ").context("`env86 network` tells no URL")?.to_owned();
    Ok((console, url))
}

/// What Node has to be told to have a WebSocket, if anything.
fn websocket_option() -> Result<Option<&'static str>> {
    const OPTION: &str = "--experimental-websocket";
    let test = ["-e", "process.exit(typeof WebSocket === 'undefined' ? 1 : 0)"];
    if output(Command::new("node").args(test)).is_ok() {
        return Ok(None);
    }
    output(Command::new("node").arg(OPTION).args(test)).context("this version of Node has no WebSocket")?;
    Ok(Some(OPTION))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_chooses_cards_and_directions() {
        let names = |words: &[&str]| -> Vec<String> {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            rows(&words).into_iter().map(|row| row.name).collect()
        };
        assert_eq!(names(&[]), ["virtio-down", "virtio-up", "ne2k-down", "ne2k-up"]);
        assert_eq!(names(&["network"]), names(&[]));
        assert_eq!(names(&["ne2k"]), ["ne2k-down", "ne2k-up"]);
        assert_eq!(names(&["integer"]), Vec::<String>::new());
    }

    #[test]
    fn server_gives_all_bytes_and_counts_those_it_takes() {
        let server = Server::start(1 << 20).unwrap();
        let connect = |port| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let mut received = Vec::new();
        connect(server.download).read_to_end(&mut received).unwrap();
        assert_eq!(received.len(), 1 << 20);
        assert_eq!(server.seen.recv().unwrap().unwrap().bytes, 1 << 20);
        connect(server.upload).write_all(&received[..1000]).unwrap();
        assert_eq!(server.seen.recv().unwrap().unwrap().bytes, 1000);
    }
}
