//! What goes to stdout (results only) and stderr (everything else).
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the place that prints")]

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use serde::Serialize;

use super::bar;
use super::ignored;
use super::lines::Lines;
use super::parts::Parts;
use super::warning;
use crate::error::{Error, Result};
use crate::progress::{PartState, Progress, StepPart};
use crate::report::visible_lines as safe;

/// A line on stderr. Where it cannot be written there is nobody to tell, and the work goes on.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Writes to stdout. A reader that has seen enough closes the pipe, as `head` does: that is no failure.
///
/// # Errors
/// [`Error::Io`] where what was printed is lost.
fn print(text: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::io("standard output")(e)),
        _ => Ok(()),
    }
}

/// Prints results and errors.
#[derive(Debug)]
pub struct Printer {
    /// JSON instead of a table: one object, or a list of them.
    json: bool,
    /// Of several processes the first prints the results, and every other one its errors alone.
    rank: usize,
}

impl Printer {
    /// A printer of tables, or of JSON.
    pub fn new(json: bool, rank: usize) -> Printer {
        Printer { json, rank }
    }

    /// The command's result, on stdout.
    ///
    /// # Errors
    /// [`Error::Json`]; [`Error::Io`] where it cannot be written. A closed pipe is no error.
    pub fn result<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        if self.rank > 0 {
            return Ok(());
        }
        let text = if self.json { serde_json::to_string(value)? + "\n" } else { safe(&text(value)) };
        print(text.as_bytes())
    }

    /// A text for another program, on stdout, byte for byte.
    ///
    /// # Errors
    /// As [`Printer::result`].
    pub fn script(&self, text: &[u8]) -> Result<()> {
        if self.rank > 0 { Ok(()) } else { print(text) }
    }

    /// An error, on stderr: message, blank line, hint. One that is not the first process' own may be unknown to it: what
    /// one machine alone lacks, say.
    pub fn error(&self, error: &Error) {
        if self.rank > 0 {
            if !matches!(error, Error::Interrupted { .. }) {
                say(&format!("process {}: error: {}", self.rank, safe(&error.to_string())));
            }
            return;
        }
        say(&format!("error: {}", safe(&error.to_string())));
        if let Some(hint) = error.hint() {
            say(&format!("\nhint: {}", safe(hint)));
        }
    }
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Signals within this time are one request: `timeout` and job schedulers signal a process and then its group, which
/// reaches the process twice.
const ONE_REQUEST: Duration = Duration::from_millis(500);

/// Progress on stderr: bars on a terminal, sparse lines elsewhere.
pub struct Terminal {
    quiet: bool,
    bars: bool,
    shown: Mutex<Shown>,
}

/// What is shown of the current step.
#[derive(Default)]
struct Shown {
    bar: Option<ProgressBar>,
    lines: Option<Lines>,
    /// The table of a step that is done in parts, from before the step to its end.
    parts: Option<Parts>,
}

/// Lines of a terminal that the table of the parts leaves free: the bar, and those of the shell and of a warning.
const BESIDE_PARTS: usize = 4;

impl Shown {
    /// Draws the table above the bar.
    fn draw_parts(&self) {
        if let (Some(bar), Some(parts)) = (&self.bar, &self.parts) {
            let lines = parts.lines(bar::stderr_columns(), bar::stderr_rows().saturating_sub(BESIDE_PARTS));
            bar.set_message(safe(&lines.join("\n")));
        }
    }
}

impl Terminal {
    /// Progress on stderr; with `quiet` nothing is shown.
    pub fn new(quiet: bool) -> Terminal {
        // A hidden bar, as on a terminal that cannot move its cursor (TERM=dumb), also drops the lines above it.
        let bars = std::io::stderr().is_terminal() && !target().is_hidden();
        Terminal { quiet, bars, shown: Mutex::default() }
    }

    /// From now on the first Ctrl-C, SIGTERM or SIGHUP asks the stages to stop, the second ends the process. SIGUSR1 asks
    /// too.
    pub fn catch_interrupts(&self) {
        warning::catch();
        let mut asked: Option<Instant> = None;
        let handler = move || match asked {
            Some(at) if at.elapsed() < ONE_REQUEST => {}
            Some(_) => std::process::exit(130),
            None => {
                asked = Some(Instant::now());
                INTERRUPTED.store(true, Ordering::SeqCst);
                say("stopping after this step; once more to stop at once");
            }
        };
        ignored::keep(|| {
            // Fails only where a handler exists already.
            let _ = ctrlc::set_handler(handler);
        });
    }

    fn with(&self, f: impl FnOnce(&mut Shown)) {
        if !self.quiet {
            f(&mut self.shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        }
    }

    fn line(&self, text: &str) {
        let text = safe(text);
        self.with(|shown| match &shown.bar {
            Some(bar) => bar.println(&text),
            None => say(&text),
        });
    }
}

/// Where bars are drawn.
fn target() -> ProgressDrawTarget {
    ProgressDrawTarget::stderr_with_hz(5)
}

/// A bar's style, with the line of a step in it.
fn style(template: &str, step: &str) -> ProgressStyle {
    let step = safe(step);
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.with_key("line", move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let _ = out.write_str(&bar::line(&step, state.pos(), state.len(), state.elapsed(), bar::stderr_columns()));
    })
}

impl Progress for Terminal {
    fn begin(&self, step: &str, total: Option<u64>) {
        self.with(|shown| {
            if !self.bars {
                say(&format!("{step} ..."));
                shown.lines = Some(Lines::new(step, total));
                return;
            }
            let new = ProgressBar::with_draw_target(total, target());
            new.set_style(style(if shown.parts.is_some() { "{msg}\n{line}" } else { "{line}" }, step));
            new.set_prefix(step.to_string());
            new.enable_steady_tick(Duration::from_millis(500));
            shown.bar = Some(new);
            shown.draw_parts();
        });
    }

    fn advance(&self, n: u64) {
        self.with(|shown| {
            if let Some(bar) = &shown.bar {
                bar.inc(n);
            }
            if let Some(line) = shown.lines.as_mut().and_then(|lines| lines.advance(n, Instant::now())) {
                say(&safe(&line));
            }
        });
    }

    fn status(&self, line: &str) {
        self.with(|shown| {
            // The table says it in more words.
            if let Some(bar) = shown.bar.as_ref().filter(|_| shown.parts.is_none()) {
                if bar.message().is_empty() {
                    // A status has a line of its own: beside the bar it would be cut off on a narrow terminal.
                    bar.set_style(style("{line}\n{wide_msg}", &bar.prefix()));
                }
                bar.set_message(safe(line));
            }
            if let Some(lines) = &mut shown.lines {
                lines.status = line.to_string();
            }
        });
    }

    fn end(&self) {
        self.with(|shown| {
            if let Some(bar) = shown.bar.take() {
                // The bar is left as it is, because interrupted work is not complete.
                bar.abandon();
            }
            shown.parts = None;
            if let Some(line) = shown.lines.take().and_then(|lines| lines.last(Instant::now())) {
                say(&safe(&line));
            }
        });
    }

    fn parts(&self, columns: &[&str], parts: Vec<StepPart>) {
        self.with(|shown| shown.parts = Some(Parts::new(columns, parts)));
    }

    fn part(&self, name: &str, state: PartState) {
        self.with(|shown| {
            let line = shown.parts.as_mut().and_then(|parts| parts.set(name, state));
            match line {
                Some(line) if shown.bar.is_none() => say(&safe(&line)),
                _ => shown.draw_parts(),
            }
        });
    }

    fn note(&self, line: &str) {
        self.line(line);
    }

    fn warn(&self, line: &str) {
        self.line(&format!("warning: {line}"));
    }

    fn interrupted(&self) -> bool {
        INTERRUPTED.load(Ordering::SeqCst) || warning::came()
    }
}
