//! `cargo xtask net-relay`: real v86 in Node with a network through `env86 network`.

use super::servers::{Http, hash};
use super::session::HOST;
use crate::bars::noise;
use crate::demo::MINI_PROMPT;
use crate::fixtures::{self, Options as Fixtures, Which};
use crate::peers;
use crate::run::{build_env86, need, output, step, tool, workspace};
use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

/// Bytes of a page that is worth the name.
const PAGE: usize = 300_000;

/// A relay that ends with this.
struct Relay(Child);

impl Relay {
    fn start(env86: &Path, allowed: u16) -> Result<(Self, String)> {
        let mut command = Command::new(env86);
        command.args(["network", "--allow"]).arg(format!("host.env86.internal:{allowed}"));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("no standard output")?;
        let this = Self(child);
        BufReader::new(stdout).read_line(&mut line)?;
        let url = line.trim().strip_prefix("Network URL: ").context("no URL")?.to_owned();
        Ok((this, url))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Node with a WebSocket: from version 22 on it has one, before that it has to be asked for it.
fn node() -> Result<Command> {
    need(&[("node", "nodejs")])?;
    let test = "process.exit(typeof WebSocket === 'undefined' ? 1 : 0)";
    let mut node = tool("node");
    if output(tool("node").args(["-e", test])).is_err() {
        output(tool("node").args(["--experimental-websocket", "-e", test]))
            .context("this version of Node has no WebSocket: 20.10 or later is needed")?;
        node.arg("--experimental-websocket");
    }
    Ok(node)
}

/// Lets a guest in v86 ask for an address, look up a name and fetch a page.
pub fn run() -> Result<()> {
    let v86 = peers::v86()?;
    fixtures::build(&Fixtures::cached(Which::Mini, true))?;
    let env86 = build_env86()?;
    let page = noise(1, PAGE);
    let http = Http::start(Arc::new(page.clone()))?;
    let (_relay, url) = Relay::start(&env86, http.port)?;
    step(format!("v86 in Node with {url}"));
    let mut node = node()?;
    node.arg(workspace().join("xtask/js/v86.mjs")).arg("--v86").arg(v86);
    node.arg("--image").arg(fixtures::directory().join("mini-state"));
    node.args(["--network", &url, "--prompt", MINI_PROMPT, "--timeout", "300"]);
    node.args(["ifconfig eth0 up; udhcpc -n -q -i eth0 2>&1", "ping -c 2 -W 5 gateway.env86.internal"]);
    node.arg("nslookup host.env86.internal");
    node.arg(format!("wget -q -O - http://{HOST}:{}/big | sha256sum", http.port));
    let text = output(&mut node)?;
    let hash = hash(&page);
    for wanted in ["lease of 192.168.127.2 obtained", "2 packets received", HOST, &hash] {
        ensure!(text.contains(wanted), "no {wanted:?} in what the guest printed:\n{text}");
    }
    println!("a guest of v86 has got a lease, an answer to a ping, a name and a page of {PAGE} bytes");
    Ok(())
}
