//! The processor: state, flags, segments, paging, exceptions, interrupts.

pub mod tlb;
