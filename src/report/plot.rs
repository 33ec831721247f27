//! Curve charts as SVG. Horizontally, everything is positioned in per cent and only the lines are stretched, so that a
//! chart fills any width while its text, marks and strokes keep their size; vertically, the units are CSS pixels.
//! Colours are classes of the style sheet.

use std::fmt::Write;

/// Curve colours, light and dark; the first, a grey, is for a baseline.
const COLOURS: [(&str, &str); 11] = [
    ("#6b727c", "#a0a7b2"),
    ("#2a6fc9", "#5b9df0"),
    ("#d95b1e", "#f28a52"),
    ("#0f8f74", "#35c0a0"),
    ("#9a48b8", "#c480de"),
    ("#b07d00", "#e0b040"),
    ("#c23b63", "#f07a9c"),
    ("#4b8a1d", "#86c656"),
    ("#1d1f23", "#f2f3f5"),
    ("#7d4a2a", "#c89878"),
    ("#0e8ba8", "#6fd3ea"),
];
/// Height of the plot area, of a main chart and of the others.
const HEIGHTS: (f64, f64) = (300.0, 200.0);
/// Room under the plot area for the labels of the x axis and its name.
const FOOT: f64 = 42.0;
/// Width of a line's drawing before it is stretched.
const ACROSS: f64 = 1000.0;
/// Width of a digit at the size of the labels, with room to spare.
const DIGIT: f64 = 7.5;
/// Horizontal distance between intervals at the same x.
const DODGE: f64 = 5.0;
/// Most labels of an axis, less one; those of the x axis have to fit side by side on a phone.
const X_TICKS: f64 = 5.0;
const Y_TICKS: f64 = 6.0;
/// Most points of a line: more could not be told apart.
const MAX_POINTS: usize = 400;

/// How the labels of an axis are written.
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
pub(super) struct PlotPoint {
    pub x: f64,
    pub y: f64,
    pub interval: Option<(f64, f64)>,
}

/// One line.
pub(super) struct Curve {
    /// Index into the colours.
    pub colour: usize,
    /// What the legend calls it; empty for the only line of a chart.
    pub name: String,
    /// Points by rising x.
    pub points: Vec<PlotPoint>,
    /// Whether each point gets a mark.
    pub marks: bool,
}

/// A chart.
pub(super) struct Chart {
    pub x_label: String,
    pub x_scale: Scale,
    pub y_scale: Scale,
    /// A value that the y axis has to show (chance, zero), drawn as a dashed rule.
    pub rule: Option<f64>,
    pub lines: Vec<Curve>,
}

/// The number of a colour's CSS class.
pub(super) fn slot(colour: usize) -> usize {
    colour % COLOURS.len()
}

/// Style rules of the colours, for the light and the dark page.
pub(super) fn style() -> String {
    let list = |colour: fn(&(&'static str, &'static str)) -> &'static str| {
        COLOURS.iter().enumerate().fold(String::new(), |mut out, (i, pair)| {
            let _ = write!(out, ".c{i} {{ --c: {}; }} ", colour(pair));
            out
        })
    };
    format!("{}\n@media (prefers-color-scheme: dark) {{ {}}}\n", list(|c| c.0).trim_end(), list(|c| c.1))
}

impl Chart {
    /// Colour and name of the lines that have one, each once.
    pub fn legend(&self) -> Vec<(usize, &str)> {
        let mut legend = Vec::new();
        for entry in self.lines.iter().map(|line| (line.colour, line.name.as_str())) {
            if !entry.1.is_empty() && !legend.contains(&entry) {
                legend.push(entry);
            }
        }
        legend
    }

    /// The drawing; `label` (already escaped) is what a screen reader says. A main chart is higher than the others.
    pub fn svg(&self, label: &str, main: bool) -> String {
        match self.ranges() {
            Some((x, y)) => self.draw(label, if main { HEIGHTS.0 } else { HEIGHTS.1 }, x, y),
            None => "<p class=\"how\">nothing to draw yet</p>\n".into(),
        }
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

    fn draw(&self, label: &str, height: f64, x: (f64, f64), y: (f64, f64)) -> String {
        let across = |v: f64| (v - x.0) / (x.1 - x.0);
        let down = |v: f64| height * (1.0 - (v - y.0) / (y.1 - y.0));
        let (x_ticks, y_ticks) = (self.x_ticks(x), nice(y, Y_TICKS));
        let texts = |ticks: &[f64], scale: Scale| -> Vec<(f64, String)> {
            let step = ticks.windows(2).map(|w| w[1] - w[0]).fold(f64::INFINITY, f64::min);
            let largest = ticks.iter().fold(0.0f64, |m, t| m.max(t.abs()));
            let step = if step.is_finite() { step } else { largest };
            ticks.iter().map(|&t| (t, tick(t, scale, step, largest))).collect()
        };
        let (x_ticks, y_ticks) = (texts(&x_ticks, self.x_scale), texts(&y_ticks, self.y_scale));
        let widest = y_ticks.iter().map(|(_, text)| text.chars().count()).max().unwrap_or(0);
        let mut out = format!(
            "<div class=\"chart\" style=\"margin-left:{:.0}px\">\n<svg role=\"img\" aria-label=\"{label}\" width=\"100%\" \
             height=\"{}\">\n",
            widest as f64 * DIGIT + 4.0,
            height + FOOT,
        );
        for (v, text) in &y_ticks {
            let at = down(*v);
            let _ = writeln!(
                out,
                "<line class=\"grid\" x1=\"0\" x2=\"100%\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text class=\"y\" x=\"-8\" y=\"{:.1}\">{text}</text>",
                at + 4.0
            );
        }
        for (v, text) in &x_ticks {
            let at = across(*v) * 100.0;
            let _ = writeln!(
                out,
                "<line class=\"axis\" x1=\"{at:.2}%\" x2=\"{at:.2}%\" y1=\"{height}\" y2=\"{}\"/>\
                 <text x=\"{at:.2}%\" y=\"{}\">{text}</text>",
                height + 4.0,
                height + 18.0
            );
        }
        let _ = writeln!(out, "<line class=\"axis\" x1=\"0\" x2=\"100%\" y1=\"{height}\" y2=\"{height}\"/>");
        if let Some(rule) = self.rule {
            let at = down(rule);
            let _ = writeln!(out, "<line class=\"rule\" x1=\"0\" x2=\"100%\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>");
        }
        let _ = writeln!(out, "<text x=\"50%\" y=\"{}\">{}</text>", height + 38.0, self.x_label);
        let bars = self.lines.iter().flat_map(|l| &l.points).any(|p| p.interval.is_some());
        for (i, line) in self.lines.iter().enumerate() {
            let aside = if bars { (i as f64 - (self.lines.len() as f64 - 1.0) / 2.0) * DODGE } else { 0.0 };
            let points = thinned(&line.points, MAX_POINTS);
            let _ = write!(out, "<g class=\"c{}\"", slot(line.colour));
            let _ = if aside == 0.0 { write!(out, ">") } else { write!(out, " transform=\"translate({aside} 0)\">") };
            if points.len() > 1 {
                let thin = if line.marks { "" } else { " class=\"thin\"" };
                let _ = write!(
                    out,
                    "<svg width=\"100%\" height=\"{height}\" viewBox=\"0 0 {ACROSS} {height}\" \
                     preserveAspectRatio=\"none\"><polyline{thin} points=\""
                );
                for p in &points {
                    let _ = write!(out, "{:.1},{:.1} ", across(p.x) * ACROSS, down(p.y));
                }
                out.truncate(out.trim_end().len());
                out.push_str("\"/></svg>");
            }
            for p in &points {
                let at = across(p.x) * 100.0;
                if let Some((low, high)) = p.interval {
                    let (low, high) = (down(low.max(y.0)), down(high.min(y.1)));
                    let _ = write!(
                        out,
                        "<line class=\"bar\" x1=\"{at:.2}%\" x2=\"{at:.2}%\" y1=\"{low:.1}\" y2=\"{high:.1}\"/>"
                    );
                }
                if line.marks || points.len() == 1 {
                    let _ = write!(out, "<circle cx=\"{at:.2}%\" cy=\"{:.1}\" r=\"4.5\"/>", down(p.y));
                }
            }
            out.push_str("</g>\n");
        }
        out.push_str("</svg>\n</div>\n");
        out
    }

    /// Where the x axis is labelled: at the points themselves where they are few and apart, else at round numbers.
    fn x_ticks(&self, range: (f64, f64)) -> Vec<f64> {
        let mut at: Vec<f64> =
            self.lines.iter().flat_map(|l| &l.points).map(|p| p.x).filter(|x| x.is_finite()).collect();
        at.sort_by(f64::total_cmp);
        at.dedup();
        let marked = self.lines.iter().all(|l| l.marks);
        let apart = at.windows(2).all(|w| w[1] - w[0] >= (range.1 - range.0) / 8.0);
        if marked && apart {
            return at;
        }
        // Steps and exponents of two are whole numbers.
        let whole = |v: &f64| self.x_scale == Scale::Percent || v.fract() == 0.0;
        nice(range, X_TICKS).into_iter().filter(whole).collect()
    }
}

/// Round numbers within a range, at most one more than `most`.
fn nice((low, high): (f64, f64), most: f64) -> Vec<f64> {
    let rough = (high - low) / most;
    let unit = 10f64.powf(rough.log10().floor());
    // A step of 2.5 would label counts with halves.
    let steps = [1.0, 2.0, 2.5, 5.0].map(|m| m * unit).into_iter().filter(|s| *s != 2.5);
    let step = steps.filter(|s| *s >= rough * 0.999).fold(10.0 * unit, f64::min);
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    (first..=last).map(|i| i as f64 * step).filter(|v| v.is_finite()).collect()
}

/// A line with at most so many points: means of neighbours, so that a peak is softened, not dropped.
pub(super) fn thinned(points: &[PlotPoint], at_most: usize) -> Vec<PlotPoint> {
    let finite: Vec<PlotPoint> = points.iter().filter(|p| p.x.is_finite() && p.y.is_finite()).copied().collect();
    if finite.len() <= at_most {
        return finite;
    }
    let size = finite.len().div_ceil(at_most.max(1));
    let mean =
        |chunk: &[PlotPoint], get: fn(&PlotPoint) -> f64| chunk.iter().map(get).sum::<f64>() / chunk.len() as f64;
    finite.chunks(size).map(|c| PlotPoint { x: mean(c, |p| p.x), y: mean(c, |p| p.y), interval: None }).collect()
}

/// A label of an axis whose labels are at least `step` apart and at most `largest` from zero.
fn tick(v: f64, scale: Scale, step: f64, largest: f64) -> String {
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
        Scale::Log2 => plain(v.exp2(), 1.0, ""),
        Scale::Number if v.abs() >= 1e6 => format!("{:.0}k", v / 1e3),
        // All labels of an axis use the same notation.
        Scale::Number if v != 0.0 && largest < 5e-3 => {
            let digits = (v.abs().log10().floor() - step.log10().floor()).clamp(0.0, 8.0) as usize;
            let text = format!("{v:.digits$e}");
            match text.split_once('e') {
                Some((m, e)) if m.contains('.') => format!("{}e{e}", m.trim_end_matches('0').trim_end_matches('.')),
                _ => text,
            }
        }
        Scale::Number => plain(v, step, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(ys: &[f64]) -> Chart {
        let points = ys.iter().enumerate().map(|(i, &y)| PlotPoint { x: i as f64, y, interval: None }).collect();
        Chart {
            x_label: "step".into(),
            x_scale: Scale::Number,
            y_scale: Scale::Number,
            rule: None,
            lines: vec![Curve { colour: 1, name: String::new(), points, marks: false }],
        }
    }

    #[test]
    fn ticks_are_short_and_tell_neighbours_apart() {
        assert_eq!(tick(0.1 + 0.2, Scale::Number, 0.1, 0.5), "0.3");
        assert_eq!(tick(0.30000000000000004, Scale::Percent, 0.05, 0.5), "30 %");
        assert_eq!(tick(0.825, Scale::Percent, 0.005, 0.9), "82.5 %");
        assert_eq!(tick(-0.0, Scale::Number, 1.0, 1.0), "0");
        assert_eq!(tick(1500.0, Scale::Number, 250.0, 2000.0), "1500");
        assert_eq!(tick(5.0, Scale::Log2, 1.0, 5.0), "32");
        assert_eq!(tick(12f64.log2(), Scale::Log2, 1.0, 5.0), "12");
        assert_eq!(tick(2e-5, Scale::Number, 1e-5, 5e-5), "2e-5");
        // A learning rate's axis: all labels in the same notation.
        assert_eq!([0.0, 8e-4, 1e-3].map(|v| tick(v, Scale::Number, 2e-4, 1e-3)), ["0", "8e-4", "1e-3"]);
    }

    #[test]
    fn ticks_are_round_numbers_within_the_range() {
        let rounded = |range| nice(range, Y_TICKS).into_iter().map(|v| (v * 1e6).round() / 1e6).collect::<Vec<f64>>();
        assert_eq!(rounded((-0.2, 3.4)), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(rounded((0.47, 0.93)), [0.5, 0.6, 0.7, 0.8, 0.9]);
        assert_eq!(rounded((-6.9, 0.4)), [-6.0, -4.0, -2.0, 0.0]);
        assert_eq!(rounded((1.0, 300.0)), [50.0, 100.0, 150.0, 200.0, 250.0, 300.0]);
        assert_eq!(rounded((1.0, 12.9)), [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]);
        assert_eq!(rounded((0.0, 14.9)), [0.0, 5.0, 10.0]);
        assert_eq!(rounded((f64::MIN, f64::MAX)), [0.0; 0]);
        assert_eq!(rounded((-0.05, 1.2)), [0.0, 0.25, 0.5, 0.75, 1.0]);
    }

    #[test]
    fn few_points_are_labelled_where_they_are_and_many_at_round_numbers() {
        let with = |xs: &[f64], marks: bool| {
            let points = xs.iter().map(|&x| PlotPoint { x, y: 0.5, interval: None }).collect();
            let lines = vec![Curve { colour: 1, name: String::new(), points, marks }];
            Chart { lines, x_scale: Scale::Percent, ..chart(&[]) }
        };
        assert_eq!(with(&[0.0, 0.1, 0.4], true).x_ticks((-0.01, 0.41)), [0.0, 0.1, 0.4]);
        assert_eq!(with(&[0.0, 0.1, 0.4], false).x_ticks((-0.01, 0.41)).len(), 5);
        assert_eq!(with(&[0.0, 0.01, 0.4], true).x_ticks((-0.01, 0.41)).len(), 5, "labels would touch");
    }

    #[test]
    fn nothing_finite_draws_nothing_and_one_point_draws() {
        assert!(chart(&[]).svg("x", false).contains("nothing to draw"));
        assert!(chart(&[f64::NAN, f64::INFINITY]).svg("x", false).contains("nothing to draw"));
        let svg = chart(&[f64::NAN, 0.0]).svg("x", false);
        assert!(svg.contains("<circle") && svg.trim_end().ends_with("</svg>\n</div>"), "{svg}");
        assert!(!svg.contains("NaN"));
    }

    /// Text and marks keep their size at every width: only the lines' own drawings are stretched.
    #[test]
    fn only_lines_are_stretched() {
        let svg = chart(&[0.1, 0.7, 0.4]).svg("x", true);
        let outer = &svg[svg.find("<svg ").unwrap()..];
        assert!(!outer[..outer.find('>').unwrap()].contains("viewBox"));
        for stretched in outer.split("viewBox").skip(1) {
            let inside = &stretched[..stretched.find("</svg>").unwrap()];
            assert!(!inside.contains("<text") && !inside.contains("<circle"), "{inside}");
        }
        assert!(svg.contains("<polyline"));
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
