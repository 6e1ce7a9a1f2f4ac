//! The network of a Linux guest, over each network card: servers of this test on the host's loopback address, and
//! servers in the guest.
//!
//! The images come from `cargo xtask test`, which names them in `ENV86_FIXTURES`.
#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

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
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
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
    server(move |mut stream| {
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
    })
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
