//! `prepare`: files -> pairs -> observed labels -> tokens, in one folder.

use std::collections::BTreeMap;
use std::path::Path;

use polars::prelude::*;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Fault, Result};
use crate::ingest::{self, IngestConfig};
use crate::manifest::{InputFile, Manifest};
use crate::message::MessageColumn;
use crate::noise::{self, NoiseConfig};
use crate::pairs::{self, PairConfig, PairRule, Unusable};
use crate::progress::Progress;
use crate::rejects::Reject;
use crate::schema::col;
use crate::seed::Seed;
use crate::source::ModelSource;
use crate::tokenize::store::TokenRow;
use crate::tokenize::{Encoded, ModelTokenizer, PairText, TokenizeConfig};

mod corpus;
mod folder;
mod inputs;
mod ledger;
mod shard;

use corpus::Corpus;
pub use shard::Shard;

/// Everything `prepare` can be told.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct PrepareConfig {
    /// Files, folders or `hf://datasets/ORG/NAME[@rev]/file`; their order does not matter. Default: none.
    pub input: Vec<String>,
    /// Folder to write. Default: "" (must be given unless this is a dry run).
    pub out: String,
    /// MODEL whose tokenizer and chat template are used. Default: `tiny` (trained on the input's own texts).
    pub tokenizer: String,
    /// `I/N`: only the I-th of N parts of the prompts. Default: "" (all).
    pub shard: String,
    /// Whether to count and show only, and to write nothing. Default: false.
    pub dry_run: bool,
    /// Reading.
    pub ingest: IngestConfig,
    /// Pairing and splitting.
    pub pairs: PairConfig,
    /// Label noise.
    pub noise: NoiseConfig,
    /// Encoding.
    pub tokenize: TokenizeConfig,
}

impl Default for PrepareConfig {
    fn default() -> Self {
        PrepareConfig {
            input: Vec::new(),
            out: String::new(),
            tokenizer: "tiny".into(),
            shard: String::new(),
            dry_run: false,
            ingest: IngestConfig::default(),
            pairs: PairConfig::default(),
            noise: NoiseConfig::default(),
            tokenize: TokenizeConfig::default(),
        }
    }
}

impl PrepareConfig {
    /// All that is wrong with these settings, keys under `prefix` (`prepare.`).
    pub fn faults(&self, prefix: &str) -> Vec<Fault> {
        let fault =
            |key: &str, message: String| Fault { origin: String::new(), key: format!("{prefix}{key}"), message };
        let mut faults = Vec::new();
        if self.input.is_empty() {
            faults.push(fault("input", "no input; pass --input PATH".into()));
        }
        if self.out.is_empty() && !self.dry_run {
            faults.push(fault("out", "no folder to write; pass --out DIR".into()));
        }
        match Shard::parse(&self.shard) {
            Err(message) => faults.push(fault("shard", message)),
            Ok(shard) if !shard.is_whole() && self.noise.is_global() => {
                let kind = self.noise.flip_kind.name();
                let way = if self.noise.flip_kind.selects() { "" } else { "; set noise.calibrate = false" };
                faults.push(fault("shard", format!("flip_kind = {kind} needs all pairs at once{way}")));
            }
            Ok(_) => {}
        }
        faults.extend(self.ingest.faults(&format!("{prefix}ingest.")));
        faults.extend(self.pairs.faults(&format!("{prefix}pairs.")));
        faults.extend(self.noise.faults(&format!("{prefix}noise.")));
        if let Err(Error::Config(found)) = self.tokenize.check() {
            faults.extend(found.into_iter().map(|f| Fault { key: format!("{prefix}{}", f.key), ..f }));
        }
        faults
    }
}

/// What `prepare` did, in numbers.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PrepareSummary {
    /// The folder written; empty for a dry run.
    pub out: String,
    /// Rows read (of this shard).
    pub rows_read: u64,
    /// Rows that became pairs.
    pub rows_kept: u64,
    /// Rows that did not, by reason; `rows_read = rows_kept + sum(rejects)`.
    pub rejects: BTreeMap<String, u64>,
    /// Completions that took no part in choosing.
    pub unusable_completions: Unusable,
    /// Pairs by split and source.
    pub counts: BTreeMap<String, BTreeMap<String, u64>>,
    /// Pairs whose label was flipped.
    pub flipped: u64,
    /// Share of the pairs whose label was flipped.
    pub realised_flip_rate: f64,
    /// Tokens by column: `n_prompt`, `n_chosen`, `n_rejected`.
    pub tokens: BTreeMap<String, u64>,
    /// Pairs of which anything was cut.
    pub truncated: u64,
    /// One pair as it is written (dry run only).
    pub example: serde_json::Value,
}

/// Runs the whole of `prepare`. Everything is computed before anything is written; the manifest is
/// written last and an earlier one is removed first, so that a folder with a manifest is complete.
///
/// # Errors
/// [`Error::Config`] with all faults of the settings; [`Error::Data`] where the input cannot be used;
/// [`Error::Model`] where the tokenizer cannot; [`Error::Run`] where another process writes the folder.
pub fn run(config: &PrepareConfig, seed: Seed, progress: &dyn Progress) -> Result<PrepareSummary> {
    let faults = config.faults("prepare.");
    if !faults.is_empty() {
        return Err(Error::Config(faults));
    }
    let mut manifest = Manifest::begin("prepare", config)?;
    let shard = Shard::parse(&config.shard).map_err(|e| Error::config("prepare.shard", e))?;
    let inputs = inputs::resolve(&config.input)?;
    let labels: Vec<String> = inputs.iter().map(|i| i.label.display().to_string()).collect();

    // A model that cannot be had is told before the work begins.
    let source = ModelSource::resolve(&config.tokenizer)?;
    let (own, loaded) = match &source {
        ModelSource::Tiny { .. } => (true, None),
        source => (false, Some(ModelTokenizer::load(source, &config.tokenize)?)),
    };

    // 1. Files -> clean pairs, split by prompt, without duplicates, in their final order.
    let Gathered { frames, mut rejects, files, unusable, corpus } =
        gather(config, &inputs, shard, own, seed, progress)?;
    let pairs::Finished { frame: clean, drops, conflicts, conflict } =
        pairs::finish(frames, &config.pairs, seed, &labels)?;
    rejects.extend(drops);
    if conflicts > 0 {
        progress.warn(&format!("{conflicts} pairs contradict another pair of the same prompt, for example {conflict}"));
    }

    // 2. Clean pairs -> observed labels.
    let mut survey = noise::Survey::new(&config.noise, seed);
    survey.add(&clean)?;
    let plan = survey.finish()?;
    let observed = noise::apply(clean, &config.noise, &plan, seed)?;

    // 3. Observed pairs -> tokens; pairs that cannot be encoded go to the rejects.
    let tokenizer = match loaded {
        Some(tokenizer) => tokenizer,
        None => ModelTokenizer::train_tiny(corpus.texts(), config.tokenize.vocab_size)?,
    };
    let (pairs, tokens) = encode(observed, &tokenizer, &config.tokenize, &mut rejects, progress)?;

    let mut noise_ledger = noise::Ledger::default();
    noise_ledger.add(&pairs, &config.noise)?;
    noise_ledger.warnings(&config.noise, &plan).iter().for_each(|line| progress.warn(line));

    // 4. Every row is accounted for.
    let files = ledger::settle(files, &pairs, &rejects, shard)?;
    let mut summary = ledger::summarize(&files, &pairs, &tokens)?;
    summary.unusable_completions = unusable;
    ledger::require_rows(&summary, &labels, shard)?;
    if config.dry_run {
        summary.example = folder::example(&pairs, &tokens)?;
        return Ok(summary);
    }

    // 5. The folder, its manifest last.
    summary.out.clone_from(&config.out);
    manifest.inputs = files;
    manifest.seeds = [("run".into(), seed.0), ("noise".into(), config.noise.seed_of(seed).0)].into();
    manifest.fact("tokenizer", tokenizer.facts())?;
    manifest.fact("noise", &noise_ledger)?;
    manifest.fact("noise_plan", &plan)?;
    let contents = folder::Contents { pairs, tokens, rejects: crate::rejects::to_frame(&rejects, &labels)? };
    progress.begin("write", None);
    folder::write(Path::new(&config.out), contents, &tokenizer, manifest, &summary)?;
    progress.end();
    Ok(summary)
}

/// What came out of reading and pairing.
struct Gathered {
    frames: Vec<DataFrame>,
    rejects: Vec<Reject>,
    files: Vec<InputFile>,
    unusable: Unusable,
    corpus: Corpus,
}

fn gather(
    config: &PrepareConfig,
    inputs: &[ingest::Input],
    shard: Shard,
    own_tokenizer: bool,
    seed: Seed,
    progress: &dyn Progress,
) -> Result<Gathered> {
    let mut corpus = Corpus::new(own_tokenizer);
    let (mut frames, mut rejects, mut unusable) = (Vec::new(), Vec::new(), Unusable::default());
    let mut scored = false;
    progress.begin("read and pair", None);
    let files = ingest::read(inputs, &config.ingest, progress, &mut |batch| {
        scored |= batch.frame.column(col::COMPLETIONS).is_ok();
        let built = pairs::build(&batch.frame, &config.pairs, seed)?;
        corpus.add(&built.frame, seed)?;
        frames.push(shard.part(built.frame)?);
        rejects.extend(batch.rejects.into_iter().chain(built.rejects).filter(|r| shard.holds(r.group)));
        unusable += built.unusable;
        Ok(())
    })?;
    progress.end();
    if !scored && config.pairs.rule != PairRule::default() {
        progress.warn("pairs.rule has no effect: all rows are pairs already");
    }
    if !scored && config.ingest.score != ingest::Score::default() {
        progress.warn("ingest.score has no effect: all rows are pairs already");
    }
    Ok(Gathered { frames, rejects, files, unusable, corpus })
}

/// Encodes all pairs and keeps those that could be encoded, in the same order.
fn encode(
    frame: DataFrame,
    tokenizer: &ModelTokenizer,
    config: &TokenizeConfig,
    rejects: &mut Vec<Reject>,
    progress: &dyn Progress,
) -> Result<(DataFrame, Vec<TokenRow>)> {
    if frame.height() == 0 {
        return Ok((frame, Vec::new()));
    }
    let messages = |name| MessageColumn::open(frame.column(name)?);
    let (prompts, chosen, rejected) = (messages(col::PROMPT)?, messages(col::CHOSEN)?, messages(col::REJECTED)?);
    let (ids, sources) = (frame.column(col::ID)?.str()?, frame.column(col::SOURCE)?.str()?);
    let flipped = frame.column(col::FLIPPED)?.bool()?;
    progress.begin("tokenize", Some(frame.height() as u64));
    let encode = |i: usize| {
        let pair = PairText {
            id: ids.get(i).unwrap_or(""),
            prompt: &prompts.messages(i),
            chosen: &chosen.messages(i),
            rejected: &rejected.messages(i),
            flipped: flipped.get(i).unwrap_or(false),
            source: sources.get(i).unwrap_or(""),
        };
        let encoded = tokenizer.encode_pair(&pair, config);
        progress.advance(1);
        encoded
    };
    let encoded: Vec<Encoded> = (0..frame.height()).into_par_iter().map(encode).collect::<Result<_>>()?;
    progress.end();

    let (files, lines) = (frame.column(col::FILE)?.u32()?, frame.column(col::LINE)?.u64()?);
    let groups = frame.column(col::GROUP)?.u64()?;
    let mut rows = Vec::with_capacity(encoded.len());
    let mut keep = Vec::with_capacity(encoded.len());
    for (i, encoded) in encoded.into_iter().enumerate() {
        keep.push(matches!(encoded, Encoded::Row(_)));
        match encoded {
            Encoded::Row(row) => rows.push(row),
            Encoded::Dropped { reason, detail } => rejects.push(Reject {
                file: files.get(i).unwrap_or_default(),
                line: lines.get(i).unwrap_or_default(),
                field: String::new(),
                reason,
                detail,
                group: groups.get(i).unwrap_or_default(),
            }),
        }
    }
    let kept = match rows.len() == frame.height() {
        true => frame,
        false => frame.filter(&BooleanChunked::from_slice("keep".into(), &keep))?,
    };
    Ok((kept, rows))
}

/// The rows of a frame that belong to a split.
fn rows_of(frame: &DataFrame, split: &str) -> Result<Vec<IdxSize>> {
    let splits = frame.column(col::SPLIT)?.str()?;
    Ok((0..frame.height()).filter(|i| splits.get(*i) == Some(split)).map(|i| i as IdxSize).collect())
}

#[cfg(test)]
mod tests;
