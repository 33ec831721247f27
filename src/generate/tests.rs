use super::*;
use crate::model::init::random;
use crate::model::{LlamaConfig, Params};
use crate::nn::Precision;

const VOCABULARY: usize = 60;

fn model(precision: Precision) -> InferenceDecoder {
    let config = LlamaConfig::tiny(64, 2, VOCABULARY);
    let params = Params::new(random::<f32>(&config, 0.3, Seed(4)).unwrap()).unwrap();
    InferenceDecoder::new(&config, &params, 80, precision).unwrap()
}

fn prompts() -> Vec<Vec<u32>> {
    (0..7u32).map(|i| (0..1 + i * 5 % 11).map(|t| (t * 7 + i * 13) % VOCABULARY as u32).collect()).collect()
}

fn options(sampling: Sampling, batch: usize) -> Options<'static> {
    Options { sampling, max_new_tokens: 24, stop_ids: &[3], stops: None, batch, seed: Seed(9) }
}

fn completions(model: &InferenceDecoder, prompts: &[(String, Vec<u32>)], options: &Options<'_>) -> Vec<Generated> {
    let requests: Vec<Request<'_>> = prompts.iter().map(|(key, prompt)| Request { key, prompt, shift: None }).collect();
    let found = complete(model, &requests, options, &mut |_, _| Ok(true)).unwrap();
    found.into_iter().map(Option::unwrap).collect()
}

fn keyed() -> Vec<(String, Vec<u32>)> {
    prompts().into_iter().enumerate().map(|(i, p)| (format!("p{i}"), p)).collect()
}

/// The likeliest tokens by whole forward passes without a cache.
fn without_cache(model: &InferenceDecoder, prompt: &[u32], options: &Options<'_>) -> Generated {
    let mut ids = prompt.to_vec();
    loop {
        let packed = crate::model::Prompts::pack(&[&ids]).unwrap();
        let h = model.hidden(packed.tokens()).unwrap();
        let last = &h[h.len() - model.config().hidden_size..];
        let token = options.sampling.choose(&model.logits(last, &[None]), &mut sampling::Draws::of(Seed(0), ""));
        let token = token.unwrap();
        let finish = match options.stop_ids.contains(&token) {
            true => Some(Finish::Stop),
            false => {
                ids.push(token);
                (ids.len() == prompt.len() + options.max_new_tokens).then_some(Finish::Length)
            }
        };
        if let Some(finish) = finish {
            return Generated { ids: ids[prompt.len()..].to_vec(), finish };
        }
    }
}

#[test]
fn greedy_answers_are_those_of_whole_forward_passes() {
    let model = model(Precision::F32);
    let options = options(Sampling::GREEDY, 3);
    let found = completions(&model, &keyed(), &options);
    for ((_, prompt), found) in keyed().iter().zip(&found) {
        assert_eq!(*found, without_cache(&model, prompt, &options));
    }
    // Both ends occur, so that both are tested.
    let ends = |finish| found.iter().any(|c| c.finish == finish);
    assert!(ends(Finish::Stop) && ends(Finish::Length), "{found:?}");
    assert!(found.iter().all(|c| !c.ids.contains(&3)));
}

#[test]
fn answers_do_not_depend_on_the_batch() {
    for precision in [Precision::F32, Precision::Bf16] {
        let model = model(precision);
        for sampling in [Sampling::GREEDY, Sampling { temperature: 0.9, top_p: 0.95 }] {
            let alone = completions(&model, &keyed(), &options(sampling, 1));
            for batch in [2, 3, 100] {
                assert_eq!(completions(&model, &keyed(), &options(sampling, batch)), alone, "{precision:?} {batch}");
            }
            let mut backwards = keyed();
            backwards.reverse();
            let mut found = completions(&model, &backwards, &options(sampling, 3));
            found.reverse();
            assert_eq!(found, alone);
        }
    }
}

#[test]
fn samples_are_a_function_of_seed_and_key() {
    let model = model(Precision::F32);
    let sampling = Sampling { temperature: 1.0, top_p: 1.0 };
    let prompt = prompts()[3].clone();
    let of = |key: &str, seed: u64| {
        let options = Options { seed: Seed(seed), stop_ids: &[], ..options(sampling, 4) };
        completions(&model, &[(key.to_string(), prompt.clone())], &options)[0].ids.clone()
    };
    assert_eq!(of("a", 1), of("a", 1));
    assert_ne!(of("a", 1), of("b", 1));
    assert_ne!(of("a", 1), of("a", 2));
}

#[test]
fn a_shift_of_the_logits_decides() {
    let model = model(Precision::F32);
    let prompt = prompts()[2].clone();
    let shift = LogitShift::Biases { tokens: std::sync::Arc::new(vec![11, 17]), values: vec![-1e4, 1e4] };
    let request = Request { key: "a", prompt: &prompt, shift: Some(&shift) };
    let options = Options { max_new_tokens: 5, ..options(Sampling::GREEDY, 1) };
    let found = complete(&model, &[request], &options, &mut |_, _| Ok(true)).unwrap();
    assert_eq!(found[0].as_ref().unwrap().ids, [17; 5]);
}

#[test]
fn texts_end_answers_and_users_stop_them() {
    let model = model(Precision::F32);
    let third = |ids: &[u32]| Ok(ids.len() == 3);
    let options = Options { stops: Some(&third), stop_ids: &[], ..options(Sampling::GREEDY, 2) };
    let found = completions(&model, &keyed(), &options);
    assert!(found.iter().all(|c| c.ids.len() == 3 && c.finish == Finish::Stop));
    let (keyed, mut seen) = (keyed(), 0);
    let requests: Vec<Request<'_>> = keyed.iter().map(|(key, prompt)| Request { key, prompt, shift: None }).collect();
    let found = complete(&model, &requests, &options, &mut |_, _| {
        seen += 1;
        Ok(false)
    });
    let found = found.unwrap();
    assert_eq!((seen, found.iter().flatten().count()), (2, 2));
}

#[test]
fn prompts_without_room_are_refused() {
    let model = model(Precision::F32);
    let said = |prompt: &[u32]| {
        let request = Request { key: "p", prompt, shift: None };
        let options = options(Sampling::GREEDY, 1);
        complete(&model, &[request], &options, &mut |_, _| Ok(true)).unwrap_err().to_string()
    };
    assert!(said(&[1; 57]).contains("prompt p: 57 tokens, and up to 24 new ones, are more than the 80"));
    assert!(said(&[]).contains("an empty prompt"));
    assert!(said(&[VOCABULARY as u32]).contains("outside the model's vocabulary"));
}
