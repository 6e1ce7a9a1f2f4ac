//! `cargo xtask net-bars`: what the network has to do in the full guest, over each card, at full size.
//!
//! All servers and clients are on the host's loopback address. A table at the end says what was measured.

use super::addresses::by_every_client;
use super::servers::{Echo, Http, Tls, free_port, get, hash, load, serve};
use super::session::{Card, HOST, Session, in_terminal};
use crate::bars::{Bars, noise};
use crate::boot::DEBIAN_PROMPT;
use crate::demo::boot;
use crate::fixtures::{self, Options as Fixtures, Which};
use crate::guest::Guest;
use crate::round_trip::copy;
use crate::run::{build_env86, now, step, target_dir};
use anyhow::{Result, bail, ensure};
use clap::Args;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Options of `cargo xtask net-bars`.
#[derive(Args)]
pub struct Options {
    /// A tenth of everything
    #[arg(long)]
    quick: bool,
    /// Network cards
    #[arg(long, value_enum, value_delimiter = ',', default_value = "ne2k,virtio")]
    nic: Vec<Card>,
    /// Only bars whose name contains TEXT
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
}

/// Everything in one guest.
const TIMEOUT: Duration = Duration::from_secs(3600);

/// What the guest's client has said before the guest is saved: it has done everything once.
const BEATS: usize = 5;

/// How long a restored guest may take to have its network.
const AFTER_RESTORE: Duration = Duration::from_secs(2);

/// Names that hosts commonly resolve; those that this one resolves are looked up in the guest.
const NAMES: &[&str] = &["deb.debian.org", "www.debian.org", "crates.io", "www.kernel.org", "example.com"];

/// How much of each.
struct Size {
    bytes: usize,
    short: usize,
    parallel: usize,
    requests: usize,
}

/// What all bars work with.
struct Course<'a> {
    env86: &'a Path,
    size: Size,
    content: Arc<Vec<u8>>,
    http: Http,
    tls: Tls,
    echo: Echo,
    /// Where nothing may connect to, and how often something did.
    secret: u16,
    leaks: Arc<AtomicUsize>,
    bars: Bars,
}

/// Runs all bars. An error if one fails.
pub fn run(options: &Options) -> Result<()> {
    fixtures::build(&Fixtures::cached(Which::Debian, false))?;
    let env86 = build_env86()?;
    let part = if options.quick { 10 } else { 1 };
    let size = Size { bytes: 200_000_000 / part, short: 1000 / part, parallel: 200, requests: 10_000 / part };
    let content = Arc::new(noise(1, size.bytes));
    let leaks = Arc::new(AtomicUsize::new(0));
    let counter = leaks.clone();
    let secret = serve((Ipv4Addr::UNSPECIFIED, 0), move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
    })?;
    let mut course = Course {
        env86: &env86,
        size,
        http: Http::start(content.clone())?,
        tls: Tls::start(&target_dir().join("tmp/net-bars"))?,
        content,
        echo: Echo::start()?,
        secret,
        leaks,
        bars: Bars::new(&options.only),
    };
    for &card in &options.nic {
        step(format!("{}: booting debian", card.flag()));
        if let Err(error) = course.card(card) {
            course.bars.fail(format!("{}: the guest", card.flag()), error);
        }
        step(format!("{}: saving and restoring debian", card.flag()));
        if let Err(error) = course.restored(card) {
            course.bars.fail(format!("{}: the saved guest", card.flag()), error);
        }
    }
    course.bars.finish("the network does not keep its bars")
}

impl Course<'_> {
    fn bar(&mut self, card: Card, bar: &str, measure: impl FnOnce(&Self) -> Result<String>) {
        let mut bars = std::mem::take(&mut self.bars);
        bars.measure(format!("{}: {bar}", card.flag()), || measure(self));
        self.bars = bars;
    }

    /// env86 with a network that leads to the servers, and a port of the host that leads to the guest's port 80.
    fn command(&self, card: Card, flags: &[&str], image: &Path, port: u16) -> Command {
        let mut command = boot(self.env86, flags, image);
        command.args(["--net", "--nic", card.flag(), "-p"]).arg(format!("{port}:80"));
        for port in [self.http.port, self.tls.port, self.echo.port] {
            command.arg("--allow").arg(format!("host.env86.internal:{port}"));
        }
        command
    }

    fn url(&self) -> String {
        format!("http://host.env86.internal:{}", self.http.port)
    }

    fn card(&mut self, card: Card) -> Result<()> {
        let image = fixtures::directory().join("debian");
        let port = free_port()?;
        let mut command = self.command(card, &["--cold", "--memory", "768M"], &image, port);
        let scripts = self.http.clone();
        let mut s = Session::start(&mut command, card, &scripts, DEBIAN_PROMPT, TIMEOUT)?;
        self.bar(card, "download equal by hash", |c| c.download(&mut s));
        self.bar(card, "upload equal by hash", |c| c.upload(&mut s));
        self.bar(card, "short connections one after the other", |c| c.short(&mut s));
        self.bar(card, "connections at the same time", |c| c.parallel(&mut s));
        self.bar(card, "TLS with a verified certificate", |c| c.tls(&mut s));
        self.bar(card, "addresses by dhclient, by hand, by udhcpc", |c| by_every_client(&mut s, &c.http));
        self.bar(card, "names the host resolves", |_| names(&mut s));
        self.bar(card, "ping of the gateway", |_| ping(&mut s));
        self.bar(card, "denied places get no connection", |c| c.denied(&mut s));
        self.bar(card, "requests through -p", |c| c.forwarded(&mut s, port));
        // The end of the input ends env86.
        s.guest.close_input();
        s.guest.wait().map(drop)
    }

    fn download(&self, s: &mut Session<'_>) -> Result<String> {
        let start = now();
        let text = s.script(&format!("curl -sS -o /tmp/big {}/big; stat -c %s /tmp/big", self.url()))?;
        let took = now() - start;
        ensure!(text == self.size.bytes.to_string(), "{text:?}");
        let text = s.script("sha256sum </tmp/big")?;
        ensure!(text.starts_with(&hash(&self.content)), "another hash: {text:?}");
        Ok(rate(self.size.bytes, took))
    }

    fn upload(&self, s: &mut Session<'_>) -> Result<String> {
        let start = now();
        let text = s.script(&format!("curl -sS -T /tmp/big {}/up; rm /tmp/big", self.url()))?;
        let took = now() - start;
        ensure!(text == format!("{} {}", hash(&self.content), self.size.bytes), "{text:?}");
        Ok(rate(self.size.bytes, took))
    }

    fn short(&self, s: &mut Session<'_>) -> Result<String> {
        let (count, before) = (self.size.short, self.http.connections());
        let start = now();
        let text = s.script(&format!("curl -sS '{}/small/[1-{count}]' | sort | uniq -c", self.url()))?;
        let took = now() - start;
        ensure!(words(&text) == format!("{count} ok"), "{text:?}");
        let made = self.http.connections() - before;
        ensure!(made >= count, "only {made} connections were made");
        Ok(format!("{count}, {:.0} a second", count as f64 / took.as_secs_f64()))
    }

    fn parallel(&self, s: &mut Session<'_>) -> Result<String> {
        let count = self.size.parallel;
        self.http.part();
        let flags = format!("-sS --no-progress-meter --parallel --parallel-immediate --parallel-max {count}");
        let urls = format!("'{}/together/{count}?[1-{count}]'", self.url());
        let text = s.script(&format!("curl {flags} {urls} 2>&1 | sort | uniq -c"))?;
        ensure!(words(&text) == format!("{count} ok"), "{text:?}");
        Ok(format!("{count}, all open at the same moment"))
    }

    fn tls(&self, s: &mut Session<'_>) -> Result<String> {
        self.http.publish("certificate", self.tls.certificate.clone());
        let (url, port) = (self.url(), self.tls.port);
        let text = s.script(&format!(
            "curl -s -o /tmp/ca.pem {url}/file/certificate
             printf 'GET / HTTP/1.0\\r\\n\\r\\n' | openssl s_client -connect host.env86.internal:{port} \\
                 -CAfile /tmp/ca.pem -verify_return_error -verify_hostname host.env86.internal -ign_eof 2>&1 |
                 grep -oE '^ *Verify return code: 0|^HTTP/1.0 200|^New, TLSv1.[23]' | sort -u
             curl -s -o /dev/null -w '%{{http_code}} %{{ssl_verify_result}}' --cacert /tmp/ca.pem \\
                 https://host.env86.internal:{port}/"
        ))?;
        for wanted in ["Verify return code: 0", "HTTP/1.0 200", "New, TLSv1.", "200 0"] {
            ensure!(text.contains(wanted), "no {wanted:?} in {text:?}");
        }
        Ok("openssl s_client and curl".to_owned())
    }

    /// Everything that is not allowed: the host by all its addresses, link-local places, nobody's addresses.
    fn denied(&self, s: &mut Session<'_>) -> Result<String> {
        let mut places = vec![HOST.to_owned(), "192.168.127.1".to_owned(), "192.168.127.77".to_owned()];
        places.extend(
            ["169.254.169.254", "0.0.0.0", "240.0.0.1", "224.0.0.1", "255.255.255.255"].map(Into::into),
        );
        places.extend(own_addresses());
        let before = self.leaks.load(Ordering::Relaxed);
        let program = format!(
            "import socket\nopen = 0\nfor place in {places:?}:\n    for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:\n        s = socket.socket(socket.AF_INET6 if ':' in place else socket.AF_INET, kind)\n        s.settimeout(3)\n        try:\n            s.connect((place, {0}))\n            s.send(b'x')\n            s.recv(9)\n            open += 1\n        except OSError: pass\nprint('open', open)",
            self.secret
        );
        let text = s.python(&program)?;
        ensure!(text == "open 0", "{text:?}");
        let leaks = self.leaks.load(Ordering::Relaxed) - before;
        // The guest's own 0.0.0.0 is the guest.
        ensure!(leaks == 0, "{leaks} connections arrived");
        Ok(format!("{} places, 0 connections", places.len()))
    }

    fn forwarded(&self, s: &mut Session<'_>, port: u16) -> Result<String> {
        s.script("mkdir -p /tmp/www; echo hello >/tmp/www/index.html; busybox httpd -p 80 -h /tmp/www")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let url = format!("http://{address}/");
        let text = crate::run::output(Command::new("curl").args(["-sS", "--max-time", "60", &url]))?;
        ensure!(text == "hello\n", "curl on the host printed {text:?}");
        let done = load(address, "/", b"hello\n", self.size.requests, 16);
        ensure!(done.bad == 0, "{} of {} failed: {:?}", done.bad, self.size.requests, done.reason);
        Ok(format!("{}, 0 errors, {:.0} a second", done.good, done.good as f64 / done.time.as_secs_f64()))
    }

    /// A connection goes on while the machine is saved; a machine that was restored has its network at once.
    fn restored(&mut self, card: Card) -> Result<()> {
        if !["a connection goes on during a save", "network after a restore", "forward after a restore"]
            .iter()
            .any(|bar| self.bars.wants(&format!("{}: {bar}", card.flag())))
        {
            return Ok(());
        }
        let image = copy(&fixtures::directory().join("debian"), &format!("net-bars-{}", card.flag()))?;
        let port = free_port()?;
        let scripts = self.http.clone();
        let mut command = in_terminal(&self.command(card, &["--cold", "--save"], &image, port))?;
        let mut s = Session::start(&mut command, card, &scripts, DEBIAN_PROMPT, TIMEOUT)?;
        self.bar(card, "a connection goes on during a save", |c| c.save(&mut s));
        s.script("mkdir -p /tmp/www; echo hello >/tmp/www/index.html; busybox httpd -p 80 -h /tmp/www")?;
        // It is impatient: a connection that is being made when the machine is saved must not be what is measured.
        let beat = format!(
            "import socket, time\nwhile True:\n    try:\n        s = socket.create_connection(('{HOST}', {}), 0.2)\n        s.sendall(b'beat\\n')\n        s.recv(9)\n        s.close()\n    except OSError: pass\n    time.sleep(0.05)",
            self.echo.port
        );
        self.http.publish("beat", beat);
        s.script(&format!("curl -s {}/file/beat >/tmp/beat", self.url()))?;
        self.echo.forget();
        s.ask("setsid python3 /tmp/beat </dev/null >/dev/null 2>&1 &")?;
        let deadline = now() + Duration::from_secs(120);
        while self.echo.heard().lines < BEATS {
            ensure!(now() < deadline, "the guest's client does not speak");
            thread::sleep(Duration::from_millis(10));
        }
        s.guest.send_bytes(b"\x04")?; // Ctrl-D
        let status = s.guest.wait()?;
        ensure!(status.success(), "env86 ended with {status} when it was to save");

        self.echo.forget();
        let start = now();
        let mut guest = Guest::start(&mut in_terminal(&self.command(card, &[], &image, port))?, TIMEOUT)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let first_answer = thread::spawn(move || answered(address, start + Duration::from_secs(60)));
        self.bar(card, "network after a restore", |c| {
            let first = c.heard_something()?;
            in_time(first - start)
        });
        let first = first_answer.join().unwrap_or_else(|_| bail!("the client panicked"));
        self.bar(card, "forward after a restore", |_| in_time(first? - start));
        guest.send_bytes(b"\x01x")?;
        guest.wait()?;
        let _ = std::fs::remove_dir_all(image);
        Ok(())
    }

    /// Waits for a connection to the echo server.
    fn heard_something(&self) -> Result<Instant> {
        let deadline = now() + Duration::from_secs(120);
        loop {
            if let Some(first) = self.echo.heard().first {
                return Ok(first);
            }
            ensure!(now() < deadline, "no connection came");
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn save(&self, s: &mut Session<'_>) -> Result<String> {
        self.echo.forget();
        let talk = format!(
            "import os, socket, time\ns = socket.create_connection(('{HOST}', {}))\nn = 0\nwhile not os.path.exists('/tmp/stop'):\n    n += 1\n    s.sendall(b'%d\\n' % n)\n    line = b''\n    while not line.endswith(b'\\n'):\n        more = s.recv(99)\n        if not more: raise SystemExit('closed')\n        line += more\n    if int(line) != n: raise SystemExit('wrong')\n    time.sleep(0.01)\nprint('all', n)",
            self.echo.port
        );
        self.http.publish("talk", talk);
        s.script(&format!("curl -s {}/file/talk >/tmp/talk", self.url()))?;
        s.ask("setsid python3 /tmp/talk </dev/null >/tmp/said 2>&1 &")?;
        self.heard_something()?;
        let mut during = 0;
        for _ in 0..3 {
            let before = self.echo.heard().lines;
            s.guest.send_bytes(b"\x01s")?;
            s.guest.expect("saved ")?;
            during += self.echo.heard().lines - before;
            let deadline = now() + Duration::from_secs(60);
            let after = self.echo.heard().lines;
            while self.echo.heard().lines < after + 20 {
                ensure!(now() < deadline, "the connection is silent after the save");
                thread::sleep(Duration::from_millis(10));
            }
        }
        s.ask("")?;
        let said = s.script("touch /tmp/stop; until [ -s /tmp/said ]; do sleep 0.1; done; cat /tmp/said")?;
        let heard = self.echo.heard();
        ensure!(heard.connections == 1, "{} connections instead of one", heard.connections);
        ensure!(said == format!("all {}", heard.lines), "the guest says {said:?}, {} came", heard.lines);
        Ok(format!("3 saves, {} lines, {during} of them during the saves", heard.lines))
    }
}

/// The host's own addresses, as far as `ip` knows them.
fn own_addresses() -> Vec<String> {
    let text = crate::run::output(Command::new("hostname").arg("-I")).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// The first moment at which the guest's HTTP server answers.
fn answered(address: SocketAddr, deadline: Instant) -> Result<Instant> {
    loop {
        match get(address, "/") {
            Ok(body) if body == b"hello\n" => return Ok(now()),
            _ => ensure!(now() < deadline, "no answer through the forward"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn in_time(took: Duration) -> Result<String> {
    ensure!(took <= AFTER_RESTORE, "only {:.2} s after the start of the process", took.as_secs_f64());
    Ok(format!("{:.2} s after the start of the process", took.as_secs_f64()))
}

fn rate(bytes: usize, took: Duration) -> String {
    format!("{} MB at {:.1} MB/s", bytes / 1_000_000, bytes as f64 / 1e6 / took.as_secs_f64())
}

pub(super) fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The guest's resolver says about names what the host's says.
fn names(s: &mut Session<'_>) -> Result<String> {
    let mut expected = Vec::new();
    for name in NAMES {
        let found = (*name, 80).to_socket_addrs().into_iter().flatten();
        let mut addrs: Vec<_> = found.filter(SocketAddr::is_ipv4).map(|addr| addr.ip().to_string()).collect();
        addrs.sort_unstable();
        addrs.dedup();
        if !addrs.is_empty() {
            expected.push((*name, addrs));
        }
    }
    ensure!(!expected.is_empty(), "this host resolves none of {NAMES:?}");
    for (name, addrs) in &expected {
        let text = s.script(&format!("getent ahostsv4 {name} | cut -d' ' -f1 | sort -u"))?;
        // Servers that take turns give each asker something else: then there is no telling.
        ensure!(
            addrs.iter().any(|addr| text.lines().any(|line| line == addr)) || addrs.len() > 2,
            "{name} is {addrs:?} here and {text:?} there"
        );
    }
    let own = s.script(
        "getent ahostsv4 host.env86.internal | head -n 1; getent hosts nobody.env86.internal; true",
    )?;
    ensure!(own.starts_with(HOST) && own.lines().count() == 1, "{own:?}");
    Ok(expected.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" "))
}

fn ping(s: &mut Session<'_>) -> Result<String> {
    let text = s.script("ping -c 20 -i 0.2 -W 5 gateway.env86.internal | tail -n 2")?;
    ensure!(text.contains("20 received, 0% packet loss"), "{text:?}");
    let times = text.rsplit("= ").next().unwrap_or_default().trim();
    Ok(format!("20 of 20, min/avg/max/mdev {times}"))
}
