//! Bars as SVG: a panel for each workload, a bar for each peer, each panel with a scale of its own.
//!
//! The pictures stand in `benches/NUMBERS.md`, which is shown on white and on black, so text has the colour
//! that the reader's theme asks for.

use std::fmt::{self, Write};

/// Okabe and Ito's colours, which people who do not see all colours can tell apart.
const COLOURS: [&str; 7] = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999"];

const COLUMNS: usize = 3;
const PANEL: usize = 300;
const LABEL: usize = 84;
/// The longest bar; what is right of it is for the figure.
const BAR: usize = 136;
const LINE: usize = 16;
const HEAD: usize = 48;
/// Above and below the bars of a panel.
const TITLE: usize = 20;
const GAP: usize = 14;

/// The bars of one workload.
#[derive(Debug)]
pub(crate) struct Panel {
    pub(crate) title: String,
    /// By peer: the length and what to write beside it; nothing where the peer has no figure.
    pub(crate) bars: Vec<Option<(f64, String)>>,
}

/// The picture. `subtitle` stands small below the title, `peers` names the bars.
pub(crate) fn svg(title: &str, subtitle: &str, peers: &[&str], panels: &[Panel]) -> String {
    let mut text = String::new();
    write_svg(&mut text, title, subtitle, peers, panels).expect("a String takes all that is written");
    text
}

fn write_svg(
    text: &mut String,
    title: &str,
    subtitle: &str,
    peers: &[&str],
    panels: &[Panel],
) -> fmt::Result {
    let panel_height = TITLE + LINE * peers.len() + GAP;
    let (width, height) = (PANEL * COLUMNS, HEAD + panel_height * panels.len().div_ceil(COLUMNS));
    writeln!(
        text,
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">"#
    )?;
    writeln!(text, "<title>{}</title>", escaped(title))?;
    writeln!(
        text,
        "<style>text {{ font: 11px sans-serif; fill: #222 }} .title {{ font-size: 14px; font-weight: bold }} \
         .panel {{ font-weight: bold }} .small {{ font-size: 9px }} \
         @media (prefers-color-scheme: dark) {{ text {{ fill: #ddd }} }}</style>"
    )?;
    writeln!(text, r#"<text class="title" x="6" y="18">{}</text>"#, escaped(title))?;
    writeln!(text, r#"<text class="small" x="6" y="33">{}</text>"#, escaped(subtitle))?;
    for (at, panel) in panels.iter().enumerate() {
        let (left, top) = (at % COLUMNS * PANEL, HEAD + at / COLUMNS * panel_height);
        writeln!(text, r#"<g transform="translate({left} {top})">"#)?;
        writeln!(text, r#"<text class="panel" x="6" y="13">{}</text>"#, escaped(&panel.title))?;
        let longest = panel.bars.iter().flatten().map(|(length, _)| *length).fold(0.0, f64::max);
        for (line, (peer, bar)) in peers.iter().zip(&panel.bars).enumerate() {
            let top = TITLE + LINE * line;
            let baseline = top + 11;
            writeln!(
                text,
                r#"<text x="{}" y="{baseline}" text-anchor="end">{}</text>"#,
                LABEL - 4,
                escaped(peer)
            )?;
            let (length, shown) =
                bar.as_ref().map_or((0.0, "–"), |(length, shown)| (*length, shown.as_str()));
            let length = if longest > 0.0 { length / longest * BAR as f64 } else { 0.0 };
            writeln!(
                text,
                r#"<rect x="{LABEL}" y="{}" width="{length:.1}" height="{}" fill="{}"/>"#,
                top + 1,
                LINE - 4,
                COLOURS[line % COLOURS.len()]
            )?;
            writeln!(
                text,
                r#"<text x="{:.1}" y="{baseline}">{}</text>"#,
                LABEL as f64 + length + 4.0,
                escaped(shown)
            )?;
        }
        writeln!(text, "</g>")?;
    }
    writeln!(text, "</svg>")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
