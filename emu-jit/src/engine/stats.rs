//! What the translator counts.

/// Counters of a [`Jit`](super::Jit).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JitStats {
    /// Blocks translated.
    pub translated: u64,
    /// Instructions translated, and those of them that were lowered natively.
    pub instructions: u64,
    /// See [`JitStats::instructions`].
    pub native: u64,
    /// Bytes of host code emitted.
    pub bytes: u64,
    /// Regions made, instructions in them, and regions dropped because guest code of theirs was overwritten.
    pub regions: u64,
    /// See [`JitStats::regions`].
    pub region_instructions: u64,
    /// See [`JitStats::regions`].
    pub regions_dropped: u64,
    /// Translations dropped because their guest code was overwritten.
    pub dropped: u64,
    /// Times the whole cache was dropped.
    pub flushes: u64,
    /// Times host code was entered.
    pub entries: u64,
    /// Host code was left for: a trap or something to look at, an unlinked branch, an unknown indirect
    /// target, an exhausted budget or a dropped block, a changed mode.
    pub left: [u64; 5],
    /// Exits of the first kind by cause: a trap that shuts down, the budget, overwritten code, an interrupt
    /// or request, HLT or debugging, a mode without translations.
    pub attention: [u64; 6],
    /// Blocks left because SSE or x87 registers could not be used.
    pub refused: u64,
    /// Direct branches linked to a translation.
    pub linked: u64,
    /// Links undone because their target was dropped.
    pub unlinked: u64,
    /// Indirect targets entered into the table.
    pub targets: u64,
    /// Returns, if [`Options::count`] asks for it.
    pub returns: u64,
    /// Returns that did not go behind the call they belong to.
    pub returns_missed: u64,
    /// Returns without a call that is remembered.
    pub returns_unpaired: u64,
    /// Returns behind the call they belong to, past calls that have not returned.
    pub returns_resumed: u64,
    /// Interpreter functions called from host code for instructions without a lowering.
    pub calls: u64,
    /// Interpreter functions called from host code because an access was not fast, or another condition of
    /// the lowering did not hold.
    pub slow: u64,
    /// Looks around that found nothing to do and did not leave host code.
    pub passed: u64,
    /// Instructions executed by the interpreter.
    pub interpreted: u64,
}
