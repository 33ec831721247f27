//! What a stage says while it works. Stages speak to a [`Progress`]; only the
//! command line decides what a person sees, and prints it on stderr.

/// Listener of a running stage; what it does not listen to is lost. All methods may be called from any thread.
pub trait Progress: Send + Sync {
    /// A step begins, of `total` units where that is known.
    fn begin(&self, _step: &str, _total: Option<u64>) {}
    /// `n` more units of the current step are done.
    fn advance(&self, _n: u64) {}
    /// One line about the current state, replacing the last one (loss, rate ...).
    fn status(&self, _line: &str) {}
    /// The current step is done.
    fn end(&self) {}
    /// A line worth keeping.
    fn note(&self, _line: &str) {}
    /// A warning: the work goes on, but the user should know.
    fn warn(&self, _line: &str) {}
    /// Whether the user asked to stop at the next good place.
    fn interrupted(&self) -> bool {
        false
    }
}

/// Says nothing.
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
