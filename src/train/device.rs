//! The device on which a run computes, and with which operations and precision.

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::Place;
use crate::nn::Precision;
use crate::settings::Faults;

/// Where the backbone computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    /// An accelerator that this build knows and this machine has; otherwise the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU (feature `cuda`).
    Cuda,
    /// An Apple GPU (feature `metal`).
    Metal,
}

/// What the backbone is computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kernels {
    /// Fused on the CPU, composed elsewhere.
    #[default]
    Auto,
    /// This crate's own kernels; CPU only.
    Fused,
    /// The tensor library's operations: slower, larger, and everywhere.
    Composed,
}

/// Adds settings that this build cannot follow, or that contradict each other.
pub(super) fn judge(device: DeviceKind, kernels: Kernels, faults: &mut Faults) {
    match device {
        DeviceKind::Cuda if !cfg!(feature = "cuda") => {
            faults.add("device", "this build has no CUDA: rebuild with --features cuda (needs the CUDA toolkit)");
        }
        DeviceKind::Metal if !cfg!(feature = "metal") => {
            faults.add("device", "this build has no Metal: rebuild with --features metal (on macOS)");
        }
        DeviceKind::Cuda | DeviceKind::Metal if kernels == Kernels::Fused => {
            faults.add("kernels", "\"fused\" runs on the CPU only; leave it \"auto\", or take device \"cpu\"");
        }
        _ => {}
    }
}

/// The device to compute on; none for the fused kernels on the CPU. `local_rank` picks among a machine's accelerators.
///
/// # Errors
/// [`Error::Config`] where the device that was asked for is not there.
pub fn open(device: DeviceKind, kernels: Kernels, precision: Precision, local_rank: usize) -> Result<Option<Place>> {
    let missing = |kind: &str, e: candle_core::Error| Error::config("train.device", format!("no {kind} device: {e}"));
    let found = match device {
        DeviceKind::Cpu => None,
        DeviceKind::Cuda => Some(cuda(local_rank).map_err(|e| missing("CUDA", e))?),
        DeviceKind::Metal => Some(Device::new_metal(local_rank).map_err(|e| missing("Metal", e))?),
        // Fused kernels run on the CPU.
        DeviceKind::Auto if kernels == Kernels::Fused => None,
        DeviceKind::Auto if cfg!(feature = "cuda") => cuda(local_rank).ok(),
        DeviceKind::Auto if cfg!(feature = "metal") => Device::new_metal(local_rank).ok(),
        DeviceKind::Auto => None,
    };
    let compute = match precision {
        Precision::F32 => DType::F32,
        Precision::Bf16 => DType::BF16,
    };
    Ok(match found {
        None if kernels != Kernels::Composed => None,
        found => Some(Place { device: found.unwrap_or(Device::Cpu), compute }),
    })
}

/// What a user is told of the device; nothing for the CPU.
pub fn announced(place: Option<&Place>) -> Option<String> {
    let place = place.filter(|place| !place.device.is_cpu())?;
    Some(match name(&place.device) {
        Some(name) => format!("computing on {name}: {place}"),
        None => format!("computing on {place}"),
    })
}

#[cfg(feature = "cuda")]
fn name(device: &Device) -> Option<String> {
    device.as_cuda_device().ok()?.cuda_stream().context().name().ok()
}

#[cfg(not(feature = "cuda"))]
fn name(_: &Device) -> Option<String> {
    None
}

fn cuda(ordinal: usize) -> candle_core::Result<Device> {
    let device = Device::new_cuda(ordinal)?;
    #[cfg(feature = "cuda")]
    keep_memory(&device)?;
    Ok(device)
}

/// Lets the device's memory pool keep what it has: by default all that is free goes back to the driver whenever a
/// number is read from the device, and every step would ask for its memory again.
#[cfg(feature = "cuda")]
fn keep_memory(device: &Device) -> candle_core::Result<()> {
    use candle_core::cuda::cudarc::driver::{result, sys};
    let stream = device.as_cuda_device()?.cuda_stream();
    let context = stream.context();
    if !context.has_async_alloc() {
        return Ok(());
    }
    let mut all = u64::MAX;
    // SAFETY: the device is open, its default pool lives as long as it, and the attribute is a 64-bit number.
    let set = unsafe {
        result::device::get_default_mem_pool(context.cu_device()).and_then(|pool| {
            let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            result::mem_pool::set_attribute(pool, threshold, (&raw mut all).cast())
        })
    };
    set.map_err(|e| candle_core::Error::Msg(format!("the memory pool: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;
    use crate::train::TrainConfig;

    #[test]
    fn what_a_build_lacks_is_said_with_the_remedy() {
        for (device, feature, there) in [
            (DeviceKind::Cuda, "--features cuda", cfg!(feature = "cuda")),
            (DeviceKind::Metal, "--features metal", cfg!(feature = "metal")),
        ] {
            let config = TrainConfig { device, data: "d".into(), out: "o".into(), ..TrainConfig::default() };
            let found = config.faults();
            assert_eq!(found.is_empty(), there);
            assert!(found.iter().all(|f| f.key == "train.device" && f.message.contains(feature)), "{found:?}");
        }
    }

    #[test]
    fn the_cpu_has_fused_kernels_unless_others_are_asked_for() {
        let open = |kernels, precision| open(DeviceKind::Cpu, kernels, precision, 0).unwrap();
        assert!(open(Kernels::Auto, Precision::Bf16).is_none());
        assert_eq!(open(Kernels::Composed, Precision::Bf16).map(|p| p.compute), Some(DType::BF16));
        let there = open(Kernels::Composed, Precision::F32);
        assert_eq!(there.as_ref().map(|p| p.compute), Some(DType::F32));
        assert_eq!((announced(None), announced(there.as_ref())), (None, None));
    }
}
