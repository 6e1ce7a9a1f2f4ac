//! The network of a guest that was restored, or that booted without setting it up.

use super::client::Guest;
use super::{Deadline, RpcError};
use guest86::call::method;
use guest86::cbor::Value;

/// Ends with 0 if the guest has a way out already, and an address of this network: one that comes from elsewhere
/// has addresses that nobody answers here. Otherwise loads the driver of its card, if it has none: a guest
/// without udev does not do that itself.
const LOOK: &str = "\
    if grep -qs '[[:space:]]00000000[[:space:]]' /proc/net/route &&
        grep -qs '[[:space:]]007FA8C0[[:space:]]' /proc/net/route; then exit 0; fi
    for card in /sys/class/net/*/device; do [ -e \"$card\" ] && exit 1; done
    for device in /sys/bus/pci/devices/*; do
        case $(cat \"$device/class\") in 0x02*) modprobe \"$(cat \"$device/modalias\")\" ;; esac
    done >/dev/null 2>&1
    for device in /sys/bus/virtio/devices/*; do
        case $(cat \"$device/modalias\") in virtio:d00000001*) modprobe virtio_net ;; esac
    done >/dev/null 2>&1
    exit 1";

/// Brings the guest's network up unless it is. A guest that was restored with its address goes on with that: its
/// network is the same one, with the same router.
pub fn raise(guest: &Guest, deadline: Deadline) -> Result<(), RpcError> {
    match guest.shell(LOOK, &[], deadline) {
        Ok((status, _)) if status.code == 0 => Ok(()),
        // Without a shell the service finds out for itself what it can do.
        _ => guest.call(method::RESET_NETWORK, &Value::Array(Vec::new()), deadline).map(drop),
    }
}
