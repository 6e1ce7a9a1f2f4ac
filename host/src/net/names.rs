//! Names the gateway knows by itself: its own, the host's, the guest's, and those of the host's `/etc/hosts`.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::dns::{Question, Record, code, kind};
use super::{GATEWAY, HOST, HOST_NAMES, SUBNET};

/// The domain of this network.
const DOMAIN: &str = "env86.internal";
/// Names of the gateway.
const GATEWAY_NAMES: [&str; 2] = ["gateway.env86.internal", "gateway.docker.internal"];
/// Name of the guest, beside its own.
const GUEST_NAME: &str = "guest.env86.internal";

/// What was read from the host's files is good for so long.
const FRESH: Duration = Duration::from_secs(5);

/// Bytes read of one of the host's files.
const FILE: u64 = 1 << 20;

/// DNS servers asked.
const SERVERS: usize = 4;

/// See the module.
pub(super) struct Names {
    guest_name: Option<String>,
    resolv_conf: PathBuf,
    hosts: PathBuf,
    fixed: Option<Vec<SocketAddr>>,
    servers: Vec<SocketAddr>,
    known: Vec<(IpAddr, String)>,
    read: Option<Instant>,
}

impl Names {
    pub(super) fn new(guest_name: Option<String>, servers: Option<Vec<SocketAddr>>) -> Self {
        Self {
            guest_name: guest_name.map(|name| name.to_ascii_lowercase()),
            resolv_conf: "/etc/resolv.conf".into(),
            hosts: "/etc/hosts".into(),
            fixed: servers,
            servers: Vec::new(),
            known: Vec::new(),
            read: None,
        }
    }

    /// Reads the host's files again if it was long ago: networks change.
    fn refresh(&mut self, now: Instant) {
        if self.read.is_some_and(|read| now.saturating_duration_since(read) < FRESH) {
            return;
        }
        self.read = Some(now);
        self.servers = match &self.fixed {
            Some(servers) => servers.clone(),
            None => servers(&text(&self.resolv_conf)),
        };
        self.servers.truncate(SERVERS);
        self.known = known(&text(&self.hosts));
    }

    /// The servers to ask.
    pub(super) fn servers(&mut self, now: Instant) -> &[SocketAddr] {
        self.refresh(now);
        &self.servers
    }

    /// The answer to a question, if it can be given here. `guest` is the guest's address.
    pub(super) fn answer(
        &mut self,
        question: &Question,
        guest: Ipv4Addr,
        now: Instant,
    ) -> Option<(u8, Vec<Record>)> {
        if !question.is_internet() {
            return None;
        }
        let name = &*question.name;
        let only = |records: Vec<Record>| {
            Some((code::OK, records.into_iter().filter(|record| record.kind() == question.kind).collect()))
        };
        if HOST_NAMES.contains(&name) {
            return only(vec![Record::A(HOST)]);
        }
        if GATEWAY_NAMES.contains(&name) {
            return only(vec![Record::A(GATEWAY)]);
        }
        let is_own = |own: &String| name == own || name.strip_suffix(DOMAIN) == Some(&format!("{own}."));
        if name == GUEST_NAME || self.guest_name.as_ref().is_some_and(is_own) {
            return only(vec![Record::A(guest)]);
        }
        if name == "localhost" || name.ends_with(".localhost") {
            return only(vec![Record::A(Ipv4Addr::LOCALHOST), Record::Aaaa(std::net::Ipv6Addr::LOCALHOST)]);
        }
        if name == DOMAIN || name.strip_suffix(DOMAIN).is_some_and(|rest| rest.ends_with('.')) {
            let exists = if name == DOMAIN { code::OK } else { code::NO_NAME };
            return Some((exists, Vec::new()));
        }
        if let Some(addr) = reverse(name) {
            return match addr {
                HOST => only(vec![Record::Ptr(HOST_NAMES[0].to_owned())]),
                GATEWAY => only(vec![Record::Ptr(GATEWAY_NAMES[0].to_owned())]),
                addr if addr == guest => {
                    only(vec![Record::Ptr(self.guest_name.clone().unwrap_or(GUEST_NAME.to_owned()))])
                }
                _ => Some((code::NO_NAME, Vec::new())),
            };
        }
        if question.kind != kind::A && question.kind != kind::AAAA {
            return None;
        }
        self.refresh(now);
        let known = self.known.iter().filter(|(_, known)| known == name);
        let records: Vec<Record> = known
            .map(|(addr, _)| match addr {
                IpAddr::V4(addr) => Record::A(*addr),
                IpAddr::V6(addr) => Record::Aaaa(*addr),
            })
            .collect();
        if records.is_empty() { None } else { only(records) }
    }
}

/// The address of this network that a name for reverse look-ups means.
fn reverse(name: &str) -> Option<Ipv4Addr> {
    let [a, b, c, _] = SUBNET.octets();
    let last = name.strip_suffix(&format!(".{c}.{b}.{a}.in-addr.arpa"))?;
    last.parse().ok().map(|last: u8| Ipv4Addr::new(a, b, c, last))
}

/// What stands in a file of the host's, as far as it can be read.
fn text(path: &Path) -> String {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path);
    let _ = file.and_then(|file| file.take(FILE).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn lines(text: &str) -> impl Iterator<Item = std::str::SplitWhitespace<'_>> {
    text.lines().map(|line| line.split(['#', ';']).next().unwrap_or_default().split_whitespace())
}

/// DNS servers in a `resolv.conf`.
fn servers(text: &str) -> Vec<SocketAddr> {
    let server = |mut words: std::str::SplitWhitespace<'_>| {
        let addr = (words.next()? == "nameserver").then(|| words.next()).flatten()?;
        // An address with a zone cannot be asked without the zone's number.
        addr.parse::<IpAddr>().ok().map(|addr| SocketAddr::new(addr, 53))
    };
    lines(text).filter_map(server).collect()
}

/// Names in a `hosts` file. Loopback addresses would mean the guest itself, so their names are not for it.
fn known(text: &str) -> Vec<(IpAddr, String)> {
    let mut known = Vec::new();
    for mut words in lines(text) {
        let Some(addr) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        if !addr.is_loopback() && !addr.is_unspecified() && !addr.is_multicast() {
            known.extend(words.map(|name| (addr, name.to_ascii_lowercase())));
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use super::super::dns::tests::query;
    use super::super::dns::{Asked, read_question};
    use super::*;
    use crate::clock;

    const GUEST: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 2);

    fn ask(names: &mut Names, name: &str, kind: u16) -> Option<(u8, Vec<Record>)> {
        let Asked::Question(question) = read_question(&query(1, name, kind)) else { panic!("{name}") };
        names.answer(&question, GUEST, clock::now())
    }

    #[test]
    fn names_built_in_are_answered() {
        let mut names = Names::new(Some("Web".to_owned()), Some(Vec::new()));
        let a = |addr: Ipv4Addr| Some((code::OK, vec![Record::A(addr)]));
        for (name, addr) in [
            ("host.env86.internal", HOST),
            ("HOST.Docker.internal", HOST),
            ("host.containers.internal", HOST),
            ("gateway.env86.internal", GATEWAY),
            ("guest.env86.internal", GUEST),
            ("web", GUEST),
            ("web.env86.internal", GUEST),
            ("localhost", Ipv4Addr::LOCALHOST),
            ("x.localhost", Ipv4Addr::LOCALHOST),
        ] {
            assert_eq!(ask(&mut names, name, kind::A), a(addr), "{name}");
        }
        assert_eq!(ask(&mut names, "host.env86.internal", kind::AAAA), Some((code::OK, vec![])));
        assert_eq!(ask(&mut names, "nobody.env86.internal", kind::A), Some((code::NO_NAME, vec![])));
        let ptr = |name: &str| Some((code::OK, vec![Record::Ptr(name.to_owned())]));
        let reversed = |last| format!("{last}.127.168.192.in-addr.arpa");
        assert_eq!(ask(&mut names, &reversed(254), kind::PTR), ptr("host.env86.internal"));
        assert_eq!(ask(&mut names, &reversed(2), kind::PTR), ptr("web"));
        assert_eq!(ask(&mut names, &reversed(9), kind::PTR), Some((code::NO_NAME, vec![])));
        assert_eq!(ask(&mut names, "1.1.1.1.in-addr.arpa", kind::PTR), None);
        assert_eq!(ask(&mut names, "notenv86.internal", kind::A), None);
    }

    #[test]
    fn names_of_the_hosts_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let (hosts, resolv) = (dir.path().join("hosts"), dir.path().join("resolv.conf"));
        std::fs::write(&hosts, "127.0.0.1 me\n10.1.2.3 Server server.lan # s\nfe80::1 server\nrubbish x\n")
            .unwrap();
        let servers =
            "# x\nnameserver 127.0.0.53\nnameserver 2001:db8::1\nnameserver fe80::1%eth0\nsearch lan\n";
        std::fs::write(&resolv, servers).unwrap();
        let mut names = Names::new(None, None);
        (names.hosts, names.resolv_conf) = (hosts.clone(), resolv);
        let now = clock::now();
        let servers: Vec<_> = names.servers(now).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["127.0.0.53:53", "[2001:db8::1]:53"]);
        let server = Some((code::OK, vec![Record::A([10, 1, 2, 3].into())]));
        assert_eq!(ask(&mut names, "server", kind::A), server);
        assert_eq!(ask(&mut names, "server.lan", kind::A), server);
        assert_eq!(ask(&mut names, "server.lan", kind::AAAA), Some((code::OK, vec![])));
        assert_eq!(ask(&mut names, "me", kind::A), None);
        std::fs::write(&hosts, "10.9.9.9 server").unwrap();
        let Asked::Question(question) = read_question(&query(1, "server", kind::A)) else { panic!() };
        let later = names.answer(&question, GUEST, now + FRESH);
        assert_eq!(later, Some((code::OK, vec![Record::A([10, 9, 9, 9].into())])));
    }

    #[test]
    fn names_without_files_are_forwarded_to_nobody() {
        let mut names = Names::new(None, None);
        (names.hosts, names.resolv_conf) = ("/nonexistent/a".into(), "/nonexistent/b".into());
        assert!(names.servers(clock::now()).is_empty());
        assert_eq!(ask(&mut names, "server", kind::A), None);
    }
}
