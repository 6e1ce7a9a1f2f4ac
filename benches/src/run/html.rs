//! The report as one page: charts drawn here as SVG, nothing loaded from elsewhere, no scripts.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::engines::Engine;
use super::results::{Results, Row, show_ratio};
use super::workloads::Group;

/// Pixels of a chart: names on the left, bars, numbers on the right.
const NAMES: f64 = 130.0;
const BARS: f64 = 560.0;
const NUMBERS: f64 = 90.0;
const BAR: f64 = 11.0;
const GAP: f64 = 9.0;
const AXIS: f64 = 20.0;

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;\
color:#1c2733;background:#fff}h1{font-size:1.5em}h2{font-size:1.15em;margin:1.6em 0 .3em}\
svg text{font:11px system-ui,sans-serif;fill:currentColor}table{border-collapse:collapse;font-size:13px}\
td,th{padding:2px 9px;text-align:right;border-bottom:1px solid #8883}td:first-child,th:first-child{text-align:left}\
.scroll{overflow-x:auto}.key span{display:inline-block;width:.9em;height:.9em;margin:0 .35em 0 1em;\
vertical-align:-.1em}.grid{stroke:#8884}@media(prefers-color-scheme:dark){body{background:#14191f;color:#d7dee6}}";

fn color(engine: Engine) -> &'static str {
    match engine {
        Engine::Native => "#8a94a0",
        Engine::Env86 => "#1d8f6d",
        Engine::Qemu => "#d98324",
        Engine::V86 => "#7a5bd0",
    }
}

/// Writes the page.
///
/// # Errors
/// The file cannot be written.
pub fn write(file: &Path, results: &Results) -> Result<()> {
    fs::write(file, page(results)).with_context(|| format!("cannot write {}", file.display()))
}

/// Text for HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn page(results: &Results) -> String {
    let mut page = String::from("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    page += "<meta name=\"viewport\" content=\"width=device-width\"><title>env86 and its peers</title>";
    let _ = writeln!(page, "<style>{STYLE}</style></head><body><h1>env86 and its peers</h1>");
    let _ = writeln!(page, "<p>{}</p>", escape(&results.header.to_string()).trim().replace('\n', "<br>"));
    page += "<p class=\"key\">";
    for (engine, version) in &results.engines {
        let (color, name) = (color(*engine), engine.name());
        let _ = write!(page, "<span style=\"background:{color}\"></span><b>{name}</b> {}", escape(version));
    }
    page += "</p>\n";
    let _ = writeln!(
        page,
        "<p>Guest: {}. Programs: SHA-256 {}. Medians; shorter bars are better; the scale is logarithmic.{}</p>",
        escape(&results.guest),
        escape(&results.programs),
        if results.quick {
            " A quick run: starting and translating weigh more than they should."
        } else {
            ""
        }
    );
    for group in Group::ALL {
        let rows: Vec<_> = results.rows.iter().filter(|row| row.group == group).collect();
        if rows.is_empty() {
            continue;
        }
        let _ = writeln!(page, "<h2>{}</h2>", group.name());
        page += &chart(results, group, &rows);
    }
    page += "<h2>Numbers</h2>\n";
    page += &table(results);
    let notes = results.notes();
    if !notes.is_empty() {
        page += "<h2>Notes</h2>\n<ul>";
        for note in notes {
            let _ = write!(page, "<li>{}</li>", escape(&note));
        }
        page += "</ul>\n";
    }
    page + "</body></html>\n"
}

/// To whose number a group's bars relate.
fn base(results: &Results, group: Group) -> Engine {
    let has_native = results.engines.iter().any(|(engine, _)| *engine == Engine::Native);
    if has_native && group != Group::Machine { Engine::Native } else { Engine::Env86 }
}

/// Bars of all rows of a group.
fn chart(results: &Results, group: Group, rows: &[&Row]) -> String {
    let base = base(results, group);
    let engines: Vec<_> =
        results.engines.iter().map(|(engine, _)| *engine).filter(|engine| *engine != base).collect();
    let ratios = || rows.iter().flat_map(|row| engines.iter().filter_map(|e| row.ratio(*e, base)));
    let positive = || ratios().filter(|ratio| *ratio > 0.0);
    // Powers of ten around all bars and 1.
    let low = positive().fold(1.0, f64::min).log10().floor().max(-4.0);
    let high = positive().fold(2.0, f64::max).log10().ceil().min(6.0).max(low + 1.0);
    let x = |ratio: f64| NAMES + BARS * ((ratio.log10() - low) / (high - low)).clamp(0.0, 1.0);
    let row_height = BAR * engines.len() as f64 + GAP;
    let height = AXIS + row_height * rows.len() as f64;
    let width = NAMES + BARS + NUMBERS;
    let mut svg = format!(
        "<div class=\"scroll\"><svg width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         role=\"img\" aria-label=\"{}: multiples of {}\">\n",
        group.name(),
        base.name()
    );
    let mut decade = low;
    while decade <= high {
        for step in [1.0, 2.0, 5.0] {
            let value = step * 10f64.powf(decade);
            if decade == high && step > 1.0 {
                break;
            }
            let at = x(value);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"14\" y2=\"{height}\"/>"
            );
            let _ =
                writeln!(svg, "<text x=\"{at:.1}\" y=\"10\" text-anchor=\"middle\">{}</text>", axis(value));
        }
        decade += 1.0;
    }
    for (n, row) in rows.iter().enumerate() {
        let top = AXIS + row_height * n as f64;
        let middle = top + BAR * engines.len() as f64 / 2.0 + 4.0;
        let _ = writeln!(svg, "<text x=\"0\" y=\"{middle:.1}\">{}</text>", escape(&row.name));
        for (m, engine) in engines.iter().enumerate() {
            let y = top + BAR * m as f64;
            let Some(ratio) = row.ratio(*engine, base) else {
                let text = row.cells.get(engine).map_or("", |_| "no result");
                let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\">{text}</text>", x(1.0) + 4.0, y + 9.0);
                continue;
            };
            // Bars begin at 1, which is the base's own.
            let (from, to) = (x(1.0).min(x(ratio)), x(1.0).max(x(ratio)));
            let _ = writeln!(
                svg,
                "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{}\" fill=\"{}\"><title>{} {}: {}</title></rect>\
                 <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                (to - from).max(1.5),
                BAR - 1.5,
                color(*engine),
                escape(&row.name),
                engine.name(),
                row.median(*engine).map_or(String::new(), |value| row.unit.show(value)),
                to + 4.0,
                y + 9.0,
                show_ratio(ratio),
            );
        }
    }
    let limit = if group.native_is_limit() {
        ""
    } else if matches!(group, Group::System | Group::Network) {
        " The host's kernel may itself be a guest: its times are no limit here."
    } else {
        " Bars to the left of 1: less than env86."
    };
    svg + &format!("</svg></div><p>Multiples of {}.{limit}</p>\n", base.name())
}

fn axis(value: f64) -> String {
    if value >= 1.0 { format!("{value:.0}") } else { format!("{value:.4}").trim_end_matches('0').to_owned() }
}

fn table(results: &Results) -> String {
    let mut table = String::from("<div class=\"scroll\"><table><tr><th>workload</th>");
    for (engine, _) in &results.engines {
        let _ = write!(table, "<th>{}</th><th>spread</th>", engine.name());
    }
    for peer in results.peers() {
        let _ = write!(table, "<th>{}/env86</th>", peer.name());
    }
    table += "</tr>\n";
    for row in &results.rows {
        let _ = write!(table, "<tr><td title=\"{}\">{}</td>", escape(&row.note), escape(&row.name));
        for (engine, _) in &results.engines {
            let spread = row.cells.get(engine).and_then(|cell| cell.summary).map(|summary| summary.spread());
            let spread = spread.map_or(String::new(), |spread| format!("{:.0} %", spread * 100.0));
            let number = match row.median(*engine) {
                Some(median) => row.unit.show(median),
                None => results.show(row, *engine),
            };
            let _ = write!(table, "<td>{number}</td><td>{spread}</td>");
        }
        for peer in results.peers() {
            let ratio = row.ratio(peer, Engine::Env86).map_or("-".into(), show_ratio);
            let _ = write!(table, "<td>{ratio}</td>");
        }
        table += "</tr>\n";
    }
    table + "</table></div>\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::results::tests::results;

    #[test]
    fn page_is_self_contained_and_has_a_bar_for_each_emulator() {
        let page = page(&results(&[
            (Engine::Native, 0.1, "00"),
            (Engine::Env86, 0.2, "00"),
            (Engine::V86, 2.0, "00"),
        ]));
        for outside in ["http", "src=", "href=", "url(", "<script", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert_eq!(page.matches("<rect").count(), 2);
        assert!(page.contains(">2.00<") && page.contains(">20.0<"));
    }

    #[test]
    fn bars_are_on_a_logarithmic_scale() {
        let page = page(&results(&[
            (Engine::Native, 0.1, "00"),
            (Engine::Env86, 1.0, "00"),
            (Engine::V86, 10.0, "00"),
        ]));
        let widths: Vec<f64> = page
            .split("<rect")
            .skip(1)
            .filter_map(|bar| bar.split("width=\"").nth(1)?.split('"').next()?.parse().ok())
            .collect();
        assert!((widths[1] / widths[0] - 2.0).abs() < 0.01, "{widths:?}");
    }

    #[test]
    fn text_from_outside_is_escaped() {
        assert_eq!(escape("<b a=\"c\">&"), "&lt;b a=&quot;c&quot;&gt;&amp;");
    }
}
