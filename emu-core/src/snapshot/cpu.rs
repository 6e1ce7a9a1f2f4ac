//! The processor's slots.
