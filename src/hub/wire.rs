//! Requests to the hub, through `hf-hub`: listings and files, repeated a limited number of times.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use hf_hub::progress::{DownloadEvent, ProgressEvent, ProgressHandler};
use hf_hub::repository::RepoSibling;
use hf_hub::{HFClient, HFClientSync, HFError, HFRepositorySync, RepoType, RepoTypeDataset, RepoTypeModel};

use super::address::{Hub, Patience};
use super::error::HubError;
use super::names::MAIN;
use crate::progress::Progress;

/// Longest wait that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A repository's revision as the server describes it.
pub struct Listing {
    /// The commit that the revision points to.
    pub commit: String,
    /// Names of its files as the server gives them, not yet checked.
    pub files: Vec<String>,
}

/// A client for this hub, with its timeouts.
///
/// # Errors
/// [`HFError`] where the endpoint is no address.
pub fn client(hub: &Hub) -> Result<HFClientSync, HFError> {
    let http = reqwest::Client::builder()
        .user_agent(concat!("lpc-pipe/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(hub.patience.connect)
        .read_timeout(hub.patience.silence)
        .build()?;
    let mut builder = HFClient::builder()
        .client(http)
        .endpoint(&hub.endpoint)
        .cache_dir(&hub.cache)
        .retry_max_attempts(hub.patience.retries)
        .retry_base_delay(hub.patience.pause);
    if !hub.token.is_empty() {
        builder = builder.token(&hub.token);
    }
    builder.build_sync()
}

/// A function that lists the files of a revision.
macro_rules! lister {
    ($name:ident, $kind:ty) => {
        pub fn $name(of: &HFRepositorySync<$kind>, revision: &str, patience: &Patience) -> Result<Listing, HFError> {
            let info = patiently(patience, || match of.info().revision(revision).send() {
                // Some mirrors hold one revision and do not know its name.
                Err(HFError::RevisionNotFound { .. }) if revision == MAIN => of.info().send(),
                other => other,
            })?;
            listing(info.sha, info.siblings)
        }
    };
}
lister!(list_model, RepoTypeModel);
lister!(list_dataset, RepoTypeDataset);

fn listing(commit: Option<String>, siblings: Option<Vec<RepoSibling>>) -> Result<Listing, HFError> {
    let commit = commit.ok_or_else(|| HFError::malformed_response("no commit of the revision"))?;
    let siblings = siblings.ok_or_else(|| HFError::malformed_response("no list of files"))?;
    Ok(Listing { commit, files: siblings.into_iter().map(|s| s.rfilename).collect() })
}

/// Fetches one file into `folder`, under its own name.
pub fn download<T: RepoType>(
    repository: &HFRepositorySync<T>,
    commit: &str,
    name: &str,
    folder: &Path,
    patience: &Patience,
    progress: &dyn Progress,
) -> Result<(), HubError> {
    let gauge = Arc::new(Gauge::default());
    let work = || {
        patiently(patience, || {
            // Not into hf-hub's own cache layout, whose file names come from the server's headers.
            let request = repository.download_file().filename(name).revision(commit.to_string());
            request.local_dir(folder).progress(Watch(gauge.clone())).send()
        })
    };
    let result = watched(name, &gauge, progress, work);
    result.map(|_| ()).map_err(|e| HubError::Hub(Box::new(e)))
}

/// Repeats what `hf-hub` does not repeat: transfers that broke off, and requests whose answer names a time to wait.
/// `hf-hub` itself repeats requests that fail before an answer.
fn patiently<R>(patience: &Patience, mut work: impl FnMut() -> Result<R, HFError>) -> Result<R, HFError> {
    let mut pause = patience.pause;
    for _ in 0..patience.retries {
        let wait = match work() {
            Err(HFError::RateLimited { retry_after: Some(wait), .. }) if wait <= LONGEST_PAUSE => wait,
            Err(HFError::Request { source, .. }) if broke_off(&source) => pause,
            other => return other,
        };
        std::thread::sleep(wait);
        pause *= 2;
    }
    work()
}

/// Whether a body ended early. A complete body that is not JSON is a decoding error too, and is excluded.
fn broke_off(error: &reqwest::Error) -> bool {
    let json = std::error::Error::source(error).is_some_and(|s| s.is::<serde_json::Error>());
    (error.is_body() || error.is_decode()) && !json
}

/// Bytes done and to do of a running transfer.
#[derive(Default)]
struct Gauge {
    done: AtomicU64,
    total: AtomicU64,
}

struct Watch(Arc<Gauge>);

impl ProgressHandler for Watch {
    fn on_progress(&self, event: &ProgressEvent) {
        let ProgressEvent::Download(event) = event else { return };
        match event {
            DownloadEvent::Start { total_bytes, .. } => self.0.total.store(*total_bytes, Ordering::Relaxed),
            DownloadEvent::Progress { files } => {
                self.0.done.store(files.iter().map(|f| f.bytes_completed).sum(), Ordering::Relaxed);
            }
            DownloadEvent::AggregateProgress { bytes_completed, .. } => {
                self.0.done.store(*bytes_completed, Ordering::Relaxed);
            }
            DownloadEvent::Complete => {}
        }
    }
}

/// Does the work on another thread, and meanwhile reports its progress in KiB.
fn watched<R: Send>(
    name: &str,
    gauge: &Gauge,
    progress: &dyn Progress,
    work: impl FnOnce() -> Result<R, HFError> + Send,
) -> Result<R, HFError> {
    progress.begin(&format!("fetch {name} (KiB)"), None);
    let mut shown = 0;
    let mut show = |gauge: &Gauge| {
        let (done, total) = (gauge.done.load(Ordering::Relaxed) >> 10, gauge.total.load(Ordering::Relaxed) >> 10);
        // A transfer that starts again from zero does not move the progress back.
        progress.advance(done.saturating_sub(shown));
        shown = shown.max(done);
        progress.status(&format!("of {total}"));
    };
    let result = std::thread::scope(|scope| {
        let (tell, hear) = channel();
        scope.spawn(move || tell.send(work()));
        loop {
            match hear.recv_timeout(Duration::from_millis(200)) {
                Ok(result) => break result,
                Err(RecvTimeoutError::Timeout) => show(gauge),
                Err(RecvTimeoutError::Disconnected) => {
                    break Err(HFError::malformed_response("the transfer ended without a result"));
                }
            }
        }
    });
    show(gauge);
    progress.end();
    result
}

/// Whether an error means that the hub cannot be used now, whatever the repository.
pub fn is_outage(error: &HFError) -> bool {
    match error {
        HFError::Request { .. } | HFError::RateLimited { .. } => true,
        HFError::Http { context } => context.status.is_server_error(),
        _ => false,
    }
}
