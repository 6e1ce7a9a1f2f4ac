//! Failures that are right: the SDM is on our side, or the test is about another processor.

use super::{Row, Verdict};

/// A failure with its reason.
struct Known {
    suite: &'static str,
    /// The test; `*` at the end stands for anything.
    test: &'static str,
    /// What a failed check contains.
    check: &'static str,
    reason: &'static str,
}

const KNOWN: &[Known] = &[];

impl Known {
    fn covers(&self, row: &Row, check: &str) -> bool {
        let test = match self.test.strip_suffix('*') {
            Some(start) => row.test.starts_with(start),
            None => row.test == self.test,
        };
        self.suite == row.suite && test && check.contains(self.check)
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
        Known { suite: "kvm", test: "msr", check: "EFER", reason: "no long mode" },
        Known { suite: "kvm", test: "vmexit_*", check: "", reason: "prints only" },
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
    fn what_has_not_failed_is_not_judged() {
        let row = Row { verdict: Verdict::Pass, ..row("msr", &[]) };
        assert_eq!(judge_with(LIST, &row), None);
    }
}
