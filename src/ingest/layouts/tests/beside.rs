//! What all layouts have in common: system messages and history, unread keys, other names of scores.

use super::*;

#[test]
fn the_columns_are_told_where_the_prompt_is_missing() {
    let line = r#"{"query": "Why?", "chosen": "I think so", "rejected": "I think not"}"#;
    let keys = || ["query", "chosen", "rejected"].map(String::from).to_vec();
    let row = object(line);
    let layout = Layout::of(&row);
    let fault = read(layout, row, &IngestConfig::default(), keys).unwrap_err();
    assert!(fault.message.ends_with("; the row has query, chosen, rejected (--columns prompt=query?)"), "{fault:?}");

    let given = Layout::of(&object(r#"{"prompt": "p", "chosen": "a", "rejected": "b"}"#));
    for row in [line.to_string(), line.replace("{", r#"{"prompt": null, "#)] {
        let fault = read(given, object(&row), &IngestConfig::default(), Vec::new).unwrap_err();
        assert_eq!((fault.field.as_str(), fault.reason), ("prompt", reason::MISSING_FIELD));
    }
}

#[test]
fn keys_without_content_say_nothing_about_the_layout() {
    for empty in ["null", "[]", "\"\"", "{}"] {
        let row =
            format!(r#"{{"instruction":{empty},"completions":{empty},"prompt":"p","chosen":"a","rejected":"b"}}"#);
        assert_eq!(told(&row), "Trl user: p => assistant: a > assistant: b", "{empty}");
        let row = format!(
            r#"{{"prompt":{empty},"chosen":{empty},"instruction":"p","completions":[{{"response":"a","overall_score":1}}]}}"#
        );
        assert_eq!(told(&row), "Ultrafeedback user: p => a Some(1.0)", "{empty}");
    }
}

#[test]
fn what_may_be_a_part_of_the_prompt_is_not_left_out() {
    let pair = r#""chosen":"a","rejected":"b""#;
    for (prompt, beside, layout) in [
        (r#""question":"Who wrote it?""#, r#""input":"A letter.""#, "Orca"),
        (r#""prompt":"Who wrote it?""#, r#""context":"A letter.""#, "Trl"),
        (r#""prompt":"Who wrote it?""#, r#""instruction":"Answer in French.""#, "Trl"),
    ] {
        let key = beside.split('"').nth(1).unwrap();
        let said = told(&format!("{{{prompt},{beside},{pair}}}"));
        let wanted = format!("{layout} unread-{key}: {key}: {key} is not read, and may be part of what was said");
        assert_eq!(said, wanted);
        // A column that says the prompt again, or nothing, is no loss.
        for again in [r#""who WROTE  it?""#, r#"" ""#, "null", "3"] {
            let said = told(&format!("{{{prompt},\"{key}\":{again},{pair}}}"));
            assert!(said.contains("user: Who wrote it? =>"), "{said}");
        }
    }
}

#[test]
fn what_is_beside_the_prompt_is_read_in_every_layout() {
    let told = |beside: &str, rest: &str| told(&format!("{{{beside}, {rest}}}"));
    let layouts = [
        r#""prompt":"p","chosen":"a","rejected":"b""#,
        r#""prompt":"p","chosen":[{"role":"assistant","content":"a"}],"rejected":[{"role":"assistant","content":"b"}]"#,
        r#""chosen":[{"role":"user","content":"p"},{"role":"assistant","content":"a"}],"rejected":[{"role":"user","content":"p"},{"role":"assistant","content":"b"}]"#,
        r#""question":"p","chosen":"a","rejected":"b""#,
        r#""input":"p","chosen":"a","rejected":"b""#,
        r#""instruction":"p","chosen":"a","rejected":"b""#,
        r#""chosen":"Human: p\n\nAssistant: a","rejected":"Human: p\n\nAssistant: b""#,
        r#""conversations":[{"from":"human","value":"p"}],"chosen":{"from":"gpt","value":"a"},"rejected":{"from":"gpt","value":"b"}"#,
        r#""context":"p","response1":"a","response2":"b","overall_preference":-1"#,
        r#""instruction":"p","completions":[{"response":"a","overall_score":1},{"response":"b","overall_score":0}]"#,
    ];
    for rest in layouts {
        let system = told(r#""system":"s""#, rest);
        assert!(system.contains(" system: s / user: p => "), "{system}");
        let both = told(r#""system_prompt":"s","history":[["q","r"]]"#, rest);
        assert!(both.contains(" system: s / user: q / assistant: r / user: p => "), "{both}");
        let messages = told(r#""history":[{"role":"user","content":"q"},{"role":"assistant","content":"r"}]"#, rest);
        assert!(messages.contains(" user: q / assistant: r / user: p => "), "{messages}");
        let none = told(r#""system":"","history":[]"#, rest);
        assert!(none.contains(" user: p => "), "{none}");
    }
    let own = r#""prompt":[{"role":"system","content":"s"},{"role":"user","content":"p"}],"chosen":"a","rejected":"b""#;
    assert!(told(r#""system":"s""#, own).contains("Trl system: s / user: p => "));
    let wanted = "Trl prompt-mismatch: system: the prompt begins with another system message than this column has";
    assert_eq!(told(r#""system":"t""#, own), wanted);
}

#[test]
fn what_is_not_read_is_refused_by_its_key() {
    let with = |prompt: &str, chosen: &str| {
        told(&format!(
            r#"{{"prompt":[{{"role":"user","content":"p"}}{prompt}],"chosen":[{{"role":"assistant","content":"a"{chosen}}}],"rejected":[{{"role":"assistant","content":"a"}}]}}"#
        ))
    };
    let sound = "Trl user: p => assistant: a > assistant: a";
    for empty in ["null", "[]", "\"\"", "{}", "false"] {
        assert_eq!(with("", &format!(r#","tool_calls":{empty}"#)), sound);
    }
    let refused = |reason: &str, field: &str, key: &str| {
        format!("Trl {reason}: {field}: {key} is not read, and may be part of what was said")
    };
    assert_eq!(
        with("", r#","tool_calls":[{"id":"c"}]"#),
        refused("unread-tool_calls", "chosen[0].tool_calls", "tool_calls")
    );
    assert_eq!(
        with(r#",{"role":"assistant","content":null,"tool_calls":[{}]}"#, ""),
        refused("unread-tool_calls", "prompt[1].tool_calls", "tool_calls"),
        "before the content is missed"
    );
    for (key, reason) in [
        ("reasoning_content", "unread-reasoning_content"),
        ("thinking", "unread-thinking"),
        ("images", "unread-images"),
        ("mood", "unread-key"),
        ("model", "unread-key"),
    ] {
        let told = with("", &format!(r#","{key}":"x""#));
        assert_eq!(told, refused(reason, &format!("chosen[0].{key}"), key));
    }
    let tools = told(r#"{"tools":[{"name":"f"}],"prompt":"p","chosen":"a","rejected":"b"}"#);
    assert_eq!(tools, refused("unread-tools", "tools", "tools"));
    assert_eq!(
        told(r#"{"tools":[],"prompt":"p","chosen":"a","rejected":"b"}"#),
        "Trl user: p => assistant: a > assistant: b"
    );
}

#[test]
fn a_label_that_was_flipped_before_is_known() {
    let flipped = |cell: &str| {
        let row = format!(r#"{{"prompt":"p","chosen":"a","rejected":"b","flipped":{cell}}}"#);
        let row = object(&row);
        read(Layout::of(&row), row, &IngestConfig::default(), Vec::new).unwrap().flipped_before
    };
    assert!(["true", "1", "\"True\"", "\" true \"", "\"1\""].into_iter().all(flipped));
    assert!(!["false", "null", "0", "\"False\"", "\"\"", "[]"].into_iter().any(flipped));
}

#[test]
fn content_may_be_parts_and_a_response_one_message() {
    let row = |content: &str| {
        format!(
            r#"{{"prompt":[{{"role":"user","content":{content}}}],"chosen":{{"role":"assistant","content":"a"}},"rejected":{{"messages":[{{"role":"assistant","content":"b"}}]}}}}"#
        )
    };
    check(&[
        (&row(r#"[{"type":"text","text":"p"},{"text":"q"},"r"]"#), "Trl user: pqr => assistant: a > assistant: b"),
        (
            &row(r#"[{"type":"image_url","image_url":{"url":"x"}}]"#),
            "Trl unread-key: prompt[0].content[0].type: a part of type \"image_url\" is not read; expected \"text\"",
        ),
        (
            &row(r#"[{"type":"text","text":"p","cache":1}]"#),
            "Trl unread-key: prompt[0].content[0].cache: cache is not read, and may be part of what was said",
        ),
    ]);
}

#[test]
fn scores_have_many_names_and_may_be_texts() {
    for [chosen, rejected] in [
        ["score_chosen", "score_rejected"],
        ["chosen-rating", "rejected-rating"],
        ["chosen_rating", "rejected_rating"],
        ["chosen_score", "rejected_score"],
    ] {
        let row = format!(r#"{{"prompt":"p","chosen":"a","{chosen}":"4.5","rejected":"b","{rejected}":1}}"#);
        assert_eq!(told(&row), "Trl user: p => assistant: a 4.5 > assistant: b 1", "{chosen}");
    }
}

#[test]
fn implied_prompts_end_at_a_turn() {
    let row = |chosen: &str, rejected: &str| serde_json::json!({"chosen": chosen, "rejected": rejected}).to_string();
    let refused = "Trl missing-field: prompt: missing; the words that chosen and rejected have in common are no prompt";
    check(&[
        (&row("The sky is blue.", "The sky is black."), refused),
        (&row("Q: a?\nA: b c", "Q: a?\nA: b d"), refused),
        (&row("blue", "black"), refused),
    ]);
    let turn = |role: &str, text: &str| serde_json::json!({"role": role, "content": text});
    let row = |chosen: &[serde_json::Value], rejected: &[serde_json::Value]| {
        serde_json::json!({"chosen": chosen, "rejected": rejected}).to_string()
    };
    let (s, u, a) = (|t: &str| turn("system", t), |t: &str| turn("user", t), |t: &str| turn("assistant", t));
    check(&[
        (
            &row(&[s("s"), u("p"), a("x")], &[s("s"), u("p"), a("y")]),
            "Trl system: s / user: p => assistant: x > assistant: y",
        ),
        (
            &row(&[s("s"), u("p"), a("x")], &[s("s"), u("q"), a("y")]),
            "Trl decision different-contexts: rejected: the messages before the response are not those of chosen",
        ),
    ]);
}
