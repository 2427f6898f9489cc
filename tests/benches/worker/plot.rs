//! A figure over the course of a run, as a small SVG.

use std::fmt::Write as _;

use anyhow::Result;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 240.0;
/// Room for the numbers beside the axes.
const MARGIN: f64 = 48.0;
/// The most points of the line; more would not be seen.
const POINTS: usize = 400;

/// A line through these values, from zero up; `unit` belongs to the values, `steps` names what is counted to the right.
pub(crate) fn svg(title: &str, unit: &str, steps: &str, values: &[f64]) -> Result<String> {
    let most = values.iter().copied().fold(0.0, f64::max).max(f64::MIN_POSITIVE) * 1.1;
    let (across, up) = (WIDTH - 2.0 * MARGIN, HEIGHT - 2.0 * MARGIN);
    let mut points = String::new();
    for (at, value) in values.iter().enumerate().step_by(values.len().div_ceil(POINTS).max(1)) {
        let x = MARGIN + across * at as f64 / values.len().saturating_sub(1).max(1) as f64;
        write!(points, "{x:.1},{:.1} ", MARGIN + up * (1.0 - value / most))?;
    }
    let (bottom, right) = (HEIGHT - MARGIN, WIDTH - MARGIN);
    Ok(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"24\">{title}</text>\n\
         <path d=\"M{MARGIN} {MARGIN}V{bottom}H{right}\" fill=\"none\" stroke=\"black\"/>\n\
         <text x=\"{0:.0}\" y=\"{1:.0}\" text-anchor=\"end\">{most:.0} {unit}</text>\n\
         <text x=\"{0:.0}\" y=\"{bottom}\" text-anchor=\"end\">0</text>\n\
         <text x=\"{right}\" y=\"{2:.0}\" text-anchor=\"end\">{3} {steps}</text>\n\
         <polyline points=\"{4}\" fill=\"none\" stroke=\"#2563eb\" stroke-width=\"1.5\"/>\n</svg>\n",
        MARGIN - 4.0,
        MARGIN + 4.0,
        bottom + 18.0,
        values.len(),
        points.trim_end(),
    ))
}
