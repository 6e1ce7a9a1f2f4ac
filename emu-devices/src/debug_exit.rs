//! Port F4h: a value written there ends the run with its low byte as status. Test kernels use it; it
//! exists on machines that boot a multiboot kernel only, as on v86. kvm-unit-tests write a dword, as
//! QEMU's device has it.

use emu_core::bus::AccessSize;

use crate::device::{Ctx, Device, ResetKind};

/// The port.
#[derive(Clone, Copy, Debug, Default)]
pub struct DebugExit;

impl DebugExit {
    /// Ports to claim: `(first, count)`.
    pub const PORTS: &[(u16, u16)] = &[(0xF4, 1)];
}

impl Device for DebugExit {
    fn name(&self) -> &'static str {
        "debug-exit"
    }

    fn port_write(&mut self, ctx: &mut Ctx<'_>, _: u16, _: AccessSize, value: u32) {
        ctx.requests.exit_code = Some(value as u8);
    }

    fn reset(&mut self, _: &mut Ctx<'_>, _: ResetKind) {}

    fn as_any(&mut self) -> &mut dyn std::any::Any {
        self
    }
}
