//! Devices: what a machine without a GPU answers, and the kernel against its twin on the processor where there is one.

#![expect(clippy::print_stdout, reason = "a test says what it skips")]

use weft_engine_native::devices::gpu::{self, Device};
use weft_engine_native::devices::kernel::Kernel;
use weft_engine_native::devices::prepare::{Precision, Recipe, Values};

/// Twice, since the first call initialises what the second finds.
#[test]
fn an_inventory_is_an_answer_whatever_is_there() {
    for _ in 0..2 {
        let inventory = gpu::inventory();
        assert!(!inventory.gpus.is_empty() || !inventory.note.is_empty(), "{inventory:?}");
        for gpu in &inventory.gpus {
            assert!(!gpu.name.is_empty() && gpu.free_bytes <= gpu.memory_bytes && gpu.memory_bytes > 0, "{gpu:?}");
        }
        println!("{inventory:?}");
    }
    let beyond = u32::try_from(gpu::inventory().gpus.len()).expect("a few");
    assert!(Device::open(beyond).is_err());
}

/// One suite for both: the processor's answers against arithmetic in double precision, the GPU's against the processor's, to the bit.
#[test]
fn the_kernel_answers_as_its_twin() {
    let kernel = match Device::open(0).and_then(|device| Ok((Kernel::compile(&device)?, device))) {
        Ok(found) => Some(found),
        Err(reason) => {
            println!("skipped: no GPU ({reason}); the twin on the processor alone");
            None
        }
    };
    let mut seed = 1u64;
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as u32
    };
    for count in [1usize, 2, 255, 256, 257, 1000, 3 * 224 * 224, 1 << 21] {
        let bytes: Vec<u8> = (0..count).map(|_| next() as u8).collect();
        // All magnitudes, those beyond half precision included.
        let numbers: Vec<f32> = (0..count)
            .map(|_| f32::from_bits(next() << 1 | next() & 1))
            .map(|x| if x.is_nan() { 0.0 } else { x })
            .collect();
        for channels in [1usize, 3, 4] {
            for precision in [Precision::F32, Precision::F16] {
                let mean = (0..channels).map(|at| 0.485 + 100.0 * at as f32).collect();
                let scale = (0..channels).map(|at| 1.0 / (57.0 + at as f32)).collect();
                let recipe = Recipe::try_new(mean, scale, precision).expect("it fits");
                for values in [Values::U8(&bytes), Values::F32(&numbers)] {
                    let mut twin = Vec::new();
                    recipe.run(values, &mut twin);
                    check(&recipe, values, &twin);
                    if let Some((kernel, device)) = &kernel {
                        let answer = kernel.run_copied(device, &recipe, values).expect("the kernel runs");
                        assert!(answer == twin, "{count} values, {channels} channels, {precision:?}");
                    }
                }
            }
        }
    }
}

fn check(recipe: &Recipe, values: Values<'_>, output: &[u8]) {
    assert_eq!(output.len(), values.len() * recipe.precision().bytes());
    if recipe.precision() == Precision::F16 {
        return;
    }
    for (at, bytes) in output.chunks_exact(4).enumerate() {
        let value = match values {
            Values::U8(values) => f64::from(values[at]),
            Values::F32(values) => f64::from(values[at]),
        };
        let channel = at % recipe.mean().len();
        let expected = (value - f64::from(recipe.mean()[channel])) * f64::from(recipe.scale()[channel]);
        let answer = f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        let close = (answer - expected).abs() <= 1e-6 * expected.abs().max(1e-30) || answer == expected;
        // Cancellation near the mean: an error of one unit in the last place of the value itself.
        let close = close || (answer - expected).abs() <= 1e-7 * value.abs().max(1.0);
        assert!(close, "{value}: expected {expected}, got {answer}");
    }
}
