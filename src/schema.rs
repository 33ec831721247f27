//! Names that stages agree on: columns, files and metric keys, one spelling each.

/// Columns of `pairs/{split}.parquet`, in order.
pub const PAIR_COLUMNS: [&str; 16] = [
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
];

/// What stage frames carry beside the pair's own columns, in order, from the pairs to the files.
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
    /// Hash of the normalized prompt: rows with equal hashes share split and shard.
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

/// Files of a prepared folder.
pub mod prepared {
    /// Manifest of any folder of ours.
    pub const MANIFEST: &str = "manifest.json";
    /// Rejected input rows.
    pub const REJECTS: &str = "rejects.parquet";
    /// Tokenizer files used, so that training and decoding need nothing else.
    pub const TOKENIZER: &str = "tokenizer";
    /// Cache of reference log-probabilities, one file for each model and state of the data.
    pub const REFERENCE: &str = "reference";
    /// `pairs/{split}.parquet`
    pub fn pairs(split: &str) -> String {
        format!("pairs/{split}.parquet")
    }
    /// `tokens/{split}.arrow`
    pub fn tokens(split: &str) -> String {
        format!("tokens/{split}.arrow")
    }
}

/// Files of a run folder.
pub mod run {
    /// Resolved configuration.
    pub const CONFIG: &str = "config.toml";
    /// One JSON object a line.
    pub const METRICS: &str = "metrics.jsonl";
    /// Per-example code posteriors.
    pub const POSTERIORS: &str = "posteriors.parquet";
    /// Per-code table.
    pub const CODES: &str = "codes.parquet";
    /// Headline numbers.
    pub const SUMMARY: &str = "summary.json";
    /// Trained model as a Hugging Face folder.
    pub const MODEL: &str = "model";
    /// Checkpoints by step.
    pub const CHECKPOINTS: &str = "checkpoints";
    /// TensorBoard events.
    pub const TENSORBOARD: &str = "tb";
    /// Latent part of a model folder: configuration.
    pub const LPC_CONFIG: &str = "lpc_config.json";
    /// Latent part of a model folder: weights.
    pub const LPC_WEIGHTS: &str = "lpc_model.safetensors";
    /// The model that a latent part was trained over, where it is not written with it.
    pub const LPC_BASE: &str = "lpc_base.json";
}

/// Files of a sweep folder.
pub mod sweep {
    /// One row per cell and seed.
    pub const RESULTS: &str = "results.parquet";
    /// One row per cell.
    pub const SUMMARY: &str = "summary.parquet";
    /// Run folders by cell name.
    pub const CELLS: &str = "cells";
    /// Self-contained report.
    pub const REPORT: &str = "report.html";
}

/// Metric keys as the field spells them (TRL), and ours under `lpc/` and `perf/`.
pub mod metric {
    #![allow(missing_docs, reason = "the key says it")]
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
    pub const TOKENS_PER_S: &str = "perf/tokens_per_s";
    pub const PAIRS_PER_S: &str = "perf/pairs_per_s";
    pub const PEAK_RSS_MB: &str = "perf/peak_rss_mb";
}
