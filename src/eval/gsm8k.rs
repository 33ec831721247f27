//! GSM8K: word problems of grade school, answered in words that end with a number.
//!
//! # Source
//! Cobbe et al. 2021, "Training Verifiers to Solve Math Word Problems"; prompt, examples and metrics of
//! lm-evaluation-harness 0.4, `gsm8k`, version 3.0.

use super::BenchmarkRow;
use super::python_random::PythonRandom;
use crate::error::Result;

/// Version of the task's definition.
pub const VERSION: f64 = 3.0;
/// Texts that end an answer, beside the tokens that end a sequence.
pub const STOPS: [&str; 3] = ["Question:", "</s>", "<|im_end|>"];
/// Most tokens of an answer.
pub const MAX_NEW_TOKENS: usize = 256;
/// Seed by which the harness draws examples.
const SEED: u32 = 1234;
/// What stands for an answer without a number.
const INVALID: &str = "[invalid]";

/// A problem with its worked answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The question.
    pub question: String,
    /// The answer; its number follows `#### ` at the end.
    pub answer: String,
}

/// A row's problem.
///
/// # Errors
/// [`crate::Error::Data`] where a field is missing.
pub fn problem(row: &BenchmarkRow) -> Result<Problem> {
    Ok(Problem { question: row.text("question")?.to_string(), answer: row.text("answer")?.to_string() })
}

/// The prompt of every problem: `shots` examples, drawn for one problem after the other by one generator, and the
/// question. Examples come from `examples`; where there are none, from the problems themselves, of which one more is
/// drawn and the problem's own left out.
pub fn prompts(problems: &[Problem], examples: Option<&[Problem]>, shots: usize) -> Vec<String> {
    let mut random = PythonRandom::new(SEED);
    let pool = examples.unwrap_or(problems);
    problems
        .iter()
        .map(|problem| {
            let mut text = String::new();
            if shots > 0 {
                let drawn = random.sample(pool.len(), shots + usize::from(examples.is_none()));
                let mut drawn: Vec<&Problem> = drawn.into_iter().map(|i| &pool[i]).collect();
                if examples.is_none() {
                    drawn.retain(|drawn| *drawn != problem);
                }
                for example in drawn.into_iter().take(shots) {
                    text += &format!("Question: {}\nAnswer: {}\n\n", example.question, example.answer);
                }
            }
            text + &format!("Question: {}\nAnswer:", problem.question)
        })
        .collect()
}

/// The answer's text up to the first text that ends it.
pub fn cut(text: &str) -> &str {
    STOPS.iter().fold(text, |text, stop| text.split(stop).next().unwrap_or(text))
}

/// The number behind the first `#### `: `#### (\-?[0-9\.\,]+)`.
pub fn strict(text: &str) -> &str {
    for (at, mark) in text.match_indices("#### ") {
        let rest = &text[at + mark.len()..];
        let sign = usize::from(rest.starts_with('-'));
        let digits =
            rest[sign..].find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ',')).unwrap_or(rest.len() - sign);
        if digits > 0 {
            return &rest[..sign + digits];
        }
    }
    INVALID
}

/// The last number anywhere: the last match of `(-?[$0-9.,]{2,})|(-?[0-9]+)`.
pub fn flexible(text: &str) -> &str {
    let bytes = text.as_bytes();
    let run = |from: usize, of: &dyn Fn(u8) -> bool| bytes[from..].iter().take_while(|b| of(**b)).count();
    let (mut at, mut last) = (0, INVALID);
    while at < bytes.len() {
        let sign = usize::from(bytes[at] == b'-');
        let wide = run(at + sign, &|b| b.is_ascii_digit() || b"$.,".contains(&b));
        let digits = run(at + sign, &|b| b.is_ascii_digit());
        let length = match (wide >= 2, digits) {
            (true, _) => sign + wide,
            (false, 0) => {
                at += 1;
                continue;
            }
            (false, n) => sign + n,
        };
        last = &text[at..at + length];
        at += length;
    }
    last
}

/// 1 where an extracted answer is the reference: in both, `,`, `$`, everything up to the last `#### ` and a final full stop
/// are left out, and letters are small.
pub fn exact_match(found: &str, reference: &str) -> f64 {
    let plain = |text: &str| {
        let text = text.replace([',', '$'], "");
        let text = text.rfind("#### ").map_or(text.as_str(), |at| &text[at + 5..]);
        // Python's `$` also stands before a last line feed.
        let (text, end) = text.strip_suffix('\n').map_or((text, ""), |text| (text, "\n"));
        (text.strip_suffix('.').unwrap_or(text).to_string() + end).to_lowercase()
    };
    if plain(found) == plain(reference) { 1.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(n: usize) -> Vec<Problem> {
        (0..n).map(|i| Problem { question: format!("q{i}"), answer: format!("a{i} #### {i}") }).collect()
    }

    #[test]
    fn examples_are_drawn_as_the_harness_draws_them() {
        let prompts_of = |prompt: &str| -> Vec<String> {
            prompt.split("Question: ").skip(1).map(|p| p.split('\n').next().unwrap().to_string()).collect()
        };
        let (problems, train) = (numbered(3), numbered(7473));
        let found = prompts(&problems, Some(&train), 5);
        assert_eq!(prompts_of(&found[0]), ["q6374", "q3610", "q957", "q61", "q742", "q0"]);
        assert_eq!(prompts_of(&found[2]), ["q5677", "q687", "q806", "q6279", "q2905", "q2"]);
        let start = "Question: q6374\nAnswer: a6374 #### 6374\n\nQuestion: q3610\n";
        assert!(found[0].starts_with(start) && found[0].ends_with("a742 #### 742\n\nQuestion: q0\nAnswer:"));
        // From the problems themselves: never the problem's own answer, and always as many as wanted.
        let problems = numbered(20);
        for (i, prompt) in prompts(&problems, None, 5).iter().enumerate() {
            let drawn = prompts_of(prompt);
            assert_eq!((drawn.len(), drawn[5].clone()), (6, format!("q{i}")));
            assert!(!drawn[..5].contains(&format!("q{i}")), "{drawn:?}");
        }
        assert_eq!(prompts(&problems, None, 0)[3], "Question: q3\nAnswer:");
    }

    #[test]
    fn numbers_are_found_in_answers() {
        for (text, by_mark, by_last) in [
            ("so 3+4=7\n#### 7", "7", "7"),
            ("#### -1,234.50 and #### 9", "-1,234.50", "9"),
            ("####7", INVALID, "7"),
            ("it costs $12.", INVALID, "$12."),
            ("a 5 b", INVALID, "5"),
            ("it costs $5", INVALID, "$5"),
            ("from 3 to -8 and x", INVALID, "-8"),
            ("no number", INVALID, INVALID),
            ("#### none, but 4", INVALID, "4"),
            // Two signs that are no number are one match of the first part of the expression.
            ("3 ...", INVALID, "..."),
            ("#### -", INVALID, INVALID),
            ("#### \u{e9}4", INVALID, "4"),
        ] {
            assert_eq!((strict(text), flexible(text)), (by_mark, by_last), "{text}");
        }
    }

    #[test]
    fn numbers_are_compared_without_their_marks() {
        let reference = "48/2 = 24\n#### 1,072";
        for (found, wanted) in [("1072", 1.0), ("$1,072.", 1.0), ("1072.0", 0.0), (INVALID, 0.0), ("107", 0.0)] {
            assert_eq!(exact_match(found, reference), wanted, "{found}");
        }
        assert_eq!(cut("a\n\nQuestion: b </s>"), "a\n\n");
        assert_eq!(cut("a</s>Question: b"), "a");
    }
}
