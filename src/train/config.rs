//! What `train` can be told.

use serde::{Deserialize, Serialize};

use crate::error::Fault;
use crate::lpc::{LatentKind, LpcConfig};
use crate::model::LoraConfig;
use crate::nn::Precision;
use crate::objective::{MixFlip, ObjectiveConfig, ObjectiveKind};
use crate::train::step_plan::StepPlan;

/// Which parameters are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Tune {
    /// All of them.
    #[default]
    Full,
    /// Low-rank additions to linear layers; the model's own weights are frozen.
    Lora,
    /// The output layer alone, over hidden states that are computed once. A model whose head is its embedding gets a
    /// head of its own.
    Head,
    /// The latent part alone, over hidden states that are computed once: the backbone never moves, and the run's model
    /// is the latent part with its base by name and hash.
    Latent,
}

impl Tune {
    /// Whether hidden states are computed once for the whole run.
    pub fn keeps_states(self) -> bool {
        matches!(self, Tune::Head | Tune::Latent)
    }
}

/// Which pairs get a row in `posteriors.parquet`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Posteriors {
    /// All pairs of all splits.
    #[default]
    All,
    /// Those of the test split: a short run then reads no more pairs than its steps and the test split have.
    Test,
}

/// Options of `--tune head`, `--tune latent` and of the latent part's warm-up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeadConfig {
    /// Most MiB of hidden states to hold in memory; more is read from their file as it is needed.
    pub memory_mb: usize,
    /// Folder of the files of hidden states; "" = `hidden` in the prepared folder.
    pub cache: String,
}

impl Default for HeadConfig {
    fn default() -> HeadConfig {
        HeadConfig { memory_mb: 2048, cache: String::new() }
    }
}

/// How the learning rate moves after its warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LrSchedule {
    /// It does not.
    Constant,
    /// In a line to 0.
    Linear,
    /// Along half a cosine to 0.
    #[default]
    Cosine,
}

/// Where the backbone computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    /// An accelerator that this build knows and this machine has; otherwise the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU (feature `cuda`).
    Cuda,
    /// An Apple GPU (feature `metal`).
    Metal,
}

/// What the backbone is computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kernels {
    /// Fused on the CPU, composed elsewhere.
    #[default]
    Auto,
    /// This crate's own kernels; CPU only.
    Fused,
    /// The tensor library's operations: slower, larger, and everywhere.
    Composed,
}

/// Options of `train`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Prepared folder.
    pub data: String,
    /// Model to start from, which is also the reference: folder, .gguf, hub id, `tiny[:WxL]`. A PEFT adapter folder
    /// is trained on as an adapter with `tune = "lora"`, and merged into its base otherwise.
    pub model: String,
    /// Run folder.
    pub out: String,
    /// Reference log-probabilities: a file that `score` wrote with this model on this data; "" = taken from the
    /// prepared folder's cache, and computed where they are not there.
    pub reference: String,
    /// Which parameters are trained.
    pub tune: Tune,
    /// Operands of the matrix products: `f32`, or `bf16` with float32 weights and sums (about twice as fast where
    /// the processor has AVX512-BF16; elsewhere float32 is used).
    pub precision: Precision,
    /// Pairs in one pass.
    pub batch: usize,
    /// Passes whose gradients are added up to one step.
    pub accumulate: usize,
    /// Passes over the data; may be a fraction. Schedules run over these.
    pub epochs: f64,
    /// Stop after this many steps if the epochs make more; 0 = no limit. Schedules do not change, so that a
    /// run that was stopped here can be resumed with a higher limit.
    pub max_steps: usize,
    /// Peak learning rate of the backbone. Adapters and heads of their own usually want more: 1e-5 to 2e-4.
    pub lr: f64,
    /// How it moves.
    pub lr_schedule: LrSchedule,
    /// Share of the run over which it rises from 0.
    pub warmup: f64,
    /// Decoupled weight decay of the backbone's matrices.
    pub weight_decay: f64,
    /// AdamW's decay of the first moment.
    pub adam_beta1: f64,
    /// AdamW's decay of the second moment.
    pub adam_beta2: f64,
    /// AdamW's epsilon.
    pub adam_epsilon: f64,
    /// Largest global norm of a step's gradient; 0 = no clipping.
    pub clip: f64,
    /// Longest sequence (prompt and one response) that is trained on, in tokens; longer pairs are an error.
    pub max_length: usize,
    /// Where the backbone computes; the latent part and the losses are always in memory.
    pub device: DeviceKind,
    /// What the backbone is computed with.
    pub kernels: Kernels,
    /// Whether backward passes compute each layer again from its input: less memory, about a third more time, the same
    /// numbers.
    pub recompute: bool,
    /// Steps between two evaluations on the test split; 0 = only at the end.
    pub eval_every: usize,
    /// Steps between two checkpoints; 0 = only when stopped.
    pub checkpoint_every: usize,
    /// Checkpoints kept.
    pub keep_checkpoints: usize,
    /// Whether a finished run keeps the optimizer's moments in its last checkpoint (twice the size of what was trained),
    /// so that one that `max_steps` ended can go on from there; without them it can only take its steps again.
    pub keep_optimizer_state: bool,
    /// Whether the trained model is written to the run folder.
    pub save_model: bool,
    /// Which pairs the trained policy is asked about at the end: all of all splits (and the reference of all is then
    /// computed too, for pairs that no step needed after the last step), or those of the test split.
    pub posteriors: Posteriors,
    /// The adapter of `tune = "lora"`.
    pub lora: LoraConfig,
    /// Hidden states of `tune = "head"` and `"latent"`, and of the latent part's warm-up.
    pub head: HeadConfig,
    /// The objective.
    pub objective: ObjectiveConfig,
    /// The latent part.
    pub lpc: LpcConfig,
}

impl Default for TrainConfig {
    fn default() -> TrainConfig {
        TrainConfig {
            data: String::new(),
            model: "tiny".into(),
            out: String::new(),
            reference: String::new(),
            tune: Tune::Full,
            precision: Precision::F32,
            batch: 4,
            accumulate: 1,
            epochs: 1.0,
            max_steps: 0,
            lr: 5e-6,
            lr_schedule: LrSchedule::Cosine,
            warmup: 0.1,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            clip: 1.0,
            max_length: 4096,
            device: DeviceKind::Auto,
            kernels: Kernels::Auto,
            recompute: false,
            eval_every: 0,
            checkpoint_every: 200,
            keep_checkpoints: 1,
            keep_optimizer_state: false,
            save_model: true,
            posteriors: Posteriors::All,
            lora: LoraConfig::default(),
            head: HeadConfig::default(),
            objective: ObjectiveConfig::default(),
            lpc: LpcConfig::default(),
        }
    }
}

impl TrainConfig {
    /// The same with every default written out: what will run.
    #[must_use]
    pub fn resolved(&self) -> TrainConfig {
        let mut config = self.clone();
        config.objective = self.objective.resolved();
        if config.lpc.latent == LatentKind::Auto {
            config.lpc.latent =
                if config.objective.name == ObjectiveKind::Sft { LatentKind::None } else { LatentKind::Lpc };
        }
        config
    }

    /// Passes in which the latent part is trained alone before all else: none where it is always alone, or where there is
    /// nothing to train in it.
    pub fn latent_warmup(&self) -> f64 {
        let trained = self.lpc.active() && self.lpc.latent != LatentKind::Noise;
        if trained && self.tune != Tune::Latent { self.lpc.warmup } else { 0.0 }
    }

    /// The steps of a run over so many examples by so many ranks. The configuration must be [`resolved`](Self::resolved).
    pub fn plan(&self, examples: usize, ranks: usize) -> StepPlan {
        StepPlan::warmed(
            examples,
            self.batch * self.accumulate * ranks,
            self.latent_warmup(),
            self.epochs,
            self.max_steps,
        )
    }

    /// Settings that are missing, out of range or without effect.
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = self.objective.faults("train.objective");
        faults.extend(self.latent_faults());
        if self.tune == Tune::Lora {
            faults.extend(self.lora.faults("train.lora"));
        }
        let mut check = |fine: bool, key: &str, message: String| {
            if !fine {
                faults.push(Fault { origin: String::new(), key: format!("train.{key}"), message });
            }
        };
        check(!self.data.is_empty(), "data", "missing: give --data DIR, the output of lpc-pipe prepare".into());
        check(!self.out.is_empty(), "out", "missing: give --out DIR".into());
        check(!self.model.is_empty(), "model", "missing: give --model MODEL".into());
        let positive = |n: usize| n > 0;
        check(positive(self.batch), "batch", "expected at least 1".into());
        check(positive(self.accumulate), "accumulate", "expected at least 1".into());
        check(positive(self.keep_checkpoints), "keep_checkpoints", "expected at least 1".into());
        let only = |tune: &str| format!("has no effect without tune = {tune:?}");
        for key in self.lora.given() {
            check(self.tune == Tune::Lora, &format!("lora.{key}"), only("lora"));
        }
        let head = HeadConfig::default();
        for (key, given) in
            [("memory_mb", self.head.memory_mb != head.memory_mb), ("cache", self.head.cache != head.cache)]
        {
            let warms = self.resolved().latent_warmup() > 0.0;
            let why = "has no effect without tune \"head\" or \"latent\", or train.lpc.warmup".to_string();
            check(self.tune.keeps_states() || warms || !given, &format!("head.{key}"), why);
        }
        check(positive(self.max_length), "max_length", "expected at least 1".into());
        check(
            self.epochs > 0.0 && self.epochs.is_finite(),
            "epochs",
            format!("expected a number above 0, got {}", self.epochs),
        );
        for (key, value) in [
            ("lr", self.lr),
            ("weight_decay", self.weight_decay),
            ("clip", self.clip),
            ("adam_epsilon", self.adam_epsilon),
        ] {
            check(value >= 0.0 && value.is_finite(), key, format!("expected a number from 0, got {value}"));
        }
        for (key, value) in [("adam_beta1", self.adam_beta1), ("adam_beta2", self.adam_beta2)] {
            check((0.0..1.0).contains(&value), key, format!("expected 0 to below 1, got {value}"));
        }
        check((0.0..=1.0).contains(&self.warmup), "warmup", format!("expected 0 to 1, got {}", self.warmup));
        check(
            self.reference.is_empty() || self.objective.needs_reference(),
            "reference",
            "has no effect: this objective has no reference".into(),
        );
        faults.extend(super::device::faults(self));
        faults
    }
    /// Faults of the latent part, and of latent and objective together.
    fn latent_faults(&self) -> Vec<Fault> {
        let resolved = self.resolved();
        let (latent, objective) = (resolved.lpc.latent, &resolved.objective);
        let mut faults = resolved.lpc.faults("train.lpc");
        if objective.mix_flip == MixFlip::Learned {
            // A learned flip rate uses it, whatever the latent.
            faults.retain(|f| f.key != "train.lpc.lr");
        }
        let mut fault = |key: &str, message: &str| {
            faults.push(Fault { origin: String::new(), key: format!("train.{key}"), message: message.into() });
        };
        if objective.name == ObjectiveKind::Sft && resolved.lpc.active() {
            fault("lpc.latent", "objective \"sft\" has no pairs to learn a latent from; use \"none\"");
        }
        if self.tune == Tune::Latent {
            if !resolved.lpc.active() || latent == LatentKind::Noise {
                fault("tune", "\"latent\" needs a latent that is trained: --latent lpc");
            }
            if self.lpc.warmup != LpcConfig::of(self.lpc.preset).warmup {
                fault("lpc.warmup", "has no effect with tune \"latent\": the latent part is always alone");
            }
        }
        if latent == LatentKind::LpcReliable {
            if objective.name != ObjectiveKind::Mix {
                fault("lpc.latent", "\"lpc-reliable\" gives each code a flip rate: it needs objective \"mix\"");
            } else if objective.label_smoothing == 0.0 {
                let why = "learned flip rates cannot start at 0: there they have no gradient";
                fault("objective.label_smoothing", why);
            }
            if objective.mix_flip == MixFlip::Learned {
                let why = "has no effect with latent \"lpc-reliable\", which learns one for each code";
                fault("objective.mix_flip", why);
            }
        }
        faults
    }
}
