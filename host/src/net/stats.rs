//! Counters.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter that one thread counts and others read.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn inc(&self) {
        self.add(1);
    }

    pub(super) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a network has done since its start, and what it holds now.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct NetStats {
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: Counter,)*
        }

        impl Counters {
            pub(super) fn snapshot(&self) -> NetStats {
                NetStats { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    /// Frames from the guest.
    rx_frames,
    /// Bytes in them.
    rx_bytes,
    /// Frames for the guest.
    tx_frames,
    /// Bytes in them.
    tx_bytes,
    /// Frames of the guest that the queue of the cable had no room for.
    overruns,
    /// Frames and packets of the guest that are malformed.
    malformed,
    /// Frames and packets whose sender's address is not the sender's.
    spoofed,
    /// Frames of protocols that do not exist here (IPv6, VLANs, others), and packets for nobody.
    ignored,
    /// Connections, datagrams and pings that the policy forbids.
    denied,
    /// What was dropped because a table or queue was full.
    limited,
    /// Frames that impairments have lost.
    impaired,
    /// TCP connections the guest has opened to the outside.
    tcp_opened,
    /// Those that failed.
    tcp_failed,
    /// Connections accepted by forwards.
    tcp_accepted,
    /// TCP connections there are now.
    tcp_flows,
    /// UDP conversations begun.
    udp_opened,
    /// UDP conversations there are now.
    udp_flows,
    /// Pings forwarded.
    pings,
    /// Questions to the DNS server.
    dns_queries,
    /// Leases given or renewed.
    dhcp_acks,
}

impl Counters {
    pub(super) fn set_tcp_flows(&self, n: usize) {
        self.tcp_flows.set(n as u64);
    }

    pub(super) fn set_udp_flows(&self, n: usize) {
        self.udp_flows.set(n as u64);
    }

    pub(super) fn set_overruns(&self, n: u64) {
        self.overruns.set(n);
    }
}
