//! What candle's custom operations share: their input as numbers, what they keep for the backward pass, their errors.

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{CpuStorage, Layout};

use super::real::Real;
use crate::error::Error;

/// The numbers of a contiguous input; `name` is the operation's.
///
/// # Errors
/// [`candle_core::Error`] where it is not contiguous, or of another type.
pub fn input<'a, T: Real>(storage: &'a CpuStorage, layout: &Layout, name: &str) -> candle_core::Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&T::cpu_storage_as_slice(storage)?[start..end]),
        None => candle_core::bail!("{name} needs a contiguous input"),
    }
}

/// Locks what one pass keeps for another. A panic elsewhere leaves whole values behind: locks are held only to store,
/// take or add numbers.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An error inside an operation, on its way through candle.
impl From<Error> for candle_core::Error {
    fn from(error: Error) -> candle_core::Error {
        candle_core::Error::Msg(error.to_string())
    }
}
