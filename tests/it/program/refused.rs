//! Rows that the chat template or the tokenizer refuses: told with file, line and reason, or counted.

use crate::support::{Sandbox, repository, texts};

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// A model's folder with this chat template, and six rows of which line 4 is the one that is given.
fn sandbox(template: &str, fourth: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    let from = repository().join("tests/fixtures/tokenize/tokenizers/smollm");
    sandbox.write("model/tokenizer.json", std::fs::read(from.join("tokenizer.json")).expect("a tokenizer"));
    let says = serde_json::json!({"eos_token": "<|im_end|>", "bos_token": "<|endoftext|>", "chat_template": template});
    sandbox.write("model/tokenizer_config.json", says.to_string());
    let row = |i: usize| match i {
        4 => format!("{fourth}\n"),
        _ => format!(
            "{{\"prompt\": [{{\"role\": \"user\", \"content\": \"Name tool {i}.\"}}], \"chosen\": [{{\"role\": \
             \"assistant\", \"content\": \"A saw.\"}}], \"rejected\": [{{\"role\": \"assistant\", \"content\": \"No.\"}}]}}\n"
        ),
    };
    sandbox.write("rows.jsonl", (1..=6).map(row).collect::<String>());
    sandbox
}

const PREPARE: &str = "prepare --input rows.jsonl --tokenizer model";

/// Refused with place, reason and advice; skipped with place and reason, the others kept.
fn refused(sandbox: &Sandbox, flags: &str, field: &str, reason: &str, message: &str) {
    let output = sandbox.ends(3, &format!("{PREPARE} --out out {flags}"));
    let place = format!("error: rows.jsonl: line 4: {field}: ");
    assert!(output.stderr.contains(&place) && output.stderr.contains(message), "{}", output.stderr);
    assert!(output.stderr.contains("pass --on-bad-row skip to drop and count such rows"), "{}", output.stderr);
    assert!(!sandbox.exists("out"), "nothing is left");

    let said = sandbox.ok(&format!("{PREPARE} --out out --on-bad-row skip {flags}")).stdout;
    assert!(said.contains(&format!("rows left out: 1 {reason}")) && said.contains("5 pairs kept"), "{said}");
    let rejects = sandbox.parquet("out/rejects.parquet");
    let line = rejects.column("line").expect("line").u64().expect("line").get(0);
    assert_eq!((rejects.height(), line), (1, Some(4)));
    for (column, wanted) in [("file", "rows.jsonl"), ("field", field), ("reason", reason)] {
        assert_eq!(texts(&rejects, column), [wanted]);
    }
    assert!(texts(&rejects, "detail")[0].contains(message), "{rejects}");
    let input = &sandbox.json("out/manifest.json")["inputs"][0];
    let counts = (&input["rows_read"], &input["rows_kept"], &input["rows_rejected"][reason]);
    assert_eq!(counts, (&6.into(), &5.into(), &1.into()), "{input}");
}

/// Line 4 with these messages before the responses.
fn row(prompt: &str, chosen: &str) -> String {
    format!(
        r#"{{"prompt": [{prompt}], "chosen": [{{"role": "assistant", "content": "{chosen}"}}], "rejected": [{{"role": "assistant", "content": "No."}}]}}"#
    )
}

const SYSTEM: &str = r#"{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a tool."}"#;
const USER: &str = r#"{"role": "user", "content": "Name a tool."}"#;

fn strict(condition: &str) -> String {
    format!("{{% if {condition} %}}{{{{ raise_exception('not this one') }}}}{{% endif %}}{CHATML}")
}

#[test]
fn a_row_for_which_the_template_raises() {
    let said = "chat template own: not this one (line 1 of the template)";
    let no_system = strict("messages[0].role == 'system'");
    refused(&sandbox(&no_system, &row(SYSTEM, "A saw.")), "", "prompt", "template-refused", said);
    // What fails without raising is no different.
    let broken = CHATML.replace("m.content", "(m.content if m.role != 'system' else m.text.upper())");
    refused(&sandbox(&broken, &row(SYSTEM, "A saw.")), "", "prompt", "template-refused", "chat template own: ");
    // The side is the one of the row, whatever became of its label.
    let short = strict("messages[-1].content == 'Short.'");
    for flags in ["", "--flip-rate 0.999"] {
        refused(&sandbox(&short, &row(USER, "Short.")), flags, "chosen", "template-refused", said);
    }
}

#[test]
fn a_row_whose_prompt_begins_twice() {
    let template = format!(
        "{{{{ bos_token }}}}{}",
        CHATML.replace(
            "'<|im_start|>' + m.role + '\\n'",
            "('' if m.role == 'system' else '<|im_start|>' + m.role + '\\n')"
        )
    );
    let prompt = SYSTEM.replace("Be brief.", "<|endoftext|>Be brief.");
    let said = "begins with `<|endoftext|>` twice";
    refused(&sandbox(&template, &row(&prompt, "A saw.")), "", "prompt", "two-beginnings", said);
}

#[test]
fn a_row_whose_prompt_is_written_otherwise_with_a_response() {
    let template = format!("{{% if messages[0].role == 'system' %}}{{{{ messages | length }}}}{{% endif %}}{CHATML}");
    let said = "renders the prompt differently alone and with its response: at byte 0 \"2<|im_start|>system";
    let sandbox = sandbox(&template, &row(SYSTEM, "A saw."));
    refused(&sandbox, "", "chosen", "prompt-not-prefix", said);
}

#[test]
fn a_template_that_refuses_every_row_is_at_fault_itself() {
    let sandbox = sandbox(&strict("'tool' in messages[0].content"), &row(USER, "A saw."));
    let output = sandbox.ends(3, &format!("{PREPARE} --out out"));
    assert!(output.stderr.contains("rows.jsonl: line 1: prompt: chat template own: not this one"), "{}", output.stderr);
    assert!(output.stderr.contains("--template NAME") && !output.stderr.contains("on-bad-row"), "{}", output.stderr);
    let output = sandbox.ends(3, &format!("{PREPARE} --out out --on-bad-row skip"));
    let said = "none of the 6 rows read gives a pair: 6 template-refused; rows.jsonl: line 1: prompt: chat template own: \
                not this one";
    assert!(output.stderr.contains(said) && !sandbox.exists("out"), "{}", output.stderr);
    // Broken for any conversation.
    let said = serde_json::json!({"eos_token": "<|im_end|>", "chat_template": "{{ nobody.content }}"});
    sandbox.write("model/tokenizer_config.json", said.to_string());
    let output = sandbox.ends(3, &format!("{PREPARE} --out out --on-bad-row skip"));
    assert!(
        output.stderr.contains("chat template own: ") && !output.stderr.contains("on-bad-row"),
        "{}",
        output.stderr
    );
}

#[test]
fn marks_that_are_named_beside_the_vocabulary_end_turns() {
    let template = CHATML.replace("im_start", "begin").replace("im_end", "end");
    let sandbox = sandbox(&template, &row(USER, "A saw."));
    let says = |more: &str| {
        let template = serde_json::to_string(&template).expect("JSON");
        sandbox.write(
            "model/tokenizer_config.json",
            format!("{{\"eos_token\": \"<|endoftext|>\", \"chat_template\": {template}{more}}}"),
        );
    };
    says("");
    let output = sandbox.ends(3, &format!("{PREPARE} --out out"));
    let said = "the chat template `own` ends a turn with `<|end|>`, which is no token of this tokenizer";
    assert!(output.stderr.contains(said), "{}", output.stderr);
    says(", \"additional_special_tokens\": [\"<|begin|>\", \"<|end|>\"]");
    sandbox.ok(&format!("{PREPARE} --out out --quiet"));
    let facts = &sandbox.json("out/manifest.json")["facts"]["tokenizer"];
    assert_eq!(
        (&facts["eot_token"], &facts["eot_id"], &facts["vocab_size"]),
        (&"<|end|>".into(), &484.into(), &485.into())
    );
    // As ordinary tokens, whose ids another file tells, they end turns as well.
    let told = sandbox.bytes("out/tokens/train.arrow");
    says("");
    sandbox.write("model/added_tokens.json", r#"{"<|begin|>": 483, "<|end|>": 484}"#);
    sandbox.ok(&format!("{PREPARE} --out ordinary --quiet"));
    assert_eq!(sandbox.bytes("ordinary/tokens/train.arrow"), told);
    // The folder's own tokenizer is the same one.
    sandbox.ok("prepare --input rows.jsonl --tokenizer out/tokenizer --out again --quiet");
    assert_eq!(sandbox.bytes("out/tokens/train.arrow"), sandbox.bytes("again/tokens/train.arrow"));
    assert_eq!(sandbox.bytes("out/tokenizer/tokenizer.json"), sandbox.bytes("again/tokenizer/tokenizer.json"));
}
