//! Models and data sets from the Hugging Face hub, into the cache that `huggingface_hub` uses too.
//!
//! Environment: `HF_ENDPOINT`, `HF_TOKEN` (or the token file of `hf auth login`: `HF_TOKEN_PATH`, else
//! `HF_HOME/token`), `HF_HOME` / `HF_HUB_CACHE`, `HF_HUB_OFFLINE`.
//!
//! - A file in the cache is not fetched again. The hub is asked once which commit a branch or tag points to; for a
//!   commit it is not asked.
//! - Offline, or where the hub cannot be reached, files come from the cache; an error names those it lacks.
//! - A request that fails or times out is repeated a few times before that is an error.
//! - Whatever a server answers, files are written only below the cache folder: names and commits are
//!   checked (`names`), links that lead out are not followed, and every file is completed in a temporary
//!   folder before it is moved to its final path (`cache`).
//! - The token goes to the endpoint alone; a redirect to another host drops it.

use std::path::{Path, PathBuf};

use hf_hub::{HFError, HFRepositorySync, RepoType};

use crate::error::{Error, Result};
use crate::progress::Progress;

mod address;
mod cache;
mod error;
mod names;
mod wire;

#[cfg(test)]
mod fake_hub;

pub use address::{Hub, Patience};
use cache::RepoCache;
use error::HubError;
pub use names::looks_like_id;
use names::{DatasetAddress, is_commit, is_commit_name, is_pattern, is_safe_name, matches_glob, split_id};
use wire::{Listing, is_outage};

/// Configuration of a PEFT adapter. A repository that holds it is an adapter, whatever else it holds.
const ADAPTER_CONFIG: &str = "adapter_config.json";
const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";

/// Files of a tokenizer that are fetched where the repository has them; config.json names the kind of model.
const TOKENIZER_FILES: [&str; 7] = [
    "config.json",
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// Further files of a model, beside its weights.
const MODEL_FILES: [&str; 3] =
    ["generation_config.json", crate::schema::run::LPC_CONFIG, crate::schema::run::LPC_WEIGHTS];

/// What of a model is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelParts {
    /// All that is needed to run it.
    All,
    /// Its configuration, tokenizer and chat template.
    Tokenizer,
}

impl ModelParts {
    /// Files beside the weights that are fetched where the repository has them.
    fn files(self) -> impl Iterator<Item = &'static str> {
        let rest: &[&str] = if self == ModelParts::All { &MODEL_FILES } else { &[] };
        TOKENIZER_FILES.into_iter().chain(rest.iter().copied())
    }
}

const TOKENIZER: &str = "tokenizer.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A file of a data set, in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubFile {
    /// Path in the cache.
    pub path: PathBuf,
    /// `hf://datasets/ORG/NAME@COMMIT/PATH`, which names the same bytes forever.
    pub address: String,
    /// The commit that the revision pointed to.
    pub commit: String,
}

impl Hub {
    /// Fetches a model into the cache: configuration, tokenizer and template, and with [`ModelParts::All`] the safetensors
    /// weights. Returns the folder that holds them, `.../snapshots/COMMIT`.
    ///
    /// # Errors
    /// [`Error::Model`] where there is no such model, it is not open to the user, it has no safetensors weights (or no
    /// tokenizer.json, where that is all that is wanted), or the hub cannot be reached and the cache does not hold it.
    pub fn fetch_model(&self, id: &str, parts: ModelParts, progress: &dyn Progress) -> Result<PathBuf> {
        let fail = |message: String, hint: &str| {
            let error = Error::model(id, message);
            if hint.is_empty() { error } else { error.with_hint(hint) }
        };
        let Some((org, name, revision)) = split_id(id) else {
            return Err(fail("is no hub id".into(), "hub ids are ORG/NAME or ORG/NAME@REVISION"));
        };
        let cache = RepoCache::new(&self.cache, "models", org, name);
        self.model(&cache, (org, name, revision), parts, progress).map_err(|e| self.explain(e, &fail))
    }

    fn model(
        &self,
        cache: &RepoCache,
        (org, name, revision): (&str, &str, &str),
        parts: ModelParts,
        progress: &dyn Progress,
    ) -> Result<PathBuf, HubError> {
        let cached = || cache.commit_of(revision).map_or(Ok(None), |commit| cached_model(cache, &commit, parts));
        // A commit never changes: if its files are known and in the cache, the hub need not be asked.
        if self.offline || (is_commit(revision) && cache.listing(revision).is_some()) {
            match cached()? {
                Some(folder) => return Ok(folder),
                None if self.offline => return Err(self.not_cached(&[])),
                None => {}
            }
        }
        let repository = wire::client(self)?.model(org, name);
        let listed = wire::list_model(&repository, revision, &self.patience);
        let listing = match self.listing(listed, revision, cached, progress)? {
            Answered::Hub(listing) => listing,
            Answered::Cache(folder) => return Ok(folder),
        };
        let commit = &listing.commit;
        let listed = |file: &str| listing.files.iter().any(|f| f == file);
        let adapter = listed(ADAPTER_CONFIG);
        if parts == ModelParts::Tokenizer && !listed(TOKENIZER) && !adapter {
            let hint = "is it a transformers model with a fast tokenizer?";
            return Err(HubError::Other(format!("holds no {TOKENIZER}"), hint.into()));
        }
        if parts == ModelParts::All && !listed("config.json") && !adapter {
            return Err(HubError::Other(
                "holds no config.json".into(),
                "is it a transformers model? A .gguf file must be downloaded and named as a file".into(),
            ));
        }
        let _lock = cache.lock(progress)?;
        cache.keep_listing(commit, &listing.files)?;
        let get = |file: &str| self.obtain(&repository, cache, commit, file, progress);
        for file in parts.files().filter(|file| listed(file)) {
            get(file)?;
        }
        if adapter {
            get(ADAPTER_CONFIG)?;
        }
        if parts == ModelParts::Tokenizer {
            // The weights are not wanted.
        } else if adapter && listed(ADAPTER_WEIGHTS) {
            get(ADAPTER_WEIGHTS)?;
        } else if listed(WEIGHTS) && !adapter {
            get(WEIGHTS)?;
        } else if listed(INDEX) && !adapter {
            let index = get(INDEX)?;
            for shard in shards(&index).map_err(|e| HubError::Other(e, String::new()))? {
                get(&shard)?;
            }
        } else {
            return Err(HubError::Other(
                "holds no safetensors weights".into(),
                "convert it with transformers: save_pretrained(...)".into(),
            ));
        }
        cache.remember(revision, commit)?;
        Ok(cache.snapshot(commit))
    }

    /// Fetches files of a data set, named `hf://datasets/ORG/NAME[@REVISION][/PATH]`, into the cache;
    /// PATH may hold `*` (within a folder), `**` (across folders) and `?`. Without PATH, `whole` chooses among the names
    /// of all files. Sorted by name.
    ///
    /// # Errors
    /// As [`Hub::fetch_model`], with [`Error::Data`].
    pub fn fetch_dataset(&self, url: &str, whole: ChooseFiles, progress: &dyn Progress) -> Result<Vec<HubFile>> {
        let fail = |message: String, hint: &str| Error::Data {
            path: url.into(),
            line: None,
            field: None,
            message,
            hint: (!hint.is_empty()).then(|| hint.to_string()),
        };
        let Some(address) = DatasetAddress::parse(url) else {
            return Err(fail("cannot be read".into(), "the form is hf://datasets/ORG/NAME[@REVISION][/PATH]"));
        };
        let cache = RepoCache::new(&self.cache, "datasets", address.org, address.name);
        let wanted = address.pattern.map_or(Wanted::Whole(whole), Wanted::Fitting);
        self.dataset(&cache, &address, wanted, progress).map_err(|e| self.explain(e, &fail))
    }

    fn dataset(
        &self,
        cache: &RepoCache,
        address: &DatasetAddress<'_>,
        wanted: Wanted<'_>,
        progress: &dyn Progress,
    ) -> Result<Vec<HubFile>, HubError> {
        let revision = address.revision.as_str();
        let files = |commit: &str, found: Vec<(String, PathBuf)>| -> Vec<HubFile> {
            let file = |(name, path): (String, PathBuf)| HubFile {
                path,
                address: address.pinned(commit, &name),
                commit: commit.into(),
            };
            found.into_iter().map(file).collect()
        };
        let cached = || cached_files(cache, revision, wanted, progress);
        if self.offline {
            return match cached()? {
                Ok((commit, found)) => Ok(files(&commit, found)),
                Err(missing) => Err(self.not_cached(&missing)),
            };
        }
        // A commit never changes: if its files are known and in the cache, the hub need not be asked.
        let known = wanted.one().is_some() || cache.listing(revision).is_some();
        if is_commit(revision)
            && known
            && let Ok((commit, found)) = cached()?
        {
            return Ok(files(&commit, found));
        }
        let repository = wire::client(self)?.dataset(address.org, address.name);
        let listed = wire::list_dataset(&repository, revision, &self.patience);
        let listing = match self.listing(listed, revision, || Ok(cached()?.ok()), progress)? {
            Answered::Hub(listing) => listing,
            Answered::Cache((commit, found)) => return Ok(files(&commit, found)),
        };
        let names = wanted.among(&listing.files)?;
        let _lock = cache.lock(progress)?;
        cache.keep_listing(&listing.commit, &listing.files)?;
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            let path = self.obtain(&repository, cache, &listing.commit, &name, progress)?;
            found.push((name, path));
        }
        cache.remember(revision, &listing.commit)?;
        Ok(files(&listing.commit, found))
    }

    /// Path of a commit's file in the cache, downloaded first if it is missing.
    fn obtain<T: RepoType>(
        &self,
        repository: &HFRepositorySync<T>,
        cache: &RepoCache,
        commit: &str,
        name: &str,
        progress: &dyn Progress,
    ) -> Result<PathBuf, HubError> {
        if let Some(path) = cache.file(commit, name)? {
            return Ok(path);
        }
        cache.add(commit, name, |folder| wire::download(repository, commit, name, folder, &self.patience, progress))
    }

    /// The hub's listing, checked; where the hub cannot be reached, what `cached` gives.
    fn listing<T>(
        &self,
        listed: Result<Listing, HFError>,
        revision: &str,
        cached: impl FnOnce() -> Result<Option<T>, HubError>,
        progress: &dyn Progress,
    ) -> Result<Answered<T>, HubError> {
        let error = match listed {
            Ok(listing) => return Ok(Answered::Hub(checked(listing, revision)?)),
            Err(error) => error,
        };
        let Some(found) = (if is_outage(&error) { cached()? } else { None }) else { return Err(error.into()) };
        let (hub, cache) = (&self.endpoint, self.cache.display());
        progress.warn(&format!("{hub} cannot be reached: what the cache {cache} holds is used"));
        Ok(Answered::Cache(found))
    }

    fn not_cached(&self, missing: &[String]) -> HubError {
        let cache = self.cache.display();
        let what = match missing {
            [] => format!("is not (wholly) in the cache {cache}"),
            [one] => format!("`{one}` is not in the cache {cache}"),
            [one, ..] => format!("`{one}` and {} more are not in the cache {cache}", missing.len() - 1),
        };
        HubError::Other(
            what + ", and HF_HUB_OFFLINE is set",
            "fetch it once with HF_HUB_OFFLINE unset, or name a local path".into(),
        )
    }
}

/// Refuses a listing of another commit than the one asked for, or of one whose name is not accepted.
fn checked(listing: Listing, revision: &str) -> Result<Listing, HubError> {
    let commit = &listing.commit;
    if !is_commit_name(commit) {
        return Err(HubError::Other(format!("the server names a commit {commit:?}, which is not accepted"), "".into()));
    }
    if is_commit(revision) && commit != revision {
        return Err(HubError::Other(format!("asked for commit {revision}, the server gives {commit}"), "".into()));
    }
    Ok(listing)
}

/// Chooses the files of a data set that was named without a path, by the names of all its files; as an error, what the
/// user can name instead.
pub type ChooseFiles<'a> = &'a dyn Fn(&[String]) -> Result<Vec<String>, String>;

/// Which files of a data set are wanted.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    /// Those with this path, or that fit this pattern.
    Fitting(&'a str),
    /// Those that are chosen among all.
    Whole(ChooseFiles<'a>),
}

impl<'a> Wanted<'a> {
    /// The name, where one file is wanted.
    fn one(self) -> Option<&'a str> {
        match self {
            Wanted::Fitting(path) if !is_pattern(path) => Some(path),
            _ => None,
        }
    }

    /// The wanted names, sorted, each once; it is an error if there are none.
    fn among(self, files: &[String]) -> Result<Vec<String>, HubError> {
        let mut names: Vec<String> = match self {
            Wanted::Fitting(pattern) => files.iter().filter(|f| matches_glob(pattern, f)).cloned().collect(),
            Wanted::Whole(choose) => choose(files)
                .map_err(|hint| HubError::Other("holds no data file where one is looked for".into(), hint))?,
        };
        names.sort();
        names.dedup();
        match self {
            Wanted::Fitting(pattern) if names.is_empty() => Err(nothing_matches(pattern, files)),
            _ => Ok(names),
        }
    }
}

impl std::fmt::Display for Wanted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Wanted::Fitting(pattern) => write!(f, "`{pattern}`"),
            Wanted::Whole(_) => f.write_str("the data set"),
        }
    }
}

fn nothing_matches(pattern: &str, files: &[String]) -> HubError {
    let mut near: Vec<&String> = files.iter().filter(|f| is_safe_name(f)).collect();
    near.sort_by(|a, b| strsim::jaro(b, pattern).total_cmp(&strsim::jaro(a, pattern)));
    let near: Vec<&str> = near.into_iter().take(5).map(String::as_str).collect();
    HubError::Other(format!("no file matches `{pattern}`"), format!("files there: {}", near.join(", ")))
}

/// What a request was answered from.
enum Answered<T> {
    Hub(Listing),
    Cache(T),
}

/// A commit with names and paths of the files asked for; as an error, the names of those that the cache lacks.
type Cached = Result<(String, Vec<(String, PathBuf)>), Vec<String>>;

fn cached_files(
    cache: &RepoCache,
    revision: &str,
    wanted: Wanted<'_>,
    progress: &dyn Progress,
) -> Result<Cached, HubError> {
    let Some(commit) = cache.commit_of(revision) else { return Ok(Err(Vec::new())) };
    let names = match (wanted.one(), cache.listing(&commit)) {
        (Some(name), _) => vec![name.to_string()],
        (None, Some(listed)) => wanted.among(&listed)?,
        // Another program filled the cache: which files it left out is not known.
        (None, None) => {
            let Ok(names) = wanted.among(&cache.files(&commit)) else { return Ok(Err(Vec::new())) };
            let here = cache.snapshot(&commit);
            progress.warn(&format!("{}: the cache may hold only some of the files of {wanted}", here.display()));
            names
        }
    };
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for name in names {
        match cache.file(&commit, &name)? {
            Some(path) => found.push((name, path)),
            None => missing.push(name),
        }
    }
    Ok(if missing.is_empty() { Ok((commit, found)) } else { Err(missing) })
}

/// The folder of a commit, if the cache has these parts of the model.
fn cached_model(cache: &RepoCache, commit: &str, parts: ModelParts) -> Result<Option<PathBuf>, HubError> {
    let has = |name: &str| cache.file(commit, name).map(|f| f.is_some());
    let listing = cache.listing(commit).unwrap_or_default();
    let adapter = has(ADAPTER_CONFIG)?;
    let needed = match parts {
        ModelParts::All => "config.json",
        ModelParts::Tokenizer => TOKENIZER,
    };
    for name in parts.files() {
        // `has` comes first: it refuses a link that leads out of the cache, listed or not.
        if !has(name)? && ((needed == name && !adapter) || listing.iter().any(|f| f == name)) {
            return Ok(None);
        }
    }
    if parts == ModelParts::Tokenizer {
        return Ok(Some(cache.snapshot(commit)));
    }
    if adapter || listing.iter().any(|f| f == ADAPTER_CONFIG) {
        return Ok((adapter && has(ADAPTER_WEIGHTS)?).then(|| cache.snapshot(commit)));
    }
    if has(WEIGHTS)? {
        return Ok(Some(cache.snapshot(commit)));
    }
    let Some(index) = cache.file(commit, INDEX)? else { return Ok(None) };
    let names = shards(&index).unwrap_or_default();
    for name in &names {
        if !has(name)? {
            return Ok(None);
        }
    }
    Ok((!names.is_empty()).then(|| cache.snapshot(commit)))
}

/// Shard names of a safetensors index, each once.
fn shards(index: &Path) -> Result<Vec<String>, String> {
    let bytes = std::fs::read(index).map_err(|e| format!("{INDEX}: {e}"))?;
    let json: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| format!("{INDEX}: damaged JSON: {e}"))?;
    let map = json["weight_map"].as_object().ok_or_else(|| format!("{INDEX}: no weight_map"))?;
    let mut names: Vec<String> = map.values().filter_map(|v| v.as_str().map(str::to_string)).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

#[cfg(test)]
mod tests;
