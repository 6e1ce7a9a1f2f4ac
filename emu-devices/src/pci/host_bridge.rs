//! 82441FX (PMC), the host bridge.

use super::config::PciFunction;

/// First programmable attribute map register; 59h-5Fh say whether C0000h-FFFFFh is ROM or RAM.
/// They are storage only: the range is always RAM.
pub(super) const PAM0: u8 = 0x59;
/// System management RAM control.
pub(super) const SMRAM: u8 = 0x72;

/// The host bridge at power-up. PAM0 is preset to "read RAM", which makes SeaBIOS believe that
/// shadowing is already on; without it SeaBIOS would run from the image below 4 GiB.
pub fn host_bridge() -> PciFunction {
    PciFunction::new("82441FX", [0x8086, 0x1237]).class([0x06, 0x00, 0x00], 2).bytes(PAM0, &[0x10])
}
