//! The only source of randomness. Every decision is a pure function of
//! (run seed, purpose, key): never of a row's position, a thread or the clock.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// The run's seed, from which every stream is derived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub u64);

impl Seed {
    /// 32 bytes that depend on the seed, the purpose and the key only.
    fn digest(self, purpose: &str, key: &str) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("lpc-pipe 1 seed stream");
        hasher.update(&self.0.to_le_bytes());
        // Lengths are hashed too, so that ("ab","c") and ("a","bc") differ.
        hasher.update(&(purpose.len() as u64).to_le_bytes());
        hasher.update(purpose.as_bytes());
        hasher.update(key.as_bytes());
        *hasher.finalize().as_bytes()
    }

    /// A uniform 64-bit number for this purpose and key.
    pub fn word(self, purpose: &str, key: &str) -> u64 {
        let digest = self.digest(purpose, key);
        u64::from_le_bytes(digest[..8].try_into().expect("eight bytes"))
    }

    /// A uniform number in [0, 1) with 53 bits for this purpose and key.
    pub fn unit(self, purpose: &str, key: &str) -> f64 {
        (self.word(purpose, key) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// A uniform index in `0..n` for this purpose and key; `n` must not be 0.
    pub fn index(self, purpose: &str, key: &str, n: usize) -> usize {
        // Multiply-shift: the bias is below n / 2^64.
        ((u128::from(self.word(purpose, key)) * n as u128) >> 64) as usize
    }

    /// A counter-based generator (ChaCha8) of its own for this purpose and key.
    pub fn rng(self, purpose: &str, key: &str) -> ChaCha8Rng {
        ChaCha8Rng::from_seed(self.digest(purpose, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_depend_on_all_three_and_nothing_else() {
        let a = Seed(1).word("flip", "x");
        assert_eq!(a, Seed(1).word("flip", "x"));
        assert_ne!(a, Seed(2).word("flip", "x"));
        assert_ne!(a, Seed(1).word("split", "x"));
        assert_ne!(a, Seed(1).word("flip", "y"));
        assert_ne!(Seed(1).word("ab", "c"), Seed(1).word("a", "bc"));
    }

    #[test]
    fn units_are_uniform_enough() {
        let n = 20_000;
        let below = (0..n).filter(|i| Seed(7).unit("t", &i.to_string()) < 0.2).count();
        // Five standard deviations of Binomial(20000, 0.2).
        assert!((below as f64 - 4000.0).abs() < 5.0 * 56.6, "{below}");
        assert!((0..1000).all(|i| Seed(7).index("t", &i.to_string(), 3) < 3));
    }
}
