//! One row of the planted corpus, a pure function of (seed, configuration, row number).

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::SynthConfig;
use super::grammar::{CONCLUSIONS, EXAMPLES, EXTRA_LINKS, EXTRAS, FACTORS, QUALITIES, index};
use super::world::{self, ANNOTATORS_EACH, MODELS, SOURCES, Source};
use crate::seed::Seed;

/// One prompt with its completions and the truth behind their scores.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    /// Row number, from 0.
    pub row: u64,
    /// Index into [`SOURCES`].
    pub source: usize,
    /// Whether the prompt asks for the preferred value.
    pub shown: bool,
    /// Preference id, into [`world::preferences`].
    pub preference: usize,
    /// The annotator who decided, where the prompt does not ask for the preference.
    pub annotator: Option<u32>,
    /// The prompt.
    pub instruction: String,
    /// The answers.
    pub completions: Vec<Completion>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Completion {
    /// Name of the model in the corpus.
    pub model: &'static str,
    /// Bit f is the value of factor f.
    pub style: u32,
    /// The text.
    pub response: String,
    /// Overall score, 1 to 10.
    pub overall: f64,
    /// Instruction following, honesty, truthfulness, helpfulness: 1 to 5, or none (`N/A`).
    pub ratings: [Option<u8>; 4],
}

/// The first eight bytes of the BLAKE3 of a response, by which its style is found again.
pub(super) fn text_hash(text: &str) -> u64 {
    let digest = blake3::hash(text.as_bytes());
    let [a, b, c, d, e, f, g, h, ..] = *digest.as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// Makes row `row`.
pub(super) fn make(config: &SynthConfig, seed: Seed, row: u64) -> Row {
    let rng = &mut seed.rng("synth row", &row.to_string());
    let at = pick(rng, SOURCES.len());
    let source = &SOURCES[at];
    let preference = draw(&source.prior(config.factors), rng.random());
    let shown = rng.random::<f64>() < config.shown_fraction;
    let favourite = world::preferences(config.factors)[preference];
    let many = world::preferences(config.factors).len();
    let favourites_owner = (pick(rng, ANNOTATORS_EACH) * many + preference) as u32;
    let item = source.items[pick(rng, source.items.len())];
    // The shift keeps names of different seeds apart; 30 bits of it matter.
    let name = world::name(row, seed.word("synth names", "") % world::MAX_ROWS);
    let instruction = instruction(rng, source, item, &name, shown.then_some((favourite.factor, favourite.direction)));
    let styles = styles(rng, config, favourite.factor, favourite.direction);
    let models = shuffled(rng, MODELS);
    let mut completions: Vec<Completion> = Vec::with_capacity(styles.len());
    for (&style, model) in styles.iter().zip(models) {
        let mut response = response(rng, config.factors, source, item, style);
        // Equal answers to one prompt make no pair; sixteen tries leave practically none.
        for _ in 0..16 {
            if completions.iter().all(|c| c.response != response) {
                break;
            }
            response = self::response(rng, config.factors, source, item, style);
        }
        let agrees = (style >> favourite.factor) as usize & 1 == favourite.direction;
        let overall = score(rng, config.noise, agrees);
        completions.push(Completion { model, style, response, overall, ratings: ratings(rng, overall, style) });
    }
    let annotator = (!shown).then_some(favourites_owner);
    Row { row, source: at, shown, preference, annotator, instruction, completions }
}

/// A uniform index in `0..n`; `n` is never 0 here (tables and validated settings).
fn pick(rng: &mut ChaCha8Rng, n: usize) -> usize {
    // A 32-bit draw is the same on every platform.
    rng.random_range(0..n.max(1) as u32) as usize
}

/// The index that a uniform number of [0, 1) draws with the given probabilities.
pub(super) fn draw(probabilities: &[f64], mut unit: f64) -> usize {
    for (i, p) in probabilities.iter().enumerate() {
        if unit < *p {
            return i;
        }
        unit -= p;
    }
    // Rounding can leave a remainder, which goes to the last index with a positive probability.
    probabilities.iter().rposition(|&p| p > 0.0).unwrap_or(0)
}

fn shuffled<const N: usize>(rng: &mut ChaCha8Rng, mut items: [&'static str; N]) -> [&'static str; N] {
    for i in (1..N).rev() {
        items.swap(i, pick(rng, i + 1));
    }
    items
}

fn instruction(rng: &mut ChaCha8Rng, source: &Source, item: &str, name: &str, asked: Option<(usize, usize)>) -> String {
    let question = source.questions[pick(rng, source.questions.len())].replace("{item}", item).replace("{name}", name);
    // Drawn in any case, so that the rest of the row does not depend on `shown`.
    let (wording, in_front) = (pick(rng, 4), pick(rng, 2) == 0);
    match asked {
        None => question,
        Some((factor, direction)) => {
            let ask = FACTORS[factor].values[direction].asks[wording];
            if in_front { format!("{ask} {question}") } else { format!("{question} {ask}") }
        }
    }
}

/// Style bits of all completions: fair coins, except for the deciding factor, of which exactly one
/// completion has the liked value (two with probability `second_agrees`).
fn styles(rng: &mut ChaCha8Rng, config: &SynthConfig, factor: usize, direction: usize) -> Vec<u32> {
    let n = config.completions;
    let first = pick(rng, n);
    let second = (first + 1 + pick(rng, n - 1)) % n;
    let two = rng.random::<f64>() < config.second_agrees && n > 2;
    (0..n)
        .map(|i| {
            let coins = rng.random::<u32>() & ((1 << config.factors) - 1);
            let agrees = i == first || (two && i == second);
            let bit = if agrees { direction } else { 1 - direction };
            coins & !(1 << factor) | (bit as u32) << factor
        })
        .collect()
}

/// Lowest temperature: without any noise, responses that agree equally would have equal scores.
pub(super) const LEAST_TEMPERATURE: f64 = 0.02;

/// Overall score: agreement (0 or 1) plus Gumbel noise times the temperature, squashed into 1 to 10.
///
/// Gumbel noise makes the chance that completion i beats j exactly `sigmoid((u_i - u_j) / T)`, whatever
/// the others are (Luce's choice axiom): a Bradley-Terry annotator.
fn score(rng: &mut ChaCha8Rng, noise: f64, agrees: bool) -> f64 {
    let temperature = noise.max(LEAST_TEMPERATURE);
    overall(f64::from(u8::from(agrees)) + temperature * gumbel(rng.random::<f64>()), temperature)
}

/// A Gumbel variate of a uniform number.
pub(super) fn gumbel(unit: f64) -> f64 {
    -(-unit.clamp(1e-12, 1.0 - 1e-12).ln()).ln()
}

/// A noisy utility (without noise 0 to 1) as an overall score of 1 to 10, four decimals.
pub(super) fn overall(utility: f64, temperature: f64) -> f64 {
    // The slope falls with the temperature, so that few scores are rounded to equal values at the ends of the scale.
    let slope = 3.0 / (1.0 + 4.0 * temperature);
    let squashed = 1.0 / (1.0 + (-slope * (utility - 0.5)).exp());
    ((1.0 + 9.0 * squashed) * 1e4).round() / 1e4
}

/// Aspect ratings that follow the overall score with half a step of jitter; honesty also likes hedging.
fn ratings(rng: &mut ChaCha8Rng, overall: f64, style: u32) -> [Option<u8>; 4] {
    let level = 1.0 + 4.0 * (overall - 1.0) / 9.0;
    let hedged = style >> index::CERTAINTY & 1 == 0;
    let mut out = [None; 4];
    for (aspect, rating) in out.iter_mut().enumerate() {
        let jitter = rng.random::<f64>() - 0.5;
        let shift = if aspect == 1 && hedged { 0.5 } else { 0.0 };
        let missing = rng.random::<f64>() < 0.02;
        *rating = (!missing).then_some((level + jitter + shift).round().clamp(1.0, 5.0) as u8);
    }
    out
}

/// The sentences of a response, one after the other.
struct Text(String);

impl Text {
    /// Adds a sentence; its first letter becomes a capital.
    fn say(&mut self, sentence: &str) {
        if !self.0.is_empty() {
            // A new line ends the last item of a list.
            self.0.push(if self.0.ends_with('.') || self.0.ends_with('!') { ' ' } else { '\n' });
        }
        let mut letters = sentence.chars();
        self.0.extend(letters.next().map(|c| c.to_ascii_uppercase()));
        self.0.push_str(letters.as_str());
    }
}

/// A response of a style. Whatever the style is, the same number of random numbers is drawn.
fn response(rng: &mut ChaCha8Rng, factors: usize, source: &Source, item: &str, style: u32) -> String {
    let bit = |factor: usize| (style >> factor & 1) as usize;
    let mut draws = [0u32; 16];
    draws.iter_mut().for_each(|d| *d = rng.random());
    let choose = |slot: usize, n: usize| ((u64::from(draws[slot]) * n as u64) >> 32) as usize;
    // The marker of a factor's value, empty where the value is an absence or the factor is not active.
    let marker = |factor: usize| -> &'static str {
        let markers = FACTORS[factor].values[bit(factor)].markers;
        if factor >= factors || markers.is_empty() { "" } else { markers[choose(factor, markers.len())] }
    };
    let conclusion = CONCLUSIONS[choose(8, CONCLUSIONS.len())];
    let (register, empathy, structure) = (marker(index::REGISTER), marker(index::EMPATHY), marker(index::STRUCTURE));
    let mut text = Text(String::with_capacity(400));
    if !register.is_empty() {
        text.say(register);
    }
    if !structure.is_empty() && bit(index::STRUCTURE) == 1 {
        text.say(&format!("{structure} {conclusion}."));
    }
    if !empathy.is_empty() {
        text.say(empathy);
    }
    let claim =
        format!("{} {item} will go well if {}.", marker(index::CERTAINTY), QUALITIES[choose(10, QUALITIES.len())]);
    let length = marker(index::LENGTH);
    if bit(index::LENGTH) == 0 {
        text.say(&format!("{length} {claim}"));
    } else {
        let first = choose(11, EXTRAS.len());
        // Never the same extra twice.
        let second = (first + 1 + choose(12, EXTRAS.len() - 1)) % EXTRAS.len();
        text.say(&claim);
        text.say(&format!("{length} {}.", EXTRAS[first]));
        text.say(&format!("{}, {}.", EXTRA_LINKS[choose(13, EXTRA_LINKS.len())], EXTRAS[second]));
    }
    let first = choose(14, source.steps.len());
    let second = (first + 1 + choose(15, source.steps.len() - 1)) % source.steps.len();
    let (first, second) = (source.steps[first], source.steps[second]);
    match marker(index::LAYOUT) {
        "" => text.say(&format!("{first}, then {second}.")),
        bullet if bit(index::LAYOUT) == 1 => text.0.push_str(&format!("{bullet}{first}{bullet}{second}")),
        opening => text.say(&format!("{opening}{first}, then {second}.")),
    }
    let example = marker(index::EXAMPLE);
    if !example.is_empty() {
        text.say(&format!("{example} {}.", EXAMPLES[choose(9, EXAMPLES.len())]));
    }
    let risk = marker(index::RISK);
    if !risk.is_empty() {
        text.say(risk);
    }
    if !structure.is_empty() && bit(index::STRUCTURE) == 0 {
        text.say(&format!("{structure} {conclusion}."));
    }
    text.0
}

#[cfg(test)]
mod tests {
    use super::super::grammar;
    use super::*;
    use std::collections::HashSet;

    /// Reads all active factors back from a text, as a style word.
    fn detect_style(text: &str, factors: usize) -> Option<u32> {
        (0..factors).try_fold(0, |style, f| Some(style | u32::from(grammar::detect(text, f)?) << f))
    }

    fn rows(config: &SynthConfig, n: u64) -> Vec<Row> {
        (0..n).map(|i| make(config, Seed(5), i)).collect()
    }

    #[test]
    fn style_is_realised_in_the_words() {
        for factors in [2, 6, 8] {
            let config = SynthConfig { factors, ..SynthConfig::default() };
            for row in rows(&config, 300) {
                for c in &row.completions {
                    assert_eq!(detect_style(&c.response, factors), Some(c.style), "{factors}: {}", c.response);
                    assert_eq!(c.response, c.response.trim());
                    assert!(c.response.is_ascii() && row.instruction.is_ascii());
                }
                let texts: HashSet<&str> = row.completions.iter().map(|c| c.response.as_str()).collect();
                assert_eq!(texts.len(), row.completions.len());
            }
        }
    }

    #[test]
    fn texts_have_the_planned_size() {
        // At 1.5 to 2 tokens of a 512-token vocabulary a word: 30 to 70 tokens, and 8 to 20 for prompts.
        for row in rows(&SynthConfig::default(), 300) {
            for c in &row.completions {
                let words = c.response.split_whitespace().count();
                assert!((14..=40).contains(&words), "{words}: {}", c.response);
            }
            let words = row.instruction.split_whitespace().count();
            assert!((4..=12).contains(&words), "{words}: {}", row.instruction);
        }
    }

    #[test]
    fn scores_follow_the_deciding_factor() {
        let config = SynthConfig::default();
        let preferences = world::preferences(config.factors);
        let (mut right, mut ties, mut tens) = (0, 0, 0);
        let all = rows(&config, 2000);
        for row in &all {
            let liked = preferences[row.preference];
            let agrees = |c: &Completion| (c.style >> liked.factor) as usize & 1 == liked.direction;
            let agreeing = row.completions.iter().filter(|c| agrees(c)).count();
            assert!((1..=2).contains(&agreeing));
            tens += usize::from(agreeing == 2);
            let best = row.completions.iter().max_by(|a, b| a.overall.total_cmp(&b.overall)).unwrap();
            right += usize::from(agrees(best));
            let scores: HashSet<u64> = row.completions.iter().map(|c| c.overall.to_bits()).collect();
            ties += usize::from(scores.len() < row.completions.len());
            assert!(row.completions.iter().all(|c| (1.0..=10.0).contains(&c.overall)));
        }
        // At temperature 0.1 the best of four agrees with probability above 1 - 3 exp(-10) = 0.9999.
        assert!(right >= 1995, "{right}");
        assert!(ties <= 20, "{ties}");
        // Two agree in 10 % of the rows; five standard deviations of Binomial(2000, 0.1) are 67.
        assert!((133..=267).contains(&tens), "{tens}");
    }

    #[test]
    fn the_temperature_is_that_of_a_bradley_terry_annotator() {
        // Two completions, one agrees: it wins with probability sigmoid(1 / 0.5) = 0.8808.
        let config = SynthConfig { completions: 2, noise: 0.5, ..SynthConfig::default() };
        let preferences = world::preferences(config.factors);
        let wins = rows(&config, 4000)
            .iter()
            .filter(|row| {
                let liked = preferences[row.preference];
                let (a, b) = (&row.completions[0], &row.completions[1]);
                let a_agrees = (a.style >> liked.factor) as usize & 1 == liked.direction;
                (a.overall > b.overall) == a_agrees
            })
            .count();
        // Five standard deviations of Binomial(4000, 0.8808) are 102.
        assert!((wins as f64 - 3523.0).abs() < 102.0, "{wins}");
    }

    #[test]
    fn shown_prompts_ask_and_hidden_ones_do_not() {
        let config = SynthConfig { rows: 500, ..SynthConfig::default() };
        let preferences = world::preferences(config.factors);
        let asks: Vec<&str> = FACTORS.iter().flat_map(|f| &f.values).flat_map(|v| v.asks).collect();
        for row in rows(&config, 500) {
            let asked: Vec<&&str> = asks.iter().filter(|a| row.instruction.contains(*a)).collect();
            assert_eq!(asked.len(), usize::from(row.shown), "{}", row.instruction);
            assert_eq!(row.annotator.is_none(), row.shown);
            if row.shown {
                let liked = preferences[row.preference];
                assert!(FACTORS[liked.factor].values[liked.direction].asks.contains(asked[0]));
            } else {
                assert_eq!(row.annotator.map(|a| a as usize % preferences.len()), Some(row.preference));
            }
        }
    }

    #[test]
    fn prompts_are_unique_and_rows_repeat() {
        let config = SynthConfig::default();
        let all = rows(&config, 3000);
        let prompts: HashSet<&str> = all.iter().map(|r| r.instruction.as_str()).collect();
        assert_eq!(prompts.len(), 3000);
        assert_eq!(make(&config, Seed(5), 1234), all[1234]);
        assert_ne!(make(&config, Seed(6), 1234).instruction, all[1234].instruction);
    }
}
