//! Names that stages agree on: columns, files and metric keys, one spelling each.

pub mod result;

/// Columns of `pairs/{split}.parquet`, in order.
pub const PAIR_COLUMNS: [&str; 17] = [
    col::ID,
    col::PROMPT_ID,
    col::SOURCE,
    col::SPLIT,
    col::PROMPT,
    col::CHOSEN,
    col::REJECTED,
    col::SCORE_CHOSEN,
    col::SCORE_REJECTED,
    col::MARGIN,
    col::CHOSEN_MODEL,
    col::REJECTED_MODEL,
    col::PAIR_RULE,
    col::FLIPPED,
    col::NOISE_KIND,
    col::NOISE_P,
    col::WEIGHT,
];

/// Columns that stage frames have beside [`PAIR_COLUMNS`], in order; the files of pairs do not have them.
pub const CARRIED_COLUMNS: [&str; 5] = [col::FILE, col::LINE, col::GROUP, col::ANNOTATOR, col::FLIP_PROBABILITY];

/// Columns of `rejects.parquet`, in order.
pub const REJECT_COLUMNS: [&str; 5] = [col::FILE, col::LINE, col::FIELD, col::REASON, col::DETAIL];

/// Column names.
pub mod col {
    /// Content hash of prompt, clean chosen and clean rejected: 32 hex digits.
    pub const ID: &str = "id";
    /// Lower-case hex SHA-256 of the UTF-8 prompt text, as HuggingFaceH4/ultrafeedback_binarized.
    pub const PROMPT_ID: &str = "prompt_id";
    /// Source tag.
    pub const SOURCE: &str = "source";
    /// `train` or `test`.
    pub const SPLIT: &str = "split";
    /// Messages before the response.
    pub const PROMPT: &str = "prompt";
    /// Messages of the response observed as preferred.
    pub const CHOSEN: &str = "chosen";
    /// Messages of the other response.
    pub const REJECTED: &str = "rejected";
    /// Score of the text in `chosen`.
    pub const SCORE_CHOSEN: &str = "score_chosen";
    /// Score of the text in `rejected`.
    pub const SCORE_REJECTED: &str = "score_rejected";
    /// `score_chosen - score_rejected` of the observed pair: negative where flipped.
    pub const MARGIN: &str = "margin";
    /// Model that wrote `chosen`.
    pub const CHOSEN_MODEL: &str = "chosen_model";
    /// Model that wrote `rejected`.
    pub const REJECTED_MODEL: &str = "rejected_model";
    /// How the pair was chosen.
    pub const PAIR_RULE: &str = "pair_rule";
    /// Whether the observed label is the opposite of the clean one.
    pub const FLIPPED: &str = "flipped";
    /// Noise model.
    pub const NOISE_KIND: &str = "noise_kind";
    /// Probability with which this row's label was to be flipped.
    pub const NOISE_P: &str = "noise_p";
    /// Weight of the pair's loss in training, a number from 0; null where the input gave none, which counts as 1.
    pub const WEIGHT: &str = "weight";
    /// Input file: its index among the inputs in stage frames, its path in `rejects.parquet`.
    pub const FILE: &str = "file";
    /// 1-based line of the input file; the row for Parquet.
    pub const LINE: &str = "line";
    /// Dotted path of the field at fault, empty where the whole row is.
    pub const FIELD: &str = "field";
    /// Why a row was rejected: one of [`crate::rejects::reason`].
    pub const REASON: &str = "reason";
    /// Expected and found, in words.
    pub const DETAIL: &str = "detail";
    /// The prompt's normal form, [`crate::prompt::normalized`]. Stage frames only.
    pub const NORMALIZED_PROMPT: &str = "normalized_prompt";
    /// Hash of the normalized prompt, [`crate::prompt::group`]: rows with equal hashes share split and shard.
    pub const GROUP: &str = "group";
    /// Who gave the label, where the input says so: a name, null where it is unknown. Stage frames only.
    pub const ANNOTATOR: &str = "annotator";
    /// Probability with which the label is to be flipped, as given by the input; null where it says nothing.
    /// Stage frames only.
    pub const FLIP_PROBABILITY: &str = "flip_probability";
    /// Implicit reward margin of the observed order that each code alone gives the pair: list, empty without codes.
    pub const CODE_MARGINS: &str = "code_margins";
    /// Scored responses to one prompt: list of {model, response, score}.
    pub const COMPLETIONS: &str = "completions";
    /// Model that wrote a completion.
    pub const MODEL: &str = "model";
    /// Text of a completion.
    pub const RESPONSE: &str = "response";
    /// Score of a completion.
    pub const SCORE: &str = "score";
    /// Message role.
    pub const ROLE: &str = "role";
    /// Message text.
    pub const CONTENT: &str = "content";
    /// Prompt tokens, generation prompt included.
    pub const PROMPT_IDS: &str = "prompt_ids";
    /// Response tokens with the end of turn, observed chosen.
    pub const CHOSEN_IDS: &str = "chosen_ids";
    /// Response tokens with the end of turn, observed rejected.
    pub const REJECTED_IDS: &str = "rejected_ids";
    /// Number of prompt tokens.
    pub const N_PROMPT: &str = "n_prompt";
    /// Number of chosen tokens.
    pub const N_CHOSEN: &str = "n_chosen";
    /// Number of rejected tokens.
    pub const N_REJECTED: &str = "n_rejected";
    /// Whether anything was cut.
    pub const TRUNCATED: &str = "truncated";
}

/// Split names, in the order in which they are written.
pub const SPLITS: [&str; 2] = ["train", "test"];
/// The split of training pairs that a run holds out for validation, and of files that are neither of [`SPLITS`].
pub const VALIDATION_SPLIT: &str = "validation";

/// The name of a choice as settings and files spell it.
pub fn name_of(choice: &impl serde::Serialize) -> String {
    serde_json::to_value(choice).ok().and_then(|v| v.as_str().map(String::from)).unwrap_or_default()
}

/// `noise_kind` of pairs to which no noise model was applied.
pub const NO_NOISE: &str = "none";

/// Files of a prepared folder.
pub mod prepared {
    /// Manifest of every folder that this program writes.
    pub const MANIFEST: &str = "manifest.json";
    /// Rejected input rows.
    pub const REJECTS: &str = "rejects.parquet";
    /// Tokenizer files used, so that training and decoding need nothing else.
    pub const TOKENIZER: &str = "tokenizer";
    /// Cache of reference log-probabilities, one file for each model and state of the data.
    pub const REFERENCE: &str = "reference";
    /// Folder of the pairs.
    pub const PAIRS: &str = "pairs";
    /// Folder of the tokens.
    pub const TOKENS: &str = "tokens";
    /// `pairs/{split}.parquet`
    pub fn pairs(split: &str) -> String {
        format!("{PAIRS}/{split}.parquet")
    }
    /// `tokens/{split}.arrow`
    pub fn tokens(split: &str) -> String {
        format!("{TOKENS}/{split}.arrow")
    }
}

/// Keys of the facts in manifests that this program reads back.
pub mod fact {
    /// What the tokenizer is, in a prepared folder.
    pub const TOKENIZER: &str = "tokenizer";
    /// Files that were read beside the inputs: those with sources to join, and benchmarks.
    pub const READ_BESIDE: &str = "read_beside";
    /// Names of the planted preferences, beside a corpus.
    pub const PREFERENCES: &str = "preferences";
    /// Hash that identifies a run.
    pub const IDENTITY: &str = "identity";
    /// The value that is hashed for [`IDENTITY`].
    pub const IDENTITY_OF: &str = "identity_of";
    /// Its key of the hash of the weights that training started from.
    pub const WEIGHTS: &str = "weights";
    /// Its key of the hash of the reference's weights, where it is another model.
    pub const REFERENCE: &str = "reference";
    /// Working directory of the command, to which relative paths of its settings belong.
    pub const DIRECTORY: &str = "directory";
}

/// Files of a run folder.
pub mod run {
    /// Resolved configuration.
    pub const CONFIG: &str = "config.toml";
    /// One JSON object a line.
    pub const METRICS: &str = "metrics.jsonl";
    /// Per-example code posteriors.
    pub const POSTERIORS: &str = "posteriors.parquet";
    /// Margin of every pair after each epoch.
    pub const DYNAMICS: &str = "dynamics.parquet";
    /// Column of it: epoch from 1, those of the latent part's warm-up counted.
    pub const EPOCH: &str = "epoch";
    /// Per-code table.
    pub const CODES: &str = "codes.parquet";
    /// Headline numbers.
    pub const SUMMARY: &str = "summary.json";
    /// Trained model as a Hugging Face folder.
    pub const MODEL: &str = "model";
    /// Checkpoints by step.
    pub const CHECKPOINTS: &str = "checkpoints";
    /// Folder of the pairs that were examined so far, in that of the checkpoints.
    pub const EXAMINED: &str = "examined";
    /// TensorBoard events.
    pub const TENSORBOARD: &str = "tb";
    /// Latent part of a model folder: configuration.
    pub const LPC_CONFIG: &str = "lpc_config.json";
    /// Latent part of a model folder: weights.
    pub const LPC_WEIGHTS: &str = "lpc_model.safetensors";
    /// The latent part for transformers, beside an exported model.
    pub const LPC_TRANSFORMERS: &str = "lpc_transformers.py";
    /// The model that a latent part was trained over, where it is not written with it.
    pub const LPC_BASE: &str = "lpc_base.json";
}

/// Files of a sweep folder.
pub mod sweep {
    /// One row per cell and seed.
    pub const RESULTS: &str = "results.parquet";
    /// One row per cell.
    pub const SUMMARY: &str = "summary.parquet";
    /// Areas under the accuracy over the noise rates, one row per cell without its rate.
    pub const CURVES: &str = "curves.parquet";
    /// Run folders by cell name.
    pub const CELLS: &str = "cells";
    /// Prepared folders, one per noise setting.
    pub const PREPARED: &str = "prepared";
    /// Files of hidden states, which noise settings with the same texts share.
    pub const HIDDEN: &str = "hidden";
    /// Marker of a finished cell, in its run folder.
    pub const CELL_MARKER: &str = "cell.json";
    /// How a launch ended that did not finish the cell, in its run folder.
    pub const CELL_ATTEMPT: &str = "attempt.json";
    /// Marker of a finished prepared folder, in it.
    pub const DATA_MARKER: &str = "data.json";
    /// Settings under which the sweep was begun.
    pub const SETTINGS: &str = "sweep.json";
}

/// Files of a launch over many machines, in the folder that it fills.
pub mod launch {
    /// Folder of scripts and logs.
    pub const FOLDER: &str = "launch";
    /// Folder of the jobs' output.
    pub const LOGS: &str = "logs";
    /// The jobs that were submitted.
    pub const JOBS: &str = "jobs.json";
    /// The resolved configuration of a preparation in shards.
    pub const RECIPE: &str = "recipe.toml";
    /// Folder of the shards.
    pub const SHARDS: &str = "shards";
}

/// Files of an audit folder, and columns of `audit.parquet` beside those in [`col`].
pub mod audit {
    /// One row for each training pair.
    pub const AUDIT: &str = "audit.parquet";
    /// What was found, in numbers.
    pub const SUMMARY: &str = "summary.json";
    /// Pairs for a person to decide about.
    pub const REVIEW: &str = "review.csv";
    /// The prepared folder without the labels that are thought wrong.
    pub const CLEANED: &str = "cleaned";
    /// Run folders of the models that were trained without a fold.
    pub const FOLDS: &str = "folds";
    /// Calibrated probability that the observed label is wrong, 0 to 1.
    pub const P_WRONG: &str = "p_wrong";
    /// 1 for the pair whose label is most likely wrong.
    pub const RANK: &str = "rank";
    /// Why, in words.
    pub const REASONS: &str = "reasons";
    /// Log-odds and margin over the epochs of the models that were trained without the pair, in one number.
    pub const EVIDENCE: &str = "evidence";
    /// Log-odds of the observed order by models that were trained without the pair, nats.
    pub const LOG_ODDS: &str = "log_odds";
    /// Implicit reward margin of the same models, with the prior's z.
    pub const CROSS_MARGIN: &str = "cross_margin";
    /// Mean of this margin over the epochs of their training.
    pub const CROSS_AREA_UNDER_MARGIN: &str = "cross_area_under_margin";
    /// KL of their posterior, which has seen the label, from their prior, nats.
    pub const CROSS_KL: &str = "cross_kl";
    /// Share of the other pairs of the prior's code whose labels are contradicted.
    pub const CODE_CONTRADICTED: &str = "code_contradicted";
    /// Implicit reward margin of the audited run, which has trained on the pair.
    pub const RUN_MARGIN: &str = "run_margin";
    /// KL of the audited run's posterior from its prior, nats.
    pub const RUN_KL: &str = "run_kl";
    /// Area under the margin over the epochs of the models that were trained on the pair.
    pub const AREA_UNDER_MARGIN: &str = "area_under_margin";
    /// Summed reference log-probability of chosen minus rejected, nats.
    pub const REFERENCE_MARGIN: &str = "reference_margin";
    /// Score of chosen minus that of rejected.
    pub const SCORE_MARGIN: &str = "score_margin";
    /// A person's decision: keep, flip, drop, or nothing.
    pub const VERDICT: &str = "verdict";
}

/// Files of a report, in a run or sweep folder.
pub mod report {
    /// The self-contained page.
    pub const HTML: &str = "report.html";
    /// The same in Markdown, figures left out.
    pub const MARKDOWN: &str = "report.md";
    /// Posteriors in the plane, one row a pair, beside the report of a run.
    pub const PROJECTION: &str = "projection.parquet";
}

/// Columns of `projection.parquet`, beside those in [`col`].
pub mod projection {
    /// First principal component of the posterior.
    pub const PCA_1: &str = "pca_1";
    /// Second principal component.
    pub const PCA_2: &str = "pca_2";
    /// First coordinate by t-SNE.
    pub const TSNE_1: &str = "tsne_1";
    /// Second coordinate by t-SNE.
    pub const TSNE_2: &str = "tsne_2";
}

/// What the codes of a run are compared with, as reports name it: labels of pairs, and quantities of pairs.
pub mod attribute {
    /// Source tag.
    pub const SOURCE: &str = "source";
    /// Whether the label was flipped: a label, and as 0 and 1 a quantity.
    pub const FLIPPED: &str = "flipped";
    /// Who wrote the chosen and who the rejected response.
    pub const MODELS: &str = "models";
    /// The planted preference that decided.
    pub const PREFERENCE: &str = "preference";
    /// The planted factor of that preference.
    pub const FACTOR: &str = "factor";
    /// Tokens of the chosen response less those of the rejected one.
    pub const LENGTH_DIFFERENCE: &str = "length_difference";
    /// Characters of the prompt.
    pub const PROMPT_LENGTH: &str = "prompt_length";
    /// Size of the difference of the two scores.
    pub const SCORE_MARGIN: &str = "score_margin";
    /// Implicit reward margin of the observed order, with the prior's z.
    pub const IMPLICIT_MARGIN: &str = "implicit_margin";
}

/// Columns of `posteriors.parquet`, and of what `score` writes, beside those in [`col`].
pub mod posterior {
    /// p(z|x), one number a code.
    pub const PRIOR: &str = "prior";
    /// p(z|x, observed pair), one number a code.
    pub const POSTERIOR: &str = "posterior";
    /// Most probable code given the prompt.
    pub const PRIOR_CODE: &str = "prior_code";
    /// Most probable code given the prompt and the observed pair.
    pub const POSTERIOR_CODE: &str = "posterior_code";
    /// KL of the posterior from the prior, nats.
    pub const KL: &str = "kl";
    /// Entropy of the prior over the codes, nats.
    pub const PRIOR_ENTROPY: &str = "prior_entropy";
    /// Entropy of the posterior over the codes, nats.
    pub const POSTERIOR_ENTROPY: &str = "posterior_entropy";
    /// Summed log-probability of the chosen response with the prior's z, nats.
    pub const LOGPS_CHOSEN: &str = "logps_chosen";
    /// The same of the rejected response.
    pub const LOGPS_REJECTED: &str = "logps_rejected";
    /// Summed reference log-probability of the chosen response, as TRL names it, nats.
    pub const REF_CHOSEN: &str = "ref_chosen_logps";
    /// The same of the rejected response.
    pub const REF_REJECTED: &str = "ref_rejected_logps";
    /// Implicit reward margin of the observed order, with the posterior's z. That with the prior's is `margin`.
    pub const MARGIN_POSTERIOR: &str = "margin_posterior";
    /// Probability that the observed label is right, with the prior's z; under objective `repo` alone.
    pub const CLEAN_PROBABILITY: &str = "clean_probability";
    /// Whether Hölder-DPO suspects the observed label of a training pair; under objective `hoelder` alone, and null
    /// for other splits.
    pub const SUSPECT: &str = "suspect";
}

/// Columns of `codes.parquet`, one row a code. `usage_prior`, `usage_posterior` and `accuracy` are also there by
/// source, as [`by_source`](codes::by_source) names them.
pub mod codes {
    /// The code, from 0.
    pub const CODE: &str = "code";
    /// Share of the pairs whose most probable code by the prior this is.
    pub const USAGE_PRIOR: &str = "usage_prior";
    /// The same by the posterior.
    pub const USAGE_POSTERIOR: &str = "usage_posterior";
    /// Tokens whose logits the code raises most.
    pub const TOP_TOKENS: &str = "top_tokens";
    /// Tokens whose logits the code lowers most.
    pub const BOTTOM_TOKENS: &str = "bottom_tokens";
    /// Euclidean norm of the code.
    pub const NORM: &str = "norm";
    /// Flip rate of the code, for `lpc-reliable`.
    pub const FLIP_RATE: &str = "flip_rate";
    /// Accuracy of the code alone on all test pairs.
    pub const ACCURACY: &str = "accuracy";
    /// The lower code that this one duplicates (see [`crate::analysis::Duplicate`]), if any.
    pub const DUPLICATE_OF: &str = "duplicate_of";
    /// Name of a column for the pairs of one source.
    pub fn by_source(column: &str, source: &str) -> String {
        format!("{column}/{source}")
    }
}

/// Columns of the tables of accuracies by source.
pub mod accuracy {
    /// Pairs.
    pub const N: &str = "n";
    /// Share of the pairs that are ranked as their clean label says.
    pub const ACCURACY: &str = "accuracy";
    /// Lower end of its interval.
    pub const LOW: &str = "low";
    /// Upper end of its interval.
    pub const HIGH: &str = "high";
    /// Value of the column `source` for all sources together.
    pub const ALL: &str = "all";
}

/// Keys of the answers that `generate` writes, one JSON object a line; the first three as AlpacaEval reads them.
pub mod answer {
    /// The prompt as one text.
    pub const INSTRUCTION: &str = "instruction";
    /// The answer.
    pub const OUTPUT: &str = "output";
    /// Name of what answered.
    pub const GENERATOR: &str = "generator";
    /// Tokens of the answer, without the token that ended it.
    pub const TOKENS: &str = "tokens";
    /// Why it ended: `stop` or `length`.
    pub const FINISH: &str = "finish";
}

/// Files of the folder that `eval` writes, and columns of `items.parquet` beside those in [`col`] and the metrics, which are
/// named as lm-evaluation-harness names them.
pub mod eval {
    /// One row for each item of each task.
    pub const ITEMS: &str = "items.parquet";
    /// What is printed with `--json`.
    pub const SUMMARY: &str = "summary.json";
    /// The results in the form of lm-evaluation-harness.
    pub const HARNESS: &str = "results.json";
    /// Name of the set in results: the task's, and after a slash the set's where it has one.
    pub const TASK: &str = "task";
    /// The item's place in the data, from 0.
    pub const ITEM: &str = "item";
    /// What pairs the item with one of another evaluation: its id, or a hash of its texts where it has none.
    pub const KEY: &str = "key";
    /// Log-probability (or reward) of each choice, nats.
    pub const SCORES: &str = "scores";
    /// Whether each choice is right.
    pub const RIGHT: &str = "right";
    /// The choice with the highest score.
    pub const CHOSEN: &str = "chosen_choice";
    /// The model's text, in tasks that generate.
    pub const OUTPUT: &str = "output";
    /// Fact of the manifest: fingerprint of the reference of the implicit reward.
    pub const REFERENCE: &str = "reference";
    /// Fact of the manifest: tokens of prompt and response, to which pairs of files are cut.
    pub const MAX_LENGTH: &str = "max_length";
    /// Fact of the manifest: hash of the files of examples.
    pub const EXAMPLES: &str = "examples";
}

/// Metric keys as the field spells them (TRL), and ours under `lpc/` and `perf/`.
pub mod metric {
    #![allow(missing_docs, reason = "the key says it")]
    /// Prefix of the metrics of the test split.
    pub const EVAL_PREFIX: &str = "eval_";
    /// Prefix of the metrics of the pairs of validation.
    pub const VALIDATION_PREFIX: &str = "validation_";
    pub const EVAL_RUNTIME: &str = "eval_runtime";
    pub const LOSS: &str = "loss";
    pub const LEARNING_RATE: &str = "learning_rate";
    pub const GRAD_NORM: &str = "grad_norm";
    pub const EPOCH: &str = "epoch";
    pub const NUM_TOKENS: &str = "num_tokens";
    pub const REWARDS_CHOSEN: &str = "rewards/chosen";
    pub const REWARDS_REJECTED: &str = "rewards/rejected";
    pub const REWARDS_MARGINS: &str = "rewards/margins";
    pub const REWARDS_ACCURACIES: &str = "rewards/accuracies";
    pub const LOGPS_CHOSEN: &str = "logps/chosen";
    pub const LOGPS_REJECTED: &str = "logps/rejected";
    pub const KL: &str = "lpc/kl";
    pub const KL_WEIGHT: &str = "lpc/kl_weight";
    pub const TAU: &str = "lpc/tau";
    pub const G: &str = "lpc/g";
    pub const CODES_USED: &str = "lpc/codes_used";
    pub const CODE_PERPLEXITY: &str = "lpc/code_perplexity";
    pub const PRIOR_ENTROPY: &str = "lpc/prior_entropy";
    pub const POSTERIOR_ENTROPY: &str = "lpc/posterior_entropy";
    pub const SWAP_OVERLAP: &str = "lpc/swap_overlap";
    pub const EFFECTIVE_CODES: &str = "lpc/effective_codes";
    pub const FLIP_RATE: &str = "mix/flip_rate";
    pub const CLEAN_RATE: &str = "repo/clean_rate";
    pub const CLEAN_PROBABILITY: &str = "repo/clean_probability";
    pub const TOKENS_PER_S: &str = "perf/tokens_per_s";
    pub const PAIRS_PER_S: &str = "perf/pairs_per_s";
    pub const PEAK_RSS_MB: &str = "perf/peak_rss_mb";
}
