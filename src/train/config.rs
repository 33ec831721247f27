//! What `train` can be told.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::lpc::{LatentKind, LpcConfig};
use crate::model::LoraConfig;
use crate::nn::Precision;
use crate::objective::{MixFlip, ObjectiveConfig, ObjectiveKind};
use crate::settings::{Faults, PathText, Settings, Table as _, joined, settings};
use crate::train::device::{self, DeviceKind, Kernels, PrecisionKind};
use crate::train::fold::Fold;
use crate::train::held_out::HeldOut;
use crate::train::step_plan::StepPlan;
use crate::train::validation::{ValidationConfig, ValidationMetric};

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

settings! {
    /// Options of `--tune head`, `--tune latent` and of the latent part's warm-up.
    pub struct HeadConfig at "train.head" {
        /// Most MiB of hidden states to hold in memory; more is read from their file as it is needed.
        pub memory_mb: usize = 2048;
        /// Folder of the files of hidden states; "" = `hidden` in the prepared folder, or in that of the sweep.
        pub cache: String = String::new();
    }
}

impl Settings for HeadConfig {}

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

settings! {
    /// Options of `train`.
    pub struct TrainConfig at "train" {
        /// Prepared folder.
        pub data: PathText = PathText::new();
        /// Model to start from, and the reference unless `reference` names another: folder, run folder, .gguf, hub id, `tiny[:WxL]`. A PEFT
        /// adapter folder is trained on as an adapter with `tune = "lora"`, and merged into its base otherwise.
        pub model: PathText = "tiny".into();
        /// Run folder.
        pub out: PathText = PathText::new();
        /// Reference policy where it is another model than the one that training starts from, in the same forms (without
        /// codes that stand beside it); or a file of log-probabilities, `.parquet`, that `score` wrote with `model` on this
        /// data. "" = the model that training starts from. What a model says is taken from the prepared folder's cache,
        /// and computed where it is not there.
        pub reference: PathText = PathText::new(), used "objectives with a reference"
            if |c| c.objective.needs_reference();
        /// Which parameters are trained.
        pub tune: Tune = Tune::Full;
        /// Operands of the matrix products: `bf16` with float32 weights and sums, about twice as fast where the
        /// processor has AVX512-BF16 and refused where it has not; `f32`; `auto` = `bf16` there and on an NVIDIA GPU for
        /// models at least 256 wide, which gain by it, `f32` elsewhere, and `f32` with a file of `score` as `reference`, which
        /// computes in float32. What `auto` came to is in the run's `config.toml`.
        pub precision: PrecisionKind = PrecisionKind::Auto;
        /// Pairs in one pass.
        pub batch: usize = 4;
        /// Passes whose gradients are added up to one step.
        pub accumulate: usize = 1;
        /// Passes over the data; may be a fraction. Schedules run over these.
        pub epochs: f64 = 1.0;
        /// Stop after this many steps if the epochs make more; 0 = no limit. Schedules do not change, so that a
        /// run that was stopped here can be resumed with a higher limit.
        pub max_steps: usize = 0;
        /// Peak learning rate of the backbone. Adapters and heads of their own usually want more: 1e-5 to 6e-4. It has no
        /// effect with `tune = "latent"`, whose rates are `train.lpc.lr` and `train.lpc.code_lr`.
        pub lr: f64 = 5e-6;
        /// How it moves.
        pub lr_schedule: LrSchedule = LrSchedule::Cosine;
        /// Share of the run over which it rises from 0.
        pub warmup: f64 = 0.1;
        /// Decoupled weight decay of the backbone's matrices; `train.lpc.weight_decay` is that of the latent part.
        pub weight_decay: f64 = 0.0;
        /// AdamW's decay of the first moment.
        pub adam_beta1: f64 = 0.9;
        /// AdamW's decay of the second moment.
        pub adam_beta2: f64 = 0.999;
        /// AdamW's epsilon.
        pub adam_epsilon: f64 = 1e-8;
        /// Largest global norm of a step's gradient; 0 = no clipping.
        pub clip: f64 = 1.0;
        /// Longest sequence (prompt and one response) that is trained on, in tokens; longer pairs are an error.
        pub max_length: usize = 4096;
        /// Where the backbone computes; the latent part and the losses are always in memory.
        pub device: DeviceKind = DeviceKind::Auto;
        /// What the backbone is computed with.
        pub kernels: Kernels = Kernels::Auto;
        /// Whether backward passes compute each layer again from its input: less memory, about a third more time, the
        /// same numbers.
        pub recompute: bool = false;
        /// Steps between two evaluations on the test split; 0 = only at the end.
        pub eval_every: usize = 0;
        /// Steps between two checkpoints; 0 = only when stopped.
        pub checkpoint_every: usize = 200;
        /// Checkpoints kept.
        pub keep_checkpoints: usize = 1;
        /// Whether a finished run keeps the optimizer's moments in its last checkpoint (twice the size of what was
        /// trained), so that one that `max_steps` ended can go on from there; without them it can only take its steps
        /// again.
        pub keep_optimizer_state: bool = false;
        /// Whether the trained model is written to the run folder.
        pub save_model: bool = true;
        /// Which pairs the trained policy is asked about at the end: all of all splits (and the reference of all is
        /// then computed too, for pairs that no step needed after the last step), or those of the test split.
        pub posteriors: Posteriors = Posteriors::All;
        /// Whether the implicit reward margin of every pair is written to `dynamics.parquet` at the end of each epoch,
        /// for which all pairs are evaluated. `audit` asks its models for it.
        pub dynamics: bool = false;
        /// Cross-fitting: `I/N` holds the training pairs of the I-th of N parts of the prompts out, and evaluates on
        /// them in place of the test split; "" = none. The parts depend on the seed.
        pub fold: String = String::new();
        /// Validation on held-out training prompts.
        pub validation: ValidationConfig;
        /// The adapter of `tune = "lora"`.
        pub lora: LoraConfig, used "tune = \"lora\"" if |c| c.tune == Tune::Lora;
        /// Hidden states of `tune = "head"` and `"latent"`, and of the latent part's warm-up.
        pub head: HeadConfig, used "tune \"head\" or \"latent\", or train.lpc.warmup"
            if |c| c.uses_kept_states();
        /// The objective.
        pub objective: ObjectiveConfig;
        /// The latent part.
        pub lpc: LpcConfig;
    }
}

impl Settings for TrainConfig {
    fn judge(&self, faults: &mut Faults) {
        faults.extend(self.objective.faults());
        self.judge_latent(faults);
        if self.tune == Tune::Lora {
            faults.extend(self.lora.faults());
        }
        faults.check(!self.data.is_empty(), "data", "missing: give --data DIR, the output of lpc-pipe prepare");
        faults.check(!self.out.is_empty(), "out", "missing: give --out DIR");
        faults.check(!self.model.is_empty(), "model", "missing: give --model MODEL");
        for (key, n) in [
            ("batch", self.batch),
            ("accumulate", self.accumulate),
            ("keep_checkpoints", self.keep_checkpoints),
            ("max_length", self.max_length),
        ] {
            faults.check(n > 0, key, "expected at least 1");
        }
        let step = self.batch.checked_mul(self.accumulate).filter(|n| *n <= u32::MAX as usize);
        faults.check(step.is_some(), "batch", format!("with accumulate, a step has at most {} pairs", u32::MAX));
        let epochs = self.epochs;
        let fine = epochs > 0.0 && epochs.is_finite();
        faults.check(fine, "epochs", format!("expected a number above 0, got {epochs}"));
        for (key, value) in [
            ("lr", self.lr),
            ("weight_decay", self.weight_decay),
            ("clip", self.clip),
            ("adam_epsilon", self.adam_epsilon),
        ] {
            faults.check(value >= 0.0 && value.is_finite(), key, format!("expected a number from 0, got {value}"));
        }
        for (key, value) in [("adam_beta1", self.adam_beta1), ("adam_beta2", self.adam_beta2)] {
            faults.check((0.0..1.0).contains(&value), key, format!("expected 0 to below 1, got {value}"));
        }
        let warmup = self.warmup;
        faults.check((0.0..=1.0).contains(&warmup), "warmup", format!("expected 0 to 1, got {warmup}"));
        if let Err(message) = Fold::parse(&self.fold) {
            faults.add("fold", message);
        }
        faults.extend(self.validation.faults());
        if self.dynamics && self.validation.patience > 0 {
            faults.add("dynamics", "has the margins after every epoch: train.validation.patience may leave epochs out");
        }
        device::judge(self.device, self.kernels, self.precision, faults);
    }

    fn why_unused(&self, name: &str, used_by: &str) -> String {
        match name {
            "reference" => "has no effect: this objective has no reference".into(),
            _ => format!("has no effect without {used_by}"),
        }
    }
}

impl TrainConfig {
    /// The same with every default written out: what will run.
    #[must_use]
    pub fn resolved(&self) -> TrainConfig {
        let mut config = self.clone();
        config.objective = self.objective.resolved();
        if config.objective.name == ObjectiveKind::Sft && config.validation.fraction > 0.0 {
            config.validation.metric = ValidationMetric::Loss;
        }
        if config.lpc.latent == LatentKind::Auto {
            config.lpc.latent =
                if config.objective.name == ObjectiveKind::Sft { LatentKind::None } else { LatentKind::Lpc };
        }
        config
    }

    /// The same without the settings of a latent part that have no effect because there is none, and their keys: for a
    /// recipe of codes, of which the baseline is trained. Those that are `kept` stay, and are faults.
    #[must_use]
    pub fn without_idle_latent(&self, kept: &dyn Fn(&str) -> bool) -> (TrainConfig, Vec<String>) {
        let resolved = self.resolved();
        if resolved.lpc.latent != LatentKind::None {
            return (self.clone(), Vec::new());
        }
        // Only faults are left out: some settings of the latent part have another use.
        let faults = self.faults();
        let dropped = |key: &String| faults.iter().any(|fault| fault.key == *key) && !kept(key);
        let named = |group: &str, idle: Vec<(String, String)>| -> Vec<String> {
            idle.iter().map(|(name, _)| joined(group, name)).filter(dropped).collect()
        };
        let of_lpc = named(LpcConfig::KEY, resolved.lpc.idle());
        let mut of_head = named(Self::KEY, resolved.idle());
        of_head.retain(|key| key.starts_with(HeadConfig::KEY));
        let mut config = self.clone();
        config.lpc = self.lpc.without(|setting| of_lpc.contains(&joined(LpcConfig::KEY, setting.name)));
        config.head = self.head.without(|setting| of_head.contains(&joined(HeadConfig::KEY, setting.name)));
        (config, [of_lpc, of_head].concat())
    }

    /// Operands of the matrix products on this machine, for a model of this width.
    pub fn operands(&self, width: usize) -> Precision {
        if self.precision == PrecisionKind::Auto && self.uses_given_reference() {
            return Precision::F32;
        }
        self.precision.on(self.device, self.kernels, width)
    }

    fn uses_given_reference(&self) -> bool {
        self.reference_file().is_some() && self.objective.needs_reference()
    }

    /// The file of reference log-probabilities, where one is named.
    pub fn reference_file(&self) -> Option<&str> {
        let path = Path::new(&self.reference);
        let ends = |wanted: &str| path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case(wanted));
        let file = ends("parquet") || (path.is_file() && !ends("gguf"));
        file.then_some(self.reference.as_str())
    }

    /// The model that is the reference, where one is named and the objective has a reference.
    pub fn reference_model(&self) -> Option<&str> {
        let model = !self.reference.is_empty() && self.reference_file().is_none() && self.objective.needs_reference();
        model.then_some(self.reference.as_str())
    }

    /// The pairs that are held out. The configuration must have no fault.
    pub fn held_out(&self) -> HeldOut {
        HeldOut { fold: Fold::parse(&self.fold).ok().flatten(), validation: self.validation.fraction }
    }

    /// Passes in which the latent part is trained alone before all else: none where it is always alone, or where there
    /// is nothing to train in it.
    pub fn latent_warmup(&self) -> f64 {
        let trained = self.lpc.active() && self.lpc.latent != LatentKind::Noise;
        if trained && self.tune != Tune::Latent { self.lpc.warmup } else { 0.0 }
    }

    /// Whether hidden states are kept for the whole run or its warm-up.
    pub fn uses_kept_states(&self) -> bool {
        self.tune.keeps_states() || self.resolved().latent_warmup() > 0.0
    }

    /// Settings of the backbone that have no effect because it never moves, in words. They are no faults: recipes and
    /// scripts give them for several tunes. One that is given its default cannot be told from one that is not given.
    pub fn idle_rates(&self) -> Option<String> {
        let default = TrainConfig::default();
        let rates = "the latent part learns at train.lpc.lr (its networks) and train.lpc.code_lr (its codes)";
        let idle = [
            (self.lr != default.lr)
                .then(|| format!("train.lr = {:e} has no effect with tune \"latent\": {rates}", self.lr)),
            (self.weight_decay != default.weight_decay).then(|| {
                let decay = self.weight_decay;
                format!("train.weight_decay = {decay} has no effect with tune \"latent\": see train.lpc.weight_decay")
            }),
        ];
        let idle: Vec<String> = idle.into_iter().flatten().filter(|_| self.tune == Tune::Latent).collect();
        (!idle.is_empty()).then(|| idle.join("; "))
    }

    /// The steps of a run over so many examples by so many ranks. The configuration must be
    /// [`resolved`](Self::resolved).
    pub fn plan(&self, examples: usize, ranks: usize) -> StepPlan {
        StepPlan::new(examples, self.batch * self.accumulate * ranks, self.latent_warmup(), self.epochs, self.max_steps)
    }

    /// Judges the latent part, and latent and objective together.
    fn judge_latent(&self, faults: &mut Faults) {
        let resolved = self.resolved();
        let (latent, objective) = (resolved.lpc.latent, &resolved.objective);
        // A learned flip rate uses the learning rate, whatever the latent.
        let uses_lr = objective.mix_flip == MixFlip::Learned;
        faults.extend(resolved.lpc.faults().into_iter().filter(|f| !(uses_lr && f.key == "train.lpc.lr")));
        if objective.name == ObjectiveKind::Sft && resolved.lpc.active() {
            faults.add("lpc.latent", "objective \"sft\" has no pairs to learn a latent from; use \"none\"");
        }
        if self.tune == Tune::Latent {
            if !resolved.lpc.active() || latent == LatentKind::Noise {
                faults.add("tune", "\"latent\" needs a latent that is trained: --latent lpc; for a baseline --tune full or lora, with its own beta and learning rate");
            }
            if self.lpc.warmup != LpcConfig::of(self.lpc.preset).warmup {
                faults.add("lpc.warmup", "has no effect with tune \"latent\": the latent part is always alone");
            }
        }
        if latent == LatentKind::LpcReliable {
            if objective.name != ObjectiveKind::Mix {
                faults.add("lpc.latent", "\"lpc-reliable\" gives each code a flip rate: it needs objective \"mix\"");
            } else if objective.label_smoothing == 0.0 {
                let why = "learned flip rates cannot start at 0: there they have no gradient";
                faults.add("objective.label_smoothing", why);
            }
            if objective.mix_flip == MixFlip::Learned {
                let why = "has no effect with latent \"lpc-reliable\", which learns one for each code";
                faults.add("objective.mix_flip", why);
            }
        }
    }
}
