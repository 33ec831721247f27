//! The style factors, and the words that realise them.
//!
//! Every value of every factor has four wordings, each a short phrase with
//! words of its own, so that a bag of words, a code's vocabulary bias or a
//! two-layer decoder can tell the values apart. Two values are realised by
//! absence (no example, no empathy). All markers are lower-case: [`detect`]
//! lowers the text before it looks.

/// The largest number of active factors.
pub const MAX_FACTORS: usize = 8;

/// One binary style factor.
#[derive(Debug, Clone, Copy)]
pub struct Factor {
    /// Name, for tables.
    pub name: &'static str,
    /// The two values: index is the style bit.
    pub values: [Value; 2],
}

/// One value of a factor.
#[derive(Debug, Clone, Copy)]
pub struct Value {
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
            Value {
                name: "short",
                markers: &["in short,", "in brief,", "to sum up,", "put simply,"],
                asks: ["Keep it short.", "Please be brief.", "A quick reply will do.", "Use few words."],
            },
            Value {
                name: "thorough",
                markers: &["in more detail,", "going deeper,", "to add depth,", "looking closer,"],
                asks: ["Go into depth.", "Tell me every detail.", "Be thorough.", "Give the full story."],
            },
        ],
    },
    Factor {
        name: "certainty",
        values: [
            Value {
                name: "hedged",
                markers: &["perhaps", "maybe", "it might be that", "i suspect that"],
                asks: ["Admit what is unsure.", "Mention your doubts.", "Do not overclaim.", "Stay humble about it."],
            },
            Value {
                name: "assertive",
                markers: &["definitely", "without a doubt", "clearly", "i am certain that"],
                asks: ["Give a firm view.", "Take a clear stand.", "Sound confident.", "Be decisive."],
            },
        ],
    },
    Factor {
        name: "register",
        values: [
            Value {
                name: "casual",
                markers: &["hey there!", "yo, sure!", "yeah, cool one!", "haha, okay!"],
                asks: ["Talk like a buddy.", "Keep it casual.", "Chat in a relaxed way.", "Make it laid back."],
            },
            Value {
                name: "formal",
                markers: &["dear reader.", "with pleasure.", "kind regards.", "most honored guest."],
                asks: ["Write formally.", "Use polite language.", "Keep a serious tone.", "Address me properly."],
            },
        ],
    },
    Factor {
        name: "layout",
        values: [
            Value {
                name: "prose",
                markers: &["first, ", "to begin, ", "initially, ", "at the start, "],
                asks: ["Write one paragraph.", "Use flowing prose.", "Avoid bullets.", "Keep it as running text."],
            },
            Value {
                name: "list",
                markers: &["\n- ", "\n* ", "\n+ ", "\n1. "],
                asks: ["Use bullet points.", "Make a list.", "Split it into items.", "Show separate lines."],
            },
        ],
    },
    Factor {
        name: "example",
        values: [
            Value {
                name: "no-example",
                markers: &[],
                asks: ["Skip examples.", "Stay abstract.", "Leave out anecdotes.", "Only the principle."],
            },
            Value {
                name: "example",
                markers: &["for example,", "for instance,", "as a sample,", "as an illustration,"],
                asks: ["Please give an example.", "Show me an instance.", "Illustrate it.", "Add a sample case."],
            },
        ],
    },
    Factor {
        name: "risk",
        values: [
            Value {
                name: "cautious",
                markers: &["be careful", "mind the risk", "stay safe", "take precautions"],
                asks: ["Warn me of dangers.", "Safety matters most.", "Point out any hazard.", "I fear accidents."],
            },
            Value {
                name: "direct",
                markers: &["just go for it", "dive right in", "do it now", "jump straight in"],
                asks: ["No warnings, please.", "I want to act today.", "Push me forward.", "I like boldness."],
            },
        ],
    },
    Factor {
        name: "empathy",
        values: [
            Value {
                name: "neutral",
                markers: &[],
                asks: ["Leave feelings aside.", "Stay neutral.", "Just the facts.", "Remain matter of fact."],
            },
            Value {
                name: "warm",
                markers: &["i feel with you", "you have my sympathy", "my heart goes out", "i know this is hard"],
                asks: ["Please comfort me.", "I need some kindness.", "Show compassion.", "I am sad today."],
            },
        ],
    },
    Factor {
        name: "structure",
        values: [
            Value {
                name: "conclusion-last",
                markers: &["in conclusion,", "all in all,", "to close,", "as a last word,"],
                asks: ["End with the conclusion.", "Build up to it.", "Reasons come before.", "Close with the answer."],
            },
            Value {
                name: "conclusion-first",
                markers: &["bottom line:", "upfront:", "key point:", "result:"],
                asks: [
                    "Start with the conclusion.",
                    "Lead with the verdict.",
                    "Answer up front.",
                    "Outcome at the top.",
                ],
            },
        ],
    },
];

/// Reads a factor's value back from a response's words alone: `None` where the
/// markers of both values occur, or of neither although one would have to.
pub fn detect(text: &str, factor: usize) -> Option<bool> {
    let text = text.to_lowercase();
    let found = |value: usize| FACTORS[factor].values[value].markers.iter().any(|m| text.contains(m));
    let absent = |value: usize| FACTORS[factor].values[value].markers.is_empty();
    match (found(0), found(1)) {
        (true, false) => Some(false),
        (false, true) => Some(true),
        (false, false) if absent(0) => Some(false),
        (false, false) if absent(1) => Some(true),
        _ => None,
    }
}

/// What all sources say about their items: `the soup is best when ...`.
pub const QUALITIES: [&str; 6] = [
    "you keep the plan small",
    "the timing is right",
    "you give it some rest",
    "the basics are strong",
    "you watch each stage",
    "it stays within reach",
];

/// What a thorough answer adds.
pub const EXTRAS: [&str; 6] = [
    "good tools save a lot of time",
    "the early hours decide the outcome",
    "small habits carry most of the weight",
    "a second look often pays off",
    "patience matters more than talent",
    "the order of work makes a difference",
];

/// Joins the two extra sentences of a thorough answer.
pub const EXTRA_LINKS: [&str; 4] = ["Besides", "Furthermore", "Beyond that", "On top of that"];

/// What an example tells.
pub const EXAMPLES: [&str; 6] = [
    "a neighbor did it in one evening",
    "my cousin learned it in a week",
    "a school in town tried it last year",
    "two friends of mine did it together",
    "an old sailor did it every spring",
    "our baker does it on Sundays",
];

/// What follows a word on risk: cautious, direct.
pub const RISKS: [[&str; 3]; 2] = [
    ["and test it on a small part", "and ask an expert", "and slow down"],
    ["and enjoy it", "and trust yourself", "and see what happens"],
];

/// What follows a word of empathy.
pub const FEELINGS: [&str; 3] = ["in this", "these days", "with all of that"];

/// What a conclusion says.
pub const CONCLUSIONS: [&str; 5] =
    ["it is worth the effort", "a calm plan wins", "steady work pays", "less is enough", "the simple way holds"];

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
            for text in QUALITIES.iter().chain(&EXTRAS).chain(&EXAMPLES).chain(&FEELINGS).chain(&CONCLUSIONS) {
                assert!(!text.to_lowercase().contains(marker), "{marker} in {text}");
            }
        }
    }

    #[test]
    fn a_contradiction_or_a_silence_is_no_value() {
        assert_eq!(detect("In short, yes.", index::LENGTH), Some(false));
        assert_eq!(detect("In more detail, yes.", index::LENGTH), Some(true));
        assert_eq!(detect("In short, in more detail, yes.", index::LENGTH), None);
        assert_eq!(detect("Yes.", index::LENGTH), None);
        // An absence is a value where the grammar says so.
        assert_eq!(detect("Yes.", index::EXAMPLE), Some(false));
    }
}
