//! The device on which a run computes, and with which operations and precision.

use std::sync::OnceLock;

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

/// Width from which a model gains by bfloat16: below it rounding and packing cost what the products save.
const WIDE: usize = 256;

/// Operands of the matrix products of a run. Weights, sums, moments and losses are float32 in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PrecisionKind {
    /// bfloat16 where it is faster, float32 elsewhere.
    #[default]
    Auto,
    /// float32.
    F32,
    /// bfloat16.
    Bf16,
}

impl PrecisionKind {
    /// What a model of this width is computed with on this machine, by the device and the kernels that are asked for.
    pub fn on(self, device: DeviceKind, kernels: Kernels, width: usize) -> Precision {
        match self {
            PrecisionKind::F32 => Precision::F32,
            PrecisionKind::Bf16 => Precision::Bf16,
            PrecisionKind::Auto if width < WIDE => Precision::F32,
            PrecisionKind::Auto => match expected(device, kernels) {
                Computing::Fused => Precision::Bf16.effective(),
                Computing::Cuda => Precision::Bf16,
                Computing::Composed | Computing::Metal => Precision::F32,
            },
        }
    }
}

impl From<Precision> for PrecisionKind {
    fn from(precision: Precision) -> PrecisionKind {
        match precision {
            Precision::F32 => PrecisionKind::F32,
            Precision::Bf16 => PrecisionKind::Bf16,
        }
    }
}

/// Where and with which operations a run will compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Computing {
    /// This crate's kernels on the CPU.
    Fused,
    /// The tensor library's operations on the CPU.
    Composed,
    Cuda,
    Metal,
}

fn expected(device: DeviceKind, kernels: Kernels) -> Computing {
    match device {
        DeviceKind::Cuda => Computing::Cuda,
        DeviceKind::Metal => Computing::Metal,
        DeviceKind::Auto if kernels != Kernels::Fused && accelerated() => {
            if cfg!(feature = "cuda") {
                Computing::Cuda
            } else {
                Computing::Metal
            }
        }
        DeviceKind::Auto | DeviceKind::Cpu if kernels == Kernels::Composed => Computing::Composed,
        DeviceKind::Auto | DeviceKind::Cpu => Computing::Fused,
    }
}

/// Whether this machine has an accelerator that this build knows. Asked once: opening a device takes a while.
fn accelerated() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        if cfg!(feature = "cuda") {
            Device::new_cuda(0).is_ok()
        } else {
            cfg!(feature = "metal") && Device::new_metal(0).is_ok()
        }
    })
}

/// Adds settings that this build or machine cannot follow, or that contradict each other.
pub(super) fn judge(device: DeviceKind, kernels: Kernels, precision: PrecisionKind, faults: &mut Faults) {
    let asked = precision == PrecisionKind::Bf16 && expected(device, kernels) == Computing::Fused;
    if asked && Precision::Bf16.effective() != Precision::Bf16 {
        faults.add("precision", "this processor does not multiply bfloat16 (AVX512-BF16): take \"auto\" or \"f32\"");
    }
    match device {
        DeviceKind::Cuda if !cfg!(feature = "cuda") => {
            faults.add("device", "this build has no CUDA: rebuild with --features cuda (scripts/build_cuda.sh does, without a CUDA toolkit)");
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
    fn auto_is_bfloat16_where_it_is_fast() {
        let fast = Precision::Bf16.effective();
        let auto = |device, kernels| PrecisionKind::Auto.on(device, kernels, WIDE);
        assert_eq!(auto(DeviceKind::Cpu, Kernels::Auto), fast);
        assert_eq!(auto(DeviceKind::Cpu, Kernels::Fused), fast);
        assert_eq!(auto(DeviceKind::Cpu, Kernels::Composed), Precision::F32);
        assert_eq!(auto(DeviceKind::Cuda, Kernels::Auto), Precision::Bf16);
        assert_eq!(PrecisionKind::Auto.on(DeviceKind::Cpu, Kernels::Auto, WIDE - 1), Precision::F32);
        assert_eq!(PrecisionKind::F32.on(DeviceKind::Cuda, Kernels::Auto, WIDE), Precision::F32);
        // `score` computes in float32, so that its file fits no other run.
        let given = TrainConfig { reference: "r.parquet".into(), ..TrainConfig::default() };
        assert_eq!(given.operands(WIDE), Precision::F32);
        // Asked for by name, bfloat16 is computed with or refused.
        let config = TrainConfig {
            device: DeviceKind::Cpu,
            precision: PrecisionKind::Bf16,
            data: "d".into(),
            out: "o".into(),
            ..TrainConfig::default()
        };
        let refused = config.faults();
        assert_eq!(refused.is_empty(), fast == Precision::Bf16);
        assert!(refused.iter().all(|f| f.key == "train.precision"));
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
