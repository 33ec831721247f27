//! The people and places of the planted corpus: sources, what each of them
//! cares about, the annotators, and the preferences they can have.

use super::grammar::{MAX_FACTORS, index};

/// A preference: one factor decides, and this value of it is liked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preference {
    /// The deciding factor.
    pub factor: usize,
    /// The liked style bit.
    pub direction: usize,
}

/// Annotators per preference; annotator `a` favours preference `a % P`.
pub const ANNOTATORS_EACH: usize = 3;

/// How many of the factors are in open conflict, liked one way here and the other way there.
pub const CONFLICTS: usize = 2;

/// The direction in which each factor is liked everywhere, for factors without a conflict.
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

/// One source: what it asks about and what it cares about.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// Tag.
    pub name: &'static str,
    /// How often each factor decides here, in parts.
    pub weights: [u32; MAX_FACTORS],
    /// The liked value of the factors in conflict.
    pub conflict_direction: [usize; CONFLICTS],
    /// Questions; `{item}` and `{name}` are filled in.
    pub questions: [&'static str; 4],
    /// What is asked about.
    pub items: [&'static str; 12],
    /// Steps of an answer.
    pub steps: [&'static str; 6],
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

/// The six sources. Over all of them the eight preferences of the default have nearly equal shares
/// (7 to 11 parts of 72).
pub const SOURCES: [Source; 6] = [
    Source {
        name: "recipes",
        weights: [5, 1, 1, 3, 1, 1, 1, 2],
        conflict_direction: [SHORT, ASSERTIVE],
        questions: [
            "How should {name} cook {item}?",
            "What makes {item} taste good for {name}?",
            "{name} wants to serve {item}. Any tips?",
            "Which way of making {item} would suit {name}?",
        ],
        items: [
            "lentil soup",
            "plum cake",
            "fried rice",
            "onion bread",
            "bean stew",
            "lemon tart",
            "corn salad",
            "mint tea",
            "pumpkin curry",
            "oat cookies",
            "garlic noodles",
            "apple jam",
        ],
        steps: [
            "chop the herbs",
            "heat the pan",
            "stir the sauce",
            "taste the broth",
            "rest the dough",
            "salt the water",
        ],
    },
    Source {
        name: "travel",
        weights: [5, 1, 1, 1, 3, 1, 2, 1],
        conflict_direction: [THOROUGH, HEDGED],
        questions: [
            "How can {name} plan {item}?",
            "What should {name} pack for {item}?",
            "{name} dreams of {item}. Where to begin?",
            "Is {item} a good idea for {name}?",
        ],
        items: [
            "an island trip",
            "a train tour",
            "a desert walk",
            "a harbor visit",
            "a winter cruise",
            "a lake holiday",
            "a city weekend",
            "a forest hike",
            "a canal ride",
            "a mountain camp",
            "a museum day",
            "a coast drive",
        ],
        steps: ["book the ticket", "pack a coat", "study the map", "ask a local", "change some money", "leave at dawn"],
    },
    Source {
        name: "code_help",
        weights: [1, 5, 1, 2, 2, 1, 1, 2],
        conflict_direction: [SHORT, ASSERTIVE],
        questions: [
            "How does {name} fix {item}?",
            "Why does {item} fail for {name}?",
            "{name} is stuck on {item}. What now?",
            "Can {name} speed up {item}?",
        ],
        items: [
            "a slow loop",
            "a broken parser",
            "the login page",
            "a memory leak",
            "the build script",
            "a sorting bug",
            "the cache layer",
            "a flaky test",
            "the search index",
            "a race condition",
            "the config file",
            "a date format",
        ],
        steps: [
            "read the log",
            "write a test",
            "print the state",
            "pin the version",
            "rename the field",
            "rerun the build",
        ],
    },
    Source {
        name: "health",
        weights: [1, 5, 1, 1, 1, 3, 2, 1],
        conflict_direction: [THOROUGH, HEDGED],
        questions: [
            "What helps {name} with {item}?",
            "Should {name} worry about {item}?",
            "{name} suffers from {item}. What can be done?",
            "How long will {item} trouble {name}?",
        ],
        items: [
            "a sore knee",
            "poor sleep",
            "a dry cough",
            "back pain",
            "a stiff neck",
            "tired eyes",
            "low energy",
            "a cold nose",
            "sun burn",
            "hay fever",
            "a weak ankle",
            "cramped legs",
        ],
        steps: [
            "drink more water",
            "stretch the muscles",
            "keep a diary",
            "rest at noon",
            "walk outside",
            "warm the joints",
        ],
    },
    Source {
        name: "small_talk",
        weights: [2, 1, 5, 1, 1, 2, 2, 1],
        conflict_direction: [SHORT, HEDGED],
        questions: [
            "What can {name} say about {item}?",
            "How would {name} bring up {item}?",
            "{name} got asked about {item}. Ideas?",
            "Does {item} make a nice topic for {name}?",
        ],
        items: [
            "the weather",
            "a new haircut",
            "the football game",
            "a birthday party",
            "the noisy street",
            "a funny dream",
            "the office plant",
            "a stray cat",
            "the bus delay",
            "a summer song",
            "the old cinema",
            "a garden gnome",
        ],
        steps: ["smile and nod", "share a memory", "pay a compliment", "ask a question", "tell a joke", "wave goodbye"],
    },
    Source {
        name: "homework",
        weights: [2, 2, 1, 2, 3, 2, 1, 2],
        conflict_direction: [THOROUGH, ASSERTIVE],
        questions: [
            "How can {name} explain {item}?",
            "What does {name} need to know about {item}?",
            "{name} must present {item}. Which parts count?",
            "Where does {name} learn about {item}?",
        ],
        items: [
            "a fraction",
            "the water cycle",
            "a sonnet",
            "the solar system",
            "a prime number",
            "the food chain",
            "a volcano",
            "the roman army",
            "a magnet",
            "the parliament",
            "a verb tense",
            "the triangle rule",
        ],
        steps: [
            "draw a sketch",
            "define the terms",
            "count the parts",
            "check the source",
            "learn the dates",
            "solve one case",
        ],
    },
];

/// The models that write the completions.
pub const MODELS: [&str; 8] =
    ["alder-7b", "birch-7b", "cedar-13b", "elm-13b", "fir-30b", "hazel-30b", "larch-65b", "maple-65b"];

/// Largest number of rows, and of distinct names: five of 64 syllables.
pub const MAX_ROWS: u64 = 1 << 30;

/// A made-up first and family name, one to one with the row: the reason why no two prompts are equal.
///
/// An odd multiplier is a bijection of the integers modulo 2^30; `offset` shifts it by seed. Every
/// syllable has two letters, so that the name spells exactly one number.
pub fn name(row: u64, offset: u64) -> String {
    const CONSONANTS: &[u8; 16] = b"bdfghjklmnprstvz";
    const VOWELS: &[u8; 4] = b"aeio";
    let mut code = row.wrapping_mul(0x2545_F491).wrapping_add(offset) % MAX_ROWS;
    let mut out = String::with_capacity(11);
    for syllable in 0..5 {
        let (consonant, vowel) = (CONSONANTS[(code % 16) as usize], VOWELS[(code / 16 % 4) as usize]);
        code /= 64;
        if syllable == 2 {
            out.push(' ');
        }
        out.push(if syllable == 0 || syllable == 2 { consonant.to_ascii_uppercase() } else { consonant } as char);
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
        // The ends of the range, where a wrong modulus would show.
        assert_ne!(name(0, 0), name(MAX_ROWS - 1, 0));
        assert_eq!(name(0, 0), "Baba Bababa");
    }

    #[test]
    fn topics_hold_no_marker() {
        for source in &SOURCES {
            for text in source.items.iter().chain(&source.steps) {
                for value in FACTORS.iter().flat_map(|f| &f.values) {
                    assert!(value.markers.iter().all(|m| !text.contains(m)), "{text}");
                }
            }
        }
    }
}
