//! Pairs -> Arrow token batches: chat template, encoding, the file format.
//!
//! 1. A [`ModelTokenizer`] is read from a model folder or GGUF file, or trained on the corpus.
//! 2. [`ModelTokenizer::encode_pair`] renders the whole conversation with the chat template once
//!    per side, splits it where the rendering of the prompt alone ends, and returns token ids: the prompt
//!    with its generation header, and each response up to and including the end of turn.
//! 3. [`crate::token_file`] keeps the rows as Arrow IPC files.
//!
//! # Truncation
//! The same rule holds for both sides, in this order. A prompt longer than `max_prompt_length` loses its beginning: it
//! then starts with the first message from which on it fits. If not even its last message fits, it starts with the
//! opening of that message and continues at one of the message's lines, or at a token where no line fits. A
//! beginning-of-sequence token stays in front. Then each response is cut at `max_length` minus the prompt's length; a
//! cut response has no end of turn. A row with a cut prompt or response is marked `truncated`. A pair without room for
//! a response, or with equal responses after the cut, is dropped with a reason.

mod added;
mod bpe;
mod cut;
mod encode;
mod fast;
mod folder;
mod gguf;
mod metaspace;
mod parts;
mod pieces;
mod probe;
mod python;
mod show;
mod specials;
pub mod template;
mod texts;
mod tiny;
mod tokenizer;
mod words;

use serde::{Deserialize, Serialize};

use crate::message::Message;
use crate::settings::{Faults, PathText, Settings, settings};
use crate::token_file::TokenRow;

pub use texts::TokenTexts;
pub use tokenizer::ModelTokenizer;

settings! {
    /// Settings of tokenization.
    pub struct TokenizeConfig at "prepare.tokenize" {
        /// Tokens of prompt and response together; each response is cut there.
        pub max_length: usize = 1024;
        /// Tokens of the prompt; a longer one loses its beginning, whole messages or lines where it can.
        pub max_prompt_length: usize = 512;
        /// Chat template: `auto` (the model's own, else one chosen by the kind of model), a built-in
        /// one (`chatml`, `llama3`, `mistral`, `zephyr`), or the path of a `.jinja` file.
        pub template: PathText = "auto".into();
        /// Vocabulary of the tokenizer trained for a `tiny` model; other models bring their own.
        pub vocab_size: usize = 512;
    }
}

impl Settings for TokenizeConfig {
    /// Lengths leave room for something.
    fn judge(&self, faults: &mut Faults) {
        let message = "must be at least 2: a token of the prompt and one of the response";
        faults.check(self.max_length >= 2, "max_length", message);
        faults.check(self.max_prompt_length > 0, "max_prompt_length", "must be at least 1");
    }
}

/// One preference pair as text, labels as observed.
#[derive(Debug, Clone, Copy)]
pub struct PairText<'a> {
    /// Pair id.
    pub id: &'a str,
    /// Messages before the response.
    pub prompt: &'a [Message],
    /// The preferred response: one assistant message.
    pub chosen: &'a [Message],
    /// The other response: one assistant message.
    pub rejected: &'a [Message],
    /// Whether the observed label is the opposite of the clean one.
    pub flipped: bool,
    /// Source tag.
    pub source: &'a str,
}

/// The result of encoding a pair.
#[derive(Debug, Clone, PartialEq)]
pub enum Encoded {
    /// Token ids.
    Row(TokenRow),
    /// A pair without anything to train on; counted by reason.
    Dropped {
        /// `empty-prompt`, `response-not-one-turn`, `empty-response`, `prompt-too-long` or
        /// `identical-after-truncation`.
        reason: &'static str,
        /// The numbers that led to it.
        detail: String,
    },
    /// A row that the chat template or the tokenizer refuses.
    Refused(Refusal),
}

/// Why the chat template or the tokenizer refuses a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// One of [`crate::rejects::reason`].
    pub reason: &'static str,
    /// `prompt`, `chosen` or `rejected`.
    pub field: &'static str,
    /// What was found.
    pub message: String,
    /// What the user can do other than leave out the row.
    pub hint: Option<&'static str>,
}

/// Counts of what happened to pairs that were kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EncodeCounts {
    /// Prompts that lost their beginning.
    pub prompts_cut: u64,
    /// Of these: prompts that begin with a message.
    pub prompts_cut_at_message: u64,
    /// Of these: prompts that begin with a line of their last message.
    pub prompts_cut_at_line: u64,
    /// Of these: prompts that begin within a line of their last message.
    pub prompts_cut_at_token: u64,
    /// Chosen responses that lost their end.
    pub chosen_cut: u64,
    /// Rejected responses that lost their end.
    pub rejected_cut: u64,
    /// Responses that were tokenized apart from the prompt, as in generation, because their first token would have
    /// reached back into the prompt or changed its last tokens.
    pub forced_boundaries: u64,
    /// Responses whose text spells out the end-of-turn token, so that one comes before the last.
    pub ends_inside: u64,
    /// Pairs with a message whose text spells out one of [`ModelTokenizer::marks`], so that the model reads a header or
    /// an end of turn there.
    pub marks_inside: u64,
    /// Pairs with a message whose text the chat template changes beyond the white space around it, or writes in part.
    pub texts_changed: u64,
}

impl std::ops::AddAssign for EncodeCounts {
    fn add_assign(&mut self, other: EncodeCounts) {
        self.prompts_cut += other.prompts_cut;
        self.prompts_cut_at_message += other.prompts_cut_at_message;
        self.prompts_cut_at_line += other.prompts_cut_at_line;
        self.prompts_cut_at_token += other.prompts_cut_at_token;
        self.chosen_cut += other.chosen_cut;
        self.rejected_cut += other.rejected_cut;
        self.forced_boundaries += other.forced_boundaries;
        self.ends_inside += other.ends_inside;
        self.marks_inside += other.marks_inside;
        self.texts_changed += other.texts_changed;
    }
}
