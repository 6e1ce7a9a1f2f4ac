//! Why an instruction did not simply complete.

use std::num::NonZeroU64;

/// Result of an instruction or of a step of one.
pub type Exec<T = ()> = Result<T, Trap>;

/// Exception and interrupt vectors of the i386.
#[allow(missing_docs)] // the mnemonics of SDM vol. 3, table 6-1
pub mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const MC: u8 = 18;
    pub const XM: u8 = 19;
}

/// An exception to deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Vector number.
    pub vector: u8,
    /// Error code, for the vectors that push one.
    pub error: Option<u16>,
}

/// Why an instruction stopped before its end. Eight bytes with a niche, so that
/// `Result<(), Trap>` fits a register.
///
/// No guest state may have changed when it is an exception (apart from what the instruction's
/// definition says, such as the counters of a REP).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Trap(NonZeroU64);

/// What a [`Trap`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrapKind {
    /// A fault: deliver it with EIP at the instruction.
    Exception(Exception),
    /// A repeated string instruction made a part of its iterations, or an x87 instruction waits for the
    /// interrupt of FERR#: it is to be executed again. EIP stays; the pass counts as one instruction.
    Restart,
    /// Shutdown (triple fault).
    Shutdown,
}

const EXCEPTION: u64 = 1;
const RESTART: u64 = 2;
const SHUTDOWN: u64 = 3;
const HAS_ERROR: u64 = 1 << 16;

impl Trap {
    /// See [`TrapKind::Restart`].
    pub const RESTART: Self = Self::raw(RESTART);
    /// See [`TrapKind::Shutdown`].
    pub const SHUTDOWN: Self = Self::raw(SHUTDOWN);

    const fn raw(v: u64) -> Self {
        match NonZeroU64::new(v) {
            Some(v) => Self(v),
            None => unreachable!(),
        }
    }

    /// An exception without error code.
    #[inline]
    pub const fn exception(vector: u8) -> Self {
        Self::raw(EXCEPTION | (vector as u64) << 8)
    }

    /// An exception with error code.
    #[inline]
    pub const fn with_error(vector: u8, error: u16) -> Self {
        Self::raw(EXCEPTION | HAS_ERROR | (vector as u64) << 8 | (error as u64) << 32)
    }

    /// #UD.
    pub const UD: Self = Self::exception(vector::UD);
    /// #NM.
    pub const NM: Self = Self::exception(vector::NM);
    /// #DE.
    pub const DE: Self = Self::exception(vector::DE);
    /// #MF.
    pub const MF: Self = Self::exception(vector::MF);
    /// #XM.
    pub const XM: Self = Self::exception(vector::XM);
    /// #GP(0).
    pub const GP0: Self = Self::with_error(vector::GP, 0);
    /// #SS(0).
    pub const SS0: Self = Self::with_error(vector::SS, 0);

    /// #GP with an error code.
    pub const fn gp(error: u16) -> Self {
        Self::with_error(vector::GP, error)
    }

    /// #NP with an error code.
    pub const fn np(error: u16) -> Self {
        Self::with_error(vector::NP, error)
    }

    /// #SS with an error code.
    pub const fn ss(error: u16) -> Self {
        Self::with_error(vector::SS, error)
    }

    /// #TS with an error code.
    pub const fn ts(error: u16) -> Self {
        Self::with_error(vector::TS, error)
    }

    /// Unpacks.
    pub fn kind(self) -> TrapKind {
        let v = self.0.get();
        match v & 0xFF {
            EXCEPTION => TrapKind::Exception(Exception {
                vector: (v >> 8) as u8,
                error: (v & HAS_ERROR != 0).then_some((v >> 32) as u16),
            }),
            RESTART => TrapKind::Restart,
            _ => TrapKind::Shutdown,
        }
    }
}

impl From<Exception> for Trap {
    fn from(e: Exception) -> Self {
        match e.error {
            Some(code) => Self::with_error(e.vector, code),
            None => Self::exception(e.vector),
        }
    }
}

impl std::fmt::Debug for Trap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.kind().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trap_round_trips_and_fits_a_register() {
        assert_eq!(size_of::<Exec>(), 8);
        let e = Exception { vector: 14, error: Some(7) };
        assert_eq!(Trap::from(e).kind(), TrapKind::Exception(e));
        assert_eq!(Trap::UD.kind(), TrapKind::Exception(Exception { vector: 6, error: None }));
        assert_eq!(Trap::RESTART.kind(), TrapKind::Restart);
    }
}
