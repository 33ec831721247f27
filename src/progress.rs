//! Progress of a running stage. Stages report to a [`Progress`]; only the command line decides what a person sees,
//! and prints it on stderr.

/// A piece of work that is done beside others: a row of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepPart {
    /// Its name, which no other part has.
    pub name: String,
    /// What it is, a text for each column.
    pub about: Vec<String>,
    /// How far it is.
    pub state: PartState,
}

/// How far a part is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartState {
    /// It has not begun.
    Waiting,
    /// It has begun; where it stands, in words.
    Running(String),
    /// It is done; what came of it, in words.
    Done(String),
    /// It failed; why.
    Failed(String),
}

/// Receives what a running stage reports; the default methods ignore it. All may be called from any thread.
pub trait Progress: Send + Sync {
    /// A step begins, of `total` units where that is known.
    fn begin(&self, _step: &str, _total: Option<u64>) {}
    /// `n` more units of the current step are done.
    fn advance(&self, _n: u64) {}
    /// One line about the current state, replacing the last one (loss, rate ...).
    fn status(&self, _line: &str) {}
    /// The current step is done.
    fn end(&self) {}
    /// The step that begins next is done in parts, whose columns have these names.
    fn parts(&self, _columns: &[&str], _parts: Vec<StepPart>) {}
    /// How far a part is now.
    fn part(&self, _name: &str, _state: PartState) {}
    /// A line worth keeping.
    fn note(&self, _line: &str) {}
    /// A warning: the work goes on, but the user should know.
    fn warn(&self, _line: &str) {}
    /// Whether the user asked to stop; stages then stop where they can be resumed.
    fn interrupted(&self) -> bool {
        false
    }
}

/// Ignores all reports.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {}

/// Peak resident memory of this process in MiB; NaN where the system does not tell.
pub fn peak_rss_mb() -> f64 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|l| l.starts_with("VmHWM:"))?;
            line.split_whitespace().nth(1)?.parse::<f64>().ok()
        })
        .map_or(f64::NAN, |kib| kib / 1024.0)
}
