use std::collections::BTreeSet;

use super::*;
use crate::noise::tests::{KINDS, PLAIN, Row, at, chances, flipped, frame, mixed, numbers, plan};
use crate::noise::{FlipKind as K, apply};
use crate::seed::Seed;

#[test]
fn the_rate_of_drawn_annotators_is_the_mean_over_all_pairs() {
    // The first annotator has one pair, each further one two more; the last seven pairs have no annotator.
    let names: Vec<&'static str> = (0..50).map(|a| &*format!("annotator {a}").leak()).collect();
    for n in [1, 2, 50] {
        let mut rows: Vec<Row> = Vec::new();
        for (a, name) in names.iter().enumerate().take(n) {
            rows.extend(vec![Row { annotator: Some(*name), ..PLAIN }; 1 + 2 * a]);
        }
        rows.extend(vec![Row { annotator: None, ..PLAIN }; 7]);
        for (simulated, rate) in [(0, 0.1), (0, 0.3), (0, 0.7), (0, 1.0), (n, 0.3)] {
            let config = NoiseConfig { annotators: simulated, ..at(K::Annotator, rate) };
            let found = chances(&rows, &config);
            let mean = found.iter().sum::<f64>() / rows.len() as f64;
            assert!((mean - rate).abs() < 1e-9, "{n} annotators, simulated {simulated}: {mean} for {rate}");
            let different: BTreeSet<u64> = found[..rows.len() - 7].iter().map(|p| p.to_bits()).collect();
            assert!(simulated > 0 || rate > 0.5 || different.len() == n, "{n} annotators have rates of their own");
            assert!(simulated > 0 || found[rows.len() - 7..].iter().all(|p| *p == rate));
        }
    }
    // At 0.2, two annotators with as many pairs have the rates 0.2 (1 + d) / (1 + mean d).
    let rows = [0, 1].map(|a| Row { annotator: Some(names[a]), ..PLAIN });
    let draw = |p: f64| (p - 0.2) / 0.2;
    let drawn = chances(&rows, &NoiseConfig { calibrate: false, ..at(K::Annotator, 0.2) });
    let weights = [1.0 + draw(drawn[0]), 1.0 + draw(drawn[1])];
    let wanted = weights.map(|w| 0.4 * w / (weights[0] + weights[1]));
    let found = chances(&rows, &at(K::Annotator, 0.2));
    assert!(found.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?} for {wanted:?}");
}

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
            K::Uniform | K::Margin | K::Length | K::Annotator => {
                assert!((expected - 2000.0).abs() < 1e-6, "{kind:?}: {expected}")
            }
            K::Ambiguous | K::WeakQuality => assert_eq!(flips, 2000.0),
            K::Source | K::Column => {}
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
        let lacking = if matches!(kind, K::Margin | K::Annotator) { 1 } else { 0 };
        assert_eq!(ledger.faults(&config), vec![]);
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
    assert_eq!(warned(&[PLAIN], at(K::Source, 0.5)), "prepare.noise.source_rates: a is the source of no pair");
    let named = [PLAIN, Row { annotator: Some("ann"), ..PLAIN }];
    assert!(warned(&named, at(K::Annotator, 0.5)).contains("1 of 2 pairs name no annotator"));
    let half = [PLAIN, Row { scores: None, ..PLAIN }];
    assert!(warned(&half, at(K::Margin, 0.5)).contains("1 of 2 pairs lack scores"));
    assert!(warned(&half, at(K::WeakQuality, 1.0)).contains("2 pairs were to be singled out, but only 1 can be"));
    assert_eq!(warned(&half, at(K::Uniform, 1.0)), "");
}

#[test]
fn what_finds_nothing_to_act_on_is_a_fault() {
    let faults = |rows: &[Row], config: NoiseConfig| -> String {
        let clean = frame(rows);
        let plan = NoisePlan::direct(&config);
        let mut ledger = Ledger::default();
        ledger.add(&apply(clean, &config, &plan, Seed(1)).unwrap(), &config).unwrap();
        ledger.faults(&config).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let some = |lines: &[&str]| lines.iter().map(|l| l.to_string()).collect::<Vec<_>>();
    let annotator = NoiseConfig { calibrate: false, ..at(K::Annotator, 0.5) };
    let source = |lines: &[&str]| NoiseConfig { source_rates: some(lines), ..at(K::Source, 0.5) };
    let listed = NoiseConfig { annotator_rates: some(&["eve=0.5"]), ..at(K::Annotator, 0.5) };
    for (config, said) in [
        (annotator.clone(), "prepare.noise.flip_kind: --flip-kind annotator: none of the 1 pairs names its annotator"),
        (at(K::Column, 0.5), "prepare.noise.flip_kind: --flip-kind column: none of the 1 pairs has a flip_probability"),
        (source(&["x=0.5", "y=0.1"]), "prepare.noise.source_rates: x, y: the source of no pair; no label is flipped"),
        (listed.clone(), "none of the 1 pairs names its annotator"),
        (source(&["x=0.5", "*=0.1"]), ""),
        (source(&["s=0.5", "y=0.1"]), ""),
        (NoiseConfig { flip_rate: 0.0, ..annotator.clone() }, ""),
    ] {
        let found = faults(&[PLAIN], config);
        assert!(if said.is_empty() { found.is_empty() } else { found.contains(said) }, "{found} for {said}");
    }
    let named = [Row { annotator: Some("ann"), ..PLAIN }];
    assert_eq!(faults(&named, annotator), "");
    assert!(faults(&named, listed).contains("prepare.noise.annotator_rates: eve: the annotator of no pair"));
}

#[test]
fn settings_of_the_noise_without_a_rate_are_named() {
    assert_eq!(NoiseConfig::default().switched_off(), Vec::<String>::new());
    let idle = NoiseConfig { flip_kind: K::Margin, flip_marker: "x".into(), annotators: 3, ..NoiseConfig::default() };
    assert_eq!(idle.switched_off(), ["--flip-kind", "--flip-marker", "prepare.noise.annotators"]);
    assert_eq!(NoiseConfig { flip_rate: 0.1, ..idle }.switched_off(), Vec::<String>::new());
}
