//! `prepare` on rows as well-known data sets have them: what is told of them, and what is counted.

use serde_json::{Value, json};

use crate::support::{Sandbox, contents};

/// Writes rows made of their numbers as JSON lines.
fn write(sandbox: &Sandbox, row: impl Fn(usize) -> Value) {
    sandbox.write("in.jsonl", (0..20).map(|i| format!("{}\n", row(i))).collect::<String>());
}

#[test]
fn dialogues_as_prompts_are_split_and_told() {
    let sandbox = Sandbox::new();
    write(&sandbox, |i| {
        let prompt = format!("\n\nHuman: Name {i}.\n\nAssistant: Which?\n\nHuman: The number.\n\nAssistant:");
        json!({"prompt": prompt, "chosen": format!(" It is {i}."), "rejected": " No."})
    });
    let told = sandbox.ok("prepare --input in.jsonl --out data --test-fraction 0");
    assert!(
        told.stderr.contains("20 prompts are dialogues in one text: they are split into messages"),
        "{}",
        told.stderr
    );
    assert_eq!(sandbox.json("data/manifest.json")["facts"]["dialogue_prompts"], 20);
    let pairs = sandbox.parquet("data/pairs/train.parquet");
    assert!(contents(&pairs, "prompt").iter().all(|text| !text.contains("Human:")));
    assert!(contents(&pairs, "chosen").iter().all(|text| text.starts_with("It is ")));
}

#[test]
fn scores_that_do_not_support_given_labels_are_counted() {
    let sandbox = Sandbox::new();
    write(&sandbox, |i| {
        let better = [1.0, 3.0, 5.0, 5.0][i % 4];
        json!({"prompt": format!("Name {i}."), "chosen": format!("It is {i}."), "rejected": "No.",
            "score_chosen": better, "score_rejected": 3.0})
    });
    let told = sandbox.ok("prepare --input in.jsonl --out data");
    let said = "chosen has the lower score in 5, the same score in 5; they are kept as they are labelled";
    assert!(told.stderr.contains(said), "{}", told.stderr);
    let facts = &sandbox.json("data/manifest.json")["facts"];
    assert_eq!(facts["unsupported"], json!({"negative_margin": 5, "zero_margin": 5}));
    // Shards count their own pairs.
    sandbox.ok("prepare --input in.jsonl --out one --tokenizer data/tokenizer --shard 1/2 --quiet");
    sandbox.ok("prepare --input in.jsonl --out two --tokenizer data/tokenizer --shard 2/2 --quiet");
    sandbox.ok("merge one two --out both --quiet");
    assert_eq!(&sandbox.json("both/manifest.json")["facts"]["unsupported"], &facts["unsupported"]);

    let told = sandbox.ok("prepare --input in.jsonl --out wide --min-margin 0.5");
    assert!(!told.stderr.contains("do not support the label"), "{}", told.stderr);
    let facts = &sandbox.json("wide/manifest.json")["facts"];
    assert!(facts["unsupported"].is_null());
    assert_eq!(facts["rows_rejected"]["small-margin"], 10);
}

#[test]
fn messages_that_spell_out_the_templates_tokens_are_told() {
    let sandbox = Sandbox::new();
    write(&sandbox, |i| {
        let prompt = format!("<|im_start|>user\nName {i}.<|im_end|>\n<|im_start|>assistant\n");
        let prompt = if i < 3 { prompt } else { format!("Name {i}.") };
        json!({"prompt": prompt, "chosen": format!("It is {i}."), "rejected": "No."})
    });
    let told = sandbox.ok("prepare --input in.jsonl --out data");
    let said = "3 of 20 pairs have a message with <|im_start|> or <|im_end|> in its text";
    assert!(told.stderr.contains(said), "{}", told.stderr);
    assert_eq!(sandbox.json("data/manifest.json")["facts"]["encoding"]["marks_inside"], 3);
}

#[test]
fn a_column_that_orders_the_responses_is_told() {
    let sandbox = Sandbox::new();
    write(&sandbox, |i| {
        let (a, b) = (format!("It is {i}."), "No.");
        json!({"prompt": format!("Name {i}."), "response_0": a, "response_1": b, "better_response_id": i % 2})
    });
    let prepare = "prepare --input in.jsonl --out data";
    let refused = sandbox.ends(3, prepare).stderr;
    assert!(refused.contains("better_response_id says which response is better"), "{refused}");
    assert!(refused.contains("write rows with the better response as chosen"), "{refused}");
    assert!(!refused.contains("hint: say what the columns are"), "{refused}");
    let columns = format!("{prepare} --columns chosen=response_0 rejected=response_1");
    let refused = sandbox.ends(3, &columns).stderr;
    assert!(refused.contains("order them by better_response_id first"), "{refused}");
    assert!(refused.contains("--ignore-keys better_response_id"), "{refused}");
    sandbox.ok(&format!("{columns} --ignore-keys better_response_id"));
}

#[test]
fn a_context_that_is_not_read_is_counted_by_its_name() {
    let sandbox = Sandbox::new();
    write(&sandbox, |i| {
        let context = if i < 4 { json!(["A passage."]) } else { json!([]) };
        json!({"prompt": format!("Name {i}."), "context": context, "chosen": format!("It is {i}."), "rejected": "No."})
    });
    let refused = sandbox.ends(3, "prepare --input in.jsonl --out data").stderr;
    assert!(refused.contains("--ignore-keys context"), "{refused}");
    sandbox.ok("prepare --input in.jsonl --out data --on-bad-row skip --quiet");
    assert_eq!(sandbox.json("data/manifest.json")["facts"]["rows_rejected"]["unread-context"], 4);
}
