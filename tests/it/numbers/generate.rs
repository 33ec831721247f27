//! z in generation and in the scoring of answers is the z of evaluation.

use lpc_pipe::lpc::{CodeSpace, LatentKind, LpcConfig, Pooling, PriorInput};
use lpc_pipe::model::{InferenceDecoder, LogitShift, Prompts};
use lpc_pipe::nn::Precision;
use lpc_pipe::policy::{Policy, PromptPrior, evaluate};
use lpc_pipe::token_file::TokenRow;

use super::policies::{LATENTS, LONGEST, latent, llama, pairs, policy};

/// Summed log-probability of a response behind a prompt, with a shift.
fn scored(model: &InferenceDecoder, prompt: &[u32], response: &[u32], shift: Option<&LogitShift>) -> f64 {
    let whole = [prompt, response].concat();
    let h = model.hidden(Prompts::pack(&[&whole]).unwrap().tokens()).unwrap();
    let width = model.config().hidden_size;
    let predicting = &h[(prompt.len() - 1) * width..(whole.len() - 1) * width];
    let shifts = vec![shift; response.len()];
    model.token_logps(predicting, &shifts, response).unwrap().iter().map(|(logp, _)| f64::from(*logp)).sum()
}

/// Every kind of latent, in both code spaces, with priors that read tokens, states of a layer, or both.
fn configs() -> Vec<LpcConfig> {
    let mut all: Vec<LpcConfig> = LATENTS.iter().chain(&[LatentKind::Noise]).map(|&kind| latent(kind)).collect();
    let codes = latent(LatentKind::Lpc);
    for code_space in [CodeSpace::Hidden, CodeSpace::Vocabulary] {
        for prior_input in [PriorInput::None, PriorInput::Tokens, PriorInput::States, PriorInput::Both] {
            let (prompt_pooling, prompt_layer) = match prior_input {
                PriorInput::Both => (Pooling::Mean, 1),
                _ => (Pooling::Last, -1),
            };
            all.push(LpcConfig { code_space, prior_input, prompt_pooling, prompt_layer, ..codes.clone() });
        }
    }
    all
}

#[test]
fn answers_are_scored_as_evaluation_scores_them() {
    let rows: Vec<TokenRow> = pairs(6);
    for config in configs() {
        let policy: Policy<f32> = policy(&llama(true), &config);
        let model = InferenceDecoder::new(&policy.decoder.config, &policy.params, LONGEST, Precision::F32).unwrap();
        let examples = evaluate(&policy, &rows, |_| {}).unwrap();
        let prior = PromptPrior::Latent(policy.lpc.clone().map(Box::new));
        let codes = prior.code_shifts().unwrap();
        // The same decoder of parameters that it gives up one by one.
        let own = InferenceDecoder::of_own(&policy.decoder.config, policy.params.clone(), LONGEST, Precision::F32);
        let own = own.unwrap();
        let mut differ = false;
        for (row, example) in rows.iter().zip(&examples) {
            let latent = policy.prompt_latent(&row.prompt_ids).unwrap();
            let of = |response: &[u32], shift| scored(&model, &row.prompt_ids, response, shift);
            let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-4 * (1.0 + b.abs()), "{config:?}: {a} {b}");
            close(of(&row.chosen_ids, latent.shift.as_ref()), example.logps.0);
            close(of(&row.rejected_ids, latent.shift.as_ref()), example.logps.1);
            assert_eq!(scored(&own, &row.prompt_ids, &row.chosen_ids, None), of(&row.chosen_ids, None));
            if !policy.lpc.as_ref().is_some_and(|lpc| lpc.config.reads_states()) {
                assert_eq!(prior.prompt_latent(&row.prompt_ids).unwrap(), latent, "{config:?}");
            }
            differ |= (of(&row.chosen_ids, None) - example.logps.0).abs() > 1e-2;
            assert_eq!(codes.is_empty(), latent.prior.is_empty());
            if !codes.is_empty() {
                assert!(latent.prior.iter().zip(&example.prior).all(|(a, b)| (a - b).abs() < 1e-5), "{config:?}");
                for (code, shift) in codes.iter().enumerate() {
                    close(of(&row.chosen_ids, Some(shift)), f64::from(example.code_logps[code]));
                    close(of(&row.rejected_ids, Some(shift)), f64::from(example.code_logps[codes.len() + code]));
                }
            }
        }
        // Where there is a z, it shows.
        let shifted = !matches!(config.latent, LatentKind::None | LatentKind::Noise);
        assert_eq!(differ, shifted, "{config:?}");
    }
}

#[test]
fn codes_that_are_not_there_are_refused() {
    let of = |kind| PromptPrior::Policy(Box::new(policy::<f32>(&llama(true), &latent(kind))));
    let with = of(LatentKind::Lpc);
    assert!(with.code_shift(3, "generate.code").is_ok());
    let said = |prior: &PromptPrior, code| prior.code_shift(code, "generate.code").unwrap_err();
    let error = said(&with, 4);
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("generate.code: code 4: the model has 4, 0 to 3"), "{error}");
    let without = of(LatentKind::Bias);
    assert!(said(&without, 0).to_string().contains("the model has no codes"));
}
