//! Tables as HTML, charts as SVG, in the form in which evcxr wants them.

use crate::{Chart, Column, Table};

/// Most rows that are shown.
const ROWS: usize = 24;
/// Most characters of a cell that are shown.
const WIDTH: usize = 72;

/// Prints content of a MIME type for evcxr, which calls `evcxr_display` of the value of a cell.
fn show(mime: &str, content: &str) {
    println!("EVCXR_BEGIN_CONTENT {mime}\n{content}\nEVCXR_END_CONTENT");
}

pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A number with four significant digits; whole ones as they are.
pub(crate) fn number(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return format!("{value:.0}");
    }
    if !value.is_finite() {
        return value.to_string();
    }
    let digits = value.abs().log10().floor();
    if !(-5.0..=6.0).contains(&digits) {
        return format!("{value:.3e}");
    }
    // Between -5 and 6, so that there are 0 to 8 places.
    format!("{value:.places$}", places = (3.0 - digits).max(0.0) as usize)
}

/// The text up to the last whole word that fits.
fn shortened(text: &str) -> String {
    if text.chars().count() <= WIDTH {
        return text.to_string();
    }
    let head: String = text.chars().take(WIDTH - 1).collect();
    let words = head.rfind(' ').filter(|at| *at > 0).map_or(head.as_str(), |at| &head[..at]);
    format!("{words}…")
}

/// A cell: its text, and whether it is right-aligned. Null is an empty cell.
fn cell(column: &Column, row: usize) -> (String, bool) {
    let (text, right) = match column {
        Column::Text(v) => (v[row].clone(), false),
        Column::Number(v) => (v[row].map(number), true),
        Column::Flag(v) => (v[row].map(|flag| if flag { "yes" } else { "no" }.to_string()), false),
        Column::Texts(v) => (v[row].as_ref().map(|v| v.join(" · ")), false),
        Column::Numbers(v) => {
            (v[row].as_ref().map(|v| v.iter().map(|v| number(*v)).collect::<Vec<_>>().join(" ")), true)
        }
    };
    (shortened(&text.unwrap_or_default()), right)
}

impl Table {
    /// The table as HTML with attributes on its elements: a page that strips styles shows it too. At most 24 rows, and below
    /// them how many there are.
    pub fn html(&self) -> String {
        let mut html = String::from("<table border=\"1\" cellpadding=\"4\" cellspacing=\"0\">\n<tr>");
        for (name, _) in &self.columns {
            html.push_str(&format!("<th align=\"left\">{}</th>", escape(name)));
        }
        html.push_str("</tr>\n");
        let shown = self.rows().min(ROWS);
        for row in 0..shown {
            html.push_str("<tr>");
            for (_, column) in &self.columns {
                let (text, right) = cell(column, row);
                let align = if right { "right" } else { "left" };
                html.push_str(&format!("<td align=\"{align}\">{}</td>", escape(&text)));
            }
            html.push_str("</tr>\n");
        }
        html.push_str("</table>");
        if shown < self.rows() {
            html.push_str(&format!("\n<p>{shown} of {} rows</p>", self.rows()));
        }
        html
    }

    /// Called by evcxr to show the value of a cell.
    pub fn evcxr_display(&self) {
        show("text/html", &self.html());
    }
}

impl Chart {
    /// Called by evcxr to show the value of a cell.
    pub fn evcxr_display(&self) {
        show("image/svg+xml", &self.svg());
    }
}
