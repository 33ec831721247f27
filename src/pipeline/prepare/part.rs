//! One bucket of clean pairs -> a finished part of the output: observed labels, tokens, and the counts of its rows.

use std::collections::{BTreeMap, HashSet};

use polars::prelude::*;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::blobs::{self, Blob};
use super::finished::FinishedBuckets;
use super::ledger::OTHER_TEMPLATE;
use super::plans::Plans;
use super::summary::{Counts, Totals};
use super::work::Work;
use crate::error::{Error, Result};
use crate::ingest::OnBadRow;
use crate::message::MessageColumn;
use crate::noise;
use crate::pairs::Finished;
use crate::rejects::{self, Reject, RowOrigins, SKIP_ADVICE};
use crate::schema::{PAIR_COLUMNS, SPLITS, col};
use crate::token_file::{self, TokenRow};
use crate::tokenize::{EncodeCounts, Encoded, ModelTokenizer, PairText, Refusal};

/// Makes the parts of all buckets.
pub struct PartMaker<'a> {
    pub finished: &'a FinishedBuckets<'a>,
    pub tokenizer: &'a ModelTokenizer,
    pub plans: &'a Plans,
}

/// A part on disk.
#[derive(Debug, Serialize, Deserialize)]
pub struct Part {
    /// By split, in the order of [`SPLITS`].
    pairs: [Blob; 2],
    tokens: [Blob; 2],
    rejects: Blob,
    pub counts: Counts,
}

impl Part {
    /// The part of a bucket, if it is finished.
    pub fn find(work: &Work, bucket: usize) -> Option<Part> {
        work.read(&name(bucket))
    }

    /// The pairs of a split, by its index in [`SPLITS`].
    pub fn pairs(&self, work: &Work, bucket: usize, split: usize) -> Result<DataFrame> {
        blobs::read_frame(&work.path(&name(bucket)), &self.pairs[split])
    }

    /// The packed tokens of a split.
    pub fn tokens(&self, work: &Work, bucket: usize, split: usize) -> Result<Vec<u8>> {
        blobs::read(&work.path(&name(bucket)), &self.tokens[split])
    }

    /// The rejected rows.
    pub fn rejects(&self, work: &Work, bucket: usize) -> Result<DataFrame> {
        blobs::read_frame(&work.path(&name(bucket)), &self.rejects)
    }
}

fn name(bucket: usize) -> String {
    format!("part-{bucket:03}")
}

impl PartMaker<'_> {
    /// Makes the part of a bucket and writes it into the work folder.
    ///
    /// # Errors
    /// [`crate::Error::Data`] where the chat template or the tokenizer refuses a row, unless such rows
    /// are skipped; [`crate::Error::Io`].
    pub fn make(&self, work: &Work, bucket: usize) -> Result<Part> {
        let FinishedBuckets { config, seed, .. } = *self.finished;
        let Finished { frame, mut drops, conflicts, conflict } = self.plans.clean(self.finished, bucket)?;
        let observed = noise::apply(frame, &config.noise, &self.plans.noise, seed)?;
        let Encoding { pairs, tokens, counts: encoding, refusal } = self.encode(observed, &mut drops)?;

        let totals = Totals { conflicts, encoding, ..self.totals(&pairs, &tokens)? };
        let mut counts = Counts { totals, conflict, refusal, ..Counts::default() };
        let rows = RowOrigins::open(&pairs)?;
        let kept: HashSet<(u32, u64)> = (0..pairs.height()).map(|i| rows.position(i)).collect();
        for (file, _) in &kept {
            counts.files.entry(*file).or_default().kept += 1;
        }
        // A row is rejected once, for the first of its pairs; the rest are counted as pairs.
        let mut told: HashSet<(u32, u64)> = HashSet::new();
        let mut rejected = Vec::new();
        for drop in drops {
            let row = (drop.file, drop.line);
            if kept.contains(&row) || !told.insert(row) {
                *counts.totals.pairs_dropped.entry(drop.reason.to_string()).or_default() += 1;
            } else {
                counts.reject(&drop);
                rejected.push(drop);
            }
        }
        self.write(work, bucket, &pairs, &tokens, &rejected, counts)
    }

    fn totals(&self, pairs: &DataFrame, tokens: &[TokenRow]) -> Result<Totals> {
        let mut totals = Totals::default();
        let (splits, sources) = (pairs.column(col::SPLIT)?.str()?, pairs.column(col::SOURCE)?.str()?);
        for (split, source) in splits.iter().zip(sources.iter()) {
            let split = totals.counts.entry(split.unwrap_or("").to_string()).or_default();
            *split.entry(source.unwrap_or("").to_string()).or_default() += 1;
        }
        totals.noise.add(pairs, &self.finished.config.noise)?;
        let sum = |get: fn(&TokenRow) -> usize| tokens.iter().map(get).sum::<usize>() as u64;
        totals.tokens = BTreeMap::from([
            (col::N_PROMPT.into(), sum(|t| t.prompt_ids.len())),
            (col::N_CHOSEN.into(), sum(|t| t.chosen_ids.len())),
            (col::N_REJECTED.into(), sum(|t| t.rejected_ids.len())),
        ]);
        totals.weighted = tokens.iter().filter(|t| t.weight.is_some()).count() as u64;
        totals.truncated = tokens.iter().filter(|t| t.truncated).count() as u64;
        Ok(totals)
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
            Ok((self.tokenizer.encode_pair_counted(&pair, &self.finished.config.tokenize, &mut seen)?, seen))
        };
        let encoded: Vec<(Encoded, EncodeCounts)> =
            (0..frame.height()).into_par_iter().map(encode).collect::<Result<_>>()?;
        let origins = RowOrigins::open(frame)?;
        let (prompt_ids, noise_kinds) = (frame.column(col::PROMPT_ID)?.str()?, frame.column(col::NOISE_KIND)?.str()?);
        let (chances, weights) = (frame.column(col::NOISE_P)?.f64()?, frame.column(col::WEIGHT)?.f64()?);
        let mut rows = Vec::with_capacity(encoded.len());
        let mut keep = Vec::with_capacity(encoded.len());
        let mut refused = Vec::new();
        for (i, (encoded, seen)) in encoded.into_iter().enumerate() {
            encoding.counts += seen;
            keep.push(matches!(encoded, Encoded::Row(_)));
            match encoded {
                Encoded::Row(row) => rows.push(TokenRow {
                    prompt_id: prompt_ids.get(i).unwrap_or("").into(),
                    noise_kind: noise_kinds.get(i).unwrap_or("").into(),
                    noise_p: chances.get(i).unwrap_or_default(),
                    weight: weights.get(i),
                    ..row
                }),
                Encoded::Dropped { reason, detail } => rejects.push(origins.reject(i, "", reason, detail)),
                Encoded::Refused(Refusal { reason, field, message, hint }) => {
                    let field = given(field, flipped.get(i).unwrap_or(false));
                    refused.push((origins.reject(i, field, reason, message), hint));
                }
            }
        }
        if let Some((first, hint)) = refused.iter().min_by_key(|(reject, _)| (reject.file, reject.line)) {
            let error = self.refusal(first, *hint, refused.len() == frame.height());
            if self.finished.config.ingest.on_bad_row == OnBadRow::Fail {
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

    /// A refused row as an error. Where all rows are refused, skipping them is not advised.
    fn refusal(&self, row: &Reject, hint: Option<&str>, all: bool) -> Error {
        let more = if all { None } else { Some(SKIP_ADVICE) };
        let advice: Vec<&str> = hint.or(all.then_some(OTHER_TEMPLATE)).into_iter().chain(more).collect();
        Error::Data {
            path: self.finished.labels.get(row.file as usize).map_or("", String::as_str).into(),
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
            // Token rows are in the order of the pairs, the training split first.
            packed.push(token_file::pack(&tokens[first..first + count])?);
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

/// The rows of a frame that belong to a split.
fn rows_of(frame: &DataFrame, split: &str) -> Result<Vec<IdxSize>> {
    let splits = frame.column(col::SPLIT)?.str()?;
    Ok((0..frame.height()).filter(|i| splits.get(*i) == Some(split)).map(|i| i as IdxSize).collect())
}

/// The input's name for a side of a pair, whose label may have been flipped.
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
    /// One of the refused rows with the reason, in words.
    refusal: String,
}
