//! Rows as well-known data sets have them, and rows that are nearly so.

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
        assert_eq!(pair(beside.clone(), &[system.clone()]), format!("{layout} system: s / user: p {body}"));
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
