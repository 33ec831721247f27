//! The content of a model: one hash of its weights, whatever its folder is called and however it is cut into files.

use crate::error::Result;
use crate::model::{Group, Lora, Param, Params};
use crate::nn::Real;
use crate::nn::real::in_memory;

/// BLAKE3 over all weights but the latent part's, lower-case hex. Adapters and latent parts keep it in their files, to
/// know the base that they were trained over.
///
/// # Errors
/// [`crate::Error::Tensor`].
pub fn fingerprint<'a, T: Real>(params: impl Iterator<Item = &'a Param>) -> Result<String> {
    let mut hasher = blake3::Hasher::new_derive_key("lpc-pipe 1 weights");
    hash_weights::<T>(params, &mut hasher)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Adds the name and the numbers, as `T`, of every parameter but the latent part's, sorted by name.
///
/// # Errors
/// [`crate::Error::Tensor`].
pub fn hash_weights<'a, T: Real>(params: impl Iterator<Item = &'a Param>, hasher: &mut blake3::Hasher) -> Result<()> {
    let mut sorted: Vec<&Param> = params.filter(|p| p.group != Group::Latent).collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    for param in sorted {
        hasher.update(param.name.as_bytes());
        in_memory::<T, _>(param.var.as_tensor(), |values| {
            hasher.update(bytemuck::cast_slice(values));
        })?;
    }
    Ok(())
}

/// Adds what the function before any training depends on: of its parameters those that `keep` names, and the scale of
/// an adapter that adds something already. With a new adapter the function is that of the base, and so is the hash.
///
/// # Errors
/// [`crate::Error::Tensor`].
pub fn hash_starting<T: Real>(
    params: &Params,
    adapter: Option<&Lora>,
    keep: impl Fn(&Param) -> bool,
    hasher: &mut blake3::Hasher,
) -> Result<()> {
    let starting: Vec<&Param> = params.starting().collect();
    if let Some(lora) = adapter.filter(|_| starting.iter().any(|p| p.group == Group::Adapter)) {
        hasher.update(b"adapter scale");
        hasher.update(&lora.scale().to_bits().to_le_bytes());
    }
    hash_weights::<T>(starting.into_iter().filter(|p| keep(p)), hasher)
}
