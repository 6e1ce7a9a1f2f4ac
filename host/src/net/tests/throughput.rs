//! Many bytes through the network's own thread, from and to a guest on another one.

use std::io::{Read, Write};

use super::*;
use crate::net::{HOST, UserNet};

/// Bytes in either direction.
const BYTES: usize = 32 << 20;

/// Runs a guest against a server; `step` says when it is done. Returns the time it took.
fn run(addr: SocketAddr, mut step: impl FnMut(&mut Guest, SocketHandle) -> bool) -> Duration {
    let (tell, told) = std::sync::mpsc::channel();
    let tell = Mutex::new(tell);
    let (card, net) = cable(Arc::new(move || {
        let _ = tell.lock().unwrap().send(());
    }))
    .unwrap();
    let config = NetConfig { guest_mac: VM, host_access: true, ..NetConfig::default() };
    let net = UserNet::start(config, net).unwrap();
    let mut guest = Guest::new(&card, VM, GUEST);
    let socket = guest.connect(SocketAddrV4::new(HOST, addr.port()));
    let start = clock::now();
    guest.poll();
    loop {
        told.recv_timeout(PATIENCE).unwrap();
        guest.poll();
        let done = step(&mut guest, socket);
        guest.poll();
        if done {
            break;
        }
    }
    let time = clock::now() - start;
    net.stop();
    time
}

fn report(what: &str, time: Duration) {
    println!("{what}: {:.0} MB/s", BYTES as f64 / 1e6 / time.as_secs_f64());
}

#[test]
fn throughput_download_is_complete() {
    let (addr, server) = server(1, |mut stream| {
        let block = pattern(1 << 20);
        for _ in 0..BYTES >> 20 {
            stream.write_all(&block).unwrap();
        }
    });
    let mut received = Vec::with_capacity(BYTES);
    let time = run(addr, |guest, socket| {
        guest.read(socket, &mut received);
        received.len() == BYTES
    });
    assert!(received.chunks(1 << 20).all(|block| block == pattern(1 << 20)));
    report("download", time);
    server.join().unwrap();
}

#[test]
fn throughput_upload_is_complete() {
    let (addr, server) = server(1, |mut stream| {
        let mut received = vec![0; BYTES];
        stream.read_exact(&mut received).unwrap();
        assert!(received.chunks(1 << 20).all(|block| block == pattern(1 << 20)));
        stream.write_all(b"!").unwrap();
    });
    let block = pattern(1 << 20);
    let (mut sent, mut answer) = (0, Vec::new());
    let time = run(addr, |guest, socket| {
        while sent < BYTES && guest.tcp(socket).can_send() {
            sent += guest.tcp(socket).send_slice(&block[sent % block.len()..]).unwrap();
        }
        guest.read(socket, &mut answer);
        answer == b"!"
    });
    report("upload", time);
    server.join().unwrap();
}
