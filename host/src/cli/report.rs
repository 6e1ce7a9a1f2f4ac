//! What env86 tells its user, as text or as JSON lines, on standard error.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::console::terminal;
use crate::error::{Error, one_line, printable};

/// Prints errors, warnings and notes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reporter {
    /// One JSON object per line instead of text.
    pub json: bool,
    /// Errors only.
    pub quiet: bool,
}

impl Reporter {
    /// An error, with what to try if that is known.
    pub fn error(self, error: &anyhow::Error) {
        let hint = error.chain().find_map(|cause| cause.downcast_ref::<Error>()?.hint());
        self.failure(&one_line(error.as_ref()), hint.as_deref());
    }

    /// An error in words.
    pub fn failure(self, message: &str, hint: Option<&str>) {
        let message = printable(message);
        let hint = hint.map(printable);
        if self.json {
            let mut object = json!({ "level": "error", "message": message });
            if let Some(hint) = hint {
                object["hint"] = hint.into();
            }
            return self.object(&object);
        }
        self.line(&format!("env86: {message}"));
        if let Some(hint) = hint {
            self.line(&format!("hint: {hint}"));
        }
    }

    /// Something that the user should know but that stops nothing.
    pub fn warning(self, message: &str) {
        if self.quiet {
            return;
        }
        let message = printable(message);
        if self.json {
            self.object(&json!({ "level": "warning", "message": message }));
        } else {
            self.line(&format!("env86: warning: {message}"));
        }
    }

    /// Lines the user asked for.
    pub fn text(self, text: &str) {
        text.lines().for_each(|line| self.line(&printable(line)));
    }

    /// A JSON object for programs.
    pub fn object(self, object: &Value) {
        self.line(&object.to_string());
    }

    fn line(self, line: &str) {
        // In raw mode the cursor stays in its column, and may be in any.
        let (before, after) = if terminal::is_raw() { ("\r\n", "\r\n") } else { ("", "\n") };
        // Nobody is left to be told if standard error is gone.
        let _ = io::stderr().lock().write_all(format!("{before}{line}{after}").as_bytes());
    }
}

/// Bytes with a unit.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        0x10_0000..0x4000_0000 => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
        _ => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_has_a_unit() {
        assert_eq!(
            [0, 1023, 1536, 64 << 20, 3 << 30].map(size),
            ["0 B", "1023 B", "1.5 KiB", "64.0 MiB", "3.0 GiB"]
        );
    }
}
