//! A model that answers or is evaluated: its policy and its tokenizer.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::batch::Split;
use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::model::{InferenceDecoder, LlamaConfig};
use crate::nn::Precision;
use crate::policy::{Policy, PromptPrior, saved};
use crate::progress::Progress;
use crate::schema::{prepared, run};
use crate::seed::Seed;
use crate::source::ModelSource;
use crate::token_file::visited;
use crate::tokenize::{ModelTokenizer, TokenTexts, TokenizeConfig};
use crate::train::reference;
use crate::weights::load;

/// Where a model is that a run's settings name: see [`Manifest::located`]. `tiny` is no path.
pub fn located_model(manifest: &Manifest, folder: &Path, name: &str) -> String {
    if ModelSource::is_tiny(name) { name.to_string() } else { manifest.located(folder, name) }
}

/// A model's source and tokenizer; its weights are not read yet.
#[derive(Debug)]
pub struct OpenedModel {
    source: ModelSource,
    from: ModelSource,
    /// The tokenizer, with the chat template.
    pub tokenizer: ModelTokenizer,
    /// Longest sequence that the model was made for.
    pub most_tokens: usize,
}

/// A model's weights, laid out, and what gives the prior's z. Where the prior reads hidden states, the weights are there
/// twice.
#[derive(Debug)]
pub struct ForInference {
    /// For the prior's z.
    pub prior: PromptPrior,
    /// The decoder.
    pub model: InferenceDecoder,
    /// [`reference::fingerprint`] of the policy, where results are to be kept.
    pub fingerprint: Option<String>,
}

/// A model's name as it is resolved: a run folder stands for the model in it.
///
/// # Errors
/// [`Error::Artifact`] for a run folder without a model.
pub fn model_name(name: &str) -> Result<String> {
    let folder = Path::new(name);
    if folder.join(prepared::MANIFEST).is_file() && !folder.join("config.json").is_file() {
        let manifest = Manifest::read(folder)?;
        if manifest.stage == "train" {
            let model = folder.join(run::MODEL);
            if !model.is_dir() {
                return Err(Error::artifact(&model, "no model")
                    .with_hint("train keeps it unless it is told --set train.save_model=false"));
            }
            return Ok(model.display().to_string());
        }
    }
    Ok(name.to_string())
}

/// A model by its name, or by that of its run folder.
///
/// # Errors
/// As [`model_name`] and [`ModelSource::resolve`].
pub fn source(name: &str, progress: &dyn Progress) -> Result<ModelSource> {
    ModelSource::resolve(&model_name(name)?, progress)
}

/// Files and folders that are read for a model.
pub fn read_for(model: &str, tokenizer: &str) -> Vec<PathBuf> {
    [model, tokenizer].into_iter().filter(|name| !name.is_empty()).map(PathBuf::from).collect()
}

/// The model whose tokenizer a model has: its own, else that of the model below an adapter or a latent part.
fn with_tokenizer(model: &ModelSource) -> Result<ModelSource> {
    let below = match model {
        ModelSource::Folder(folder) if !folder.join("tokenizer.json").is_file() => load::below(folder)?,
        _ => None,
    };
    Ok(below.unwrap_or_else(|| model.clone()))
}

/// Pairs of each split whose tokens [`require_tokens`] compares.
const COMPARED_PAIRS: usize = 1000;

/// Refuses a prepared folder whose token ids stand for other tokens in the model's own vocabulary: every number would be
/// wrong, and none would look so. A model without a tokenizer of its own passes.
///
/// # Errors
/// [`Error::Artifact`] with the first such id; as [`TokenTexts::of_model`].
pub fn require_tokens(folder: &Path, splits: &[Split], model: &ModelSource) -> Result<()> {
    let Some(theirs) = TokenTexts::of_model(&with_tokenizer(model)?)? else { return Ok(()) };
    let own = TokenTexts::open(&folder.join(prepared::TOKENIZER))?;
    let rows = splits.iter().flat_map(|split| split.rows.iter().take(COMPARED_PAIRS));
    let ids: HashSet<u32> = rows
        .flat_map(|row| [&row.prompt_ids, &row.chosen_ids, &row.rejected_ids])
        .flat_map(|ids| ids.to_vec())
        .collect();
    match own.first_difference(&theirs, ids) {
        None => Ok(()),
        Some((id, own, theirs)) => {
            let message = format!(
                "prepared with another tokenizer than the model's: token {id} is {own:?} here, {theirs:?} there"
            );
            Err(Error::artifact(folder, message).with_hint("prepare the data with --tokenizer MODEL"))
        }
    }
}

/// Refuses prepared pairs with a token that the model has no embedding for. Only a text that spells out an added token
/// has one: see [`ModelTokenizer::vocabulary_for`].
///
/// # Errors
/// [`Error::Artifact`] with the first such pair.
pub fn require_embedded(
    folder: &Path,
    splits: &[Split],
    tokenizer: &ModelTokenizer,
    shape: &LlamaConfig,
) -> Result<()> {
    let known = shape.vocab_size;
    if tokenizer.vocab_size() <= known {
        return Ok(());
    }
    for row in splits.iter().flat_map(|split| &split.rows) {
        for ids in [&row.prompt_ids, &row.chosen_ids, &row.rejected_ids] {
            visited(ids.len());
            if let Some(id) = ids.iter().find(|&&id| id as usize >= known) {
                let message = format!(
                    "pair {} has token {id} ({:?}), and the model knows {known} tokens",
                    row.id.as_str(),
                    tokenizer.decode_token(*id)
                );
                return Err(Error::artifact(folder, message)
                    .with_hint("a text of this pair spells the token out: leave the pair out, or change the text"));
            }
        }
    }
    Ok(())
}

/// A warning where pairs are longer than the model was made for; `tiny` has no such limit.
pub fn beyond_positions(model: &ModelSource, shape: &LlamaConfig, longest: usize) -> Option<String> {
    let made_for = shape.max_position_embeddings;
    (longest > made_for && !matches!(model, ModelSource::Tiny { .. })).then(|| {
        format!(
            "a pair has {longest} tokens, and the model was made for {made_for} (max_position_embeddings): beyond them \
             its probabilities mean little; prepare with --max-length {made_for}"
        )
    })
}

impl OpenedModel {
    /// Finds a model and its tokenizer: that of `tokenizer` where one is named, else the model's own, else that of the
    /// model below an adapter or a latent part.
    ///
    /// # Errors
    /// [`Error::Model`] where the model or a tokenizer is not to be had.
    pub fn new(model: &str, tokenizer: &str, template: &str, progress: &dyn Progress) -> Result<OpenedModel> {
        let source = source(model, progress)?;
        let from = match (tokenizer, &source) {
            ("", _) => with_tokenizer(&source)?,
            (name, _) => ModelSource::tokenizer(name, progress)?,
        };
        let config = TokenizeConfig { template: template.into(), ..TokenizeConfig::default() };
        let tokenizer = ModelTokenizer::load(&from, &config)?;
        let most_tokens = load::shape(&source, tokenizer.vocabulary_for(&source))?.max_position_embeddings;
        Ok(OpenedModel { source, from, tokenizer, most_tokens })
    }

    /// Refuses a prepared folder that has other tokens than the model: [`require_tokens`].
    ///
    /// # Errors
    /// As [`require_tokens`].
    pub fn require_tokens(&self, folder: &Path, splits: &[Split]) -> Result<()> {
        require_tokens(folder, splits, &self.from)
    }

    /// Refuses a model, `name` to the user, in whose own tokenizer one of these ids stands for another token: it would be
    /// asked about other texts.
    ///
    /// # Errors
    /// [`Error::Model`] with the first such id; as [`TokenTexts::of_model`].
    pub fn require_same_tokens(&self, name: &str, model: &ModelSource, ids: HashSet<u32>) -> Result<()> {
        let texts = |model: &ModelSource| TokenTexts::of_model(&with_tokenizer(model)?);
        let (Some(own), Some(theirs)) = (texts(&self.from)?, texts(model)?) else { return Ok(()) };
        match own.first_difference(&theirs, ids) {
            None => Ok(()),
            Some((id, own, theirs)) => {
                let message = format!(
                    "has another tokenizer than the model that is evaluated: token {id} is {theirs:?} here, {own:?} there"
                );
                Err(Error::model(name, message).with_hint("a reference reads the same token ids as the model"))
            }
        }
    }

    /// The model or folder that the tokenizer was read from.
    pub fn tokenizer_from(&self) -> String {
        self.from.to_string()
    }

    /// Reads the weights, for sequences of up to `longest` tokens, with their fingerprint where results are to be kept.
    ///
    /// # Errors
    /// As [`saved::open`].
    pub fn weights(&self, seed: Seed, longest: usize, precision: Precision, keep: bool) -> Result<ForInference> {
        let policy = saved::open::<f32>(&self.source, self.tokenizer.vocabulary_for(&self.source), seed, longest)?;
        let fingerprint = keep.then(|| reference::fingerprint(&policy)).transpose()?;
        ForInference::of(policy, longest, precision, fingerprint)
    }
}

impl ForInference {
    /// Lays out a policy's weights.
    ///
    /// # Errors
    /// As [`InferenceDecoder::new`].
    pub fn of(
        policy: Policy<f32>,
        longest: usize,
        precision: Precision,
        fingerprint: Option<String>,
    ) -> Result<ForInference> {
        let config = policy.decoder.config.clone();
        if policy.lpc.as_ref().is_some_and(|lpc| lpc.config.reads_states()) {
            let model = InferenceDecoder::new(&config, &policy.params, longest, precision)?;
            return Ok(ForInference { prior: PromptPrior::Policy(Box::new(policy)), model, fingerprint });
        }
        let Policy { params, decoder, lpc, .. } = policy;
        // It holds the weights too.
        drop(decoder);
        let model = InferenceDecoder::of_own(&config, params, longest, precision)?;
        Ok(ForInference { prior: PromptPrior::Latent(lpc.map(Box::new)), model, fingerprint })
    }
}
