//! `env86 network`: a network for machines in browsers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::channel;

use clap::Args;
use serde_json::json;

use super::net::LineArgs;
use super::print;
use super::report::Reporter;
use crate::error::Error;
use crate::net::relay::{Relay, RelayConfig, RelayEvent};
use crate::signals;

const AFTER_HELP: &str = "\
v86 in a browser uses it with network_relay_url, in image.json or in its settings. Every machine gets a network of
its own: 192.168.127.0/24, with router, DHCP and DNS server at 192.168.127.1.

Web pages of this host may use it, those of other origins only if they are named with --origin.";

/// Flags of `network`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP, args_override_self = true)]
pub struct NetworkArgs {
    /// Address to listen on
    #[arg(long, value_name = "ADDR", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    listen: IpAddr,

    /// Port to listen on; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    port: u16,

    /// Let in web pages from ORIGIN too, e.g. https://example.org; * lets in all
    #[arg(long, value_name = "ORIGIN")]
    origin: Vec<String>,

    #[command(flatten)]
    line: LineArgs,

    /// What happens as JSON lines on standard error
    #[arg(long)]
    json: bool,

    /// Errors only
    #[arg(long)]
    quiet: bool,
}

impl NetworkArgs {
    /// How this run reports.
    pub fn reporter(&self) -> Reporter {
        Reporter { json: self.json, quiet: self.quiet }
    }
}

/// Runs the relay until a signal ends it. Returns the exit status.
///
/// # Errors
/// It cannot listen, or a flag makes no sense.
pub fn run(args: &NetworkArgs, reporter: Reporter) -> anyhow::Result<u8> {
    let listen = SocketAddr::new(args.listen, args.port);
    let config = RelayConfig { listen, origins: args.origin.clone(), net: args.line.config()? };
    let (sender, ended) = channel();
    // Nobody listens any more only when the process is about to end.
    let signals = signals::listen(move |signal| {
        let _ = sender.send(signal);
    });
    let _signals = signals.map_err(Error::from)?;
    let observer = move |event: RelayEvent| tell(&event, reporter);
    let relay = Relay::start(config, Arc::new(observer))
        .map_err(|error| anyhow::anyhow!("Cannot listen on {listen}: {error}"))?;
    let host = match relay.address() {
        address if address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) => format!("localhost:{}", address.port()),
        address => address.to_string(),
    };
    print(&format!("Network URL: ws://{host}\n"));
    // The sender belongs to the listener, which lives as long as this.
    let signal = ended.recv().unwrap_or_default();
    drop(relay);
    Ok(u8::try_from(128 + signal).unwrap_or(1))
}

fn tell(event: &RelayEvent, reporter: Reporter) {
    let (name, peer, why) = match event {
        RelayEvent::Connected(peer) => ("connected", peer, None),
        RelayEvent::Disconnected(peer) => ("disconnected", peer, None),
        RelayEvent::Refused(peer, why) => ("refused", peer, Some(why)),
    };
    if reporter.json {
        let mut object = json!({ "level": "info", "event": name, "peer": peer.to_string() });
        if let Some(why) = why {
            object["message"] = why.as_str().into();
        }
        reporter.object(&object);
    } else if let Some(why) = why {
        reporter.warning(&format!("refused {peer}: {why}"));
    }
}
