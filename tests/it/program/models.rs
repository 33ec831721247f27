//! Model folders that other programs made: tokens without an embedding, and data that is longer than their positions.

use serde_json::json;

use crate::support::{Sandbox, numbers};

const NONE: &str = "--latent none --quiet --max-steps 1";

/// A prepared corpus, and a model folder with its tokenizer; gives the number of the model's tokens.
fn model(sandbox: &Sandbox) -> u64 {
    sandbox.prepared(40);
    sandbox.ok(&format!("train --data data --model tiny:16x1 --objective sft --out base {NONE}"));
    sandbox.json("base/model/config.json")["vocab_size"].as_u64().expect("a number")
}

#[test]
fn a_padding_token_needs_no_embedding() {
    let sandbox = Sandbox::new();
    let n = model(&sandbox);
    let path = |name: &str| format!("base/model/{name}");
    let config = path("tokenizer_config.json");
    let (plain, tokenizer) = (sandbox.json(&config), sandbox.json(&path("tokenizer.json")));
    sandbox.ok("score --data data --model base/model --out plain.parquet --quiet");
    let scores = |file: &str| {
        let frame = sandbox.parquet(file);
        (numbers(&frame, "logps_chosen"), numbers(&frame, "logps_rejected"))
    };
    let padding = json!({"id": n, "content": "<pad>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true});
    for place in ["name", "listed", "older", "inside"] {
        let (mut says, mut inside) = (plain.clone(), tokenizer.clone());
        let _ = std::fs::remove_file(sandbox.path(&path("added_tokens.json")));
        match place {
            // It has no id at all.
            "name" => says["pad_token"] = "[PAD]".into(),
            "listed" => {
                says["pad_token"] = "<pad>".into();
                says["added_tokens_decoder"] = json!({n.to_string(): {"content": "<pad>", "special": true}});
            }
            "older" => {
                sandbox.write(&path("added_tokens.json"), json!({"<pad>": n}).to_string());
            }
            // Nothing names it.
            _ => inside["added_tokens"].as_array_mut().expect("a list").push(padding.clone()),
        }
        sandbox.write(&config, says.to_string());
        sandbox.write(&path("tokenizer.json"), inside.to_string());
        let data = format!("data-{place}");
        sandbox.ok(&format!(
            "prepare --input raw --tokenizer base/model --out {data} --test-fraction 0.25 --flip-rate 0.2 --quiet"
        ));
        sandbox.ok(&format!("score --data {data} --model base/model --out {place}.parquet --quiet"));
        assert_eq!(scores(&format!("{place}.parquet")), scores("plain.parquet"), "{place}");
        sandbox.ok(&format!("train --data {data} --model base/model --out run-{place} {NONE}"));
        for model in ["base/model", &format!("run-{place}")] {
            sandbox.ok(&format!("generate --model {model} --prompt Which? --max-new-tokens 2 --quiet"));
        }
    }
    // A text that spells the token out cannot be computed, and is refused before anything is.
    let line = r#"{"prompt": "Which?", "chosen": "The <pad> one.", "rejected": "The other."}"#;
    sandbox.write("spelled.jsonl", format!("{line}\n"));
    sandbox.ok("prepare --input spelled.jsonl --tokenizer base/model --out spelled --test-fraction 0 --quiet");
    for line in [
        "score --data spelled --model base/model --out spelled.parquet".to_string(),
        format!("train --data spelled --model base/model --out spelled-run {NONE}"),
        format!("train --data spelled --model base/model --out spelled-run --dry-run {NONE}"),
    ] {
        let refused = sandbox.ends(3, &line).stderr;
        assert!(refused.contains(&format!("has token {n} (\"<pad>\"), and the model knows {n}")), "{refused}");
    }
    assert!(!sandbox.exists("spelled-run") && !sandbox.exists("spelled.parquet"));
    // A token that every response ends with is needed.
    let mut says = plain;
    says["eos_token"] = "<end>".into();
    says["chat_template"] = "{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}".into();
    sandbox.write(&config, says.to_string());
    sandbox.write(&path("tokenizer.json"), tokenizer.to_string());
    sandbox.ok("prepare --input raw --tokenizer base/model --out ends --quiet");
    let refused = sandbox.ends(3, "score --data ends --model base/model --out ends.parquet").stderr;
    assert!(refused.contains(&format!("the model knows {n} tokens, the tokenizer needs {}", n + 1)), "{refused}");
    assert!(refused.contains("embedding is too small"), "{refused}");
}

#[test]
fn pairs_beyond_the_models_positions_are_told() {
    let sandbox = Sandbox::new();
    model(&sandbox);
    let lines = [
        ("score --data data --model base/model --out", "scores.parquet"),
        ("train --data data --model base/model --latent none --max-steps 1 --dry-run --out", "planned"),
        ("train --data data --model base/model --latent none --max-steps 1 --out", "run"),
    ];
    let told = |n: usize| lines.map(|(line, out)| sandbox.ok(&format!("{line} {n}-{out}")).stderr);
    let path = "base/model/config.json";
    let mut config = sandbox.json(path);
    for (n, (positions, warned)) in [(4096, false), (9, true)].into_iter().enumerate() {
        config["max_position_embeddings"] = positions.into();
        sandbox.write(path, config.to_string());
        for told in told(n) {
            assert_eq!(told.contains("the model was made for 9 (max_position_embeddings)"), warned, "{told}");
        }
    }
}
