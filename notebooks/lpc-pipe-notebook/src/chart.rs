//! Charts, drawn by kuva as SVG: attributes on elements and no style element.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use kuva::plot::ColorMap;
use kuva::prelude::{BarPlot, Heatmap, Layout, LinePlot, Plot, ScatterPlot};

use crate::{Error, Result};

/// Okabe and Ito's colours, which people with colour vision deficiencies can tell apart.
const COLOURS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#b8a800"];

/// What is drawn. Of this kuva's plots are made each time: they cannot be cloned, and drawing one uses it up.
#[derive(Debug, Clone)]
enum Drawn {
    /// Bars by category: height and colour; names of the series where there are several.
    Bars {
        groups: Vec<(String, Vec<(f64, &'static str)>)>,
        legend: Vec<String>,
    },
    /// Points in ascending order, and the lower and upper edge of a band.
    Line {
        name: String,
        points: Vec<(f64, f64)>,
        band: Option<(Vec<f64>, Vec<f64>)>,
        colour: &'static str,
    },
    /// Rows from the bottom.
    Heat {
        values: Vec<Vec<f64>>,
        written: bool,
    },
    Points {
        name: String,
        points: Vec<(f64, f64)>,
        colour: &'static str,
    },
}

impl From<&Drawn> for Plot {
    fn from(drawn: &Drawn) -> Self {
        match drawn.clone() {
            Drawn::Bars { groups, legend } => {
                let plot = groups.into_iter().fold(BarPlot::new(), |plot, (name, bars)| plot.with_group(name, bars));
                if legend.is_empty() {
                    plot.into()
                } else {
                    plot.with_legend(legend.iter().map(|l| &**l).collect()).into()
                }
            }
            Drawn::Line { name, points, band, colour } => {
                let plot = LinePlot::new().with_data(points).with_color(colour).with_legend(name);
                match band {
                    Some((low, high)) => plot.with_band(low, high).into(),
                    None => plot.into(),
                }
            }
            Drawn::Heat { values, written } => {
                let plot = Heatmap::new().with_data(values).with_color_map(ColorMap::Custom(Arc::new(cell_colour)));
                if written { plot.with_values().into() } else { plot.into() }
            }
            Drawn::Points { name, points, colour } => {
                ScatterPlot::new().with_data(points).with_color(colour).with_size(2.5).with_legend(name).into()
            }
        }
    }
}

/// A chart: bars, lines with bands, a heat map, or points.
///
/// No method uses up the chart or the values that it is given: evcxr shows the last expression of a cell as plain text where
/// that expression moves a variable of the cell.
#[derive(Debug, Clone)]
pub struct Chart {
    drawn: Vec<Drawn>,
    title: String,
    x: String,
    y: String,
    /// Categories of the axes of a heat map: columns, and rows from the bottom.
    categories: Option<(Vec<String>, Vec<String>)>,
    width: f64,
    height: f64,
}

/// The colour of a series.
fn colour(series: usize) -> Result<&'static str> {
    let most = COLOURS.len();
    COLOURS.get(series).copied().ok_or_else(|| Error::new("chart", format!("more than {most} series")))
}

fn finite(what: &str, values: impl IntoIterator<Item = f64>) -> Result<()> {
    match values.into_iter().find(|v| !v.is_finite()) {
        Some(v) => Err(Error::new("chart", format!("{what}: {v} cannot be drawn"))),
        None => Ok(()),
    }
}

fn same_length(what: &str, found: usize, wanted: usize) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(Error::new("chart", format!("{what}: {found} values for {wanted} places")))
}

/// The picture with ids of its own. Every picture of kuva has the same ones, and a page with several pictures would clip all
/// of them by the frame of the first.
fn own_ids(svg: &str) -> String {
    // FNV-1a: like pictures have like ids, on every machine.
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = svg.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    svg.replace(" id=\"", &format!(" id=\"chart-{hash:016x}-")).replace("url(#", &format!("url(#chart-{hash:016x}-"))
}

/// Colour of a cell: white for the lowest value, the palette's light blue for the highest, so that black numbers are readable
/// on all.
fn cell_colour(share: f64) -> String {
    let part = |full: f64| (255.0 + (full - 255.0) * share.clamp(0.0, 1.0)).round();
    format!("rgb({},{},{})", part(86.0), part(180.0), part(233.0))
}

impl Chart {
    fn of(drawn: Vec<Drawn>) -> Self {
        let nothing = String::new;
        Self { drawn, title: nothing(), x: nothing(), y: nothing(), categories: None, width: 640.0, height: 400.0 }
    }

    /// Bars: for each category one bar of each series.
    ///
    /// # Errors
    ///
    /// Where there is no category or series, a series has another length than the categories, or a value is not finite.
    pub fn bars<V: AsRef<[f64]>>(categories: &[String], series: &[(&str, V)]) -> Result<Self> {
        if categories.is_empty() || series.is_empty() {
            return Err(Error::new("chart", "no bars"));
        }
        let series: Vec<(&str, &[f64])> = series.iter().map(|(name, values)| (*name, values.as_ref())).collect();
        for (name, values) in &series {
            same_length(name, values.len(), categories.len())?;
            finite(name, values.iter().copied())?;
        }
        let bars = |i: usize| series.iter().enumerate().map(move |(s, (_, values))| Ok((values[i], colour(s)?)));
        let group = |(i, name): (usize, &String)| Ok((name.clone(), bars(i).collect::<Result<Vec<_>>>()?));
        let groups = categories.iter().enumerate().map(group).collect::<Result<Vec<_>>>()?;
        let legend = series.iter().filter(|_| series.len() > 1).map(|(name, _)| name.to_string()).collect();
        Ok(Self::of(vec![Drawn::Bars { groups, legend }]))
    }

    /// A chart without lines; [`Self::line`] adds them.
    pub fn lines() -> Self {
        Self::of(Vec::new())
    }

    /// One more line, in ascending order of `x`.
    ///
    /// # Errors
    ///
    /// Where the lengths differ, there is no point, a value is not finite, or there are more lines than colours.
    pub fn line(&self, name: &str, x: &[f64], y: &[f64]) -> Result<Self> {
        self.clone().add_line(name, x, y, None)
    }

    /// One more line with a band around it, from `low` to `high`. See [`Self::line`].
    ///
    /// # Errors
    ///
    /// As [`Self::line`].
    pub fn line_with_band(&self, name: &str, x: &[f64], y: &[f64], low: &[f64], high: &[f64]) -> Result<Self> {
        self.clone().add_line(name, x, y, Some((low, high)))
    }

    fn add_line(mut self, name: &str, x: &[f64], y: &[f64], band: Option<(&[f64], &[f64])>) -> Result<Self> {
        if x.is_empty() {
            return Err(Error::new("chart", format!("{name}: no points")));
        }
        same_length(name, y.len(), x.len())?;
        finite(name, x.iter().chain(y).copied())?;
        let mut order: Vec<usize> = (0..x.len()).collect();
        order.sort_by(|a, b| x[*a].total_cmp(&x[*b]));
        let points: Vec<(f64, f64)> = order.iter().map(|i| (x[*i], y[*i])).collect();
        let mut sorted = None;
        if let Some((low, high)) = band {
            for edge in [low, high] {
                same_length(name, edge.len(), x.len())?;
                finite(name, edge.iter().copied())?;
            }
            let of = |edge: &[f64]| order.iter().map(|i| edge[*i]).collect::<Vec<_>>();
            sorted = Some((of(low), of(high)));
        }
        let colour = colour(self.drawn.len())?;
        self.drawn.push(Drawn::Line { name: name.into(), points, band: sorted, colour });
        Ok(self)
    }

    /// A heat map with the values in its cells: `values[row][column]`, the first row at the top.
    ///
    /// # Errors
    ///
    /// Where there is no cell, the values do not fill rows and columns, or one is not finite.
    pub fn heat(rows: &[String], columns: &[String], values: &[Vec<f64>]) -> Result<Self> {
        if rows.is_empty() || columns.is_empty() {
            return Err(Error::new("chart", "no cells"));
        }
        same_length("rows", values.len(), rows.len())?;
        for (name, row) in rows.iter().zip(values) {
            same_length(name, row.len(), columns.len())?;
            finite(name, row.iter().copied())?;
        }
        // Two places are enough, and fit into a cell.
        // kuva draws the first row at the bottom.
        let rounded: Vec<Vec<f64>> =
            values.iter().rev().map(|row| row.iter().map(|v| (v * 100.0).round() / 100.0).collect()).collect();
        let mut chart = Self::of(vec![Drawn::Heat { values: rounded, written: columns.len() <= 20 }]);
        chart.categories = Some((columns.to_vec(), rows.iter().rev().cloned().collect()));
        chart.width = 240.0 + 48.0 * columns.len() as f64;
        chart.height = 160.0 + 36.0 * rows.len() as f64;
        Ok(chart)
    }

    /// Points, each group in a colour of its own.
    ///
    /// # Errors
    ///
    /// Where there is no point, a coordinate is not finite, or there are more groups than colours.
    pub fn points(groups: &[(String, Vec<(f64, f64)>)]) -> Result<Self> {
        if groups.iter().all(|(_, points)| points.is_empty()) {
            return Err(Error::new("chart", "no points"));
        }
        let mut drawn = Vec::new();
        for (i, (name, points)) in groups.iter().enumerate() {
            finite(name, points.iter().flat_map(|(x, y)| [*x, *y]))?;
            drawn.push(Drawn::Points { name: name.clone(), points: points.clone(), colour: colour(i)? });
        }
        Ok(Self::of(drawn))
    }

    /// A histogram of each group as lines: the share of the group's values in each of `bins` equal parts of the range.
    ///
    /// # Errors
    ///
    /// Where there is no value or no bin, a value is not finite, or there are more groups than colours.
    pub fn histogram(groups: &[(String, Vec<f64>)], bins: usize) -> Result<Self> {
        let all = || groups.iter().flat_map(|(_, values)| values).copied();
        finite("histogram", all())?;
        let (low, high) = all().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if low > high || bins == 0 {
            return Err(Error::new("chart", "no values, or no bins"));
        }
        let width = if high > low { (high - low) / bins as f64 } else { 1.0 };
        let middles: Vec<f64> = (0..bins).map(|i| low + (i as f64 + 0.5) * width).collect();
        groups.iter().filter(|(_, values)| !values.is_empty()).try_fold(Self::lines(), |chart, (name, values)| {
            let mut counts = vec![0u32; bins];
            for value in values {
                // The highest value belongs to the last part.
                counts[(((value - low) / width) as usize).min(bins - 1)] += 1;
            }
            let shares: Vec<f64> = counts.iter().map(|c| f64::from(*c) / values.len() as f64).collect();
            chart.line(name, &middles, &shares)
        })
    }

    /// The chart with a title.
    pub fn title(&self, title: &str) -> Self {
        Self { title: title.into(), ..self.clone() }
    }

    /// The chart with what its axes show.
    pub fn axes(&self, x: &str, y: &str) -> Self {
        Self { x: x.into(), y: y.into(), ..self.clone() }
    }

    /// The chart as SVG. A chart without lines is an empty picture.
    pub fn svg(&self) -> String {
        let plots: Vec<Plot> = self.drawn.iter().map(Plot::from).collect();
        let mut layout = Layout::auto_from_plots(&plots)
            .with_title(self.title.as_str())
            .with_x_label(self.x.as_str())
            .with_y_label(self.y.as_str())
            .with_width(self.width)
            .with_height(self.height);
        if let Some((columns, rows)) = &self.categories {
            layout = layout.with_x_categories(columns.clone()).with_y_categories(rows.clone());
        }
        own_ids(&kuva::render_to_svg(plots, layout))
    }
}
