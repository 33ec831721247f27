//! Exponentials of logits that a forward pass keeps for its backward pass, which then needs no logits again: a product
//! with the output layer less. They are kept in bfloat16 where products take such operands anyway, and within a room of
//! memory that all passes of a step share: chunks of the vocabulary that find none are computed again, with the same bits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::real::Real;
use super::rows::Precision;
use super::stored::{self, Stored};
use super::vector;

/// Bytes that training gives to kept exponentials: SmolLM2's vocabulary in bfloat16 for 2,700 positions.
pub const ROOM: usize = 256 << 20;
/// Rows per task.
const ROWS: usize = 16;

/// Memory for kept exponentials.
#[derive(Debug)]
pub struct Room {
    free: AtomicUsize,
}

impl Room {
    /// Room of so many bytes.
    ///
    /// # Units
    /// Bytes.
    pub fn new(bytes: usize) -> Room {
        Room { free: AtomicUsize::new(bytes) }
    }

    /// Takes bytes, where there are as many.
    fn take(&self, bytes: usize) -> bool {
        self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(bytes)).is_ok()
    }
}

/// Exponentials of a vocabulary's chunks: kept, as many as found room, or computed again with the same bits.
#[derive(Debug)]
pub struct Exponentials<T> {
    chunks: Vec<Chunk<T>>,
    room: Option<Arc<Room>>,
    precision: Precision,
    /// Whether every chunk so far has found room.
    keeps: bool,
    /// Bytes taken of the room.
    taken: usize,
}

/// One chunk.
#[derive(Debug)]
struct Chunk<T> {
    /// Each row's largest logit when the chunk was computed (R).
    largest: Vec<T>,
    /// `e^(logit - largest)` (R,width), where they found room.
    values: Option<Stored<T>>,
}

impl<T: Real> Exponentials<T> {
    /// Keeps chunks as long as there is room; without a room none.
    pub fn new(room: Option<Arc<Room>>, precision: Precision) -> Exponentials<T> {
        Exponentials { chunks: Vec::new(), keeps: room.is_some(), room, precision, taken: 0 }
    }

    /// Whether the next chunk may find room.
    pub fn keeps(&self) -> bool {
        self.keeps
    }

    /// Takes the next chunk, and keeps its exponentials where there is room.
    ///
    /// # Shapes
    /// values (R,width): `e^(logit - largest)`, read only where [`Exponentials::keeps`] · largest (R).
    pub fn push(&mut self, values: &[T], largest: &[T]) {
        let bytes = Stored::<T>::bytes_of(values.len(), self.precision);
        self.keeps = self.keeps && self.room.as_ref().is_some_and(|room| room.take(bytes));
        if self.keeps {
            self.taken += bytes;
        }
        let values = self.keeps.then(|| Stored::of(values, self.precision));
        self.chunks.push(Chunk { largest: largest.to_vec(), values });
    }

    /// Writes each exponential of a chunk times the factor of its row, which is computed from the row and its largest
    /// logit of then. `logits` writes the chunk's logits, and is called where exponentials were not kept.
    ///
    /// # Shapes
    /// out (R,width).
    pub fn scaled(
        &self,
        chunk: usize,
        out: &mut [T],
        logits: impl FnOnce(&mut [T]),
        factor: impl Fn(usize, T) -> T + Sync,
    ) {
        let Chunk { largest, values } = &self.chunks[chunk];
        let width = out.len() / largest.len().max(1);
        if values.is_none() {
            logits(out);
        }
        out.par_chunks_mut(ROWS * width).enumerate().for_each(|(task, out)| {
            if let Some(values) = values {
                values.copy_to(task * ROWS * width, out);
            }
            for (i, out) in out.chunks_exact_mut(width).enumerate() {
                let row = task * ROWS + i;
                if values.is_none() {
                    vector::exponentials(out, T::one(), largest[row]);
                    stored::as_kept(out, self.precision);
                }
                vector::scale(out, factor(row, largest[row]));
            }
        });
    }
}

impl<T> Drop for Exponentials<T> {
    fn drop(&mut self) {
        if let Some(room) = &self.room {
            room.free.fetch_add(self.taken, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_shared_and_given_back() {
        // Three chunks of eight numbers and a part of a fourth.
        let room = Arc::new(Room::new(3 * 64 + 63));
        let of = || Exponentials::<f64>::new(Some(room.clone()), Precision::F32);
        let (mut first, mut second) = (of(), of());
        let take = |x: &mut Exponentials<f64>, value: f64, largest| x.push(&[value; 8], &[largest]);
        take(&mut first, 1.0, 0.5);
        take(&mut first, 2.0, 1.5);
        take(&mut second, 3.0, 0.0);
        take(&mut second, 4.0, 2.0);
        assert!(first.keeps() && !second.keeps());
        let kept = |_: &mut [f64]| unreachable!("it was kept");
        let mut out = [0.0; 8];
        first.scaled(1, &mut out, kept, |row, largest| row as f64 + 10.0 * largest);
        assert_eq!(out, [30.0; 8]);
        second.scaled(0, &mut out, kept, |_, _| 1.0);
        assert_eq!(out, [3.0; 8]);
        // The fourth is computed again: e^(2 - 2).
        second.scaled(1, &mut out, |logits| logits.fill(2.0), |_, _| 7.0);
        assert!(out.iter().all(|x| (x - 7.0).abs() < 1e-12));
        drop((first, second));
        assert!(room.take(3 * 64 + 63) && !room.take(1));
    }

    #[test]
    fn what_is_computed_again_has_the_bits_of_what_was_kept() {
        for precision in [Precision::F32, Precision::Bf16] {
            let logits: Vec<f32> =
                crate::nn::check::numbers("logits", 5 * 40).into_iter().map(|x| 9.0 * x as f32).collect();
            let largest: Vec<f32> = logits.chunks(40).map(|row| vector::max(f32::MIN, row)).collect();
            let mut values = logits.clone();
            for (row, &largest) in values.chunks_mut(40).zip(&largest) {
                vector::exponentials(row, 1.0, largest);
            }
            let of = |room| {
                let mut exponentials = Exponentials::new(room, precision);
                exponentials.push(&values, &largest);
                let mut out = vec![0.0; logits.len()];
                exponentials.scaled(0, &mut out, |out| out.copy_from_slice(&logits), |row, _| 0.3 + row as f32);
                out
            };
            assert_eq!(of(None), of(Some(Arc::new(Room::new(1 << 20)))));
        }
    }
}
