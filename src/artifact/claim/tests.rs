use serde_json::json;

use super::*;

fn claim<'a>(stage: &'a str, inputs: &'a [PathBuf]) -> Claim<'a> {
    Claim { stage, inputs }
}

fn said(result: Result<()>) -> String {
    match result.unwrap_err() {
        Error::Artifact { message, hint, .. } => {
            assert!(hint.is_some());
            message
        }
        other => panic!("{other}"),
    }
}

fn manifest(folder: &Path, stage: &str) {
    let value = json!({"tool": "lpc-pipe 0.0.1", "stage": stage});
    super::super::write_json(folder.join("manifest.json"), &value).unwrap();
}

#[test]
fn a_folder_belongs_to_the_command_that_wrote_it() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("out");
    for stage in ["synth", "prepare", "train", "noise-sweep", "demo", "export"] {
        claim(stage, &[]).folder(&folder).unwrap();
    }
    // Unfinished: known by its lock.
    drop(claim("train", &[]).take(&folder).unwrap());
    claim("train", &[]).folder(&folder).unwrap();
    assert!(said(claim("prepare", &[]).folder(&folder)).starts_with("holds the output of `train`"));
    // Finished: known by its manifest, whatever became of the lock.
    manifest(&folder, "train");
    for lock in ["lpc-pipe train\n", "", "somebody else's"] {
        std::fs::write(folder.join(LOCK), lock).unwrap();
        claim("train", &[]).folder(&folder).unwrap();
        assert!(said(claim("noise-sweep", &[]).folder(&folder)).contains("`train`"), "{lock}");
    }
    std::fs::remove_file(folder.join(LOCK)).unwrap();
    claim("train", &[]).folder(&folder).unwrap();
    // A damaged manifest is replaced only where the lock file says that the folder is ours.
    std::fs::write(folder.join("manifest.json"), "{").unwrap();
    assert!(said(claim("train", &[]).folder(&folder)).contains("did not write"));
    std::fs::write(folder.join(LOCK), "lpc-pipe train\n").unwrap();
    claim("train", &[]).folder(&folder).unwrap();
    // A sound manifest of another program is never replaced.
    std::fs::write(folder.join("manifest.json"), "{\"name\": \"page\"}").unwrap();
    assert!(said(claim("train", &[]).folder(&folder)).contains("did not write"));
}

#[test]
fn files_of_others_stay() {
    for (stage, name) in [
        ("synth", "corpus.jsonl"),
        ("prepare", "pairs"),
        ("prepare", "tokenizer"),
        ("train", "model"),
        ("train", "dynamics.parquet"),
        ("train", "config.toml"),
        ("noise-sweep", "results.parquet"),
        ("demo", "demo.json"),
        ("export", "notes.txt"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("mine")).unwrap();
        claim(stage, &[]).folder(dir.path()).unwrap_or_else(|e| assert_eq!(stage, "export", "{e}"));
        std::fs::write(dir.path().join(name), "mine").unwrap();
        assert!(said(claim(stage, &[]).folder(dir.path())).contains("lpc-pipe did not write"), "{stage}");
        // An earlier version's lock had nothing in it.
        std::fs::write(dir.path().join(LOCK), "").unwrap();
        claim(stage, &[]).folder(dir.path()).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(said(claim("train", &[]).folder(&file)).contains("a file is there"));
}

#[test]
fn inputs_are_told_by_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir_all(at("in/pairs")).unwrap();
    for name in ["in/rows.jsonl", "in/rejects.parquet", "in/pairs/train.parquet"] {
        std::fs::write(at(name), "x").unwrap();
    }
    std::fs::write(at("in/.lock"), "").unwrap();
    let refused = |input: &str, out: &str| -> bool {
        let inputs = [at(input)];
        match claim("prepare", &inputs).folder(&at(out)) {
            Ok(()) => false,
            Err(e) => {
                assert!(e.to_string().contains("an input of this command"), "{e}");
                true
            }
        }
    };
    assert!(refused("in", "in") && refused("./in/", "in/pairs/../../in"));
    assert!(refused("in/rejects.parquet", "in") && refused("in/pairs/train.parquet", "in/"));
    assert!(!refused("in/rows.jsonl", "in") && !refused("in", "in/prep") && !refused("nowhere", "in"));
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(at("in"), at("link")).unwrap();
        assert!(refused("link", "in") && refused("in", "link"));
    }
}

#[test]
fn nothing_goes_into_what_another_command_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    drop(lock_folder(&at("prep"), "prepare").unwrap());
    drop(lock_folder(&at("sweep"), "noise-sweep").unwrap());
    drop(lock_folder(&at("models"), "export").unwrap());
    claim("export", &[]).folder(&at("models/second")).unwrap();
    assert!(said(claim("export", &[]).folder(&at("models/base"))).contains("which `export` wrote"));
    assert!(said(claim("train", &[]).folder(&at("prep/pairs"))).contains("which `prepare` wrote"));
    assert!(said(claim("score", &[]).file(&at("prep/tokens/new/x.parquet"))).contains("which `prepare` wrote"));
    claim("train", &[]).folder(&at("prep/run")).unwrap();
    claim("score", &[]).file(&at("prep/scores.parquet")).unwrap();
    claim("train", &[]).folder(&at("sweep/cells/a")).unwrap();
}

#[test]
fn a_file_is_written_again_by_its_own_command_only() {
    use polars::prelude::*;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mut frame = df!("a" => [1]).unwrap();
    let marks = [(WRITTEN_BY.to_string(), "score".to_string())];
    super::super::write_parquet_marked(at("ours.parquet"), &mut frame, &marks).unwrap();
    super::super::write_parquet(at("bare.parquet"), &mut frame).unwrap();
    std::fs::write(at("rows.jsonl"), "{}").unwrap();
    claim("score", &[]).file(&at("ours.parquet")).unwrap();
    claim("score", &[]).file(&at("new.parquet")).unwrap();
    assert!(said(claim("other", &[]).file(&at("ours.parquet"))).contains("`other` did not write it"));
    assert!(said(claim("score", &[]).file(&at("bare.parquet"))).contains("`score` did not write it"));
    assert!(said(claim("score", &[]).file(&at("rows.jsonl"))).contains("`score` did not write it"));
    assert!(said(claim("score", &[]).file(dir.path())).contains("a folder is there"));
    let inputs = [at("ours.parquet")];
    assert!(said(claim("score", &inputs).file(&at("./ours.parquet"))).contains("an input of this command"));
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(at("nowhere"), at("dangling")).unwrap();
        assert!(said(claim("score", &[]).file(&at("dangling"))).contains("did not write it"));
    }
}

#[test]
fn reports_go_beside_what_is_ours() {
    let dir = tempfile::tempdir().unwrap();
    may_add(dir.path(), &[report::HTML]).unwrap();
    std::fs::write(dir.path().join(report::HTML), "mine").unwrap();
    assert!(may_add(dir.path(), &[report::HTML]).is_err());
    manifest(dir.path(), "train");
    may_add(dir.path(), &[report::HTML]).unwrap();
}

#[test]
fn what_cannot_be_written_is_told_and_nothing_is_left_of_the_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("file"), "").unwrap();
    std::fs::create_dir(at("folder")).unwrap();
    for path in ["file/x.parquet", "file/new/x.parquet"] {
        let (written, new) = (claim("score", &[]).file(&at(path)), claim("generate", &[]).new_file(&at(path)));
        for error in [may_write(&at(path)), written, new].map(Result::unwrap_err) {
            assert!(matches!(&error, Error::Io { path: told, .. } if *told == at(path)), "{error}");
        }
    }
    for path in ["folder", "folder/new/deeper", "x.parquet"] {
        may_write(&at(path)).unwrap();
    }
    let left: Vec<String> = entries(dir.path()).unwrap().iter().map(|path| name_of(path)).collect();
    assert_eq!(left, ["file", "folder"]);
    assert!(entries(&at("folder")).unwrap().is_empty());
}
