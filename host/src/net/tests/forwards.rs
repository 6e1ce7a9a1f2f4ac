//! From the host to the guest.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::mpsc;

use smoltcp::socket::tcp::State;
use smoltcp::socket::udp;

use super::*;
use crate::limits::NET_UDP_FLOWS;
use crate::net::{Forward, NetError};

fn rig(forwards: &[&str]) -> Rig {
    let forwards = forwards.iter().map(|text| Forward::parse(text).unwrap()).collect();
    Rig::new(NetConfig { forwards, ..NetConfig::default() })
}

/// A client on a thread of its own; its result comes by the channel.
fn client<T: Send + 'static>(
    addr: SocketAddr,
    body: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> mpsc::Receiver<T> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || tell.send(body(TcpStream::connect(addr).unwrap())));
    told
}

/// Serves one connection in the guest: sends back what comes until the end, then ends.
fn serve(rig: &mut Rig, guest: &mut Guest, socket: SocketHandle) {
    let mut pending = Vec::new();
    rig.run(guest, |guest| {
        guest.read(socket, &mut pending);
        if guest.tcp(socket).can_send() && !pending.is_empty() {
            let sent = guest.tcp(socket).send_slice(&pending).unwrap();
            pending.drain(..sent);
        }
        if pending.is_empty() && guest.tcp(socket).state() == State::CloseWait {
            guest.tcp(socket).close();
        }
        guest.tcp(socket).state() == State::Closed
    });
}

fn half_close(mut stream: TcpStream) -> Vec<u8> {
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        writer.write_all(&pattern(300_000)).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    writing.join().unwrap();
    answer
}

#[test]
fn forward_port_0_is_chosen_and_serves_a_client_that_closes_first() {
    let mut rig = rig(&["0:80"]);
    let host = rig.forwards[0].host;
    assert!(host.ip().is_loopback() && host.port() != 0);
    let mut guest = Guest::new(&rig.card, VM, GUEST);
    let socket = guest.listen(80);
    let answer = client(host, half_close);
    serve(&mut rig, &mut guest, socket);
    assert!(answer.recv().unwrap() == pattern(300_000));
    rig.until(|rig| rig.stack.tcp.len() == 0);
}

#[test]
fn forward_finds_a_guest_at_another_address_that_has_never_spoken() {
    let mut rig = rig(&["0:80"]);
    let mut guest = Guest::new(&rig.card, VM, [192, 168, 127, 77].into());
    let socket = guest.listen(80);
    let answer = client(rig.forwards[0].host, half_close);
    serve(&mut rig, &mut guest, socket);
    assert!(answer.recv().unwrap() == pattern(300_000));
}

#[test]
fn forward_to_a_closed_port_is_reset() {
    let mut rig = rig(&["0:80"]);
    let mut guest = Guest::new(&rig.card, VM, GUEST);
    let result =
        client(rig.forwards[0].host, |mut stream| stream.read(&mut [0]).map_err(|error| error.kind()));
    let mut outcome = None;
    rig.run(&mut guest, |_| {
        outcome = outcome.or(result.try_recv().ok());
        outcome.is_some()
    });
    assert_eq!(outcome, Some(Err(io::ErrorKind::ConnectionReset)));
}

#[test]
fn forward_without_a_guest_waits_and_gives_up() {
    let mut rig = rig(&["0:80"]);
    let result =
        client(rig.forwards[0].host, |mut stream| stream.read(&mut [0]).map_err(|error| error.kind()));
    rig.until(|rig| rig.stack.tcp.len() == 1);
    let now = clock::now();
    let mut asked = rig.frames().len();
    for second in 1..29 {
        rig.stack.turn(now + Duration::from_secs(second));
        asked += rig.frames().len();
    }
    assert_eq!(rig.stack.tcp.len(), 1);
    assert!(asked > 252, "everybody was asked: {asked}");
    rig.stack.turn(now + Duration::from_secs(32));
    assert_eq!(rig.stack.tcp.len(), 0);
    assert_eq!(result.recv().unwrap(), Err(io::ErrorKind::ConnectionReset));
}

#[test]
fn forward_of_udp_answers_each_client() {
    let mut rig = rig(&["0:53/udp"]);
    let mut guest = Guest::new(&rig.card, VM, GUEST);
    let ring = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 16], vec![0; 4096]);
    let mut socket = udp::Socket::new(ring(), ring());
    socket.bind(53).unwrap();
    let socket = guest.sockets.add(socket);
    let clients: Vec<_> = (0..3).map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
    for client in &clients {
        client.connect(rig.forwards[0].host).unwrap();
        client.set_nonblocking(true).unwrap();
    }
    let mut answers = vec![None; 3];
    let mut sent = clock::now() - Duration::from_secs(1);
    rig.run(&mut guest, |guest| {
        // Datagrams may get lost while the guest is searched for.
        if clock::now() - sent > Duration::from_millis(300) {
            sent = clock::now();
            for (n, client) in clients.iter().enumerate() {
                client.send(&[n as u8; 9]).unwrap();
            }
        }
        let socket = guest.sockets.get_mut::<udp::Socket<'_>>(socket);
        while let Ok((payload, from)) = socket.recv() {
            let payload = [payload, b"!"].concat();
            assert_eq!(from.endpoint.addr, IpAddress::Ipv4(GATEWAY));
            socket.send_slice(&payload, from.endpoint).unwrap();
        }
        for (client, answer) in clients.iter().zip(&mut answers) {
            let mut buffer = [0; 100];
            if let Ok(len) = client.recv(&mut buffer) {
                *answer = Some(buffer[..len].to_vec());
            }
        }
        answers.iter().all(Option::is_some)
    });
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(answer.as_deref(), Some([vec![n as u8; 9], vec![b'!']].concat().as_slice()));
    }
    assert_eq!(rig.stack.forwards.clients(), 3);
    rig.stack.turn(clock::now() + Duration::from_secs(200));
    assert_eq!(rig.stack.forwards.clients(), 0);
}

#[test]
fn forward_of_udp_remembers_a_bounded_number_of_clients() {
    let mut rig = rig(&["0:53/udp"]);
    rig.send(&udp_frame(1, SocketAddrV4::new(GATEWAY, 9), b"here I am"));
    rig.turn_quickly();
    for n in 0..NET_UDP_FLOWS + 40 {
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        client.send_to(&[n as u8], rig.forwards[0].host).unwrap();
        if n % 20 == 19 {
            rig.turn();
            rig.frames();
        }
    }
    rig.turn();
    assert_eq!(rig.stack.forwards.clients(), NET_UDP_FLOWS);
}

#[test]
fn forward_to_a_port_that_is_taken_is_an_error() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let forwards = vec![Forward::parse(&format!("{port}:80")).unwrap()];
    let (_card, net) = cable(Arc::new(|| {})).unwrap();
    let error =
        crate::net::UserNet::start(NetConfig { forwards, ..NetConfig::default() }, net).err().unwrap();
    assert!(matches!(error, NetError::Listen { addr, .. } if addr.port() == port));
    assert_eq!(error.to_string(), format!("Cannot listen on 127.0.0.1:{port}/tcp"));
    let forwards = vec![Forward::parse("0:80").unwrap(); crate::limits::NET_FORWARDS + 1];
    let (_card, net) = cable(Arc::new(|| {})).unwrap();
    let error =
        crate::net::UserNet::start(NetConfig { forwards, ..NetConfig::default() }, net).err().unwrap();
    assert!(matches!(error, NetError::TooMany(_)));
}

#[test]
fn forward_finds_a_restored_guest_before_anybody_asks_for_it() {
    let mut rig = Rig::new(NetConfig { announce: true, ..NetConfig::default() });
    let asked: Vec<_> = rig.answers().iter().map(|frame| frame[38..42].to_vec()).collect();
    assert_eq!(asked, [GUEST.octets()], "at its usual address first");
    assert!(rig.answers().is_empty(), "not again at once");
    rig.stack.turn(clock::now() + Duration::from_millis(1100));
    assert_eq!(rig.frames().len(), 252, "then everywhere");
    rig.stack.turn(clock::now() + Duration::from_millis(9900));
    assert!(rig.frames().is_empty());

    let mut rig = Rig::new(NetConfig { announce: true, ..NetConfig::default() });
    assert_eq!(rig.answers().len(), 1);
    rig.send(&udp_frame(1, SocketAddrV4::new(GATEWAY, 9), b"here I am"));
    rig.answers();
    rig.stack.turn(clock::now() + Duration::from_millis(1100));
    assert!(rig.frames().is_empty(), "it is found");
}
