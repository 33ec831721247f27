//! `eval --against`: differences from another evaluation, item by item.

use super::*;

/// Items of two evaluations are paired by what they are, not by where they stand.
#[test]
fn items_are_paired_by_what_they_ask() {
    let sandbox = trained();
    let mut rows: Vec<Value> = serde_json::from_str(&truthful(6)).expect("rows");
    sandbox.write("a.json", Value::Array(rows.clone()).to_string());
    rows.reverse();
    rows[1] = json!({"question": "Another?", "mc1_targets": {"No": 1, "Yes": 0, "Maybe": 0}});
    sandbox.write("b.json", Value::Array(rows).to_string());
    let problems = |order: [usize; 3]| -> String {
        order
            .iter()
            .map(|i| json!({"question": format!("{i} and 1?"), "answer": "#### 2"}).to_string() + "\n")
            .collect()
    };
    sandbox.write("a.jsonl", problems([0, 1, 2]));
    sandbox.write("b.jsonl", problems([2, 7, 0]));
    let eval = "eval --model run --task truthfulqa_mc1,gsm8k --shots 1 --examples a.jsonl --quiet --json";
    sandbox.ok(&format!("{eval} --data a.json --data a.jsonl --out a"));
    let told = sandbox.ok(&format!("{eval} --data b.json --data b.jsonl --out b --against a")).json();
    let against: Vec<(&str, f64, u64, u64)> = told["against"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|d| {
            let interval = &d["difference"]["interval"];
            let number = |value: &Value| value.as_u64().expect("a count");
            let estimate = interval["estimate"].as_f64().expect("a number");
            (d["task"].as_str().expect("a task"), estimate, number(&interval["n"]), number(&d["unpaired"]))
        })
        .collect();
    let wanted = [("gsm8k", 0.0, 2, 1), ("gsm8k", 0.0, 2, 1), ("truthfulqa_mc1", 0.0, 5, 1)];
    assert_eq!(against, wanted, "the same model on the same items");
    let (a, b) = (sandbox.parquet("a/items.parquet"), sandbox.parquet("b/items.parquet"));
    assert_eq!(texts(&a, "key")[0], texts(&b, "key")[5]);
    assert_eq!((numbers(&b, "item")[5], &texts(&b, "id")[5]), (5.0, &String::new()));
    assert_eq!(lists(&a, "scores")[0], lists(&b, "scores")[5]);

    // What was measured otherwise is not compared.
    for (line, said) in [
        (eval.replace("--shots 1", "--shots 2"), "a was measured otherwise: shots: 1 there, 2 here"),
        (eval.replace("--examples a.jsonl", ""), "examples: "),
    ] {
        let refused = sandbox.ends(2, &format!("{line} --data b.json --data b.jsonl --against a"));
        assert!(refused.stderr.contains("eval.against: ") && refused.stderr.contains(said), "{}", refused.stderr);
        assert!(!refused.stderr.contains("evaluating"));
    }
    let preference = "eval --model run --task preference --data data --limit 3 --quiet";
    sandbox.ok(&format!("{preference} --out c"));
    let refused = sandbox.ends(2, &format!("{preference} --reward sum --against c"));
    assert!(refused.stderr.contains("reward: \"implicit\" there, \"sum\" here"), "{}", refused.stderr);
    let refused = sandbox.ends(2, &format!("{preference} --reference tiny:32x1 --against c"));
    assert!(refused.stderr.contains("weights of the reference: "), "{}", refused.stderr);
    sandbox.ok(&format!("{preference} --reference sft --against c"));
}

/// The p-value of a difference is that of sign flips of whole prompts, worked out here from the items.
#[test]
fn pairs_of_a_prompt_are_compared_together() {
    let sandbox = trained();
    sandbox.ok("prepare --input raw --tokenizer run/model --pairs all-pairs --test-fraction 0.1 --out many --quiet");
    let eval = "eval --task preference --data many --quiet";
    sandbox.ok(&format!("{eval} --model run --out a"));
    sandbox.ok(&format!("{eval} --model sft --reference sft --out b --against a"));
    let (a, b) = (sandbox.parquet("a/items.parquet"), sandbox.parquet("b/items.parquet"));
    let pairs = sandbox.parquet("many/pairs/test.parquet");
    let prompt: BTreeMap<String, String> = texts(&pairs, "id").into_iter().zip(texts(&pairs, "prompt_id")).collect();
    let mut sums: BTreeMap<&String, f64> = BTreeMap::new();
    for (id, (b, a)) in texts(&b, "id").iter().zip(numbers(&b, "acc").iter().zip(numbers(&a, "acc"))) {
        *sums.entry(&prompt[id]).or_default() += b - a;
    }
    let sums: Vec<f64> = sums.into_values().collect();
    assert!(pairs.height() > 2 * sums.len() && (4..=12).contains(&sums.len()), "{} {}", pairs.height(), sums.len());
    let with =
        |signs: u32| sums.iter().enumerate().map(|(i, x)| if signs >> i & 1 == 1 { -x } else { *x }).sum::<f64>();
    let all = 1 << sums.len();
    let reached = (0..all).filter(|signs| with(*signs).abs() > with(0).abs() - 1e-9).count();
    let difference = &sandbox.json("b/summary.json")["against"][0]["difference"];
    assert_eq!(difference["p"].as_f64(), Some(reached as f64 / f64::from(all)));
    let interval = &difference["interval"];
    assert_eq!(interval["n"].as_u64(), Some(pairs.height() as u64));
    assert!((interval["estimate"].as_f64().expect("a mean") - with(0) / pairs.height() as f64).abs() < 1e-12);
}
