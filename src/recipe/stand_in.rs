//! Configurations of stages that are not wired yet, with the keys that recipes use.

use serde::{Deserialize, Serialize};

macro_rules! config {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident : $kind:ty = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name { $($(#[$field_doc])* pub $field: $kind,)* }
        impl Default for $name {
            fn default() -> Self { Self { $($field: $default,)* } }
        }
    };
}

config! {
    /// The planted-factor corpus.
    SynthConfig {
        /// Folder to write; "" must be given.
        out: String = String::new(),
        /// Prompts.
        rows: usize = 2000,
        /// Planted factors.
        factors: usize = 4,
    }
}
config! {
    /// Reading of raw files.
    IngestConfig {
        /// Layout of the input.
        format: String = "auto".into(),
        /// Source tag for rows without one.
        source: String = String::new(),
        /// `fail` or `skip`.
        on_bad_row: String = "fail".into(),
    }
}
config! {
    /// Choice of pairs.
    PairsConfig {
        /// How the pair is chosen among the completions.
        rule: String = "best-vs-random".into(),
        /// Share of prompts held out.
        test_fraction: f64 = 0.05,
    }
}
config! {
    /// Label noise.
    NoiseConfig {
        /// Share of labels to flip.
        rate: f64 = 0.0,
        /// Noise model.
        kind: String = "uniform".into(),
        /// Text added to flipped prompts; "" adds none.
        marker: String = String::new(),
        /// Seed of the flips.
        seed: u64 = 0,
    }
}
config! {
    /// Lengths in tokens.
    TokenizeConfig {
        /// Prompt and response together.
        max_length: usize = 1024,
        /// Prompt alone.
        max_prompt_length: usize = 512,
    }
}
config! {
    /// From raw files to tokens.
    PrepareConfig {
        /// Input files.
        input: Vec<String> = Vec::new(),
        /// Folder to write.
        out: String = String::new(),
        /// Model whose tokenizer and template are used.
        tokenizer: String = String::new(),
        /// Reading.
        ingest: IngestConfig = IngestConfig::default(),
        /// Pairs.
        pairs: PairsConfig = PairsConfig::default(),
        /// Noise.
        noise: NoiseConfig = NoiseConfig::default(),
        /// Tokens.
        tokenize: TokenizeConfig = TokenizeConfig::default(),
    }
}
config! {
    /// The loss on a pair.
    ObjectiveConfig {
        /// Name.
        name: String = "dpo".into(),
        /// Strength of the pull to the reference.
        beta: f64 = 0.1,
        /// Assumed share of wrong labels.
        label_smoothing: f64 = 0.0,
        /// SimPO's target margin over beta.
        gamma_beta_ratio: f64 = 0.5,
        /// IPO: `mean` or `sum` over tokens.
        reduction: String = "mean".into(),
    }
}
config! {
    /// The latent.
    LpcConfig {
        /// Variant.
        latent: String = "lpc".into(),
        /// Number of codes.
        codes: usize = 8,
        /// Weight of KL(q || p).
        kl_weight: f64 = 0.05,
    }
}
config! {
    /// Training.
    TrainConfig {
        /// Prepared folder.
        data: String = String::new(),
        /// Model.
        model: String = String::new(),
        /// Run folder.
        out: String = String::new(),
        /// What is trained.
        tune: String = "full".into(),
        /// Pairs a step.
        batch: usize = 4,
        /// Batches a step.
        accumulate: usize = 1,
        /// Passes over the data.
        epochs: f64 = 1.0,
        /// Steps; 0 goes by epochs.
        max_steps: usize = 0,
        /// Peak learning rate of the backbone.
        lr: f64 = 5e-6,
        /// Objective.
        objective: ObjectiveConfig = ObjectiveConfig::default(),
        /// Latent.
        lpc: LpcConfig = LpcConfig::default(),
    }
}
