//! One error type for the whole crate. An error is data: where (path, line or
//! row, field), what was found, and, where we know it, what to do next.

use std::path::{Path, PathBuf};

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One fault in a configuration: the dotted key and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where the value came from: a recipe's path, `--set`, or a flag.
    pub origin: String,
    /// Dotted key, for example `train.lpc.codes`.
    pub key: String,
    /// What is wrong, and a suggestion where there is one.
    pub message: String,
}

impl Fault {
    /// A fault of the setting at a dotted key, wherever it was written.
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Fault {
        Fault { origin: String::new(), key: key.into(), message: message.into() }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.origin.is_empty() {
            write!(f, "{}: ", self.origin)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// All errors of the crate, by who can fix them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or writing a file failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's own message.
        source: std::io::Error,
    },
    /// A row, field or file of the user's input cannot be used (exit code 3).
    #[error("{}", data_message(path, *line, field, message))]
    Data {
        /// The input file.
        path: PathBuf,
        /// 1-based line (row for Parquet), where known.
        line: Option<u64>,
        /// Dotted path of the field, where known.
        field: Option<String>,
        /// Expected and found.
        message: String,
        /// What to do next.
        hint: Option<String>,
    },
    /// The configuration is not usable; all faults at once (exit code 2).
    #[error("{}", faults_message(.0))]
    Config(Vec<Fault>),
    /// One of our own artifacts is missing, damaged or does not fit (exit code 3).
    #[error("{}: {message}", path.display())]
    Artifact {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
        /// What to do next.
        hint: Option<String>,
    },
    /// A model or tokenizer cannot be used (exit code 3).
    #[error("{model}: {message}")]
    Model {
        /// The model as the user named it, or the file at fault.
        model: String,
        /// What is wrong with it.
        message: String,
        /// What to do next.
        hint: Option<String>,
    },
    /// The work itself failed (exit code 1).
    #[error("{message}")]
    Run {
        /// What happened.
        message: String,
        /// What to do next.
        hint: Option<String>,
    },
    /// The user or a scheduler asked for a stop; what was done is kept (exit code 1, or [`Error::STOPPED`] where the
    /// caller is to run the same command again).
    #[error("{message}")]
    Interrupted {
        /// How far it came, and what is kept.
        message: String,
        /// How to go on.
        hint: Option<String>,
    },
    /// A tensor operation failed (exit code 1).
    #[error("tensor: {0}")]
    Tensor(#[from] candle_core::Error),
    /// A dataframe operation failed (exit code 1).
    #[error("dataframe: {0}")]
    Frame(#[from] polars::prelude::PolarsError),
    /// An Arrow operation failed (exit code 1).
    #[error("arrow: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
    /// A Parquet operation failed (exit code 1).
    #[error("parquet: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// JSON of our own could not be written or read (exit code 1).
    #[error("json: {0}")]
    Json(#[from] serde_json::Error),
}

fn data_message(path: &Path, line: Option<u64>, field: &Option<String>, message: &str) -> String {
    let mut out = path.display().to_string();
    if let Some(line) = line {
        out += &format!(": line {line}");
    }
    if let Some(field) = field {
        out += &format!(": {field}");
    }
    out + ": " + message
}

fn faults_message(faults: &[Fault]) -> String {
    match faults {
        [one] => one.to_string(),
        many => {
            let lines: Vec<String> = many.iter().map(|f| format!("  {f}")).collect();
            format!("{} faults in the configuration\n{}", many.len(), lines.join("\n"))
        }
    }
}

impl Error {
    /// Exit code of a command that was stopped and is to be run again: `EX_TEMPFAIL` of `sysexits.h`.
    pub const STOPPED: u8 = 75;

    /// Wraps an I/O error with the path it happened at; for `map_err`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { path, source }
    }

    /// A single configuration fault.
    pub fn config(key: impl Into<String>, message: impl Into<String>) -> Error {
        Error::Config(vec![Fault::new(key, message)])
    }

    /// A failure of the work itself, without a hint.
    pub fn run(message: impl Into<String>) -> Error {
        Error::Run { message: message.into(), hint: None }
    }

    /// A stop that was asked for, without a hint.
    pub fn interrupted(message: impl Into<String>) -> Error {
        Error::Interrupted { message: message.into(), hint: None }
    }

    /// A damaged or unfitting artifact of our own.
    pub fn artifact(path: impl AsRef<Path>, message: impl Into<String>) -> Error {
        Error::Artifact { path: path.as_ref().to_path_buf(), message: message.into(), hint: None }
    }

    /// A model or tokenizer that cannot be used.
    pub fn model(model: impl Into<String>, message: impl Into<String>) -> Error {
        Error::Model { model: model.into(), message: message.into(), hint: None }
    }

    /// The same error with advice for the user (kept where the variant has room for it).
    #[must_use]
    pub fn with_hint(mut self, advice: impl Into<String>) -> Error {
        if let Error::Data { hint, .. }
        | Error::Artifact { hint, .. }
        | Error::Model { hint, .. }
        | Error::Run { hint, .. }
        | Error::Interrupted { hint, .. } = &mut self
        {
            *hint = Some(advice.into());
        }
        self
    }

    /// Advice for the user, printed after a blank line as `hint: ...`.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Error::Data { hint, .. }
            | Error::Artifact { hint, .. }
            | Error::Model { hint, .. }
            | Error::Run { hint, .. }
            | Error::Interrupted { hint, .. } => hint.as_deref(),
            _ => None,
        }
    }

    /// The process exit code: 1 failed while running, 2 usage or configuration, 3 input rejected.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Config(_) => 2,
            Error::Data { .. } | Error::Artifact { .. } | Error::Model { .. } => 3,
            // A path the user named that is not there is an input fault, not ours.
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => 3,
            _ => 1,
        }
    }
}
