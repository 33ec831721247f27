//! Rotary position embedding in the half-split form of Llama checkpoints:
//! elements i and i + D/2 of a head are a plane, rotated by `position * base^(-2i/D)`.
//!
//! # Source
//! Su et al. 2021, "RoFormer", Eq. 34, in the layout of Hugging Face checkpoints.

use rayon::prelude::*;

use super::ROWS_PER_TASK;
use super::real::{Real, wide};

/// Cosines and sines for positions `0..positions`.
#[derive(Debug, Clone)]
pub struct RotaryTable<T> {
    /// (positions, D/2)
    cos: Vec<T>,
    /// (positions, D/2)
    sin: Vec<T>,
    half: usize,
}

impl<T: Real> RotaryTable<T> {
    /// The table for positions below `positions`.
    ///
    /// # Units
    /// Frequencies in radians per position, one for each plane of a head.
    pub fn new(frequencies: &[f64], positions: usize) -> RotaryTable<T> {
        let angles = || (0..positions).flat_map(|p| frequencies.iter().map(move |f| p as f64 * f));
        RotaryTable {
            // Computed in f64 and rounded once.
            cos: angles().map(|a| T::of(a.cos())).collect(),
            sin: angles().map(|a| T::of(a.sin())).collect(),
            half: frequencies.len(),
        }
    }

    /// Rotates every head of every row in place; `inverse` rotates back, which is the backward pass.
    ///
    /// # Shapes
    /// x (N, heads * D) · positions (N).
    pub fn rotate(&self, x: &mut [T], positions: &[u32], inverse: bool) {
        let half = self.half;
        if positions.is_empty() {
            return;
        }
        let width = x.len() / positions.len();
        assert_eq!(width % (2 * half), 0, "row width is not a multiple of the head size");
        let sign = if inverse { -T::one() } else { T::one() };
        x.par_chunks_mut(ROWS_PER_TASK * width).zip(positions.par_chunks(ROWS_PER_TASK)).for_each(|(x, positions)| {
            wide(|| {
                for (row, &position) in x.chunks_exact_mut(width).zip(positions) {
                    let at = position as usize * half;
                    let (cos, sin) = (&self.cos[at..at + half], &self.sin[at..at + half]);
                    for head in row.chunks_exact_mut(2 * half) {
                        let (low, high) = head.split_at_mut(half);
                        for i in 0..half {
                            let (a, b, s) = (low[i], high[i], sign * sin[i]);
                            low[i] = a * cos[i] - b * s;
                            high[i] = b * cos[i] + a * s;
                        }
                    }
                }
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::check;

    #[test]
    fn a_quarter_turn_and_back() {
        // One plane, frequency pi/2: position 1 turns (1, 0) into (0, 1).
        let table = RotaryTable::<f64>::new(&[std::f64::consts::FRAC_PI_2], 2);
        let mut x = [1.0, 0.0, 1.0, 0.0];
        table.rotate(&mut x, &[0, 1], false);
        assert!((x[0] - 1.0).abs() < 1e-12 && x[2].abs() < 1e-12 && (x[3] - 1.0).abs() < 1e-12);
        let before = check::numbers("x", 6 * 8);
        let mut after = before.clone();
        let table = RotaryTable::<f64>::new(&[1.0, 0.1], 6);
        table.rotate(&mut after, &[5, 4, 3, 2, 1, 0], false);
        assert!(after.iter().zip(&before).any(|(a, b)| (a - b).abs() > 0.1));
        table.rotate(&mut after, &[5, 4, 3, 2, 1, 0], true);
        assert!(after.iter().zip(&before).all(|(a, b)| (a - b).abs() < 1e-12));
    }

    #[test]
    fn backward_is_the_inverse_turn() {
        let (n, width) = (4, 8);
        let positions = [0, 1, 7, 2];
        let table = RotaryTable::<f64>::new(&[1.0, 0.1], 8);
        let (x, dy) = (check::numbers("x", n * width), check::numbers("dy", n * width));
        let mut dx = dy.clone();
        table.rotate(&mut dx, &positions, true);
        check::gradient("dx", &x, &dx, |x| {
            let mut y = x.to_vec();
            table.rotate(&mut y, &positions, false);
            check::dot(&y, &dy)
        });
    }
}
