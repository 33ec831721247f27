//! One bucket of clean pairs -> a finished part of the output: observed labels, tokens, and the
//! account of its rows.

use std::collections::{BTreeMap, HashSet};

use polars::prelude::*;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::blobs::{self, Blob};
use super::ledger;
use super::plans::{Clean, Plans};
use super::work::Work;
use super::{PrepareConfig, rows_of};
use crate::error::{Error, Result};
use crate::ingest::OnBadRow;
use crate::message::MessageColumn;
use crate::noise::{self, Ledger};
use crate::rejects::{self, Reject, SKIP_ADVICE};
use crate::schema::{PAIR_COLUMNS, SPLITS, col};
use crate::seed::Seed;
use crate::tokenize::store::{self, TokenRow};
use crate::tokenize::{EncodeCounts, Encoded, ModelTokenizer, PairText, Refusal};

/// What all parts are made with.
pub struct Workshop<'a> {
    /// Settings.
    pub config: &'a PrepareConfig,
    /// The run's seed.
    pub seed: Seed,
    /// Input files by index, for words.
    pub labels: &'a [String],
    /// The model's.
    pub tokenizer: &'a ModelTokenizer,
    /// What is known of all pairs.
    pub plans: &'a Plans,
}

/// Fate of one input file's rows in a part.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Fate {
    /// Rows of which at least one pair is in the output.
    pub kept: u64,
    /// Other rows, by reason.
    pub rejected: BTreeMap<String, u64>,
}

/// The numbers of a part, or of several.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// By index of the input file.
    pub files: BTreeMap<u32, Fate>,
    /// Pairs by split and source.
    pub pairs: BTreeMap<String, BTreeMap<String, u64>>,
    /// Pairs that were dropped beside the rejected rows, by reason.
    pub pairs_dropped: BTreeMap<String, u64>,
    /// Pairs that another one contradicts.
    pub conflicts: u64,
    /// One of the contradictions, in words.
    pub conflict: String,
    /// What the noise did.
    pub noise: Ledger,
    /// Tokens by column.
    pub tokens: BTreeMap<String, u64>,
    /// Pairs of which anything was cut.
    pub truncated: u64,
    /// What was cut and forced, by side.
    pub encoding: EncodeCounts,
    /// One of the rows that the chat template or the tokenizer refused, and why, in words.
    pub refusal: String,
}

impl Counts {
    /// Number of pairs.
    pub fn total(&self) -> u64 {
        self.pairs.values().flat_map(BTreeMap::values).sum()
    }

    /// Adds a rejected row.
    pub fn reject(&mut self, reject: &Reject) {
        let fate = self.files.entry(reject.file).or_default();
        *fate.rejected.entry(reject.reason.to_string()).or_default() += 1;
    }
}

fn add_all<K: Ord>(to: &mut BTreeMap<K, u64>, from: BTreeMap<K, u64>) {
    for (key, n) in from {
        *to.entry(key).or_default() += n;
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        for (file, fate) in other.files {
            let own = self.files.entry(file).or_default();
            own.kept += fate.kept;
            add_all(&mut own.rejected, fate.rejected);
        }
        for (split, sources) in other.pairs {
            add_all(self.pairs.entry(split).or_default(), sources);
        }
        add_all(&mut self.pairs_dropped, other.pairs_dropped);
        add_all(&mut self.tokens, other.tokens);
        self.conflicts += other.conflicts;
        if self.conflict.is_empty() {
            self.conflict = other.conflict;
        }
        if self.refusal.is_empty() {
            self.refusal = other.refusal;
        }
        self.noise.join(&other.noise);
        self.truncated += other.truncated;
        self.encoding += other.encoding;
    }
}

/// A part on disk.
#[derive(Debug, Serialize, Deserialize)]
pub struct Part {
    /// By split, in the order of [`SPLITS`].
    pairs: [Blob; 2],
    tokens: [Blob; 2],
    rejects: Blob,
    /// Its numbers.
    pub counts: Counts,
}

impl Part {
    /// The part of a bucket, if it is finished.
    pub fn find(work: &Work, bucket: usize) -> Option<Part> {
        work.read(&name(bucket))
    }

    /// The pairs of a split, by its index in [`SPLITS`].
    ///
    /// # Errors
    /// As [`blobs::read`].
    pub fn pairs(&self, work: &Work, bucket: usize, split: usize) -> Result<DataFrame> {
        blobs::read_frame(&work.path(&name(bucket)), &self.pairs[split])
    }

    /// The packed tokens of a split.
    ///
    /// # Errors
    /// As [`blobs::read`].
    pub fn tokens(&self, work: &Work, bucket: usize, split: usize) -> Result<Vec<u8>> {
        blobs::read(&work.path(&name(bucket)), &self.tokens[split])
    }

    /// The rejected rows.
    ///
    /// # Errors
    /// As [`blobs::read`].
    pub fn rejects(&self, work: &Work, bucket: usize) -> Result<DataFrame> {
        blobs::read_frame(&work.path(&name(bucket)), &self.rejects)
    }
}

fn name(bucket: usize) -> String {
    format!("part-{bucket:03}")
}

impl Workshop<'_> {
    /// Makes the part of a bucket and writes it into the work folder.
    ///
    /// # Errors
    /// [`crate::Error::Data`] where the chat template or the tokenizer refuses a row, unless such rows
    /// are skipped; [`crate::Error::Io`].
    pub fn make(&self, work: &Work, bucket: usize, frames: Vec<DataFrame>) -> Result<Part> {
        let clean = self.plans.clean(frames, self.config, self.seed, self.labels)?;
        let Clean { frame, mut drops, conflicts, conflict } = clean;
        let observed = noise::apply(frame, &self.config.noise, &self.plans.noise, self.seed)?;
        let Encoding { pairs, tokens, counts: encoding, refusal } = self.encode(observed, &mut drops)?;

        let mut counts = Counts { conflicts, conflict, encoding, refusal, ..self.count(&pairs, &tokens)? };
        let kept: HashSet<(u32, u64)> = places(&pairs)?.collect();
        for (file, _) in &kept {
            counts.files.entry(*file).or_default().kept += 1;
        }
        // A row is rejected once, for the first of its pairs; the rest are counted as pairs.
        let mut told: HashSet<(u32, u64)> = HashSet::new();
        let mut rejected = Vec::new();
        for drop in drops {
            let row = (drop.file, drop.line);
            if kept.contains(&row) || !told.insert(row) {
                *counts.pairs_dropped.entry(drop.reason.to_string()).or_default() += 1;
            } else {
                counts.reject(&drop);
                rejected.push(drop);
            }
        }
        self.write(work, bucket, &pairs, &tokens, &rejected, counts)
    }

    fn count(&self, pairs: &DataFrame, tokens: &[TokenRow]) -> Result<Counts> {
        let mut counts = Counts::default();
        let (splits, sources) = (pairs.column(col::SPLIT)?.str()?, pairs.column(col::SOURCE)?.str()?);
        for (split, source) in splits.iter().zip(sources.iter()) {
            let split = counts.pairs.entry(split.unwrap_or("").to_string()).or_default();
            *split.entry(source.unwrap_or("").to_string()).or_default() += 1;
        }
        counts.noise.add(pairs, &self.config.noise)?;
        let sum = |get: fn(&TokenRow) -> usize| tokens.iter().map(get).sum::<usize>() as u64;
        counts.tokens = BTreeMap::from([
            (col::N_PROMPT.into(), sum(|t| t.prompt_ids.len())),
            (col::N_CHOSEN.into(), sum(|t| t.chosen_ids.len())),
            (col::N_REJECTED.into(), sum(|t| t.rejected_ids.len())),
        ]);
        counts.truncated = tokens.iter().filter(|t| t.truncated).count() as u64;
        Ok(counts)
    }

    /// Encodes all pairs and keeps those that could be encoded, in the same order.
    fn encode(&self, frame: DataFrame, rejects: &mut Vec<Reject>) -> Result<Encoding> {
        let mut encoding = Encoding { pairs: frame, ..Encoding::default() };
        let frame = &encoding.pairs;
        if frame.height() == 0 {
            return Ok(encoding);
        }
        let messages = |name| MessageColumn::open(frame.column(name)?);
        let (prompts, chosen, rejected) = (messages(col::PROMPT)?, messages(col::CHOSEN)?, messages(col::REJECTED)?);
        let (ids, sources) = (frame.column(col::ID)?.str()?, frame.column(col::SOURCE)?.str()?);
        let flipped = frame.column(col::FLIPPED)?.bool()?;
        let encode = |i: usize| -> Result<(Encoded, EncodeCounts)> {
            let pair = PairText {
                id: ids.get(i).unwrap_or(""),
                prompt: &prompts.messages(i),
                chosen: &chosen.messages(i),
                rejected: &rejected.messages(i),
                flipped: flipped.get(i).unwrap_or(false),
                source: sources.get(i).unwrap_or(""),
            };
            let mut seen = EncodeCounts::default();
            Ok((self.tokenizer.encode_pair_counted(&pair, &self.config.tokenize, &mut seen)?, seen))
        };
        let encoded: Vec<(Encoded, EncodeCounts)> =
            (0..frame.height()).into_par_iter().map(encode).collect::<Result<_>>()?;
        let groups = frame.column(col::GROUP)?.u64()?;
        let mut rows = Vec::with_capacity(encoded.len());
        let mut keep = Vec::with_capacity(encoded.len());
        let mut refused = Vec::new();
        for (i, ((encoded, seen), (file, line))) in encoded.into_iter().zip(places(frame)?).enumerate() {
            encoding.counts += seen;
            keep.push(matches!(encoded, Encoded::Row(_)));
            let group = groups.get(i).unwrap_or_default();
            match encoded {
                Encoded::Row(row) => rows.push(row),
                Encoded::Dropped { reason, detail } => {
                    rejects.push(Reject { file, line, field: String::new(), reason, detail, group });
                }
                Encoded::Refused(Refusal { reason, field, message, hint }) => {
                    let field = given(field, flipped.get(i).unwrap_or(false)).to_string();
                    refused.push((Reject { file, line, field, reason, detail: message, group }, hint));
                }
            }
        }
        if let Some((first, hint)) = refused.iter().min_by_key(|(reject, _)| (reject.file, reject.line)) {
            let error = self.refusal(first, *hint, refused.len() == frame.height());
            if self.config.ingest.on_bad_row == OnBadRow::Fail {
                return Err(error);
            }
            encoding.refusal = error.to_string();
        }
        rejects.extend(refused.into_iter().map(|(reject, _)| reject));
        if rows.len() < frame.height() {
            encoding.pairs = frame.filter(&BooleanChunked::from_slice("keep".into(), &keep))?;
        }
        encoding.tokens = rows;
        Ok(encoding)
    }

    /// The error that a refused row is. Where all rows are refused, it is no use to skip them.
    fn refusal(&self, row: &Reject, hint: Option<&str>, all: bool) -> Error {
        let advice: Vec<&str> = match all {
            true => vec![hint.unwrap_or(ledger::OTHER_TEMPLATE)],
            false => hint.into_iter().chain([SKIP_ADVICE]).collect(),
        };
        Error::Data {
            path: self.labels.get(row.file as usize).map_or("", String::as_str).into(),
            line: Some(row.line),
            field: Some(row.field.clone()),
            message: row.detail.clone(),
            hint: Some(advice.join("; or ")),
        }
    }

    fn write(
        &self,
        work: &Work,
        bucket: usize,
        pairs: &DataFrame,
        tokens: &[TokenRow],
        rejected: &[Reject],
        counts: Counts,
    ) -> Result<Part> {
        let mut contents = Vec::with_capacity(5);
        let (mut packed, mut first) = (Vec::new(), 0);
        for split in SPLITS {
            let rows = rows_of(pairs, split)?;
            let count = rows.len();
            let frame = pairs.take(&IdxCa::from_vec("rows".into(), rows))?.select(PAIR_COLUMNS)?;
            contents.push(blobs::from_frame(&frame)?);
            // Tokens are in the order of the pairs: train first.
            packed.push(store::pack(&tokens[first..first + count])?);
            first += count;
        }
        contents.append(&mut packed);
        contents.push(blobs::from_frame(&rejects::to_frame(rejected)?)?);
        let mut written = blobs::write(&work.path(&name(bucket)), &contents)?.into_iter();
        let mut next = || written.next().ok_or_else(|| Error::run("a part was written in too few pieces"));
        let part = Part { pairs: [next()?, next()?], tokens: [next()?, next()?], rejects: next()?, counts };
        work.finish(&name(bucket), &part)?;
        Ok(part)
    }
}

/// File and line of each pair.
fn places(frame: &DataFrame) -> Result<impl Iterator<Item = (u32, u64)>> {
    let (files, lines) = (frame.column(col::FILE)?.u32()?, frame.column(col::LINE)?.u64()?);
    Ok(files.iter().zip(lines.iter()).map(|(f, l)| (f.unwrap_or_default(), l.unwrap_or_default())))
}

/// What a side of a pair was before its label was flipped.
pub(super) fn given(field: &'static str, flipped: bool) -> &'static str {
    match field {
        col::CHOSEN if flipped => col::REJECTED,
        col::REJECTED if flipped => col::CHOSEN,
        other => other,
    }
}

/// Pairs that could be encoded.
#[derive(Default)]
struct Encoding {
    pairs: DataFrame,
    /// In the order of the pairs.
    tokens: Vec<TokenRow>,
    counts: EncodeCounts,
    /// One of the refused rows, and why, in words.
    refusal: String,
}
