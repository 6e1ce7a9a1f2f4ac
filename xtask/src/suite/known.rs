//! Failures that are right: the SDM is on our side, or the test is about another processor.

use super::{Row, Verdict};

/// A failure with its reason.
struct Known {
    suite: &'static str,
    /// The test; `*` at the end stands for anything.
    test: &'static str,
    /// Whether a failed check is meant.
    check: fn(&str) -> bool,
    reason: &'static str,
}

const KNOWN: &[Known] = &[
    Known {
        suite: super::qemu::NAME,
        test: "test-i386",
        check: long_double_shift,
        reason: LONG_DOUBLE_SHIFT,
    },
    Known {
        suite: super::qemu::NAME_V86,
        test: "test-i386",
        check: |check| long_double_shift(check) || approximation(check),
        reason: LONG_DOUBLE_SHIFT_OR_APPROXIMATION,
    },
    Known {
        suite: super::kvm::NAME,
        test: "msr",
        check: |check| ["MSR_IA32_MISC_ENABLE", "MSR_IA32_CR_PAT", "MSR_EFER"].contains(&check),
        reason: "CPUID has no feature that these registers control; SDM vol. 4: the registers depend on it",
    },
    Known {
        suite: super::kvm::NAME,
        test: "hypercall",
        check: |check| check.starts_with("Hypercall via VMCALL: #UD"),
        reason: VMCALL,
    },
    Known {
        suite: super::kvm::NAME,
        test: "vmexit_vmcall",
        check: |check| check.contains("#UD"),
        reason: VMCALL,
    },
    Known {
        suite: super::kvm::NAME,
        test: "s3",
        check: |check| check.contains("PM1a event registers"),
        reason: "S3 is optional (ACPI 16.1): our tables offer no _S3, and the test does not look",
    },
];

const VMCALL: &str = "VMCALL outside VMX operation raises #UD (SDM vol. 3, VMCALL); the test wants KVM";

const LONG_DOUBLE_SHIFT: &str =
    "SHLD and SHRD of words by more than 16: result and flags are undefined (SDM vol. 2)";
const LONG_DOUBLE_SHIFT_OR_APPROXIMATION: &str = "SHLD and SHRD of words by more than 16: undefined; RCP and RSQRT: within the error the SDM allows (vol. 2)";

/// `shrdw A=... C=00000013 ...`, the same count on both sides.
fn long_double_shift(check: &str) -> bool {
    let line = check.strip_prefix('"').unwrap_or(check);
    let count = line.split_once(" C=").and_then(|(_, rest)| u32::from_str_radix(rest.get(..8)?, 16).ok());
    (line.starts_with("shldw ") || line.starts_with("shrdw ")) && count.is_some_and(|count| count & 31 > 16)
}

/// Lines of the four approximating SSE instructions.
fn approximation(check: &str) -> bool {
    let line = check.strip_prefix('"').unwrap_or(check);
    ["rcpps ", "rcpss ", "rsqrtps ", "rsqrtss "].iter().any(|name| line.starts_with(name))
}

impl Known {
    fn covers(&self, row: &Row, check: &str) -> bool {
        let test = match self.test.strip_suffix('*') {
            Some(start) => row.test.starts_with(start),
            None => row.test == self.test,
        };
        self.suite == row.suite && test && (self.check)(check)
    }
}

/// `None` if the row has not failed; else the reasons if every failed check of it has one.
pub fn judge(row: &Row) -> Option<Option<String>> {
    judge_with(KNOWN, row)
}

fn judge_with(list: &[Known], row: &Row) -> Option<Option<String>> {
    let Verdict::Fail(checks) = &row.verdict else { return None };
    let mut reasons: Vec<&str> = Vec::new();
    for check in checks {
        let Some(known) = list.iter().find(|known| known.covers(row, check)) else { return Some(None) };
        if !reasons.contains(&known.reason) {
            reasons.push(known.reason);
        }
    }
    Some((!checks.is_empty()).then(|| reasons.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[Known] = &[
        Known { suite: "kvm", test: "msr", check: |check| check.contains("EFER"), reason: "no long mode" },
        Known { suite: "kvm", test: "vmexit_*", check: |_| true, reason: "prints only" },
    ];

    fn row(test: &str, checks: &[&str]) -> Row {
        let checks = checks.iter().map(|check| check.to_string()).collect();
        Row { suite: "kvm", test: test.to_owned(), engine: "jit", verdict: Verdict::Fail(checks) }
    }

    #[test]
    fn failure_is_known_only_if_each_of_its_checks_is() {
        assert_eq!(judge_with(LIST, &row("msr", &["write EFER"])), Some(Some("no long mode".into())));
        assert_eq!(judge_with(LIST, &row("msr", &["write EFER", "write PAT"])), Some(None));
        assert_eq!(judge_with(LIST, &row("msr2", &["write EFER"])), Some(None));
        assert_eq!(judge_with(LIST, &row("vmexit_cpuid", &["x"])), Some(Some("prints only".into())));
        assert_eq!(judge_with(LIST, &row("msr", &[])), Some(None));
    }

    #[test]
    fn long_double_shift_means_words_and_counts_above_16() {
        assert!(long_double_shift("\"shrdw      A=12345678 B=21ad3d34 C=00000013 R=1\" instead of"));
        assert!(!long_double_shift("\"shrdw      A=12345678 B=21ad3d34 C=00000010 R=1\" instead of"));
        assert!(!long_double_shift("\"shrdl      A=12345678 B=21ad3d34 C=00000013 R=1\" instead of"));
    }

    #[test]
    fn what_has_not_failed_is_not_judged() {
        let row = Row { verdict: Verdict::Pass, ..row("msr", &[]) };
        assert_eq!(judge_with(LIST, &row), None);
    }
}
