//! Line charts as SVG. Drawn at twice the size they are shown at, because the
//! drawing backend rounds to whole units; colours are names for the style sheet.

use std::fmt::Write;

use plotters::prelude::*;

/// Line colours, light and dark; the first is the quiet one, for a baseline.
const COLOURS: [(u32, u32); 8] = [
    (0x6B727C, 0xA0A7B2),
    (0x2A6FC9, 0x5B9DF0),
    (0xD95B1E, 0xF28A52),
    (0x0F8F74, 0x35C0A0),
    (0x9A48B8, 0xC480DE),
    (0xB07D00, 0xE0B040),
    (0xC23B63, 0xF07A9C),
    (0x4B8A1D, 0x86C656),
];
const INK: RGBColor = RGBColor(0x5B, 0x60, 0x69);
const GRID: RGBColor = RGBColor(0xE7, 0xE8, 0xEA);
/// Size of the drawing; half of it on a wide page.
const SIZE: (u32, u32) = (1100, 620);
/// Points a line keeps: more than there are pixels to show them.
const MAX_POINTS: usize = 400;

/// How an axis is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scale {
    /// Plain numbers.
    Number,
    /// Shares as percent.
    Percent,
    /// Logarithm to base 2: the values are exponents, the labels powers.
    Log2,
}

/// A point, with an interval where there is one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Point {
    pub x: f64,
    pub y: f64,
    pub interval: Option<(f64, f64)>,
}

/// One line.
pub(super) struct Line {
    /// Index into the colours.
    pub colour: usize,
    /// Points by rising x.
    pub points: Vec<Point>,
    /// Whether each point gets a mark.
    pub marks: bool,
}

/// A chart.
pub(super) struct Chart {
    pub x_label: String,
    pub x_scale: Scale,
    pub y_scale: Scale,
    /// A value that the y axis has to show (chance, zero), drawn as a rule.
    pub rule: Option<f64>,
    pub lines: Vec<Line>,
}

/// The class of a colour.
pub(super) fn slot(colour: usize) -> usize {
    colour % COLOURS.len()
}

fn rgb(hex: u32) -> RGBColor {
    RGBColor((hex >> 16) as u8, (hex >> 8) as u8, hex as u8)
}

/// Rules that give the drawn colours their place in the light and the dark page.
pub(super) fn style() -> String {
    let hex = |c: RGBColor| format!("#{:02X}{:02X}{:02X}", c.0, c.1, c.2);
    let mut out = String::new();
    let _ = writeln!(out, "svg text {{ font-family: system-ui, sans-serif; fill: var(--soft); }}");
    let _ = writeln!(out, "svg [stroke=\"{}\"] {{ stroke: var(--grid); }}", hex(GRID));
    let _ = writeln!(out, "svg [stroke=\"{}\"] {{ stroke: var(--soft); }}", hex(INK));
    let _ = writeln!(out, "svg polyline {{ stroke-linejoin: round; stroke-linecap: round; }}");
    let mut dark = String::new();
    for (i, (light, night)) in COLOURS.iter().enumerate() {
        let (name, night) = (hex(rgb(*light)), hex(rgb(*night)));
        let _ = writeln!(out, ".legend .c{i} {{ background: {name}; }}");
        let _ = writeln!(
            dark,
            "  .legend .c{i} {{ background: {night}; }} svg [stroke=\"{name}\"] {{ stroke: {night}; }} \
             svg [fill=\"{name}\"] {{ fill: {night}; }}"
        );
    }
    let _ = writeln!(out, "@media (prefers-color-scheme: dark) {{\n{dark}}}");
    out
}

impl Chart {
    /// The drawing; `label` (already escaped) is what a screen reader says.
    pub fn svg(&self, label: &str) -> String {
        let mut out = String::new();
        let drawn = match self.ranges() {
            // Drawing into a string has no way to fail; an empty figure would say so all the same.
            Some(ranges) => self.draw(&mut out, ranges).is_ok(),
            None => false,
        };
        if !drawn {
            return "<p class=\"how\">nothing to draw yet</p>\n".into();
        }
        out.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{label}\" "), 1)
    }

    /// Ranges of both axes over all finite points; none without a point.
    fn ranges(&self) -> Option<((f64, f64), (f64, f64))> {
        let mut x = (f64::INFINITY, f64::NEG_INFINITY);
        let mut y = x;
        let grow = |r: &mut (f64, f64), v: f64| *r = (r.0.min(v), r.1.max(v));
        for p in self.lines.iter().flat_map(|l| &l.points).filter(|p| p.x.is_finite() && p.y.is_finite()) {
            grow(&mut x, p.x);
            grow(&mut y, p.y);
            if let Some((low, high)) = p.interval {
                grow(&mut y, low);
                grow(&mut y, high);
            }
        }
        if x.0 > x.1 {
            return None;
        }
        if let Some(rule) = self.rule {
            grow(&mut y, rule);
        }
        let pad = |r: (f64, f64), share: f64, least: f64| {
            let room = ((r.1 - r.0) * share).max(if r.1 > r.0 { 0.0 } else { r.0.abs().max(least) * 0.05 });
            (r.0 - room, r.1 + room)
        };
        let y_least = if self.y_scale == Scale::Percent { 0.4 } else { 1.0 };
        let mut y = pad(y, 0.06, y_least);
        if self.y_scale == Scale::Percent {
            y = (y.0.max(-0.005), y.1.min(1.005));
        }
        Some((pad(x, 0.03, 1.0), y))
    }

    fn draw(&self, out: &mut String, (x, y): ((f64, f64), (f64, f64))) -> Result<(), Box<dyn std::error::Error>> {
        let root = SVGBackend::with_string(out, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin(14)
            .margin_right(30)
            .x_label_area_size(84)
            .y_label_area_size(104)
            .build_cartesian_2d(x.0..x.1, y.0..y.1)?;
        // The backend divides sizes by 1.24.
        let font = ("system-ui", 30).into_font().color(&INK);
        let (x_step, y_step) = ((x.1 - x.0) / 6.0, (y.1 - y.0) / 6.0);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID.stroke_width(2))
            .axis_style(INK.stroke_width(2))
            .label_style(font.clone())
            .axis_desc_style(font)
            .x_labels(6)
            .y_labels(6)
            .x_desc(self.x_label.clone())
            .x_label_formatter(&|v| tick(*v, self.x_scale, x_step))
            .y_label_formatter(&|v| tick(*v, self.y_scale, y_step))
            .draw()?;
        if let Some(rule) = self.rule {
            chart.draw_series(std::iter::once(PathElement::new([(x.0, rule), (x.1, rule)], INK.stroke_width(2))))?;
        }
        let n = self.lines.len();
        for (i, line) in self.lines.iter().enumerate() {
            let colour = rgb(COLOURS[slot(line.colour)].0);
            // Intervals at the same x stand side by side.
            let dodge = if line.points.iter().any(|p| p.interval.is_some()) {
                (i as f64 - (n as f64 - 1.0) / 2.0) * (x.1 - x.0) * 0.008
            } else {
                0.0
            };
            let points = thinned(&line.points, MAX_POINTS);
            let place = |p: &Point| (p.x + dodge, p.y);
            chart.draw_series(LineSeries::new(
                points.iter().map(place),
                colour.stroke_width(if line.marks { 4 } else { 3 }),
            ))?;
            for p in &points {
                if let Some((low, high)) = p.interval {
                    let bar = [(p.x + dodge, low.max(y.0)), (p.x + dodge, high.min(y.1))];
                    chart.draw_series(std::iter::once(PathElement::new(bar, colour.stroke_width(3))))?;
                }
            }
            if line.marks || points.len() == 1 {
                chart.draw_series(points.iter().map(|p| Circle::new(place(p), 8, colour.filled())))?;
            }
        }
        root.present()?;
        Ok(())
    }
}

/// A line with at most so many points: means of neighbours, so that a peak is softened, not dropped.
pub(super) fn thinned(points: &[Point], at_most: usize) -> Vec<Point> {
    let finite: Vec<Point> = points.iter().filter(|p| p.x.is_finite() && p.y.is_finite()).copied().collect();
    if finite.len() <= at_most {
        return finite;
    }
    let size = finite.len().div_ceil(at_most.max(1));
    let mean = |chunk: &[Point], get: fn(&Point) -> f64| chunk.iter().map(get).sum::<f64>() / chunk.len() as f64;
    finite.chunks(size).map(|c| Point { x: mean(c, |p| p.x), y: mean(c, |p| p.y), interval: None }).collect()
}

/// A label of an axis whose labels are about `step` apart.
fn tick(v: f64, scale: Scale, step: f64) -> String {
    let plain = |v: f64, step: f64, unit: &str| {
        // Enough decimals to tell neighbours apart, and no zeros at the end.
        let decimals = (-(step.abs().max(1e-12)).log10()).ceil().clamp(0.0, 8.0) as usize + 1;
        let text = format!("{v:.decimals$}");
        let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
        format!("{}{unit}", if text == "-0" { "0" } else { text })
    };
    match scale {
        Scale::Percent => plain(v * 100.0, step * 100.0, " %"),
        Scale::Log2 if (v - v.round()).abs() < 1e-9 => format!("{}", v.exp2().round()),
        Scale::Log2 => String::new(),
        Scale::Number if v.abs() >= 1e6 => format!("{:.0}k", v / 1e3),
        Scale::Number if v != 0.0 && v.abs() < 1e-3 && step < 1e-3 => format!("{v:.0e}"),
        Scale::Number => plain(v, step, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(ys: &[f64]) -> Chart {
        let points = ys.iter().enumerate().map(|(i, &y)| Point { x: i as f64, y, interval: None }).collect();
        Chart {
            x_label: "step".into(),
            x_scale: Scale::Number,
            y_scale: Scale::Number,
            rule: None,
            lines: vec![Line { colour: 1, points, marks: false }],
        }
    }

    #[test]
    fn ticks_are_short_and_tell_neighbours_apart() {
        assert_eq!(tick(0.1 + 0.2, Scale::Number, 0.1), "0.3");
        assert_eq!(tick(0.30000000000000004, Scale::Percent, 0.05), "30 %");
        assert_eq!(tick(0.825, Scale::Percent, 0.005), "82.5 %");
        assert_eq!(tick(-0.0, Scale::Number, 1.0), "0");
        assert_eq!(tick(1500.0, Scale::Number, 250.0), "1500");
        assert_eq!(tick(5.0, Scale::Log2, 1.0), "32");
        assert_eq!(tick(2e-5, Scale::Number, 1e-5), "2e-5");
    }

    #[test]
    fn nothing_finite_draws_nothing_and_one_point_draws() {
        assert!(chart(&[]).svg("x").contains("nothing to draw"));
        assert!(chart(&[f64::NAN, f64::INFINITY]).svg("x").contains("nothing to draw"));
        let svg = chart(&[f64::NAN, 0.0]).svg("x");
        assert!(svg.contains("<circle") && svg.trim_end().ends_with("</svg>"), "{svg}");
        assert!(!svg.contains("NaN"));
    }

    #[test]
    fn long_lines_are_thinned_without_losing_their_mean() {
        let ys: Vec<f64> = (0..10_000).map(|i| (i % 7) as f64).collect();
        let line = &chart(&ys).lines[0];
        let thin = thinned(&line.points, MAX_POINTS);
        assert!(thin.len() <= MAX_POINTS && thin.len() > MAX_POINTS / 2);
        let mean = thin.iter().map(|p| p.y).sum::<f64>() / thin.len() as f64;
        assert!((mean - 3.0).abs() < 0.05, "{mean}");
    }
}
