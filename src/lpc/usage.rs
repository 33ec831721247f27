//! How codes are used, counted over examples: a batch mean would hide that each example uses one code.

/// Running counts over examples.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Usage {
    /// Sum of each code's probability.
    pub mass: Vec<f64>,
    /// How often each code was the most probable.
    pub counts: Vec<u64>,
    /// Examples seen.
    pub examples: u64,
}

impl Usage {
    /// Adds one example's distribution over codes.
    pub fn add(&mut self, weights: &[f64]) {
        self.mass.resize(weights.len(), 0.0);
        self.counts.resize(weights.len(), 0);
        for (mass, w) in self.mass.iter_mut().zip(weights) {
            *mass += w;
        }
        if let Some(code) = hard_code(weights) {
            self.counts[code] += 1;
        }
        self.examples += 1;
    }

    /// Codes that are the most probable one of at least 1 % of the examples.
    pub fn codes_used(&self) -> usize {
        self.counts.iter().filter(|&&c| c > 0 && c as f64 >= 0.01 * self.examples as f64).count()
    }

    /// e to the entropy of the mean distribution: 1 for one code, K for all equally.
    pub fn perplexity(&self) -> f64 {
        crate::information::perplexity(&self.mass)
    }
}

/// The most probable code, the first of equals; none without codes.
pub fn hard_code<T: Copy + PartialOrd>(weights: &[T]) -> Option<usize> {
    let mut best: Option<(usize, T)> = None;
    for (i, &w) in weights.iter().enumerate() {
        if best.is_none_or(|(_, b)| w > b) {
            best = Some((i, w));
        }
    }
    best.map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_codes_and_perplexity() {
        let mut usage = Usage::default();
        usage.add(&[1.0, 0.0, 0.0]);
        assert_eq!((usage.codes_used(), usage.perplexity()), (1, 1.0));
        usage.add(&[0.0, 1.0, 0.0]);
        assert_eq!(usage.codes_used(), 2);
        assert!((usage.perplexity() - 2.0).abs() < 1e-12);
        assert_eq!(hard_code(&[0.5, 0.5]), Some(0));
        assert_eq!(hard_code::<f64>(&[]), None);
    }
}
