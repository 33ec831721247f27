//! `prepare`: files -> pairs -> observed labels -> tokens, in one folder.

use std::path::Path;

use rayon::prelude::*;

use crate::artifact;
use crate::error::{Error, Fault, Result};
use crate::ingest::Input;
use crate::manifest::Manifest;
use crate::pairs::Splits;
use crate::pipeline::recipe::{PrepareConfig, Shard};
use crate::progress::Progress;
use crate::schema::{SPLITS, fact};
use crate::seed::Seed;
use crate::select::mix::Mix;
use crate::settings::{Settings, refuse};
use crate::source::ModelSource;
use crate::tokenize::ModelTokenizer;

mod assemble;
mod beside;
mod blobs;
mod corpus;
mod finished;
mod gather;
pub(super) mod inputs;
mod launching;
mod ledger;
mod part;
mod places;
mod plans;
mod spill;
mod summary;
mod work;

use assemble::Parts;
pub use assemble::publish;
use finished::FinishedBuckets;
use gather::Gathered;
pub use launching::launch;
pub(super) use ledger::{accounted, require_rows};
use part::{Part, PartMaker};
pub(super) use places::places;
use plans::Plans;
use summary::Counts;
pub use summary::PrepareSummary;
pub(super) use summary::add_all;
pub use work::FOLDER as WORK_FOLDER;
use work::{Key, Work, stop_if_asked};

/// Runs the whole of `prepare`, in memory that does not grow with the input. Finished steps are
/// kept in the folder's `.work` until the end, so that a run that was killed resumes from there when
/// it is started again. An earlier folder stays as it is until all is computed; then its manifest is
/// removed first and the new one written last, so that a folder with a manifest is complete.
///
/// # Errors
/// [`Error::Config`] with all faults of the settings; [`Error::Data`] where the input cannot be used;
/// [`Error::Model`] where the tokenizer cannot; [`Error::Run`] where another process writes the folder
/// or the user interrupts the work.
pub fn run(config: &PrepareConfig, seed: Seed, progress: &dyn Progress) -> Result<PrepareSummary> {
    config.check()?;
    let manifest = Manifest::begin("prepare", config)?;
    let shard = Shard::parse(&config.shard).map_err(|e| Error::config("prepare.shard", e))?;
    let mut inputs = inputs::resolve(&config.input, progress)?;
    if config.pairs.splits == Splits::Files
        && let Some(note) = inputs::declare_splits(&mut inputs)
    {
        progress.note(&note);
    }
    let mix = Mix::resolve(&config.mix, &inputs::labels(&inputs), seed)?;
    for (file, input) in (0..).zip(&mut inputs) {
        input.format = mix.format_of(file);
    }
    // Joined sources and benchmarks also decide which rows are kept.
    let beside = inputs::beside(config, progress)?;
    let read = inputs::read_by(config, &inputs, &beside);
    let claim = artifact::Claim { stage: "prepare", inputs: &read };
    let out = Path::new(&config.out);
    if !config.dry_run {
        claim.folder(out)?;
    }

    // The tokenizer is loaded before the work begins, so that an error comes early.
    let loaded = match ModelSource::tokenizer(&config.tokenizer, progress)? {
        ModelSource::Tiny { .. } => None,
        source => Some(ModelTokenizer::load(&source, &config.tokenize)?),
    };
    if config.dry_run {
        let job = Job { config, seed, shard, inputs: &inputs, mix: &mix, work: &Work::temporary()?, progress };
        return job.run(loaded, manifest);
    }
    let existed = out.exists();
    let _lock = claim.take(out)?;
    let known = loaded.as_ref().map_or(serde_json::Value::Null, ModelTokenizer::facts);
    let work = Work::open(out, &Key::of(config, seed.0, known, &[&inputs[..], &beside].concat())?)?;
    let job = Job { config, seed, shard, inputs: &inputs, mix: &mix, work: &work, progress };
    let done = job.run(loaded, manifest);
    match &done {
        Ok(_) => work.clear()?,
        // The input or the settings have to change, and finished work could not be used then.
        Err(Error::Data { .. } | Error::Config(_) | Error::Model { .. }) => {
            work.clear()?;
            if !existed {
                artifact::remove(out)?;
            }
        }
        Err(_) => {}
    }
    done
}

/// What all steps of a preparation share.
struct Job<'a> {
    config: &'a PrepareConfig,
    seed: Seed,
    /// The part of the prompts that is prepared.
    shard: Shard,
    /// The files, in order.
    inputs: &'a [Input],
    /// How much of each file is taken.
    mix: &'a Mix,
    /// The work folder, with the steps that are finished.
    work: &'a Work,
    progress: &'a dyn Progress,
}

impl Job<'_> {
    fn run(&self, loaded: Option<ModelTokenizer>, mut manifest: Manifest) -> Result<PrepareSummary> {
        let (config, progress) = (self.config, self.progress);
        let labels = inputs::labels(self.inputs);

        // 1. Files -> clean pairs on disk, in buckets by prompt.
        let Gathered { buckets, mut counts, files, findings, corpus, contamination, read_beside } =
            gather::gather(self, loaded.is_none())?;
        let tokenizer = match loaded {
            Some(tokenizer) => tokenizer,
            None => ModelTokenizer::train_tiny(corpus.texts(), config.tokenize.vocab_size)?,
        };
        drop(corpus);
        let scored = findings.scored;
        self.refuse([config.pairs.idle_on(scored), findings.sources.faults(&config.sources)].concat())?;

        // 2. All buckets -> plans: near duplicates, caps and noise that depend on all pairs.
        let keep = config.pairs.near_duplicates > 0.0 || self.mix.survey().is_some() || config.noise.needs_survey();
        let (buckets, labels, seed, work) = (&buckets, &labels, self.seed, self.work);
        let finished = FinishedBuckets { buckets, work, config, seed, labels, keep };
        let plans = Plans::survey(&finished, self.mix, progress)?;

        // 3. Each bucket -> observed labels and tokens, as a part on disk.
        let parts = self.make_parts(&PartMaker { finished: &finished, tokenizer: &tokenizer, plans: &plans })?;
        parts.iter().flatten().for_each(|part| counts += part.counts.clone());
        self.warn(&counts, &plans, &tokenizer);
        config.pairs.warnings(scored).iter().for_each(|line| progress.warn(line));
        self.refuse(counts.totals.noise.faults(&config.noise))?;

        // 4. Every row is accounted for.
        let files = ledger::settle(files, &counts, self.shard)?;
        findings.sources.warnings(&config.sources).iter().for_each(|line| progress.warn(line));
        let mut summary = PrepareSummary {
            totals: counts.totals,
            unusable_completions: findings.unusable,
            layouts: findings.layouts,
            wrong_tens: findings.wrong_tens,
            flipped_before: findings.flipped_before,
            dialogue_prompts: findings.dialogue_prompts,
            unsupported: findings.unsupported,
            sources: findings.sources,
            contamination,
            near_duplicates: plans.near.as_ref().map(|plan| plan.facts),
            ..PrepareSummary::default()
        };
        summary.settle(&files);
        require_rows(&summary, &counts.refusal, labels, self.shard)?;
        let parts = Parts { work: self.work, parts };
        if config.dry_run {
            summary.example = parts.example()?;
            return Ok(summary);
        }

        // 5. Parts -> the folder, its manifest last.
        progress.begin("write", None);
        summary.out.clone_from(&config.out);
        manifest.inputs = files;
        manifest.seeds = [("run".into(), self.seed.0), ("noise".into(), config.noise.seed_of(self.seed).0)].into();
        manifest.fact(fact::TOKENIZER, tokenizer.facts())?;
        manifest.fact("noise_plan", &plans.noise)?;
        manifest.fact(fact::READ_BESIDE, read_beside)?;
        let rejects: Vec<_> = buckets.rejects()?.into_iter().chain(parts.rejects()?).collect();
        let rejects = crate::rejects::table(rejects, labels)?;
        assemble::write(Path::new(&config.out), &parts, rejects, &tokenizer, manifest, &summary)?;
        progress.end();
        Ok(summary)
    }

    /// Refuses settings that had no effect on the data. In a shard they are a warning, since other shards may have rows
    /// for them.
    fn refuse(&self, idle: Vec<Fault>) -> Result<()> {
        if self.shard.is_whole() {
            return refuse(idle);
        }
        idle.iter().for_each(|fault| self.progress.warn(&format!("in this shard: {fault}")));
        Ok(())
    }

    fn warn(&self, counts: &Counts, plans: &Plans, tokenizer: &ModelTokenizer) {
        let idle = self.config.noise.switched_off();
        if !idle.is_empty() {
            let verb = if idle.len() == 1 { "has" } else { "have" };
            self.progress.warn(&format!("{} {verb} no effect: --flip-rate is 0", idle.join(", ")));
        }
        let (share, pairs) = (self.config.pairs.test_fraction, counts.totals.pairs());
        for (split, wanted) in SPLITS.iter().zip([share < 1.0, share > 0.0]) {
            let none = counts.totals.counts.get(*split).is_none_or(|sources| sources.values().sum::<u64>() == 0);
            if wanted && none && pairs > 0 && self.shard.is_whole() {
                self.progress
                    .warn(&format!("none of the {pairs} pairs is in the {split} split (--test-fraction {share})"));
            }
        }
        if counts.totals.conflicts > 0 {
            let (n, example) = (counts.totals.conflicts, &counts.conflict);
            self.progress.warn(&format!("{n} pairs contradict another pair of the same prompt, for example {example}"));
        }
        let (cut, pairs) = (counts.totals.encoding.prompts_cut, counts.totals.pairs());
        if cut * 2 > pairs {
            let (percent, most) = (100.0 * cut as f64 / pairs as f64, self.config.tokenize.max_prompt_length);
            self.progress.warn(&format!(
                "the prompts of {cut} of {pairs} pairs ({percent:.1} %) are longer than {most} tokens and lose their \
                 beginning: --max-prompt-length sets how long they may be, --max-length how long prompt and response"
            ));
        }
        let marked = counts.totals.encoding.marks_inside;
        if marked > 0 {
            self.progress.warn(&format!(
                "{marked} of {pairs} pairs have a message with {} in its text, which the model reads as its own token: \
                 text that was rendered by a chat template is to be given as messages",
                tokenizer.marks().join(" or ")
            ));
        }
        let changed = counts.totals.encoding.texts_changed;
        if changed > 0 {
            self.progress.warn(&format!(
                "{changed} of {pairs} pairs have a message that the chat template writes otherwise than it is, or in part"
            ));
        }
        let found = counts.totals.noise.warnings(&self.config.noise, &plans.noise);
        found.iter().for_each(|line| self.progress.warn(line));
    }

    /// The parts of all buckets, including those that an earlier run finished; none for a bucket
    /// without pairs.
    fn make_parts(&self, maker: &PartMaker<'_>) -> Result<Vec<Option<Part>>> {
        let buckets = maker.finished.buckets;
        let mut parts = Vec::with_capacity(buckets.len());
        self.progress.begin("tokenize", Some(buckets.rows()));
        for wave in buckets.waves() {
            let make = |bucket: usize| -> Result<Option<Part>> {
                if buckets.rows_of(bucket).is_none() {
                    return Ok(None);
                }
                let part = match Part::find(self.work, bucket) {
                    Some(part) => part,
                    None => maker.make(self.work, bucket)?,
                };
                self.progress.advance(buckets.rows_of(bucket).unwrap_or_default());
                Ok(Some(part))
            };
            // Errors are returned in the order of the buckets, not of the threads.
            let made: Vec<Result<Option<Part>>> = wave.into_par_iter().map(make).collect();
            for part in made {
                parts.push(part?);
            }
            stop_if_asked(self.progress)?;
        }
        self.progress.end();
        Ok(parts)
    }
}

#[cfg(test)]
mod tests;
