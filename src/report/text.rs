//! Text and numbers as a report shows them.

/// Tokens shown for each code and end.
const TOKENS_SHOWN: usize = 10;

/// Text made safe to show: control characters and direction marks, which could hide or reorder
/// what is read (or drive a terminal), are written out.
pub(crate) fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let hidden =
            matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
        if c.is_control() || hidden {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// [`visible`], with line breaks kept.
pub(crate) fn visible_lines(text: &str) -> String {
    text.split('\n').map(visible).collect::<Vec<_>>().join("\n")
}

/// Text for HTML content and double-quoted attributes; line breaks are kept.
pub(super) fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in visible_lines(text).chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Text for one line of Markdown.
pub(super) fn markdown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in visible(text).chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '|' | '*' | '_' | '`' | '[' | ']' | '\\' | '#' | '~' | '!' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

/// The first tokens of a list, spaces made visible.
pub(super) fn joined(tokens: &[String]) -> String {
    let shown: Vec<String> = tokens.iter().take(TOKENS_SHOWN).map(|t| visible(t).replace(' ', "␣")).collect();
    shown.join("  ")
}

/// `0.8312` as `83.1 %`; a dash for what is not a number.
pub(super) fn percent(x: f64, decimals: usize) -> String {
    if x.is_finite() { format!("{:.decimals$} %", x * 100.0) } else { "–".into() }
}

/// A number with the given decimals, or a dash.
pub(super) fn number(x: Option<f64>, decimals: usize) -> String {
    match x {
        Some(x) if x.is_finite() => format!("{x:.decimals$}"),
        _ => "–".into(),
    }
}

/// A p-value, or a dash.
pub(super) fn p_value(p: Option<f64>) -> String {
    match p.filter(|p| p.is_finite()) {
        None => "–".into(),
        Some(p) if p < 1e-4 => "< 0.0001".into(),
        Some(p) if p < 0.01 => format!("{p:.4}"),
        Some(p) => format!("{p:.3}"),
    }
}

/// Difference in percentage points with its sign.
pub(super) fn points(x: Option<f64>) -> String {
    x.filter(|x| x.is_finite()).map_or("–".into(), |x| format!("{:+.1}", x * 100.0))
}

/// An interval of shares, `80.1 to 85.3 %`; empty without one.
pub(super) fn interval(low: Option<f64>, high: Option<f64>) -> String {
    match (low, high) {
        (Some(l), Some(h)) if l.is_finite() && h.is_finite() => format!("{:.1} to {:.1} %", l * 100.0, h * 100.0),
        _ => String::new(),
    }
}

/// A count with thin spaces between thousands.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, d) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(d);
    }
    out
}
