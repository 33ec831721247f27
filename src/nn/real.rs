//! The number types of the kernels, access to candle's storage, wide vectors, and raw matrix products.

use candle_core::{CpuStorage, DType, Device, Tensor, WithDType};
use num_traits::Float;

use crate::error::{Error, Result};

/// `f32` for training, `f64` for finite differences.
pub trait Real:
    WithDType + Float + bytemuck::NoUninit + std::iter::Sum + std::ops::AddAssign + std::ops::MulAssign + 'static
{
    /// candle's name of the type.
    const KIND: DType;

    /// e^x; for f32 a polynomial within two units in the last place that compilers vectorise.
    fn exp_fast(self) -> Self;

    /// The numbers of a CPU storage, for writing.
    ///
    /// # Errors
    /// [`candle_core::Error`] for another type.
    fn storage_mut(storage: &mut CpuStorage) -> candle_core::Result<&mut Vec<Self>>;

    /// From f64, rounding.
    fn of(x: f64) -> Self;

    /// The same numbers where this type is f32.
    fn floats(x: &[Self]) -> Option<&[f32]>;

    /// The same numbers where this type is f32, for writing.
    fn floats_mut(x: &mut [Self]) -> Option<&mut [f32]>;

    /// The same numbers, by their type.
    fn numbers(values: &mut [Self]) -> Numbers<'_>;
}

/// Numbers whose type is matched at run time.
#[derive(Debug)]
pub enum Numbers<'a> {
    /// f32.
    F32(&'a mut [f32]),
    /// f64.
    F64(&'a mut [f64]),
}

impl Real for f32 {
    const KIND: DType = DType::F32;

    #[inline(always)]
    fn exp_fast(self) -> f32 {
        // e^x = 2^n e^r with |r| <= ln2/2, e^r by a polynomial of degree 6 (minimax on that range);
        // branch-free, so that loops over it become vector code. Below -87.3 the result is 0.
        const LOG2E: f32 = std::f32::consts::LOG2_E;
        const LN2_HI: f32 = 0.693_359_4;
        const LN2_LO: f32 = -2.121_944_4e-4;
        let x = self.clamp(-88.0, 88.0);
        // Adding 1.5 * 2^23 rounds to a whole number, which then stands in the low bits.
        let shifted = x * LOG2E + 12_582_912.0;
        let n = shifted - 12_582_912.0;
        let r = x - n * LN2_HI - n * LN2_LO;
        let p = 1.987_569_1e-4;
        let p = p * r + 1.398_199_9e-3;
        let p = p * r + 8.333_452e-3;
        let p = p * r + 4.166_579_6e-2;
        let p = p * r + 1.666_666_5e-1;
        let p = p * r + 0.5;
        let p = p * r * r + r + 1.0;
        let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
        if self < -87.3 { 0.0 } else { p * scale }
    }

    fn storage_mut(storage: &mut CpuStorage) -> candle_core::Result<&mut Vec<f32>> {
        match storage {
            CpuStorage::F32(data) => Ok(data),
            _ => candle_core::bail!("expected f32 storage"),
        }
    }

    #[inline(always)]
    fn of(x: f64) -> f32 {
        x as f32
    }

    fn floats(x: &[f32]) -> Option<&[f32]> {
        Some(x)
    }

    fn floats_mut(x: &mut [f32]) -> Option<&mut [f32]> {
        Some(x)
    }

    fn numbers(values: &mut [f32]) -> Numbers<'_> {
        Numbers::F32(values)
    }
}

impl Real for f64 {
    const KIND: DType = DType::F64;

    #[inline(always)]
    fn exp_fast(self) -> f64 {
        self.exp()
    }

    fn storage_mut(storage: &mut CpuStorage) -> candle_core::Result<&mut Vec<f64>> {
        match storage {
            CpuStorage::F64(data) => Ok(data),
            _ => candle_core::bail!("expected f64 storage"),
        }
    }

    #[inline(always)]
    fn of(x: f64) -> f64 {
        x
    }

    fn floats(_: &[f64]) -> Option<&[f32]> {
        None
    }

    fn floats_mut(_: &mut [f64]) -> Option<&mut [f32]> {
        None
    }

    fn numbers(values: &mut [f64]) -> Numbers<'_> {
        Numbers::F64(values)
    }
}

/// Calls `f` with the numbers of a contiguous CPU tensor, without a copy.
///
/// # Errors
/// [`Error::Tensor`] where it is not on the CPU, not contiguous, or of another type.
pub fn with_slice<T: Real, R>(tensor: &Tensor, f: impl FnOnce(&[T]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    let candle_core::Storage::Cpu(storage) = &*storage else {
        return Err(Error::run("this operation runs on the CPU only"));
    };
    let Some((start, end)) = layout.contiguous_offsets() else {
        return Err(Error::run("this operation needs a contiguous tensor"));
    };
    Ok(f(&T::cpu_storage_as_slice(storage)?[start..end]))
}

/// Calls `f` with a tensor's numbers, copied to memory and converted where they are elsewhere or of another type.
///
/// # Errors
/// [`Error::Tensor`].
pub fn in_memory<T: Real, R>(tensor: &Tensor, f: impl FnOnce(&[T]) -> R) -> Result<R> {
    let tensor = tensor.detach().to_device(&Device::Cpu)?.to_dtype(T::KIND)?.contiguous()?;
    with_slice::<T, R>(&tensor, f)
}

/// Vectors of a processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vectors {
    /// AVX-512 F, BW, DQ, VL.
    Avx512,
    /// AVX2 and FMA.
    Avx2,
    /// Whatever the target has.
    Any,
}

/// The widest vectors that this machine has.
#[inline]
pub fn vectors() -> Vectors {
    #[cfg(target_arch = "x86_64")]
    {
        let fma = std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma");
        if fma
            && std::is_x86_feature_detected!("avx512f")
            && std::is_x86_feature_detected!("avx512bw")
            && std::is_x86_feature_detected!("avx512dq")
            && std::is_x86_feature_detected!("avx512vl")
        {
            return Vectors::Avx512;
        }
        if fma {
            return Vectors::Avx2;
        }
    }
    Vectors::Any
}

/// Runs `f` compiled for the widest vectors that this machine has.
///
/// `f` is inlined into a copy of this function for AVX-512 or AVX2; elsewhere it just runs.
#[inline(always)]
pub fn wide<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        fn avx512<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        #[target_feature(enable = "avx2,fma")]
        fn avx2<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        match vectors() {
            // SAFETY: the features were detected on this machine.
            Vectors::Avx512 => return unsafe { avx512(f) },
            // SAFETY: the features were detected on this machine.
            Vectors::Avx2 => return unsafe { avx2(f) },
            Vectors::Any => {}
        }
    }
    f()
}

/// Sixteen running sums, so that a sum becomes vector code and keeps a fixed order.
#[inline(always)]
pub fn sum_of<T: Real>(n: usize, term: impl Fn(usize) -> T) -> T {
    let mut lanes = [T::zero(); 16];
    let whole = n / 16 * 16;
    let mut i = 0;
    while i < whole {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(i + lane);
        }
        i += 16;
    }
    let mut total = T::zero();
    for i in whole..n {
        total += term(i);
    }
    for lane in lanes {
        total += lane;
    }
    total
}

/// A matrix in memory: pointer to its first element, and the distance between rows and columns.
#[derive(Clone, Copy)]
pub struct View<T> {
    /// First element.
    pub data: *const T,
    /// Elements from one row to the next.
    pub row: usize,
    /// Elements from one column to the next.
    pub column: usize,
}

/// `dst = beta lhs rhs`, or `dst += beta lhs rhs` with `accumulate`.
///
/// # Shapes
/// dst (m,n) · lhs (m,k) · rhs (k,n).
///
/// # Safety
/// The three views must cover valid memory for their shapes, and `dst` must not be read or written by others.
#[allow(clippy::too_many_arguments, reason = "the shape of a matrix product")]
pub unsafe fn gemm<T: Real>(
    (m, n, k): (usize, usize, usize),
    dst: *mut T,
    (dst_row, dst_column): (usize, usize),
    accumulate: bool,
    lhs: View<T>,
    rhs: View<T>,
    beta: T,
    parallel: bool,
) {
    let parallelism =
        if parallel { gemm::Parallelism::Rayon(rayon::current_num_threads()) } else { gemm::Parallelism::None };
    // SAFETY: the caller's promise.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst,
            dst_column as isize,
            dst_row as isize,
            accumulate,
            lhs.data,
            lhs.column as isize,
            lhs.row as isize,
            rhs.data,
            rhs.column as isize,
            rhs.row as isize,
            T::one(),
            beta,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// A mutable pointer that tasks may share when they write disjoint elements.
#[derive(Clone, Copy)]
pub struct Shared<T>(*mut T);

// SAFETY: it is a pointer, whose every use is unsafe; there, users promise that tasks write disjoint elements.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as for `Send`.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Shares the elements of a slice.
    pub fn new(slice: &mut [T]) -> Shared<T> {
        Shared(slice.as_mut_ptr())
    }

    /// Shares what a pointer points to, for reading.
    pub fn of(data: *const T) -> Shared<T> {
        Shared(data.cast_mut())
    }

    /// Pointer to element `i`.
    ///
    /// # Safety
    /// `i` lies within the slice, and no other task touches what is written through it.
    pub unsafe fn at(self, i: usize) -> *mut T {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(i) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_is_close_over_the_whole_range() {
        let mut worst = 0f64;
        for i in -870_000..880_000i32 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max(((f64::from(x.exp_fast()) - exact) / exact).abs());
        }
        assert!(worst < 2.0 * f64::from(f32::EPSILON), "{worst}");
        assert_eq!((-1000f32).exp_fast(), 0.0);
        assert_eq!(f32::NEG_INFINITY.exp_fast(), 0.0);
        assert_eq!(0f32.exp_fast(), 1.0);
    }

    #[test]
    fn sums_are_complete() {
        for n in [0, 1, 15, 16, 17, 100] {
            assert_eq!(sum_of(n, |i| i as f64), (n * n.saturating_sub(1) / 2) as f64);
        }
    }
}
