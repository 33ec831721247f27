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
    Bytes(FastBpe),
    Metaspace(FastMetaspace),
}

impl Fast {
    /// The way for a `tokenizer.json`, where there is one.
    pub(super) fn new(shape: &Value, inner: &Tokenizer) -> Option<Fast> {
        let bytes = FastBpe::new(shape, inner).map(Fast::Bytes);
        bytes.or_else(|| FastMetaspace::new(shape, inner).map(Fast::Metaspace))
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
