//! Points in the plane as SVG, both axes in the same scale. Colours are classes of the style sheet.

use std::fmt::Write;

use super::plot::{Chart, slot};

/// Width of the drawing area; its height follows the points.
const WIDTH: f64 = 1000.0;
/// Room around the points.
const EDGE: f64 = 20.0;
/// Least height.
const LOW: f64 = 200.0;
/// Labels with a colour of their own, at most.
const LABELS: usize = 10;

/// Points of one label.
pub(super) struct Group {
    /// Index into the colours.
    pub colour: usize,
    /// What the legend calls it.
    pub name: String,
    pub points: Vec<[f64; 2]>,
}

/// Points in the plane, by label.
pub(super) struct Scatter {
    pub groups: Vec<Group>,
}

/// What a figure shows.
pub(super) enum Drawing {
    Chart(Chart),
    Scatter(Scatter),
}

impl From<Chart> for Drawing {
    fn from(chart: Chart) -> Drawing {
        Drawing::Chart(chart)
    }
}

impl From<Scatter> for Drawing {
    fn from(scatter: Scatter) -> Drawing {
        Drawing::Scatter(scatter)
    }
}

impl Drawing {
    /// Colour and name of what has one, each once.
    pub fn legend(&self) -> Vec<(usize, &str)> {
        match self {
            Drawing::Chart(chart) => chart.legend(),
            Drawing::Scatter(scatter) => scatter.groups.iter().map(|g| (g.colour, g.name.as_str())).collect(),
        }
    }

    /// The drawing; `label` (already escaped) is what a screen reader says.
    pub fn svg(&self, label: &str, main: bool) -> String {
        match self {
            Drawing::Chart(chart) => chart.svg(label, main),
            Drawing::Scatter(scatter) => scatter.svg(label),
        }
    }
}

impl Scatter {
    /// Points by label: the most frequent labels with a colour each, the others and points without a label in grey.
    pub fn of(points: &[[f64; 2]], names: &[String], labels: &[Option<usize>]) -> Scatter {
        let mut own: Vec<Vec<[f64; 2]>> = vec![Vec::new(); names.len()];
        let mut rest = Vec::new();
        for (point, label) in points.iter().zip(labels) {
            label.and_then(|label| own.get_mut(label)).unwrap_or(&mut rest).push(*point);
        }
        let mut order: Vec<usize> = (0..names.len()).filter(|&label| !own[label].is_empty()).collect();
        order.sort_by_key(|&label| std::cmp::Reverse(own[label].len()));
        let (mut groups, mut others) = (Vec::new(), 0);
        for (at, label) in order.into_iter().enumerate() {
            let points = std::mem::take(&mut own[label]);
            if at < LABELS {
                groups.push(Group { colour: at + 1, name: format!("{} ({})", names[label], points.len()), points });
            } else {
                others += 1;
                rest.extend(points);
            }
        }
        if !rest.is_empty() {
            let name = if others > 0 {
                format!("{others} others ({})", rest.len())
            } else {
                format!("unknown ({})", rest.len())
            };
            groups.push(Group { colour: 0, name, points: rest });
        }
        Scatter { groups }
    }

    fn svg(&self, label: &str) -> String {
        let all = || self.groups.iter().flat_map(|g| &g.points).filter(|p| p.iter().all(|x| x.is_finite()));
        let range = |c: usize| all().fold((f64::INFINITY, f64::NEG_INFINITY), |r, p| (r.0.min(p[c]), r.1.max(p[c])));
        let (x, y) = (range(0), range(1));
        if x.0 > x.1 {
            return "<p class=\"how\">nothing to draw yet</p>\n".into();
        }
        let room = WIDTH - 2.0 * EDGE;
        let largest = (x.1 - x.0).max(y.1 - y.0);
        let unit = if largest > 0.0 { room / largest } else { 0.0 };
        let height = ((y.1 - y.0) * unit + 2.0 * EDGE).clamp(LOW, WIDTH);
        let across = |v: f64| WIDTH / 2.0 + (v - (x.0 + x.1) / 2.0) * unit;
        let down = |v: f64| height / 2.0 - (v - (y.0 + y.1) / 2.0) * unit;
        let mut out = format!(
            "<div class=\"scatter\">\n<svg role=\"img\" aria-label=\"{label}\" width=\"100%\" viewBox=\"0 0 {WIDTH} \
             {height:.0}\">\n"
        );
        // The rest first, then the large groups, so that the small ones are not hidden. A dot is a line of no length.
        for group in
            self.groups.iter().rev().take_while(|g| g.colour == 0).chain(self.groups.iter().filter(|g| g.colour > 0))
        {
            let _ = write!(out, "<g class=\"c{}\"><path d=\"", slot(group.colour));
            for p in group.points.iter().filter(|p| p.iter().all(|x| x.is_finite())) {
                let _ = write!(out, "M{:.0} {:.0}h0", across(p[0]), down(p[1]));
            }
            out.push_str("\"/></g>\n");
        }
        out.push_str("</svg>\n</div>\n");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_labels_have_colours_and_the_rest_is_grey() {
        // Label l occurs l + 1 times; label 12 never; two points have none.
        let names: Vec<String> = (0..13).map(|l| format!("s{l}")).collect();
        let mut labels: Vec<Option<usize>> = (0..12).flat_map(|l| std::iter::repeat_n(Some(l), l + 1)).collect();
        labels.extend([None, None]);
        let points: Vec<[f64; 2]> = (0..labels.len()).map(|i| [i as f64, 1.0]).collect();
        let scatter = Drawing::from(Scatter::of(&points, &names, &labels));
        let legend = scatter.legend();
        assert_eq!((legend.len(), legend[0], legend[9]), (11, (1, "s11 (12)"), (10, "s2 (3)")));
        // s0, s1 and the two without a label: 1 + 2 + 2.
        assert_eq!(legend[10], (0, "2 others (5)"));
        let few = Scatter::of(&points[..2], &names, &[Some(3), None]);
        assert_eq!(few.groups.iter().map(|g| g.name.as_str()).collect::<Vec<_>>(), ["s3 (1)", "unknown (1)"]);
    }

    #[test]
    fn both_axes_have_the_same_scale() {
        let groups = vec![Group { colour: 2, name: "a".into(), points: vec![[0.0, 0.0], [4.0, 2.0], [f64::NAN, 0.0]] }];
        let svg = Scatter { groups }.svg("x");
        // 960 units for 4: a height of 2 is 480, with edges 520.
        assert!(
            svg.contains("viewBox=\"0 0 1000 520\"")
                && svg.contains("<g class=\"c2\"><path d=\"M20 500h0M980 20h0\"/>"),
            "{svg}"
        );
        let one = Scatter { groups: vec![Group { colour: 1, name: "a".into(), points: vec![[3.0, 3.0]] }] }.svg("x");
        assert!(one.contains("M500 100h0"), "{one}");
        assert!(Scatter { groups: Vec::new() }.svg("x").contains("nothing to draw"));
    }
}
