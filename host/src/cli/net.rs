//! Flags of the guest's network, which `boot` and `run` share, and its start.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};
use serde_json::json;

use super::report::Reporter;
use crate::config::NetWishes;
use crate::error::Error;
use crate::net::config::{parse_delay, parse_loss, parse_rate};
use crate::net::{Forward, Impairments, NetConfig, Policy, Reach, Rule, UserNet};
use crate::vm::{NetworkCard, Vm};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum NicArg {
    /// NE2000, as v86
    Ne2k,
    /// virtio-net, which is several times as fast
    Virtio,
    /// No network card
    None,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum ReachArg {
    /// The internet and private networks
    #[default]
    All,
    /// The internet only
    NoLan,
    /// Nowhere but --allow
    None,
}

/// Flags about what a guest may do on its network, and how good that is.
#[derive(Debug, Default, Args)]
pub struct LineArgs {
    /// Where the guest may connect to [default: all]
    #[arg(long, value_name = "WHERE", help_heading = "Network")]
    net_policy: Option<ReachArg>,

    /// Let the guest connect to HOST: a name, an address, a network, with a port or not
    #[arg(long, value_name = "HOST[:PORT]", help_heading = "Network")]
    allow: Vec<String>,

    /// Do not let the guest connect to HOST
    #[arg(long, value_name = "HOST[:PORT]", help_heading = "Network")]
    deny: Vec<String>,

    /// Let the guest connect to this host's own ports, as host.env86.internal
    #[arg(long, help_heading = "Network")]
    host_access: bool,

    /// DNS server to ask instead of this host's
    #[arg(long, value_name = "ADDR[:PORT]", help_heading = "Network")]
    dns: Vec<String>,

    /// Lose a part of the frames, e.g. 5%
    #[arg(long, value_name = "PART", help_heading = "Network")]
    net_loss: Option<String>,

    /// Delay each frame, e.g. 50ms
    #[arg(long, value_name = "TIME", help_heading = "Network")]
    net_delay: Option<String>,

    /// Limit the speed, e.g. 10mbit
    #[arg(long, value_name = "RATE", help_heading = "Network")]
    net_rate: Option<String>,
}

impl LineArgs {
    /// The network these flags describe.
    ///
    /// # Errors
    /// What cannot be understood.
    pub fn config(&self) -> anyhow::Result<NetConfig> {
        let rules =
            |texts: &[String]| texts.iter().map(|text| Rule::parse(text)).collect::<Result<Vec<_>, _>>();
        let policy = Policy {
            reach: match self.net_policy.unwrap_or_default() {
                ReachArg::All => Reach::All,
                ReachArg::NoLan => Reach::NoPrivate,
                ReachArg::None => Reach::Nothing,
            },
            allow: rules(&self.allow)?,
            deny: rules(&self.deny)?,
        };
        let impairments = Impairments {
            loss: self.net_loss.as_deref().map(parse_loss).transpose()?.unwrap_or_default(),
            delay: self.net_delay.as_deref().map(parse_delay).transpose()?.unwrap_or_default(),
            rate: self.net_rate.as_deref().map(parse_rate).transpose()?,
            ..Impairments::default()
        };
        let servers = self.dns.iter().map(|text| dns_server(text)).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(NetConfig {
            policy,
            impairments,
            host_access: self.host_access,
            dns_servers: (!servers.is_empty()).then_some(servers),
            ..NetConfig::default()
        })
    }
}

fn dns_server(text: &str) -> anyhow::Result<SocketAddr> {
    const PORT: u16 = 53;
    let bare = || text.parse::<IpAddr>().ok().map(|addr| SocketAddr::new(addr, PORT));
    let server = text.parse().ok().or_else(bare);
    server.ok_or_else(|| anyhow::anyhow!("Not the address of a DNS server: {text}"))
}

/// Flags of a guest's network.
#[derive(Debug, Default, Args)]
pub struct NetArgs {
    /// Connect the guest to the virtual network
    #[arg(long, short = 'n', help_heading = "Network")]
    net: bool,

    /// Do not, whatever else is said
    #[arg(long, help_heading = "Network")]
    no_net: bool,

    /// Forward a port of this host to one of the guest; with host port 0 a free one is chosen and printed
    #[arg(long, short = 'p', value_name = "[ADDR:]HOST:GUEST[/udp]", help_heading = "Network")]
    publish: Vec<String>,

    /// Network card [default: the image's, else ne2k]
    #[arg(long, value_name = "CARD", help_heading = "Network")]
    nic: Option<NicArg>,

    /// Write every frame into FILE
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Network")]
    pcap: Option<PathBuf>,

    #[command(flatten)]
    line: LineArgs,
}

impl NetArgs {
    /// The guest is to be connected.
    pub fn is_on(&self) -> bool {
        !self.no_net && (self.net || !self.publish.is_empty())
    }

    /// What the machine has to know about it.
    pub fn wishes(&self) -> NetWishes {
        NetWishes {
            connect: self.is_on(),
            refuse: self.no_net,
            card: self.nic.map(|nic| match nic {
                NicArg::Ne2k => NetworkCard::Ne2000,
                NicArg::Virtio => NetworkCard::VirtioOffload,
                NicArg::None => NetworkCard::None,
            }),
        }
    }

    /// The network that these flags ask for.
    ///
    /// # Errors
    /// What cannot be understood.
    pub fn config(&self) -> anyhow::Result<Option<NetConfig>> {
        let forwards = self.publish.iter().map(|text| Forward::parse(text)).collect::<Result<Vec<_>, _>>()?;
        let config = NetConfig { forwards, pcap: self.pcap.clone(), ..self.line.config()? };
        Ok(self.is_on().then_some(config))
    }
}

/// Starts the network of a machine that has not run yet, and says what listens. It ends when it is dropped.
///
/// # Errors
/// A port is taken, a file cannot be written, or the host refuses.
pub fn start(config: Option<NetConfig>, vm: &mut Vm, reporter: Reporter) -> anyhow::Result<Option<UserNet>> {
    let Some(mut config) = config else { return Ok(None) };
    let Some(line) = vm.network.take() else {
        reporter.warning("the machine has no network card: no network");
        return Ok(None);
    };
    config.guest_mac = line.mac;
    config.announce = vm.restored;
    let asked = config.forwards.clone();
    let net = UserNet::start(config, line.end).map_err(Error::from)?;
    for (forward, asked) in net.forwards().iter().zip(&asked) {
        if reporter.json {
            reporter.object(&json!({
                "level": "info",
                "event": "forward",
                "protocol": forward.protocol.to_string(),
                "host": forward.host.to_string(),
                "guest": forward.guest,
            }));
        } else if asked.host.port() == 0 {
            reporter.text(&format!(
                "env86: {} leads to port {} of the guest ({})",
                forward.host, forward.guest, forward.protocol
            ));
        }
    }
    Ok(Some(net))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        net: NetArgs,
    }

    fn args(line: &[&str]) -> NetArgs {
        Line::try_parse_from([&["x"], line].concat()).unwrap().net
    }

    #[test]
    fn net_is_on_when_asked_for_or_needed_and_off_when_refused() {
        assert!(!args(&[]).is_on());
        assert!(args(&["-n"]).is_on());
        assert!(args(&["-p", "0:80"]).is_on());
        let refused = args(&["-n", "-p", "0:80", "--no-net"]);
        assert!(!refused.is_on() && refused.wishes().refuse);
        assert!(refused.config().unwrap().is_none());
    }

    #[test]
    fn net_flags_become_a_configuration() {
        let line = ["-n", "-p", "8080:80", "-p", "0:53/udp", "--allow", "10.0.0.0/8", "--deny", "*:25"];
        let more = ["--net-policy", "no-lan", "--net-delay", "20ms", "--dns", "9.9.9.9", "--host-access"];
        let config = args(&[&line[..], &more].concat()).config().unwrap().unwrap();
        assert_eq!(config.forwards.len(), 2);
        assert_eq!((config.policy.allow.len(), config.policy.deny.len()), (1, 1));
        assert_eq!(config.policy.reach, Reach::NoPrivate);
        assert!(config.host_access && config.impairments.delay.as_millis() == 20);
        assert_eq!(config.dns_servers, Some(vec!["9.9.9.9:53".parse().unwrap()]));
    }

    #[test]
    fn net_flags_that_make_no_sense_are_errors() {
        for line in [
            ["-p", "80"],
            ["--allow", "a b"],
            ["--net-loss", "x"],
            ["--net-delay", "1h"],
            ["--net-rate", "fast"],
            ["--dns", "example.org"],
        ] {
            assert!(args(&line).config().is_err(), "{line:?}");
        }
    }
}
