//! ARC, easy and challenge: science questions with three to five choices.
//!
//! # Source
//! Clark et al. 2018, "Think you have Solved Question Answering? Try ARC"; prompt and metrics of lm-evaluation-harness
//! 0.4, `arc_easy` and `arc_challenge`, version 1.0, without examples.

use super::{BenchmarkRow, Question};
use crate::error::Result;

/// Version of the task's definition.
pub const VERSION: f64 = 1.0;

/// A row as AI2 publishes it (`question.stem`, `question.choices` as objects), or as the hub's `allenai/ai2_arc` has it
/// (`question`, `choices.text`, `choices.label`).
///
/// # Errors
/// [`crate::Error::Data`] where a field is missing, or `answerKey` is the label of no choice.
pub fn question(row: &BenchmarkRow) -> Result<Question> {
    let (stem, texts, labels) = if row.at("question").is_string() {
        (row.text("question")?, row.texts("choices.text")?, row.texts("choices.label")?)
    } else {
        let field = "question.choices";
        let choices = row.at(field).as_array().ok_or_else(|| row.fault(field, "expected a list of choices"))?;
        let each = |key: &str| -> Result<Vec<String>> {
            let one = |choice: &serde_json::Value| choice[key].as_str().map(str::to_string);
            let all: Option<Vec<String>> = choices.iter().map(one).collect();
            all.ok_or_else(|| row.fault(field, format!("expected a text `{key}` in every choice")))
        };
        (row.text("question.stem")?, each("text")?, each("label")?)
    };
    if texts.is_empty() || texts.len() != labels.len() {
        return Err(row.fault("choices", format!("{} choices and {} labels", texts.len(), labels.len())));
    }
    let key = row.text("answerKey")?;
    let right = labels.iter().position(|label| label == key);
    let right = right.ok_or_else(|| row.fault("answerKey", format!("{key:?} is not among the labels {labels:?}")))?;
    Ok(Question {
        id: row.at("id").as_str().unwrap_or_default().to_string(),
        context: format!("Question: {stem}\nAnswer:"),
        right: (0..texts.len()).map(|i| i == right).collect(),
        choices: texts,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(value: Value) -> Result<Question> {
        question(&BenchmarkRow { file: "arc.jsonl".into(), line: 4, value })
    }

    #[test]
    fn both_layouts_give_the_same_question() {
        let own = json!({"id": "a1", "question": {"stem": "What is hot?", "choices": [{"text": "ice", "label": "1"},
            {"text": "fire", "label": "2"}]}, "answerKey": "2"});
        let hub = json!({"id": "a1", "question": "What is hot?",
            "choices": {"text": ["ice", "fire"], "label": ["1", "2"]}, "answerKey": "2"});
        let wanted = Question {
            id: "a1".into(),
            context: "Question: What is hot?\nAnswer:".into(),
            choices: vec!["ice".into(), "fire".into()],
            right: vec![false, true],
        };
        assert_eq!(of(own).unwrap(), wanted);
        assert_eq!(of(hub).unwrap(), wanted);
    }

    #[test]
    fn rows_that_are_no_questions_are_named() {
        let said = |value: Value| of(value).unwrap_err().to_string();
        let choices = json!({"text": ["ice", "fire"], "label": ["A", "B"]});
        let key = said(json!({"question": "x", "choices": choices, "answerKey": "C"}));
        assert_eq!(key, "arc.jsonl: line 4: answerKey: \"C\" is not among the labels [\"A\", \"B\"]");
        assert!(said(json!({"question": "x", "choices": choices})).contains("answerKey: expected a text"));
        assert!(
            said(json!({"question": "x", "choices": [], "answerKey": "A"})).contains("choices.text: expected a list")
        );
        let short = json!({"text": ["ice"], "label": ["A", "B"]});
        assert!(said(json!({"question": "x", "choices": short, "answerKey": "A"})).contains("1 choices and 2 labels"));
        assert!(said(json!({"text": "y"})).contains("question.choices: expected a list of choices"));
    }
}
