//! The flags of each command, and the keys that they set.
//!
//! Values are checked where the recipe is resolved, so that flags, `--set` and
//! files are judged alike and all faults appear at once.

#![allow(rustdoc::broken_intra_doc_links, reason = "doc comments are help texts: [FLIP] is no link")]

use std::path::PathBuf;

use clap::Args;

use super::flags::Flags;

/// Flags of `demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// Folder for everything [default: runs/demo]
    #[arg(long, value_name = "DIR")]
    out: Option<String>,
}

impl Demo {
    /// Sets the keys of the given flags.
    pub fn fill(&self, flags: &mut Flags) {
        flags.put("demo.out", "--out", self.out.clone());
    }
}

/// Flags of `synth`.
#[derive(Debug, Args)]
pub struct Synth {
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    out: Option<String>,
    /// Prompts
    #[arg(long, value_name = "N")]
    rows: Option<usize>,
    /// Planted style factors, 2 to 8; over real texts the traits that decide, 1 to 10
    #[arg(long, value_name = "F")]
    factors: Option<usize>,
    /// Plants over the real prompts and responses of these files, folders or hub addresses
    #[arg(long, value_name = "PATH", num_args = 1..)]
    over: Vec<String>,
    /// Over real texts: what decides, of length, lists, hedges, address, figures, first-person, markup, sentences,
    /// exclamations, questions; or aspects (all that are rated), or helpfulness, honesty, instruction-following,
    /// truthfulness
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    traits: Vec<String>,
    /// Over real texts: their layout, as for prepare
    #[arg(long, value_name = "NAME")]
    format: Option<String>,
    /// Over real texts: columns under other names than a layout has, as for prepare
    #[arg(long, value_name = "TARGET=COLUMN", num_args = 1..)]
    columns: Vec<String>,
    /// Over real texts: what to do with a row that cannot be read: fail or skip
    #[arg(long, value_name = "fail|skip")]
    on_bad_row: Option<String>,
}

impl Synth {
    /// Sets the keys of the given flags.
    pub fn fill(&self, flags: &mut Flags) {
        flags.put("synth.out", "--out", self.out.clone());
        flags.put("synth.rows", "--rows", self.rows);
        flags.put("synth.factors", "--factors", self.factors);
        let list = |items: &Vec<String>| (!items.is_empty()).then(|| items.clone());
        flags.put("synth.over", "--over", list(&self.over));
        flags.put("synth.traits", "--traits", list(&self.traits));
        flags.put("synth.format", "--format", self.format.clone());
        flags.put("synth.columns", "--columns", list(&self.columns));
        flags.put("synth.on_bad_row", "--on-bad-row", self.on_bad_row.clone());
    }
}

/// Flags of `prepare`.
#[derive(Debug, Args)]
pub struct Prepare {
    /// Files, folders, or hf://datasets/ORG/NAME[@rev]/file
    #[arg(long, value_name = "PATH", num_args = 1..)]
    input: Vec<String>,
    /// Layout: auto, ultrafeedback, binarized, argilla, trl, hh-rlhf, helpsteer2, helpsteer3, mixture
    /// (tulu3, skywork), orca, alpaca, sharegpt, nemo-rl
    #[arg(long, value_name = "NAME")]
    format: Option<String>,
    /// Columns under other names than a layout has: prompt=question chosen=answers.good
    #[arg(long, value_name = "TARGET=COLUMN", num_args = 1..)]
    columns: Vec<String>,
    /// Keys of messages, and columns, that are left unread although they may be part of what was said
    #[arg(long, value_name = "KEY", num_args = 1..)]
    ignore_keys: Vec<String>,
    /// How much of an input goes in: 'PATTERN: weight=0.5, cap=1000, source=TAG, format=NAME' (repeatable)
    #[arg(long, value_name = "ENTRY")]
    mix: Vec<String>,
    /// Source tag for all rows
    #[arg(long, value_name = "TAG")]
    source: Option<String>,
    /// Source tag by rule: TAG=prefix:TEXT, TAG=contains:TEXT or TAG=file:GLOB (repeatable)
    #[arg(long, value_name = "RULE")]
    source_rule: Vec<String>,
    /// Datasets whose rows have prompt and source, for rows without a source
    #[arg(long, value_name = "PATH", num_args = 1..)]
    join_source: Vec<String>,
    /// Keeps a source that is left out by default, because it is used for evaluation (repeatable)
    #[arg(long, value_name = "TAG")]
    keep_source: Vec<String>,
    /// Benchmark files whose questions must not be in the data
    #[arg(long, value_name = "FILE", num_args = 1..)]
    decontaminate: Vec<String>,
    /// Of prompts that are at least so similar only one stays: 0.5 to 1, or 0 for off
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    near_duplicates: Option<f64>,
    /// Model whose tokenizer and chat template are used: folder, .gguf, hub id, or tiny
    #[arg(long, value_name = "MODEL")]
    tokenizer: Option<String>,
    /// Chat template: auto, chatml, llama3, mistral, zephyr, or a .jinja file
    #[arg(long, value_name = "NAME")]
    template: Option<String>,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    out: Option<String>,
    /// Pair rule: best-vs-random, best-vs-worst, best-vs-each, all-pairs
    #[arg(long, value_name = "RULE")]
    pairs: Option<String>,
    /// Least difference of the two scores
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    min_margin: Option<f64>,
    /// Most pairs of one prompt; 0 for all
    #[arg(long, value_name = "N")]
    max_per_prompt: Option<usize>,
    /// Share of labels to flip, 0 to 1
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    flip_rate: Option<f64>,
    /// Noise model: uniform, margin, length, source, annotator, column, ambiguous, weak-quality
    #[arg(long, value_name = "KIND")]
    flip_kind: Option<String>,
    /// Temperature of the kinds margin (score units) and length (log ratio)
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    flip_temperature: Option<f64>,
    /// Text appended to the prompts of flipped rows (the paper: [FLIP])
    #[arg(long, value_name = "TEXT")]
    flip_marker: Option<String>,
    /// Splits from the names of files (train-*, test-*) where they say them, or by prompt: files, prompts
    #[arg(long, value_name = "files|prompts")]
    splits: Option<String>,
    /// Share of the prompts for the test split
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    test_fraction: Option<f64>,
    /// Longest prompt and response together, tokens
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,
    /// Longest prompt, tokens
    #[arg(long, value_name = "N")]
    max_prompt_length: Option<usize>,
    /// What to do with a row that cannot be used: fail or skip
    #[arg(long, value_name = "fail|skip")]
    on_bad_row: Option<String>,
    /// Only the I-th of N parts of the prompts
    #[arg(long, value_name = "I/N")]
    shard: Option<String>,
    /// Counts and shows one example; writes nothing
    #[arg(long)]
    dry_run: bool,
}

impl Prepare {
    /// Sets the keys of the given flags.
    pub fn fill(&self, flags: &mut Flags) {
        let list = |items: &Vec<String>| (!items.is_empty()).then(|| items.clone());
        flags.put("prepare.input", "--input", list(&self.input));
        flags.put("prepare.mix", "--mix", list(&self.mix));
        flags.put("prepare.sources.tag", "--source", self.source.clone());
        flags.put("prepare.sources.rules", "--source-rule", list(&self.source_rule));
        flags.put("prepare.sources.join", "--join-source", list(&self.join_source));
        flags.put("prepare.sources.keep", "--keep-source", list(&self.keep_source));
        flags.put("prepare.pairs.decontaminate", "--decontaminate", list(&self.decontaminate));
        flags.put("prepare.pairs.near_duplicates", "--near-duplicates", self.near_duplicates);
        flags.put("prepare.out", "--out", self.out.clone());
        flags.put("prepare.tokenizer", "--tokenizer", self.tokenizer.clone());
        flags.put("prepare.shard", "--shard", self.shard.clone());
        flags.put("prepare.dry_run", "--dry-run", self.dry_run.then_some(true));
        flags.put("prepare.ingest.format", "--format", self.format.clone());
        let columns = (!self.columns.is_empty()).then(|| self.columns.clone());
        flags.put("prepare.ingest.columns", "--columns", columns);
        flags.put("prepare.ingest.ignore_keys", "--ignore-keys", list(&self.ignore_keys));
        flags.put("prepare.ingest.on_bad_row", "--on-bad-row", self.on_bad_row.clone());
        flags.put("prepare.pairs.rule", "--pairs", self.pairs.clone());
        flags.put("prepare.pairs.min_margin", "--min-margin", self.min_margin);
        flags.put("prepare.pairs.max_per_prompt", "--max-per-prompt", self.max_per_prompt);
        flags.put("prepare.pairs.splits", "--splits", self.splits.clone());
        flags.put("prepare.pairs.test_fraction", "--test-fraction", self.test_fraction);
        flags.put("prepare.noise.flip_rate", "--flip-rate", self.flip_rate);
        flags.put("prepare.noise.flip_kind", "--flip-kind", self.flip_kind.clone());
        flags.put("prepare.noise.temperature", "--flip-temperature", self.flip_temperature);
        flags.put("prepare.noise.flip_marker", "--flip-marker", self.flip_marker.clone());
        flags.put("prepare.tokenize.template", "--template", self.template.clone());
        flags.put("prepare.tokenize.max_length", "--max-length", self.max_length);
        flags.put("prepare.tokenize.max_prompt_length", "--max-prompt-length", self.max_prompt_length);
    }
}

/// Flags of `merge`.
#[derive(Debug, Args)]
pub struct Merge {
    /// Folders that were prepared with --shard 1/N to N/N, in any order
    #[arg(required = true, value_name = "DIR")]
    pub shards: Vec<PathBuf>,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// Flags of `score`.
#[derive(Debug, Args)]
pub struct Score {
    /// Prepared folder
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Folder (of a PEFT adapter too), .gguf, hub id, or tiny[:WxL]
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Parquet file to write
    #[arg(long, value_name = "FILE.parquet")]
    out: Option<String>,
}

impl Score {
    /// Sets the keys of the given flags.
    pub fn fill(&self, flags: &mut Flags) {
        flags.put("score.data", "--data", self.data.clone());
        flags.put("score.model", "--model", self.model.clone());
        flags.put("score.out", "--out", self.out.clone());
    }
}

/// Flags of `train`.
#[derive(Debug, Args)]
pub struct Train {
    /// Prepared folder
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Model to start from: folder (of a PEFT adapter too), .gguf, hub id, or tiny[:WxL]
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Run folder to write
    #[arg(long, value_name = "DIR")]
    out: Option<String>,
    /// Reference log-probabilities that `score` wrote [default: a cache in the prepared folder]
    #[arg(long, value_name = "FILE.parquet")]
    reference: Option<String>,
    /// Objective: dpo, cdpo, rdpo, mix, ipo, simpo, sft
    #[arg(long)]
    objective: Option<String>,
    /// Latent: auto (lpc, for sft none), none, lpc, lpc-hard, lpc-reliable, gaussian, mlp, bias
    #[arg(long)]
    latent: Option<String>,
    /// Number of codes K; gaussian and mlp are as large as lpc with K codes
    #[arg(long, value_name = "K")]
    codes: Option<usize>,
    /// What is trained: full, lora (an adapter), head (the output layer) or latent (codes and prior alone), both over
    /// hidden states computed once
    #[arg(long)]
    tune: Option<String>,
    /// Rank of the adapter [default: 16]
    #[arg(long, value_name = "R")]
    lora_rank: Option<usize>,
    /// Scale of the adapter, over its rank [default: twice the rank]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    lora_alpha: Option<f64>,
    /// Layers to adapt: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, all-linear [default: all-linear]
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    lora_targets: Vec<String>,
    /// Operands of the matrix products: f32, bf16
    #[arg(long)]
    precision: Option<String>,
    /// Pairs in one pass
    #[arg(long, value_name = "PAIRS")]
    batch: Option<usize>,
    /// Passes added up to one step
    #[arg(long, value_name = "N")]
    accumulate: Option<usize>,
    /// Passes over the data; may be a fraction
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    epochs: Option<f64>,
    /// Stop after this many steps; the schedules still run over the epochs
    #[arg(long, value_name = "N")]
    max_steps: Option<usize>,
    /// Peak learning rate of the backbone
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    lr: Option<f64>,
    /// Strength of the reference
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    beta: Option<f64>,
    /// Where the model computes: auto, cpu, cuda, metal
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// Pairs in posteriors.parquet: all, or test (a short run then computes no others but those of its steps)
    #[arg(long, value_name = "all|test")]
    posteriors: Option<String>,
    /// Keeps the optimizer's moments when the run is finished, so that it can go on with more --max-steps
    #[arg(long)]
    keep_optimizer: bool,
    /// Continues a stopped run from its newest sound checkpoint; without one it starts from the beginning
    #[arg(long)]
    pub resume: bool,
    /// Says what would be done, with how much memory and in which time; trains nothing
    #[arg(long)]
    pub dry_run: bool,
}

impl Train {
    /// Sets the keys of the given flags.
    pub fn fill(&self, flags: &mut Flags) {
        flags.put("train.data", "--data", self.data.clone());
        flags.put("train.model", "--model", self.model.clone());
        flags.put("train.out", "--out", self.out.clone());
        flags.put("train.reference", "--reference", self.reference.clone());
        flags.put("train.objective.name", "--objective", self.objective.clone());
        flags.put("train.objective.beta", "--beta", self.beta);
        flags.put("train.lpc.latent", "--latent", self.latent.clone());
        flags.put("train.lpc.codes", "--codes", self.codes);
        flags.put("train.tune", "--tune", self.tune.clone());
        flags.put("train.lora.rank", "--lora-rank", self.lora_rank);
        flags.put("train.lora.alpha", "--lora-alpha", self.lora_alpha);
        let targets = (!self.lora_targets.is_empty()).then(|| self.lora_targets.clone());
        flags.put("train.lora.targets", "--lora-targets", targets);
        flags.put("train.precision", "--precision", self.precision.clone());
        flags.put("train.batch", "--batch", self.batch);
        flags.put("train.accumulate", "--accumulate", self.accumulate);
        flags.put("train.epochs", "--epochs", self.epochs);
        flags.put("train.max_steps", "--max-steps", self.max_steps);
        flags.put("train.lr", "--lr", self.lr);
        flags.put("train.device", "--device", self.device.clone());
        flags.put("train.posteriors", "--posteriors", self.posteriors.clone());
        flags.put("train.keep_optimizer_state", "--keep-optimizer", self.keep_optimizer.then_some(true));
    }
}

/// Flags of `export`.
#[derive(Debug, Args)]
pub struct Export {
    /// Run folder
    #[arg(long, value_name = "DIR")]
    run: Option<String>,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    out: Option<String>,
    /// Form: hf (a Hugging Face folder, an adapter merged into its base) or peft (the adapter)
    #[arg(long = "as", value_name = "hf|peft")]
    form: Option<String>,
    /// Type of the weights: f32, bf16, f16, base (that of the model that training started from)
    #[arg(long, value_name = "TYPE")]
    dtype: Option<String>,
}

impl Export {
    /// Sets the keys of the given flags.
    pub fn fill(&self, flags: &mut Flags) {
        flags.put("export.run", "--run", self.run.clone());
        flags.put("export.out", "--out", self.out.clone());
        flags.put("export.as", "--as", self.form.clone());
        flags.put("export.dtype", "--dtype", self.dtype.clone());
    }
}

/// Flags of `noise-sweep`.
#[derive(Debug, Args)]
pub struct NoiseSweep {
    /// Sweep folder
    #[arg(long, value_name = "DIR")]
    out: Option<String>,
    /// Cells trained at once
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
}

impl NoiseSweep {
    /// Sets the keys of the given flags.
    pub fn fill(&self, flags: &mut Flags) {
        flags.put("sweep.out", "--out", self.out.clone());
        flags.put("sweep.jobs", "--jobs", self.jobs);
    }
}

/// Flags of `report`.
#[derive(Debug, Args)]
pub struct Report {
    /// Run or sweep folder
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Folder that `synth` wrote: also scores a run's codes against the planted truth
    #[arg(long, value_name = "DIR")]
    pub truth: Option<PathBuf>,
}

/// Flags of `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// File or folder
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
}
