//! What a stage says while it works. Stages speak to a [`Progress`]; only the
//! command line decides what a person sees, and prints it on stderr.

/// Listener of a running stage. All methods may be called from any thread.
pub trait Progress: Send + Sync {
    /// A step begins, of `total` units where that is known.
    fn begin(&self, step: &str, total: Option<u64>);
    /// `n` more units of the current step are done.
    fn advance(&self, n: u64);
    /// One line about the current state, replacing the last one (loss, rate ...).
    fn status(&self, line: &str);
    /// The current step is done.
    fn end(&self);
    /// A line worth keeping.
    fn note(&self, line: &str);
    /// A warning: the work goes on, but the user should know.
    fn warn(&self, line: &str);
}

/// Says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn status(&self, _: &str) {}
    fn end(&self) {}
    fn note(&self, _: &str) {}
    fn warn(&self, _: &str) {}
}
