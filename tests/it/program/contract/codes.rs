//! What `report` reads out of a run's codes, for people and for programs.

use lpc_pipe::artifact;
use polars::prelude::*;

use crate::support::{Sandbox, flags, texts};

/// A run on a planted corpus; its posteriors say that code 0 alone is always right, code 1 never, code 2 always and by
/// twice the margin, on the pairs of the clean order.
fn run_with_margins(sandbox: &Sandbox) -> DataFrame {
    sandbox.prepared(120);
    sandbox.ok("train --data data --out run --model tiny:16x1 --codes 3 --max-steps 2 --quiet");
    let mut frame = sandbox.parquet("run/posteriors.parquet");
    let flipped = flags(&frame, "flipped");
    let row = |(i, flipped): (usize, &bool)| {
        let size = (1.0 + (i % 5) as f32) * if *flipped { -1.0 } else { 1.0 };
        Series::new("".into(), [size, -size, 2.0 * size].as_slice())
    };
    let margins: Vec<Series> = flipped.iter().enumerate().map(row).collect();
    frame.with_column(Column::new("code_margins".into(), margins)).expect("a column");
    // Every code is used.
    let code: Vec<u32> = (0..frame.height() as u32).map(|i| i % 3).collect();
    frame.with_column(Column::new("prior_code".into(), code)).expect("a column");
    artifact::write_parquet(sandbox.path("run/posteriors.parquet"), &mut frame).expect("posteriors");
    frame
}

#[test]
fn reports_tell_what_each_code_prefers() {
    let sandbox = Sandbox::new();
    let frame = run_with_margins(&sandbox);
    let test = texts(&frame, "split").iter().filter(|s| *s == "test").count();
    let told = sandbox.ok("report run --truth raw --json").json();
    let codes = &told["codes"];
    assert_eq!((&codes["split"], &codes["n"], &codes["codes"]), (&"test".into(), &test.into(), &3.into()));
    let accuracies = |label: &serde_json::Value| -> Vec<f64> {
        let codes = label["codes"].as_array().expect("codes");
        codes.iter().map(|i| i["estimate"].as_f64().expect("a number")).collect()
    };
    assert_eq!(accuracies(&codes["all"]), [1.0, 0.0, 1.0], "{codes}");
    let duplicate = &codes["duplicates"][0];
    assert_eq!((&duplicate["code"], &duplicate["duplicate_of"]), (&2.into(), &0.into()), "{codes}");
    // Planted preferences by their names, in the order of their ids; all test pairs belong to one.
    let preferences = codes["preferences"]["labels"].as_array().expect("labels");
    let names: Vec<&str> = preferences.iter().filter_map(|l| l["label"].as_str()).collect();
    assert_eq!(names[..2], ["length=short", "length=thorough"]);
    assert_eq!(names.len(), 5, "three factors, two of them in conflict");
    let counted: u64 = preferences.iter().filter_map(|l| l["n"].as_u64()).sum();
    assert_eq!(counted, test as u64);
    for label in preferences.iter().filter(|l| l["n"] != 0) {
        assert_eq!((accuracies(label), &label["best"]), (vec![1.0, 0.0, 1.0], &0.into()));
    }
    let agreement = &codes["agreement"];
    let effective = agreement["effective_prior"].as_f64().expect("a number");
    assert!((1.0..=3.0).contains(&effective), "{agreement}");

    let text = sandbox.ok("report run --truth raw").stdout;
    let head = text.lines().find(|l| l.starts_with("code")).expect("a head");
    assert_eq!(head.split_whitespace().collect::<Vec<_>>()[..4], ["code", "use", "short", "thorough"]);
    let row = text.lines().find(|l| l.starts_with("0 ")).expect("a row");
    assert_eq!(row.split_whitespace().skip(2).collect::<std::collections::BTreeSet<_>>(), ["100"].into());
    assert!(text.contains("codes 0 and 2 say the same: correlation 1.00\n"), "{text}");
    assert!(sandbox.text("run/report.html").contains("by planted preference"));
}

#[test]
fn runs_without_margins_of_codes_are_reported_as_before() {
    let sandbox = Sandbox::new();
    let mut frame = run_with_margins(&sandbox);
    let _ = frame.drop_in_place("code_margins").expect("a column");
    artifact::write_parquet(sandbox.path("run/posteriors.parquet"), &mut frame).expect("posteriors");
    let told = sandbox.ok("report run --truth raw --json").json();
    let codes = &told["codes"];
    assert!(codes["agreement"]["same"].is_number() && told["planted"]["groups"].is_array());
    for absent in ["all", "sources", "preferences"] {
        assert!(codes[absent].is_null(), "{absent}: {codes}");
    }
    let text = sandbox.ok("report run --truth raw").stdout;
    assert!(text.contains("effective codes") && !text.contains("what each code alone"), "{text}");
    assert!(!sandbox.text("run/report.html").contains("What each code prefers"));
    // A latent without codes has none to report.
    sandbox.ok("train --data data --out plain --model tiny:16x1 --latent none --max-steps 2 --quiet");
    let told = sandbox.ok("report plain --json").json();
    assert!(told["codes"].is_null() && told["planted"].is_null(), "{told}");
}
