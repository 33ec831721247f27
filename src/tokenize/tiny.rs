//! The tokenizer of a `tiny` model: byte-level BPE trained on the corpus at hand.

use std::collections::BTreeMap;

use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, Tokenizer};

use crate::error::{Error, Result};

use super::ModelTokenizer;
use super::parts::Parts;
use super::template::builtin;

/// Special tokens, in the order of their ids.
const SPECIALS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// Most bytes of text to train on; more text hardly changes the first five hundred merges.
const TRAINING_BYTES: usize = 8 << 20;

/// The smallest vocabulary: 256 bytes and the special tokens.
const SMALLEST: usize = 256 + SPECIALS.len();

impl ModelTokenizer {
    /// Trains a byte-level BPE with the ChatML template. The result is a function of the set of
    /// texts alone: neither their order nor the number of threads matters. Of a large corpus the
    /// texts with the smallest BLAKE3 hashes are used, up to 8 MiB.
    ///
    /// # Errors
    /// [`Error::Config`] where the vocabulary has no room for the 256 bytes and the special tokens.
    pub fn train_tiny<S: AsRef<str>>(texts: impl Iterator<Item = S>, vocab_size: usize) -> Result<ModelTokenizer> {
        if vocab_size < SMALLEST {
            let message = format!("{vocab_size} is too small: at least {SMALLEST} (256 bytes and the special tokens)");
            return Err(Error::config("prepare.tokenize.vocab_size", message));
        }
        let fail = |what: tokenizers::Error| Error::run(format!("training the tokenizer: {what}"));
        let pre_tokenizer = Sequence::new(vec![Digits::new(true).into(), ByteLevel::new(false, true, true).into()]);
        let mut tokenizer = Tokenizer::new(BPE::default());
        tokenizer.with_pre_tokenizer(Some(pre_tokenizer));
        tokenizer.with_decoder(Some(ByteLevel::new(true, true, true)));
        let mut trainer: TrainerWrapper = BpeTrainer::builder()
            .vocab_size(vocab_size)
            .min_frequency(2)
            .show_progress(false)
            .special_tokens(SPECIALS.map(|text| AddedToken::from(text, true)).to_vec())
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build()
            .into();
        tokenizer.train(&mut trainer, sample(texts).into_values()).map_err(fail)?;
        let json = tokenizer.to_string(false).map_err(fail)?.into_bytes();
        // As in instruction-tuned models with this template, the end of turn is the end of sequence.
        let specials = [("eos_token", 2), ("pad_token", 0), ("unk_token", 0)];
        let parts = Parts {
            kind: "tiny".into(),
            model: "tiny".into(),
            json,
            specials: specials.map(|(name, i)| (name.to_string(), SPECIALS[i].to_string())).into(),
            add_bos: Some(false),
            template: builtin("chatml").map(|source| ("chatml".into(), source.into())),
            ..Parts::default()
        };
        Self::assemble(parts, "auto")
    }
}

/// The distinct texts with the smallest hashes, as many as fit into [`TRAINING_BYTES`] (at least one). No text with a
/// larger hash than one that was dropped is accepted later, so the result does not depend on the order of the texts.
fn sample<S: AsRef<str>>(texts: impl Iterator<Item = S>) -> BTreeMap<[u8; 32], String> {
    let mut kept: BTreeMap<[u8; 32], String> = BTreeMap::new();
    let mut ceiling = None;
    let mut bytes = 0;
    for text in texts {
        let text = text.as_ref();
        let hash = *blake3::hash(text.as_bytes()).as_bytes();
        if ceiling.is_some_and(|ceiling| hash >= ceiling) {
            continue;
        }
        if kept.insert(hash, text.to_string()).is_none() {
            bytes += text.len();
        }
        while bytes > TRAINING_BYTES && kept.len() > 1 {
            if let Some((hash, dropped)) = kept.pop_last() {
                bytes -= dropped.len();
                ceiling = Some(hash);
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corpus() -> Vec<String> {
        let words = ["answer", "question", "because", "therefore", "numbers", "\u{e9}t\u{e9}", "short", "longer"];
        let text =
            |i: usize| format!("{} {}{}: {}", words[i % 8], words[i * 3 % 7], words[i % 5], "na ".repeat(i % 11));
        (0..300).map(text).collect()
    }

    #[test]
    fn training_is_a_function_of_the_set_of_texts() {
        let texts = corpus();
        let one = ModelTokenizer::train_tiny(texts.iter(), 320).unwrap();
        let other = ModelTokenizer::train_tiny(texts.iter().rev().chain(&texts), 320).unwrap();
        assert_eq!(one.facts(), other.facts());
        for threads in [1, 4] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let again = pool.install(|| ModelTokenizer::train_tiny(texts.iter(), 320).unwrap());
            assert_eq!(one.facts()["tokenizer_blake3"], again.facts()["tokenizer_blake3"]);
        }
        let different = ModelTokenizer::train_tiny(texts[..3].iter(), 320).unwrap();
        assert_ne!(one.facts(), different.facts());
    }

    #[test]
    fn the_vocabulary_is_as_asked() {
        let tokenizer = ModelTokenizer::train_tiny(corpus().iter(), 300).unwrap();
        assert_eq!(tokenizer.vocab_size(), 300);
        assert_eq!((tokenizer.eos_id(), tokenizer.eot_id(), tokenizer.bos_id()), (Some(2), 2, None));
        let text = "any \u{1f600} text, 123!\n";
        let ids = tokenizer.encode_text(text).unwrap();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        assert_eq!(ModelTokenizer::train_tiny(corpus().iter(), 100).unwrap_err().exit_code(), 2);
        let untrained = ModelTokenizer::train_tiny(std::iter::empty::<&str>(), 512).unwrap();
        assert_eq!(untrained.vocab_size(), SMALLEST);
    }

    #[test]
    fn the_sample_does_not_depend_on_order() {
        let texts: Vec<String> =
            (0..40).map(|i| char::from(b'a' + i % 26).to_string().repeat(1 << (10 + i % 11))).collect();
        let big: Vec<String> = texts.iter().chain(&texts).enumerate().map(|(i, t)| format!("{i}{t}")).collect();
        let keys = |it: &mut dyn Iterator<Item = &String>| sample(it).into_keys().collect::<Vec<_>>();
        let forward = keys(&mut big.iter());
        assert!(forward.len() < big.len());
        assert_eq!(forward, keys(&mut big.iter().rev()));
        assert_eq!(forward, keys(&mut big[20..].iter().chain(&big[..20])));
    }
}
