//! Where a guest may connect to.
//!
//! A destination belongs to a [`Class`], which decides unless a rule does. `deny` rules win over everything;
//! `allow` rules win over the class. The check is made for every new conversation, on the address that the
//! host is going to connect to; it does not matter whether that came out of a DNS answer.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Instant;

use super::{HOST, HOST_NAMES, HOST6, SUBNET, SUBNET_PREFIX, SUBNET6, is_host};
use crate::limits::{NET_LEARNT, NET_RULES};

/// What kind of place an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The internet.
    Public,
    /// RFC 1918, carrier-grade NAT (RFC 6598), benchmarking (RFC 2544); unique local and site-local IPv6.
    Private,
    /// The host's loopback addresses, also as [`HOST`] and [`HOST6`].
    Loopback,
    /// Another address of the host.
    Own,
    /// 169.254/16 and fe80::/10: neighbours; the metadata services of cloud providers.
    LinkLocal,
    /// The virtual network itself, where no guest is.
    Virtual,
    /// Multicast, broadcast, this network (0/8), reserved (240/4, 192.0.0/24; all of IPv6 that is not assigned): nowhere
    /// to connect to.
    Special,
}

impl Class {
    /// The class of an address, apart from [`Class::Own`], which only the host knows.
    ///
    /// IPv6 addresses that stand for IPv4 ones are of their class: who runs a translator must not lead guests to
    /// where they may not go.
    pub fn of(addr: impl Into<IpAddr>) -> Self {
        match addr.into() {
            IpAddr::V4(addr) => Self::of_v4(addr),
            IpAddr::V6(addr) => Self::of_v6(addr),
        }
    }

    fn of_v6(addr: Ipv6Addr) -> Self {
        let within = |net: [u16; 8], prefix| Net { addr: IpAddr::from(net), prefix }.contains(addr.into());
        if let Some(v4) = embedded(addr.into()) {
            Self::of(v4)
        } else if addr.is_loopback() || addr == HOST6 {
            Self::Loopback
        } else if within([0x2001, 0, 0, 0, 0, 0, 0, 0], 32) {
            Self::Special // Teredo (RFC 4380): whom it leads to is not for us to say
        } else if METADATA6.contains(&addr) || addr.is_unicast_link_local() {
            Self::LinkLocal
        } else if within(SUBNET6.segments(), 64) {
            Self::Virtual
        } else if addr.is_unique_local()
            || within([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10)
            || within([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48)
        {
            Self::Private
        } else if within([0x2000, 0, 0, 0, 0, 0, 0, 0], 3) {
            Self::Public
        } else {
            // Multicast, IPv4 in other clothes (::/96, ::ffff:0:0/96), and what is not assigned.
            Self::Special
        }
    }

    fn of_v4(addr: Ipv4Addr) -> Self {
        let within = |net: [u8; 4], prefix| Net { addr: IpAddr::from(net), prefix }.contains(addr.into());
        if addr.is_loopback() || addr == HOST {
            Self::Loopback
        } else if within([0, 0, 0, 0], 8) || addr.octets()[0] >= 224 || within([192, 0, 0, 0], 24) {
            Self::Special
        } else if addr.is_link_local() {
            Self::LinkLocal
        } else if within(SUBNET.octets(), SUBNET_PREFIX) {
            Self::Virtual
        } else if addr.is_private() || within([100, 64, 0, 0], 10) || within([198, 18, 0, 0], 15) {
            Self::Private
        } else {
            Self::Public
        }
    }
}

/// Where a guest may connect to without a rule that says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// The internet and private networks.
    #[default]
    All,
    /// The internet only.
    NoPrivate,
    /// Nowhere: only what is allowed.
    Nothing,
}

/// The IPv4 address that an IPv6 address of NAT64 (RFC 6052) or 6to4 (RFC 3056) leads to.
fn embedded(addr: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(addr) = addr else { return None };
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)).into());
    match addr.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => None,
    }
}

/// Metadata services of cloud providers, which have unique local addresses.
const METADATA6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

/// A network in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Net {
    addr: IpAddr,
    prefix: u32,
}

impl Net {
    fn contains(self, addr: IpAddr) -> bool {
        match (self.addr, addr) {
            (IpAddr::V4(net), IpAddr::V4(addr)) => {
                let mask = u32::MAX.checked_shl(32_u32.saturating_sub(self.prefix)).unwrap_or(0);
                u32::from(net) & mask == u32::from(addr) & mask
            }
            (IpAddr::V6(net), IpAddr::V6(addr)) => {
                let mask = u128::MAX.checked_shl(128_u32.saturating_sub(self.prefix)).unwrap_or(0);
                u128::from(net) & mask == u128::from(addr) & mask
            }
            _ => false,
        }
    }
}

/// Whom a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    /// The world, but not the host.
    Everything,
    /// The host's loopback addresses.
    Host,
    Net(Net),
    /// A name in lower case, or `.domain` for all names below a domain.
    Name(String),
}

/// Some destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    target: Target,
    /// All, if there is none.
    ports: Option<RangeInclusive<u16>>,
}

/// A rule that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Not a destination: {text}: {why}")]
pub struct RuleError {
    /// What was written.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Rule {
    /// Reads `HOST`, `HOST:PORT` or `HOST:PORT-PORT`, where HOST is a name, `*.DOMAIN`, an address, a network such as
    /// `10.0.0.0/8`, or `*` for everything. IPv6 addresses and networks stand in brackets if a port follows.
    /// `host.env86.internal` is the host's loopback address.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        let wrong = |why| RuleError { text: text.to_owned(), why };
        let (host, ports) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
            None if text.matches(':').count() > 1 => (text, None),
            None => text.split_once(':').map_or((text, None), |(host, ports)| (host, Some(ports))),
            Some(Some((host, ""))) if host.contains(':') => (host, None),
            Some(Some((host, ports))) if host.contains(':') && ports.starts_with(':') => {
                (host, ports.strip_prefix(':'))
            }
            Some(_) => return Err(wrong("in brackets stands an IPv6 address or network, then : and a port")),
        };
        let (host, ports) = match ports {
            None => (host, None),
            Some(ports) => {
                let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
                let port = |text: &str| {
                    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
                    text.parse::<u16>().ok().filter(|port| digits && *port > 0)
                };
                match (port(first), port(last)) {
                    (Some(first), Some(last)) if first <= last => (host, Some(first..=last)),
                    _ => return Err(wrong("a port is a number from 1 to 65535, or two with a - between")),
                }
            }
        };
        Ok(Self { target: Target::parse(host).map_err(wrong)?, ports })
    }

    fn covers_port(&self, port: Option<u16>) -> bool {
        match (&self.ports, port) {
            (None, _) => true,
            (Some(ports), Some(port)) => ports.contains(&port),
            (Some(_), None) => false,
        }
    }
}

impl Target {
    fn parse(host: &str) -> Result<Self, &'static str> {
        if host == "*" {
            return Ok(Self::Everything);
        }
        if let Some((addr, prefix)) = host.split_once('/') {
            let (addr, prefix) = (addr.parse::<IpAddr>(), prefix.parse::<u32>());
            return match (addr, prefix) {
                (Ok(addr), Ok(prefix)) if prefix <= bits(addr) => Ok(Self::Net(Net { addr, prefix })),
                _ => Err("a network is an address, / and a number up to 32 (IPv6: 128)"),
            };
        }
        if let Ok(addr) = host.parse::<IpAddr>() {
            return Ok(Self::Net(Net { addr, prefix: bits(addr) }));
        }
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        if HOST_NAMES.contains(&name.as_str()) || name == "localhost" {
            return Ok(Self::Host);
        }
        let pattern = name.strip_prefix('*').unwrap_or(&name);
        let labels = pattern.strip_prefix('.').unwrap_or(pattern);
        if name.starts_with('*') != pattern.starts_with('.') || !is_name(labels) {
            return Err("expected a name, *.DOMAIN, an address, a network such as 10.0.0.0/8, or *");
        }
        if labels.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
            return Err("an IPv4 address has four numbers up to 255");
        }
        Ok(Self::Name(pattern.to_owned()))
    }

    fn names(&self, name: &str) -> bool {
        match self {
            Self::Everything | Self::Host | Self::Net(_) => false,
            Self::Name(pattern) if pattern.starts_with('.') => name.ends_with(pattern.as_str()),
            Self::Name(pattern) => name == pattern,
        }
    }
}

/// Bits of an address.
fn bits(addr: IpAddr) -> u32 {
    if addr.is_ipv4() { 32 } else { 128 }
}

fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(fine)
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// What a policy says about a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go ahead.
    Allow,
    /// Do not.
    Deny,
}

/// Where a guest may connect to.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Without a rule.
    pub reach: Reach,
    /// Destinations that are allowed whatever their class, except where there is nothing to connect to.
    pub allow: Vec<Rule>,
    /// Destinations that are denied whatever else is said.
    pub deny: Vec<Rule>,
}

impl Policy {
    /// The rules are no more than [`NET_RULES`].
    pub fn is_bounded(&self) -> bool {
        self.allow.len() <= NET_RULES && self.deny.len() <= NET_RULES
    }
}

/// A policy at work: with what it knows about names.
#[derive(Debug, Default)]
pub struct Guard {
    policy: Policy,
    host_access: bool,
    /// Addresses that names of rules stand for, and until when.
    learnt: HashMap<IpAddr, Learnt>,
}

#[derive(Debug)]
struct Learnt {
    name: String,
    until: Instant,
}

impl Guard {
    /// A policy at work. With `host_access` all ports of the host's loopback address are allowed.
    pub fn new(policy: Policy, host_access: bool) -> Self {
        Self { policy, host_access, learnt: HashMap::new() }
    }

    /// Whether a guest may look up a name (in lower case, without the last dot).
    pub fn may_resolve(&self, name: &str) -> bool {
        !self.policy.deny.iter().any(|rule| rule.ports.is_none() && rule.target.names(name))
    }

    /// The guest was told that `name` has this address.
    pub fn learn(&mut self, name: &str, addr: impl Into<IpAddr>, until: Instant) {
        let addr = addr.into();
        let rules = || self.policy.allow.iter().chain(&self.policy.deny);
        if !rules().any(|rule| rule.target.names(name)) {
            return;
        }
        if self.learnt.len() >= NET_LEARNT && !self.learnt.contains_key(&addr) {
            let first = self.learnt.iter().min_by_key(|(_, learnt)| learnt.until).map(|(addr, _)| *addr);
            first.and_then(|addr| self.learnt.remove(&addr));
        }
        self.learnt.insert(addr, Learnt { name: name.to_owned(), until });
    }

    /// Addresses remembered for names.
    pub fn learnt(&self) -> usize {
        self.learnt.len()
    }

    /// Whether the guest may talk to `addr` (as it stands in its packets) and `port` (none: a ping). `own`
    /// tells whether an address is one of the host's.
    pub fn check(
        &self,
        addr: impl Into<IpAddr>,
        port: Option<u16>,
        now: Instant,
        own: impl FnOnce(IpAddr) -> bool,
    ) -> Verdict {
        let addr = addr.into();
        let mut class = Class::of(addr);
        // Loopback addresses do not travel: only the host's name for its own leads there.
        if matches!(class, Class::Special | Class::Virtual) || (class == Class::Loopback && !is_host(addr)) {
            return Verdict::Deny;
        }
        let is_loopback = class == Class::Loopback;
        let loopback = translate(SocketAddr::new(addr, 0)).ip();
        let name = self.learnt.get(&addr).filter(|learnt| now < learnt.until).map(|learnt| &*learnt.name);
        let matches = |rule: &&Rule| {
            let target = match &rule.target {
                Target::Everything => !is_loopback,
                Target::Host => is_loopback,
                Target::Net(net) if is_loopback => {
                    net.prefix > 0 && (net.contains(addr) || net.contains(loopback))
                }
                Target::Net(net) => net.contains(addr),
                Target::Name(_) => name.is_some_and(|name| rule.target.names(name)),
            };
            target && rule.covers_port(port)
        };
        if self.policy.deny.iter().any(|rule| matches(&rule) || denies_all(rule, addr, port)) {
            return Verdict::Deny;
        }
        if is_loopback {
            let allowed = self.host_access || self.policy.allow.iter().any(|rule| matches(&rule));
            return if allowed { Verdict::Allow } else { Verdict::Deny };
        }
        if matches!(class, Class::Public | Class::Private) && own(embedded(addr).unwrap_or(addr)) {
            class = Class::Own;
        }
        // Whoever answers for a name must not open what only an address may open.
        let by_name_too = matches!(class, Class::Public | Class::Private);
        let opens = |rule: &&Rule| match &rule.target {
            Target::Net(net) => net.prefix > 0 || by_name_too,
            Target::Everything | Target::Host | Target::Name(_) => by_name_too,
        };
        let allowed = self.policy.allow.iter().filter(opens).any(|rule| matches(&rule));
        let reach = match class {
            Class::Public => self.policy.reach != Reach::Nothing,
            Class::Private => self.policy.reach == Reach::All,
            _ => false,
        };
        if allowed || reach { Verdict::Allow } else { Verdict::Deny }
    }
}

/// `--deny '*'` covers the host too.
fn denies_all(rule: &Rule, addr: IpAddr, port: Option<u16>) -> bool {
    let all = match rule.target {
        Target::Everything => true,
        Target::Net(net) => net.prefix == 0 && net.contains(addr),
        Target::Host | Target::Name(_) => false,
    };
    all && rule.covers_port(port)
}

/// Where the host has to connect to for an address and port in a guest's packet.
pub fn translate(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(HOST) => SocketAddr::from((Ipv4Addr::LOCALHOST, addr.port())),
        IpAddr::V6(HOST6) => SocketAddr::from((Ipv6Addr::LOCALHOST, addr.port())),
        _ => addr,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::clock;

    fn rules(texts: &[&str]) -> Vec<Rule> {
        texts.iter().map(|text| Rule::parse(text).unwrap()).collect()
    }

    fn guard(reach: Reach, allow: &[&str], deny: &[&str]) -> Guard {
        Guard::new(Policy { reach, allow: rules(allow), deny: rules(deny) }, false)
    }

    fn allows(guard: &Guard, text: &str) -> bool {
        let addr: SocketAddr = text.parse().unwrap();
        let own = |addr: IpAddr| ["192.168.1.10", "2001:db8::10"].map(|own| own.parse()).contains(&Ok(addr));
        guard.check(addr.ip(), Some(addr.port()), clock::now(), own) == Verdict::Allow
    }

    const NOWHERE: [&str; 14] = [
        "0.0.0.0:80",
        "0.1.2.3:80",
        "127.0.0.1:80",
        "127.255.255.254:80",
        "224.0.0.1:80",
        "239.255.255.250:80",
        "255.255.255.255:80",
        "240.0.0.1:80",
        "192.0.0.8:80",
        "192.168.127.1:80",
        "192.168.127.255:80",
        "192.168.127.0:80",
        "192.168.127.253:80",
        "192.168.127.77:80",
    ];

    #[test]
    fn policy_by_default_is_the_internet_and_private_networks() {
        let g = guard(Reach::All, &[], &[]);
        for open in ["1.1.1.1:443", "10.0.0.1:22", "172.16.0.1:1", "192.168.2.1:1", "100.64.0.1:1"] {
            assert!(allows(&g, open), "{open}");
        }
        for shut in ["169.254.169.254:80", "169.254.1.1:80", "192.168.127.254:80", "192.168.1.10:80"] {
            assert!(!allows(&g, shut), "{shut}");
        }
        for shut in NOWHERE {
            assert!(!allows(&g, shut), "{shut}");
        }
    }

    #[test]
    fn policy_of_ipv6_is_that_of_ipv4() {
        let host = "[fd5a:94ef:e40c::fe]";
        let g = guard(Reach::All, &[], &[]);
        for open in ["2606:4700::1", "fd12::1", "fec0::1", "64:ff9b::101:101", "2002:101:101::1"] {
            assert!(allows(&g, &format!("[{open}]:443")), "{open}");
        }
        // By default; in the second group whatever is allowed.
        for shut in ["fe80::1", "fd00:ec2::254", "fd20:ce::254", "2001:db8::10", "64:ff9b::a9fe:a9fe"] {
            assert!(!allows(&g, &format!("[{shut}]:80")), "{shut}");
        }
        let nowhere = [
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:1.1.1.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "64:ff9b::c0a8:7ffe",
            "2002:c0a8:7ffe::",
            "2001::1",
            "ff02::1",
            "100::1",
            "4000::1",
            "fd5a:94ef:e40c::1",
            "fd5a:94ef:e40c::77",
            "64:ff9b::",
            "2002:e000:1::",
        ];
        let all = guard(Reach::All, &["*", "::/1", "8000::/1", "::1", "127.0.0.0/8"], &[]);
        for shut in nowhere {
            assert!(!allows(&g, &format!("[{shut}]:80")), "{shut}");
            assert!(!allows(&all, &format!("[{shut}]:80")), "{shut}");
        }
        assert!(!allows(&g, &format!("{host}:80")));
        assert!(allows(&guard(Reach::All, &["host.env86.internal:80"], &[]), &format!("{host}:80")));
        assert!(allows(&guard(Reach::Nothing, &["[::1]:80"], &[]), &format!("{host}:80")));
        assert!(!allows(&guard(Reach::All, &["[::1]:80"], &[]), "192.168.127.254:80"));
        assert!(!allows(&guard(Reach::All, &["*", "::/0"], &[]), &format!("{host}:80")));
        let g = guard(Reach::NoPrivate, &["[fd12::/16]:80", "fe80::/10"], &["[2606:4700::/32]:25"]);
        assert!(allows(&g, "[fd12::1]:80") && !allows(&g, "[fd12::1]:81") && !allows(&g, "[fec0::1]:1"));
        assert!(!allows(&g, "[64:ff9b::a00:1]:80") && !allows(&g, "[2002:a00:1::]:80"));
        assert!(allows(&g, "[fe80::1]:80") && allows(&g, "[2606:4700::1]:24"));
        assert!(!allows(&g, "[2606:4700::1]:25"));
        let mut g = guard(Reach::Nothing, &["*.example.org"], &[]);
        let addr = |text: &str| text.parse::<IpAddr>().unwrap();
        let later = clock::now() + Duration::from_secs(60);
        g.learn("a.example.org", addr("2606:4700::1"), later);
        g.learn("a.example.org", addr("fe80::7"), later);
        assert!(allows(&g, "[2606:4700::1]:5"));
        assert!(!allows(&g, "[fe80::7]:5"), "a name opens no link-local address");
        let g = Guard::new(Policy { deny: rules(&["*"]), ..Policy::default() }, true);
        assert!(!allows(&g, "[2606:4700::1]:80") && !allows(&g, &format!("{host}:80")));
    }

    #[test]
    fn policy_without_private_networks_is_the_internet() {
        let g = guard(Reach::NoPrivate, &["10.1.0.0/16:80"], &[]);
        assert!(allows(&g, "1.1.1.1:443"));
        for shut in ["10.0.0.1:80", "172.31.0.1:80", "192.168.2.1:80", "100.127.0.1:80", "198.19.0.1:80"] {
            assert!(!allows(&g, shut), "{shut}");
        }
        assert!(allows(&g, "10.1.2.3:80"));
        assert!(!allows(&g, "10.1.2.3:81"));
        assert!(allows(&g, "172.32.0.1:80"), "not private");
    }

    #[test]
    fn policy_of_nothing_allows_what_is_allowed() {
        let g = guard(Reach::Nothing, &["1.1.1.1:53", "9.9.9.0/24"], &[]);
        assert!(allows(&g, "1.1.1.1:53"));
        assert!(allows(&g, "9.9.9.9:1"));
        assert!(!allows(&g, "1.1.1.1:54"));
        assert!(!allows(&g, "8.8.8.8:53"));
        let ping = |addr: Ipv4Addr| g.check(addr, None, clock::now(), |_| false);
        assert_eq!(ping([9, 9, 9, 9].into()), Verdict::Allow);
        assert_eq!(ping([1, 1, 1, 1].into()), Verdict::Deny, "a port was allowed, not the host");
    }

    #[test]
    fn policy_allow_opens_the_host_and_link_local_by_address_only() {
        let g =
            guard(Reach::All, &["host.env86.internal:5432", "169.254.169.254", "192.168.1.10:80", "*"], &[]);
        assert!(allows(&g, "192.168.127.254:5432"));
        assert!(!allows(&g, "192.168.127.254:5433"), "* is the world, not the host");
        assert!(allows(&g, "169.254.169.254:80"));
        assert!(!allows(&g, "169.254.169.253:80"));
        assert!(allows(&g, "192.168.1.10:80"));
        assert!(!allows(&g, "192.168.1.10:81"));
        let g = guard(Reach::All, &["127.0.0.1:8080"], &[]);
        assert!(allows(&g, "192.168.127.254:8080"));
        assert!(!allows(&g, "192.168.127.254:80"));
        let g = guard(Reach::All, &["*", "127.0.0.0/8", "224.0.0.0/4", "192.168.127.0/24", "0.0.0.0/8"], &[]);
        for shut in NOWHERE {
            assert!(!allows(&g, shut), "{shut}");
        }
    }

    #[test]
    fn policy_host_access_opens_all_ports_of_the_host() {
        let policy = Policy { deny: rules(&["host.env86.internal:22"]), ..Policy::default() };
        let g = Guard::new(policy, true);
        assert!(allows(&g, "192.168.127.254:5432"));
        assert!(!allows(&g, "192.168.127.254:22"));
        assert!(!allows(&g, "127.0.0.1:5432"));
        assert_eq!(translate("192.168.127.254:5432".parse().unwrap()), "127.0.0.1:5432".parse().unwrap());
        assert_eq!(translate("[fd5a:94ef:e40c::fe]:1".parse().unwrap()), "[::1]:1".parse().unwrap());
        assert_eq!(translate("1.1.1.1:5432".parse().unwrap()), "1.1.1.1:5432".parse().unwrap());
    }

    #[test]
    fn policy_deny_wins() {
        let g = guard(Reach::All, &["1.1.1.1", "*:80"], &["1.1.1.0/24:25-30", "10.0.0.0/8"]);
        assert!(allows(&g, "1.1.1.1:24"));
        assert!(!allows(&g, "1.1.1.1:25"));
        assert!(!allows(&g, "1.1.1.1:30"));
        assert!(allows(&g, "1.1.1.1:31"));
        assert!(!allows(&g, "10.1.1.1:80"));
        let g = Guard::new(Policy { deny: rules(&["*"]), ..Policy::default() }, true);
        assert!(!allows(&g, "1.1.1.1:80"));
        assert!(!allows(&g, "192.168.127.254:80"));
    }

    #[test]
    fn policy_names_open_what_they_were_resolved_to_while_it_lasts() {
        let mut g = guard(Reach::Nothing, &["example.com:443", "*.example.org"], &["bad.example.org"]);
        let now = clock::now();
        let later = now + Duration::from_secs(60);
        g.learn("example.com", [93, 184, 215, 14], later);
        g.learn("www.example.org", [10, 0, 0, 1], later);
        g.learn("bad.example.org", [10, 0, 0, 2], later);
        g.learn("other.net", [8, 8, 8, 8], later);
        g.learn("a.example.org", [169, 254, 169, 254], later);
        g.learn("b.example.org", [192, 168, 1, 10], later);
        assert!(allows(&g, "93.184.215.14:443"));
        assert!(!allows(&g, "93.184.215.14:80"));
        assert!(allows(&g, "10.0.0.1:5"));
        assert!(!allows(&g, "10.0.0.2:5"));
        assert!(!allows(&g, "8.8.8.8:443"));
        assert!(!allows(&g, "169.254.169.254:80"), "a name opens no link-local address");
        assert!(!allows(&g, "192.168.1.10:80"), "a name does not open the host");
        let gone = later + Duration::from_secs(1);
        assert_eq!(g.check([93, 184, 215, 14], Some(443), gone, |_| false), Verdict::Deny);
        assert!(!g.may_resolve("bad.example.org"));
        assert!(g.may_resolve("example.org"));
    }

    #[test]
    fn policy_learnt_addresses_are_bounded() {
        let mut g = guard(Reach::Nothing, &["*.example.org"], &[]);
        let now = clock::now();
        for n in 0..NET_LEARNT as u32 + 100 {
            g.learn("a.example.org", Ipv4Addr::from(0x0101_0000 + n), now + Duration::from_secs(n.into()));
        }
        assert_eq!(g.learnt(), NET_LEARNT);
        let last = Ipv4Addr::from(0x0101_0000 + NET_LEARNT as u32 + 99);
        assert_eq!(g.check(last, Some(1), now, |_| false), Verdict::Allow);
    }

    #[test]
    fn rule_mistakes_are_named() {
        for text in [
            "",
            ":80",
            "a:",
            "a:0",
            "a:65536",
            "a:2-1",
            "a:-",
            "a:x",
            "1.2.3.4/33",
            "1.2.3/8",
            "1.2.3",
            "[::1",
            "[::1]80",
            "[::1]:",
            "[1.2.3.4]:80",
            "::1:x",
            "::/129",
            "1::2::3",
            "a b",
            "*x",
            "x.*",
            "*.",
            "a..b",
            "300.1.1.1",
        ] {
            let error = Rule::parse(text).expect_err(text).to_string();
            assert!(error.contains(&format!(": {text}: ")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn policy_never_opens_special_addresses(
            addr: u32, port: u16, reach in 0..3_u8, allow in "[*0-9a-z./:]{0,12}", access: bool,
        ) {
            let addr = Ipv4Addr::from(addr);
            let reach = [Reach::All, Reach::NoPrivate, Reach::Nothing][usize::from(reach)];
            let policy = Policy { reach, allow: Rule::parse(&allow).into_iter().collect(), deny: Vec::new() };
            let verdict = Guard::new(policy, access).check(addr, Some(port), clock::now(), |_| false);
            if matches!(Class::of(addr), Class::Special | Class::Virtual) || addr.is_loopback() {
                prop_assert_eq!(verdict, Verdict::Deny);
            }
        }

        #[test]
        fn policy_of_translated_addresses_is_never_wider(
            v4: u32, port: u16, reach in 0..3_u8, allow in "[*0-9a-f./:]{0,12}",
        ) {
            let reach = [Reach::All, Reach::NoPrivate, Reach::Nothing][usize::from(reach)];
            let guard = Guard::new(Policy { reach, ..Policy::default() }, true);
            let check = |addr: IpAddr| guard.check(addr, Some(port), clock::now(), |_| false);
            let [a, b] = [(v4 >> 16) as u16, v4 as u16];
            for addr in [[0x64, 0xff9b, 0, 0, 0, 0, a, b], [0x2002, a, b, 0, 0, 0, 0, 1]] {
                if check(addr.into()) == Verdict::Allow {
                    prop_assert_eq!(check(Ipv4Addr::from(v4).into()), Verdict::Allow);
                }
            }
            for addr in [[0, 0, 0, 0, 0, 0xffff, a, b], [0, 0, 0, 0, 0, 0, a, b]] {
                prop_assert_eq!(check(addr.into()), Verdict::Deny);
            }
            let guard = Guard::new(Policy { reach, allow: Rule::parse(&allow).into_iter().collect(), deny: Vec::new() }, false);
            let mapped = IpAddr::from([0, 0, 0, 0, 0, 0xffff, a, b]);
            prop_assert_eq!(guard.check(mapped, Some(port), clock::now(), |_| false), Verdict::Deny);
        }
    }
}
