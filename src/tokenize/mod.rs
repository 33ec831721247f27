//! Pairs -> Arrow token batches: chat template, encoding, the file format.
//! (stand-in with the final interface: bytes as tokens)
#![allow(missing_docs)]

pub mod store;

use crate::error::{Error, Result};
use crate::message::Message;
use crate::source::ModelSource;
use serde::{Deserialize, Serialize};
use store::TokenRow;

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizeConfig {
    pub max_length: usize,
    pub max_prompt_length: usize,
    pub template: String,
    pub vocab_size: usize,
}

impl Default for TokenizeConfig {
    fn default() -> Self {
        TokenizeConfig { max_length: 1024, max_prompt_length: 512, template: "auto".into(), vocab_size: 512 }
    }
}

pub struct PairText<'a> {
    pub id: &'a str,
    pub prompt: &'a [Message],
    pub chosen: &'a [Message],
    pub rejected: &'a [Message],
    pub flipped: bool,
    pub source: &'a str,
}

pub enum Encoded {
    Row(TokenRow),
    Dropped { reason: &'static str, detail: String },
}

pub struct ModelTokenizer;

impl ModelTokenizer {
    pub fn load(_: &ModelSource, _: &TokenizeConfig) -> Result<ModelTokenizer> {
        Ok(ModelTokenizer)
    }
    pub fn train_tiny<'a>(texts: impl Iterator<Item = &'a str>, _: usize) -> Result<ModelTokenizer> {
        texts.for_each(drop);
        Ok(ModelTokenizer)
    }
    pub fn encode_pair(&self, pair: &PairText<'_>, config: &TokenizeConfig) -> Result<Encoded> {
        let ids = |m: &[Message], n: usize| -> Vec<u32> {
            m.iter().flat_map(|m| m.content.bytes()).map(u32::from).take(n).collect()
        };
        let prompt_ids = ids(pair.prompt, config.max_prompt_length);
        if prompt_ids.len() >= config.max_length {
            let detail = format!("{} prompt tokens leave no room", prompt_ids.len());
            return Ok(Encoded::Dropped { reason: "prompt-too-long", detail });
        }
        let room = config.max_length - prompt_ids.len();
        let (chosen_ids, rejected_ids) = (ids(pair.chosen, room), ids(pair.rejected, room));
        Ok(Encoded::Row(TokenRow {
            id: pair.id.into(),
            prompt_ids,
            truncated: chosen_ids.len() == room || rejected_ids.len() == room,
            chosen_ids,
            rejected_ids,
            flipped: pair.flipped,
            source: pair.source.into(),
        }))
    }
    pub fn save(&self, folder: &std::path::Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        crate::artifact::write_bytes(folder.join("tokenizer.json"), b"{}\n")
    }
    pub fn facts(&self) -> serde_json::Value {
        serde_json::json!({"name": "bytes"})
    }
}
