//! The sources of the planted corpus, the factors that each of them weighs, the annotators, and the preferences that
//! they can have.

use super::grammar::{MAX_FACTORS, index};

/// A preference: one factor decides, and this value of it is liked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preference {
    /// The deciding factor.
    pub factor: usize,
    /// The liked style bit.
    pub direction: usize,
}

impl Preference {
    /// Whether a response of these style bits has the liked value.
    pub fn likes(self, style: u32) -> bool {
        (style >> self.factor) as usize & 1 == self.direction
    }
}

/// Annotators per preference; annotator `a` favours preference `a % P`.
pub const ANNOTATORS_EACH: usize = 3;

/// Number of factors in conflict: some sources like one value of them, other sources the other.
pub const CONFLICTS: usize = 2;

/// The value of each factor without a conflict that all sources like.
const COMMON_DIRECTION: [usize; MAX_FACTORS] = [0, 0, 0, 1, 1, 0, 1, 1];

/// All preferences that occur with `factors` active ones, by id.
///
/// The first [`CONFLICTS`] factors are liked both ways (short by some sources, thorough by others), the
/// others one way, so there are `factors + 2`: the default of 6 factors plants 8 preferences, one for
/// each of K = 8 codes. Ids: 0 short, 1 thorough, 2 hedged, 3 assertive, 4 casual, 5 list, 6 example,
/// 7 cautious, 8 warm, 9 conclusion-first.
pub fn preferences(factors: usize) -> Vec<Preference> {
    let both =
        (0..CONFLICTS.min(factors)).flat_map(|factor| (0..2).map(move |direction| Preference { factor, direction }));
    let one = (CONFLICTS..factors).map(|factor| Preference { factor, direction: COMMON_DIRECTION[factor] });
    both.chain(one).collect()
}

/// One source: its questions, and the factors that it weighs.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// Tag.
    pub name: &'static str,
    /// Relative frequency with which each factor decides in this source.
    pub weights: [u32; MAX_FACTORS],
    /// The liked value of the factors in conflict.
    pub conflict_direction: [usize; CONFLICTS],
    /// Questions; `{item}` and `{name}` are filled in.
    pub questions: [&'static str; 3],
    /// What is asked about.
    pub items: [&'static str; 8],
    /// Steps of an answer.
    pub steps: [&'static str; 5],
}

impl Source {
    /// The probability of every preference (by id) in this source, given nothing but the source.
    pub fn prior(&self, factors: usize) -> Vec<f64> {
        let total: u32 = self.weights[..factors].iter().sum();
        preferences(factors)
            .iter()
            .map(|p| {
                let liked = p.factor >= CONFLICTS || self.conflict_direction[p.factor] == p.direction;
                if liked { f64::from(self.weights[p.factor]) / f64::from(total) } else { 0.0 }
            })
            .collect()
    }
}

const SHORT: usize = 0;
const THOROUGH: usize = 1;
const HEDGED: usize = 0;
const ASSERTIVE: usize = 1;
const _: () = assert!(index::LENGTH == 0 && index::CERTAINTY == 1, "conflicts are the first two factors");

/// The six sources. Over all of them the eight preferences of the default have similar shares (7 to 11 of 72).
pub const SOURCES: [Source; 6] = [
    Source {
        name: "recipes",
        weights: [5, 1, 1, 3, 1, 1, 1, 2],
        conflict_direction: [SHORT, ASSERTIVE],
        questions: ["How should {name} cook {item}?", "What makes {item} tasty for {name}?", "Can {name} cook {item}?"],
        items: ["soup", "bread", "curry", "salad", "cake", "stew", "rice", "jam"],
        steps: ["chop herbs", "heat oil", "stir sauce", "add salt", "taste it"],
    },
    Source {
        name: "travel",
        weights: [5, 1, 1, 1, 3, 1, 2, 1],
        conflict_direction: [THOROUGH, HEDGED],
        questions: ["How can {name} visit {item}?", "What should {name} see in {item}?", "Should {name} visit {item}?"],
        items: ["Rome", "Lima", "Oslo", "Cairo", "Kyoto", "Delhi", "Quito", "Malta"],
        steps: ["book tickets", "pack light", "check maps", "ask locals", "leave early"],
    },
    Source {
        name: "code_help",
        weights: [1, 5, 1, 2, 2, 1, 1, 2],
        conflict_direction: [SHORT, ASSERTIVE],
        questions: ["How should {name} debug {item}?", "What breaks {item} for {name}?", "Can {name} debug {item}?"],
        items: ["loops", "parsers", "logins", "caches", "tests", "builds", "queries", "threads"],
        steps: ["read logs", "write tests", "print state", "check types", "run it"],
    },
    Source {
        name: "health",
        weights: [1, 5, 1, 1, 1, 3, 2, 1],
        conflict_direction: [THOROUGH, HEDGED],
        questions: ["How can {name} treat {item}?", "What helps {name} with {item}?", "Should {name} treat {item}?"],
        items: ["stress", "fever", "coughs", "cramps", "allergies", "fatigue", "burns", "headaches"],
        steps: ["drink water", "stretch daily", "rest well", "walk outside", "keep warm"],
    },
    Source {
        name: "small_talk",
        weights: [2, 1, 5, 1, 1, 2, 2, 1],
        conflict_direction: [SHORT, HEDGED],
        questions: [
            "How should {name} chat about {item}?",
            "What can {name} say about {item}?",
            "Can {name} chat about {item}?",
        ],
        items: ["weather", "football", "movies", "dogs", "music", "gossip", "hobbies", "weekends"],
        steps: ["smile warmly", "ask questions", "tell jokes", "share stories", "listen well"],
    },
    Source {
        name: "homework",
        weights: [2, 2, 1, 2, 3, 2, 1, 2],
        conflict_direction: [THOROUGH, ASSERTIVE],
        questions: [
            "How can {name} explain {item}?",
            "What should {name} study about {item}?",
            "Can {name} explain {item}?",
        ],
        items: ["fractions", "poems", "planets", "volcanoes", "magnets", "verbs", "triangles", "history"],
        steps: ["draw sketches", "define terms", "check sources", "solve cases", "read notes"],
    },
];

/// The models that write the completions.
pub const MODELS: [&str; 8] =
    ["alder-7b", "birch-7b", "cedar-13b", "elm-13b", "fir-30b", "hazel-30b", "larch-65b", "maple-65b"];

/// Largest number of rows, and of distinct names: five of 64 syllables.
pub const MAX_ROWS: u64 = 1 << 30;

/// A made-up name, a different one for each row, so that no two prompts are equal.
///
/// It has as many syllables as the row number needs, at least two: 2 below 4096, 3 below 262,144. An odd
/// multiplier is a bijection of the integers modulo 64^k; `offset` shifts it by seed. Every syllable has
/// two letters, so that a name spells exactly one number.
pub fn name(row: u64, offset: u64) -> String {
    const CONSONANTS: &[u8; 16] = b"bdfghjklmnprstvz";
    const VOWELS: &[u8; 4] = b"aeio";
    let syllables = (2..5).find(|&k| row < 1 << (6 * k)).unwrap_or(5);
    let mut code = row.wrapping_mul(0x2545_F491).wrapping_add(offset);
    let mut out = String::with_capacity(10);
    for syllable in 0..syllables {
        let (consonant, vowel) = (CONSONANTS[(code % 16) as usize], VOWELS[(code / 16 % 4) as usize]);
        code /= 64;
        out.push(if syllable == 0 { consonant.to_ascii_uppercase() } else { consonant } as char);
        out.push(vowel as char);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::grammar::FACTORS;
    use super::*;

    #[test]
    fn priors_are_distributions_with_both_ways_in_use() {
        for factors in 2..=MAX_FACTORS {
            let mut usage = vec![0.0; preferences(factors).len()];
            for source in &SOURCES {
                let prior = source.prior(factors);
                assert!((prior.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{}", source.name);
                usage.iter_mut().zip(&prior).for_each(|(u, p)| *u += p / 6.0);
            }
            assert_eq!(usage.len(), factors + 2);
            assert!(usage.iter().all(|&u| u > 0.0), "{factors}: {usage:?}");
        }
        // Recipes with 6 factors: 5 + 1 + 1 + 3 + 1 + 1 = 12 parts, 5 of them for short.
        assert_eq!(SOURCES[0].prior(6)[..2], [5.0 / 12.0, 0.0]);
    }

    #[test]
    fn names_are_one_to_one() {
        let names: std::collections::HashSet<String> = (0..50_000).map(|row| name(row, 77)).collect();
        assert_eq!(names.len(), 50_000);
        assert_eq!((name(0, 0).as_str(), name(4096, 0).len(), name(MAX_ROWS - 1, 0).len()), ("Baba", 6, 10));
    }

    #[test]
    fn topics_hold_no_marker() {
        for source in &SOURCES {
            for text in source.items.iter().chain(&source.steps) {
                for value in FACTORS.iter().flat_map(|f| &f.values) {
                    assert!(value.markers.iter().all(|m| !text.contains(&m.to_lowercase())), "{text}");
                }
            }
        }
    }
}
