//! The blocks of a report, and their rendering as HTML and as Markdown. Blocks hold plain text; it is escaped here and
//! nowhere else.

use std::fmt::Write;

use super::plot;
use super::scatter::Drawing;
use super::text::{html, markdown, percent};

/// A report.
pub(super) struct Page {
    pub title: String,
    /// One line under it.
    pub subtitle: String,
    pub parts: Vec<Block>,
}

/// A block of a report.
pub(super) enum Block {
    Heading(String),
    Text(String),
    /// A highlighted paragraph.
    Warning(String),
    Tiles(Vec<Tile>),
    Table(Table),
    /// The main chart, as wide as the page.
    Main(Figure),
    /// Charts side by side where the page is wide enough.
    Figures(Vec<Figure>),
    Heat(Heat),
    /// Text that is collapsed under its title: the title, and the text.
    Fold(String, String),
    /// Other pages: name, and path from this one.
    Links(Vec<(String, String)>),
}

/// One headline number.
pub(super) struct Tile {
    pub label: String,
    pub value: String,
    /// Interval, count, unit.
    pub detail: String,
}

/// A table; columns of numbers are aligned to the right.
#[derive(Default)]
pub(super) struct Table {
    /// What it shows.
    pub caption: String,
    pub header: Vec<String>,
    pub rows: Vec<Vec<String>>,
    /// Number of columns, from the left, that are text.
    pub text_columns: usize,
}

/// A chart with its title and caption.
pub(super) struct Figure {
    /// What it shows, with the unit.
    pub title: String,
    /// How to read it; may be empty.
    pub caption: String,
    pub chart: Drawing,
}

/// A matrix of shares between 0 and 1.
pub(super) struct Heat {
    /// What it shows.
    pub caption: String,
    /// Name of the rows.
    pub corner: String,
    pub columns: Vec<String>,
    /// Row name and shares.
    pub rows: Vec<(String, Vec<f64>)>,
    /// Shares up to this one have no shade: 0, or one half for accuracies.
    pub base: f64,
    /// Whether the largest cell of each column stands out.
    pub peaks: bool,
}

/// Above this many columns the cells of a heat map have no room for their numbers.
const HEAT_NUMBERS: usize = 16;
/// Most characters of a heat map's column names, and of its row names.
const HEAT_NAMES: (usize, usize) = (24, 40);
/// Most characters of a word that is never broken, in a line and in a heat map's column name.
const LONG_WORD: (usize, usize) = (20, 8);
/// Characters above which a row name of a heat map may be broken into lines.
const LONG_ROW: usize = 14;
/// Characters above which a cell may be broken into lines; its column then stays a few words wide.
const LONG_CELL: usize = 28;

impl Page {
    /// The page as one HTML file.
    pub fn to_html(&self) -> String {
        let mut out = String::with_capacity(1 << 16);
        let title = html(&self.title);
        let _ = write!(
            out,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>\n{}{}</style>\n\
             </head>\n<body>\n<main>\n<h1{}>{}</h1>\n<p class=\"sub\">{}</p>\n",
            include_str!("style.css"),
            plot::style(),
            full_name(&self.title),
            breakable(&self.title),
            html(&self.subtitle),
        );
        let mut open = false;
        for part in &self.parts {
            if let Block::Heading(text) = part {
                let _ = write!(out, "{}<section>\n<h2>{}</h2>\n", if open { "</section>\n" } else { "" }, html(text));
                open = true;
            } else {
                part.to_html(&mut out);
            }
        }
        out.push_str(if open { "</section>\n</main>\n</body>\n</html>\n" } else { "</main>\n</body>\n</html>\n" });
        out
    }

    /// The page as Markdown; charts are named, not drawn.
    pub fn to_markdown(&self) -> String {
        let mut out = format!("# {}\n\n{}\n", markdown(&self.title), markdown(&self.subtitle));
        for part in &self.parts {
            part.to_markdown(&mut out);
        }
        out
    }
}

impl Block {
    fn to_html(&self, out: &mut String) {
        let _ = match self {
            Block::Heading(text) => writeln!(out, "<h2>{}</h2>", html(text)),
            Block::Text(text) => writeln!(out, "<p>{}</p>", html(text)),
            Block::Warning(text) => writeln!(out, "<p class=\"warning\"><strong>Note.</strong> {}</p>", html(text)),
            Block::Fold(name, text) => {
                let (name, text) = (html(name), html(text));
                writeln!(
                    out,
                    "<details><summary>{name}</summary>\
                     <pre tabindex=\"0\" role=\"region\" aria-label=\"{name}\">{text}</pre></details>"
                )
            }
            Block::Tiles(tiles) => {
                out.push_str("<dl class=\"tiles\">\n");
                for t in tiles {
                    let (label, value, detail) = (html(&t.label), html(&t.value), html(&t.detail));
                    let _ = writeln!(out, "<div><dt>{label}</dt><dd><b>{value}</b><span>{detail}</span></dd></div>");
                }
                writeln!(out, "</dl>")
            }
            Block::Links(links) => {
                out.push_str("<ul>\n");
                for (name, path) in links {
                    let _ = writeln!(out, "<li><a href=\"{}\">{}</a></li>", html(path), breakable(name));
                }
                writeln!(out, "</ul>")
            }
            Block::Table(table) => table.to_html(out),
            Block::Heat(heat) => heat.to_html(out),
            Block::Main(figure) => figure.to_html(out, true),
            Block::Figures(figures) if figures.is_empty() => Ok(()),
            Block::Figures(figures) => {
                out.push_str("<div class=\"figures\">\n");
                figures.iter().try_for_each(|f| f.to_html(out, false)).and_then(|()| writeln!(out, "</div>"))
            }
        };
    }

    fn to_markdown(&self, out: &mut String) {
        let _ = match self {
            Block::Heading(text) => writeln!(out, "\n## {}", markdown(text)),
            Block::Text(text) => writeln!(out, "\n{}", markdown(text)),
            Block::Warning(text) => writeln!(out, "\n> **Note.** {}", markdown(text)),
            Block::Fold(name, text) => {
                // A fence longer than any in the text.
                let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
                let fence = "`".repeat(longest.max(2) + 1);
                writeln!(out, "\n{}\n\n{fence}\n{}\n{fence}", markdown(name), text.trim_end())
            }
            Block::Links(links) => {
                let lines: Vec<String> =
                    links.iter().map(|(name, path)| format!("- [{}]({path})", markdown(name))).collect();
                writeln!(out, "\n{}", lines.join("\n"))
            }
            Block::Tiles(tiles) => {
                let columns: [Column<'_, &Tile>; 3] =
                    [("", &|t| t.label.clone()), ("value", &|t| t.value.clone()), ("", &|t| t.detail.clone())];
                let table = Table::of("", 3, tiles, &columns);
                writeln!(out, "{}", table.as_markdown().trim_end())
            }
            Block::Table(table) => writeln!(out, "{}", table.as_markdown().trim_end()),
            Block::Heat(heat) => writeln!(out, "{}", heat.as_table().as_markdown().trim_end()),
            Block::Main(figure) => writeln!(out, "\n{}", figure.as_markdown()),
            Block::Figures(figures) => {
                let lines: Vec<String> = figures.iter().map(Figure::as_markdown).collect();
                writeln!(out, "\n{}", lines.join("\n"))
            }
        };
    }
}

/// Opens the scroll container of a table. The caption is above it, where a narrow table does not narrow it, and is also
/// its accessible name, which it needs because the keyboard can focus and scroll it.
fn open_table(out: &mut String, caption: &str, class: &str) -> std::fmt::Result {
    let caption = html(caption);
    write!(
        out,
        "<p class=\"cap\">{caption}</p>\n<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"{caption}\">\
         <table class=\"{class}\">\n"
    )
}

/// A column of a table of items: its name, and the cell of an item.
pub(super) type Column<'a, T> = (&'a str, &'a dyn Fn(&T) -> String);

impl Table {
    /// A table with a row for each item.
    pub fn of<T>(
        caption: impl Into<String>,
        text_columns: usize,
        items: impl IntoIterator<Item = T>,
        columns: &[Column<'_, T>],
    ) -> Table {
        Table {
            caption: caption.into(),
            header: columns.iter().map(|(name, _)| (*name).to_string()).collect(),
            rows: items.into_iter().map(|item| columns.iter().map(|(_, cell)| cell(&item)).collect()).collect(),
            text_columns,
        }
    }

    /// The table without the columns that are empty, or a dash, in every row; text columns are kept.
    pub fn without_empty_columns(mut self) -> Table {
        let said = |i: usize| self.rows.iter().any(|row| !matches!(row[i].as_str(), "" | "–"));
        let kept: Vec<bool> = (0..self.header.len()).map(|i| i < self.text_columns || said(i)).collect();
        for row in std::iter::once(&mut self.header).chain(&mut self.rows) {
            let mut kept = kept.iter();
            row.retain(|_| kept.next() == Some(&true));
        }
        self
    }

    fn to_html(&self, out: &mut String) -> std::fmt::Result {
        // A table of names and values has no header.
        let headless = self.header.iter().all(String::is_empty);
        open_table(out, &self.caption, if headless { "values" } else { "rows" })?;
        out.push_str(if headless { "<tbody>\n" } else { "<thead><tr>" });
        for (i, name) in self.header.iter().take(if headless { 0 } else { usize::MAX }).enumerate() {
            let class = if i < self.text_columns { "" } else { " class=\"n\"" };
            write!(out, "<th scope=\"col\"{class}>{}</th>", html(name))?;
        }
        out.push_str(if headless { "" } else { "</tr></thead>\n<tbody>\n" });
        for row in &self.rows {
            out.push_str("<tr>");
            for (i, cell) in row.iter().enumerate() {
                let class = if i >= self.text_columns {
                    " class=\"n\""
                } else if !headless && cell.chars().count() > LONG_CELL {
                    " class=\"long\""
                } else {
                    ""
                };
                write!(out, "<td{class}{}>{}</td>", full_name(cell), breakable(cell))?;
            }
            out.push_str("</tr>\n");
        }
        writeln!(out, "</tbody></table></div>")
    }

    fn as_markdown(&self) -> String {
        let mut out = String::new();
        if !self.caption.is_empty() {
            let _ = write!(out, "\n{}\n", markdown(&self.caption));
        }
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|c| markdown(c)).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let rule: Vec<&str> =
            (0..self.header.len()).map(|i| if i < self.text_columns { "---" } else { "---:" }).collect();
        let _ = write!(out, "\n{}| {} |\n", line(&self.header), rule.join(" | "));
        self.rows.iter().for_each(|row| out.push_str(&line(row)));
        out
    }
}

impl Heat {
    fn to_html(&self, out: &mut String) -> std::fmt::Result {
        let many = self.columns.len() > HEAT_NUMBERS;
        let class = if many { "heat many" } else { "heat" };
        // Shades are relative to the largest cell, because with many columns all shares are small. The caption gives
        // its share and calls it the bluest, which is true on a light and on a dark page.
        let shares = self.rows.iter().flat_map(|(_, shares)| shares).filter(|s| s.is_finite());
        let largest = shares.fold(0.0f64, |m, s| m.max(*s));
        let room = largest - self.base;
        let mut caption = format!("{}; the bluest cell is {}", self.caption, percent(largest, 0));
        if self.base > 0.0 {
            let _ = write!(caption, ", and {} or less is not blue", percent(self.base, 0));
        }
        // A shade alone does not tell which of two high cells is the higher one.
        let peak = |column: usize| {
            let values = self.rows.iter().filter_map(|(_, shares)| shares.get(column)).filter(|s| s.is_finite());
            values.fold(f64::NEG_INFINITY, |m, s| m.max(*s))
        };
        let peaks: Vec<f64> = (0..self.columns.len()).filter(|_| self.peaks).map(peak).collect();
        open_table(out, &caption, class)?;
        write!(out, "<thead><tr><th scope=\"col\">{}</th>", html(&self.corner))?;
        for name in &self.columns {
            let (title, name) = shortened(name, HEAT_NAMES.0, LONG_WORD.1);
            write!(out, "<th scope=\"col\" class=\"n\"{title}>{name}</th>")?;
        }
        out.push_str("</tr></thead>\n<tbody>\n");
        for (name, shares) in &self.rows {
            let class = if name.chars().count() > LONG_ROW { " class=\"long\"" } else { "" };
            let (title, name) = shortened(name, HEAT_NAMES.1, LONG_WORD.0);
            write!(out, "<tr><th scope=\"row\"{class}{title}>{name}</th>")?;
            for (column, share) in shares.iter().enumerate() {
                let depth = if share.is_finite() && room > 0.0 { (share - self.base).max(0.0) / room } else { 0.0 };
                let text = percent(*share, 0);
                let shown = match (many, peaks.get(column) == Some(share)) {
                    (true, true) => "•".to_string(),
                    (true, false) => String::new(),
                    (false, true) => format!("<b>{text}</b>"),
                    (false, false) => text.clone(),
                };
                write!(out, "<td style=\"--v:{:.3}\" title=\"{text}\">{shown}</td>", depth * 0.6)?;
            }
            out.push_str("</tr>\n");
        }
        writeln!(out, "</tbody></table></div>")
    }

    fn as_table(&self) -> Table {
        let row = |(name, shares): &(String, Vec<f64>)| {
            std::iter::once(name.clone()).chain(shares.iter().map(|s| percent(*s, 0))).collect()
        };
        Table {
            caption: self.caption.clone(),
            header: std::iter::once(self.corner.clone()).chain(self.columns.iter().cloned()).collect(),
            rows: self.rows.iter().map(row).collect(),
            text_columns: 1,
        }
    }
}

impl Figure {
    fn to_html(&self, out: &mut String, main: bool) -> std::fmt::Result {
        let class = if main { " class=\"main\"" } else { "" };
        write!(out, "<figure{class}>\n<figcaption>{}</figcaption>\n", breakable(&self.title))?;
        let legend = self.chart.legend();
        if !legend.is_empty() {
            out.push_str("<ul class=\"legend\">");
            for (colour, name) in legend {
                write!(out, "<li><i class=\"c{}\"></i>{}</li>", plot::slot(colour), html(name))?;
            }
            out.push_str("</ul>\n");
        }
        out.push_str(&self.chart.svg(&html(&self.title), main));
        if !self.caption.is_empty() {
            writeln!(out, "<p class=\"how\">{}</p>", html(&self.caption))?;
        }
        writeln!(out, "</figure>")
    }

    fn as_markdown(&self) -> String {
        let lines: Vec<&str> = self.chart.legend().into_iter().map(|(_, name)| name).collect();
        let of = if lines.is_empty() { String::new() } else { format!(" ({})", lines.join(", ")) };
        format!("- figure in report.html: {}", markdown(&format!("{}{of}", self.title)))
    }
}

/// The name as a `title` attribute where one of its words is so long that it may be broken.
fn full_name(name: &str) -> String {
    let long = name.split_whitespace().any(|word| word.chars().count() > LONG_WORD.0);
    if long { format!(" title=\"{}\"", html(name)) } else { String::new() }
}

/// Text for HTML content whose long words may be broken after separators such as `/` and `_`.
fn breakable(text: &str) -> String {
    broken(text, LONG_WORD.0)
}

/// [`breakable`] for words of more than `most` characters.
fn broken(text: &str, most: usize) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split_inclusive(char::is_whitespace) {
        if word.chars().count() <= most {
            out.push_str(&html(word));
            continue;
        }
        let pieces: Vec<String> = word.split_inclusive(['/', '_', '-', '.', ':', '=', ',', '&']).map(html).collect();
        out.push_str(&pieces.join("<wbr>"));
    }
    out
}

/// A name with its middle left out where it has more characters than `most`, as HTML, and its `title` attribute; words
/// of more characters than `word` may be broken.
fn shortened(name: &str, most: usize, word: usize) -> (String, String) {
    let chars: Vec<char> = name.chars().collect();
    if chars.len() <= most {
        return (full_name(name), broken(name, word));
    }
    // Names differ at their ends more often than in the middle.
    let end = (most - 1) / 2;
    let start: String = chars[..most - 1 - end].iter().collect();
    let end: String = chars[chars.len() - end..].iter().collect();
    (format!(" title=\"{}\"", html(name)), broken(&format!("{start}…{end}"), word))
}
