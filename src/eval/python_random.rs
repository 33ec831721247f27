//! Python's `random.Random(seed).sample`, by which lm-evaluation-harness draws its examples: the questions that a model
//! reads, and with them its answers, depend on these numbers.
//!
//! It is no source of randomness of this program: the harness fixes the seed.
//!
//! # Source
//! Matsumoto and Nishimura 1998, "Mersenne Twister"; initialisation by an array as in their code of 2002; `sample` and
//! `_randbelow` of Python 3.11's `random.py`.

const N: usize = 624;
const M: usize = 397;

/// The generator.
#[derive(Debug, Clone)]
pub struct PythonRandom {
    state: [u32; N],
    next: usize,
}

impl PythonRandom {
    /// `random.Random(seed)`.
    pub fn new(seed: u32) -> PythonRandom {
        let mut state = [0u32; N];
        state[0] = 19_650_218;
        for i in 1..N {
            let before = state[i - 1];
            state[i] = 1_812_433_253u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(i as u32);
        }
        let mut i = 1;
        for _ in 0..N {
            let before = state[i - 1];
            let mixed = state[i] ^ (before ^ (before >> 30)).wrapping_mul(1_664_525);
            // The key has one word, at index 0.
            state[i] = mixed.wrapping_add(seed);
            i += 1;
            if i == N {
                state[0] = state[N - 1];
                i = 1;
            }
        }
        for _ in 1..N {
            let before = state[i - 1];
            let mixed = state[i] ^ (before ^ (before >> 30)).wrapping_mul(1_566_083_941);
            state[i] = mixed.wrapping_sub(i as u32);
            i += 1;
            if i == N {
                state[0] = state[N - 1];
                i = 1;
            }
        }
        state[0] = 0x8000_0000;
        PythonRandom { state, next: N }
    }

    fn word(&mut self) -> u32 {
        if self.next == N {
            for i in 0..N {
                let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
                let twist = if y & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ twist;
            }
            self.next = 0;
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// A uniform index in `0..n`.
    fn below(&mut self, n: usize) -> usize {
        let bits = usize::BITS - n.leading_zeros();
        loop {
            let found = (self.word() >> (32 - bits)) as usize;
            if found < n {
                return found;
            }
        }
    }

    /// `sample(range(n), k)`.
    ///
    /// # Panics
    /// Where k is more than n, or n is 2^32 or more.
    pub fn sample(&mut self, n: usize, k: usize) -> Vec<usize> {
        assert!(k <= n && n < 1 << 32, "a sample of {k} from {n}");
        let mut set = 21;
        if k > 5 {
            let power = ((k as f64 * 3.0).ln() / 4f64.ln()).ceil();
            set += 4usize.pow(power as u32);
        }
        if n <= set {
            let mut pool: Vec<usize> = (0..n).collect();
            return (0..k)
                .map(|i| {
                    let at = self.below(n - i);
                    let found = pool[at];
                    pool[at] = pool[n - i - 1];
                    found
                })
                .collect();
        }
        let mut found = Vec::with_capacity(k);
        while found.len() < k {
            let index = self.below(n);
            if !found.contains(&index) {
                found.push(index);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_those_of_python() {
        // r = random.Random(1234), then r.sample(range(7473), 5) four times.
        let mut random = PythonRandom::new(1234);
        for wanted in [
            [6374, 3610, 957, 61, 742],
            [7462, 6610, 4769, 286, 5501],
            [5677, 687, 806, 6279, 2905],
            [1939, 142, 252, 6461, 129],
        ] {
            assert_eq!(random.sample(7473, 5), wanted);
        }
        // Below and above the sizes at which Python changes its way of drawing.
        let mut random = PythonRandom::new(1234);
        assert_eq!(random.sample(85, 6), [56, 14, 0, 11, 74, 4]);
        assert_eq!(random.sample(86, 6), [85, 10, 12, 45, 30, 2]);
        assert_eq!(random.sample(21, 5), [0, 20, 11, 15, 14]);
        assert_eq!(random.sample(22, 5), [4, 2, 5, 3, 0]);
        assert_eq!(PythonRandom::new(2).sample(24, 6), [1, 2, 22, 11, 5, 9]);
        // Far beyond the first block of words.
        let mut random = PythonRandom::new(1234);
        let last = (0..120).map(|_| random.sample(1319, 6)).last();
        assert_eq!(last.unwrap(), [1137, 1059, 678, 1203, 1061, 1097]);
    }
}
