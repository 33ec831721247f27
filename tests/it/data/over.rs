//! Preferences planted over texts that are given: `synth --over`, and what follows it.

use serde_json::{Value, json};

use crate::support::{Sandbox, sample, texts};

/// Answers that differ in length, lists, hedges, address, figures and the first person.
fn answers(thing: &str) -> [String; 4] {
    [
        format!("Clean the {thing}."),
        format!("I would clean the {thing} for 7 minutes, then dry it for 20 more, as we do at home."),
        format!("- Open the {thing}.\n- Wash it.\n- Dry it.\n- Oil it.\n- Close it.\n- Wait for a day."),
        format!(
            "You may clean the {thing} with water. Perhaps your own cloth could do as well; you might try it on a \
             corner first, and it seems best to let it dry in the shade before you put it back where it was."
        ),
    ]
}

/// Raw rows of so many prompts; `rate` gives the annotations of an answer.
fn raw(rows: usize, rate: impl Fn(usize, usize) -> Value) -> String {
    let mut out = String::new();
    for i in 0..rows {
        let thing = format!("{}-{i}", ["kettle", "clock", "lamp", "boot"][i % 4]);
        let completion = |(k, text): (usize, String)| json!({"model": format!("model-{k}"), "response": text, "overall_score": 5.0, "annotations": rate(i, k)});
        let completions: Vec<Value> = answers(&thing).into_iter().enumerate().map(completion).collect();
        let source = ["letters", "riddles", "travel"][i % 3];
        let row =
            json!({"source": source, "instruction": format!("How do I clean my {thing}?"), "completions": completions});
        out += &format!("{row}\n");
    }
    out
}

fn unrated(_: usize, _: usize) -> Value {
    Value::Null
}

#[test]
fn from_given_texts_to_scored_codes() {
    let sandbox = Sandbox::new();
    sandbox.write("raw.jsonl", raw(160, unrated));
    let summary = sandbox.ok("synth --over raw.jsonl --out planted --seed 5 --json").json();
    assert_eq!((&summary["rows"], &summary["completions"]), (&json!(160), &json!(640)));
    assert_eq!(summary["by_preference"].as_object().expect("counts").len(), 8, "{summary}");
    // The folder as a whole: truth and rejects are not taken for data.
    let prepared = sandbox.ok("prepare --input planted --out data --test-fraction 0.5 --flip-rate 0.1 --json").json();
    assert_eq!((&prepared["rows_read"], &prepared["rows_kept"]), (&json!(160), &json!(160)));
    sandbox.ok("train --data data --out run --model tiny:16x1 --codes 4 --max-steps 2 --quiet");
    let report = sandbox.ok("report run --truth planted --json").json();
    let planted = &report["planted"];
    assert_eq!((&planted["pairs_unmatched"], &planted["posteriors_unmatched"]), (&json!(0), &json!(0)));
    assert_eq!(planted["preferences_used"], 8);
    let group = |split: &str, rows: &str| -> &Value {
        let groups = planted["groups"].as_array().expect("groups");
        groups.iter().find(|g| g["split"] == split && g["rows"] == rows).expect("a group")
    };
    let of = |g: &Value, key: &str| g.pointer(key).and_then(Value::as_f64).expect("a number");
    let (shown, hidden, all) = (group("all", "shown"), group("all", "hidden"), group("all", "all"));
    assert_eq!(of(shown, "/n") + of(hidden, "/n"), of(all, "/n"));
    // A prompt that shows what counts leaves no doubt of it; a hidden one tells its source, and the pair tells more.
    assert_eq!(of(shown, "/prior_ceiling/nmi_preference"), 1.0);
    assert_eq!(of(shown, "/posterior_ceiling/nmi_preference"), 1.0);
    let (prior, posterior) =
        (of(hidden, "/prior_ceiling/nmi_preference"), of(hidden, "/posterior_ceiling/nmi_preference"));
    assert!(prior < posterior && posterior < 0.95, "{prior} {posterior}");
    assert!(of(shown, "/accuracy_ceiling_expected") > 0.9 && of(shown, "/accuracy_ceiling") > 0.85, "{shown}");
    let hidden = of(hidden, "/accuracy_ceiling_expected");
    assert!((0.6..of(shown, "/accuracy_ceiling_expected")).contains(&hidden), "{hidden}");
}

#[test]
fn files_of_one_folder_have_one_source_and_one_taste() {
    let sandbox = Sandbox::new();
    let rows = raw(80, unrated);
    let untagged = |line: &str| {
        let mut row: Value = serde_json::from_str(line).expect("a row");
        row.as_object_mut().expect("an object").remove("source");
        format!("{row}\n")
    };
    let lines: Vec<String> = rows.lines().map(untagged).collect();
    sandbox.write("farm/train.jsonl", lines[..60].concat());
    sandbox.write("farm/test.jsonl", lines[60..].concat());
    sandbox.ok("synth --over farm --out planted");
    let mut sources = texts(&sandbox.parquet("planted/truth/truth.parquet"), "source");
    sources.dedup();
    assert_eq!(sources, ["farm"]);
}

#[test]
fn rows_with_the_same_prompt_are_one() {
    let sandbox = Sandbox::new();
    let row = |prompt: &str, chosen: &str, rejected: &str| {
        json!({"prompt": prompt, "chosen": chosen, "rejected": rejected}).to_string()
    };
    let (first, second) = (
        row("How?", "With care.", "Somehow, and not before the evening comes."),
        row("How?", "With care.", "By hand, with a cloth that was soaked in warm water for an hour."),
    );
    let other = row("Why?", "Because it is so.", "Just so.");
    let conversation = json!({"prompt": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who?"}],
        "chosen": [{"role": "assistant", "content": "You."}], "rejected": [{"role": "assistant", "content": "No one at all."}]});
    sandbox.write("a.jsonl", format!("{first}\n{other}\n"));
    sandbox.write("b.jsonl", format!("{second}\n"));
    sandbox.write("c.jsonl", format!("{conversation}\n"));
    let summary = sandbox.ok("synth --over a.jsonl b.jsonl c.jsonl --traits length --out x --json").json();
    assert_eq!((&summary["rows"], &summary["completions"]), (&json!(2), &json!(5)));
    let over = &summary["over"];
    assert_eq!((&over["rows_read"], &over["rows_kept"]), (&json!(4), &json!(3)));
    assert_eq!(over["rejects"], json!({"conversation": 1}));
    assert_eq!(over["unused"], json!({"empty": 0, "equal": 1, "unrated": 0}));
    let inputs = &sandbox.json("x/manifest.json")["inputs"];
    assert_eq!(inputs[0]["rows_kept"], 2);
    assert_eq!(inputs[2]["rows_rejected"], json!({"conversation": 1}));
    let rejects = sandbox.parquet("x/truth/rejects.parquet");
    assert_eq!(texts(&rejects, "file"), ["c.jsonl"]);
    // Sources as `prepare` gives them: the names of the files.
    assert_eq!(summary["by_source"], json!({"a": 2}));
}

#[test]
fn layouts_and_columns_are_those_of_prepare() {
    let sandbox = Sandbox::new();
    for (name, prompts) in [("ultrafeedback.jsonl", 4), ("argilla.jsonl", 2), ("helpsteer2.jsonl", 2)] {
        sandbox.write(name, sample(name));
        let summary = sandbox.ok(&format!("synth --over {name} --out {name}-out --json --quiet")).json();
        let (rows, over) = (&summary["rows"], &summary["over"]);
        assert_eq!(rows, &json!(prompts), "{name}: {over}");
    }
    sandbox.write("questions.csv", sample("questions.csv"));
    let plain = sandbox.ends(3, "synth --over questions.csv --out q");
    assert!(plain.stderr.contains("hint: say what the columns are, for example --columns"), "{}", plain.stderr);
    sandbox
        .ok("synth --over questions.csv --out q --columns prompt=question chosen=answer_a rejected=answer_b --quiet");
    sandbox.write("bad.jsonl", format!("{}{{\"no\": 1}}\n", raw(3, unrated)));
    let stopped = sandbox.ends(3, "synth --over bad.jsonl --out bad");
    assert!(stopped.stderr.contains("bad.jsonl: line 4") && !sandbox.exists("bad/corpus.jsonl"), "{}", stopped.stderr);
    let summary = sandbox.ok("synth --over bad.jsonl --out bad --on-bad-row skip --json").json();
    assert_eq!(summary["over"]["rows_kept"], 3);
    insta::assert_snapshot!(
        sandbox.ends(2, "synth --over bad.jsonl --format ultra --traits size --rows 3 --on-bad-row stop").stderr,
        @"
    error: 4 faults in the configuration
      flag --rows: synth.rows: has no effect over real texts: every prompt of synth.over is used
      flag --traits: synth.traits: unknown trait `size`; expected one of: length, lists, hedges, address, figures, first-person, markup, sentences, exclamations, questions, helpfulness, honesty, instruction-following, truthfulness, aspects
      flag --format: synth.format: unknown value `ultra`, expected one of `auto`, `ultrafeedback`, `binarized`, `argilla`, `trl`, `hh-rlhf`, `helpsteer2`, `helpsteer3`, `mixture`, `skywork`, `tulu3`, `orca`, `alpaca`, `sharegpt`, `nemo-rl`
      flag --on-bad-row: synth.on_bad_row: unknown value `stop`, expected `fail` or `skip`
    "
    );
    insta::assert_snapshot!(
        sandbox.ends(2, "synth --traits length --out y").stderr,
        @"error: flag --traits: synth.traits: has no effect without synth.over, the files with real texts"
    );
}

#[test]
fn aspects_are_annotators() {
    let sandbox = Sandbox::new();
    // Helpfulness likes the later answers, honesty the earlier ones; the last answer of each row is not rated.
    let rate = |_: usize, k: usize| {
        let honesty = if k == 3 { "N/A".into() } else { (5 - k).to_string() };
        json!({"helpfulness": {"Rating": (2 + k).to_string()}, "honesty": {"Rating": honesty},
               "truthfulness": {"Rating": "3"}, "instruction_following": {"Rating": "4"}})
    };
    sandbox.write("raw.jsonl", raw(40, rate));
    let summary = sandbox.ok("synth --over raw.jsonl --traits helpfulness honesty --out two --json").json();
    assert_eq!(summary["over"]["unused"], json!({"empty": 0, "equal": 0, "unrated": 40}));
    let truth = sandbox.parquet("two/truth/truth.parquet");
    let liked: Vec<u32> = truth.column("preference").unwrap().u32().unwrap().iter().flatten().collect();
    for (line, liked) in sandbox.text("two/corpus.jsonl").lines().zip(liked) {
        let row: Value = serde_json::from_str(line).expect("JSON");
        let mut answers = row["completions"].as_array().expect("completions").clone();
        let score = |c: &Value| c["overall_score"].as_f64().expect("a score");
        answers.sort_by(|a, b| score(a).total_cmp(&score(b)));
        let models: Vec<&str> = answers.iter().map(|c| c["model"].as_str().expect("a model")).collect();
        let wanted = if liked == 0 { ["model-0", "model-1", "model-2"] } else { ["model-2", "model-1", "model-0"] };
        assert_eq!(models, wanted);
    }
    // Of all four, two are equal everywhere: nothing to judge by.
    let silent = sandbox.ends(2, "synth --over raw.jsonl --traits aspects --out four");
    assert!(silent.stderr.contains("`truthfulness` decides nothing"), "{}", silent.stderr);
    assert!(silent.stderr.contains("`instruction-following` decides nothing"), "{}", silent.stderr);
    sandbox.write("pairs.jsonl", sample("trl_standard.jsonl"));
    sandbox.ends(3, "synth --over pairs.jsonl --traits aspects --out no");
}
