//! Statistics of a sweep, worked by hand.

use super::*;

fn close(a: Option<f64>, b: f64) -> bool {
    a.is_some_and(|a| (a - b).abs() < 1e-9)
}

#[test]
fn an_interval_over_seeds_needs_three() {
    for (seeds, has) in [(vec![1], false), (vec![1, 2], false), (vec![1, 2, 3], true)] {
        let dir = tempfile::tempdir().unwrap();
        let config = SweepConfig { seeds: seeds.clone(), ..small() };
        let outcome = launch(&config, json!({}), dir.path(), &Fake::default()).unwrap();
        for row in &outcome.summary {
            assert_eq!(row.n_seeds as usize, seeds.len());
            assert_eq!((row.eval_accuracy_low.is_some(), row.eval_accuracy_high.is_some()), (has, has));
            assert_eq!(row.audit_auroc_low.is_some(), has && row.varied.noise_p > 0.0);
        }
        assert!(outcome.curves.iter().all(|row| row.accuracy_area_low.is_some() == has && row.accuracy_area.is_some()));
        let frame = artifact::read_parquet(dir.path().join("summary.parquet")).unwrap();
        let null = frame.column("eval_accuracy_low").unwrap().null_count();
        assert_eq!(null, if has { 0 } else { frame.height() });
    }
}

#[test]
fn the_accuracy_of_one_run_has_wilsons_interval() {
    let (dir, _) = finished();
    let frame = artifact::read_parquet(dir.path().join("results.parquet")).unwrap();
    let number = |name: &str, i: usize| frame.column(name).unwrap().f64().unwrap().get(i).unwrap();
    let row = (0..8).find(|&i| (number("eval_accuracy", i) - 0.8).abs() < 1e-9).unwrap();
    // 80 of 100: centre (0.8 + 0.0192073) / 1.0384146 = 0.788901, half 1.959964 sqrt(0.0016960365) / 1.0384146 = 0.077731.
    assert!((number("eval_accuracy_low", row) - 0.711_170).abs() < 2e-6, "{}", number("eval_accuracy_low", row));
    assert!((number("eval_accuracy_high", row) - 0.866_632).abs() < 2e-6);
}

fn of(outcome: &SweepOutcome, objective: ObjectiveKind, latent: LatentKind, p: f64) -> &SummaryRow {
    let same = |r: &&SummaryRow| (r.varied.objective, r.varied.latent, r.varied.noise_p) == (objective, latent, p);
    outcome.summary.iter().find(same).unwrap()
}

#[test]
fn differences_to_a_named_baseline() {
    let dir = tempfile::tempdir().unwrap();
    let config = SweepConfig {
        objective: vec![ObjectiveKind::Dpo, ObjectiveKind::Rdpo],
        baseline: [("objective".into(), json!("rdpo")), ("latent".into(), json!("none"))].into(),
        ..small()
    };
    let outcome = launch(&config, json!({}), dir.path(), &Fake::default()).unwrap();
    for p in [0.0, 0.2] {
        let of = |objective, latent| of(&outcome, objective, latent, p);
        // Of the same 100 examples, dpo ranks 60 right without a latent and 80 with one; rdpo 65 and 85.
        let row = of(ObjectiveKind::Dpo, LatentKind::Lpc);
        assert!(close(row.difference, 0.2) && close(row.difference_baseline, 0.15), "{row:?}");
        assert_eq!((row.n_paired, row.n_paired_baseline), (Some(100), Some(100)));
        let (low, high) = (row.difference_baseline_low.unwrap(), row.difference_baseline_high.unwrap());
        assert!(0.05 < low && low < 0.15 && 0.15 < high && high < 0.25, "{low} {high}");
        assert!(close(of(ObjectiveKind::Dpo, LatentKind::None).difference_baseline, -0.05));
        assert!(close(of(ObjectiveKind::Rdpo, LatentKind::Lpc).difference_baseline, 0.2));
        let itself = of(ObjectiveKind::Rdpo, LatentKind::None);
        assert_eq!((itself.difference_baseline, itself.difference_baseline_p), (None, None));
        assert_eq!(itself.baseline.as_deref(), Some("latent none, objective rdpo"));
    }
    let frame = artifact::read_parquet(dir.path().join("summary.parquet")).unwrap();
    for name in ["difference_baseline", "difference_baseline_low", "difference_baseline_p_holm", "n_paired_baseline"] {
        assert_eq!(frame.column(name).unwrap().null_count(), 2, "{name}");
    }
    // The same folder, another baseline: nothing is trained. The rates share their test pairs.
    let fake = Fake::default();
    let config = SweepConfig { baseline: [("noise_p".into(), json!(0))].into(), ..config };
    let outcome = launch(&config, json!({}), dir.path(), &fake).unwrap();
    assert_eq!(fake.asked(), Vec::<String>::new());
    let row = of(&outcome, ObjectiveKind::Dpo, LatentKind::Lpc, 0.2);
    assert_eq!((row.difference_baseline, row.difference_baseline_p), (Some(0.0), Some(1.0)));
    assert_eq!(of(&outcome, ObjectiveKind::Dpo, LatentKind::Lpc, 0.0).difference_baseline, None);
}

#[test]
fn a_comparison_takes_the_seeds_that_both_cells_finished() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake { fails: Some("dpo-none-clean-s1"), ..Fake::default() };
    let outcome = launch(&small(), json!({}), dir.path(), &fake).unwrap();
    let row = of(&outcome, ObjectiveKind::Dpo, LatentKind::Lpc, 0.0);
    // One seed is left on both sides: 20 of 100 differences are 1, the others 0. Two seeds would average.
    assert!(close(row.difference, 0.2) && row.n_seeds == 2, "{row:?}");
    let fake = Fake { fails: Some("dpo-none-clean-s1"), panics: Some("dpo-lpc-k8-clean-s2"), ..Fake::default() };
    let dir = tempfile::tempdir().unwrap();
    let outcome = launch(&small(), json!({}), dir.path(), &fake).unwrap();
    let row = of(&outcome, ObjectiveKind::Dpo, LatentKind::Lpc, 0.0);
    assert_eq!((row.difference, row.n_seeds), (None, 1), "seed 1 is compared with no other seed");
}

#[test]
fn holms_correction_counts_each_comparison_once() {
    // Of 100 differences more than 20 are above 0 and none is below: no other assignment of signs has their sum, and
    // p = 1 / (10000 + 1).
    let p = 1.0 / 10_001.0;
    for (kinds, comparisons) in [(vec![FlipKind::Uniform], 2.0), (vec![FlipKind::Uniform, FlipKind::WeakQuality], 3.0)]
    {
        let dir = tempfile::tempdir().unwrap();
        let config = SweepConfig { noise_kind: kinds.clone(), ..small() };
        let outcome = launch(&config, json!({}), dir.path(), &Fake::default()).unwrap();
        let compared: Vec<&SummaryRow> = outcome.summary.iter().filter(|r| r.difference.is_some()).collect();
        // Both kinds have a row without flips, from the same runs.
        assert_eq!(compared.len(), 2 * kinds.len());
        for row in compared {
            assert!(close(row.difference_p, p) && close(row.difference_p_holm, comparisons * p), "{row:?}");
        }
    }
}

/// Writes the posteriors of a cell anew, all of the test split: ids, prompts and whether each pair is right.
fn overwrite(dir: &Path, cell: &str, of: impl Fn(usize) -> (String, String, bool)) {
    let rows: Vec<(String, String, bool)> = (0..100).map(of).collect();
    let mut frame = df!(
        col::ID => rows.iter().map(|r| r.0.as_str()).collect::<Vec<_>>(),
        col::PROMPT_ID => rows.iter().map(|r| r.1.as_str()).collect::<Vec<_>>(),
        col::SPLIT => ["test"; 100],
        col::FLIPPED => [false; 100],
        col::MARGIN => rows.iter().map(|r| if r.2 { 0.5f32 } else { -0.5 }).collect::<Vec<_>>(),
    )
    .unwrap();
    artifact::write_parquet(dir.join(format!("cells/{cell}/posteriors.parquet")), &mut frame).unwrap();
}

#[test]
fn pairs_of_a_prompt_are_compared_together() {
    let (dir, _) = finished();
    for seed in [1, 2] {
        // Ten prompts with ten pairs each: codes are right on all pairs of two prompts more.
        let of = |right: usize| move |i: usize| (format!("{i:02}"), format!("p{}", i % 10), i % 10 < right);
        overwrite(dir.path(), &format!("dpo-none-clean-s{seed}"), of(5));
        overwrite(dir.path(), &format!("dpo-lpc-k8-clean-s{seed}"), of(7));
    }
    let outcome = launch(&small(), json!({}), dir.path(), &Fake::default()).unwrap();
    let row = of(&outcome, ObjectiveKind::Dpo, LatentKind::Lpc, 0.0);
    assert!(close(row.difference, 0.2) && row.n_paired == Some(100), "{row:?}");
    // Two of the four assignments of signs to two prompts reach the sum. Of the resamples of ten prompts 10.7 % have neither
    // of the two, 3.3 % have five of them or more, and 0.6 % six.
    assert_eq!(row.difference_p, Some(0.5));
    assert_eq!((row.difference_low, row.difference_high), (Some(0.0), Some(0.5)));
}

#[test]
fn copies_of_a_pair_are_compared_one_by_one() {
    let (dir, _) = finished();
    for seed in [1, 2] {
        // Fifty pairs with a copy each; without codes the copies alone are wrong.
        let of = |right: bool| move |i: usize| (format!("{:02}", i % 50), format!("p{}", i % 50), right || i < 50);
        overwrite(dir.path(), &format!("dpo-none-clean-s{seed}"), of(false));
        overwrite(dir.path(), &format!("dpo-lpc-k8-clean-s{seed}"), of(true));
    }
    let outcome = launch(&small(), json!({}), dir.path(), &Fake::default()).unwrap();
    let row = of(&outcome, ObjectiveKind::Dpo, LatentKind::Lpc, 0.0);
    assert!(close(row.difference, 0.5) && row.n_paired == Some(100), "{row:?}");
    assert_eq!((row.difference_low, row.difference_high), (Some(0.5), Some(0.5)), "each prompt has a half");
}

#[test]
fn baselines_that_are_no_cell_are_refused() {
    let of = |baseline: &[(&str, Value)]| {
        let baseline = baseline.iter().map(|(axis, value)| ((*axis).to_string(), value.clone())).collect();
        let config = SweepConfig { codes: vec![4, 16], baseline, ..small() };
        config.faults().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        of(&[("beta", json!(0.1)), ("latent", json!("lpc-hard")), ("noise_p", json!(0.4))]),
        [
            "sweep.baseline.beta: unknown axis; there are noise_p, noise_kind, marked, objective, latent, codes, \
             inference, kl_weight, temperature, g, group, prompt_layer, model",
            "sweep.baseline.latent: lpc-hard is not in sweep.latent: there are none, lpc",
            "sweep.baseline.noise_p: 0.4 is not in sweep.noise_p: there are 0, 0.2"
        ]
    );
    assert_eq!(
        of(&[("latent", json!("lpc"))]),
        ["sweep.baseline: without codes: `none` has none to compare with; name one of 4, 16"]
    );
    assert_eq!(of(&[("latent", json!("lpc")), ("codes", json!(16))]), Vec::<String>::new());
    assert_eq!(of(&[("latent", json!("none"))]), Vec::<String>::new());
}

#[test]
fn areas_by_hand() {
    let row = |p: f64, seed, accuracy: Option<f64>| {
        let noise = NoiseCell { kind: FlipKind::Uniform, p, marked: false, seed: 0 };
        let cell = Cell {
            noise,
            objective: ObjectiveKind::Dpo,
            latent: LatentKind::None,
            codes: 0,
            settings: CellSettings::default(),
            seed,
        };
        let scores = CellScores { eval_accuracy: accuracy, ..CellScores::default() };
        let status = if accuracy.is_some() { "ok" } else { "failed: x" };
        let record = CellRecord { scores, status: status.into(), ..CellRecord::failed(&cell, "") };
        tables::results(std::slice::from_ref(&cell), &[(cell.name(), record)].into(), &base()).remove(0)
    };
    // (0.1 (0.9 + 0.8) / 2 + 0.3 (0.8 + 0.5) / 2) / 0.4 = 0.7; the rates are unordered and uneven.
    let one = [row(0.4, 1, Some(0.5)), row(0.0, 1, Some(0.9)), row(0.1, 1, Some(0.8))];
    let found = curves::curves(&one);
    assert!(found.len() == 1 && close(found[0].accuracy_area, 0.7), "{found:?}");
    assert_eq!((found[0].noise_p_low, found[0].noise_p_high, found[0].n_rates, found[0].n_seeds), (0.0, 0.4, 3, 1));
    assert_eq!((found[0].accuracy_area_low, found[0].n_incomplete), (None, 0));
    // Seeds with areas 0.7, 0.6 and 0.8: s = 0.1, t_2(0.975) = 4.302653, half 0.2484138. Seed 4 lacks a rate.
    let flat = |seed, y| [row(0.0, seed, Some(y)), row(0.1, seed, Some(y)), row(0.4, seed, Some(y))];
    let more = [row(0.0, 4, Some(1.0)), row(0.1, 4, None), row(0.4, 4, Some(1.0))];
    let all: Vec<ResultRow> = one.into_iter().chain(flat(2, 0.6)).chain(flat(3, 0.8)).chain(more).collect();
    let found = curves::curves(&all);
    assert!(close(found[0].accuracy_area, 0.7), "{found:?}");
    assert!((found[0].accuracy_area_low.unwrap() - 0.451_586).abs() < 1e-6, "{found:?}");
    assert!((found[0].accuracy_area_high.unwrap() - 0.948_414).abs() < 1e-6, "{found:?}");
    assert_eq!((found[0].n_seeds, found[0].n_incomplete), (3, 1));
    assert_eq!(curves::curves(&all[1..2]), vec![], "one rate has no area");
}
