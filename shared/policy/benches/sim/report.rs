//! The table of a simulation, and its picture.

use std::fmt::Write as _;

use super::tally::{Figures, Tally};

/// The scenarios' rows in order, and a blank line after each scenario.
pub(crate) fn table(rows: &[(&str, &str, Figures)]) -> String {
    let mut text = String::from(
        "scenario  method        used %  held %  in vain %  missed %  realtime missed %  p50 ms   p99 ms  switch p99 ms  preempted   moves\n",
    );
    let mut last = rows.first().map_or("", |row| row.0);
    for (scenario, method, figures) in rows {
        if *scenario != last {
            text.push('\n');
            last = scenario;
        }
        let Figures { utilization, held, wasted, missed, realtime_missed, p50, p99, switch, preemptions, moves } =
            figures;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{scenario:<9} {method:<12} {utilization:>7.2} {held:>7.2} {wasted:>10.2} {missed:>9.3} {realtime_missed:>18.3} {p50:>7.2} {p99:>8.2} {switch:>14.2} {preemptions:>10.0} {moves:>7.0}"
        );
    }
    text
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 320.0;
const MARGIN: f64 = 48.0;
const COLOURS: [&str; 6] = ["#2563eb", "#dc2626", "#d97706", "#059669", "#7c3aed", "#0891b2"];

/// Utilization over the course of one run each, as SVG.
pub(crate) fn picture(title: &str, runs: &[(&str, Tally)]) -> String {
    let (across, up) = (WIDTH - 2.0 * MARGIN, HEIGHT - 2.0 * MARGIN);
    let (bottom, right) = (HEIGHT - MARGIN, WIDTH - MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"20\">{title}: devices at work in %, over {1:.0} s</text>\n\
         <path d=\"M{MARGIN} {MARGIN}V{bottom}H{right}\" fill=\"none\" stroke=\"black\"/>\n\
         <text x=\"{0:.0}\" y=\"{MARGIN}\" text-anchor=\"end\">100</text>\n<text x=\"{0:.0}\" y=\"{bottom}\" text-anchor=\"end\">0</text>\n",
        MARGIN - 4.0,
        runs.first().map_or(0.0, |(_, tally)| tally.course.len() as f64 / 10.0),
    );
    for (at, ((name, tally), colour)) in runs.iter().zip(COLOURS).enumerate() {
        let last = tally.course.len().saturating_sub(1).max(1) as f64;
        let point = |(step, busy): (usize, &f64)| {
            format!("{:.1},{:.1}", MARGIN + across * step as f64 / last, MARGIN + up * (1.0 - busy.min(100.0) / 100.0))
        };
        let points: Vec<String> = tally.course.iter().enumerate().map(point).collect();
        let x = MARGIN + 108.0 * at as f64;
        let _ = write!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\"/>\n<text x=\"{x:.0}\" y=\"{:.0}\" fill=\"{colour}\">{name}</text>\n",
            points.join(" "),
            bottom + 28.0,
        );
    }
    svg + "</svg>\n"
}
