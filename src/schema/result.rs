//! What a run or a sweep finds: keys of `summary.json`, columns of `results.parquet`, `summary.parquet` and
//! `curves.parquet`.

/// Objective.
pub const OBJECTIVE: &str = "objective";
/// Latent.
pub const LATENT: &str = "latent";
/// Number of codes.
pub const CODES: &str = "codes";
/// Whether flipped prompts carry the marker.
pub const MARKED: &str = "marked";
/// How the posterior is found; null, like the following five, where the cell has no such setting.
pub const INFERENCE: &str = "inference";
/// Weight of the KL.
pub const KL_WEIGHT: &str = "kl_weight";
/// First temperature of the relaxed samples.
pub const TEMPERATURE: &str = "temperature";
/// How g moves.
pub const G: &str = "g";
/// Which pairs share a code.
pub const GROUP: &str = "group";
/// Layer whose hidden states represent a prompt.
pub const PROMPT_LAYER: &str = "prompt_layer";
/// Model that training starts from.
pub const MODEL: &str = "model";
/// The settings of a cell that the grid varies and that are not the recipe's, in words; null where there are none.
pub const SETTINGS: &str = "settings";
/// Training seed.
pub const SEED: &str = "seed";
/// Seed of the flips.
pub const NOISE_SEED: &str = "noise_seed";
/// `ok`, `failed: ...`; after a launch of single cells also `stopped: ...` and `missing: ...`.
pub const STATUS: &str = "status";
/// Finished seeds of a cell.
pub const N_SEEDS: &str = "n_seeds";
/// Failed seeds of a cell.
pub const N_FAILED: &str = "n_failed";
/// Seeds of a cell that were not run to their end.
pub const N_MISSING: &str = "n_missing";
/// The step whose parameters did best in validation.
pub const BEST_STEP: &str = "best_step";
/// Share of the pairs of validation that they rank as they are labelled.
pub const VALIDATION_ACCURACY: &str = "validation_accuracy";
/// Pairs of validation.
pub const N_VALIDATION: &str = "n_validation";
/// Test pairs.
pub const N_EVAL: &str = "n_eval";
/// Preference accuracy on the test split against the clean labels, with the prior's z.
pub const EVAL_ACCURACY: &str = "eval_accuracy";
/// Its standard deviation over seeds.
pub const EVAL_ACCURACY_SD: &str = "eval_accuracy_sd";
/// Lower end of its interval.
pub const EVAL_ACCURACY_LOW: &str = "eval_accuracy_low";
/// Upper end of its interval.
pub const EVAL_ACCURACY_HIGH: &str = "eval_accuracy_high";
/// Accuracy minus that without a latent, paired.
pub const DIFFERENCE: &str = "difference";
/// Lower end of its interval.
pub const DIFFERENCE_LOW: &str = "difference_low";
/// Upper end of its interval.
pub const DIFFERENCE_HIGH: &str = "difference_high";
/// Pairs in the paired comparison.
pub const N_PAIRED: &str = "n_paired";
/// Its two-sided p-value, by sign flips of the prompts' differences.
pub const DIFFERENCE_P: &str = "difference_p";
/// The same after Holm's correction for all such comparisons of the sweep.
pub const DIFFERENCE_P_HOLM: &str = "difference_p_holm";
/// The named baseline that the following columns compare with.
pub const BASELINE: &str = "baseline";
/// Accuracy minus that of the named baseline, paired.
pub const DIFFERENCE_BASELINE: &str = "difference_baseline";
/// Lower end of its interval.
pub const DIFFERENCE_BASELINE_LOW: &str = "difference_baseline_low";
/// Upper end of its interval.
pub const DIFFERENCE_BASELINE_HIGH: &str = "difference_baseline_high";
/// Pairs in the comparison with the named baseline.
pub const N_PAIRED_BASELINE: &str = "n_paired_baseline";
/// Its two-sided p-value, by sign flips of the prompts' differences.
pub const DIFFERENCE_BASELINE_P: &str = "difference_baseline_p";
/// The same after Holm's correction.
pub const DIFFERENCE_BASELINE_P_HOLM: &str = "difference_baseline_p_holm";
/// Area under the accuracy over the rates of flipped labels, divided by the range of the rates: a mean accuracy.
pub const ACCURACY_AREA: &str = "accuracy_area";
/// Lower end of its interval.
pub const ACCURACY_AREA_LOW: &str = "accuracy_area_low";
/// Upper end of its interval.
pub const ACCURACY_AREA_HIGH: &str = "accuracy_area_high";
/// Least rate of flipped labels of a curve.
pub const NOISE_P_LOW: &str = "noise_p_low";
/// Greatest rate of flipped labels of a curve.
pub const NOISE_P_HIGH: &str = "noise_p_high";
/// Rates of flipped labels of a curve.
pub const N_RATES: &str = "n_rates";
/// Seeds that did not finish at every rate.
pub const N_INCOMPLETE: &str = "n_incomplete";
/// Share of the training pairs on which the noise fell: flipped, or singled out.
pub const NOISE_SHARE: &str = "noise_share";
/// Area under the ROC curve of the margin as a detector of flipped labels.
pub const AUDIT_AUROC: &str = "audit_auroc";
/// Lower end of its interval.
pub const AUDIT_AUROC_LOW: &str = "audit_auroc_low";
/// Upper end of its interval.
pub const AUDIT_AUROC_HIGH: &str = "audit_auroc_high";
/// Codes in use.
pub const CODES_USED: &str = "codes_used";
/// Perplexity of the use of codes.
pub const CODE_PERPLEXITY: &str = "code_perplexity";
/// Seconds in training steps.
pub const TRAIN_SECONDS: &str = "train_seconds";
/// Test accuracy by source, a list.
pub const BY_SOURCE: &str = "by_source";
/// Steps taken.
pub const STEPS: &str = "steps";
/// Flip rate of objective `mix`.
pub const MIX_FLIP_RATE: &str = "mix_flip_rate";
/// Share of wrong training labels that objective `hoelder` estimates.
pub const HOELDER_NOISE_RATE: &str = "hoelder_noise_rate";
/// Clean rate of objective `repo` at the end of training.
pub const REPO_CLEAN_RATE: &str = "repo_clean_rate";
/// Median pairs per second.
pub const PAIRS_PER_S: &str = "pairs_per_s";
/// Peak resident memory, MiB.
pub const PEAK_RSS_MB: &str = "peak_rss_mb";
