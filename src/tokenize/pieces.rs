//! The fast tokenizers of this program, for the kinds of `tokenizer.json` that they support.

use serde_json::Value;
use tokenizers::Tokenizer;

use super::fast::FastBpe;
use super::metaspace::FastMetaspace;
use super::parts::{Before, Pieces};

pub(super) enum Fast {
    Bytes(Box<FastBpe>),
    Metaspace(Box<FastMetaspace>),
}

impl Fast {
    /// The fast tokenizer for a `tokenizer.json`; `None` for a kind that is not supported.
    pub(super) fn new(shape: &Value, inner: &Tokenizer) -> Option<Fast> {
        let bytes = FastBpe::new(shape, inner).map(|fast| Fast::Bytes(fast.into()));
        bytes.or_else(|| FastMetaspace::new(shape, inner).map(|fast| Fast::Metaspace(fast.into())))
    }

    /// Ids of a text with the bytes that each covers; `None` for a text that `tokenizers` must encode.
    pub(super) fn pieces(&self, text: &str, before: Before) -> Option<Pieces> {
        match self {
            Fast::Bytes(fast) => fast.takes(text).then(|| fast.pieces(text)),
            Fast::Metaspace(fast) => Some(fast.pieces(text, before)),
        }
    }

    /// Whether it can encode a text that continues another.
    pub(super) fn continues(&self) -> bool {
        matches!(self, Fast::Metaspace(_))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::path::{Path, PathBuf};
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

    /// Compares ids on real vocabularies and texts, and prints the tokens a second of both.
    #[test]
    #[ignore = "needs scripts/fetch_tokenizers.sh, and real data in the folder LPC_PIPE_DATA; `just test-all` runs it"]
    fn real_vocabularies_give_the_ids_of_the_library() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let data = std::env::var_os("LPC_PIPE_DATA").map_or_else(|| root.join("../shared/data"), PathBuf::from);
        let texts = texts(&data.join("ultrafeedback_binarized/train.jsonl.gz"));
        let texts = &texts[..2000.min(texts.len())];
        for name in ["llama2", "llama3", "mistral_nemo", "qwen2_5", "gemma2"] {
            let folder = root.join("models/tokenizers").join(name);
            let json = std::fs::read(folder.join("tokenizer.json")).unwrap();
            let shape: Value = serde_json::from_slice(&json).unwrap();
            let mut inner = Tokenizer::from_bytes(&json).unwrap();
            inner.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
            let Some(fast) = Fast::new(&shape, &inner) else {
                eprintln!("{name}: no fast tokenizer");
                continue;
            };
            let (mut ours, mut theirs, mut tokens) = (Duration::ZERO, Duration::ZERO, 0);
            for text in texts {
                let begin = Instant::now();
                let Some((found, _)) = fast.pieces(text, Before::Nothing) else { continue };
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
