//! What a network is started with, and how people write it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::policy::Policy;

/// What a [`super::UserNet`] is started with.
#[derive(Clone, Debug, Default)]
pub struct NetConfig {
    /// Address of the VM's card: it gets 192.168.127.2, and forwards lead to it. Other cards on the same cable
    /// get other addresses.
    pub guest_mac: [u8; 6],
    /// Name under which the guest finds itself, beside `guest.env86.internal`.
    pub guest_name: Option<String>,
    /// Ports of the host that lead to the guest.
    pub forwards: Vec<Forward>,
    /// The guest has a past: it was restored. It is told who the gateway is and asked where it is, without waiting
    /// for it to speak.
    pub announce: bool,
    /// Where the guest may connect to.
    pub policy: Policy,
    /// The guest may connect to all ports of the host's loopback address, as `host.env86.internal`
    /// (192.168.127.254). Single ports can be opened with [`Policy::allow`] instead.
    pub host_access: bool,
    /// File that gets every frame, in the format of pcap.
    pub pcap: Option<PathBuf>,
    /// How bad the line is made.
    pub impairments: Impairments,
    /// Most bytes of a connection that are on their way to the guest, none: as many as it has room for. For cards
    /// that drop what they have no room for.
    pub ahead: Option<usize>,
    /// DNS servers to ask instead of those in the host's `/etc/resolv.conf`.
    pub dns_servers: Option<Vec<SocketAddr>>,
}

/// Transport protocol of a forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port of the host that leads to a port of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Protocol.
    pub protocol: Protocol,
    /// Where the host listens; port 0 lets the host choose.
    pub host: SocketAddr,
    /// Port in the guest.
    pub guest: u16,
}

/// A forward that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Cannot forward a port: {text}: {why}")]
pub struct ForwardError {
    /// What was written.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Forward {
    /// Reads `[ADDR:]HOST:GUEST[/tcp|/udp]`. Without an address the host's loopback address is meant; `*` and
    /// `0.0.0.0` are all IPv4 addresses, IPv6 addresses stand in brackets.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse(text: &str) -> Result<Self, ForwardError> {
        let wrong = |why| ForwardError { text: text.to_owned(), why };
        const FORM: &str = "expected [ADDRESS:]HOST-PORT:GUEST-PORT[/udp]";
        let (ports, protocol) = match text.rsplit_once('/') {
            None => (text, Protocol::Tcp),
            Some((ports, "tcp")) => (ports, Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some(_) => return Err(wrong("the protocol is tcp or udp")),
        };
        let (rest, guest) = ports.rsplit_once(':').ok_or_else(|| wrong(FORM))?;
        let (addr, host) = match rest.rsplit_once(':') {
            None => (None, rest),
            Some((addr, host)) => (Some(addr), host),
        };
        let port = |text: &str| -> Result<u16, ForwardError> {
            if text.is_empty() {
                return Err(wrong(FORM));
            }
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            match text.parse() {
                Ok(port) if digits => Ok(port),
                _ => Err(wrong("a port is a number up to 65535")),
            }
        };
        let (host, guest) = (port(host)?, port(guest)?);
        if guest == 0 {
            return Err(wrong("the guest's port cannot be 0"));
        }
        let addr = match addr {
            None | Some("localhost") => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Some("*") => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Some(text) => {
                let bracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
                let addr = match bracketed {
                    Some(text) => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
                    None => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
                };
                addr.ok_or_else(|| wrong("the address is an IPv4 address, or an IPv6 address in brackets"))?
            }
        };
        Ok(Self { protocol, host: SocketAddr::new(addr, host), guest })
    }
}

impl std::fmt::Display for Forward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.guest, self.protocol)
    }
}

/// How bad a line is, in each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Impairments {
    /// Part of the frames that get lost, 0 to 1.
    pub loss: f64,
    /// Time every frame takes.
    pub delay: Duration,
    /// Bytes per second that get through.
    pub rate: Option<u64>,
    /// Seed of the random numbers that choose what gets lost.
    pub seed: u64,
}

impl Impairments {
    /// The line is as good as can be.
    pub fn is_none(&self) -> bool {
        self.loss <= 0.0 && self.delay.is_zero() && self.rate.is_none()
    }
}

/// A property of the line that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Cannot make the network worse: {text}: expected {form}")]
pub struct ImpairmentError {
    /// What was written.
    pub text: String,
    /// What is understood.
    pub form: &'static str,
}

/// Splits a number from its unit.
fn number(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    let number = number.parse::<f64>().ok().filter(|n| n.is_finite())?;
    Some((number, unit))
}

/// Reads a loss: `5%` or `0.05`.
///
/// # Errors
/// It is no part of a whole.
pub fn parse_loss(text: &str) -> Result<f64, ImpairmentError> {
    let part = match number(text) {
        Some((percent, "%")) => Some(percent / 100.0),
        Some((part, "")) => Some(part),
        _ => None,
    };
    part.filter(|part| (0.0..=1.0).contains(part))
        .ok_or_else(|| ImpairmentError { text: text.to_owned(), form: "a loss such as 5% or 0.05" })
}

/// Reads a delay of up to a minute: `50ms`, `1.5s`, or milliseconds without a unit.
///
/// # Errors
/// It is no such time.
pub fn parse_delay(text: &str) -> Result<Duration, ImpairmentError> {
    let ms = match number(text) {
        Some((ms, "" | "ms")) => Some(ms),
        Some((s, "s")) => Some(s * 1000.0),
        Some((us, "us")) => Some(us / 1000.0),
        _ => None,
    };
    ms.filter(|ms| *ms <= 60_000.0)
        .map(|ms| Duration::from_secs_f64(ms / 1000.0))
        .ok_or_else(|| ImpairmentError { text: text.to_owned(), form: "a delay of up to 60s, such as 50ms" })
}

/// Reads a rate as `tc` writes it: `10mbit`, `512kbit`, or bits per second without a unit; `kbps`, `mbps` are
/// bytes. Returns bytes per second.
///
/// # Errors
/// It is no such rate, or less than one byte per second.
pub fn parse_rate(text: &str) -> Result<u64, ImpairmentError> {
    let lower = text.to_ascii_lowercase();
    let bytes = match number(&lower) {
        Some((bits, "" | "bit")) => Some(bits / 8.0),
        Some((bits, "k" | "kbit")) => Some(bits * 1e3 / 8.0),
        Some((bits, "m" | "mbit")) => Some(bits * 1e6 / 8.0),
        Some((bits, "g" | "gbit")) => Some(bits * 1e9 / 8.0),
        Some((bytes, "bps")) => Some(bytes),
        Some((bytes, "kbps")) => Some(bytes * 1e3),
        Some((bytes, "mbps")) => Some(bytes * 1e6),
        _ => None,
    };
    bytes
        .filter(|bytes| (1.0..=1e12).contains(bytes))
        .map(|bytes| bytes as u64)
        .ok_or_else(|| ImpairmentError { text: text.to_owned(), form: "a rate such as 10mbit or 512kbit" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(text: &str) -> Option<(Protocol, String, u16)> {
        let Forward { protocol, host, guest } = Forward::parse(text).ok()?;
        Some((protocol, host.to_string(), guest))
    }

    #[test]
    fn forward_forms_are_understood() {
        use Protocol::{Tcp, Udp};
        for (text, protocol, host, guest) in [
            ("8080:80", Tcp, "127.0.0.1:8080", 80),
            ("8080:80/tcp", Tcp, "127.0.0.1:8080", 80),
            ("5353:53/udp", Udp, "127.0.0.1:5353", 53),
            ("0:22", Tcp, "127.0.0.1:0", 22),
            ("0.0.0.0:8080:80", Tcp, "0.0.0.0:8080", 80),
            ("*:8080:80", Tcp, "0.0.0.0:8080", 80),
            ("localhost:8080:80", Tcp, "127.0.0.1:8080", 80),
            ("[::1]:8080:80/udp", Udp, "[::1]:8080", 80),
            ("192.168.1.7:1:65535", Tcp, "192.168.1.7:1", 65535),
        ] {
            assert_eq!(forward(text), Some((protocol, host.to_owned(), guest)), "{text}");
        }
    }

    #[test]
    fn forward_mistakes_are_named() {
        for text in [
            "",
            ":",
            "80",
            ":80",
            "80:",
            "a:80",
            "80:b",
            "8080:0",
            "65536:80",
            "80:65536",
            "-1:80",
            "+1:80",
            "8080:80/sctp",
            "::1:8080:80",
            "host:8080:80",
            "[1.2.3.4]:8080:80",
            "1.2.3:8080:80",
            "8080:80/",
        ] {
            let error = Forward::parse(text).expect_err(text).to_string();
            assert!(error.contains(&format!(": {text}: ")), "{error}");
        }
    }

    #[test]
    fn impairments_are_read_with_their_units() {
        assert_eq!(parse_loss("5%"), Ok(0.05));
        assert_eq!(parse_loss("0.5"), Ok(0.5));
        assert_eq!(parse_loss("100%"), Ok(1.0));
        assert_eq!(parse_delay("50"), Ok(Duration::from_millis(50)));
        assert_eq!(parse_delay("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_delay("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(parse_rate("10mbit"), Ok(1_250_000));
        assert_eq!(parse_rate("512kbit"), Ok(64_000));
        assert_eq!(parse_rate("8000"), Ok(1000));
        assert_eq!(parse_rate("2mbps"), Ok(2_000_000));
        for text in ["", "x", "-1", "101%", "1.1", "nan", "inf", "5 %", "%"] {
            assert!(parse_loss(text).is_err(), "{text}");
        }
        for text in ["", "s", "61s", "1h", "-1ms", "1.2.3ms"] {
            assert!(parse_delay(text).is_err(), "{text}");
        }
        for text in ["", "0", "fast", "1tbit", "7", "-8"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }
}
