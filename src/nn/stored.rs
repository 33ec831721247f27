//! Numbers that a backward pass will read again, kept in half the memory where products round them anyway.

use rayon::prelude::*;

use super::product;
use super::real::{Real, wide};
use super::rows::Precision;

/// Numbers that one task converts.
const PART: usize = 1 << 14;

/// Numbers that are kept: as they are, or rounded to bfloat16 (to nearest even).
#[derive(Debug)]
pub enum Stored<T> {
    /// As they were.
    Whole(Vec<T>),
    /// The upper halves of float32 numbers.
    Rounded(Vec<u16>),
}

impl<T: Real> Stored<T> {
    /// Keeps numbers that products take as operands of this precision.
    pub fn new(values: Vec<T>, precision: Precision) -> Stored<T> {
        if Stored::<T>::halved(precision) { Stored::of(&values, precision) } else { Stored::Whole(values) }
    }

    /// [`Stored::new`] of a copy.
    pub fn of(values: &[T], precision: Precision) -> Stored<T> {
        let Some(mut halves) = Stored::<T>::room(values.len(), precision) else {
            return Stored::Whole(values.to_vec());
        };
        halves.par_chunks_mut(PART).zip(values.par_chunks(PART)).for_each(|(halves, values)| round(values, halves));
        Stored::Rounded(halves)
    }

    /// Whether numbers of this type are kept in half of their memory.
    fn halved(precision: Precision) -> bool {
        T::floats(&[]).is_some() && precision == Precision::Bf16 && product::available()
    }

    /// Bytes that so many numbers will take.
    pub fn bytes_of(len: usize, precision: Precision) -> usize {
        len * if Stored::<T>::halved(precision) { size_of::<u16>() } else { size_of::<T>() }
    }

    /// Room for so many halves; `None` where numbers of this type are kept whole in this precision.
    pub fn room(len: usize, precision: Precision) -> Option<Vec<u16>> {
        Stored::<T>::halved(precision).then(|| vec![0; len])
    }

    /// The numbers again.
    pub fn into_values(self) -> Vec<T> {
        let halves = match self {
            Stored::Whole(values) => return values,
            Stored::Rounded(halves) => halves,
        };
        let mut values = vec![T::zero(); halves.len()];
        values.par_chunks_mut(PART).zip(halves.par_chunks(PART)).for_each(|(values, halves)| widen(halves, values));
        values
    }

    /// Copies the numbers from `at` on.
    pub fn copy_to(&self, at: usize, out: &mut [T]) {
        match self {
            Stored::Whole(values) => out.copy_from_slice(&values[at..at + out.len()]),
            Stored::Rounded(halves) => widen(&halves[at..at + out.len()], out),
        }
    }

    /// Some of the numbers again, in a buffer that is at least as long where they are not there as they were.
    pub fn piece<'a>(&'a self, range: std::ops::Range<usize>, buffer: &'a mut [T]) -> &'a [T] {
        match self {
            Stored::Whole(values) => &values[range],
            Stored::Rounded(halves) => {
                let piece = &mut buffer[..range.len()];
                widen(&halves[range], piece);
                piece
            }
        }
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        match self {
            Stored::Whole(values) => size_of_val(values.as_slice()),
            Stored::Rounded(halves) => size_of_val(halves.as_slice()),
        }
    }
}

/// Gives numbers the values that they would have after they were kept, on this thread.
pub fn as_kept<T: Real>(values: &mut [T], precision: Precision) {
    if Stored::<T>::halved(precision) {
        let floats = T::floats_mut(values).unwrap_or_default();
        wide(|| floats.iter_mut().for_each(|x| *x = f32::from_bits(u32::from(rounded(*x)) << 16)));
    }
}

/// Rounds float32 numbers to bfloat16, on this thread.
///
/// # Shapes
/// Both of one length.
pub fn round<T: Real>(values: &[T], halves: &mut [u16]) {
    let floats = T::floats(values).unwrap_or_default();
    wide(|| halves.iter_mut().zip(floats).for_each(|(half, &float)| *half = rounded(float)));
}

/// Float32 numbers of bfloat16 ones, on this thread.
///
/// # Shapes
/// Both of one length.
pub fn widen<T: Real>(halves: &[u16], values: &mut [T]) {
    let floats = T::floats_mut(values).unwrap_or_default();
    wide(|| {
        floats.iter_mut().zip(halves).for_each(|(float, &half)| *float = f32::from_bits(u32::from(half) << 16));
    });
}

/// The upper half of a number after rounding to nearest even.
#[inline(always)]
fn rounded(x: f32) -> u16 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    // Rounding must not turn what is not a number into one.
    let chosen = if x.is_nan() { bits | 0x0040_0000 } else { nearest };
    (chosen >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::check;

    #[test]
    fn numbers_are_rounded_as_bfloat16_is() {
        let mut x: Vec<f32> = check::numbers("x", 3 * PART + 5).into_iter().map(|x| x as f32).collect();
        let special =
            [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 1.003_906_2, 1.011_718_8];
        x.extend(special);
        let wanted: Vec<f32> = x.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect();
        let stored = Stored::new(x.clone(), Precision::Bf16);
        if product::available() {
            assert_eq!((stored.bytes(), stored.into_values()), (2 * x.len(), wanted));
        } else {
            assert_eq!((stored.bytes(), stored.into_values()), (4 * x.len(), x.clone()));
        }
        assert!(f32::from_bits(u32::from(rounded(f32::NAN)) << 16).is_nan());
        assert!(f32::from_bits(u32::from(rounded(f32::from_bits(0x7f80_0001))) << 16).is_nan());
        // Products of float32, and other types, keep all digits.
        assert_eq!(Stored::new(x.clone(), Precision::F32).into_values(), x);
        let doubles = check::numbers("y", 9);
        assert_eq!(Stored::new(doubles.clone(), Precision::Bf16).into_values(), doubles);
    }
}
