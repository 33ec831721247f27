//! `merge`: the shards of one preparation -> the folder that an unsharded run would have written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use polars::prelude::*;
use serde_json::Value;

use super::prepare::{self, PrepareSummary};
use super::recipe::Shard;
use crate::artifact;
use crate::error::{Error, Result};
use crate::manifest::{InputFile, Manifest, SCHEMA_VERSION, hash_json};
use crate::progress::Progress;
use crate::rejects;
use crate::schema::{SPLITS, col, fact, prepared};
use crate::token_file;

/// Joins prepared folders that were made with `--shard 1/N` to `N/N`, in any order. Data files have the
/// bytes of an unsharded run; every file is compared with its shard's manifest first.
///
/// # Errors
/// [`Error::Artifact`] where a folder is not a finished shard, is damaged, or does not belong to the others;
/// [`Error::Config`] where a shard is missing; [`Error::Data`] where none of them has a pair; [`Error::Io`].
pub fn run(folders: &[PathBuf], out: &Path, progress: &dyn Progress) -> Result<PrepareSummary> {
    // The output is a prepared folder, which `prepare` may write over.
    let claim = artifact::Claim { stage: "prepare", inputs: folders };
    claim.folder(out)?;
    let shards = Shards::open(folders)?;
    let _lock = claim.take(out)?;
    let mut manifest = shards.manifest(out)?;
    let summary = shards.summary()?;
    let labels: Vec<String> = manifest.inputs.iter().map(|input| input.path.clone()).collect();
    prepare::require_rows(&summary, "", &labels, Shard::WHOLE)?;

    // All files are finished in the work folder first, so that an earlier prepared folder stays complete until then.
    let aside = out.join(prepare::WORK_FOLDER);
    artifact::remove(&aside)?;
    progress.begin("merge", None);
    for split in SPLITS {
        let (pairs, tokens) = (prepared::pairs(split), prepared::tokens(split));
        let frames: Vec<PathBuf> = shards.files(&pairs);
        let none = artifact::read_parquet(&frames[0])?.clear();
        let groups = frames.iter().map(row_groups).collect::<Result<Vec<_>>>()?;
        let rows = artifact::write_parquet_pieces(&aside.join(&pairs), &none, groups.into_iter().flatten(), &[])?;
        manifest.output(&aside, &pairs, Some(rows))?;
        let rows = token_file::write_files(aside.join(&tokens), &shards.files(&tokens))?;
        manifest.output(&aside, &tokens, Some(rows))?;
    }
    let mut rejected = shards.rejects()?;
    artifact::write_parquet(aside.join(prepared::REJECTS), &mut rejected)?;
    manifest.output(&aside, prepared::REJECTS, Some(rejected.height() as u64))?;
    shards.copy_tokenizer(&aside, &mut manifest)?;
    prepare::publish(&aside, out, manifest)?;
    artifact::remove(&aside)?;
    progress.end();
    Ok(PrepareSummary { out: out.display().to_string(), ..summary })
}

/// The rows of a Parquet file, one row group at a time.
fn row_groups(path: &PathBuf) -> Result<impl Iterator<Item = Result<DataFrame>>> {
    let open = move || -> Result<_> { Ok(ParquetReader::new(std::fs::File::open(path).map_err(Error::io(path))?)) };
    let sizes: Vec<usize> = open()?.get_metadata()?.row_groups.iter().map(|g| g.num_rows()).collect();
    let mut start = 0;
    Ok(sizes.into_iter().map(move |rows| {
        let slice = (start, rows);
        start += rows;
        Ok(open()?.with_slice(Some(slice)).finish()?)
    }))
}

/// All shards of one preparation, in order.
struct Shards {
    all: Vec<(PathBuf, Manifest)>,
}

impl Shards {
    fn open(folders: &[PathBuf]) -> Result<Shards> {
        let mut found: BTreeMap<u64, (PathBuf, Manifest)> = BTreeMap::new();
        let mut of = 0;
        for folder in folders {
            let manifest = Manifest::read(folder)?;
            let unfit = |what: String| Error::artifact(folder, what);
            let named = manifest.config.get("shard").and_then(Value::as_str).unwrap_or("").to_string();
            if manifest.stage != "prepare" || named.is_empty() {
                return Err(unfit("not a shard: it was not prepared with --shard I/N".into()));
            }
            if manifest.schema_version < SCHEMA_VERSION {
                let version = manifest.schema_version;
                return Err(unfit(format!("layout version {version}, not {SCHEMA_VERSION}; prepare all shards again")));
            }
            let (index, n) = Shard::parse(&named).map_err(|e| unfit(format!("shard in its manifest: {e}")))?.parts();
            if of != 0 && of != n {
                return Err(unfit(format!("shard {named}, but others are of {of}")));
            }
            of = n;
            manifest.outputs.iter().try_for_each(|file| manifest.verify(folder, &file.path))?;
            if let Some((other, first)) = found.values().next()
                && let Some(what) = difference(&manifest, first)
            {
                return Err(unfit(format!("does not belong to {}: {what}", other.display())));
            }
            if let Some((twice, _)) = found.insert(index, (folder.clone(), manifest)) {
                return Err(unfit(format!("shard {named} is in {} too", twice.display())));
            }
        }
        let missing: Vec<String> = (1..=of).filter(|i| !found.contains_key(i)).map(|i| format!("{i}/{of}")).collect();
        if folders.is_empty() || !missing.is_empty() {
            return Err(Error::config("", format!("shards are missing: {}", missing.join(", "))));
        }
        Ok(Shards { all: found.into_values().collect() })
    }

    fn first(&self) -> &Manifest {
        &self.all[0].1
    }

    /// One file of each shard.
    fn files(&self, name: &str) -> Vec<PathBuf> {
        self.all.iter().map(|(folder, _)| folder.join(name)).collect()
    }

    /// The manifest of the merged folder, without its outputs.
    fn manifest(&self, out: &Path) -> Result<Manifest> {
        let mut config = self.first().config.clone();
        config["shard"] = Value::from("");
        config["out"] = Value::from(out.display().to_string());
        let mut manifest = Manifest::begin("prepare", &config)?;
        manifest.config_hash = hash_json(&config)?;
        manifest.seeds.clone_from(&self.first().seeds);
        manifest.facts.clone_from(&self.first().facts);
        manifest.inputs = self.inputs();
        self.summary()?.record(&mut manifest)?;
        manifest.fact("merged_shards", self.all.len())?;
        Ok(manifest)
    }

    /// The input files with the rows of all shards.
    fn inputs(&self) -> Vec<InputFile> {
        let mut inputs = self.first().inputs.clone();
        for (_, manifest) in &self.all[1..] {
            for (file, other) in inputs.iter_mut().zip(&manifest.inputs) {
                file.rows_read += other.rows_read;
                file.rows_kept += other.rows_kept;
                prepare::add_all(&mut file.rows_rejected, other.rows_rejected.clone());
            }
        }
        inputs
    }

    fn summary(&self) -> Result<PrepareSummary> {
        let mut summary = PrepareSummary::default();
        for (_, manifest) in &self.all {
            summary.add(PrepareSummary::recorded(manifest)?);
        }
        summary.settle(&self.inputs());
        Ok(summary)
    }

    /// The rejected rows of all shards, sorted by file, in the order of the inputs, and line.
    fn rejects(&self) -> Result<DataFrame> {
        let names: Vec<String> = self.first().inputs.iter().map(|f| f.path.clone()).collect();
        let mut frames = Vec::new();
        for path in self.files(prepared::REJECTS) {
            let mut frame = artifact::read_parquet(&path)?;
            let index = |name: Option<&str>| names.iter().position(|n| Some(n.as_str()) == name).unwrap_or_default();
            let files: Vec<u32> = frame.column(col::FILE)?.str()?.iter().map(|name| index(name) as u32).collect();
            frame.with_column(UInt32Chunked::from_vec(col::FILE.into(), files).into_column())?;
            frames.push(frame);
        }
        rejects::table(frames, &names)
    }

    fn copy_tokenizer(&self, out: &Path, manifest: &mut Manifest) -> Result<()> {
        let (from, first) = &self.all[0];
        let prefix = format!("{}/", prepared::TOKENIZER);
        for file in first.outputs.iter().filter(|f| f.path.starts_with(&prefix)) {
            let path = from.join(&file.path);
            artifact::write_bytes(out.join(&file.path), &std::fs::read(&path).map_err(Error::io(&path))?)?;
            manifest.output(out, &file.path, None)?;
        }
        Ok(())
    }
}

/// The first difference by which two shards are not of one preparation, in words.
fn difference(a: &Manifest, b: &Manifest) -> Option<&'static str> {
    let settings = |m: &Manifest| {
        let mut config = m.config.clone();
        if let Some(config) = config.as_object_mut() {
            config.remove("shard");
            config.remove("out");
        }
        config
    };
    let files = |m: &Manifest| m.inputs.iter().map(|f| (f.path.clone(), f.blake3.clone())).collect::<Vec<_>>();
    let same = [
        ("another version", a.tool == b.tool),
        ("other settings", settings(a) == settings(b)),
        ("another seed", a.seeds == b.seeds),
        ("other inputs", files(a) == files(b)),
        ("other files beside the inputs", a.facts.get(fact::READ_BESIDE) == b.facts.get(fact::READ_BESIDE)),
        ("another tokenizer", a.facts.get(fact::TOKENIZER) == b.facts.get(fact::TOKENIZER)),
    ];
    same.into_iter().find(|(_, same)| !same).map(|(what, _)| what)
}
