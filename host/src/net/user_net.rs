//! A network at work: its start, its thread, its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::cable::{NetEnd, NetWaker};
use super::config::NetConfig;
use super::connector::{Connector, HostConnector};
use super::forward;
use super::hosts::Hosts;
use super::io::Io;
use super::line::Line;
use super::names::Names;
use super::pcap::Pcap;
use super::policy::Guard;
use super::poller::Poller;
use super::stack::Stack;
use super::stats::{Counters, NetStats};
use super::{BoundForward, NetError};
use crate::clock;
use crate::limits::{NET_DNS_QUERIES, NET_TCP_FLOWS, NET_UDP_FLOWS};

/// Descriptors for everything else in this process.
const OTHER_DESCRIPTORS: usize = 1024;

/// A running network. Ends when it is dropped.
pub struct UserNet {
    forwards: Vec<BoundForward>,
    counters: Arc<Counters>,
    stop: Arc<AtomicBool>,
    waker: NetWaker,
    thread: Option<JoinHandle<()>>,
}

impl UserNet {
    /// Starts a network on the other end of a card's cable, with a thread of its own named `net`. When this
    /// returns, the forwards listen.
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn start(config: NetConfig, end: NetEnd) -> Result<Self, NetError> {
        crate::descriptors::raise_to(
            (NET_TCP_FLOWS + NET_UDP_FLOWS + NET_DNS_QUERIES + OTHER_DESCRIPTORS) as u64,
        );
        Self::start_with(config, end, Box::new(HostConnector))
    }

    pub(super) fn start_with(
        config: NetConfig,
        end: NetEnd,
        connector: Box<dyn Connector>,
    ) -> Result<Self, NetError> {
        let waker = end.waker();
        let counters = Arc::new(Counters::default());
        let mut seed = [0; 8];
        getrandom::fill(&mut seed)
            .map_err(|error| NetError::Host(std::io::Error::other(error.to_string())))?;
        let seed = u64::from_ne_bytes(seed);
        let (mut stack, forwards) = build(config, end, connector, counters.clone(), seed)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, for_counters, overruns) = (stop.clone(), counters.clone(), waker.clone());
        let body = move || {
            while !stopped.load(Ordering::Acquire) {
                stack.wait(None);
                stack.turn(clock::now());
                for_counters.set_overruns(overruns.dropped());
            }
            stack.close();
        };
        let thread =
            std::thread::Builder::new().name("net".to_owned()).spawn(body).map_err(NetError::Host)?;
        Ok(Self { forwards, counters, stop, waker, thread: Some(thread) })
    }

    /// What listens, in the order of the configuration.
    pub fn forwards(&self) -> &[BoundForward] {
        &self.forwards
    }

    /// What has happened so far.
    pub fn stats(&self) -> NetStats {
        self.counters.snapshot()
    }

    /// Ends the network: connections are broken off, listeners closed, the capture file is complete.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for UserNet {
    fn drop(&mut self) {
        self.end();
    }
}

/// Makes a network without a thread. Everything random in it comes from `seed`.
pub(super) fn build(
    config: NetConfig,
    end: NetEnd,
    connector: Box<dyn Connector>,
    counters: Arc<Counters>,
    seed: u64,
) -> Result<(Stack, Vec<BoundForward>), NetError> {
    if !config.policy.is_bounded() {
        return Err(NetError::TooMany("rules"));
    }
    let pcap = match &config.pcap {
        None => None,
        Some(path) => {
            Some(Pcap::create(path).map_err(|source| NetError::Pcap { path: path.clone(), source })?)
        }
    };
    let bound = forward::bind(&config.forwards)?;
    let forwards = bound.forwards.clone();
    let line = Line::new(end, pcap, config.impairments, counters.clone());
    let io = Io::new(
        line,
        Poller::new().map_err(NetError::Host)?,
        connector,
        Guard::new(config.policy, config.host_access),
        Hosts::new(config.guest_mac),
        counters,
        clock::now(),
        seed,
    );
    let names = Names::new(config.guest_name, config.dns_servers);
    let stack = Stack::new(io, config.guest_mac, config.announce, config.ahead, names, bound)
        .map_err(NetError::Host)?;
    Ok((stack, forwards))
}
