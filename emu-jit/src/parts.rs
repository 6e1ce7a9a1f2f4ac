//! Parts of the translator that can be switched off, to find out which of them is to blame.

/// A part that can be switched off. Without it the guest computes the same, slower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Part {
    /// Direct branches lead from one translation to the next.
    Links,
    /// Indirect branches look for their target in a table.
    Indirect,
    /// A guest CALL is a host CALL, and a RET returns from it.
    Returns,
    /// Looks around that find nothing do not leave translated code.
    Looks,
    /// Flags that nobody can see are not stored.
    Flags,
    /// Flags that only a slow access can see are computed there.
    Recipes,
    /// Flags that are live at the end of a block are left to what follows it.
    Lazy,
    /// Several accesses relative to ESP or EBP share one lookup.
    Frames,
    /// Blocks that run often are translated together with those that follow them.
    Regions,
    /// Loads of segment registers use descriptors that were checked before.
    Descriptors,
    /// Native lowering of instructions that access memory.
    Memory,
    /// Native lowering of control transfers.
    Branches,
    /// Native lowering of the other integer instructions.
    Integer,
    /// Native lowering of string instructions.
    Strings,
    /// Native lowering of PUSHF, STI, CLI and of moves from and to segment registers.
    System,
    /// Native lowering of x87 instructions.
    Fpu,
    /// Native lowering of MMX instructions.
    Mmx,
    /// Native lowering of SSE instructions.
    Simd,
    /// Use of BMI2.
    Bmi2,
    /// Translation of code whose segments are not flat, 16-bit code among it.
    Segments,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::Links,
        Self::Indirect,
        Self::Returns,
        Self::Looks,
        Self::Flags,
        Self::Recipes,
        Self::Lazy,
        Self::Frames,
        Self::Regions,
        Self::Descriptors,
        Self::Memory,
        Self::Branches,
        Self::Integer,
        Self::Strings,
        Self::System,
        Self::Fpu,
        Self::Mmx,
        Self::Simd,
        Self::Bmi2,
        Self::Segments,
    ];

    /// Its name in options.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Links => "links",
            Self::Indirect => "indirect",
            Self::Returns => "returns",
            Self::Looks => "looks",
            Self::Flags => "flags",
            Self::Recipes => "recipes",
            Self::Lazy => "lazy",
            Self::Frames => "frames",
            Self::Regions => "regions",
            Self::Descriptors => "descriptors",
            Self::Memory => "memory",
            Self::Branches => "branches",
            Self::Integer => "integer",
            Self::Strings => "strings",
            Self::System => "system",
            Self::Fpu => "fpu",
            Self::Mmx => "mmx",
            Self::Simd => "simd",
            Self::Bmi2 => "bmi2",
            Self::Segments => "segments",
        }
    }
}

/// A set of [`Part`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts(u32);

impl Parts {
    /// None.
    pub const NONE: Self = Self(0);

    /// Those of a list.
    #[must_use]
    pub fn of(parts: &[Part]) -> Self {
        parts.iter().fold(Self::NONE, |all, &part| all.with(part))
    }

    /// Any set, from the low bits of a number.
    #[must_use]
    pub fn from_bits(bits: u32) -> Self {
        Self(bits & ((1 << Part::ALL.len()) - 1))
    }

    /// With one more.
    #[must_use]
    pub const fn with(self, part: Part) -> Self {
        Self(self.0 | 1 << part as u32)
    }

    /// Those of either set.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The part is among them.
    #[must_use]
    pub const fn has(self, part: Part) -> bool {
        self.0 >> part as u32 & 1 != 0
    }

    /// Names in the order of [`Part::ALL`].
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        Part::ALL.into_iter().filter(|&part| self.has(part)).map(Part::name).collect()
    }

    /// Reads names separated by commas.
    ///
    /// # Errors
    /// A word that names no part.
    pub fn parse(text: &str) -> Result<Self, String> {
        text.split(',').map(str::trim).filter(|word| !word.is_empty()).try_fold(Self::NONE, |all, word| {
            match Part::ALL.into_iter().find(|part| part.name() == word) {
                Some(part) => Ok(all.with(part)),
                None => Err(format!("{word} is none of {}", Part::ALL.map(Part::name).join(", "))),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_printed() {
        let all = Parts::of(&Part::ALL);
        assert_eq!(Parts::parse(&all.names().join(",")), Ok(all));
        assert_eq!(Parts::parse("fpu, links"), Ok(Parts::of(&[Part::Fpu, Part::Links])));
        assert_eq!(Parts::parse(""), Ok(Parts::NONE));
        assert!(Parts::parse("fpu,wings").unwrap_err().starts_with("wings is none of links, "));
        assert_eq!(Parts::from_bits(u32::MAX), all);
    }
}
