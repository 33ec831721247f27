//! Rows as well-known data sets have them, and rows that are nearly so.

use std::slice::from_ref;

use serde_json::{Value as Json, json};

use super::*;

/// A message.
fn says(role: &str, content: &str) -> Json {
    json!({"role": role, "content": content})
}

/// What [`told`] gives for a row.
fn shows(row: Json) -> String {
    told(&row.to_string())
}

#[test]
fn roles_get_their_usual_names_and_others_are_refused() {
    let asked = |role: &str| shows(json!({"prompt": [says(role, "p")], "chosen": "a", "rejected": "b"}));
    for (role, usual) in [("human", "user"), ("user", "user"), ("observation", "tool"), ("developer", "developer")] {
        assert_eq!(asked(role), format!("Trl {usual}: p => assistant: a > assistant: b"));
    }
    for role in ["User", "prompter", "", "critic", "model"] {
        let wanted = format!("Trl wrong-role: prompt[0].role: expected user, assistant, system or tool, got {role:?}");
        assert_eq!(asked(role), wanted);
    }
    let both = |role: &str| {
        shows(
            json!({"chosen": [says("human", "p"), says(role, "a")], "rejected": [says("human", "p"), says(role, "b")]}),
        )
    };
    assert_eq!(both("gpt"), "Trl user: p => assistant: a > assistant: b");
    assert_eq!(both("bot"), "Trl wrong-role: chosen[1].role: expected user, assistant, system or tool, got \"bot\"");
}

#[test]
fn a_context_in_a_list_or_an_object_is_not_left_out() {
    let refused = |layout: &str| {
        format!("{layout} unread-context: context: context is not read, and may be part of what was said")
    };
    for context in [
        json!(["Passage one."]),
        json!([says("user", "First.")]),
        json!({"contexts": ["Passage one."], "title": "t"}),
        json!({"text": "Passage one."}),
        json!([3]),
    ] {
        for (key, layout) in [("prompt", "Trl"), ("question", "Orca")] {
            assert_eq!(
                shows(json!({key: "p", "context": context, "chosen": "a", "rejected": "b"})),
                refused(layout),
                "{context}"
            );
        }
    }
    // What says the prompt again, or nothing, is no loss.
    for context in [json!([says("user", " P ")]), json!([]), json!([""]), json!({"text": null})] {
        let said = shows(json!({"prompt": "p", "context": context, "chosen": "a", "rejected": "b"}));
        assert_eq!(said, "Trl user: p => assistant: a > assistant: b", "{context}");
    }
    // Layouts that read it take all of it.
    let context = json!([says("user", "p"), says("assistant", "x"), {"role": "user", "content": [{"type": "text", "text": "q"}]}]);
    assert_eq!(
        shows(json!({"context": context, "response1": "a", "response2": "b", "overall_preference": -1})),
        "Helpsteer3 user: p / assistant: x / user: q => assistant: a 1 > assistant: b 0"
    );
}

#[test]
fn a_prompt_beside_conversations_is_read_or_refused() {
    let side = |before: &[Json], answer: &str| {
        Json::from(before.iter().cloned().chain([says("assistant", answer)]).collect::<Vec<_>>())
    };
    let pair = |beside: Json, before: &[Json]| {
        let mut row = json!({"prompt": "p", "chosen": side(before, "a"), "rejected": side(before, "b")});
        row.as_object_mut().unwrap().extend(beside.as_object().unwrap().clone());
        shows(row)
    };
    let [system, user] = [says("system", "s"), says("user", "p")];
    let unread = "unread-prompt: prompt: prompt is not read, and may be part of what was said";
    for (beside, layout) in
        [(json!({}), "Binarized"), (json!({"source": "x"}), "Mixture [x]"), (json!({"chosen-model": "m"}), "Argilla")]
    {
        let by = if layout == "Argilla" { " by m" } else { "" };
        let body = format!("=> assistant: a{by} > assistant: b");
        // The question is missing in the conversations.
        assert_eq!(pair(beside.clone(), from_ref(&system)), format!("{layout} system: s / user: p {body}"));
        assert_eq!(pair(beside.clone(), &[]), format!("{layout} user: p {body}"));
        // It is repeated in them.
        let turns = [user.clone(), says("assistant", "x"), says("user", "q")];
        assert_eq!(pair(beside.clone(), &turns), format!("{layout} user: p / assistant: x / user: q {body}"));
        // They ask another one.
        let layout = layout.split(' ').next().unwrap();
        assert_eq!(pair(beside, &[says("user", "other")]), format!("{layout} {unread}"));
    }
    let turn = json!([{"from": "human", "value": "other"}]);
    assert_eq!(
        shows(json!({"prompt": "p", "conversations": turn, "chosen": "a", "rejected": "b"})),
        format!("Sharegpt {unread}")
    );
    let scored = json!([{"response": "a", "overall_score": 2}, {"response": "b", "overall_score": 1}]);
    for (prompt, wanted) in [("p", "user: p => a Some(2.0), b Some(1.0)"), ("Other.", unread)] {
        let row = json!({"instruction": "p", "prompt": prompt, "completions": scored});
        assert_eq!(shows(row), format!("Ultrafeedback {wanted}"));
    }
    // HelpSteer2 reads its prompt without the marks.
    let marked = "p\n<extra_id_1>Assistant\nx\n<extra_id_1>User\nq";
    let row = json!({"prompt": marked, "response_1": "a", "response_2": "b", "preference_strength": -1});
    assert_eq!(shows(row), "Helpsteer2 user: p / assistant: x / user: q => assistant: a 1 > assistant: b 0");
}

#[test]
fn a_prompt_that_is_a_labelled_dialogue_is_split_as_dialogues_are() {
    let start = "\n\nHuman: p\n\nAssistant: x\n\nHuman: q\n\nAssistant:";
    let row = |prompt: &str, chosen: &str, rejected: &str| {
        shows(json!({"prompt": prompt, "chosen": chosen, "rejected": rejected}))
    };
    let wanted = "Trl user: p / assistant: x / user: q => assistant: a > assistant: b";
    for before in [" ", "Assistant: ", start, start.trim_start()] {
        assert_eq!(row(start, &format!("{before} a"), &format!("{before} b\n")), wanted, "{before:?}");
    }
    assert_eq!(row(&start.replace("\n\n", "\n"), " a", " b"), wanted, "single line breaks");
    let decision =
        "Trl decision different-contexts: rejected: the messages before the response are not those of chosen";
    assert_eq!(row(start, "a", "\n\nHuman: other\n\nAssistant: b"), decision);
    assert_eq!(row(start, "a", "b\n\nHuman: r\n\nAssistant: c"), decision);
    let on = "\n\nHuman: r\n\nAssistant:";
    let long = "Trl user: p / assistant: x / user: q / assistant: y / user: r => assistant: a > assistant: b";
    assert_eq!(row(start, &format!(" y{on} a"), &format!(" y{on} b")), long);
    // Message lists beside such a prompt, in either layout.
    let lists = json!({"prompt": start, "chosen": [says("assistant", "a")], "rejected": [says("assistant", "b")]});
    assert_eq!(shows(lists), wanted.replace("Trl", "Binarized"));
    // Other texts stay one message.
    for text in ["Human: p", "Say Human: x\n\nAssistant:", "\n\nHuman: p\n\nAssistant: y"] {
        assert_eq!(row(text, "a", "b"), format!("Trl user: {text} => assistant: a > assistant: b"));
    }
    let known = |line: Json| {
        let row = object(&line.to_string());
        read(Layout::of(&row), row, &IngestConfig::default(), Vec::new).unwrap().dialogue_prompt
    };
    assert!(known(json!({"prompt": start, "chosen": "a", "rejected": "b"})));
    assert!(!known(json!({"prompt": "p", "chosen": "a", "rejected": "b"})));
    let repeated = |answer: &str| json!([says("user", start), says("assistant", answer)]);
    assert!(!known(json!({"prompt": start, "chosen": repeated("a"), "rejected": repeated("b")})), "one message still");
}

#[test]
fn lists_beside_an_instruction_are_conversations() {
    let side = |before: &[Json], answer: &str| {
        Json::from(before.iter().cloned().chain([says("assistant", answer)]).collect::<Vec<_>>())
    };
    let row = |asked: Json, before: &[Json]| {
        let mut row = json!({"chosen": side(before, "a"), "rejected": side(before, "b")});
        row.as_object_mut().unwrap().extend(asked.as_object().unwrap().clone());
        shows(row)
    };
    let [system, user] = [says("system", "s"), says("user", "p")];
    let body = "user: p => assistant: a > assistant: b";
    for key in ["instruction", "question", "input"] {
        let asked = json!({key: "p"});
        assert_eq!(row(asked.clone(), from_ref(&user)), format!("Trl {body}"), "as Magpie has it");
        assert_eq!(row(asked.clone(), &[]), format!("Trl {body}"));
        assert_eq!(row(asked.clone(), from_ref(&system)), format!("Trl system: s / {body}"));
        let wanted = format!("Trl unread-{key}: {key}: {key} is not read, and may be part of what was said");
        assert_eq!(row(asked, &[says("user", "other")]), wanted);
    }
    assert_eq!(row(json!({"instruction": "p", "source": "x"}), &[]), format!("Mixture [x] {body}"));
    assert_eq!(row(json!({"instruction": "p", "system_prompt": "s"}), &[]), format!("Trl system: s / {body}"));
    let both = row(json!({"instruction": "p", "input": "i"}), &[]);
    assert_eq!(both, "Trl user: p\ni => assistant: a > assistant: b");
    let none = row(json!({}), &[]);
    assert!(none.starts_with("Trl prompt-mismatch: prompt: missing, "), "{none}");
}

#[test]
fn ties_between_the_answers_are_no_preferences() {
    let row = |status: &str| shows(json!({"input": "p", "chosen": "a", "rejected": "b", "status": status}));
    assert_eq!(row("tie"), "Orca decision no-preference: status: neither response is preferred");
    assert_eq!(row("swapped"), "Orca user: p => assistant: a > assistant: b");
}

/// The fault of a row under these settings.
fn fault(row: &Json, columns: &[&str], ignored: &[&str]) -> Option<RowFault> {
    let texts = |words: &[&str]| words.iter().map(|word| word.to_string()).collect::<Vec<_>>();
    let names = Names::parse(&texts(columns)).unwrap().ignoring(&texts(ignored));
    let text = row.to_string();
    let Value::Object(object) = parse_json(&text, &names).unwrap() else { panic!() };
    let config = IngestConfig { columns: texts(columns), ..IngestConfig::default() };
    let keys = || row.as_object().unwrap().keys().cloned().collect();
    read(Layout::of(&object), object, &config, keys).err()
}

#[test]
fn sides_are_ordered_by_the_column_that_says_which_is_better() {
    let columns = ["prompt=p", "chosen=first", "rejected=second"];
    for (key, value) in [
        ("winner", json!("model_a")),
        ("winner_model_a", json!(0)),
        ("better_response_id", json!(1)),
        ("labels", json!(0)),
        ("score_0", json!(-0.5)),
        ("score_A", json!(4)),
    ] {
        let mut row = json!({"p": "q", "first": "a", "second": "b"});
        assert_eq!(fault(&row, &columns, &[]), None);
        row.as_object_mut().unwrap().insert(key.into(), value);
        let found = fault(&row, &columns, &[]).unwrap();
        assert_eq!((found.field.as_str(), found.reason), (key, reason::unread(key)));
        assert!(reason::is_unread(found.reason), "its name is in the reason");
        assert!(found.message.starts_with(&format!("{key} says which response is better, and --columns ")));
        assert_eq!(fault(&row, &columns, &[key]), None, "the user has said that it does not matter");
        // Sides under their own names are ordered already.
        row.as_object_mut().unwrap().extend(json!({"chosen": "a", "rejected": "b"}).as_object().unwrap().clone());
        assert_eq!(fault(&row, &["prompt=p"], &[]), None);
    }
    // Mapped to a score, it is read.
    let row = json!({"p": "q", "first": "a", "second": "b", "score_0": 1, "score_1": 2});
    let scored = [&columns[..], &["score_chosen=score_0", "score_rejected=score_1"]].concat();
    assert_eq!(fault(&row, &scored, &[]), None);
}

#[test]
fn rows_with_a_label_column_say_so() {
    let said = |row: Json| {
        let found = fault(&row, &[], &[]).unwrap();
        assert_eq!(found.reason, reason::UNKNOWN_LAYOUT);
        let advice = found.message.split_once("; the row has ").unwrap().1.split_once("; ").map(|parts| parts.1);
        (found.field, advice.unwrap_or_default().to_string())
    };
    for (key, row) in [
        ("winner", json!({"winner": "model_a", "conversation_a": [], "conversation_b": []})),
        ("winner_model_a", json!({"winner_model_a": 1, "response_a": "a"})),
        ("better_response_id", json!({"better_response_id": 1, "response_0": "a", "response_1": "b"})),
        ("labels", json!({"labels": 1, "score_A": 1, "score_B": 2})),
        ("choice", json!({"choice": 1})),
        ("label", json!({"label": 1, "answer_a": "a", "answer_b": "b"})),
        ("rank", json!({"rank": 1, "text": "a"})),
    ] {
        assert_eq!(said(row), (key.to_string(), format!("{key} says which response is better")));
    }
    for (a, b) in [("score_0", "score_1"), ("score_A", "score_B")] {
        let wanted = (a.to_string(), format!("{a} and {b} say which response is better"));
        assert_eq!(said(json!({a: 1, b: 2})), wanted);
    }
    assert_eq!(said(json!({"text": "a", "label": 1})), (String::new(), String::new()), "rows of another task");
    assert_eq!(said(json!({"score_A": 1})), (String::new(), String::new()), "one score alone orders nothing");
    for row in
        [json!({"completion": "a", "label": true}), json!({"messages": [], "label": true}), json!({"kto_tag": true})]
    {
        assert_eq!(said(row).1, "rows with one labelled response each (KTO) give no pairs");
    }
}
