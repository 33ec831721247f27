//! Files -> clean pairs in the work folder.

use serde::{Deserialize, Serialize};

use super::corpus::Corpus;
use super::part::Counts;
use super::spill::{Buckets, Spill};
use super::work::Work;
use super::{PrepareConfig, Shard, inputs, stop_if_asked};
use crate::error::Result;
use crate::ingest::{self, Batch, Input, Position};
use crate::manifest::InputFile;
use crate::pairs::{self, PairRule, Unusable};
use crate::progress::Progress;
use crate::schema::col;
use crate::seed::Seed;

/// Step of the work folder: all files were read; holds their facts.
const FILES: &str = "files";
/// Step of the work folder: texts for a tokenizer of our own, as far as they were read.
const CORPUS: &str = "corpus";

/// What came out of reading.
pub struct Gathered<'a> {
    /// The pairs, and the rows that gave none.
    pub buckets: Buckets<'a>,
    /// Numbers of the rows that gave none.
    pub counts: Counts,
    /// The files, `rows_read` filled in.
    pub files: Vec<InputFile>,
    /// What was found on the way.
    pub findings: Findings,
    /// Texts for a tokenizer of our own.
    pub corpus: Corpus,
}

/// What was found while reading, beside pairs and rejects.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Findings {
    /// Completions that took no part.
    pub unusable: Unusable,
    /// Whether a row had scored completions.
    pub scored: bool,
}

impl std::ops::AddAssign<&Findings> for Findings {
    fn add_assign(&mut self, other: &Findings) {
        self.unusable += other.unusable;
        self.scored |= other.scored;
    }
}

/// What is remembered with a segment.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Reached {
    /// The last row that was taken in.
    position: Position,
    counts: Counts,
    findings: Findings,
}

/// Reads all files, from where an earlier run stopped.
///
/// # Errors
/// What reading and pairing return; [`crate::Error::Run`] where the user interrupts it.
pub fn gather<'a>(
    config: &PrepareConfig,
    inputs: &[Input],
    shard: Shard,
    own_tokenizer: bool,
    seed: Seed,
    work: &'a Work,
    progress: &dyn Progress,
) -> Result<Gathered<'a>> {
    let mut spill = Spill::<Reached>::open(work, shard);
    let corpus = work.read(CORPUS).unwrap_or_else(|| Corpus::new(own_tokenizer));
    let mut reader = Reader { config, inputs, shard, seed, work, corpus, now: Reached::default() };
    let files = match work.read::<Vec<InputFile>>(FILES) {
        Some(files) => files,
        None => {
            let from = spill.facts().next_back().map(|last| last.position);
            if from.is_some() {
                progress.note("going on where an earlier run stopped");
            }
            progress.begin("read and pair", None);
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

    let (mut counts, mut findings) = (Counts::default(), Findings::default());
    for reached in spill.facts() {
        counts += reached.counts.clone();
        findings += &reached.findings;
    }
    if !findings.scored && config.pairs.rule != PairRule::default() {
        progress.warn("pairs.rule has no effect: all rows are pairs already");
    }
    if !findings.scored && config.ingest.score != ingest::Score::default() {
        progress.warn("ingest.score has no effect: all rows are pairs already");
    }
    Ok(Gathered { buckets: spill.finish(), counts, files, findings, corpus: reader.corpus })
}

/// Takes in one batch after the other.
struct Reader<'a> {
    config: &'a PrepareConfig,
    inputs: &'a [Input],
    shard: Shard,
    seed: Seed,
    work: &'a Work,
    corpus: Corpus,
    /// Since the last segment.
    now: Reached,
}

impl Reader<'_> {
    fn take(&mut self, batch: Batch, spill: &mut Spill<'_, Reached>) -> Result<()> {
        self.now.position = batch.end();
        self.now.findings.scored |= batch.frame.column(col::COMPLETIONS).is_ok();
        let tagged = inputs::tagged(batch.frame, &self.config.source, &self.inputs[batch.file as usize].label)?;
        if self.corpus.is_wanted() && !self.shard.is_whole() {
            // Every shard trains the same tokenizer: on texts of all.
            self.corpus.add(&pairs::build(&tagged, &self.config.pairs, self.seed)?.frame, self.seed)?;
        }
        let built = pairs::build(&self.shard.part(tagged)?, &self.config.pairs, self.seed)?;
        if self.corpus.is_wanted() && self.shard.is_whole() {
            self.corpus.add(&built.frame, self.seed)?;
        }
        self.now.findings.unusable += built.unusable;
        for (reason, n) in built.dropped {
            *self.now.counts.pairs_dropped.entry(reason.to_string()).or_default() += n;
        }
        let unread = batch.rejects.into_iter().filter(|r| self.shard.holds(r.group));
        let rejects: Vec<_> = unread.chain(built.rejects).collect();
        rejects.iter().for_each(|r| self.now.counts.reject(r));
        if spill.add(built.frame, rejects) {
            self.flush(spill, false)?;
        }
        Ok(())
    }

    fn flush(&mut self, spill: &mut Spill<'_, Reached>, last: bool) -> Result<()> {
        // Before the segment: texts that are taken in twice are the same texts.
        self.work.finish(CORPUS, &self.corpus)?;
        spill.flush(std::mem::take(&mut self.now), last)
    }
}
