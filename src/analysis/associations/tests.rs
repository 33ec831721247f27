use std::collections::HashSet;

use super::super::prepared_pairs;
use super::*;

/// Forty pairs, every fourth for training. The prior's code is the source, the posterior's the parity of the length
/// difference; every tenth label is flipped.
fn frame() -> DataFrame {
    let n = 40usize;
    let number = |get: &dyn Fn(usize) -> f64| (0..n).map(get).collect::<Vec<f64>>();
    df!(
        "id" => (0..n).map(|i| format!("p{i}")).collect::<Vec<_>>(),
        "split" => (0..n).map(|i| if i % 4 == 0 { "train" } else { "test" }).collect::<Vec<_>>(),
        "source" => (0..n).map(|i| ["a", "b", "", "c"][i / 10]).collect::<Vec<_>>(),
        "flipped" => (0..n).map(|i| i % 10 == 3).collect::<Vec<_>>(),
        "prior_code" => (0..n).map(|i| (i / 10) as u32).collect::<Vec<_>>(),
        "posterior_code" => (0..n).map(|i| (i % 2) as u32).collect::<Vec<_>>(),
        "margin" => number(&|i| (i as f64 * 0.7).sin()),
        "n_chosen" => (0..n as u32).map(|i| 100 + i % 2 * 50).collect::<Vec<_>>(),
        "n_rejected" => vec![120u32; n],
    )
    .unwrap()
}

fn with_labels(found: &SplitAssociations, attribute: &str, by: CodeBy) -> LabelAssociation {
    let mut labels = found.labels.iter().filter(|l| l.attribute == attribute && l.by == by);
    labels.next().unwrap_or_else(|| panic!("{attribute}")).clone()
}

fn with_numbers(found: &SplitAssociations, attribute: &str, by: CodeBy) -> NumberAssociation {
    let mut numbers = found.numbers.iter().filter(|n| n.attribute == attribute && n.by == by);
    numbers.next().unwrap_or_else(|| panic!("{attribute}")).clone()
}

#[test]
fn codes_against_sources_flips_and_lengths() {
    let frame = frame();
    let found = associate(&frame, 5, &pair_labels(&frame).unwrap(), None, Seed(3)).unwrap();
    let [test, all] = found.splits.as_slice() else { panic!("{found:?}") };
    assert_eq!((test.split.as_str(), test.n, all.split.as_str(), all.n), ("test", 30, "all", 40));
    // Code 2 has the pairs without a source; code 4 none at all.
    let prior = with_labels(all, "source", CodeBy::Prior);
    assert_eq!((prior.n, prior.labels.as_slice()), (30, ["a", "b", "c"].map(String::from).as_slice()));
    assert_eq!(prior.counts, [[10, 0, 0], [0, 10, 0], [0, 0, 0], [0, 0, 10], [0, 0, 0]]);
    // Labels and codes are the same: no permutation is as good, p = 1 / 1000, times the four tests of the split.
    assert_eq!((prior.nmi, prior.ami, prior.p), (Some(1.0), Some(1.0), Some(0.001)));
    assert!((prior.p_holm.unwrap() - 0.004).abs() < 1e-12, "{prior:?}");
    let posterior = with_labels(all, "source", CodeBy::Posterior);
    assert!(posterior.p.unwrap() > 0.5 && posterior.p_holm == Some(1.0), "{posterior:?}");
    assert_eq!(with_labels(all, "flipped", CodeBy::Posterior).counts[..2], [[20, 0], [16, 4]]);

    // Odd pairs are 150 tokens against 120, even ones 100.
    let lengths = with_numbers(all, "length_difference", CodeBy::Posterior);
    let medians: Vec<(u32, u64, f64)> = lengths.codes.iter().map(|c| (c.code, c.n, c.median)).collect();
    assert_eq!(medians, [(0, 20, -20.0), (1, 20, 30.0)]);
    assert_eq!((lengths.codes[1].q1, lengths.codes[1].q3, lengths.codes[1].mean), (30.0, 30.0, 30.0));
    let tested = lengths.test.unwrap();
    assert!((tested.epsilon_squared - 1.0).abs() < 1e-9 && tested.p < 1e-6, "{tested:?}");
    // Three quantities are known without the prepared folder, each of two kinds of codes.
    assert_eq!(all.numbers.len(), 6);
    assert!((lengths.p_holm.unwrap() - 6.0 * tested.p).abs() < 1e-15);
    let flips = with_numbers(all, "flipped", CodeBy::Posterior);
    assert_eq!((flips.codes[0].mean, flips.codes[1].mean), (0.0, 0.2));
}

#[test]
fn the_prepared_folder_adds_models_prompts_and_scores() {
    let (frame, dir) = (frame(), tempfile::tempdir().unwrap());
    prepared_pairs::tests::write(dir.path(), 40);
    let ids = texts(&frame, "id").unwrap();
    let facts = PairFacts::read(dir.path(), &ids, &HashSet::new()).unwrap();
    let found = associate(&frame, 4, &pair_labels(&frame).unwrap(), facts.as_ref(), Seed(3)).unwrap();
    let all = &found.splits[1];
    let models = with_labels(all, "models", CodeBy::Posterior);
    // Pair 0 has one model; the parity that names the other one is the code.
    assert_eq!(
        (models.n, models.labels.as_slice()),
        (39, ["one over three", "one over two"].map(String::from).as_slice())
    );
    assert_eq!((models.ami, models.p), (Some(1.0), Some(0.001)));
    let prompts = with_numbers(all, "prompt_length", CodeBy::Prior);
    assert_eq!(prompts.codes.iter().map(|c| c.median).collect::<Vec<_>>(), [5.5, 15.5, 25.5, 35.5]);
    assert_eq!(with_numbers(all, "score_margin", CodeBy::Prior).test, None, "all are 2.5 apart");
}

#[test]
fn what_cannot_be_told_is_left_out_or_none() {
    let mut frame = frame();
    frame.with_column(Column::new("split".into(), vec!["test"; 40])).unwrap();
    frame.with_column(Column::new("posterior_code".into(), vec![1u32; 40])).unwrap();
    let mut labels = pair_labels(&frame).unwrap();
    let names: Vec<String> = (0..=MOST_LABELS).map(|i| i.to_string()).collect();
    labels.push(("many".into(), Labels { names, rows: vec![Some(0); 40] }));
    labels.push(("none".into(), Labels { names: vec!["x".into()], rows: vec![None; 40] }));
    let found = associate(&frame, 4, &labels, None, Seed(3)).unwrap();
    assert_eq!(found.splits.iter().map(|s| s.split.as_str()).collect::<Vec<_>>(), ["test"], "all are test pairs");
    assert_eq!(found.left_out, [("many".to_string(), MOST_LABELS + 1)]);
    let constant = with_labels(&found.splits[0], "source", CodeBy::Posterior);
    assert_eq!((constant.nmi, constant.ami, constant.p, constant.p_holm), (None, None, None, None));
    assert_eq!(with_numbers(&found.splits[0], "implicit_margin", CodeBy::Posterior).test, None);
    assert!(found.splits[0].labels.iter().all(|l| l.attribute != "none"));
    // The two that remain, of the prior.
    let prior = with_labels(&found.splits[0], "source", CodeBy::Prior);
    assert!((prior.p_holm.unwrap() - 2.0 * prior.p.unwrap()).abs() < 1e-12);

    frame.with_column(Column::new("split".into(), vec!["train"; 40])).unwrap();
    let found = associate(&frame, 4, &labels, None, Seed(3)).unwrap();
    assert_eq!(found.splits.iter().map(|s| s.split.as_str()).collect::<Vec<_>>(), ["all"]);
}
