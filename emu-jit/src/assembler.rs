//! What `dynasm!` writes to: code whose second part, the *cold* one, can be put elsewhere. Most code of a block is
//! stubs that hardly ever run; apart from what runs they do not take up the host's caches.

use dynasmrt::components::LabelRegistry;
use dynasmrt::x64::X64Relocation;
use dynasmrt::{AssemblyOffset, DynamicLabel, DynasmApi, DynasmLabelApi};

/// Where a displacement leads.
#[derive(Clone, Copy)]
enum To {
    Label(usize),
    Address(usize),
    Offset(usize),
}

/// Code under construction.
pub(crate) struct Assembler {
    code: Vec<u8>,
    /// Only numbers labels.
    registry: LabelRegistry,
    /// Offsets of labels.
    labels: Vec<usize>,
    /// 32-bit displacements, relative to what follows them.
    displacements: Vec<(usize, To)>,
}

/// A label that has not been placed.
const NOWHERE: usize = usize::MAX;

impl Assembler {
    /// No code.
    pub(crate) fn new() -> Self {
        Self {
            code: Vec::with_capacity(2048),
            registry: LabelRegistry::new(),
            labels: Vec::with_capacity(64),
            displacements: Vec::with_capacity(64),
        }
    }

    /// A new label.
    pub(crate) fn new_dynamic_label(&mut self) -> DynamicLabel {
        self.labels.push(NOWHERE);
        self.registry.new_dynamic_label()
    }

    /// Offset of a label that has been placed.
    pub(crate) fn place_of(&self, label: DynamicLabel) -> Option<usize> {
        self.labels.get(label.get_id()).copied().filter(|&at| at != NOWHERE)
    }

    /// A displacement that leads to an address outside.
    pub(crate) fn push_distance_to(&mut self, address: usize) {
        self.displacements.push((self.code.len(), To::Address(address)));
        self.push_i32(0);
    }

    /// A displacement that leads to a label.
    pub(crate) fn push_distance_to_label(&mut self, label: DynamicLabel) {
        self.displacements.push((self.code.len(), To::Label(label.get_id())));
        self.push_i32(0);
    }

    /// Makes the displacement at an offset lead to another offset.
    pub(crate) fn lead(&mut self, at: usize, to: usize) {
        self.displacements.push((at, To::Offset(to)));
    }

    /// The code, with what lies from `hot` on at another address. `None` if a label has no place, or if something is
    /// too far away.
    pub(crate) fn finish(mut self, hot: usize, address: usize, cold_address: usize) -> Option<Vec<u8>> {
        let address_of =
            |at: usize| if at < hot { address.wrapping_add(at) } else { cold_address.wrapping_add(at - hot) };
        for &(at, to) in &self.displacements {
            let to = match to {
                To::Label(n) => address_of(self.labels.get(n).copied().filter(|&at| at != NOWHERE)?),
                To::Address(address) => address,
                To::Offset(at) => address_of(at),
            };
            let distance = to.wrapping_sub(address_of(at).wrapping_add(4)) as isize;
            let distance = i32::try_from(distance).ok()?;
            self.code.get_mut(at..at + 4)?.copy_from_slice(&distance.to_le_bytes());
        }
        Some(self.code)
    }

    /// The code, all at one address.
    pub(crate) fn finish_at(self, address: usize) -> Option<Vec<u8>> {
        let len = self.code.len();
        self.finish(len, address, address.wrapping_add(len))
    }
}

impl Extend<u8> for Assembler {
    fn extend<T: IntoIterator<Item = u8>>(&mut self, bytes: T) {
        self.code.extend(bytes);
    }
}

impl<'a> Extend<&'a u8> for Assembler {
    fn extend<T: IntoIterator<Item = &'a u8>>(&mut self, bytes: T) {
        self.code.extend(bytes);
    }
}

impl DynasmApi for Assembler {
    fn offset(&self) -> AssemblyOffset {
        AssemblyOffset(self.code.len())
    }

    fn push(&mut self, byte: u8) {
        self.code.push(byte);
    }

    fn align(&mut self, alignment: usize, with: u8) {
        self.code.resize(self.code.len().next_multiple_of(alignment), with);
    }
}

impl DynasmLabelApi for Assembler {
    type Relocation = X64Relocation;

    fn local_label(&mut self, name: &'static str) {
        unreachable!("label {name} is not dynamic")
    }

    fn global_label(&mut self, name: &'static str) {
        unreachable!("label {name} is not dynamic")
    }

    fn dynamic_label(&mut self, id: DynamicLabel) {
        let here = self.code.len();
        if let Some(at) = self.labels.get_mut(id.get_id()) {
            *at = here;
        }
    }

    fn forward_relocation(&mut self, name: &'static str, _: isize, _: u8, _: u8, _: X64Relocation) {
        unreachable!("label {name} is not dynamic")
    }

    fn backward_relocation(&mut self, name: &'static str, _: isize, _: u8, _: u8, _: X64Relocation) {
        unreachable!("label {name} is not dynamic")
    }

    fn global_relocation(&mut self, name: &'static str, _: isize, _: u8, _: u8, _: X64Relocation) {
        unreachable!("label {name} is not dynamic")
    }

    fn dynamic_relocation(
        &mut self,
        id: DynamicLabel,
        target_offset: isize,
        field_offset: u8,
        ref_offset: u8,
        _: X64Relocation,
    ) {
        debug_assert!(target_offset == 0 && ref_offset == 0, "a branch to a label");
        let at = self.code.len() - usize::from(field_offset);
        debug_assert!(field_offset == 4, "32-bit displacements only");
        self.displacements.push((at, To::Label(id.get_id())));
    }

    fn value_relocation(&mut self, value: usize, field_offset: u8, _: u8, _: X64Relocation) {
        let at = self.code.len() - usize::from(field_offset);
        self.displacements.push((at, To::Address(value)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynasm::dynasm;

    #[test]
    fn branches_between_hot_and_cold_code_lead_there_and_back() {
        let mut ops = Assembler::new();
        let (stub, back) = (ops.new_dynamic_label(), ops.new_dynamic_label());
        dynasm!(ops ; .arch x64 ; jz =>stub ; =>back ; ret);
        let hot = ops.offset().0;
        dynasm!(ops ; .arch x64 ; =>stub ; nop ; jmp =>back);
        ops.push(0xE8);
        ops.push_distance_to(0x5000);
        assert_eq!(ops.place_of(stub), Some(hot));
        let code = ops.finish(hot, 0x1000, 0x3000).unwrap();
        let displacement = |at: usize| i32::from_le_bytes(code[at..at + 4].try_into().unwrap());
        assert_eq!(displacement(2), 0x3000 - 0x1006);
        assert_eq!(displacement(hot + 2), 0x1006 - 0x3006);
        assert_eq!(displacement(hot + 7), 0x5000 - 0x300B);
    }

    #[test]
    fn label_without_place_gives_no_code() {
        let mut ops = Assembler::new();
        let label = ops.new_dynamic_label();
        dynasm!(ops ; .arch x64 ; jmp =>label);
        assert!(ops.finish_at(0).is_none());
    }
}
