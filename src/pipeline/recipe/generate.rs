//! Settings of `generate`.

use crate::nn::Precision;
use crate::settings::{Faults, PathText, Settings, settings};

/// Value of [`GenerateConfig::code`] that stands for the prior's mixture of codes.
pub const PRIOR: i64 = -1;

settings! {
    /// Options of `generate`.
    pub struct GenerateConfig at "generate" {
        /// Model that answers: a run folder, or any model; a latent part beside it is used, with the prior's z.
        pub model: PathText = PathText::new();
        /// Model or prepared folder's `tokenizer` whose tokenizer and chat template are used; "" = the model's own.
        pub tokenizer: PathText = PathText::new();
        /// Prompts, each the text of a user's message.
        pub prompt: Vec<String> = Vec::new();
        /// File of prompts: rows with `instruction`, `prompt`, `question` or `messages` (JSON lines, a JSON array, CSV,
        /// Parquet, Arrow, also on the hub), or a `.txt` file with one prompt a line; "" = none.
        pub prompts: PathText = PathText::new();
        /// JSON lines to write, one a completion; "" = none, the answers are the result.
        pub out: PathText = PathText::new();
        /// Prompts go in as they are, without the chat template.
        pub raw: bool = false;
        /// Chat template: as `prepare.tokenize.template`.
        pub template: PathText = "auto".into(), used "raw = false" if |c| !c.raw;
        /// The code whose z is used in place of the prior's mixture, from 0; -1 = the prior's mixture.
        pub code: i64 = PRIOR, used "all_codes = false" if |c| !c.all_codes;
        /// Answers each prompt with the prior's mixture and once with every code.
        pub all_codes: bool = false;
        /// Most tokens of an answer.
        pub max_new_tokens: usize = 256;
        /// Divides the logits before a token is drawn; 0 = the likeliest token, always.
        pub temperature: f64 = 0.0;
        /// Draws from the fewest likeliest tokens whose probabilities sum to this.
        pub top_p: f64 = 1.0, used "a temperature above 0" if |c| c.temperature != 0.0;
        /// Prompts that are answered together; it changes speed and memory, not the answers.
        pub batch: usize = 16;
        /// Operands of the products with weights: f32, or bf16 (where the processor multiplies bfloat16).
        pub precision: Precision = Precision::F32;
        /// Name of the model in the output; "" = the model as it was named.
        pub generator: String = String::new();
    }
}

impl Settings for GenerateConfig {
    fn judge(&self, faults: &mut Faults) {
        faults.check(!self.model.is_empty(), "model", "missing: give --model, a run folder or a model");
        let asked = !self.prompt.is_empty() || !self.prompts.is_empty();
        faults.check(asked, "prompt", "missing: give --prompt TEXT, or --prompts FILE");
        faults.check(self.code >= PRIOR, "code", format!("expected a code from 0, or -1, got {}", self.code));
        faults.check(self.max_new_tokens > 0, "max_new_tokens", "expected at least 1");
        faults.check(self.batch > 0, "batch", "expected at least 1");
        let fine = self.temperature >= 0.0 && self.temperature.is_finite();
        faults.check(fine, "temperature", format!("expected 0 or more, got {}", self.temperature));
        let fine = self.top_p > 0.0 && self.top_p <= 1.0;
        faults.check(fine, "top_p", format!("expected a share above 0, up to 1, got {}", self.top_p));
    }
}
