//! The inputs that the user named -> files, in an order that does not depend on how they were named; and what
//! the names of files tell: a source tag, and the split where the data were split before.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use crate::artifact::{self, name_of};
use crate::error::{Error, Result};
use crate::hub::{Hub, HubFile};
use crate::ingest::Input;
use crate::pipeline::recipe::PrepareConfig;
use crate::progress::Progress;
use crate::schema::{SPLITS, VALIDATION_SPLIT, prepared};

/// Endings of the files that are taken from a folder, in any case; text files may also be packed.
const TEXT_ENDINGS: [&str; 6] = [".jsonl", ".ndjson", ".jsonlines", ".json", ".csv", ".tsv"];
const PACKED_ENDINGS: [&str; 2] = [".gz", ".zst"];
const BINARY_ENDINGS: [&str; 4] = [".parquet", ".arrow", ".feather", ".ipc"];

/// JSON that other tools keep beside their data.
const NO_DATA: [&str; 5] =
    ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "manifest.json"];

/// Names of files and folders with the training split, and with held-out ones.
const TRAIN: [&str; 2] = ["train", "training"];
const TEST: [&str; 3] = ["test", "testing", "heldout"];
const VALIDATION: [&str; 6] = ["validation", "valid", "val", "dev", "eval", "evaluation"];

/// Beginnings of the names of numbered parts.
const PART: [&str; 4] = ["", "part", "shard", "chunk"];

/// Resolves files, folders, patterns (`*`, `?`, `[...]`) and hub addresses. Files are sorted by name; one that
/// was named twice is read once.
///
/// # Errors
/// [`Error::Data`] where a path does not exist or a folder has no usable file.
pub fn resolve(names: &[String], progress: &dyn Progress) -> Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for name in names {
        if name.starts_with("hf://") {
            let files = Hub::from_env().fetch_dataset(name, &|listed| data_files_of(name, listed), progress)?;
            inputs.extend(files.into_iter().map(from_hub));
            continue;
        }
        let path = PathBuf::from(name);
        if path.exists() || !name.contains(['*', '?', '[']) {
            inputs.extend(files_of(&path)?.into_iter().map(Input::new));
            continue;
        }
        let found = matching(&path)?;
        if found.is_empty() {
            return Err(refused(&path, "no file fits this pattern", "the pattern is matched against whole paths"));
        }
        for path in found {
            inputs.extend(files_of(&path)?.into_iter().map(Input::new));
        }
    }
    inputs.sort();
    let mut seen = BTreeSet::new();
    inputs.retain(|input| seen.insert(input.path.canonicalize().unwrap_or_else(|_| input.path.clone())));
    Ok(inputs)
}

/// The files that decide about rows beside the inputs: those with sources to join, and benchmarks.
pub fn beside(config: &PrepareConfig, progress: &dyn Progress) -> Result<Vec<Input>> {
    Ok([resolve(&config.sources.join, progress)?, resolve(&config.pairs.decontaminate, progress)?].concat())
}

/// All files and folders that a preparation reads: as they were named, and one by one.
pub fn read_by(config: &PrepareConfig, inputs: &[Input], beside: &[Input]) -> Vec<PathBuf> {
    let named = [&config.input, &config.sources.join, &config.pairs.decontaminate].into_iter().flatten();
    let others = [&config.tokenizer, &config.tokenize.template];
    named.chain(others).map(PathBuf::from).chain(inputs.iter().chain(beside).map(|i| i.path.clone())).collect()
}

/// Bytes of all files together, as far as they are there.
pub fn bytes(inputs: &[Input]) -> u64 {
    inputs.iter().map(|input| std::fs::metadata(&input.path).map_or(0, |facts| facts.len())).sum()
}

/// Gives each input the split that its name tells, where some names tell the training split and others a held-out
/// one; inputs whose names tell none get none. Returns a note for the user.
pub fn declare_splits(inputs: &mut [Input]) -> Option<String> {
    // All that is held out is the test split.
    let held_out = |name| if name == VALIDATION_SPLIT { SPLITS[1] } else { name };
    let told: Vec<Option<&'static str>> = splits(inputs).into_iter().map(|split| split.map(held_out)).collect();
    if !SPLITS.iter().all(|split| told.contains(&Some(split))) {
        return None;
    }
    for (input, split) in inputs.iter_mut().zip(&told) {
        input.split = *split;
    }
    let named = |split: &str| {
        let files = inputs.iter().filter(|input| input.split == Some(split));
        let names: Vec<String> = files.map(|input| input.label.display().to_string()).collect();
        match names.len() {
            1 => names[0].clone(),
            n => format!("{} and {} more", names[0], n - 1),
        }
    };
    Some(format!(
        "the splits are those of the files: train from {}, test from {} (--splits prompts makes new ones by --test-fraction)",
        named(SPLITS[0]),
        named(SPLITS[1])
    ))
}

/// The split of each input: one of [`SPLITS`], or [`VALIDATION_SPLIT`]. Its own name tells it, or else that of its
/// folder, but only where no file of the folder tells its own: the folder may be anybody's `dev`.
pub fn splits(inputs: &[Input]) -> Vec<Option<&'static str>> {
    let parent = |input: &Input| input.label.parent().map(Path::to_path_buf);
    let by_name: BTreeSet<Option<PathBuf>> =
        inputs.iter().filter(|input| own_split(&input.label).is_some()).map(parent).collect();
    let split = |input: &Input| {
        own_split(&input.label).or_else(|| folder_split(&input.label).filter(|_| !by_name.contains(&parent(input))))
    };
    inputs.iter().map(split).collect()
}

/// The files that a path names: itself, or those of a folder.
fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_dir() {
        return files_in(path);
    }
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    if path.exists() {
        // A pipe can be read only once, and reading it waits for its writer.
        return Err(refused(path, "not a regular file", "write the rows to a file first"));
    }
    let forms = "an input is a file, a folder, a pattern, or hf://datasets/ORG/NAME[@rev][/file]";
    Err(refused(path, "no such file or folder", forms))
}

/// Data files of a folder, and its visible folders, by name.
type Entries = (Vec<PathBuf>, Vec<PathBuf>);

/// The data files of a folder by name.
fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let pairs = folder.join(prepared::PAIRS);
    if folder.join(prepared::MANIFEST).is_file() && pairs.is_dir() {
        // A prepared folder, whose other tables are no data.
        return Ok(entries(&pairs)?.0);
    }
    laid_out(folder, &entries)?.map_err(|with_data| {
        let below: Vec<String> = with_data.iter().map(|f| f.display().to_string()).collect();
        let hint = if below.is_empty() {
            "text files may be packed as .gz or .zst; name a file to read it whatever its ending".into()
        } else {
            format!("there is data in {}; name the folder that is meant", below.join(", "))
        };
        refused(folder, "no .jsonl, .json, .csv, .parquet or .arrow file in this folder", &hint)
    })
}

/// The data files among all files of a data set on the hub, by the same rule; as an error, what can be named instead.
fn data_files_of(address: &str, listed: &[String]) -> std::result::Result<Vec<String>, String> {
    let listed: Vec<&Path> = listed.iter().map(Path::new).collect();
    let entries = |folder: &Path| {
        let (mut files, mut folders) = (Vec::new(), BTreeSet::new());
        for below in listed.iter().filter_map(|path| path.strip_prefix(folder).ok()) {
            let mut parts = below.components();
            let Some(first) = parts.next().map(|part| Path::new(part.as_os_str())) else { continue };
            let name = name_of(first);
            match parts.next() {
                _ if name.starts_with('.') => {}
                Some(_) => drop(folders.insert(folder.join(first))),
                None if is_data(&name) => files.push(folder.join(first)),
                None => {}
            }
        }
        Ok((files, folders.into_iter().collect()))
    };
    let found = laid_out(Path::new(""), &entries).map_err(|e| e.to_string())?;
    let text = |path: &PathBuf| path.to_string_lossy().into_owned();
    found.map(|files| files.iter().map(text).collect()).map_err(|with_data| match with_data.first() {
        Some(first) => {
            let all: Vec<String> = with_data.iter().map(text).collect();
            let address = address.trim_end_matches('/');
            format!("there is data in {}; name the files that are meant: {address}/{}/*", all.join(", "), text(first))
        }
        None => format!("name the files that are meant: {}/PATTERN", address.trim_end_matches('/')),
    })
}

/// The data files of a folder, or else of its `data` folder and the folders of its splits, as the hub and `datasets`
/// lay them out; as an error, the folders that do hold data.
fn laid_out(
    folder: &Path,
    entries: &dyn Fn(&Path) -> Result<Entries>,
) -> Result<std::result::Result<Vec<PathBuf>, Vec<PathBuf>>> {
    let (mut files, folders) = entries(folder)?;
    if files.is_empty() {
        for below in folders.iter().filter(|f| is_layout(&name_of(f))) {
            let (found, splits) = entries(below)?;
            files.extend(found);
            // `data/train/0.parquet`.
            for split in splits.iter().filter(|f| split_of_word(&name_of(f)).is_some()) {
                files.extend(entries(split)?.0);
            }
        }
    }
    if files.is_empty() {
        let with_data = |f: &PathBuf| entries(f).is_ok_and(|(files, _)| !files.is_empty());
        return Ok(Err(folders.into_iter().filter(with_data).collect()));
    }
    files.sort();
    Ok(Ok(files))
}

/// Data files and visible folders of a folder, by name.
fn entries(folder: &Path) -> Result<Entries> {
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    for path in artifact::entries(folder)? {
        let name = name_of(&path);
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            folders.push(path);
        } else if is_data(&name) && path.is_file() {
            files.push(path);
        }
    }
    Ok((files, folders))
}

/// Whether a file's name is that of a data file, and not of one that `datasets` keeps beside the data.
fn is_data(name: &str) -> bool {
    let cache = name.starts_with("cache-") && name.ends_with(".arrow");
    without_ending(name).is_some() && !NO_DATA.contains(&name) && !cache
}

/// Whether a name is that of a folder within a data set: `data`, or a split.
fn is_layout(name: &str) -> bool {
    name == "data" || split_of_word(name).is_some()
}

fn refused(path: &Path, message: &str, hint: &str) -> Error {
    Error::Data { path: path.into(), line: None, field: None, message: message.into(), hint: Some(hint.into()) }
}

/// The files and folders that fit a pattern, by name.
fn matching(pattern: &Path) -> Result<Vec<PathBuf>> {
    let bad =
        |e: &dyn std::fmt::Display| refused(pattern, &format!("not a pattern: {e}"), "quote names with [ in them");
    let options = glob::MatchOptions { require_literal_leading_dot: true, ..Default::default() };
    let found = glob::glob_with(&pattern.to_string_lossy(), options).map_err(|e| bad(&e))?;
    found.map(|path| path.map_err(|e| bad(&e))).collect()
}

/// A file from the hub is named by its address at the commit that was read, not by its path in the cache.
fn from_hub(file: HubFile) -> Input {
    Input { label: file.address.into(), ..Input::new(file.path) }
}

/// The names of the files as messages and manifests show them.
pub fn labels(inputs: &[Input]) -> Vec<String> {
    inputs.iter().map(|i| i.label.display().to_string()).collect()
}

/// The source tag that a file's name gives its rows: its [`stem`]; where the split was taken from a name that tells
/// nothing else, the name of the folder, which the files of the other split share.
pub fn tag(input: &Input) -> String {
    let name = base(&input.label);
    match input.split {
        Some(_) if is_layout(&name.to_lowercase()) => folder_name(&input.label).unwrap_or(name),
        _ => stem(&input.label),
    }
}

/// A file's name without endings and the number of a part. For a part that is named only after its split or its
/// number it is the name of the data set's folder.
pub fn stem(path: &Path) -> String {
    let name = base(path);
    let unnumbered = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let is_part = unnumbered.len() < name.len() && PART.contains(&unnumbered.trim_end_matches(['-', '_']));
    let was_numbered = without_ending(&name_of(path)).is_some_and(|whole| whole != name);
    let of_folder = is_part || was_numbered && is_layout(&name.to_lowercase());
    if of_folder { folder_name(path).unwrap_or(name) } else { name }
}

/// The folder that names a data set: the nearest one that is not called `data` or after a split, else the nearest.
fn folder_name(path: &Path) -> Option<String> {
    let above = path.parent().into_iter().flat_map(Path::components).rev();
    let folders: Vec<String> = above
        .filter_map(|part| match part {
            // The commit is no part of the name.
            Component::Normal(part) => part.to_string_lossy().split('@').next().map(str::to_string),
            _ => None,
        })
        .collect();
    folders.iter().find(|folder| !is_layout(&folder.to_lowercase())).or(folders.first()).cloned()
}

/// A file's name without endings and the number of a part.
fn base(path: &Path) -> String {
    let name = name_of(path);
    let stem = without_ending(&name).unwrap_or(&name);
    // `train-00000-of-00002`.
    let parts: Vec<&str> = stem.rsplitn(4, '-').collect();
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    match parts[..] {
        [all, "of", number, name] if is_number(all) && is_number(number) && !name.is_empty() => name.to_string(),
        _ => stem.to_string(),
    }
}

/// A name without the ending of a data file; none where it has no such ending or nothing before it.
fn without_ending(name: &str) -> Option<&str> {
    let cut = |name: &'_ str, endings: &[&str]| {
        let ending = endings.iter().find(|ending| {
            name.len() > ending.len()
                && name.is_char_boundary(name.len() - ending.len())
                && name[name.len() - ending.len()..].eq_ignore_ascii_case(ending)
        });
        ending.map(|ending| name.len() - ending.len())
    };
    let unpacked = cut(name, &PACKED_ENDINGS).map_or(name, |end| &name[..end]);
    if let Some(end) = cut(unpacked, &TEXT_ENDINGS) {
        return Some(&name[..end]);
    }
    cut(name, &BINARY_ENDINGS).map(|end| &name[..end])
}

/// The split that a file's own name tells.
fn own_split(path: &Path) -> Option<&'static str> {
    let name = base(path).to_lowercase();
    let words = || name.split(|c: char| !c.is_ascii_alphanumeric());
    words().next().and_then(split_of_word).or_else(|| words().next_back().and_then(split_of_word))
}

/// The split that the name of a file's folder tells.
fn folder_split(path: &Path) -> Option<&'static str> {
    split_of_word(&name_of(path.parent()?).to_lowercase())
}

fn split_of_word(word: &str) -> Option<&'static str> {
    match word {
        word if TRAIN.contains(&word) => Some(SPLITS[0]),
        word if TEST.contains(&word) => Some(SPLITS[1]),
        word if VALIDATION.contains(&word) => Some(VALIDATION_SPLIT),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    /// A folder with these files; gives what resolving `name` in it finds, relative to it.
    fn found(files: &[&str], name: &str) -> Result<Vec<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        let named = dir.path().join(name).display().to_string();
        let inside = |path: &Path| path.strip_prefix(dir.path()).unwrap().display().to_string();
        match resolve(&[named], &Silent) {
            Ok(inputs) => Ok(inputs.iter().map(|input| inside(&input.path)).collect()),
            Err(e) => Err(format!("{e} ({})", e.hint().unwrap_or_default())),
        }
    }

    #[test]
    fn order_and_repetition_do_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        for name in ["b.jsonl", "a.parquet", "c.jsonl.gz", "notes.txt", ".hidden.jsonl"] {
            std::fs::write(at(name), "x").unwrap();
        }
        let folder = resolve(&[dir.path().display().to_string()], &Silent).unwrap();
        let names: Vec<_> = folder.iter().map(|i| i.path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a.parquet", "b.jsonl", "c.jsonl.gz"]);
        let named = [at("c.jsonl.gz"), at("b.jsonl"), at("b.jsonl"), at("a.parquet")];
        assert_eq!(resolve(&named, &Silent).unwrap(), folder);
        assert_eq!(resolve(&[at("none")], &Silent).unwrap_err().exit_code(), 3);
    }

    #[test]
    fn a_published_folder_is_read_as_it_is_laid_out() {
        let hub = ["README.md", "data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"];
        assert_eq!(found(&hub, "").unwrap(), ["data/test-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"]);
        let saved = [
            "dataset_dict.json",
            "train/data-00000-of-00001.arrow",
            "train/dataset_info.json",
            "train/state.json",
            "train/cache-1a2b.arrow",
            "test/data-00000-of-00001.arrow",
        ];
        assert_eq!(found(&saved, "").unwrap(), ["test/data-00000-of-00001.arrow", "train/data-00000-of-00001.arrow"]);
        let mixed = ["A.JSONL", "b.ndjson", "c.Csv.GZ", "d.feather", "e.tsv", "f.txt", "sub/g.jsonl"];
        assert_eq!(found(&mixed, "").unwrap(), mixed[..5]);
        let error = found(&["raw/a.jsonl", "clean/b.jsonl"], "").unwrap_err();
        assert!(error.contains("/clean, ") && error.contains("/raw; name the folder that is meant"), "{error}");
    }

    #[test]
    fn a_data_set_on_the_hub_is_read_by_the_same_rule() {
        let of = |files: &[&str]| {
            data_files_of("hf://datasets/o/n/", &files.iter().map(|f| f.to_string()).collect::<Vec<_>>())
        };
        let top = ["README.md", ".gitattributes", "b.jsonl", "a.jsonl", "old/c.jsonl", "dataset_infos.json"];
        assert_eq!(of(&top).unwrap(), ["a.jsonl", "b.jsonl"]);
        let splits = ["README.md", "data/train-00000-of-00001.parquet", "data/test/0.parquet", "data/raw/0.parquet"];
        assert_eq!(of(&splits).unwrap(), ["data/test/0.parquet", "data/train-00000-of-00001.parquet"]);
        let error = of(&["README.md", "clean/b.parquet", "raw/a.parquet", "code/run.py"]).unwrap_err();
        assert!(error.contains("data in clean, raw;") && error.contains("hf://datasets/o/n/clean/*"), "{error}");
        assert!(of(&["README.md", "x.bin"]).unwrap_err().contains("hf://datasets/o/n/PATTERN"));
    }

    #[test]
    fn patterns_are_understood() {
        let files = ["a-1.jsonl", "a-2.jsonl", "b.jsonl", "[x].jsonl", "d/a-3.jsonl"];
        assert_eq!(found(&files, "a-*.jsonl").unwrap(), ["a-1.jsonl", "a-2.jsonl"]);
        assert_eq!(found(&files, "**/a-[13].jsonl").unwrap(), ["a-1.jsonl", "d/a-3.jsonl"]);
        assert_eq!(found(&files, "[x].jsonl").unwrap(), ["[x].jsonl"], "a name that is there is no pattern");
        assert!(found(&files, "c*.jsonl").unwrap_err().contains("no file fits this pattern"));
    }

    #[test]
    fn a_stem_has_no_endings() {
        let stem = |path: &str| stem(Path::new(path));
        assert_eq!(stem("a/raw.v2.jsonl.gz"), "raw.v2");
        for file in ["x.parquet", "x.arrow", "x.feather", "x.ipc", "x.ndjson", "x.TSV.zst", "x.JSONL", "x.jsonlines"] {
            assert_eq!(stem(file), "x");
        }
        assert_eq!(stem(".gz"), ".gz");
        assert_eq!(stem(".jsonl"), ".jsonl");
        assert_eq!(stem("x.txt"), "x.txt");
        assert_eq!(stem("corpus-00001-of-00004.parquet"), "corpus");
        assert_eq!(stem("a-of-b.jsonl"), "a-of-b");
    }

    #[test]
    fn the_parts_and_splits_of_a_data_set_have_one_stem() {
        let stem = |path: &str| stem(Path::new(path));
        for file in ["train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001", "train/data-00000-of-00001"]
        {
            assert_eq!(stem(&format!("sets/farm/data/{file}.parquet")), "farm", "{file}");
        }
        assert_eq!(stem("hf://datasets/org/farm@0123abcd/data/train-00000-of-00002.parquet"), "farm");
        assert_eq!(stem("data/train-00000-of-00002.parquet"), "data");
        for file in ["part-0.jsonl", "part-00001.parquet", "0000.parquet", "shard_3.csv.gz", "train/0001.parquet"] {
            assert_eq!(stem(&format!("farm/{file}")), "farm", "{file}");
        }
        assert_eq!(stem("farm/v2.jsonl"), "v2");
        for file in ["train", "data"] {
            assert_eq!(stem(&format!("x/{file}.jsonl")), file, "a file of its own");
        }
        assert_eq!(stem("farm/train_prefs-00000-of-00001.parquet"), "train_prefs");
    }

    #[test]
    fn files_that_only_name_their_split_share_the_tag_of_their_folder() {
        let tags = |files: [&str; 2]| {
            let mut inputs = files.map(Input::new);
            declare_splits(&mut inputs);
            inputs.map(|input| tag(&input))
        };
        assert_eq!(tags(["farm/train.jsonl", "farm/test.jsonl"]), ["farm", "farm"]);
        assert_eq!(tags(["farm/train.jsonl", "farm/more.jsonl"]), ["train", "more"], "no split was taken");
        assert_eq!(tags(["farm/a_train.jsonl", "farm/a_test.jsonl"]), ["a_train", "a_test"]);
    }

    #[test]
    fn splits_are_taken_where_files_of_both_are_there() {
        let splits = |files: &[&str]| {
            let mut inputs: Vec<Input> = files.iter().map(Input::new).collect();
            let note = declare_splits(&mut inputs);
            (inputs.iter().map(|input| input.split).collect::<Vec<_>>(), note)
        };
        let (train, test) = (Some("train"), Some("test"));
        let files = ["d/train-00000-of-00001.parquet", "d/test-00000-of-00001.parquet", "d/more.parquet"];
        let (told, note) = splits(&files);
        assert_eq!(told, [train, test, None]);
        assert!(note.unwrap().contains("train from d/train-00000-of-00001.parquet, test from d/test-"));
        assert_eq!(splits(&["train/data.arrow", "validation/data.arrow"]).0, [train, test]);
        // A folder of another purpose: its files tell their own splits, or the folder is the same for all.
        assert_eq!(splits(&["dev/train.jsonl", "dev/extra.jsonl"]), (vec![None, None], None));
        assert_eq!(splits(&["dev/train.jsonl", "dev/extra.jsonl", "dev/test.jsonl"]).0, [train, None, test]);
        assert_eq!(splits(&["x_train.csv", "test_prefs.csv", "x.dev.csv"]).0, [train, test, test]);
        assert_eq!(splits(&["train.jsonl", "contest.jsonl"]), (vec![None, None], None));
        assert_eq!(splits(&["latest.jsonl", "trainer.jsonl"]).0, [None, None]);
    }
}
