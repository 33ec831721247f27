//! Axes of the grid beside noise, objective, latent and codes.

use super::*;
use crate::lpc::{Grouping, Inference};

/// Groups of the cells without flips, with these values of axes.
fn groups(config: &SweepConfig, base: &TrainConfig) -> Vec<String> {
    let all: BTreeSet<String> = grid(config, base).iter().map(Cell::group).collect();
    all.into_iter().filter(|name| name.ends_with("-clean")).collect()
}

#[test]
fn a_cell_has_only_the_axes_that_it_uses() {
    let config = SweepConfig {
        inference: vec![Inference::Bayes, Inference::Amortised],
        kl_weight: vec![1.0, 0.1],
        temperature: vec![1.0, 0.5],
        group: vec![Grouping::Pair, Grouping::Prompt],
        noise_p: vec![0.0],
        seeds: vec![1],
        ..small()
    };
    // Exact inference has groups and no temperature, the amortised one temperatures and no groups; none has neither.
    let wanted = [
        "dpo-lpc-k8-amortised-clean",
        "dpo-lpc-k8-amortised-kl0.1-clean",
        "dpo-lpc-k8-amortised-kl0.1-tau0.5-clean",
        "dpo-lpc-k8-amortised-tau0.5-clean",
        "dpo-lpc-k8-by-prompt-clean",
        "dpo-lpc-k8-clean",
        "dpo-lpc-k8-kl0.1-by-prompt-clean",
        "dpo-lpc-k8-kl0.1-clean",
        "dpo-none-clean",
    ];
    assert_eq!(groups(&config, &base()), wanted);
    assert_eq!(grid(&config, &base()).len(), wanted.len(), "every cell once");
    // A value has its cell under the same name whatever else the axis has.
    let one = SweepConfig { kl_weight: vec![0.1], inference: vec![], temperature: vec![], group: vec![], ..config };
    assert_eq!(groups(&one, &base()), ["dpo-lpc-k8-kl0.1-clean", "dpo-none-clean"]);
}

#[test]
fn a_baseline_may_name_any_axis() {
    let config =
        SweepConfig { inference: vec![Inference::Bayes, Inference::Amortised], temperature: vec![0.5], ..small() };
    let cells = grid(&config, &base());
    let amortised = cells.iter().find(|c| c.settings.temperature == Some(0.5)).unwrap();
    let exact = amortised.with(&[("inference".into(), json!("bayes"))].into(), &[8], &base()).unwrap();
    assert_eq!(exact.name(), "dpo-lpc-k8-clean-s1", "without the temperature, which it does not use");
    let plain = amortised.with(&[("latent".into(), json!("none"))].into(), &[8], &base()).unwrap();
    assert_eq!(plain.name(), "dpo-none-clean-s1");
    let back = plain.with(&[("latent".into(), json!("lpc"))].into(), &[4, 8], &base());
    assert_eq!(back, None, "a number of codes that is left open");
}

#[test]
fn seeds_of_the_flips_are_an_axis() {
    let (dir, fake) = finished();
    let config = SweepConfig { noise_seeds: vec![0, 7], ..small() };
    let outcome = launch(&config, json!({}), dir.path(), &fake).unwrap();
    // Without flips both seeds are one run; the cells of seed 0 are kept.
    assert_eq!((outcome.cells_run, outcome.cells_reused), (4, 8));
    let asked = fake.asked();
    assert!(asked.contains(&"data uniform-0.2-n7".to_string()) && !asked.contains(&"data clean".to_string()));
    assert!(asked.contains(&"dpo-lpc-k8-uniform-0.2-n7-s2".to_string()), "{asked:?}");
    // A row for each seed of the flips, over the two training seeds.
    assert_eq!(outcome.summary.len(), 8);
    assert!(outcome.summary.iter().all(|row| row.n_seeds == 2), "{:?}", outcome.summary);
    let compared: Vec<(f64, u64)> = outcome
        .summary
        .iter()
        .filter(|row| row.difference.is_some())
        .map(|row| (row.varied.noise_p, row.noise_seed))
        .collect();
    assert_eq!(compared, [(0.0, 0), (0.0, 7), (0.2, 0), (0.2, 7)]);
    // Three comparisons are counted: that without flips is one.
    let row = outcome.summary.iter().find(|row| row.difference.is_some()).unwrap();
    assert!((row.difference_p_holm.unwrap() - 3.0 * row.difference_p.unwrap()).abs() < 1e-12);
    assert_eq!(outcome.curves.iter().map(|row| row.noise_seed).collect::<Vec<_>>(), [0, 0, 7, 7]);
}

#[test]
fn a_cell_begins_anew_where_the_content_of_its_model_changed() {
    let (dir, fake) = (tempfile::tempdir().unwrap(), Fake::default());
    let config = SweepConfig { noise_p: vec![0.0], seeds: vec![1], model: vec!["a/x".into(), "b/x".into()], ..small() };
    let base = base();
    let run = |a: &str, b: &str| {
        let models = [("a/x".to_string(), a.to_string()), ("b/x".to_string(), b.to_string())].into();
        let (settings, resolved, out) = (json!({}), String::new(), dir.path());
        let sweep = Sweep { config: &config, base: &base, models, settings, inputs: vec![], resolved, out };
        sweep.run(&fake, &Silent).unwrap().cells_run
    };
    assert_eq!(run("one", "two"), 4);
    fake.asked();
    assert_eq!(run("one", "two"), 0);
    assert_eq!(run("one", "other"), 2);
    let asked = fake.asked();
    let second = blake3::hash(b"b/x").to_hex()[..6].to_string();
    assert!(asked.len() == 2 && asked.iter().all(|name| name.contains(&format!("-x-{second}-"))), "{asked:?}");
}
