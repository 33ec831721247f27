//! The choice of a token from logits: the likeliest, or at random with a temperature, from the likeliest few.

use rand::Rng;

use crate::seed::Seed;

/// How a token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the likeliest token (the first of several).
    pub temperature: f64,
    /// The fewest likeliest tokens whose probabilities, at this temperature, sum to at least this; 1 = all.
    pub top_p: f64,
}

/// The uniform numbers of one completion, in the order of its tokens.
pub(super) struct Draws(rand_chacha::ChaCha8Rng);

impl Draws {
    /// Those of a prompt: a function of seed and key.
    pub fn of(seed: Seed, key: &str) -> Draws {
        Draws(seed.rng("generate", key))
    }

    fn next(&mut self) -> f64 {
        self.0.random::<f64>()
    }
}

impl Sampling {
    /// The likeliest token, always.
    pub const GREEDY: Sampling = Sampling { temperature: 0.0, top_p: 1.0 };

    /// The next token; none where a logit is not a number or all are infinite.
    pub(super) fn choose(self, logits: &[f32], draws: &mut Draws) -> Option<u32> {
        let likeliest = argmax(logits)?;
        if self.temperature == 0.0 {
            return Some(likeliest);
        }
        Some(pick(&self.probabilities(logits), draws.next()).unwrap_or(likeliest))
    }

    /// The distribution that is drawn from: tokens with their probabilities, the likeliest first, of equal ones the
    /// lower token.
    ///
    /// # Source
    /// Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1, for `top_p`.
    pub fn probabilities(self, logits: &[f32]) -> Vec<(u32, f64)> {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |x: f32| (f64::from(x - largest) / self.temperature).exp();
        let mut all: Vec<(u32, f64)> = logits.iter().enumerate().map(|(i, &x)| (i as u32, weight(x))).collect();
        let total: f64 = all.iter().map(|(_, w)| w).sum();
        all.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let (mut kept, mut sum) = (0, 0.0);
        while kept < all.len() && (kept == 0 || sum < self.top_p * total) {
            sum += all[kept].1;
            kept += 1;
        }
        all.truncate(kept);
        all.iter_mut().for_each(|(_, w)| *w /= sum);
        all
    }
}

/// The first of the largest; none where there is no largest.
fn argmax(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(usize, f32)> = None;
    for (i, &x) in logits.iter().enumerate() {
        if x.is_nan() {
            return None;
        }
        if best.is_none_or(|(_, y)| x > y) {
            best = Some((i, x));
        }
    }
    best.filter(|(_, x)| x.is_finite()).map(|(i, _)| i as u32)
}

/// The token whose share of [0, 1) holds `unit`.
fn pick(probabilities: &[(u32, f64)], unit: f64) -> Option<u32> {
    let mut sum = 0.0;
    for &(token, p) in probabilities {
        sum += p;
        if unit < sum {
            return Some(token);
        }
    }
    // Rounding: the shares may sum to a little less than 1.
    probabilities.last().map(|(token, _)| *token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: &[(u32, f64)], wanted: &[(u32, f64)]) -> bool {
        found.len() == wanted.len() && found.iter().zip(wanted).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-6)
    }

    /// Logits ln 1, ln 4, ln 2, ln 1: probabilities 1/8, 4/8, 2/8, 1/8.
    fn logits() -> Vec<f32> {
        [1f32, 4.0, 2.0, 1.0].iter().map(|x| x.ln()).collect()
    }

    #[test]
    fn temperature_and_top_p_by_hand() {
        let of = |temperature, top_p| Sampling { temperature, top_p }.probabilities(&logits());
        assert!(near(&of(1.0, 1.0), &[(1, 0.5), (2, 0.25), (0, 0.125), (3, 0.125)]));
        // At temperature 1/2 weights are squared: 1, 16, 4, 1 of 22.
        assert!(near(&of(0.5, 1.0), &[(1, 16.0 / 22.0), (2, 4.0 / 22.0), (0, 1.0 / 22.0), (3, 1.0 / 22.0)]));
        // At temperature 2 they are roots: 1, 2, sqrt 2, 1.
        let sum = 4.0 + 2f64.sqrt();
        assert!(near(&of(2.0, 1.0), &[(1, 2.0 / sum), (2, 2f64.sqrt() / sum), (0, 1.0 / sum), (3, 1.0 / sum)]));
        // The fewest whose sum reaches top_p, scaled to sum to 1.
        assert!(near(&of(1.0, 0.7), &[(1, 2.0 / 3.0), (2, 1.0 / 3.0)]));
        assert!(near(&of(1.0, 0.8), &[(1, 4.0 / 7.0), (2, 2.0 / 7.0), (0, 1.0 / 7.0)]));
        assert!(near(&of(1.0, 0.3), &[(1, 1.0)]) && near(&of(1.0, 0.0), &[(1, 1.0)]));
        // Top-p is taken of the probabilities at the temperature: 16/22 reaches 0.7.
        assert!(near(&of(0.5, 0.7), &[(1, 1.0)]));
    }

    #[test]
    fn shares_of_the_unit_interval() {
        let p = [(7, 0.5), (3, 0.25), (0, 0.25)];
        for (unit, token) in [(0.0, 7), (0.499, 7), (0.5, 3), (0.749, 3), (0.75, 0), (0.999, 0), (1.0, 0)] {
            assert_eq!(pick(&p, unit), Some(token), "{unit}");
        }
    }

    #[test]
    fn tokens_are_drawn_as_often_as_they_should_be() {
        let sampling = Sampling { temperature: 1.0, top_p: 0.8 };
        let n = 7000;
        let mut counts = [0u32; 4];
        for i in 0..n {
            let token = sampling.choose(&logits(), &mut Draws::of(Seed(2), &i.to_string())).unwrap();
            counts[token as usize] += 1;
        }
        // 4/7, 2/7, 1/7 of 7000, each within five standard deviations; the fourth token is beyond top_p.
        for (count, p) in [(counts[1], 4.0 / 7.0), (counts[2], 2.0 / 7.0), (counts[0], 1.0 / 7.0)] {
            let spread = 5.0 * (f64::from(n) * p * (1.0 - p)).sqrt();
            assert!((f64::from(count) - f64::from(n) * p).abs() < spread, "{counts:?}");
        }
        assert_eq!(counts[3], 0);
    }

    #[test]
    fn the_first_of_the_likeliest_is_taken() {
        let mut draws = Draws::of(Seed(0), "");
        let mut choose = |logits: &[f32]| Sampling::GREEDY.choose(logits, &mut draws);
        assert_eq!(choose(&[0.0, 2.0, 2.0]), Some(1));
        assert_eq!(choose(&[f32::NEG_INFINITY, -3.0]), Some(1));
        assert_eq!(choose(&[0.0, f32::NAN]), None);
        assert_eq!(choose(&[f32::INFINITY, 0.0]), None);
        assert_eq!(choose(&[f32::NEG_INFINITY]), None);
    }
}
