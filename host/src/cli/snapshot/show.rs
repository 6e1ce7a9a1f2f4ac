//! Snapshots as text for people.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use emu_core::snapshot::slots;
use serde::Serialize;

use crate::cli::report::size;
use crate::error::{one_line, printable};
use crate::snapshot::SnapshotFileError;
use crate::snapshot::describe::{Description, Difference};
use crate::snapshot::guest_files::Change;
use crate::snapshot::locate::{Name, Opened};

/// Files and slots listed before the rest is only counted.
const MAX_LINES: usize = 100;

/// A line of `ls`. The names are those of `ls --json`.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    /// `null` for the image's own.
    name: Option<String>,
    file: String,
    /// When it was written, seconds since 1970-01-01 UTC.
    modified: Option<u64>,
    stored_bytes: Option<u64>,
    memory_bytes: Option<u64>,
    compression: Option<&'static str>,
    writer: Option<&'static str>,
    /// Why it cannot be used.
    error: Option<String>,
}

impl Row {
    pub(super) fn new(
        name: Option<Name>,
        file: PathBuf,
        modified: Option<SystemTime>,
        opened: Result<Opened, SnapshotFileError>,
    ) -> Self {
        let modified = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let mut row = Self {
            name: name.map(|name| name.to_string()),
            file: file.display().to_string(),
            modified: modified.map(|time| time.as_secs()),
            stored_bytes: None,
            memory_bytes: None,
            compression: None,
            writer: None,
            error: None,
        };
        match opened {
            Ok(opened) => {
                row.stored_bytes = Some(opened.stored);
                row.memory_bytes = opened.reader.memory_size().ok();
                row.compression = Some(if opened.compressed { "zstd" } else { "raw" });
                let ours = !opened.reader.state().get(slots::EXTRA).is_null();
                row.writer = Some(if ours { "env86" } else { "v86" });
            }
            Err(error) => row.error = Some(one_line(&error)),
        }
        row
    }
}

/// The lines of `ls`.
pub(super) fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no snapshots\n".to_owned();
    }
    let cells: Vec<[String; 6]> = rows.iter().map(cells).collect();
    let head = ["NAME", "WRITTEN", "SIZE", "STORED", "MEMORY", "BY"].map(str::to_owned);
    let mut out = String::new();
    for line in std::iter::once(&head).chain(&cells) {
        for (column, cell) in line.iter().enumerate() {
            let width = std::iter::once(&head).chain(&cells).map(|line| line[column].chars().count()).max();
            let width = if column + 1 < line.len() { width.unwrap_or(0) } else { 0 };
            let _ = write!(out, "{cell:width$}{}", if width > 0 { "  " } else { "\n" });
        }
    }
    out
}

fn cells(row: &Row) -> [String; 6] {
    let name = row.name.clone().unwrap_or_else(|| "(image)".to_owned());
    let written = row.modified.map_or_else(String::new, date);
    match &row.error {
        Some(error) => [name, written, "damaged".into(), String::new(), String::new(), printable(error)],
        None => [
            name,
            written,
            row.stored_bytes.map_or_else(String::new, size),
            row.compression.unwrap_or_default().to_owned(),
            row.memory_bytes.map_or_else(String::new, size),
            row.writer.unwrap_or_default().to_owned(),
        ],
    }
}

/// Seconds since 1970 as a date in UTC (days to civil date after Fliegel and Van Flandern, 1968).
fn date(seconds: u64) -> String {
    let days = i64::try_from(seconds / 86_400).unwrap_or(0);
    let l = days + 2_440_588 + 68_569;
    let n = 4 * l / 146_097;
    let l = l - (146_097 * n + 3) / 4;
    let i = 4000 * (l + 1) / 1_461_001;
    let l = l - 1461 * i / 4 + 31;
    let j = 80 * l / 2447;
    let (day, l) = (l - 2447 * j / 80, j / 11);
    let (month, year) = (j + 2 - 12 * l, 100 * (n - 49) + i + l);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", seconds / 3600 % 24, seconds / 60 % 60)
}

/// The lines of `describe`.
pub(super) fn description(it: &Description) -> String {
    let Description { container, memory, cpu, devices, files, kernel } = it;
    let mut out = String::new();
    let mut line = |name: &str, text: String| {
        let _ = writeln!(out, "{name:<9} {}", printable(&text));
    };
    line("Snapshot", container.file.clone());
    let mut format =
        format!("version {}, {}, written by {}", container.version, container.compression, container.writer);
    if container.parts > 1 {
        let _ = write!(format, ", in {} parts", container.parts);
    }
    if container.mappable {
        format.push_str(", guest memory can be mapped");
    }
    line("Format", format);
    line(
        "Size",
        format!(
            "{} stored, {} unpacked; description {}, {} buffers",
            size(container.stored_bytes),
            size(container.bytes),
            size(container.info_bytes),
            container.buffers
        ),
    );
    line("Memory", format!("{}, {} of it stored", size(memory.bytes), size(memory.stored_bytes)));
    let paging = match (cpu.paging, cpu.pae) {
        (true, true) => ", paging with PAE",
        (true, false) => ", paging",
        _ => "",
    };
    let halted = if cpu.halted { ", halted" } else { "" };
    let place = format!("CS:EIP {:04x}:{:08x}", cpu.cs, cpu.eip);
    line("CPU", format!("{}{paging}, ring {}, {place}{halted}", cpu.mode, cpu.cpl));
    line("Kernel", kernel.clone().unwrap_or_else(|| "unknown".to_owned()));
    line(
        "Files",
        match files {
            Some(files) => format!(
                "{} inodes; {} new or changed files ({}); 9P messages up to {} bytes",
                files.inodes,
                files.changed,
                size(files.changed_bytes),
                files.msize
            ),
            None => "none from the host".to_owned(),
        },
    );
    line("Devices", devices.join(", "));
    out
}

/// The lines of `diff`.
pub(super) fn difference(it: &Difference) -> String {
    let mut out = String::new();
    let [before, after] = it.memory_bytes;
    if before != after {
        let _ = writeln!(out, "Memory    {} -> {}", size(before), size(after));
    }
    let bytes = size(it.changed_pages * 4096);
    let _ = writeln!(out, "Pages     {} of {} changed ({bytes})", it.changed_pages, it.pages);
    let _ = writeln!(out, "Slots     {} differ", it.slots.len());
    for slot in &it.slots {
        let fields: Vec<String> = slot.fields.iter().map(|field| printable(field)).collect();
        let _ = writeln!(out, "  {:>3} {:<24} {}", slot.slot, slot.name, fields.join("; "));
    }
    let _ = writeln!(out, "Files     {} differ", it.files.len());
    for file in it.files.iter().take(MAX_LINES) {
        let sign = match file.change {
            Change::Added => '+',
            Change::Removed => '-',
            Change::Changed => '~',
        };
        let _ = writeln!(out, "  {sign} {}", printable(&file.path));
    }
    if it.files.len() > MAX_LINES {
        let _ = writeln!(out, "  … and {} more (--json lists all)", it.files.len() - MAX_LINES);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn date_is_that_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(951_782_400 + 3600 + 120), "2000-02-29 01:02 UTC");
        assert_eq!(date(1_735_689_599), "2024-12-31 23:59 UTC");
    }
}
