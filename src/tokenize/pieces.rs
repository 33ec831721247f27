//! Text to ids with the bytes that each covers: by one of our own ways where the tokenizer is of a
//! kind we know, else by `tokenizers`.

use serde_json::Value;
use tokenizers::Tokenizer;

use crate::error::{Error, Result};

use super::ModelTokenizer;
use super::fast::FastBpe;
use super::metaspace::FastMetaspace;

/// Token ids with the byte range of the text that each covers.
pub(super) type Pieces = (Vec<u32>, Vec<(u32, u32)>);

/// What stands before a text that is to be tokenized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// It is the beginning.
    Nothing,
    /// An added token, which ends there.
    Token,
    /// More text: nothing may be put between.
    Text,
}

/// The kinds of tokenizers that have a way of their own.
pub(super) enum Fast {
    Bytes(Box<FastBpe>),
    Metaspace(Box<FastMetaspace>),
}

impl Fast {
    /// The way for a `tokenizer.json`, where there is one.
    pub(super) fn new(shape: &Value, inner: &Tokenizer) -> Option<Fast> {
        let bytes = FastBpe::new(shape, inner).map(|fast| Fast::Bytes(fast.into()));
        bytes.or_else(|| FastMetaspace::new(shape, inner).map(|fast| Fast::Metaspace(fast.into())))
    }

    /// Whether it continues a text as well as it begins one.
    pub(super) fn continues(&self) -> bool {
        matches!(self, Fast::Metaspace(_))
    }
}

impl ModelTokenizer {
    /// Ids of a text with the bytes that each covers. Anything but [`Before::Nothing`] only where
    /// [`ModelTokenizer::continues`] is true.
    pub(super) fn pieces(&self, text: &str, before: Before) -> Result<Pieces> {
        match &self.fast {
            Some(Fast::Bytes(fast)) if fast.takes(text) => return Ok(fast.pieces(text)),
            Some(Fast::Metaspace(fast)) => return Ok(fast.pieces(text, before)),
            _ => {}
        }
        let encoded = self.inner.encode(text, false).map_err(|e| Error::run(format!("tokenizing: {e}")))?;
        let spans = encoded.get_offsets().iter().map(|(start, end)| (*start as u32, *end as u32)).collect();
        Ok((encoded.get_ids().to_vec(), spans))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::path::Path;
    use std::time::{Duration, Instant};

    use super::*;

    /// All texts of a file of JSON lines, whatever their fields are called.
    fn texts(path: &Path) -> Vec<String> {
        fn collect(value: Value, into: &mut Vec<String>) {
            match value {
                Value::String(text) => into.push(text),
                Value::Array(items) => items.into_iter().for_each(|item| collect(item, into)),
                Value::Object(fields) => fields.into_iter().for_each(|(_, item)| collect(item, into)),
                _ => {}
            }
        }
        let (mut raw, mut found) = (String::new(), Vec::new());
        let file = std::fs::File::open(path).unwrap();
        flate2::read::GzDecoder::new(file).read_to_string(&mut raw).unwrap();
        raw.lines().for_each(|line| collect(serde_json::from_str(line).unwrap(), &mut found));
        found
    }

    /// Real vocabularies on real texts, where both are at hand.
    #[test]
    fn real_vocabularies_give_the_ids_of_the_library() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let corpus = std::env::var_os("LPC_PIPE_PAIRS").map(std::path::PathBuf::from);
        let corpus = corpus.unwrap_or_else(|| root.join("../shared/data/ultrafeedback_binarized/train.jsonl.gz"));
        let folders = std::fs::read_dir(root.join("models/tokenizers")).into_iter().flatten().flatten();
        let folders: Vec<_> = folders.map(|entry| entry.path()).filter(|p| p.join("tokenizer.json").exists()).collect();
        if folders.is_empty() || !corpus.exists() {
            eprintln!("skipped: needs scripts/fetch_tokenizers.sh and {} (or LPC_PIPE_PAIRS)", corpus.display());
            return;
        }
        let texts: Vec<String> = texts(&corpus).into_iter().take(2000).collect();
        for folder in folders {
            let json = std::fs::read(folder.join("tokenizer.json")).unwrap();
            let shape: Value = serde_json::from_slice(&json).unwrap();
            let mut inner = Tokenizer::from_bytes(&json).unwrap();
            inner.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
            let name = folder.file_name().unwrap().to_string_lossy().into_owned();
            let Some(fast) = Fast::new(&shape, &inner) else {
                eprintln!("{name}: no way of its own");
                continue;
            };
            let (mut ours, mut theirs, mut tokens) = (Duration::ZERO, Duration::ZERO, 0);
            for text in &texts {
                let begin = Instant::now();
                let found = match &fast {
                    Fast::Bytes(fast) if fast.takes(text) => fast.pieces(text).0,
                    Fast::Bytes(_) => continue,
                    Fast::Metaspace(fast) => fast.pieces(text, Before::Nothing).0,
                };
                ours += begin.elapsed();
                let begin = Instant::now();
                let expected = inner.encode(text.as_str(), false).unwrap();
                theirs += begin.elapsed();
                assert_eq!(found, expected.get_ids(), "{name}: {text:?}");
                tokens += found.len();
            }
            let rate = |time: Duration| tokens as f64 / time.as_secs_f64() / 1e6;
            eprintln!("{name}: {tokens} tokens, {:.2} million a second; the library {:.2}", rate(ours), rate(theirs));
        }
    }
}
