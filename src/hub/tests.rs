use std::sync::Mutex;
use std::time::Duration;

use super::cache::files_below;
use super::fake_hub::{Answer, COMMIT, FakeHub, Script, TransferFault, info_path, repository};
use super::*;
use crate::progress::Silent;

mod parts;

const SHARDED: [(&str, &[u8]); 5] = [
    ("config.json", b"{}"),
    ("tokenizer.json", b"{\"t\":1}"),
    (INDEX, br#"{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors","c":"model-1.safetensors"}}"#),
    ("model-1.safetensors", b"one"),
    ("model-2.safetensors", b"two"),
];

const DATA: [(&str, &[u8]); 4] = [
    ("data/train-0.parquet", b"0"),
    ("data/train-1.parquet", b"1"),
    ("data/sub/train-2.parquet", b"2"),
    ("README.md", b"r"),
];

const TRAIN: &str = "/datasets/org/name/resolve/0123456789abcdef0123456789abcdef01234567/data/train-0.parquet";

fn quick() -> Patience {
    let ms = Duration::from_millis;
    Patience { connect: ms(2000), silence: ms(150), retries: 2, pause: ms(2) }
}

fn hub(server: &FakeHub, cache: &Path) -> Hub {
    Hub {
        endpoint: server.endpoint.clone(),
        cache: cache.into(),
        token: "hf_test".into(),
        offline: false,
        patience: quick(),
    }
}

/// A hub with this script, an empty cache, and a client of both.
fn served(script: Script) -> (FakeHub, tempfile::TempDir, Hub) {
    let server = FakeHub::serve(script, "hf_test");
    let cache = tempfile::tempdir().unwrap();
    let hub = hub(&server, cache.path());
    (server, cache, hub)
}

fn names<'a>(files: &[(&'a str, &[u8])]) -> Vec<&'a str> {
    files.iter().map(|(n, _)| *n).collect()
}

fn models(files: &[(&str, &[u8])], listed: &[&str]) -> FakeHub {
    FakeHub::serve(repository("models", files, listed), "hf_test")
}

fn data() -> Script {
    repository("datasets", &DATA, &names(&DATA))
}

/// Records all messages.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Progress for Notes {
    fn begin(&self, step: &str, _: Option<u64>) {
        self.note(step);
    }
    fn advance(&self, n: u64) {
        self.note(&format!("+{n}"));
    }
    fn status(&self, _: &str) {}
    fn end(&self) {}
    fn note(&self, line: &str) {
        self.0.lock().unwrap().push(line.into());
    }
    fn warn(&self, line: &str) {
        self.note(&format!("warning: {line}"));
    }
}

fn model(hub: &Hub) -> Result<PathBuf> {
    hub.fetch_model("org/name", ModelParts::All, &Silent)
}

fn dataset(hub: &Hub, rest: &str) -> Result<Vec<HubFile>> {
    hub.fetch_dataset(&format!("hf://datasets/org/name{rest}"), &parquet, &Silent)
}

/// The choice of these tests among all files of a data set.
fn parquet(files: &[String]) -> Result<Vec<String>, String> {
    let found: Vec<String> = files.iter().filter(|name| name.starts_with("data/train-")).rev().cloned().collect();
    if found.is_empty() { Err(format!("{} files", files.len())) } else { Ok(found) }
}

fn says<T: std::fmt::Debug>(result: Result<T>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), 3, "{error}");
    error.to_string()
}

fn contents(files: &[HubFile]) -> String {
    files.iter().map(|f| std::fs::read_to_string(&f.path).unwrap()).collect()
}

#[test]
fn a_sharded_model_is_fetched_once_and_used_offline() {
    let listed: Vec<&str> = names(&SHARDED).into_iter().chain(["README.md", "pytorch_model.bin"]).collect();
    let server = models(&SHARDED, &listed);
    let cache = tempfile::tempdir().unwrap();
    let hub = hub(&server, cache.path());
    let folder = model(&hub).unwrap();
    assert_eq!(folder, cache.path().join("models--org--name/snapshots").join(COMMIT));
    let mut expected = names(&SHARDED);
    expected.sort_unstable();
    assert_eq!(files_below(&folder), expected);
    assert_eq!(std::fs::read_to_string(folder.join("model-2.safetensors")).unwrap(), "two");
    let asked = server.asked().len();
    assert_eq!(model(&hub).unwrap(), folder);
    assert_eq!(server.asked().len(), asked + 1, "one request, for the commit");
    assert_eq!(hub.fetch_model(&format!("org/name@{COMMIT}"), ModelParts::All, &Silent).unwrap(), folder);
    assert_eq!(server.asked().len(), asked + 1, "a cached commit needs no request");

    let offline = Hub { endpoint: "http://127.0.0.1:1".into(), offline: true, ..hub };
    assert_eq!(model(&offline).unwrap(), folder);
    let unreachable = Hub { offline: false, ..offline.clone() };
    let notes = Notes::default();
    assert_eq!(unreachable.fetch_model("org/name", ModelParts::All, &notes).unwrap(), folder, "the cache is used");
    assert!(notes.0.lock().unwrap()[0].contains("warning: http://127.0.0.1:1 cannot be reached"));
    // A cached model that lacks its tokenizer or a shard is incomplete.
    for gone in ["tokenizer.json", "model-2.safetensors"] {
        let path = folder.join(gone);
        let kept = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(says(model(&offline)).contains("HF_HUB_OFFLINE"), "{gone}");
        assert!(says(model(&unreachable)).contains("cannot reach http://127.0.0.1:1"), "{gone}");
        std::fs::write(path, kept).unwrap();
    }
}

#[test]
fn adapters_are_models_too() {
    let files: [(&str, &[u8]); 4] = [
        (ADAPTER_CONFIG, b"{}"),
        (ADAPTER_WEIGHTS, b"a"),
        ("tokenizer.json", b"{}"),
        // Weights of a whole model beside an adapter are not fetched: the adapter names its base.
        (WEIGHTS, b"whole"),
    ];
    let cache = tempfile::tempdir().unwrap();
    let server = models(&files, &names(&files));
    let at = hub(&server, cache.path());
    let folder = model(&at).unwrap();
    let found = |name: &str| folder.join(name).exists();
    assert!(found(ADAPTER_CONFIG) && found(ADAPTER_WEIGHTS) && found("tokenizer.json") && !found(WEIGHTS));
    let offline = Hub { offline: true, ..at };
    assert_eq!(model(&offline).unwrap(), folder);
    std::fs::remove_file(folder.join(ADAPTER_WEIGHTS)).unwrap();
    assert!(model(&offline).is_err());
    assert_eq!(offline.fetch_model("org/name", ModelParts::Tokenizer, &Silent).unwrap(), folder);
    // Only safetensors are read.
    let server = models(&files[..1], &[ADAPTER_CONFIG, "adapter_model.bin"]);
    let other = tempfile::tempdir().unwrap();
    assert!(says(model(&hub(&server, other.path()))).contains("no safetensors weights"));
}

#[test]
fn refusals_are_plain() {
    let cache = tempfile::tempdir().unwrap();
    let server = models(&[("config.json", b"{}")], &["config.json"]);
    let at = hub(&server, cache.path());
    assert!(says(at.fetch_model("org/other", ModelParts::All, &Silent)).contains("not found on http"));
    assert!(says(model(&at)).contains("no safetensors weights"));
    let error = model(&Hub { token: "hf_wrong".into(), ..at.clone() }).unwrap_err();
    assert!(error.to_string().contains("unauthorized"), "{error}");
    assert!(error.hint().unwrap().contains("HF_TOKEN"));
    let error = model(&Hub { endpoint: "nonsense".into(), ..at }).unwrap_err();
    assert!(error.to_string().contains("nonsense is no address"), "{error}");

    let mut script = data();
    let gated = Answer::new(403, r#"{"error":"Access to dataset org/name is restricted."}"#);
    script.insert(info_path("datasets", "gated"), vec![gated]);
    let server = FakeHub::serve(script, "hf_test");
    let at = hub(&server, cache.path());
    let error = dataset(&at, "@gated/x").unwrap_err();
    assert!(error.to_string().contains("HTTP 403): Access to dataset org/name is restricted."), "{error}");
    assert!(error.hint().unwrap().contains("accept its licence"));
    let error = dataset(&at, "@v2/x").unwrap_err();
    assert!(error.to_string().contains("not found on http") && error.to_string().contains("`v2`"), "{error}");
    let error = dataset(&at, "/data/train.parquet").unwrap_err();
    assert!(error.to_string().contains("no file matches"), "{error}");
    assert!(error.hint().unwrap().contains("data/train-0.parquet"));
    for bad in ["/../x", "@", "@../x/y", "//x"] {
        assert!(says(dataset(&at, bad)).contains("cannot be read"), "{bad}");
    }
}

#[test]
fn data_set_files_by_path_and_pattern() {
    let (_server, _cache, hub) = served(data());
    assert_eq!(contents(&dataset(&hub, "/README.md").unwrap()), "r");
    let two = dataset(&hub, "@main/data/train-*.parquet").unwrap();
    assert_eq!(contents(&two), "01");
    assert_eq!(two[0].address, format!("hf://datasets/org/name@{COMMIT}/data/train-0.parquet"));
    assert_eq!(two[0].commit, COMMIT);
    assert_eq!(contents(&dataset(&hub, "/**/*.parquet").unwrap()), "201");
    assert_eq!(contents(&dataset(&hub, "/**").unwrap()), "r201");
    // Without a path the files are chosen among all, and a refusal says what else there is.
    assert_eq!(dataset(&hub, "").unwrap(), two);
    assert_eq!(dataset(&hub, "@main/").unwrap(), two);
    let none = |files: &[String]| Err(format!("there are {}", files.join(", ")));
    let error = hub.fetch_dataset("hf://datasets/org/name", &none, &Silent).unwrap_err();
    assert!(error.to_string().contains("holds no data file"), "{error}");
    assert!(error.hint().unwrap().contains("data/sub/train-2.parquet"), "{error:?}");
    // The recorded address gives the same file.
    assert_eq!(hub.fetch_dataset(&two[1].address, &parquet, &Silent).unwrap(), two[1..]);
}

#[test]
fn a_second_run_fetches_no_bytes_and_a_commit_asks_nothing() {
    let (server, _cache, hub) = served(data());
    let first = dataset(&hub, "/data/*.parquet").unwrap();
    let resolved = server.count("resolve");
    assert_eq!(dataset(&hub, "/data/*.parquet").unwrap(), first);
    assert_eq!(server.count("resolve"), resolved, "no file is fetched again");
    let asked = server.asked().len();
    for path in ["/data/*.parquet", "/data/train-0.parquet"] {
        let pinned = dataset(&hub, &format!("@{COMMIT}{path}")).unwrap();
        assert_eq!(pinned[0], first[0]);
    }
    assert_eq!(server.asked().len(), asked, "no request at all");
    // A pattern that matches more than the cache has fetches only the missing files.
    dataset(&hub, &format!("@{COMMIT}/**")).unwrap();
    assert_eq!(server.count("GET /datasets"), DATA.len());
}

#[test]
fn offline_serves_all_or_says_what_is_missing() {
    let (_server, cache, hub) = served(data());
    let offline = Hub { endpoint: "http://127.0.0.1:1".into(), offline: true, ..hub.clone() };
    assert!(says(dataset(&offline, "/README.md")).contains("HF_HUB_OFFLINE is set"));
    let two = dataset(&hub, "/data/*.parquet").unwrap();
    assert_eq!(dataset(&offline, "/data/*.parquet").unwrap(), two);
    assert_eq!(dataset(&offline, &format!("@{COMMIT}/data/*.parquet")).unwrap(), two);
    assert_eq!(dataset(&offline, "").unwrap(), two);
    // Files that a wider pattern matches and the cache lacks are an error.
    let said = says(dataset(&offline, "/**/*.parquet"));
    assert!(said.contains("`data/sub/train-2.parquet` is not in the cache"), "{said}");
    let said = says(dataset(&offline, "/**"));
    assert!(said.contains("`README.md` and 1 more are not in the cache"), "{said}");
    assert!(says(dataset(&offline, "/*.csv")).contains("no file matches"));
    assert!(says(dataset(&offline, "@v2/README.md")).contains("HF_HUB_OFFLINE"));
    // Where the hub cannot be reached, the cache is used; if it lacks a file, the error names the hub.
    let unreachable = Hub { offline: false, ..offline.clone() };
    assert_eq!(dataset(&unreachable, "/data/*.parquet").unwrap(), two);
    assert!(says(dataset(&unreachable, "/**")).contains("cannot reach http://127.0.0.1:1"));
    // A cache that another program filled has no listing: a warning says that files may be missing.
    let base = cache.path().join("datasets--org--name");
    std::fs::remove_dir_all(base.join("listings")).unwrap();
    let notes = Notes::default();
    assert_eq!(offline.fetch_dataset("hf://datasets/org/name/data/*.parquet", &parquet, &notes).unwrap(), two);
    assert!(notes.0.lock().unwrap()[0].contains("may hold only some of the files"));
}

#[cfg(unix)]
#[test]
fn links_are_followed_within_the_cache_only() {
    use std::os::unix::fs::symlink;
    let server = FakeHub::serve(data(), "hf_test");
    let around = tempfile::tempdir().unwrap();
    let cache = around.path().join("cache");
    let hub = hub(&server, &cache);
    let base = cache.join("datasets--org--name");
    let snapshot = base.join("snapshots").join(COMMIT);
    std::fs::create_dir_all(snapshot.join("data")).unwrap();
    std::fs::create_dir_all(base.join("refs")).unwrap();
    std::fs::create_dir_all(base.join("blobs")).unwrap();
    std::fs::write(base.join("refs/main"), COMMIT).unwrap();
    std::fs::write(base.join("blobs/abc"), "blob").unwrap();
    std::fs::write(around.path().join("secret"), "secret").unwrap();
    symlink("../../../blobs/abc", snapshot.join("data/train-0.parquet")).unwrap();
    symlink("../../../../../secret", snapshot.join("data/train-1.parquet")).unwrap();
    symlink("../../blobs/gone", snapshot.join("README.md")).unwrap();
    let offline = Hub { offline: true, ..hub.clone() };
    for hub in [&offline, &hub] {
        assert_eq!(contents(&dataset(hub, "/data/train-0.parquet").unwrap()), "blob");
        let error = dataset(hub, "/data/train-1.parquet").unwrap_err();
        assert!(error.to_string().contains("leads out of the cache"), "{error}");
        assert!(error.hint().unwrap().contains("remove that link"));
    }
    // A dangling link is replaced, not followed.
    assert_eq!(contents(&dataset(&hub, "/README.md").unwrap()), "r");
    assert!(!base.join("blobs/gone").exists());
    // Nothing is written through a link to a folder outside.
    std::fs::remove_dir_all(snapshot.join("data")).unwrap();
    std::fs::create_dir(around.path().join("elsewhere")).unwrap();
    symlink(around.path().join("elsewhere"), snapshot.join("data")).unwrap();
    assert!(says(dataset(&hub, "/data/sub/train-2.parquet")).contains("leads out of the cache"));
    assert_eq!(files_below(&around.path().join("elsewhere")), Vec::<String>::new());
    // The cache itself may be a link.
    symlink(&cache, around.path().join("linked")).unwrap();
    std::fs::remove_file(snapshot.join("data")).unwrap();
    let linked = Hub { cache: around.path().join("linked"), ..hub };
    assert_eq!(contents(&dataset(&linked, "/data/train-0.parquet").unwrap()), "0");
}

#[test]
fn a_server_cannot_name_files_outside() {
    let around = tempfile::tempdir().unwrap();
    let cache = around.path().join("a/b/cache");
    for evil in ["../../../evil", "/evil", "x/../../../../../../evil", "..\\evil", "C:evil", "a//b", ""] {
        let index = serde_json::json!({"weight_map": {"a": evil}}).to_string();
        let files: [(&str, &[u8]); 3] = [("config.json", b"{}"), (INDEX, index.as_bytes()), (evil, b"evil")];
        let said = says(model(&hub(&models(&files, &["config.json", INDEX, evil]), &cache)));
        assert!(said.contains("not accepted"), "{evil}: {said}");
        let script = repository("datasets", &[(evil, b"evil")], &[evil]);
        let said = says(dataset(&hub(&FakeHub::serve(script, ""), &cache), "/**"));
        assert!(said.contains("not accepted"), "{evil}: {said}");
        // Nor are such names accepted from a listing that was changed on disk.
        let listings = cache.join("datasets--org--name/listings");
        std::fs::create_dir_all(cache.join("datasets--org--name/snapshots").join(COMMIT)).unwrap();
        std::fs::write(listings.join(format!("{COMMIT}.json")), serde_json::json!([evil]).to_string()).unwrap();
        let offline = Hub { offline: true, ..hub(&models(&[], &[]), &cache) };
        assert!(says(dataset(&offline, &format!("@{COMMIT}/**"))).contains("not accepted"), "{evil}");
    }
    for commit in ["../../../evil", "", "a/b"] {
        let mut script = data();
        let info = serde_json::json!({"id": "org/name", "sha": commit, "siblings": []}).to_string();
        script.insert(info_path("datasets", "main"), vec![Answer::new(200, info)]);
        let said = says(dataset(&hub(&FakeHub::serve(script, ""), &cache), "/**"));
        assert!(said.contains("names a commit"), "{said}");
    }
    // A server that answers with another commit than the one asked for is refused.
    let other = "f".repeat(40);
    let mut script = data();
    let info = script[&info_path("datasets", "main")].clone();
    script.insert(info_path("datasets", &other), info);
    let said = says(dataset(&hub(&FakeHub::serve(script, ""), &cache), &format!("@{other}/README.md")));
    assert!(said.contains("asked for commit ffff"), "{said}");
    let outside: Vec<String> = files_below(around.path())
        .into_iter()
        .filter(|f| !f.starts_with("a/b/cache/models--") && !f.starts_with("a/b/cache/datasets--"))
        .collect();
    assert_eq!(outside, Vec::<String>::new());
    assert!(!files_below(around.path()).iter().any(|f| f.contains("evil")));
}

#[test]
fn the_token_stays_with_the_hub() {
    let store = FakeHub::serve(Script::from([("/blob".into(), vec![Answer::new(200, "far")])]), "");
    let mut script = data();
    let moved = Answer::new(302, "").with(&format!("Location: {}/blob", store.endpoint));
    script.insert(TRAIN.into(), vec![moved]);
    let server = FakeHub::serve(script, "hf_test");
    let cache = tempfile::tempdir().unwrap();
    let files = dataset(&hub(&server, cache.path()), "/data/train-*.parquet").unwrap();
    assert_eq!(contents(&files), "far1");
    assert!(!store.asked().is_empty());
    assert!(store.asked().iter().all(|a| a.token.is_none()), "{:?}", store.asked());
    assert!(server.asked().iter().all(|a| a.token.as_deref() == Some("hf_test")));
}

#[test]
fn failures_that_pass_are_waited_for() {
    let sound = Answer::new(200, "sound");
    let long = Answer::new(200, "long ".repeat(1000));
    for (failures, last) in [
        (vec![Answer::new(503, ""), Answer::new(500, "")], &sound),
        (vec![Answer::new(429, "")], &sound),
        (vec![long.clone().failing(TransferFault::BreakOff), long.clone().failing(TransferFault::BreakOff)], &long),
        (vec![sound.clone().failing(TransferFault::Silence(600))], &sound),
        (vec![long.clone().failing(TransferFault::Stall(600))], &long),
    ] {
        let told = format!("{failures:?}");
        let mut script = data();
        script.insert(TRAIN.into(), failures.into_iter().chain([last.clone()]).collect());
        let server = FakeHub::serve(script, "hf_test");
        let cache = tempfile::tempdir().unwrap();
        let files = dataset(&hub(&server, cache.path()), "/data/train-0.parquet").expect(&told);
        assert_eq!(std::fs::read(&files[0].path).unwrap(), last.body);
    }
}

#[test]
fn failures_that_stay_end_in_time_and_leave_nothing() {
    let long = Answer::new(200, "long ".repeat(1000));
    for (answer, told) in [
        (Answer::new(503, ""), "fails (HTTP 503)"),
        (Answer::new(429, ""), "HTTP 429"),
        (Answer::new(404, ""), "has no file `data/train-0.parquet`"),
        (Answer::new(403, ""), "HTTP 403"),
        (long.clone().failing(TransferFault::Silence(5000)), "no answer from http"),
        (long.clone().failing(TransferFault::BreakOff), "transfer from http"),
        (long.clone().failing(TransferFault::Stall(5000)), "http://127.0.0.1"),
    ] {
        let mut script = data();
        script.insert(TRAIN.into(), vec![answer.clone()]);
        let server = FakeHub::serve(script, "hf_test");
        let cache = tempfile::tempdir().unwrap();
        let begin = std::time::Instant::now();
        let said = says(dataset(&hub(&server, cache.path()), "/data/train-0.parquet"));
        assert!(said.contains(told), "{answer:?}: {said}");
        assert!(begin.elapsed() < Duration::from_secs(5), "{told}: {:?}", begin.elapsed());
        let left: Vec<String> =
            files_below(cache.path()).into_iter().filter(|f| f.contains("train") || f.contains("refs")).collect();
        assert_eq!(left, Vec::<String>::new(), "{told}");
    }
    // A hub that does not answer is an error, and so is one that answers with a web page.
    let mut script = data();
    script.insert(info_path("datasets", "main"), vec![Answer::new(200, "").failing(TransferFault::Silence(5000))]);
    script.insert(info_path("datasets", "page"), vec![Answer::new(200, "<html>log in</html>")]);
    script.insert(info_path("datasets", "bare"), vec![Answer::new(200, "{}")]);
    let (_server, _cache, at) = served(script);
    assert!(says(dataset(&at, "/README.md")).contains("no answer from http"));
    assert!(says(dataset(&at, "@page/README.md")).contains("http://127.0.0.1"));
    assert!(says(dataset(&at, "@bare/README.md")).contains("http://127.0.0.1"));
}

#[test]
fn a_server_says_when_to_come_again() {
    let mut script = data();
    let path = info_path("datasets", "main");
    let busy = Answer::new(429, "").with("Retry-After: 0");
    let sound = script[&path][0].clone();
    script.insert(path, vec![busy.clone(), busy.clone(), busy.clone(), busy, sound]);
    let server = FakeHub::serve(script, "hf_test");
    let cache = tempfile::tempdir().unwrap();
    assert_eq!(contents(&dataset(&hub(&server, cache.path()), "/README.md").unwrap()), "r");
}

#[test]
fn two_that_want_the_same_file_fetch_it_once() {
    let (server, cache, hub) = served(data());
    let base = cache.path().join("datasets--org--name");
    // Temporary folders of a killed process are removed.
    std::fs::create_dir_all(base.join(".lpc-pipe-abc")).unwrap();
    std::fs::write(base.join(".lpc-pipe-abc/part"), "half").unwrap();
    std::thread::scope(|scope| {
        let both = [0, 1].map(|_| scope.spawn(|| contents(&dataset(&hub, "/data/train-*.parquet").unwrap())));
        for one in both {
            assert_eq!(one.join().unwrap(), "01");
        }
    });
    assert_eq!(server.count("GET /datasets"), 2);
    assert!(!base.join(".lpc-pipe-abc").exists());
}

#[test]
fn a_transfer_tells_how_far_it_is() {
    let body = vec![b'x'; 300 << 10];
    let script = repository("datasets", &[("a.jsonl", &body)], &["a.jsonl"]);
    let server = FakeHub::serve(script, "hf_test");
    let cache = tempfile::tempdir().unwrap();
    let notes = Notes::default();
    hub(&server, cache.path()).fetch_dataset("hf://datasets/org/name/a.jsonl", &parquet, &notes).unwrap();
    let said = notes.0.lock().unwrap();
    assert_eq!(said[0], "fetch a.jsonl (KiB)");
    let done: u64 = said[1..].iter().map(|n| n.trim_start_matches('+').parse::<u64>().unwrap()).sum();
    assert_eq!(done, 300);
}

#[test]
fn the_environment_is_read_as_huggingface_hub_reads_it() {
    let home = tempfile::tempdir().unwrap();
    let at = home.path().display().to_string();
    std::fs::write(home.path().join("token"), "hf_file\n").unwrap();
    std::fs::write(home.path().join("other"), "hf_other").unwrap();
    let of = |vars: &[(&str, &str)]| {
        Hub::from_vars(&|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string()))
    };
    let base = of(&[("HOME", "/u")]);
    assert_eq!(base.endpoint, "https://huggingface.co");
    assert_eq!(base.cache, Path::new("/u/.cache/huggingface/hub"));
    assert!(!base.offline && base.token.is_empty());
    let file = of(&[("HF_HOME", &at)]);
    assert_eq!((file.cache, file.token), (home.path().join("hub"), "hf_file".to_string()));
    assert_eq!(of(&[("HF_HOME", &at), ("HF_TOKEN", " hf_env\n")]).token, "hf_env");
    assert_eq!(of(&[("HF_HOME", &at), ("HF_TOKEN_PATH", &format!("{at}/other"))]).token, "hf_other");
    assert_eq!(of(&[("HF_HOME", &at), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).token, "");
    assert_eq!(of(&[("XDG_CACHE_HOME", "/c")]).cache, Path::new("/c/huggingface/hub"));
    assert_eq!(of(&[("HF_HOME", &at), ("HF_HUB_CACHE", "/k")]).cache, Path::new("/k"));
    assert_eq!(of(&[("HF_ENDPOINT", "http://127.0.0.1:1")]).endpoint, "http://127.0.0.1:1");
    for (value, offline) in [("1", true), ("true", true), ("YES", true), ("0", false), ("false", false), ("", false)] {
        assert_eq!(of(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value}");
    }
}
