//! Servers on the host's loopback address that guests talk to, and clients that talk to guests' servers.

use crate::fixtures::hex;
use crate::run::{logged, now, tool};
use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A peer that says nothing for so long hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// Largest head of a request that is read.
const HEAD: u64 = 16 << 10;

/// SHA-256 in hexadecimal digits, as `sha256sum` prints it.
pub fn hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A port of the loopback address that was free a moment ago.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A thread for each connection, for as long as the process lives.
pub fn serve(address: (Ipv4Addr, u16), serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Result<u16> {
    let listener = TcpListener::bind(address)?;
    let port = listener.local_addr()?.port();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            // One that gets no thread is closed: the client sees an error, and the bar fails.
            let _ = thread::Builder::new().stack_size(256 << 10).spawn(move || serve(stream));
        }
    });
    Ok(port)
}

/// An HTTP server:
///
/// | request | answer |
/// | --- | --- |
/// | `GET /big` | the content |
/// | `GET /small/…` | `ok` |
/// | `GET /together/N` | `ok`, when N such requests wait for it at the same time |
/// | `GET /file/NAME` | a text from [`Http::publish`] |
/// | `PUT /…` | the hash of what was sent |
#[derive(Clone)]
pub struct Http {
    /// Where it listens.
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    content: Arc<Vec<u8>>,
    files: Mutex<HashMap<String, Vec<u8>>>,
    connections: AtomicUsize,
    /// Requests that wait for each other, and whether they have met.
    waiting: Mutex<(usize, bool)>,
    met: Condvar,
}

impl Http {
    /// Starts it.
    pub fn start(content: Arc<Vec<u8>>) -> Result<Self> {
        let shared = Arc::new(Shared {
            content,
            files: Mutex::default(),
            connections: AtomicUsize::new(0),
            waiting: Mutex::default(),
            met: Condvar::new(),
        });
        let server = shared.clone();
        let port = serve((Ipv4Addr::LOCALHOST, 0), move |stream| {
            server.connections.fetch_add(1, Ordering::Relaxed);
            // The client sees what goes wrong.
            let _ = server.answer(stream);
        })?;
        Ok(Self { port, shared })
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Makes a text available as `/file/NAME`.
    pub fn publish(&self, name: &str, content: impl Into<Vec<u8>>) {
        lock(&self.shared.files).insert(format!("/file/{name}"), content.into());
    }

    /// Lets the next requests for `/together` wait for each other.
    pub fn part(&self) {
        *lock(&self.shared.waiting) = (0, false);
    }
}

impl Shared {
    fn answer(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut reader = BufReader::new(stream.try_clone()?).take(HEAD);
        let mut request = String::new();
        reader.read_line(&mut request)?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 || line == "\r\n" {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut words = request.split(' ');
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let (text, file);
        let body: &[u8] = match path {
            _ if method == "PUT" => {
                reader.set_limit(length);
                let mut hasher = Sha256::new();
                let received = io::copy(&mut reader, &mut hasher)?;
                text = format!("{} {received}\n", hex(&hasher.finalize()));
                text.as_bytes()
            }
            "/big" => &self.content,
            _ if path.starts_with("/small/") => b"ok\n",
            _ if path.starts_with("/together/") => {
                let count = path.trim_start_matches("/together/").split('?').next().unwrap_or("");
                let count = count.parse().unwrap_or(usize::MAX);
                if self.wait_for_others(count) { b"ok\n" } else { b"alone\n" }
            }
            _ => {
                let Some(found) = lock(&self.files).get(path).cloned() else {
                    return stream.write_all(b"HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n");
                };
                file = found;
                &file
            }
        };
        write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len())?;
        stream.write_all(body)
    }

    fn wait_for_others(&self, count: usize) -> bool {
        let mut waiting = lock(&self.waiting);
        waiting.0 += 1;
        if waiting.0 >= count {
            waiting.1 = true;
            self.met.notify_all();
        }
        let result = self.met.wait_timeout_while(waiting, PATIENCE, |(_, met)| !*met);
        let (waiting, _) = result.unwrap_or_else(PoisonError::into_inner);
        waiting.1
    }
}

/// `openssl s_server` with a certificate of its own for the host's name in the guest.
pub struct Tls {
    /// Where it listens.
    pub port: u16,
    /// The certificate, which is its own authority.
    pub certificate: String,
    child: Child,
    dir: PathBuf,
}

impl Tls {
    /// Starts it; its files go into `dir`.
    pub fn start(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let (key, cert) = (dir.join("key.pem"), dir.join("cert.pem"));
        let mut request = tool("openssl");
        request.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"]);
        request.args(["-subj", "/CN=host.env86.internal"]);
        request.args(["-addext", "subjectAltName=DNS:host.env86.internal"]);
        logged(request.arg("-keyout").arg(&key).arg("-out").arg(&cert), &dir.join("openssl.log"))?;
        let port = free_port()?;
        let mut server = tool("openssl");
        server.args(["s_server", "-www", "-quiet", "-accept"]).arg(format!("127.0.0.1:{port}"));
        server.arg("-key").arg(&key).arg("-cert").arg(&cert);
        server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = server.spawn().context("cannot start openssl s_server")?;
        let certificate = std::fs::read_to_string(&cert)?;
        let this = Self { port, certificate, child, dir: dir.to_owned() };
        let deadline = now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            ensure!(now() < deadline, "openssl s_server does not listen");
            thread::sleep(Duration::from_millis(50));
        }
        Ok(this)
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// One GET request on a connection of its own. Returns the body.
pub fn get(address: SocketAddr, path: &str) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer.starts_with(b"HTTP/1."), "no HTTP answer but {} bytes", answer.len());
    ensure!(answer.get(9..12) == Some(b"200"), "status {}", String::from_utf8_lossy(&answer[9..12]));
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").context("an answer without an end")?;
    Ok(answer.split_off(end + 4))
}

/// What came of many requests.
pub struct Load {
    /// Answers as expected.
    pub good: usize,
    /// The others, with the first reason.
    pub bad: usize,
    /// Why the first bad one is bad.
    pub reason: Option<String>,
    /// How long it took.
    pub time: Duration,
}

/// Makes `count` requests from `clients` threads, each on a connection of its own.
pub fn load(address: SocketAddr, path: &str, expected: &[u8], count: usize, clients: usize) -> Load {
    let start = now();
    let (next, good, reason) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(None));
    thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                while next.fetch_add(1, Ordering::Relaxed) < count {
                    match get(address, path) {
                        Ok(body) if body == expected => {
                            good.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(body) => {
                            let text = format!("answer {:?}", String::from_utf8_lossy(&body));
                            lock(&reason).get_or_insert(text);
                        }
                        Err(error) => drop(lock(&reason).get_or_insert(format!("{error:#}"))),
                    }
                }
            });
        }
    });
    let good = good.into_inner();
    let reason = reason.into_inner().unwrap_or_else(PoisonError::into_inner);
    Load { good, bad: count - good, reason, time: now() - start }
}

/// A server that sends every line back, and remembers when it heard what.
pub struct Echo {
    /// Where it listens.
    pub port: u16,
    heard: Arc<Mutex<Heard>>,
}

/// What an [`Echo`] has heard.
#[derive(Clone, Copy, Default)]
pub struct Heard {
    /// Connections so far.
    pub connections: usize,
    /// Lines so far.
    pub lines: usize,
    /// When the first connection after [`Echo::forget`] came.
    pub first: Option<Instant>,
}

impl Echo {
    /// Starts it.
    pub fn start() -> Result<Self> {
        let heard = Arc::new(Mutex::new(Heard::default()));
        let server = heard.clone();
        let port = serve((Ipv4Addr::LOCALHOST, 0), move |stream| {
            let mut all = lock(&server);
            all.connections += 1;
            all.first.get_or_insert_with(now);
            drop(all);
            let _ = echo(stream, &server);
        })?;
        Ok(Self { port, heard })
    }

    /// What it has heard.
    pub fn heard(&self) -> Heard {
        *lock(&self.heard)
    }

    /// Begins again.
    pub fn forget(&self) {
        *lock(&self.heard) = Heard::default();
    }
}

fn echo(mut stream: TcpStream, heard: &Mutex<Heard>) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?).take(u64::MAX);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        lock(heard).lines += 1;
        stream.write_all(&line)?;
        line.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_server_answers_as_its_table_says() {
        let server = Http::start(Arc::new(crate::bars::noise(1, 100_000))).unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port));
        server.publish("x", "text");
        assert_eq!(get(address, "/big").unwrap(), crate::bars::noise(1, 100_000));
        assert_eq!(get(address, "/file/x").unwrap(), b"text");
        assert!(get(address, "/file/y").is_err());
        let result = load(address, "/together/5?x", b"ok\n", 5, 5);
        assert_eq!((result.good, result.bad), (5, 0));
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"PUT /x HTTP/1.1\r\ncontent-Length: 3\r\n\r\nabc").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(&format!("{} 3\n", hash(b"abc"))), "{answer}");
        assert_eq!(server.connections(), 9);
    }

    #[test]
    fn load_counts_what_is_not_as_expected() {
        let server = Http::start(Arc::new(Vec::new())).unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port));
        let result = load(address, "/small/1", b"something else", 7, 2);
        assert_eq!((result.good, result.bad), (0, 7));
        assert!(result.reason.unwrap().contains("ok"));
    }

    #[test]
    fn echo_sends_lines_back_and_counts() {
        let server = Echo::start().unwrap();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)).unwrap();
        stream.write_all(b"a\nb\n").unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"a\nb\n");
        let heard = server.heard();
        assert_eq!((heard.connections, heard.lines, heard.first.is_some()), (1, 2, true));
        server.forget();
        assert!(server.heard().first.is_none());
    }
}
