//! The embedded classifier of handwritten digits, and the images kept out of its training.
//!
//! `models/digits/train.py` makes both files; its README tells their formats.

/// The ONNX file: `PIXELS` FP32 `[-1, 64]`, each 0 to 16, gives `PROBABILITIES` FP32 `[-1, 10]` and `LABEL` INT64 `[-1]`.
pub const MODEL: &[u8] = include_bytes!("../models/digits/model.onnx");

/// The rows that one execution of the model takes.
pub const MAX_BATCH_SIZE: usize = 64;

const HELDOUT: &[u8] = include_bytes!("../models/digits/heldout.bin");
const PIXELS: usize = 64;

/// An image that the model was not trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heldout {
    /// 8 rows of 8 pixels, 0 to 16.
    pub pixels: [u8; PIXELS],
    /// The digit that was written.
    pub label: u8,
    /// What the Python reference answered for the same model file.
    pub reference: u8,
}

impl Heldout {
    /// The pixels as the model takes them.
    pub fn input(&self) -> [f32; PIXELS] {
        self.pixels.map(f32::from)
    }
}

/// The 360 held-out images, in the file's order.
pub fn heldout() -> impl ExactSizeIterator<Item = Heldout> {
    let (records, _) = HELDOUT.as_chunks::<{ PIXELS + 2 }>();
    records.iter().map(|record| {
        let mut pixels = [0; PIXELS];
        pixels.copy_from_slice(&record[..PIXELS]);
        Heldout { pixels, label: record[PIXELS], reference: record[PIXELS + 1] }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_held_out_images_are_whole() {
        assert_eq!(heldout().len(), 360);
        assert_eq!(HELDOUT.len(), 360 * (PIXELS + 2));
        for image in heldout() {
            assert!(
                image.pixels.iter().all(|pixel| *pixel <= 16) && image.label < 10 && image.reference < 10,
                "{image:?}"
            );
        }
        let right = heldout().filter(|image| image.label == image.reference).count();
        assert!(right * 100 >= 360 * 97, "the reference itself gets only {right} of 360 right");
    }
}
