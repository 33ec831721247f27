//! `generate` as text for people.

use std::fmt::Write;

use crate::pipeline::generate::{GenerateSummary, GeneratedAnswer};

/// Codes of a prior that are listed.
const LISTED: usize = 4;

/// `generate`.
pub fn generate(s: &GenerateSummary) -> String {
    let mut out = String::new();
    for same in s.answers.chunk_by(|a, b| a.instruction == b.instruction) {
        let _ = writeln!(out, "> {}", same[0].instruction.replace('\n', "\n> "));
        for answer in same {
            if same.len() > 1 || !answer.prior.is_empty() {
                let _ = writeln!(out, "\n[{}]", by(answer));
            } else {
                out.push('\n');
            }
            let cut = if answer.is_cut() { " [...]" } else { "" };
            let _ = writeln!(out, "{}{cut}", answer.output);
        }
        out.push('\n');
    }
    if !s.out.is_empty() {
        let _ = writeln!(
            out,
            "{}: {} answers to {} prompts, {} of them cut; {} tokens in {:.1} s, {:.0} a second",
            s.out, s.completions, s.prompts, s.cut, s.tokens, s.seconds, s.tokens_per_s
        );
    }
    out
}

/// The z of an answer: one code, or the prior with its likeliest codes.
fn by(answer: &GeneratedAnswer) -> String {
    if let Some(code) = answer.code {
        return match answer.prior.get(code) {
            Some(p) => format!("code {code}, {p:.2} of the prior"),
            None => format!("code {code}"),
        };
    }
    let mut codes: Vec<(usize, f32)> = answer.prior.iter().copied().enumerate().collect();
    codes.sort_by(|a, b| b.1.total_cmp(&a.1));
    let shown: Vec<String> = codes.iter().take(LISTED).map(|(code, p)| format!("{code} {p:.2}")).collect();
    if shown.is_empty() { "no codes".into() } else { format!("the prior: code {}", shown.join(", ")) }
}
