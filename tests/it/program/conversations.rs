//! Prompts of several turns: which of them count as the same, and what of a row is part of the prompt.

use serde_json::{Value, json};

use crate::support::{Sandbox, texts};

/// A pair that ends with the same words of the user as all others.
fn row(topic: &str, source: Option<&str>) -> String {
    let talk = |answer: &str| {
        json!([
            {"role": "user", "content": format!("Tell me something about {topic}.")},
            {"role": "assistant", "content": format!("There is much to say about {topic}; where shall we begin?")},
            {"role": "user", "content": "Go on."},
            {"role": "assistant", "content": answer}
        ])
    };
    let mut row = json!({"chosen": talk(&format!("Well, {topic} it is.")), "rejected": talk("No.")});
    if let Some(source) = source {
        row["source"] = Value::from(source);
    }
    format!("{row}\n")
}

#[test]
fn conversations_with_the_same_last_message_are_different_prompts() {
    let sandbox = Sandbox::new();
    let topics = ["tea and the mountains it grows on", "old clocks", "rivers that run north", "the colour of moths"];
    let all = |topics: &[&str], source| topics.iter().map(|t| row(t, source)).collect::<String>();
    sandbox.write("raw/train.jsonl", all(&topics, None));
    // One of them is in the test split, the others only end alike.
    sandbox.write("raw/test.jsonl", all(&["OLD  clocks", "maps of harbours", "night trains"], None));
    let told = sandbox.ok("prepare --input raw --out data --near-duplicates 0.8 --json").json();
    assert_eq!((&told["pairs"], &told["rejects"]), (&json!(6), &json!({"in-test-split": 1})), "{told}");
    let rejects = sandbox.parquet("data/rejects.parquet");
    assert_eq!(texts(&rejects, "detail"), ["the test split has the same prompt in raw/test.jsonl: line 1"]);
    // A source is joined to the conversation that it came with.
    sandbox.write("tagged.jsonl", all(&topics[..1], Some("garden")));
    sandbox.ok("prepare --input raw --join-source tagged.jsonl --out joined");
    let tags = texts(&sandbox.parquet("joined/pairs/train.parquet"), "source").into_iter();
    assert_eq!(tags.filter(|tag| tag == "garden").count(), 1);
}

#[test]
fn a_prepared_folder_is_read_by_its_pairs() {
    let sandbox = Sandbox::new();
    sandbox.prepared(40);
    sandbox.ok("prepare --input data --out again");
    // Ids are of clean pairs: where a label was flipped, the folder shows the exchanged one.
    let prompts = |folder: &str, split: &str| {
        let mut found = texts(&sandbox.parquet(&format!("{folder}/pairs/{split}.parquet")), "prompt_id");
        found.sort();
        found
    };
    for split in ["train", "test"] {
        assert_eq!(prompts("again", split), prompts("data", split));
    }
}

#[test]
fn shards_with_other_joined_sources_are_not_merged() {
    let sandbox = Sandbox::new();
    let rows = |source: Option<&str>| (0..20).map(|i| row(&format!("number {i}"), source)).collect::<String>();
    sandbox.write("in.jsonl", rows(None));
    for (shard, source) in [(1, "a"), (2, "b")] {
        sandbox.write("joined.jsonl", rows(Some(source)));
        sandbox.ok(&format!("prepare --input in.jsonl --join-source joined.jsonl --shard {shard}/2 --out s{shard}"));
    }
    let refused = sandbox.ends(3, "merge s1 s2 --out whole");
    assert!(refused.stderr.contains("other files beside the inputs"), "{}", refused.stderr);
}
