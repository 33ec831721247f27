use super::*;
use crate::noise::tests::{KINDS, PLAIN, Row, at, flipped, frame, mixed, numbers, plan};
use crate::noise::{FlipKind as K, apply};
use crate::seed::Seed;

#[test]
fn realised_rates_are_those_asked_for() {
    let clean = mixed(10_000);
    for kind in KINDS {
        let config = at(kind, 0.2);
        let plan = plan(&clean, &config, 5);
        let noisy = apply(clean.clone(), &config, &plan, Seed(5)).unwrap();
        let chances = numbers(&noisy, "noise_p");
        let flips = flipped(&noisy).iter().filter(|f| **f).count() as f64;
        let (expected, spread) =
            chances.iter().fold((0.0, 0.0), |(sum, variance), p| (sum + p, variance + p * (1.0 - p)));
        assert!((flips - expected).abs() <= 5.0 * f64::sqrt(spread), "{kind:?}: {flips} for {expected}");
        match kind {
            K::Uniform | K::Margin | K::Length => assert!((expected - 2000.0).abs() < 1e-6, "{kind:?}: {expected}"),
            K::Ambiguous | K::WeakQuality => assert_eq!(flips, 2000.0),
            K::Source | K::Annotator | K::Column => {}
        }
        let mut ledger = Ledger::default();
        ledger.add(&noisy.head(Some(3000)), &config).unwrap();
        let mut rest = Ledger::default();
        rest.add(&noisy.slice(3000, 7000), &config).unwrap();
        ledger.join(&rest);
        assert_eq!((ledger.all.pairs, ledger.all.flipped as f64), (10_000, flips));
        assert_eq!(ledger.all.rate, flips / 10_000.0);
        assert!((ledger.all.expected - expected).abs() < 1e-6);
        assert_eq!(ledger.all.selected > 0, kind.selects());
        for part in [&ledger.by_kind, &ledger.by_split, &ledger.by_source] {
            assert_eq!(part.values().map(|t| t.pairs).sum::<u64>(), 10_000);
            assert_eq!(part.values().map(|t| t.flipped).sum::<u64>(), ledger.all.flipped);
        }
        assert_eq!(ledger.by_annotator.len(), if kind == K::Annotator { 4 } else { 0 });
        let lacking = if kind == K::Margin { 1 } else { 0 };
        assert_eq!(ledger.warnings(&config, &plan).len(), lacking, "{:?}", ledger.warnings(&config, &plan));
        if kind == K::Source {
            assert!(ledger.by_source["a"].rate > 2.0 * ledger.by_source["b"].rate);
        }
    }
}

#[test]
fn the_ledger_tells_what_had_no_effect() {
    let warned = |rows: &[Row], config: NoiseConfig| -> String {
        let clean = frame(rows);
        let plan = plan(&clean, &config, 1);
        let mut ledger = Ledger::default();
        ledger.add(&apply(clean, &config, &plan, Seed(1)).unwrap(), &config).unwrap();
        ledger.warnings(&config, &plan).join("\n")
    };
    assert_eq!(warned(&[PLAIN], at(K::Source, 0.5)), "noise.source_rates: a is the source of no pair");
    assert!(warned(&[PLAIN], at(K::Annotator, 0.5)).contains("no pair names its annotator"));
    assert!(warned(&[PLAIN], at(K::Column, 0.5)).contains("no pair has a flip_probability above 0"));
    let half = [PLAIN, Row { scores: None, ..PLAIN }];
    assert!(warned(&half, at(K::Margin, 0.5)).contains("1 of 2 pairs lack scores"));
    assert!(warned(&half, at(K::WeakQuality, 1.0)).contains("2 pairs were to be singled out, but only 1 can be"));
    assert_eq!(warned(&half, at(K::Uniform, 1.0)), "");
}
