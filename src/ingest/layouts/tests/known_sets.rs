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
