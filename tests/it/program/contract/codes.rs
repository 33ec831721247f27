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
fn reports_tell_what_the_codes_go_with() {
    let sandbox = Sandbox::new();
    let frame = run_with_margins(&sandbox);
    let told = sandbox.ok("report run --truth raw --json").json();
    let first = &told["associations"]["splits"][0];
    assert_eq!((&first["split"], &told["prepared"]["note"]), (&"test".into(), &serde_json::Value::Null), "{told}");
    assert_eq!(told["prepared"]["found"], frame.height());
    let attributes = |key: &str| -> Vec<&str> {
        let list = first[key].as_array().expect("a list");
        list.iter().step_by(2).filter_map(|a| a["attribute"].as_str()).collect()
    };
    assert_eq!(attributes("labels"), ["source", "flipped", "preference", "factor", "models"]);
    let quantities = ["length_difference", "prompt_length", "score_margin", "implicit_margin", "flipped"];
    assert_eq!(attributes("numbers"), quantities);
    let counts = first["labels"][0]["counts"].as_array().expect("counts");
    let counted: u64 = counts.iter().flat_map(|c| c.as_array().expect("a row")).filter_map(|n| n.as_u64()).sum();
    assert_eq!((counts.len(), Some(counted)), (3, first["n"].as_u64()));
    let p = first["labels"][0]["p"].as_f64().expect("a p-value");
    assert!(p >= 0.001, "{p}");
    let text = &told["representatives"][0]["pairs"][0]["texts"]["prompt"];
    assert!(text.as_str().is_some_and(|t| !t.is_empty()), "{told}");
    let colours: Vec<&str> =
        told["projection"]["colours"].as_array().expect("colours").iter().filter_map(|c| c["label"].as_str()).collect();
    assert_eq!(colours, ["source", "flipped", "preference", "factor"]);
    let coordinates = sandbox.parquet("run/projection.parquet");
    assert_eq!(texts(&coordinates, "id"), texts(&frame, "id"), "all pairs, in their order");
    assert!(sandbox.ok("report run --truth raw").stdout.contains("what the codes go with"));

    // The same for any number of threads; a sample is smaller.
    let bytes = sandbox.bytes("run/projection.parquet");
    sandbox.ok("report run --truth raw --threads 1");
    assert_eq!(sandbox.bytes("run/projection.parquet"), bytes);
    let told = sandbox.ok("report run --points 20 --projection pca --json").json();
    assert_eq!((&told["projection"]["n"], &told["projection"]["perplexity"]), (&20.into(), &serde_json::Value::Null));
    assert_eq!(sandbox.parquet("run/projection.parquet").height(), 20);
    let refused = sandbox.ends(2, "report run --points 6000").stderr;
    assert!(refused.contains("flag --points: report.points: expected 10 to 5000, got 6000"), "{refused}");
    let refused = sandbox.ends(2, "report run --points 60 --projection none").stderr;
    assert!(refused.contains("has no effect without projection = tsne or pca"), "{refused}");
    let told = sandbox.ok("report run --projection none --json").json();
    assert!(told["projection"].is_null() && !sandbox.exists("run/projection.parquet"));

    // The prepared folder may be gone.
    std::fs::rename(sandbox.path("data"), sandbox.path("elsewhere")).expect("a rename");
    let told = sandbox.ok("report run --json").json();
    assert!(told["prepared"]["note"].as_str().is_some_and(|note| note.contains("is not there")), "{told}");
    assert!(told["representatives"][0]["pairs"][0]["texts"].is_null());
    assert!(sandbox.text("run/report.html").contains("is not there; prompt lengths, scores, models and texts"));
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
