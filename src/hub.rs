//! Models and data sets from the Hugging Face hub, into the cache that `huggingface_hub` uses too.
//!
//! Environment: `HF_ENDPOINT`, `HF_TOKEN` (or the token file of `hf auth login`), `HF_HOME` /
//! `HF_HUB_CACHE`, `HF_HUB_OFFLINE`. Whatever a server answers, files are written only below the
//! cache folder: names and commits are checked, and every file is finished in a staging folder
//! before it is moved to `models--ORG--NAME/snapshots/COMMIT/`.

use std::path::{Path, PathBuf};

use hf_hub::repository::RepoTreeEntry;
use hf_hub::{HFClient, HFClientSync, HFError, HFRepositorySync, RepoType, RepoTypeDataset, RepoTypeModel};

use crate::error::{Error, Result};

/// Files of a model that are fetched where the repository has them.
const MODEL_FILES: [&str; 10] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    crate::schema::run::LPC_CONFIG,
    crate::schema::run::LPC_WEIGHTS,
];

/// The revision where none is named.
const MAIN: &str = "main";

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Where the hub is and where its files go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hub {
    /// Base address.
    pub endpoint: String,
    /// Cache folder, in the layout of `huggingface_hub`.
    pub cache: PathBuf,
    /// Access token; empty for what the environment holds.
    pub token: String,
    /// Use the cache alone.
    pub offline: bool,
}

/// A repository's revision as the server describes it.
struct Listing {
    commit: String,
    files: Vec<String>,
}

/// Whether a name looks like `ORG/NAME` or `ORG/NAME@REVISION` and is no path that exists.
pub fn looks_like_id(name: &str) -> bool {
    if Path::new(name).exists() {
        return false;
    }
    let id = name.split_once('@').map_or(name, |(id, _)| id);
    let file = [".gguf", ".safetensors", ".json", ".jsonl", ".parquet"].iter().any(|end| id.ends_with(end));
    !file && split_id(name).is_some()
}

/// Fetches a model into the cache: configuration, tokenizer, template and safetensors weights.
/// Returns the folder that holds them.
///
/// # Errors
/// [`Error::Model`] where there is no such model, it is not open to the user, it has no
/// safetensors weights, or the hub cannot be reached and the cache does not hold it.
pub fn fetch_model(id: &str) -> Result<PathBuf> {
    Hub::from_env().fetch_model(id)
}

/// Fetches files of a data set, named `hf://datasets/ORG/NAME[@REVISION]/PATH`, into the cache;
/// PATH may hold `*` (within a folder), `**` (across folders) and `?`. Sorted by name.
///
/// # Errors
/// As [`fetch_model`], with [`Error::Data`].
pub fn fetch_dataset_files(url: &str) -> Result<Vec<PathBuf>> {
    Hub::from_env().fetch_dataset_files(url)
}

impl Hub {
    /// What the environment says.
    pub fn from_env() -> Hub {
        let var = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let on = |v: String| !matches!(v.to_ascii_lowercase().as_str(), "0" | "false" | "no" | "off");
        Hub {
            endpoint: var("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into()),
            cache: hf_hub::resolve_cache_dir(),
            token: var("HF_TOKEN").unwrap_or_default(),
            offline: var("HF_HUB_OFFLINE").is_some_and(on),
        }
    }

    /// See [`fetch_model`].
    ///
    /// # Errors
    /// As [`fetch_model`].
    pub fn fetch_model(&self, id: &str) -> Result<PathBuf> {
        let fail = |message: String, hint: &str| {
            let error = Error::model(id, message);
            if hint.is_empty() { error } else { error.with_hint(hint) }
        };
        let Some((org, name, revision)) = split_id(id) else {
            return Err(fail("is no hub id".into(), "hub ids are ORG/NAME or ORG/NAME@REVISION"));
        };
        let base = self.cache.join(format!("models--{org}--{name}"));
        let cached = || cached_snapshot(&base, revision).filter(|folder| is_whole_model(folder));
        if self.offline {
            return cached().ok_or_else(|| self.not_cached(&fail));
        }
        let repository = self.client().map_err(|e| self.explain(&e, &fail))?.model(org, name);
        let listing = match list_model(&repository, revision) {
            Ok(listing) => listing,
            // Without a hub, what is there will do.
            Err(e) => return cached().filter(|_| is_outage(&e)).ok_or_else(|| self.explain(&e, &fail)),
        };
        let place = Place::new(&base, &listing.commit).map_err(|e| fail(e, ""))?;
        let get = |file: &str| place.obtain(&repository, file).map_err(|e| self.explain_fetch(e, &fail));
        let listed = |file: &str| listing.files.iter().any(|f| f == file);
        if !listed("config.json") {
            return Err(fail(
                "holds no config.json".into(),
                "is it a transformers model? A .gguf file must be downloaded and named as a file",
            ));
        }
        for file in MODEL_FILES.iter().filter(|file| listed(file)) {
            get(file)?;
        }
        if listed(WEIGHTS) {
            get(WEIGHTS)?;
        } else if listed(INDEX) {
            let index = get(INDEX)?;
            for shard in shards(&index).map_err(|e| fail(e, ""))? {
                get(&shard)?;
            }
        } else {
            return Err(fail(
                "holds no safetensors weights".into(),
                "convert it with transformers: save_pretrained(...)",
            ));
        }
        place.remember(&base, revision)?;
        Ok(place.folder)
    }

    /// See [`fetch_dataset_files`].
    ///
    /// # Errors
    /// As [`fetch_dataset_files`].
    pub fn fetch_dataset_files(&self, url: &str) -> Result<Vec<PathBuf>> {
        let fail = |message: String, hint: &str| Error::Data {
            path: url.into(),
            line: None,
            field: None,
            message,
            hint: (!hint.is_empty()).then(|| hint.to_string()),
        };
        let Some((org, name, revision, pattern)) = split_dataset(url) else {
            return Err(fail("cannot be read".into(), "the form is hf://datasets/ORG/NAME[@REVISION]/PATH"));
        };
        let base = self.cache.join(format!("datasets--{org}--{name}"));
        let cached = || {
            let folder = cached_snapshot(&base, &revision)?;
            let names: Vec<String> = files_below(&folder).into_iter().filter(|f| matches_glob(pattern, f)).collect();
            (!names.is_empty()).then(|| names.iter().map(|f| folder.join(f)).collect::<Vec<_>>())
        };
        if self.offline {
            return cached().ok_or_else(|| self.not_cached(&fail));
        }
        let repository = self.client().map_err(|e| self.explain(&e, &fail))?.dataset(org, name);
        let listing = match list_dataset(&repository, &revision) {
            Ok(listing) => listing,
            Err(e) => return cached().filter(|_| is_outage(&e)).ok_or_else(|| self.explain(&e, &fail)),
        };
        let mut names: Vec<&String> = listing.files.iter().filter(|f| matches_glob(pattern, f)).collect();
        names.sort();
        names.dedup();
        if names.is_empty() {
            let mut near: Vec<&String> = listing.files.iter().filter(|f| is_safe_name(f)).collect();
            near.sort_by(|a, b| strsim::jaro(b, pattern).total_cmp(&strsim::jaro(a, pattern)));
            let near: Vec<&str> = near.into_iter().take(5).map(String::as_str).collect();
            return Err(fail(format!("no file matches `{pattern}`"), &format!("files there: {}", near.join(", "))));
        }
        let place = Place::new(&base, &listing.commit).map_err(|e| fail(e, ""))?;
        let paths: Result<Vec<PathBuf>> = names
            .into_iter()
            .map(|file| place.obtain(&repository, file).map_err(|e| self.explain_fetch(e, &fail)))
            .collect();
        let paths = paths?;
        place.remember(&base, &revision)?;
        Ok(paths)
    }

    fn client(&self) -> Result<HFClientSync, HFError> {
        let mut builder = HFClient::builder()
            .endpoint(&self.endpoint)
            .cache_dir(&self.cache)
            .user_agent(concat!("lpc-pipe/", env!("CARGO_PKG_VERSION")));
        if !self.token.is_empty() {
            builder = builder.token(&self.token);
        }
        builder.build_sync()
    }

    fn not_cached(&self, fail: &dyn Fn(String, &str) -> Error) -> Error {
        let message = format!("is not (wholly) in the cache {}, and HF_HUB_OFFLINE is set", self.cache.display());
        fail(message, "fetch it once with HF_HUB_OFFLINE unset, or name a local path")
    }

    /// A plain sentence and advice for what the hub or the way to it said.
    fn explain(&self, error: &HFError, fail: &dyn Fn(String, &str) -> Error) -> Error {
        let permission =
            "set HF_TOKEN to a token that may read it, and accept its licence on its page; check the spelling too";
        match error {
            HFError::AuthRequired { .. } => fail("unauthorized: the hub wants a token (HTTP 401)".into(), permission),
            HFError::Forbidden { .. } => fail("forbidden: your token may not read it (HTTP 403)".into(), permission),
            HFError::RepoNotFound { .. } => {
                fail(format!("not found on {}", self.endpoint), "check the spelling; a private one needs HF_TOKEN")
            }
            HFError::RevisionNotFound { revision, .. } => fail(
                format!("not found on {} (revision `{revision}`)", self.endpoint),
                "check the spelling; a private one needs HF_TOKEN",
            ),
            HFError::EntryNotFound { path, .. } => fail(format!("has no file `{path}`"), ""),
            HFError::RateLimited { .. } => {
                fail("the hub asks to slow down (HTTP 429)".into(), "try again later, or set HF_TOKEN")
            }
            HFError::Request { source, .. } if source.is_connect() || source.is_timeout() => fail(
                format!("cannot reach {}: {}", self.endpoint, innermost(source)),
                "check the network and HF_ENDPOINT; with HF_HUB_OFFLINE=1 only the cache is used",
            ),
            HFError::Request { source, .. } => {
                fail(format!("transfer from {} failed: {}", self.endpoint, innermost(source)), "")
            }
            other => fail(format!("{} answered: {other}", self.endpoint), ""),
        }
    }

    fn explain_fetch(&self, error: FetchError, fail: &dyn Fn(String, &str) -> Error) -> Error {
        match error {
            FetchError::Hub(e) => self.explain(&e, fail),
            FetchError::Own(e) => e,
            FetchError::Unsafe(name) => fail(format!("the server names a file {name:?}, which is not accepted"), ""),
        }
    }
}

/// Why one file could not be had.
enum FetchError {
    Hub(Box<HFError>),
    Own(Error),
    Unsafe(String),
}

/// The snapshot folder of one commit.
struct Place {
    commit: String,
    folder: PathBuf,
    base: PathBuf,
}

impl Place {
    fn new(base: &Path, commit: &str) -> Result<Place, String> {
        if commit.is_empty() || commit.len() > 64 || !commit.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(format!("the server names a commit {commit:?}, which is not accepted"));
        }
        Ok(Place { commit: commit.into(), folder: base.join("snapshots").join(commit), base: base.into() })
    }

    /// Path of a file of this commit, downloaded if it is not there.
    fn obtain<T: RepoType>(&self, repository: &HFRepositorySync<T>, name: &str) -> Result<PathBuf, FetchError> {
        if !is_safe_name(name) {
            return Err(FetchError::Unsafe(name.into()));
        }
        let path = self.folder.join(name);
        if path.is_file() {
            return Ok(path);
        }
        let own = |at: &Path| {
            let at = at.to_path_buf();
            move |e: std::io::Error| FetchError::Own(Error::io(at)(e))
        };
        std::fs::create_dir_all(&self.base).map_err(own(&self.base))?;
        let staging = tempfile::Builder::new().prefix(".lpc-pipe-").tempdir_in(&self.base).map_err(own(&self.base))?;
        // Not into hf-hub's own cache layout, whose file names come from the server's headers.
        repository
            .download_file()
            .filename(name)
            .revision(self.commit.clone())
            .local_dir(staging.path())
            .send()
            .map_err(|e| FetchError::Hub(Box::new(e)))?;
        let staged = staging.path().join(name);
        let parent = path.parent().unwrap_or(&self.folder);
        std::fs::create_dir_all(parent).map_err(own(parent))?;
        std::fs::File::open(&staged).and_then(|f| f.sync_all()).map_err(own(&staged))?;
        std::fs::rename(&staged, &path).map_err(own(&path))?;
        Ok(path)
    }

    /// Notes which commit a branch or tag stood for, as `huggingface_hub` does.
    fn remember(&self, base: &Path, revision: &str) -> Result<()> {
        if revision == self.commit {
            return Ok(());
        }
        crate::artifact::write_bytes(base.join("refs").join(revision), self.commit.as_bytes())
    }
}

/// ORG, NAME and REVISION (`main` where none is given).
fn split_id(name: &str) -> Option<(&str, &str, &str)> {
    let (id, revision) = name.split_once('@').unwrap_or((name, MAIN));
    let (org, repo) = id.split_once('/')?;
    (is_repo_part(org) && is_repo_part(repo) && is_safe_name(revision)).then_some((org, repo, revision))
}

/// ORG, NAME, REVISION and path of a data set's address.
fn split_dataset(url: &str) -> Option<(&str, &str, String, &str)> {
    let rest = url.strip_prefix("hf://datasets/")?;
    let (org, rest) = rest.split_once('/')?;
    let (repo, path) = rest.split_once('/')?;
    let (repo, revision, path) = match repo.split_once('@') {
        None => (repo, MAIN.to_string(), path),
        // refs/convert/parquet and refs/pr/7 are revisions with slashes.
        Some((repo, "refs")) => {
            let (kind, rest) = path.split_once('/')?;
            let (which, path) = rest.split_once('/')?;
            (repo, format!("refs/{kind}/{which}"), path)
        }
        Some((repo, revision)) => (repo, revision.replace("%2F", "/"), path),
    };
    let good = is_repo_part(org) && is_repo_part(repo) && is_safe_name(&revision) && is_safe_name(path);
    good.then_some((org, repo, revision, path))
}

fn is_repo_part(part: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    part.len() <= 96
        && part.bytes().all(word)
        && part.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !part.contains("..")
        && !part.contains("--")
        && !part.ends_with(['.', '-'])
}

/// A relative path of plain parts: nothing that leaves the folder on any system.
fn is_safe_name(name: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.len() <= 255
            && !part.contains(['\\', ':', '\0'])
            && !part.contains(char::is_control)
    };
    name.len() <= 1024 && name.split('/').all(plain)
}

fn list_model(repository: &HFRepositorySync<RepoTypeModel>, revision: &str) -> Result<Listing, HFError> {
    let info = match repository.info().revision(revision).send() {
        // Some mirrors know no revisions but the one they hold.
        Err(HFError::RevisionNotFound { .. }) if revision == MAIN => repository.info().send(),
        other => other,
    }?;
    listing(repository, info.sha, info.siblings)
}

fn list_dataset(repository: &HFRepositorySync<RepoTypeDataset>, revision: &str) -> Result<Listing, HFError> {
    let info = match repository.info().revision(revision).send() {
        Err(HFError::RevisionNotFound { .. }) if revision == MAIN => repository.info().send(),
        other => other,
    }?;
    listing(repository, info.sha, info.siblings)
}

fn listing<T: RepoType>(
    repository: &HFRepositorySync<T>,
    commit: Option<String>,
    siblings: Option<Vec<hf_hub::repository::RepoSibling>>,
) -> Result<Listing, HFError> {
    let commit = commit.ok_or_else(|| HFError::malformed_response("the commit of the revision"))?;
    let mut files: Vec<String> = siblings.unwrap_or_default().into_iter().map(|s| s.rfilename).collect();
    if files.is_empty() {
        let tree = repository.list_tree().revision(commit.clone()).recursive(true).send()?;
        files.extend(tree.into_iter().filter_map(|entry| match entry {
            RepoTreeEntry::File { path, .. } => Some(path),
            RepoTreeEntry::Directory { .. } => None,
        }));
    }
    Ok(Listing { commit, files })
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

/// The folder that a revision was last seen to stand for.
fn cached_snapshot(base: &Path, revision: &str) -> Option<PathBuf> {
    let direct = base.join("snapshots").join(revision);
    if direct.is_dir() {
        return Some(direct);
    }
    let commit = std::fs::read_to_string(base.join("refs").join(revision)).ok()?;
    let commit = commit.trim();
    let folder = base.join("snapshots").join(commit);
    (is_safe_name(commit) && folder.is_dir()).then_some(folder)
}

fn is_whole_model(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    let sharded = || {
        let names = shards(&folder.join(INDEX)).unwrap_or_default();
        !names.is_empty() && names.iter().all(|name| is_safe_name(name) && has(name))
    };
    has("config.json") && (has(WEIGHTS) || sharded())
}

/// Whether an error says nothing of the repository, only that the hub is not to be had now.
fn is_outage(error: &HFError) -> bool {
    match error {
        HFError::Request { .. } | HFError::RateLimited { .. } => true,
        HFError::Http { context } => context.status.is_server_error(),
        _ => false,
    }
}

/// The last cause: "connection refused" rather than "error sending request".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// Relative paths of all files below a folder, sorted.
fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            // A link to a folder is not followed: the cache never makes one.
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                open.push(path);
            } else if let Some(name) = path.strip_prefix(folder).ok().and_then(Path::to_str) {
                found.push(name.replace('\\', "/"));
            }
        }
    }
    found.sort();
    found
}

/// `*` and `?` within a folder, `**` across folders, all else literal.
#[allow(clippy::needless_range_loop, reason = "three arrays are walked at one index")]
fn matches_glob(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // reach[j]: the pattern so far matches the first j characters.
    let mut reach = vec![false; name.len() + 1];
    reach[0] = true;
    let mut i = 0;
    while i < pattern.len() {
        let deep = pattern[i..].starts_with(&['*', '*']);
        let mut now = vec![false; name.len() + 1];
        match pattern[i] {
            '*' => {
                // `**/` also stands for no folder at all.
                let skip = deep && pattern.get(i + 2) == Some(&'/');
                let mut open = false;
                for j in 0..=name.len() {
                    open |= reach[j];
                    now[j] = if skip { reach[j] || (open && j > 0 && name[j - 1] == '/') } else { open };
                    if !deep && name.get(j) == Some(&'/') {
                        open = false;
                    }
                }
                i += if skip {
                    3
                } else if deep {
                    2
                } else {
                    1
                };
            }
            wanted => {
                for j in 0..name.len() {
                    now[j + 1] = reach[j] && (name[j] == wanted || (wanted == '?' && name[j] != '/'));
                }
                i += 1;
            }
        }
        reach = now;
    }
    reach[name.len()]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};

    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// A hub of a few files on this machine.
    struct Imitation {
        endpoint: String,
        asked: Arc<Mutex<Vec<String>>>,
    }

    impl Imitation {
        /// `answers`: path -> (status, body); files are `("resolve/NAME", content)` of ORG/NAME.
        fn serve(answers: BTreeMap<String, (u16, String)>) -> Imitation {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let endpoint = format!("http://{}", listener.local_addr().unwrap());
            let asked = Arc::new(Mutex::new(Vec::new()));
            let log = asked.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (answers, log) = (answers.clone(), log.clone());
                    std::thread::spawn(move || answer(stream, &answers, &log));
                }
            });
            Imitation { endpoint, asked }
        }

        fn hub(&self, cache: &Path) -> Hub {
            Hub { endpoint: self.endpoint.clone(), cache: cache.into(), token: "hf_test".into(), offline: false }
        }
    }

    fn answer(stream: TcpStream, answers: &BTreeMap<String, (u16, String)>, log: &Mutex<Vec<String>>) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut stream = stream;
        loop {
            let mut first = String::new();
            if reader.read_line(&mut first).unwrap_or(0) == 0 {
                return;
            }
            let mut token = false;
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
                    break;
                }
                token |= line.to_ascii_lowercase().trim() == "authorization: bearer hf_test";
            }
            let mut words = first.split(' ');
            let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
            let path = path.split('?').next().unwrap_or("").to_string();
            log.lock().unwrap().push(format!("{method} {path}"));
            let missing = (404, r#"{"error":"Not Found"}"#.to_string());
            let (status, body) = answers.get(&path).cloned().unwrap_or(missing);
            let (status, body) = if token { (status, body) } else { (401, "{}".to_string()) };
            let head = format!(
                "HTTP/1.1 {status} x\r\nContent-Length: {}\r\nContent-Type: application/json\r\nETag: \"../../../evil\"\r\nX-Repo-Commit: ../../evil\r\n\r\n",
                body.len()
            );
            let sent = if method == "HEAD" { head } else { head + &body };
            if stream.write_all(sent.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn repository(
        kind: &str,
        prefix: &str,
        files: &[(&str, &str)],
        listed: &[&str],
    ) -> BTreeMap<String, (u16, String)> {
        let siblings: Vec<_> = listed.iter().map(|name| serde_json::json!({"rfilename": name})).collect();
        let info = serde_json::json!({"id": "org/name", "sha": COMMIT, "siblings": siblings}).to_string();
        let mut answers = BTreeMap::from([(format!("/api/{kind}/org/name/revision/main"), (200, info))]);
        for (name, content) in files {
            answers.insert(format!("{prefix}/org/name/resolve/{COMMIT}/{name}"), (200, content.to_string()));
        }
        answers
    }

    fn all_files(folder: &Path) -> Vec<String> {
        files_below(folder)
    }

    const SHARDED: [(&str, &str); 5] = [
        ("config.json", "{}"),
        ("tokenizer.json", "{\"t\":1}"),
        (INDEX, r#"{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors","c":"model-1.safetensors"}}"#),
        ("model-1.safetensors", "one"),
        ("model-2.safetensors", "two"),
    ];

    #[test]
    fn ids_are_told_from_paths() {
        for good in ["org/name", "meta-llama/Llama-3.1-8B", "org/name@v1.0", "o_1/n.2@refs/pr/3"] {
            assert!(looks_like_id(good), "{good}");
        }
        for bad in [
            "name",
            "a/b/c",
            "../x",
            "./x",
            "/tmp/x",
            "org/",
            "org/na me",
            "models/x.gguf",
            "org/name@../x",
            "src/lib.rs",
            "org/..",
        ] {
            assert!(!looks_like_id(bad), "{bad}");
        }
    }

    #[test]
    fn a_sharded_model_is_fetched_once_and_used_offline() {
        let names: Vec<&str> = SHARDED.iter().map(|(n, _)| *n).chain(["README.md", "pytorch_model.bin"]).collect();
        let server = Imitation::serve(repository("models", "", &SHARDED, &names));
        let cache = tempfile::tempdir().unwrap();
        let hub = server.hub(cache.path());
        let folder = hub.fetch_model("org/name").unwrap();
        assert_eq!(folder, cache.path().join("models--org--name/snapshots").join(COMMIT));
        let mut expected: Vec<&str> = SHARDED.iter().map(|(n, _)| *n).collect();
        expected.sort_unstable();
        assert_eq!(all_files(&folder), expected);
        assert_eq!(std::fs::read_to_string(folder.join("model-2.safetensors")).unwrap(), "two");
        let asked = server.asked.lock().unwrap().len();
        assert_eq!(hub.fetch_model("org/name").unwrap(), folder);
        assert_eq!(server.asked.lock().unwrap().len(), asked + 1, "only the commit is asked for again");

        let offline = Hub { endpoint: "http://127.0.0.1:1".into(), offline: true, ..hub.clone() };
        assert_eq!(offline.fetch_model("org/name").unwrap(), folder);
        assert_eq!(offline.fetch_model(&format!("org/name@{COMMIT}")).unwrap(), folder);
        let unreachable = Hub { offline: false, ..offline.clone() };
        assert_eq!(unreachable.fetch_model("org/name").unwrap(), folder, "the cache will do");
        std::fs::remove_file(folder.join("model-2.safetensors")).unwrap();
        let error = offline.fetch_model("org/name").unwrap_err();
        assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
        let error = unreachable.fetch_model("org/name").unwrap_err();
        assert!(error.to_string().contains("cannot reach http://127.0.0.1:1"), "{error}");
        assert_eq!(error.exit_code(), 3);
    }

    #[test]
    fn refusals_are_plain() {
        let server = Imitation::serve(repository("models", "", &[("config.json", "{}")], &["config.json"]));
        let cache = tempfile::tempdir().unwrap();
        let hub = server.hub(cache.path());
        let says = |result: Result<PathBuf>| result.unwrap_err().to_string();
        assert!(says(hub.fetch_model("org/other")).contains("not found on http"));
        assert!(says(hub.fetch_model("org/name")).contains("no safetensors weights"));
        let stranger = Hub { token: "hf_wrong".into(), ..hub };
        let error = stranger.fetch_model("org/name").unwrap_err();
        assert!(error.to_string().contains("unauthorized"), "{error}");
        assert!(error.hint().unwrap().contains("HF_TOKEN"));
    }

    #[test]
    fn a_server_cannot_name_files_outside() {
        let around = tempfile::tempdir().unwrap();
        let cache = around.path().join("a/b/cache");
        for evil in ["../../../evil", "/evil", "x/../../../../../../evil", "..\\evil", "C:evil", "a//b", ""] {
            let index = serde_json::json!({"weight_map": {"a": evil}}).to_string();
            let files = [("config.json", "{}"), (INDEX, index.as_str()), (evil, "evil")];
            let server = Imitation::serve(repository("models", "", &files, &["config.json", INDEX, evil]));
            let error = server.hub(&cache).fetch_model("org/name").unwrap_err();
            assert!(error.to_string().contains("not accepted"), "{evil}: {error}");
        }
        let mut answers = repository("models", "", &SHARDED, &["config.json"]);
        for answer in answers.values_mut() {
            answer.1 = answer.1.replace(COMMIT, "../../../evil");
        }
        let error = Imitation::serve(answers).hub(&cache).fetch_model("org/name").unwrap_err();
        assert!(error.to_string().contains("commit"), "{error}");
        let outside: Vec<String> =
            all_files(around.path()).into_iter().filter(|f| !f.starts_with("a/b/cache/models--")).collect();
        assert_eq!(outside, Vec::<String>::new());
        assert!(!all_files(around.path()).iter().any(|f| f.contains("evil")));
    }

    #[test]
    fn data_set_files_by_path_and_pattern() {
        let files = [
            ("data/train-0.parquet", "0"),
            ("data/train-1.parquet", "1"),
            ("data/sub/train-2.parquet", "2"),
            ("README.md", "r"),
        ];
        let names: Vec<&str> = files.iter().map(|(n, _)| *n).collect();
        let server = Imitation::serve(repository("datasets", "/datasets", &files, &names));
        let cache = tempfile::tempdir().unwrap();
        let hub = server.hub(cache.path());
        let one = hub.fetch_dataset_files("hf://datasets/org/name/README.md").unwrap();
        assert_eq!(std::fs::read_to_string(&one[0]).unwrap(), "r");
        let two = hub.fetch_dataset_files("hf://datasets/org/name@main/data/train-*.parquet").unwrap();
        assert_eq!(two.iter().map(|p| std::fs::read_to_string(p).unwrap()).collect::<String>(), "01");
        let error = hub.fetch_dataset_files("hf://datasets/org/name/data/train.parquet").unwrap_err();
        assert!(error.to_string().contains("no file matches"), "{error}");
        assert!(error.hint().unwrap().contains("data/train-0.parquet"));
        assert!(hub.fetch_dataset_files("hf://datasets/org/name/../x").is_err());
        assert!(hub.fetch_dataset_files("hf://datasets/org/name").is_err());
        let offline = Hub { offline: true, ..hub };
        assert_eq!(offline.fetch_dataset_files("hf://datasets/org/name/data/*.parquet").unwrap(), two);
    }

    #[test]
    fn addresses_and_patterns() {
        let split = split_dataset("hf://datasets/o/n@refs/convert/parquet/default/0.parquet").unwrap();
        assert_eq!(split, ("o", "n", "refs/convert/parquet".to_string(), "default/0.parquet"));
        for (pattern, name, fits) in [
            ("a.txt", "a.txt", true),
            ("*.txt", "a.txt", true),
            ("*.txt", "d/a.txt", false),
            ("**/*.txt", "d/e/a.txt", true),
            ("**/*.txt", "a.txt", true),
            ("d/**", "d/e/a.txt", true),
            ("d/?.txt", "d/a.txt", true),
            ("d/?.txt", "d/ab.txt", false),
            ("d?a", "d/a", false),
            ("*", "", true),
            ("a*b*c", "a__b__c", true),
            ("a*b*c", "a__c__b", false),
        ] {
            assert_eq!(matches_glob(pattern, name), fits, "{pattern} {name}");
        }
    }
}
