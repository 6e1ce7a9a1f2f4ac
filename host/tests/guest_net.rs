//! The network of a Linux guest, over each network card: servers of this test on the host's loopback address, and
//! servers in the guest.
//!
//! The images come from `cargo xtask test`, which names them in `ENV86_FIXTURES`.
#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use emu_devices::p9::{Server as FileServer, fs::Time};
use host::config::{BootConfig, BootOptions};
use host::fs::overlay::OverlayOptions;
use host::image::{Image, tree};
use host::net::{CardEnd, NetConfig, UserNet};
use host::progress::Progress;
use host::snapshot::locate::{self, Opened};
use host::snapshot::output::SparseFile;
use host::vm::{self, Boot, SerialSink, Start, StopReason, Vm, VmSpec};
use sha2::{Digest, Sha256};

fn fixture(name: &str) -> PathBuf {
    let fixtures =
        std::env::var_os("ENV86_FIXTURES").expect("run by `cargo xtask test`, which sets ENV86_FIXTURES");
    PathBuf::from(fixtures).join(name)
}

/// A network card: flags that choose it, and the image whose guest has it.
#[derive(Clone, Copy, Debug)]
enum Card {
    /// In a snapshot of real v86.
    Ne2k,
    Virtio,
}

const CARDS: [Card; 2] = [Card::Ne2k, Card::Virtio];

/// `env86 run FLAGS IMAGE -- sh -c SCRIPT`.
fn command(card: Card, flags: &[&str], script: &str) -> Command {
    let mut env86 = Command::new(env!("CARGO_BIN_EXE_env86"));
    // What hangs, fails.
    env86.args(["run", "--timeout", "500"]).args(flags);
    match card {
        Card::Ne2k => env86.arg(fixture("mini-state")),
        Card::Virtio => env86.args(["--cold", "--nic", "virtio"]).arg(fixture("mini")),
    };
    env86.args(["--", "sh", "-c", script]);
    env86
}

/// What a script prints in a guest.
fn guest(card: Card, flags: &[&str], script: &str) -> String {
    let Output { stdout, stderr, status } =
        command(card, flags, script).stdin(Stdio::null()).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert_eq!(status.code(), Some(0), "{card:?}: {stdout}{stderr}");
    stdout.into_owned()
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes that do not repeat soon.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A server on the host's loopback address with a thread for each connection.
fn server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    listen(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), serve)
}

fn listen(listener: TcpListener, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, serve) = (stream.unwrap(), serve.clone());
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// An HTTP server that gives `content` for `/big` and `ok` for anything else.
fn http_server(content: Vec<u8>) -> SocketAddr {
    http_server_at(Ipv4Addr::LOCALHOST.into(), content).unwrap()
}

/// The same on another address, if this host has it.
fn http_server_at(address: IpAddr, content: Vec<u8>) -> Option<SocketAddr> {
    let listener = TcpListener::bind((address, 0)).ok()?;
    Some(listen(listener, move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let (mut request, mut line) = (String::new(), String::new());
        let _ = reader.read_line(&mut request);
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                break;
            }
        }
        let body = if request.starts_with("GET /big") { &content[..] } else { b"ok\n" };
        let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    }))
}

/// A server that answers with the hash of what it got when the client has sent everything.
fn hash_server() -> SocketAddr {
    server(|mut stream| {
        let mut body = Vec::new();
        let answer = match stream.read_to_end(&mut body) {
            Ok(_) => hash(&body),
            Err(error) => error.to_string(),
        };
        let _ = stream.write_all(answer.as_bytes());
    })
}

#[test]
fn guest_has_an_address_a_gateway_and_names() {
    for card in CARDS {
        let script = "ip -4 addr show; ping -c 2 -W 5 192.168.127.1 | grep received
            cat /etc/resolv.conf; nslookup host.env86.internal; nslookup gateway.env86.internal; true";
        let output = guest(card, &["--net"], script);
        for expected in
            ["inet 192.168.127.2/24", "2 packets received", "nameserver 192.168.127.1", "192.168.127.254"]
        {
            assert!(output.contains(expected), "{card:?}: {expected}: {output}");
        }
    }
}

#[test]
fn large_transfers_arrive_unchanged_in_both_directions() {
    let content = noise(20 << 20);
    let (down, up) = (http_server(content.clone()), hash_server());
    for card in CARDS {
        let script = format!(
            "cd /tmp; wget -q -O big http://host.env86.internal:{}/big; sha256sum <big
             nc host.env86.internal {} <big",
            down.port(),
            up.port()
        );
        let output = guest(card, &["--net", "--host-access"], &script);
        let hash = hash(&content);
        let hashes: Vec<&str> =
            output.lines().map(|line| line.split_whitespace().next().unwrap_or("")).collect();
        assert_eq!(hashes, [hash.as_str(), hash.as_str()], "{card:?}");
    }
}

#[test]
fn short_and_parallel_connections_all_succeed() {
    let server = http_server(Vec::new());
    let allowed = format!("host.env86.internal:{}", server.port());
    for card in CARDS {
        let script = format!(
            "get() {{ wget -q -O - http://{allowed}/ || echo failed; }}
             for n in $(seq 200); do get; done | sort | uniq -c
             for n in $(seq 50); do get & done >/tmp/parallel; wait; sort /tmp/parallel | uniq -c"
        );
        let output = guest(card, &["--net", "--allow", &allowed], &script);
        let counts: Vec<String> =
            output.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(counts, ["200 ok", "50 ok"], "{card:?}");
    }
}

#[test]
fn guest_makes_itself_an_ipv6_address_and_reaches_what_is_allowed() {
    // A host without IPv6 has no ::1 either: then there is the gateway.
    let server = http_server_at(Ipv6Addr::LOCALHOST.into(), Vec::new());
    let denied = http_server_at(Ipv6Addr::LOCALHOST.into(), Vec::new()).or(server);
    for card in CARDS {
        // DHCP clients may have flushed the addresses that the link began with.
        let mut script = "ip link set eth0 down; ip link set eth0 up
             until ip -6 addr show dev eth0 | grep -v tentative | grep -q 'inet6 fd5a:94ef:e40c:'; do
                 sleep 0.1; done; ping6 -c 2 -W 5 fd5a:94ef:e40c::1 | grep -o '2 packets received'"
            .to_owned();
        let mut expected = "2 packets received\n".to_owned();
        let mut flags = vec!["--net".to_owned()];
        if let (Some(server), Some(denied)) = (server, denied) {
            flags.extend(["--allow".to_owned(), format!("[::1]:{}", server.port())]);
            for port in [server.port(), denied.port()] {
                script += &format!(
                    "; wget -q -O - http://[fd5a:94ef:e40c::fe]:{port}/ 2>/dev/null || echo refused"
                );
            }
            expected += "ok\nrefused\n";
        }
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        assert_eq!(guest(card, &flags, &script), expected, "{card:?}");
    }
}

#[test]
fn host_is_out_of_reach_unless_allowed() {
    let server = http_server(Vec::new());
    let script = format!(
        "for host in host.env86.internal 127.0.0.1 192.168.127.1; do
             wget -q -O - http://$host:{}/ 2>/dev/null || echo refused; done",
        server.port()
    );
    assert_eq!(guest(Card::Ne2k, &["--net"], &script), "refused\nrefused\nrefused\n");
}

/// A guest that runs until its input ends, and the host's port that leads to its port 80.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(card: Card) -> Self {
        let script = "mkdir -p /tmp/www; echo hello >/tmp/www/index.html; httpd -p 80 -h /tmp/www
            echo ready; cat >/dev/null";
        let mut child = command(card, &["-i", "--json", "--net", "-p", "0:80"], script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut messages = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = loop {
            let line = messages.next().expect("a line about the forward").unwrap();
            let message: serde_json::Value = serde_json::from_str(&line).unwrap();
            if message["event"] == "forward" {
                break message["host"].as_str().unwrap().parse().unwrap();
            }
        };
        // What else it says must not fill the pipe.
        thread::spawn(move || messages.for_each(drop));
        let mut first = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
        assert_eq!(first, "ready\n");
        Self { child, address }
    }

    fn get(&self) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

#[test]
fn forwarded_port_serves_many_requests_without_an_error() {
    for card in CARDS {
        let server = Server::start(card);
        thread::scope(|scope| {
            for _ in 0..5 {
                scope.spawn(|| {
                    for n in 0..100 {
                        let answer = server.get().unwrap();
                        assert!(
                            answer.starts_with("HTTP/1.") && answer.ends_with("hello\n"),
                            "{n}: {answer}"
                        );
                    }
                });
            }
        });
    }
}

/// Copies an image; its files are links, because nothing writes to them.
fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").args(["-a", "--link"]).arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

#[test]
fn saved_guest_goes_on_with_its_address_in_a_new_process() {
    let server = http_server(Vec::new());
    let directory = tempfile::tempdir_in(fixture(".")).unwrap();
    for (card, flags) in [("ne2k", ["--nic", "ne2k"]), ("virtio", ["--nic", "virtio"])] {
        let image = directory.path().join(card);
        copy(&fixture("mini"), &image);
        let mut boot = Command::new(env!("CARGO_BIN_EXE_env86"));
        boot.args([
            "boot",
            "--net",
            "--save",
            "--timeout",
            "500",
            "--exit-on",
            "lease of 192.168.127.2 obtained",
        ]);
        let mut child = boot
            .args(flags)
            .arg(&image)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let driver = if card == "virtio" { "virtio_net" } else { "ne2k-pci" };
        let script = format!("modprobe {driver}; ip link set eth0 up; udhcpc -q -n -i eth0 2>&1\n");
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{card}");
        drop(stdin);

        let mut env86 = Command::new(env!("CARGO_BIN_EXE_env86"));
        env86
            .args(["run", "--timeout", "500", "--net", "--host-access"])
            .arg(&image)
            .args(["--", "sh", "-c"]);
        let script = format!(
            "wget -q -O - http://192.168.127.254:{}/; ip -4 addr show eth0 | grep -o '192.168.127.2/'",
            server.port()
        );
        let output = env86.arg(script).stdin(Stdio::null()).output().unwrap();
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(stdout, "ok\n192.168.127.2/\n", "{card}: {stderr}");
    }
}

struct Silent;

impl SerialSink for Silent {
    fn write(&mut self, _: u8) {}
}

/// The machine of a snapshot, which has not run yet, with a cable of its own or this one.
fn restore(image: &Image, opened: Opened, cable: Option<CardEnd>) -> Vm {
    let (config, _) = BootConfig::resolve(&BootOptions::default(), image, true).unwrap();
    let options = OverlayOptions::new(Box::new(Time::default), Box::new(|text| panic!("{text}")));
    let files = tree::open_empty(image, options).unwrap();
    let reboot = || -> Result<Boot, String> { Err("nothing to boot".to_owned()) };
    vm::build(VmSpec {
        memory_size: config.memory_size,
        preserve_mac: true,
        network_card: config.network_card,
        network: true,
        cable,
        vga_memory_size: config.vga_memory_size,
        acpi: config.acpi,
        uarts: config.uarts,
        cpuid_level: config.cpuid_level,
        start: Start::Snapshot { opened: Box::new(opened), reboot: Box::new(reboot) },
        filesystem: Some(Box::new(FileServer::new(Box::new(files)))),
        shares: None,
        clock: config.clock,
        engine: config.engine,
        translator: config.translator,
        console: Box::new(Silent),
    })
    .unwrap()
}

#[test]
fn open_connection_survives_a_restore_in_the_same_process() {
    const LINES: u64 = 300_000;
    let (begun, has_begun) = std::sync::mpsc::channel();
    let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
    let (end, ended) = std::sync::mpsc::channel();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    // Reads numbers, and stops for a while in the middle: then the guest waits for it.
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let mut expected = 1;
        for line in &mut lines {
            assert_eq!(line.unwrap().parse::<u64>().unwrap(), expected);
            if expected == 500 {
                begun.send(()).unwrap();
                may_go_on.recv().unwrap();
            }
            expected += 1;
        }
        stream.write_all(b"goodbye\n").unwrap();
        drop((stream, lines));
        // What the guest has got comes back on another connection.
        let (stream, _) = listener.accept().unwrap();
        let said = BufReader::new(stream).lines().next().unwrap().unwrap();
        end.send((expected - 1, said)).unwrap();
    });

    let image = Image::open(&fixture("mini-state"), &Progress::hidden()).unwrap();
    let opened = locate::find(&image, None).unwrap().unwrap().open(&image).unwrap();
    let mut first = restore(&image, opened, None);
    let line = first.network.take().unwrap();
    let config = NetConfig { guest_mac: line.mac, host_access: true, ..NetConfig::default() };
    let net = UserNet::start(config, line.end).unwrap();
    let server_name = format!("192.168.127.254 {port}");
    let script = format!(
        "ifconfig eth0 192.168.127.2; seq {LINES} | nc {server_name} >/tmp/said; nc {server_name} </tmp/said\n"
    );
    assert!(first.guest.type_bytes(script.as_bytes()));
    let guest = first.guest.clone();
    let running = thread::spawn(move || {
        let mut first = first;
        assert_eq!(first.runner.run(), StopReason::Paused);
        first
    });
    has_begun.recv_timeout(Duration::from_secs(300)).unwrap();
    guest.pause();
    let mut first = running.join().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state");
    let mut out = SparseFile::new(std::fs::File::create(&file).unwrap());
    first.runner.capture().write(&mut out, true).unwrap();
    out.finish().unwrap();
    drop(first);

    let mut second = restore(&image, locate::open_file(&file).unwrap(), Some(line.card));
    assert!(second.network.is_none(), "it has the network of the first one");
    let guest = second.guest.clone();
    let running = thread::spawn(move || second.runner.run());
    go_on.send(()).unwrap();
    let result = ended.recv_timeout(Duration::from_secs(300)).unwrap();
    assert_eq!(result, (LINES, "goodbye".to_owned()));
    guest.stop();
    running.join().unwrap();
    server.join().unwrap();
    assert_eq!(net.stats().tcp_opened, 2);
}
