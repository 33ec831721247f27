//! The progress bar of a terminal: one line that fits, without numbers that are not known yet.

use std::fmt::Write;
use std::time::Duration;

use super::lines::{clock, left};

/// Columns and rows that are assumed where the terminal does not tell.
const COLUMNS: usize = 80;
const ROWS: usize = 24;
/// Widest and narrowest bar.
const BAR: (usize, usize) = (30, 6);

/// Columns of the terminal that standard error goes to.
pub(super) fn stderr_columns() -> usize {
    size(2).0
}

/// Rows of the terminal that standard error goes to.
pub(super) fn stderr_rows() -> usize {
    size(2).1
}

/// Columns of the terminal that standard output goes to; none where it is no terminal.
pub(super) fn stdout_columns() -> Option<usize> {
    std::io::IsTerminal::is_terminal(&std::io::stdout()).then(|| size(1).0)
}

/// Columns and rows of the terminal behind a file descriptor.
fn size(descriptor: i32) -> (usize, usize) {
    #[cfg(unix)]
    {
        let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the call fills in the structure that it is given, and nothing else.
        let told = unsafe { libc::ioctl(descriptor, libc::TIOCGWINSZ, &raw mut size) };
        if told == 0 && size.ws_col > 0 && size.ws_row > 0 {
            return (usize::from(size.ws_col), usize::from(size.ws_row));
        }
    }
    #[cfg(not(unix))]
    let _ = descriptor;
    (COLUMNS, ROWS)
}

/// A rate: whole numbers from ten on, two significant digits below.
pub(super) fn significant(x: f64) -> String {
    if !x.is_finite() || x <= 0.0 {
        return "0".into();
    }
    let digits = (1.0 - x.log10().floor()).clamp(0.0, 9.0) as usize;
    format!("{x:.digits$}")
}

/// A text cut to so many columns; a cut text ends with an ellipsis.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_string();
    }
    text.chars().take(columns.saturating_sub(1)).chain(std::iter::once('…')).collect()
}

/// The line of a step of which `done` units are done, in so many columns. What does not fit is left out, the least
/// important first: the bar, the rate, the elapsed time.
pub(super) fn line(step: &str, done: u64, total: Option<u64>, elapsed: Duration, columns: usize) -> String {
    let count = total.map_or_else(|| done.to_string(), |total| format!("{done}/{total}"));
    let seconds = elapsed.as_secs_f64();
    let rate = (done > 0 && seconds > 0.0).then(|| format!("{}/s", significant(done as f64 / seconds)));
    let left = total.and_then(|total| left(done, total, elapsed));
    let gone = Some(clock(elapsed));
    let joined = |parts: &[&Option<String>]| {
        let parts = parts.iter().filter_map(|part| part.as_deref());
        std::iter::once(count.as_str()).chain(parts).collect::<Vec<_>>().join(" · ")
    };
    let texts = [joined(&[&rate, &gone, &left]), joined(&[&gone, &left]), joined(&[&left]), joined(&[])];
    let size = |text: &str| text.chars().count();
    let fits = |text: &&String| size(step) + 1 + size(text) <= columns;
    let text = texts.iter().find(fits).unwrap_or(&texts[3]);
    let mut out = cut(step, columns.saturating_sub(size(text) + 1));
    let room = columns.saturating_sub(size(&out) + size(text) + 4);
    if let Some(total) = total.filter(|&total| total > 0 && room >= BAR.1) {
        let width = room.min(BAR.0);
        let full = (done.min(total) as usize * width) / total as usize;
        let _ = write!(out, " [{}{}]", "█".repeat(full), "░".repeat(width - full));
    }
    out + " " + text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_rates_have_two_digits() {
        let rates = [0.0, 0.000_123, 0.0384, 0.384, 3.84, 38.4, 3840.0].map(significant);
        assert_eq!(rates, ["0", "0.00012", "0.038", "0.38", "3.8", "38", "3840"]);
    }

    #[test]
    fn a_line_fits_and_says_what_is_known() {
        let at = |done, seconds, columns| {
            line("reference log-probabilities", done, Some(150), Duration::from_secs(seconds), columns)
        };
        // Nothing is done: no rate, no time left, no separator behind the last part.
        assert_eq!(at(0, 0, 80), format!("reference log-probabilities [{}] 0/150 · 0s", "░".repeat(30)));
        for columns in [20, 40, 60, 80, 200] {
            for (done, seconds) in [(0, 0), (3, 8), (75, 4000), (150, 90_000)] {
                let line = at(done, seconds, columns);
                assert!(line.chars().count() <= columns, "{columns}: {line}");
                assert!(!line.ends_with([' ', '·']) && line.contains(&format!("{done}/150")), "{line}");
            }
        }
        assert_eq!(at(3, 8, 60), "reference log-probabilities 3/150 · 0.38/s · 8s · 6m32s left");
        assert_eq!(at(3, 8, 80), "reference log-probabilities [░░░░░░░░░░░░░░░░░] 3/150 · 0.38/s · 8s · 6m32s left");
        assert_eq!(at(150, 60, 60), "reference log-probabilities [██████] 150/150 · 2.5/s · 1m00s");
        assert_eq!(line("reading", 7, None, Duration::from_secs(2), 60), "reading 7 · 3.5/s · 2s");
        assert_eq!(cut("a long name", 6), "a lon…");
    }
}
