//! A model's tokenizer with its chat template and special tokens: loading, saving, decoding.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::artifact;
use crate::error::{Error, Result};
use crate::message::Message;
use crate::source::ModelSource;

use super::TokenizeConfig;
use super::parts::{Before, OWN_KEY, Parts, Pieces, require_sound};
use super::pieces::Fast;
use super::probe::{self, TurnEnd};
use super::show::TEMPLATE_DATE;
use super::specials;
use super::template::{ChatTemplate, WrittenTexts};
use super::texts;

/// Special tokens that a saved tokenizer always names; others only if its template uses them.
const OWN_SPECIALS: [&str; 4] = ["bos_token", "eos_token", "unk_token", "pad_token"];

/// A tokenizer that is ready to encode preference pairs. Threads can share it.
pub struct ModelTokenizer {
    pub(super) inner: Tokenizer,
    pub(super) fast: Option<Fast>,
    pub(super) template: ChatTemplate,
    pub(super) turn: TurnEnd,
    /// The texts of the tokens that the template writes around messages.
    pub(super) marks: Vec<String>,
    pub(super) wants_bos: bool,
    pub(super) bos: Option<u32>,
    /// Tokens after which a text may be split without changing the ids of either half.
    pub(super) cuts: BTreeMap<u32, String>,
    /// Whether the continuation of a text can be tokenized without the text before it.
    pub(super) continues: bool,
    eos: Option<u32>,
    stop_ids: BTreeSet<u32>,
    specials: BTreeMap<String, String>,
    kind: String,
    model: String,
    pub(super) json: Vec<u8>,
    vocab_size: usize,
    byte_level: bool,
    model_max_length: usize,
}

impl std::fmt::Debug for ModelTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelTokenizer").field("model", &self.model).field("template", &self.template.name()).finish()
    }
}

impl ModelTokenizer {
    /// Opens a folder that [`ModelTokenizer::save`] wrote, with the folder's template.
    ///
    /// # Errors
    /// As [`ModelTokenizer::load`].
    pub fn open(folder: &Path) -> Result<ModelTokenizer> {
        ModelTokenizer::load(&ModelSource::Folder(folder.to_path_buf()), &TokenizeConfig::default())
    }

    /// Reads the tokenizer of a model folder or GGUF file.
    ///
    /// # Errors
    /// [`Error::Model`] where files are missing, damaged or of a kind that is not understood;
    /// [`Error::Config`] where `config.template` names no template.
    pub fn load(source: &ModelSource, config: &TokenizeConfig) -> Result<ModelTokenizer> {
        let parts = match source {
            ModelSource::Folder(folder) => super::folder::parts(folder)?,
            ModelSource::Gguf(path) => super::gguf::parts(path)?,
            ModelSource::Tiny { .. } => {
                return Err(Error::model("tiny", "has no tokenizer of its own: one is trained on the corpus")
                    .with_hint("name a prepared folder's tokenizer, or another model"));
            }
        };
        Self::assemble(parts, &config.template)
    }

    /// Assembles a tokenizer and finds out how its template ends a turn.
    pub(super) fn assemble(parts: Parts, wanted_template: &str) -> Result<ModelTokenizer> {
        let bad = |what: String| Error::model(&parts.model, what);
        let damaged = |what: String| bad(format!("tokenizer.json: {what}"));
        let parsed = |json: &[u8]| serde_json::from_slice::<Value>(json).map_err(|e| damaged(e.to_string()));
        let mut json = parts.json;
        let mut shape = parsed(&json)?;
        require_sound(&shape).map_err(damaged)?;
        let mut inner = Tokenizer::from_bytes(&json).map_err(|e| damaged(e.to_string()))?;
        if let Some(with_all) = specials::added(&json, &inner, &parts.named).map_err(bad)? {
            json = with_all;
            inner = Tokenizer::from_bytes(&json).map_err(|e| damaged(e.to_string()))?;
            shape = parsed(&json)?;
        }
        // This program truncates by its own rule, not by the file's.
        inner.with_truncation(None).map_err(|e| bad(e.to_string()))?;
        inner.with_padding(None);

        let mut specials = parts.specials;
        let mut ids = BTreeMap::new();
        for (name, text) in &specials {
            match inner.token_to_id(text) {
                Some(id) => drop(ids.insert(name.clone(), id)),
                // Padding is never tokenized, but templates may name it.
                None if specials::is_spare(name) => {}
                None => return Err(bad(format!("{name} `{text}` is not in the vocabulary"))),
            }
        }
        let bos = ids.get("bos_token").copied();
        let eos = ids.get("eos_token").copied();
        let adds_bos = match parts.add_bos {
            Some(says) => says,
            None => bos.is_some() && probe::post_processor_adds(&inner, bos).map_err(bad)?,
        };
        // This program places BOS and end of turn itself, and a post-processor might trim offsets.
        inner.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
        if bos.is_none() {
            specials.remove("bos_token");
        }

        let has = |token: &str| inner.token_to_id(token).is_some();
        let (name, source) =
            probe::pick_template(wanted_template, parts.template, &parts.model_type, &parts.model, has)?;
        specials.retain(|name, _| OWN_SPECIALS.contains(&name.as_str()) || source.contains(name.as_str()));
        let template = ChatTemplate::new(&name, &source, &specials)?;
        let turn = probe::find_turn_end(&inner, &template, eos, &parts.model)?;

        let marks = probe::marks(&inner, &template, &turn, &parts.model)?;

        let vocab = inner.get_vocab(true);
        let vocab_size = vocab.values().max().map_or(0, |max| *max as usize + 1);
        let mut stop_ids = parts.stop_ids;
        stop_ids.retain(|id| (*id as usize) < vocab_size);
        stop_ids.extend(eos);
        stop_ids.insert(turn.id);
        let fast = Fast::new(&shape, &inner);
        let continues = fast.as_ref().is_some_and(Fast::continues) || probe::independent_of_start(&shape);
        let tokenizer = ModelTokenizer {
            fast,
            cuts: if continues { probe::cut_tokens(&inner) } else { BTreeMap::new() },
            continues,
            byte_level: probe::has_byte_level(&shape["decoder"]) || probe::has_byte_level(&shape["pre_tokenizer"]),
            wants_bos: adds_bos && bos.is_some(),
            model_max_length: parts.model_max_length,
            kind: parts.kind,
            model: parts.model,
            json,
            inner,
            template,
            turn,
            marks,
            bos,
            eos,
            stop_ids,
            specials,
            vocab_size,
        };
        tokenizer.require_one_bos()?;
        Ok(tokenizer)
    }

    /// Refuses a template and a tokenizer that both put a BOS at the beginning of a conversation.
    fn require_one_bos(&self) -> Result<()> {
        // A BOS that also ends turns may occur more than once.
        let begins = |bos: &u32| *bos != self.turn.id && self.begins_with_bos();
        let Some(bos) = self.bos.filter(begins) else { return Ok(()) };
        let Ok(text) = self.template.render(&[Message::user("probe")], true) else { return Ok(()) };
        let ids = self.with_bos(self.encode_text(&text)?);
        let found = ids.iter().filter(|id| **id == bos).count();
        if found < 2 {
            return Ok(());
        }
        let token = self.decode_token(bos);
        let what = if ids.starts_with(&[bos, bos]) {
            format!("a conversation would begin with `{token}` twice")
        } else {
            format!("a conversation of one turn would hold `{token}` {found} times: {text:?}")
        };
        let hint = "the template must write it once, at the very beginning, or not at all";
        Err(Error::model(&self.model, format!("chat template `{}`: {what}", self.template.name())).with_hint(hint))
    }

    /// Ids of a text with the byte range that each covers. `before` may be other than [`Before::Nothing`] only where
    /// `continues` is true.
    pub(super) fn pieces(&self, text: &str, before: Before) -> Result<Pieces> {
        if let Some(pieces) = self.fast.as_ref().and_then(|fast| fast.pieces(text, before)) {
            return Ok(pieces);
        }
        let encoded = self.inner.encode(text, false).map_err(|e| Error::run(format!("tokenizing: {e}")))?;
        let spans = encoded.get_offsets().iter().map(|(start, end)| (*start as u32, *end as u32)).collect();
        Ok((encoded.get_ids().to_vec(), spans))
    }

    /// Ids of a text. Special tokens in the text are recognised; none is added.
    ///
    /// # Errors
    /// [`Error::Run`] where the tokenizer fails.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.pieces(text, Before::Nothing)?.0)
    }

    /// Ids of a conversation up to where the assistant's next turn begins, with BOS where the model wants one.
    ///
    /// # Errors
    /// [`Error::Model`] where the template fails or leaves out a message; [`Error::Run`] where the tokenizer fails.
    pub fn encode_prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let text = self.template.render(messages, true)?;
        if let WrittenTexts::LeftOut(at) = self.template.written(messages, &text, true) {
            return Err(Error::model(&self.model, self.template.left_out(messages, at)));
        }
        Ok(self.with_bos(self.encode_text(&text)?))
    }

    /// Ids with a BOS in front, if the model wants one and they do not begin with it.
    pub fn with_bos(&self, mut ids: Vec<u32>) -> Vec<u32> {
        if let Some(bos) = self.bos.filter(|_| self.lacks_bos(&ids)) {
            ids.insert(0, bos);
        }
        ids
    }

    /// Whether the model wants a BOS in front and the ids do not begin with it.
    pub(super) fn lacks_bos(&self, ids: &[u32]) -> bool {
        self.wants_bos && self.bos.is_some_and(|bos| ids.first() != Some(&bos))
    }

    /// Text of ids, without special tokens if `skip_special`.
    ///
    /// # Errors
    /// [`Error::Model`] where the tokenizer fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner.decode(ids, skip_special).map_err(|e| Error::model(&self.model, format!("decoding: {e}")))
    }

    /// Text of one token with its leading space; a part of a character becomes U+FFFD.
    pub fn decode_token(&self, id: u32) -> String {
        let Some(token) = self.inner.id_to_token(id) else { return format!("<{id}>") };
        if self.inner.get_added_vocabulary().get_added_tokens_decoder().contains_key(&id) {
            return token;
        }
        texts::of_token(&token, self.byte_level)
    }

    /// One more than the highest token id.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// How many tokens a model must know for this tokenizer. One that is made to fit knows all. Others may lack added
    /// tokens at the end that only texts could spell out, such as one for padding: neither the chat template, nor BOS,
    /// nor an end of generation is among them.
    pub fn vocabulary_for(&self, model: &ModelSource) -> usize {
        if matches!(model, ModelSource::Tiny { .. }) {
            return self.vocab_size;
        }
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        let named = self.specials.iter().filter(|(name, _)| !specials::is_spare(name)).map(|(_, text)| text);
        let texts: BTreeSet<&String> = named.chain(&self.marks).collect();
        let needed = |id: &u32| match added.get(id) {
            None => self.inner.id_to_token(*id).is_some(),
            Some(token) => self.stop_ids.contains(id) || self.bos == Some(*id) || texts.contains(&token.content),
        };
        (0..self.vocab_size as u32).rev().find(needed).map_or(0, |last| last as usize + 1)
    }

    /// Beginning of sequence, where the model has one.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// End of sequence, where the model has one.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos
    }

    /// End of the assistant's turn: the last token of every uncut response.
    pub fn eot_id(&self) -> u32 {
        self.turn.id
    }

    /// The texts of the tokens that the chat template writes around messages: headers and ends of turns.
    pub fn marks(&self) -> &[String] {
        &self.marks
    }

    /// Tokens that end generation, ascending.
    pub fn stop_ids(&self) -> Vec<u32> {
        self.stop_ids.iter().copied().collect()
    }

    /// The chat template.
    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    /// Facts for a manifest: kind, hashes, template, special ids.
    pub fn facts(&self) -> Value {
        let mut facts = json!({
            "kind": self.kind,
            "vocab_size": self.vocab_size,
            "tokenizer_blake3": blake3::hash(&self.json).to_hex().to_string(),
            "template": self.template.name(),
            "template_blake3": self.template.hash(),
            "bos_id": self.bos,
            "eos_id": self.eos,
            "eot_id": self.turn.id,
            "eot_token": self.inner.id_to_token(self.turn.id),
            "eot_by_template": self.turn.rendered,
            "adds_bos": self.wants_bos,
        });
        if self.template.source().contains("strftime_now") {
            facts["template_date"] = json!(TEMPLATE_DATE);
        }
        facts
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json`, which `AutoTokenizer` and
    /// [`ModelTokenizer::load`] read back as the same tokenizer.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, folder: &Path) -> Result<()> {
        artifact::write_bytes(folder.join("tokenizer.json"), &self.json)?;
        let mut config = json!({ "tokenizer_class": "PreTrainedTokenizerFast" });
        for (name, text) in &self.specials {
            config[name] = json!(text);
        }
        config["eot_token"] = json!(self.inner.id_to_token(self.turn.id));
        config["add_bos_token"] = json!(self.wants_bos);
        config["clean_up_tokenization_spaces"] = json!(false);
        // The number that `transformers` writes where it knows no limit does not fit an integer.
        config["model_max_length"] = json!(if self.model_max_length > 0 { self.model_max_length } else { 1 << 30 });
        config["chat_template"] = json!(self.template.source());
        config[OWN_KEY] = json!({
            "kind": self.kind,
            "template": self.template.name(),
            "stop_ids": self.stop_ids,
        });
        artifact::write_json(folder.join("tokenizer_config.json"), &config)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::template::builtin;
    use super::super::{Encoded, PairText};
    use super::*;

    pub(crate) fn says(role: &str, content: &str) -> Message {
        Message { role: role.into(), content: content.into() }
    }

    /// A trained tokenizer with a token for two newlines and some words.
    pub(crate) fn tiny() -> ModelTokenizer {
        let texts = (0..60).map(|i| format!("Good answers{}\n\nBad answers, {} of them\n\n", i % 9, i % 5));
        ModelTokenizer::train_tiny(texts, 340).unwrap()
    }

    /// The same vocabulary with another template; BOS is `<|endoftext|>`, and `add_bos` says whether it is added.
    pub(crate) fn with(template: &str, add_bos: bool) -> ModelTokenizer {
        let parts = Parts {
            kind: "test".into(),
            model: "test".into(),
            json: tiny().json,
            specials: [("bos_token", "<|endoftext|>"), ("eos_token", "<|im_end|>")]
                .map(|(a, b)| (a.into(), b.into()))
                .into(),
            add_bos: Some(add_bos),
            template: Some(("own".into(), template.into())),
            ..Parts::default()
        };
        ModelTokenizer::assemble(parts, "auto").unwrap()
    }

    fn row(tokenizer: &ModelTokenizer) -> crate::token_file::TokenRow {
        let (prompt, chosen, rejected) =
            ([says("user", "Which?")], [says("assistant", "Good \u{e9}.")], [says("assistant", "Bad")]);
        let pair =
            PairText { id: "0", prompt: &prompt, chosen: &chosen, rejected: &rejected, flipped: false, source: "s" };
        match tokenizer.encode_pair(&pair, &TokenizeConfig::default()).unwrap() {
            Encoded::Row(row) => row,
            other => panic!("{other:?}"),
        }
    }

    fn folder_of(tokenizer: &ModelTokenizer) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        tokenizer.save(dir.path()).unwrap();
        dir
    }

    fn load(folder: &Path, template: &str) -> Result<ModelTokenizer> {
        let config = TokenizeConfig { template: template.into(), ..TokenizeConfig::default() };
        ModelTokenizer::load(&ModelSource::Folder(folder.into()), &config)
    }

    #[test]
    fn what_is_saved_is_loaded() {
        for tokenizer in [tiny(), with(builtin("mistral").unwrap(), true), with(builtin("zephyr").unwrap(), false)] {
            let dir = folder_of(&tokenizer);
            let again = load(dir.path(), "auto").unwrap();
            assert_eq!(again.facts(), tokenizer.facts());
            assert_eq!(again.stop_ids(), tokenizer.stop_ids());
            assert_eq!(row(&again), row(&tokenizer));
            let twice = folder_of(&again);
            for name in ["tokenizer.json", "tokenizer_config.json"] {
                let read = |d: &tempfile::TempDir| std::fs::read(d.path().join(name)).unwrap();
                assert_eq!(read(&dir), read(&twice), "{name}");
            }
        }
    }

    #[test]
    fn folders_say_things_in_several_ways() {
        let dir = folder_of(&tiny());
        let write = |name: &str, value: Value| artifact::write_json(dir.path().join(name), &value).unwrap();
        let named =
            json!([{"name": "tools", "template": "no"}, {"name": "default", "template": builtin("zephyr").unwrap()}]);
        write(
            "tokenizer_config.json",
            json!({"bos_token": {"content": "<|endoftext|>"}, "eos_token": {"content": "<|im_end|>"}, "add_bos_token": true, "chat_template": named}),
        );
        write("generation_config.json", json!({"eos_token_id": [2, 0]}));
        let tokenizer = load(dir.path(), "auto").unwrap();
        assert_eq!((tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.wants_bos), (Some(0), Some(2), true));
        assert_eq!(tokenizer.stop_ids(), [0, 2]);
        assert_eq!(tokenizer.template().source(), builtin("zephyr").unwrap());

        std::fs::write(dir.path().join("chat_template.jinja"), builtin("chatml").unwrap()).unwrap();
        assert_eq!(load(dir.path(), "auto").unwrap().template().source(), builtin("chatml").unwrap());
        assert_eq!(load(dir.path(), "mistral").unwrap().template().name(), "mistral");
        let file = dir.path().join("chat_template.jinja").display().to_string();
        assert_eq!(load(dir.path(), &file).unwrap().template().name(), file);

        // Only config.json names the end of sequence.
        std::fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
        write("tokenizer_config.json", json!({}));
        write("config.json", json!({"eos_token_id": 2, "model_type": "llama"}));
        let bare = load(dir.path(), "auto").unwrap();
        assert_eq!((bare.eos_id(), bare.template().name()), (Some(2), "chatml"));
    }

    #[test]
    fn templates_that_cannot_be_are_refused() {
        let dir = folder_of(&tiny());
        let error = load(dir.path(), "chatlm").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("did you mean `chatml`?"), "{error}");
        std::fs::write(dir.path().join("x.jinja"), "{{ raise_exception('never') }}").unwrap();
        let path = dir.path().join("x.jinja").display().to_string();
        assert!(load(dir.path(), &path).unwrap_err().to_string().contains("never"));
        std::fs::write(dir.path().join("x.jinja"), "{% for m in messages %}{{ m.content | upper }}{% endfor %}")
            .unwrap();
        assert!(load(dir.path(), &path).unwrap_err().to_string().contains("unchanged"));
        let marked = load(dir.path(), "llama3").unwrap_err();
        let said = "the chat template `llama3` ends a turn with `<|eot_id|>`, which is no token of this tokenizer";
        assert!(marked.to_string().contains(said) && marked.exit_code() == 3, "{marked}");
        std::fs::write(dir.path().join("x.jinja"), "{% for m in messages %}{{ m.content + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ 'answer:' }}{% endif %}").unwrap();
        let fickle = load(dir.path(), &path).unwrap_err().to_string();
        assert!(fickle.contains("\"answer:\" alone, \"probeanswer<|im_end|>\" with it"), "{fickle}");
        let padded = json!({"eos_token": "<|im_end|>", "pad_token": "[PAD]"});
        artifact::write_json(dir.path().join("tokenizer_config.json"), &padded).unwrap();
        assert_eq!(load(dir.path(), "auto").unwrap().eos_id(), Some(2));
        assert_eq!(load(Path::new("/nowhere"), "auto").unwrap_err().exit_code(), 3);
        let source = ModelSource::Tiny { width: 64, layers: 2 };
        assert!(ModelTokenizer::load(&source, &TokenizeConfig::default()).is_err());
    }

    #[test]
    fn tokens_are_shown_as_text() {
        let tokenizer = tiny();
        let row = row(&tokenizer);
        let text = |ids: &[u32]| ids.iter().map(|&id| tokenizer.decode_token(id)).collect::<String>();
        assert_eq!(text(&row.prompt_ids), "<|im_start|>user\nWhich?<|im_end|>\n<|im_start|>assistant\n");
        // The two bytes of é were never merged.
        assert_eq!(text(&row.chosen_ids), "Good \u{fffd}\u{fffd}.<|im_end|>");
        assert_eq!(tokenizer.decode(&row.chosen_ids, true).unwrap(), "Good \u{e9}.");
        assert_eq!(tokenizer.decode_token(999_999), "<999999>");
    }
}
