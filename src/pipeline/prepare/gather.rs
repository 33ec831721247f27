//! Files -> clean pairs in the work folder.

use std::collections::BTreeMap;

use polars::prelude::DataFrame;
use serde::{Deserialize, Serialize};

use super::Job;
use super::corpus::Corpus;
use super::spill::{Buckets, Spill};
use super::summary::{Counts, add_all};
use super::work::{Work, stop_if_asked};
use super::{beside, inputs};
use crate::artifact::FileDigest;
use crate::error::Result;
use crate::ingest::{self, Batch, OnWrongTens, Position, WrongTens};
use crate::manifest::InputFile;
use crate::pairs::{self, PairRule, Scored, Unsupported, Unusable};
use crate::pipeline::recipe::{PrepareConfig, Shard};
use crate::rejects::Reject;
use crate::seed::Seed;
use crate::select::contamination::{Found, Index, Overlap};
use crate::select::mix::Mix;
use crate::select::tags::{SourceCounts, Tagged, Tagger};

/// Step of the work folder: all files are read; its facts describe them.
const FILES: &str = "files";
/// Step of the work folder: texts on which a tokenizer is trained, as far as they were read.
const CORPUS: &str = "corpus";

/// Results of reading all files.
pub struct Gathered<'a> {
    /// The pairs, and the rejected rows.
    pub buckets: Buckets<'a>,
    /// Counts of the rejected rows.
    pub counts: Counts,
    /// The files, `rows_read` filled in.
    pub files: Vec<InputFile>,
    /// Other counts.
    pub findings: Findings,
    /// Texts on which a tokenizer is trained.
    pub corpus: Corpus,
    /// Overlap with each benchmark.
    pub contamination: Vec<Overlap>,
    /// Files that were read beside the inputs: joined sources and benchmarks.
    pub read_beside: Vec<FileDigest>,
}

/// Counts that are made while reading, beside pairs and rejects.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Findings {
    /// Completions that were not used.
    pub unusable: Unusable,
    /// Rows by the scores that they came with.
    pub scored: Scored,
    /// Where source tags came from.
    pub sources: SourceCounts,
    /// Questions of benchmarks.
    pub questions: Found,
    /// Rows by the layout that they were read as, of all that were read.
    pub layouts: BTreeMap<String, u64>,
    /// Scores of 10 that the ratings by aspect contradict, in all rows that were read.
    pub wrong_tens: WrongTens,
    /// Rows whose label an earlier preparation flipped, of all that were read.
    pub flipped_before: u64,
    /// Rows whose prompt is a dialogue in one text, split at its labels, of all that were read.
    pub dialogue_prompts: u64,
    /// Given pairs whose scores do not support their label.
    pub unsupported: Unsupported,
}

impl std::ops::AddAssign<&Findings> for Findings {
    fn add_assign(&mut self, other: &Findings) {
        self.unusable += other.unusable;
        self.scored += other.scored;
        self.sources += &other.sources;
        self.questions += &other.questions;
        add_all(&mut self.layouts, other.layouts.clone());
        self.wrong_tens += other.wrong_tens;
        self.flipped_before += other.flipped_before;
        self.dialogue_prompts += other.dialogue_prompts;
        self.unsupported += other.unsupported;
    }
}

/// What is stored with a segment.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct SegmentFacts {
    /// The last row that was read.
    end: Position,
    counts: Counts,
    findings: Findings,
}

/// Reads all files, from where an earlier run stopped.
///
/// # Errors
/// What reading and pairing return; [`crate::Error::Run`] where the user interrupts it.
pub fn gather<'a>(job: &Job<'a>, own_tokenizer: bool) -> Result<Gathered<'a>> {
    let Job { config, seed, shard, inputs, mix, work, progress } = *job;
    let (tagger, mut read_beside) = beside::tagger(&config.sources, &config.ingest, inputs, mix, progress)?;
    let index = beside::questions(&config.pairs, progress)?.map(|(index, files)| {
        read_beside.extend(files);
        index
    });
    let selection = Selection { tagger, mix, index: index.as_ref() };
    let mut spill = Spill::<SegmentFacts>::open(work, shard);
    let corpus = work.read(CORPUS).unwrap_or_else(|| Corpus::new(own_tokenizer));
    let mut reader = Reader { config, selection, shard, seed, work, corpus, now: SegmentFacts::default() };
    let files = match work.read::<Vec<InputFile>>(FILES) {
        Some(files) => files,
        None => {
            let from = spill.facts().next_back().map(|last| last.end);
            if from.is_some() {
                progress.note("going on where an earlier run stopped");
            }
            progress.begin("read and pair (bytes)", Some(inputs::bytes(inputs)));
            let files = ingest::read(inputs, &config.ingest, from, progress, &mut |batch| {
                reader.take(batch, &mut spill)?;
                stop_if_asked(progress)
            })?;
            reader.flush(&mut spill, true)?;
            work.finish(FILES, &files)?;
            progress.end();
            files
        }
    };

    let empty: Vec<&str> = files.iter().filter(|file| file.rows_read == 0).map(|file| file.path.as_str()).collect();
    if let Some(first) = empty.first() {
        let more = if empty.len() > 1 { format!(" and {} more", empty.len() - 1) } else { String::new() };
        progress.warn(&format!("no rows in {first}{more}"));
    }
    let (mut counts, mut findings) = (Counts::default(), Findings::default());
    for segment in spill.facts() {
        counts += segment.counts.clone();
        findings += &segment.findings;
    }
    if !findings.layouts.is_empty() {
        let layouts: Vec<String> = findings.layouts.iter().map(|(layout, n)| format!("{layout} {n}")).collect();
        progress.note(&format!("rows by layout: {}", layouts.join(", ")));
    }
    let given = findings.scored.completions == 0;
    if given && config.pairs.rule != PairRule::default() {
        progress.warn("--pairs has no effect: all rows are pairs already");
    }
    if given && config.ingest.score != ingest::Score::default() {
        progress.warn("prepare.ingest.score has no effect: all rows are pairs already");
    }
    let WrongTens { certain, suspicious } = findings.wrong_tens;
    if config.ingest.wrong_tens == OnWrongTens::Warn && certain + suspicious > 0 {
        progress.warn(&format!(
            "{certain} overall scores of 10 are 1 by their ratings, {suspicious} more are doubtful: \
             --set prepare.ingest.wrong_tens=repair mends them, keep says nothing"
        ));
    }
    if findings.flipped_before > 0 {
        progress.warn(&format!(
            "the labels of {} rows were flipped by an earlier preparation: they are taken as they are, as if they were clean; \
             prepare what that one was prepared from to keep the clean labels beside them",
            findings.flipped_before
        ));
    }
    if findings.dialogue_prompts > 0 {
        progress.note(&format!(
            "{} prompts are dialogues in one text: they are split into messages at Human: and Assistant:",
            findings.dialogue_prompts
        ));
    }
    findings.unsupported.warning().iter().for_each(|line| progress.warn(line));
    let contamination = index.as_ref().map(|index| index.overlaps(&findings.questions)).unwrap_or_default();
    let (buckets, corpus) = (spill.finish(), reader.corpus);
    Ok(Gathered { buckets, counts, files, findings, corpus, contamination, read_beside })
}

/// The steps that keep or reject single rows: tags, mix, decontamination.
struct Selection<'a> {
    tagger: Tagger,
    mix: &'a Mix,
    index: Option<&'a Index>,
}

impl Selection<'_> {
    /// The rows that are kept, with their tags, and the rejected ones.
    fn apply(&self, frame: DataFrame, findings: &mut Findings) -> Result<(DataFrame, Vec<Reject>)> {
        let Tagged { frame, mut rejects, counts } = self.tagger.apply(frame)?;
        findings.sources += &counts;
        let (mut frame, weighed) = self.mix.weigh(frame)?;
        rejects.extend(weighed);
        if let Some(index) = self.index {
            let checked = index.apply(frame)?;
            frame = checked.frame;
            rejects.extend(checked.rejects);
            findings.questions += &checked.found;
        }
        Ok((frame, rejects))
    }
}

/// Pairs one batch after the other and collects the facts of the segment.
struct Reader<'a> {
    config: &'a PrepareConfig,
    selection: Selection<'a>,
    shard: Shard,
    seed: Seed,
    work: &'a Work,
    corpus: Corpus,
    /// Since the last segment.
    now: SegmentFacts,
}

impl Reader<'_> {
    fn take(&mut self, batch: Batch, spill: &mut Spill<'_, SegmentFacts>) -> Result<()> {
        self.now.end = batch.end();
        add_all(&mut self.now.findings.layouts, batch.layout.map(|layout| (layout, batch.rows)).into_iter().collect());
        self.now.findings.wrong_tens += batch.wrong_tens;
        self.now.findings.flipped_before += batch.flipped_before;
        self.now.findings.dialogue_prompts += batch.dialogue_prompts;
        if self.corpus.is_wanted() && !self.shard.is_whole() {
            // Every shard trains the same tokenizer, on texts of all shards.
            let (all, _) = self.selection.apply(batch.frame.clone(), &mut Findings::default())?;
            self.corpus.add(&pairs::build(&all, &self.config.pairs, self.seed)?.frame, self.seed)?;
        }
        let (frame, rejects) = self.selection.apply(self.shard.rows(batch.frame)?, &mut self.now.findings)?;
        let built = pairs::build(&frame, &self.config.pairs, self.seed)?;
        if self.corpus.is_wanted() && self.shard.is_whole() {
            self.corpus.add(&built.frame, self.seed)?;
        }
        self.now.findings.unusable += built.unusable;
        self.now.findings.scored += built.scored;
        self.now.findings.unsupported += built.unsupported;
        for (reason, n) in built.dropped {
            *self.now.counts.totals.pairs_dropped.entry(reason.to_string()).or_default() += n;
        }
        let unread = batch.rejects.into_iter().filter(|r| self.shard.holds(r.group));
        let rejects: Vec<_> = unread.chain(rejects).chain(built.rejects).collect();
        rejects.iter().for_each(|r| self.now.counts.reject(r));
        if spill.add(built.frame, rejects) {
            self.flush(spill, false)?;
        }
        Ok(())
    }

    fn flush(&mut self, spill: &mut Spill<'_, SegmentFacts>, last: bool) -> Result<()> {
        // The corpus is written before the segment: after a kill in between, the same texts are added again, which
        // changes nothing.
        self.work.finish(CORPUS, &self.corpus)?;
        spill.flush(std::mem::take(&mut self.now), last)
    }
}
