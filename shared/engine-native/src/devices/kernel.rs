//! What [`prepare`](super::prepare) does, on a GPU: compiled when it is first needed, for the GPU that is there.
#![expect(unsafe_code, reason = "a kernel is launched with arguments whose types only its source tells")]

use std::sync::Arc;

use cudarc::driver::{CudaFunction, CudaStream, LaunchConfig, PushKernelArg};
use cudarc::nvrtc;

use super::gpu::{Device, Pinned, guarded, told};
use super::prepare::{Precision, Recipe, Values};

/// One function for each kind of input and output. The subtraction is kept from being fused with the product, as it is on a
/// processor, and halves are rounded by the instruction itself, so that no header of CUDA's is needed.
const SOURCE: &str = r#"
__device__ __forceinline__ float prepared(float x, float mean, float scale) {
    return __fmul_rn(__fsub_rn(x, mean), scale);
}
__device__ __forceinline__ void put(float* out, unsigned long long at, float x) { out[at] = x; }
__device__ __forceinline__ void put(unsigned short* out, unsigned long long at, float x) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    out[at] = bits;
}
template <typename In, typename Out>
__device__ __forceinline__ void run(const In* in, Out* out, const float* mean, const float* scale,
                                    unsigned int channels, unsigned long long count) {
    unsigned long long step = (unsigned long long)gridDim.x * blockDim.x;
    for (unsigned long long at = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x; at < count; at += step) {
        unsigned int channel = (unsigned int)(at % channels);
        put(out, at, prepared((float)in[at], mean[channel], scale[channel]));
    }
}
#define KERNEL(NAME, IN, OUT)                                                                                   \
    extern "C" __global__ void NAME(const IN* in, OUT* out, const float* mean, const float* scale,              \
                                    unsigned int channels, unsigned long long count) {                          \
        run(in, out, mean, scale, channels, count);                                                             \
    }
KERNEL(u8_f32, unsigned char, float)
KERNEL(u8_f16, unsigned char, unsigned short)
KERNEL(f32_f32, float, float)
KERNEL(f32_f16, float, unsigned short)
"#;

/// The compiled functions, on one GPU.
#[derive(Clone, Debug)]
pub struct Kernel {
    stream: Arc<CudaStream>,
    /// From bytes and from numbers, each to 32 and to 16 bits.
    functions: [CudaFunction; 4],
}

impl Kernel {
    /// Compiles for this GPU; needs CUDA's run-time compiler (libnvrtc) beside the driver.
    pub fn compile(device: &Device) -> Result<Self, String> {
        guarded(|| {
            // SAFETY: it loads a library that initialises nothing of its own, and lets go of it.
            if !unsafe { nvrtc::sys::is_culib_present() } {
                return Err("libnvrtc is not there: CUDA's run-time compiler is not installed".to_owned());
            }
            let code = nvrtc::compile_ptx(SOURCE).map_err(|error| format!("the kernel does not compile: {error:?}"))?;
            let module = device.context().load_module(code).map_err(|error| told(&error))?;
            let load = |name| module.load_function(name).map_err(|error| told(&error));
            let functions = [load("u8_f32")?, load("u8_f16")?, load("f32_f32")?, load("f32_f16")?];
            let stream = device.context().new_stream().map_err(|error| told(&error))?;
            Ok(Self { stream, functions })
        })
    }

    /// Does on the GPU what [`Recipe::run`] does on a processor, from and to pinned memory. `output` must have as many bytes as come out.
    pub fn run(&self, recipe: &Recipe, values: &Pinned, is_bytes: bool, output: &mut Pinned) -> Result<(), String> {
        let width = if is_bytes { 1 } else { size_of::<f32>() };
        let count = values.slice().len() / width;
        if output.slice().len() != count * recipe.precision().bytes() {
            return Err("the output does not fit the values".to_owned());
        }
        guarded(|| self.launch(recipe, values, (is_bytes, count), output))
    }

    fn launch(
        &self,
        recipe: &Recipe,
        values: &Pinned,
        (is_bytes, count): (bool, usize),
        output: &mut Pinned,
    ) -> Result<(), String> {
        let at = usize::from(!is_bytes) * 2 + usize::from(recipe.precision() == Precision::F16);
        let (stream, count) = (&self.stream, count as u64);
        let channels = u32::try_from(recipe.mean().len()).unwrap_or(1);
        let grid = u32::try_from(count.div_ceil(256).clamp(1, 4096)).unwrap_or(4096);
        let mut work = || -> Result<(), cudarc::driver::DriverError> {
            let input = stream.clone_htod(values.slice())?;
            let (mean, scale) = (stream.clone_htod(recipe.mean())?, stream.clone_htod(recipe.scale())?);
            let mut result = stream.alloc_zeros::<u8>(output.slice().len())?;
            let mut launch = stream.launch_builder(&self.functions[at]);
            launch.arg(&input).arg(&mut result).arg(&mean).arg(&scale).arg(&channels).arg(&count);
            // SAFETY: the arguments are the kernel's, in its order: two buffers of `count` values each (checked by the caller),
            // `channels` means and scales, and both numbers in the widths that it declares. It writes within `count`.
            unsafe {
                launch.launch(LaunchConfig { grid_dim: (grid, 1, 1), block_dim: (256, 1, 1), shared_mem_bytes: 0 })
            }?;
            stream.memcpy_dtoh(&result, output.slice_mut())?;
            stream.synchronize()
        };
        work().map_err(|error| told(&error))
    }

    /// As [`Self::run`], with memory of this process that is copied into pinned memory first.
    pub fn run_copied(&self, device: &Device, recipe: &Recipe, values: Values<'_>) -> Result<Vec<u8>, String> {
        if values.is_empty() {
            return Ok(Vec::new());
        }
        let (is_bytes, bytes) = match values {
            Values::U8(values) => (true, values.to_vec()),
            Values::F32(values) => (false, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        };
        let mut input = device.pinned(bytes.len())?;
        input.bytes_mut()?.copy_from_slice(&bytes);
        let mut output = device.pinned(values.len() * recipe.precision().bytes())?;
        self.run(recipe, &input, is_bytes, &mut output)?;
        output.bytes().map(<[u8]>::to_vec)
    }
}
