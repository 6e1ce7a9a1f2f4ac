//! What a guest that was restored from a snapshot must not go on with: the time of its snapshot, and the
//! random numbers that every other guest from the same snapshot would draw as well.

use super::client::{self, Guest};
use super::{Deadline, RpcError};
use crate::clock;
use guest86::call::{FRESHEN, method};
use guest86::cbor::Value;
use guest86::limits;
use std::time::Duration;

/// The clock is set again if setting it took so long that it may be off by more than promised.
const SLOW: Duration = Duration::from_millis(400);

/// Attempts to set the clock.
const ATTEMPTS: u32 = 3;

/// Sets the guest's clock and gives its kernel entropy. `wall` is the time since 1970 at this moment.
///
/// The clock is right to half a second, however slow the guest is, as long as its answers take about equally
/// long: half of the call's latency is added beforehand. The Go service cannot do either itself; it is made
/// to run `date`, and a command that writes the entropy to `/dev/urandom`, where it is used but not counted.
pub fn freshen(guest: &Guest, wall: Duration, entropy: &[u8], deadline: Deadline) -> Result<(), RpcError> {
    let start = clock::now();
    let time = |delay: Duration| wall + clock::now().saturating_duration_since(start) + delay;
    let attached = guest.attached(deadline)?;
    let mut delay = attached.latency / 2;
    if !attached.info.can(FRESHEN) {
        // Starting a process takes longer than answering a question; how much is not known.
        let at = time(delay);
        let (seconds, whole) = (at.as_secs(), (at + Duration::from_millis(500)).as_secs());
        let script = format!(
            "date -u -s @{seconds}.{:03} 2>/dev/null || date -u -s @{whole}; set=$?; cat >/dev/urandom; exit $set",
            at.subsec_millis()
        );
        let (status, output) = guest.shell(&script, entropy, deadline)?;
        return if status.code == 0 { Ok(()) } else { Err(RpcError::Remote(output)) };
    }
    let argument = Value::Array(vec![Value::Bytes(entropy.to_vec())]);
    let seeding = client::begin(&attached.link, method::ADD_ENTROPY, &argument, deadline)?;
    for _ in 0..ATTEMPTS {
        let at = time(delay);
        let params = [i128::from(at.as_secs()), i128::from(at.subsec_nanos())].map(Value::Int);
        let sent = clock::now();
        guest.call(method::SET_TIME, &Value::Array(params.into()), deadline)?;
        let took = clock::now().saturating_duration_since(sent);
        if took < SLOW {
            break;
        }
        delay = took / 2;
    }
    client::finish(&seeding, limits::RESPONSE, deadline).map(drop)
}
