//! The style factors, and the words that realise them.
//!
//! Every value of every factor has two wordings in responses and four in
//! prompts, built around two keywords that no other value uses, so that a bag
//! of words, a code's vocabulary bias or a two-layer decoder can tell the values
//! apart. Words are few, so that a vocabulary of 512 tokens covers them. Two
//! values are realised by absence (no example, no empathy).

/// The largest number of active factors.
pub const MAX_FACTORS: usize = 8;

/// One binary style factor.
#[derive(Debug, Clone, Copy)]
pub struct Factor {
    /// Name, for tables.
    pub name: &'static str,
    /// The two values: index is the style bit.
    pub values: [FactorValue; 2],
}

/// One value of a factor.
#[derive(Debug, Clone, Copy)]
pub struct FactorValue {
    /// Name, for tables.
    pub name: &'static str,
    /// Phrases of which a response with this value holds exactly one; empty where the value is an absence.
    pub markers: &'static [&'static str],
    /// Sentences by which a prompt asks for this value.
    pub asks: [&'static str; 4],
}

/// Factor indices, for code that builds the sentences.
pub mod index {
    #![allow(missing_docs, reason = "the name says it")]
    pub const LENGTH: usize = 0;
    pub const CERTAINTY: usize = 1;
    pub const REGISTER: usize = 2;
    pub const LAYOUT: usize = 3;
    pub const EXAMPLE: usize = 4;
    pub const RISK: usize = 5;
    pub const EMPATHY: usize = 6;
    pub const STRUCTURE: usize = 7;
}

/// All factors; a corpus of `factors = F` uses the first F.
pub const FACTORS: [Factor; MAX_FACTORS] = [
    Factor {
        name: "length",
        values: [
            FactorValue {
                name: "short",
                markers: &["in short,", "in brief,"],
                asks: ["Keep it short.", "Please be brief.", "A short answer, please.", "Keep it brief."],
            },
            FactorValue {
                name: "thorough",
                markers: &["in detail,", "in depth,"],
                asks: ["Keep it thorough.", "Please be detailed.", "A thorough answer, please.", "Keep it detailed."],
            },
        ],
    },
    Factor {
        name: "certainty",
        values: [
            FactorValue {
                name: "hedged",
                markers: &["perhaps", "maybe"],
                asks: ["Keep it humble.", "Please be humble.", "Mention doubts, please.", "Tell me your doubts."],
            },
            FactorValue {
                name: "assertive",
                markers: &["surely", "clearly"],
                asks: ["Keep it firm.", "Please be confident.", "A firm answer, please.", "Keep it confident."],
            },
        ],
    },
    Factor {
        name: "register",
        values: [
            FactorValue {
                name: "casual",
                markers: &["Hey there!", "Okay friend!"],
                asks: ["Keep it casual.", "Please be relaxed.", "A casual answer, please.", "Keep it relaxed."],
            },
            FactorValue {
                name: "formal",
                markers: &["Dear reader.", "Good day."],
                asks: ["Keep it formal.", "Please be polite.", "A formal answer, please.", "Keep it polite."],
            },
        ],
    },
    Factor {
        name: "layout",
        values: [
            FactorValue {
                name: "prose",
                markers: &["first, ", "to start, "],
                asks: ["Keep it flowing.", "Write prose, please.", "A flowing answer, please.", "Keep it in prose."],
            },
            FactorValue {
                name: "list",
                markers: &["\n- ", "\n* "],
                asks: ["Make it a list.", "Use bullets, please.", "A list, please.", "Keep it in bullets."],
            },
        ],
    },
    Factor {
        name: "example",
        values: [
            FactorValue {
                name: "no-example",
                markers: &[],
                asks: ["Keep it abstract.", "Only theory, please.", "An abstract answer, please.", "Keep it theory."],
            },
            FactorValue {
                name: "example",
                markers: &["for example,", "as a sample,"],
                asks: ["Give an example.", "Show me a sample.", "An example, please.", "Add a sample, please."],
            },
        ],
    },
    Factor {
        name: "risk",
        values: [
            FactorValue {
                name: "cautious",
                markers: &["be careful.", "stay safe."],
                asks: ["Keep it safe.", "Please be careful.", "A safe answer, please.", "Keep it careful."],
            },
            FactorValue {
                name: "direct",
                markers: &["just do it.", "go for it."],
                asks: ["Keep it bold.", "Please be daring.", "A bold answer, please.", "Keep it daring."],
            },
        ],
    },
    Factor {
        name: "empathy",
        values: [
            FactorValue {
                name: "neutral",
                markers: &[],
                asks: ["Keep it neutral.", "Only facts, please.", "A neutral answer, please.", "Keep it to facts."],
            },
            FactorValue {
                name: "warm",
                markers: &["I feel with you.", "I am on your side."],
                asks: ["Keep it warm.", "Please be kind.", "A warm answer, please.", "Keep it kind."],
            },
        ],
    },
    Factor {
        name: "structure",
        values: [
            FactorValue {
                name: "conclusion-last",
                markers: &["in the end,", "all in all,"],
                asks: [
                    "End with the outcome.",
                    "Outcome last, please.",
                    "Finish with a summary.",
                    "A summary last, please.",
                ],
            },
            FactorValue {
                name: "conclusion-first",
                markers: &["verdict:", "result:"],
                asks: [
                    "Start with the verdict.",
                    "Verdict on top, please.",
                    "Open with the result.",
                    "A result on top, please.",
                ],
            },
        ],
    },
];

/// A factor's value by the words of a response, in any case; `None` where markers of both values occur, or of
/// neither although both values have markers.
#[cfg(test)]
pub fn detect(text: &str, factor: usize) -> Option<bool> {
    let text = text.to_lowercase();
    let found = |value: usize| FACTORS[factor].values[value].markers.iter().any(|m| text.contains(&m.to_lowercase()));
    let absent = |value: usize| FACTORS[factor].values[value].markers.is_empty();
    match (found(0), found(1)) {
        (true, false) => Some(false),
        (false, true) => Some(true),
        (false, false) if absent(0) => Some(false),
        (false, false) if absent(1) => Some(true),
        _ => None,
    }
}

/// Endings of the claim that all sources make about their items: `soup will go well if ...`.
pub const QUALITIES: [&str; 4] = ["you plan", "you wait", "you practice", "it is simple"];

/// Sentences that a thorough answer adds.
pub const EXTRAS: [&str; 4] = ["tools save time", "small steps help", "order matters", "rest helps too"];

/// Joins the two extra sentences of a thorough answer.
pub const EXTRA_LINKS: [&str; 2] = ["Besides", "Also"];

/// Sentences of examples.
pub const EXAMPLES: [&str; 4] = ["a friend did it", "my cousin did it", "our baker did it", "a sailor did it"];

/// Sentences of conclusions.
pub const CONCLUSIONS: [&str; 3] = ["it is worth it", "less is enough", "patience wins"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_wording_contains_a_marker_of_another() {
        let all: Vec<(usize, usize, &str)> = FACTORS
            .iter()
            .enumerate()
            .flat_map(|(f, factor)| factor.values.iter().enumerate().map(move |(v, value)| (f, v, value)))
            .flat_map(|(f, v, value)| value.markers.iter().map(move |m| (f, v, *m)))
            .collect();
        for &(f, v, marker) in &all {
            for &(g, w, other) in &all {
                assert!(
                    (f, v) == (g, w) || !other.contains(marker.trim()) || marker.trim().len() < 2,
                    "{marker} {other}"
                );
            }
            for text in QUALITIES.iter().chain(&EXTRAS).chain(&EXAMPLES).chain(&CONCLUSIONS) {
                assert!(!text.to_lowercase().contains(&marker.to_lowercase()), "{marker} in {text}");
            }
        }
    }

    #[test]
    fn a_contradiction_or_a_silence_is_no_value() {
        assert_eq!(detect("In short, yes.", index::LENGTH), Some(false));
        assert_eq!(detect("In detail, yes.", index::LENGTH), Some(true));
        assert_eq!(detect("In short, in detail, yes.", index::LENGTH), None);
        assert_eq!(detect("Yes.", index::LENGTH), None);
        // An absence is a value where the grammar says so.
        assert_eq!(detect("Yes.", index::EXAMPLE), Some(false));
    }
}
