//! Errors of fetching a file, and the messages that a user sees.

use std::path::{Path, PathBuf};

use hf_hub::HFError;

use super::address::Hub;
use crate::error::Error;

/// An error of fetching a file.
#[derive(Debug)]
pub enum HubError {
    /// An error of the hub or of the connection to it.
    Hub(Box<HFError>),
    /// An error of this program, such as a path that cannot be written.
    Own(Error),
    /// A file name that is not accepted.
    Name(String),
    /// A path in the cache, and the path outside of the cache that its links lead to.
    Outside(PathBuf, PathBuf),
    /// Any other error: message and hint.
    Other(String, String),
}

impl From<HFError> for HubError {
    fn from(error: HFError) -> HubError {
        HubError::Hub(Box::new(error))
    }
}

impl HubError {
    /// The error of a local path that could not be read or written.
    pub fn io(path: &Path, source: std::io::Error) -> HubError {
        HubError::Own(Error::Io { path: path.to_path_buf(), source })
    }
}

impl Hub {
    /// The error that a user sees; `fail` builds it from a message and a hint.
    pub fn explain(&self, error: HubError, fail: &dyn Fn(String, &str) -> Error) -> Error {
        match error {
            HubError::Hub(e) => self.explain_hub(&e, fail),
            HubError::Own(e) => e,
            HubError::Name(name) => fail(format!("the server names a file {name:?}, which is not accepted"), ""),
            HubError::Outside(path, real) => fail(
                format!("{} leads out of the cache, to {}", path.display(), real.display()),
                "remove that link; the file is then fetched again",
            ),
            HubError::Other(message, hint) => fail(message, &hint),
        }
    }

    fn explain_hub(&self, error: &HFError, fail: &dyn Fn(String, &str) -> Error) -> Error {
        let permission =
            "set HF_TOKEN to a token that may read it, and accept its licence on its page; check the spelling too";
        let at = &self.endpoint;
        match error {
            HFError::AuthRequired { context } => fail(
                format!("unauthorized: the hub wants a token (HTTP 401){}", said(context.server_message.as_deref())),
                permission,
            ),
            HFError::Forbidden { context } => fail(
                format!("forbidden: your token may not read it (HTTP 403){}", said(context.server_message.as_deref())),
                permission,
            ),
            HFError::RepoNotFound { .. } => {
                fail(format!("not found on {at}"), "check the spelling; a private one needs HF_TOKEN")
            }
            HFError::RevisionNotFound { revision, .. } => fail(
                format!("not found on {at} (revision `{revision}`)"),
                "check the spelling; a private one needs HF_TOKEN",
            ),
            HFError::EntryNotFound { path, .. } => fail(format!("has no file `{path}`"), ""),
            HFError::RateLimited { .. } => {
                fail("the hub asks to slow down (HTTP 429)".into(), "try again later, or set HF_TOKEN")
            }
            HFError::Request { source, .. } if source.is_connect() => fail(
                format!("cannot reach {at}: {}", innermost(source)),
                "check the network and HF_ENDPOINT; with HF_HUB_OFFLINE=1 only the cache is used",
            ),
            HFError::Request { source, .. } if source.is_timeout() => fail(
                format!("no answer from {at} for {} s", self.patience.silence.as_secs_f32()),
                "try again later; with HF_HUB_OFFLINE=1 only the cache is used",
            ),
            HFError::Request { source, .. } => fail(format!("transfer from {at} failed: {}", innermost(source)), ""),
            HFError::Http { context } if context.status.is_server_error() => fail(
                format!("{at} fails (HTTP {}){}", context.status.as_u16(), said(context.server_message.as_deref())),
                "try again later",
            ),
            HFError::Url(e) => fail(format!("{at} is no address: {e}"), "set HF_ENDPOINT to https://HOST, or unset it"),
            other => fail(format!("{at} answered: {other}"), ""),
        }
    }
}

/// The server's message after a colon, cut to 200 characters.
fn said(message: Option<&str>) -> String {
    let words = message.unwrap_or("").trim();
    let cut: String = words.chars().take(200).collect();
    if cut.is_empty() { cut } else { format!(": {cut}") }
}

/// The message of the innermost cause: "connection refused" rather than "error sending request".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
