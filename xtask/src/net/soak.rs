//! `cargo xtask net-soak`: connections come and go for a long time, and the process must not grow.
//!
//! The guest opens connections of all kinds and the host opens some to the guest, without a pause. The descriptors
//! and the memory of env86 (without the guest's own) are sampled; what they are in the last quarter is compared with
//! what they were in the second: the first is for buffers and caches to find their size.
//!
//! The translator goes on translating for hours, because every program that starts is new code to it, until its place
//! for code is full; its tables grow with that. So memory may grow by as much as translated code does, and
//! `--engine interp` shows the network without it.

use super::servers::{Echo, Http, free_port, load};
use super::session::{Card, HOST, Session};
use crate::boot::DEBIAN_PROMPT;
use crate::demo::boot;
use crate::fixtures::{self, Options as Fixtures, Which};
use crate::run::{build_env86, now, step};
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Options of `cargo xtask net-soak`.
#[derive(Args)]
pub struct Options {
    /// How long
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// Network card
    #[arg(long, value_enum, default_value = "virtio")]
    nic: Card,
    /// What runs the guest's code, as env86 has it
    #[arg(long, value_name = "ENGINE", default_value = "jit")]
    engine: String,
}

/// Time between two samples.
const PERIOD: Duration = Duration::from_secs(5);

/// Mappings larger than this are the guest's memory and the translations' place.
const LARGE: u64 = 32 << 20;

/// Name of the mapping with the translated code.
const CODE: &str = "env86-code";

/// Growth of memory that is none: buffers of connections that are open at the moment.
const SLACK: u64 = 8 << 20;

/// Growth of the number of descriptors that is none.
const MORE: usize = 64;

/// A port of the host where nobody listens (tcpmux), and that no server of somebody else's gets by chance.
const CLOSED: u16 = 1;

/// Failures that are told as they happen.
const SHOWN: usize = 10;

/// What goes on in the guest: connections that end properly, by half, with a reset, not at all; refused ones, denied
/// ones; datagrams from ever new ports; names; pings.
const CHURN: &str = r"
import os, random, socket, struct, subprocess, sys, threading, time
host, port, echo, udp, closed = sys.argv[1], *map(int, sys.argv[2:6])
done = dict.fromkeys('get half reset leave refused denied udp name large'.split(), 0)
bad = {}
kept = []

def get():
    s = socket.create_connection((host, port), 30)
    s.sendall(b'GET /small/1 HTTP/1.0\r\n\r\n')
    data = b''
    while more := s.recv(4096): data += more
    assert data.endswith(b'ok\n'), data

def half():
    s = socket.create_connection((host, echo), 30)
    s.sendall(b'a line\n' * 20)
    s.shutdown(socket.SHUT_WR)
    data = b''
    while more := s.recv(4096): data += more
    assert data == b'a line\n' * 20, data

def reset():
    s = socket.create_connection((host, echo), 30)
    s.sendall(b'a line\n')
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    s.close()

def leave():
    kept.append(socket.create_connection((host, echo), 30))
    if len(kept) > 50: kept.pop(random.randrange(50)).close()

def refused():
    try: socket.create_connection((host, closed), 30)
    except ConnectionRefusedError: return
    assert False, 'not refused'

def denied():
    try: socket.create_connection(('169.254.169.254', 80), 30)
    except ConnectionRefusedError: return
    assert False, 'not refused'

def datagram():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(30)
    s.sendto(b'x' * random.randrange(1, 3000), (host, udp))
    assert s.recv(9) == b'x'

def name():
    assert socket.gethostbyname('host.env86.internal') == host

def large():
    s = socket.create_connection((host, port), 60)
    s.sendall(b'GET /big HTTP/1.0\r\n\r\n')
    count = 0
    while more := s.recv(65536): count += len(more)
    assert count > 1 << 20, count

kinds = dict(get=get, half=half, reset=reset, leave=leave, refused=refused, denied=denied, udp=datagram, name=name,
             large=large)
def work():
    while not os.path.exists('/tmp/stop'):
        kind = random.choices(list(kinds), [20, 10, 10, 5, 5, 5, 20, 5, 1])[0]
        try:
            kinds[kind]()
            done[kind] += 1
        except Exception as error:
            bad.setdefault(kind, []).append(repr(error))

threads = [threading.Thread(target=work) for _ in range(8)]
for t in threads: t.start()
for t in threads: t.join()
print(' '.join(f'{kind} {count}' for kind, count in done.items()))
print('bad', {kind: (len(errors), errors[0]) for kind, errors in bad.items()})
";

/// The process at one moment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    descriptors: usize,
    /// Bytes of memory apart from [`LARGE`] mappings.
    memory: u64,
    /// Bytes of translated code.
    code: u64,
    /// Bytes of all memory.
    resident: u64,
    threads: usize,
}

impl Sample {
    fn take(pid: u32) -> Result<Self> {
        let proc = |name: &str| format!("/proc/{pid}/{name}");
        let count = |name: &str| -> Result<usize> { Ok(fs::read_dir(proc(name))?.count()) };
        let (mut memory, mut resident, mut size) = (0, 0, 0);
        let (mut code, mut is_code) = (0, false);
        for line in fs::read_to_string(proc("smaps"))?.lines() {
            let kilobytes = |name: &str| -> Option<u64> {
                line.strip_prefix(name)?.trim().strip_suffix("kB")?.trim().parse().ok()
            };
            if line.split_whitespace().next().is_some_and(|word| !word.ends_with(':')) {
                // The head of a mapping. Code is mapped twice: to be written and to be run.
                is_code = line.contains(CODE) && line.contains(" r-x");
            } else if let Some(value) = kilobytes("Size:") {
                size = value << 10;
            } else if let Some(value) = kilobytes("Rss:") {
                resident += value << 10;
                memory += if size < LARGE { value << 10 } else { 0 };
                code += if is_code { value << 10 } else { 0 };
            }
        }
        Ok(Self { descriptors: count("fd")?, memory, code, resident, threads: count("task")? })
    }
}

/// The largest of each in some samples: one that comes and goes is none that stays.
fn largest(samples: &[Sample]) -> Option<Sample> {
    let most = |of: fn(&Sample) -> u64| samples.iter().map(of).max();
    Some(Sample {
        descriptors: most(|s| s.descriptors as u64)? as usize,
        memory: most(|s| s.memory)?,
        code: most(|s| s.code)?,
        resident: most(|s| s.resident)?,
        threads: most(|s| s.threads as u64)? as usize,
    })
}

/// What is wrong with the course of some samples.
fn growth(samples: &[Sample]) -> Result<()> {
    let quarter = samples.len() / 4;
    let part = |n: usize| largest(&samples[n * quarter..(n + 1) * quarter]);
    let (early, late) = part(1).zip(part(3)).context("too few samples")?;
    println!("second quarter {early:?}\nlast quarter   {late:?}");
    ensure!(late.descriptors <= early.descriptors + MORE, "the number of descriptors grows");
    let translated = late.code.saturating_sub(early.code);
    ensure!(late.memory <= early.memory + translated + SLACK, "the memory grows");
    ensure!(late.threads <= early.threads, "the number of threads grows");
    Ok(())
}

/// Runs it. An error if something grows or fails.
pub fn run(options: &Options) -> Result<()> {
    fixtures::build(&Fixtures::cached(Which::Debian, false))?;
    let env86 = build_env86()?;
    let http = Http::start(Arc::new(vec![0x55; 4 << 20]))?;
    let echo = Echo::start()?;
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let udp_port = udp.local_addr()?.port();
    thread::spawn(move || {
        let mut buffer = [0; 65536];
        while let Ok((_, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(b"x", from);
        }
    });
    let port = free_port()?;
    let image = fixtures::directory().join("debian");
    let mut command =
        boot(&env86, &["--cold", "--net", "--host-access", "--nic", options.nic.flag()], &image);
    command.args(["--engine", &options.engine]);
    command.arg("-p").arg(format!("{port}:80"));
    let length = Duration::from_secs(options.minutes * 60);
    let mut s =
        Session::start(&mut command, options.nic, &http, DEBIAN_PROMPT, length + Duration::from_secs(1200))?;
    let pid = s.guest.id();
    s.script("mkdir -p /tmp/www; echo hello >/tmp/www/index.html; busybox httpd -p 80 -h /tmp/www")?;
    http.publish("churn", CHURN);
    s.script(&format!("curl -s {HOST}:{}/file/churn >/tmp/churn", http.port))?;
    http.publish(
        "start",
        format!(
            "setsid python3 /tmp/churn {HOST} {} {} {udp_port} {CLOSED} </dev/null >/tmp/said 2>&1 &",
            http.port, echo.port
        ),
    );
    s.script(&format!("curl -s {HOST}:{}/file/start | sh", http.port))?;
    step(format!("{} minutes of connections over {}", options.minutes, options.nic.flag()));

    let ended = AtomicBool::new(false);
    let (good, bad) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let mut samples = Vec::new();
    let sampled: Result<()> = thread::scope(|scope| {
        scope.spawn(|| {
            let mut failures = 0;
            while !ended.load(Ordering::Relaxed) {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                let done = load(address, "/", b"hello\n", 20, 4);
                good.fetch_add(done.good, Ordering::Relaxed);
                bad.fetch_add(done.bad, Ordering::Relaxed);
                if let Some(reason) = done.reason {
                    if failures < SHOWN {
                        step(format!("through -p: {reason}"));
                    }
                    failures += 1;
                }
            }
        });
        let start = now();
        let result = (|| {
            while start.elapsed() < length {
                thread::sleep(PERIOD);
                let sample = Sample::take(pid)?;
                if samples.len() % 24 == 0 {
                    step(format!("{:5} s: {sample:?}", start.elapsed().as_secs()));
                }
                samples.push(sample);
            }
            Ok(())
        })();
        ended.store(true, Ordering::Relaxed);
        result
    });
    sampled?;
    let said = s.script("touch /tmp/stop; until grep -q bad /tmp/said; do sleep 0.5; done; cat /tmp/said")?;
    let (good, bad) = (good.into_inner(), bad.into_inner());
    println!("from the guest: {said}\nthrough -p: {good} good, {bad} bad");
    let after = Sample::take(pid)?;
    println!("afterwards     {after:?}");
    s.guest.close_input();
    s.guest.wait()?;
    growth(&samples)?;
    ensure!(bad == 0, "{bad} requests through -p failed");
    ensure!(said.ends_with("bad {}"), "connections of the guest failed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_found_and_noise_is_not() {
        let sample = |n: u64| Sample {
            descriptors: 100 + (n % 3) as usize,
            memory: (50 << 20) + ((n % 5) << 20),
            code: 0,
            resident: n << 20,
            threads: 4,
        };
        let flat: Vec<_> = (0..40).map(sample).collect();
        assert!(growth(&flat).is_ok());
        let leak: Vec<_> = (0..40).map(|n| Sample { memory: n << 20, ..sample(n) }).collect();
        assert!(growth(&leak).is_err());
        let translated: Vec<_> = leak.iter().map(|s| Sample { code: s.memory, ..*s }).collect();
        assert!(growth(&translated).is_ok());
        let leak: Vec<_> = (0..40).map(|n| Sample { descriptors: 10 * n as usize, ..sample(n) }).collect();
        assert!(growth(&leak).is_err());
        assert!(growth(&flat[..3]).is_err());
    }

    #[test]
    fn sample_of_this_process_is_plausible() {
        let sample = Sample::take(std::process::id()).unwrap();
        assert!(sample.descriptors >= 3 && sample.threads >= 1);
        assert!(sample.memory > 0 && sample.memory <= sample.resident);
    }
}
