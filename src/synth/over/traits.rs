//! Traits by which annotators judge real texts, and the ways in which each is liked.
//!
//! All traits but the length are shares and rates, not counts: a long response has more of everything, so counts would
//! make all annotators like long responses. Words are English; in other languages the traits
//! of words (hedges, persons) are rare, and a prompt whose responses do not differ in one is not judged by it.

pub use super::counts::TextCounts;

/// The least difference between a prompt's responses with which a trait may decide.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Least {
    /// The highest value is at least so many times the lowest.
    Ratio(f64),
    /// The highest value is at least so much above the lowest, in the trait's unit.
    Difference(f64),
}

impl Least {
    /// Whether these values differ enough; false for no values.
    pub fn is_met(self, values: impl Iterator<Item = f64>) -> bool {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        high > low
            && match self {
                Least::Ratio(ratio) => high >= ratio * low,
                Least::Difference(difference) => high - low >= difference,
            }
    }
}

/// Where a trait's value comes from.
#[derive(Debug, Clone, Copy)]
pub enum Measure {
    /// Counted in the text of the response.
    Text(fn(&TextCounts) -> f64),
    /// Given by the input: a rating of this aspect.
    Rating,
}

/// A way in which a trait is liked: a trait and a way are a preference.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// Name, for tables.
    pub name: &'static str,
    /// Whether more of the trait is liked, not less.
    pub more: bool,
    /// Sentences by which a prompt asks for it.
    pub asks: [&'static str; 4],
}

/// One trait of a response.
#[derive(Debug, Clone, Copy)]
pub struct Trait {
    /// Name, for settings and tables.
    pub name: &'static str,
    /// What is counted.
    pub counts: &'static str,
    /// Unit of the value.
    pub unit: &'static str,
    /// Where the value comes from.
    pub measure: Measure,
    /// The least difference with which it may decide.
    pub least: Least,
    /// The ways in which it is liked.
    pub ways: &'static [Way],
}

const PER_WORDS: &str = "per 100 words";

/// The traits of texts; a corpus of `factors = F` uses the first F.
///
/// The first two are liked both ways, so that F traits make F + 2 preferences, as in the corpus of made-up
/// texts. The first ones are those in which real responses differ most often and most independently of each other.
pub const TRAITS: [Trait; 10] = [
    Trait {
        name: "length",
        counts: "words",
        unit: "words",
        measure: Measure::Text(|c| c.words as f64),
        least: Least::Ratio(1.25),
        ways: &[
            Way {
                name: "short",
                more: false,
                asks: ["Keep it short.", "Please be brief.", "A short answer, please.", "In as few words as you can."],
            },
            Way {
                name: "long",
                more: true,
                asks: ["Go into detail.", "Please be thorough.", "A long answer, please.", "Leave nothing out."],
            },
        ],
    },
    Trait {
        name: "lists",
        counts: "lines that are items of a list, bulleted or numbered",
        unit: "% of the lines",
        measure: Measure::Text(|c| 100.0 * c.items as f64 / c.lines.max(1) as f64),
        least: Least::Difference(10.0),
        ways: &[
            Way {
                name: "prose",
                more: false,
                asks: ["Do not use lists.", "Write prose, please.", "No bullet points.", "Whole paragraphs, please."],
            },
            Way {
                name: "list",
                more: true,
                asks: ["Make it a list.", "Use bullet points.", "A list, please.", "Point by point, please."],
            },
        ],
    },
    Trait {
        name: "hedges",
        counts: "words of doubt: may, might, could, perhaps, seems, often and their kin",
        unit: PER_WORDS,
        measure: Measure::Text(|c| c.per_words(c.hedges)),
        least: Least::Difference(0.25),
        ways: &[Way {
            name: "hedged",
            more: true,
            asks: [
                "Say where you are unsure.",
                "Mention doubts, please.",
                "Be careful with claims.",
                "Stay tentative.",
            ],
        }],
    },
    Trait {
        name: "address",
        counts: "words of the second person: you, your, yours, yourself",
        unit: PER_WORDS,
        measure: Measure::Text(|c| c.per_words(c.second_person)),
        least: Least::Difference(0.5),
        ways: &[Way {
            name: "direct",
            more: true,
            asks: ["Speak to me directly.", "Address me in person.", "Talk to me as \"you\".", "Make it about me."],
        }],
    },
    Trait {
        name: "figures",
        counts: "words with a digit, numbers of list items left out",
        unit: PER_WORDS,
        measure: Measure::Text(|c| c.per_words(c.figures)),
        least: Least::Difference(1.0),
        ways: &[Way {
            name: "numeric",
            more: true,
            asks: ["Give me numbers.", "Put figures in.", "Be quantitative, please.", "Numbers and dates, please."],
        }],
    },
    Trait {
        name: "first-person",
        counts: "words of the first person: I, me, my, we, us, our and their kin",
        unit: PER_WORDS,
        measure: Measure::Text(|c| c.per_words(c.first_person)),
        least: Least::Difference(0.5),
        ways: &[Way {
            name: "personal",
            more: true,
            asks: ["Speak for yourself.", "Make it personal.", "In the first person, please.", "Use \"I\" and \"we\"."],
        }],
    },
    Trait {
        name: "markup",
        counts: "headings, bold spans, code spans and code blocks of Markdown",
        unit: PER_WORDS,
        measure: Measure::Text(|c| c.per_words(c.marks)),
        least: Least::Difference(1.0),
        ways: &[Way {
            name: "formatted",
            more: true,
            asks: ["Use Markdown.", "Format it, please.", "Use headings and bold type.", "Highlight what matters."],
        }],
    },
    Trait {
        name: "sentences",
        counts: "words of a sentence, on average; a line ends a sentence",
        unit: "words",
        measure: Measure::Text(|c| c.words as f64 / c.sentences.max(1) as f64),
        least: Least::Ratio(1.25),
        ways: &[Way {
            name: "terse",
            more: false,
            asks: ["Use short sentences.", "Simple sentences, please.", "No long sentences.", "Keep sentences crisp."],
        }],
    },
    Trait {
        name: "exclamations",
        counts: "exclamation marks",
        unit: PER_WORDS,
        measure: Measure::Text(|c| c.per_words(c.exclamations)),
        least: Least::Difference(0.25),
        ways: &[Way {
            name: "lively",
            more: true,
            asks: ["Sound excited!", "Be enthusiastic.", "With some energy, please.", "Make it lively."],
        }],
    },
    Trait {
        name: "questions",
        counts: "question marks",
        unit: PER_WORDS,
        measure: Measure::Text(|c| c.per_words(c.questions)),
        least: Least::Difference(0.25),
        ways: &[Way {
            name: "asking",
            more: true,
            asks: ["Ask me back.", "Pose questions, too.", "Check with me first.", "Question my question."],
        }],
    },
];

/// Name by which `traits` asks for all of [`ASPECTS`].
pub const ALL_ASPECTS: &str = "aspects";

/// The aspects that raw UltraFeedback rates, as annotators of their own.
///
/// Source: the UF-P data of variational preference learning (Poddar et al. 2024), in which a user is an aspect;
/// helpfulness and honesty are its UF-P-2, all four its UF-P-4.
pub const ASPECTS: [Trait; 4] = [
    aspect(
        "helpfulness",
        &[Way {
            name: "more",
            more: true,
            asks: [
                "Be of real help.",
                "Make it useful.",
                "Help me as well as you can.",
                "Something I can use, please.",
            ],
        }],
    ),
    aspect(
        "honesty",
        &[Way {
            name: "more",
            more: true,
            asks: ["Be honest.", "Say so if you do not know.", "Do not claim too much.", "An honest answer, please."],
        }],
    ),
    aspect(
        "instruction-following",
        &[Way {
            name: "more",
            more: true,
            asks: [
                "Do exactly what I say.",
                "Follow this to the letter.",
                "Stick to the task.",
                "Just as asked, please.",
            ],
        }],
    ),
    aspect(
        "truthfulness",
        &[Way {
            name: "more",
            more: true,
            asks: ["Get the facts right.", "Nothing untrue, please.", "Be accurate.", "Only what is true, please."],
        }],
    ),
];

const fn aspect(name: &'static str, ways: &'static [Way]) -> Trait {
    // Ratings are whole numbers, so that any difference counts.
    let least = Least::Difference(f64::MIN_POSITIVE);
    Trait { name, counts: "the judge's rating of this aspect", unit: "1 to 5", measure: Measure::Rating, least, ways }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn enough_is_a_ratio_or_a_difference() {
        let met = |least: Least, values: &[f64]| least.is_met(values.iter().copied());
        assert!(met(Least::Ratio(1.25), &[100.0, 125.0, 110.0]) && !met(Least::Ratio(1.25), &[100.0, 124.0]));
        assert!(met(Least::Ratio(1.25), &[0.0, 1.0]) && !met(Least::Ratio(1.25), &[0.0, 0.0]));
        assert!(met(Least::Difference(0.5), &[1.0, 1.5]) && !met(Least::Difference(0.5), &[1.0, 1.4]));
        assert!(met(ASPECTS[0].least, &[4.0, 5.0]) && !met(ASPECTS[0].least, &[4.0, 4.0]));
        assert!(!met(Least::Difference(0.0), &[]));
    }

    #[test]
    fn names_and_wordings_are_unique() {
        let all: Vec<&Trait> = TRAITS.iter().chain(&ASPECTS).collect();
        let names: BTreeSet<&str> = all.iter().map(|t| t.name).collect();
        let asks: Vec<&str> = all.iter().flat_map(|t| t.ways).flat_map(|w| w.asks).collect();
        assert_eq!((names.len(), names.contains(ALL_ASPECTS)), (14, false));
        assert_eq!(asks.iter().collect::<BTreeSet<_>>().len(), asks.len());
        assert_eq!(TRAITS.map(|t| t.ways.len()), [2, 2, 1, 1, 1, 1, 1, 1, 1, 1]);
    }
}
