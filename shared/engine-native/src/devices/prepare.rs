//! From what sensors and decoders give to what models take: `(x - mean) * scale` per channel, to 32 or 16 bits.

/// Values as they come, channel by channel for each point (`red green blue red ...`).
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// Bytes, 0 to 255.
    U8(&'a [u8]),
    /// Numbers.
    F32(&'a [f32]),
}

/// What comes out, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits.
    F32,
    /// 16 bits (IEEE 754 half), rounded to the nearest, to even where two are as near.
    F16,
}

impl Precision {
    /// Bytes of a value.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

/// What is done to each channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    mean: Vec<f32>,
    scale: Vec<f32>,
    precision: Precision,
}

impl Recipe {
    /// One mean and one scale for each channel: as many of the one as of the other, and at least one.
    pub fn try_new(mean: Vec<f32>, scale: Vec<f32>, precision: Precision) -> Result<Self, String> {
        let fits = !mean.is_empty() && mean.len() == scale.len() && u32::try_from(mean.len()).is_ok();
        if fits { Ok(Self { mean, scale, precision }) } else { Err("mean and scale differ in number".to_owned()) }
    }

    /// By channel.
    pub fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// By channel.
    pub fn scale(&self) -> &[f32] {
        &self.scale
    }

    /// What comes out.
    pub const fn precision(&self) -> Precision {
        self.precision
    }

    /// Does it on this thread; `output` is made to fit.
    pub fn run(&self, values: Values<'_>, output: &mut Vec<u8>) {
        output.clear();
        match values {
            Values::U8(values) => self.write(values.iter().map(|value| f32::from(*value)), output),
            Values::F32(values) => self.write(values.iter().copied(), output),
        }
    }

    fn write(&self, values: impl ExactSizeIterator<Item = f32>, output: &mut Vec<u8>) {
        output.reserve(values.len() * self.precision.bytes());
        let channels = self.mean.iter().zip(&self.scale).cycle();
        let prepared = values.zip(channels).map(|(value, (mean, scale))| (value - mean) * scale);
        match self.precision {
            Precision::F32 => prepared.for_each(|value| output.extend(value.to_le_bytes())),
            Precision::F16 => prepared.for_each(|value| output.extend(half(value).to_le_bytes())),
        }
    }
}

impl Values<'_> {
    /// How many there are.
    pub const fn len(&self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::F32(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The nearest half-precision number, as its bits. A NaN stays one; its other bits are not kept.
const fn half(value: f32) -> u16 {
    let bits = value.to_bits();
    let (sign, exponent, fraction) = ((bits >> 16) as u16 & 0x8000, (bits >> 23 & 0xff) as i32, bits & 0x7f_ffff);
    if exponent == 0xff {
        return sign | if fraction == 0 { 0x7c00 } else { 0x7fff };
    }
    // The exponent of half precision, whose bias is 15.
    let exponent = exponent - 127 + 15;
    if exponent >= 31 {
        return sign | 0x7c00;
    }
    if exponent < -10 {
        return sign;
    }
    // Numbers too small for an exponent of their own lose as many digits as that takes.
    let (fraction, shift, exponent) =
        if exponent <= 0 { (fraction | 0x80_0000, 14 - exponent, 0) } else { (fraction, 13, exponent as u32) };
    let (kept, rest, middle) = (fraction >> shift, fraction & ((1 << shift) - 1), 1 << (shift - 1));
    let up = rest > middle || (rest == middle && kept & 1 == 1);
    // A carry goes into the exponent, up to infinity, which is what rounding means there.
    sign | ((exponent << 10) + kept + up as u32) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of a half-precision number, by its definition.
    fn value(bits: u16) -> f64 {
        let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
        let size = match exponent {
            0 => fraction * 2f64.powi(-24),
            31 if bits & 0x3ff == 0 => f64::INFINITY,
            31 => f64::NAN,
            _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
        };
        if bits & 0x8000 == 0 { size } else { -size }
    }

    #[test]
    fn every_half_is_itself() {
        for bits in 0..=u16::MAX {
            let exact = value(bits);
            if exact.is_nan() {
                assert!(value(half(exact as f32)).is_nan());
            } else {
                assert_eq!(half(exact as f32), bits, "{exact}");
            }
        }
    }

    #[test]
    fn what_lies_between_goes_to_the_nearest_and_then_to_even() {
        for bits in 0..0x7bffu16 {
            let (low, high) = (value(bits), value(bits + 1));
            let middle = (low + high) / 2.0;
            let even = if bits & 1 == 0 { bits } else { bits + 1 };
            assert_eq!(half(middle as f32), even, "{middle}");
            assert_eq!(half((middle as f32).next_up()), bits + 1);
            assert_eq!(half((middle as f32).next_down()), bits);
        }
        assert_eq!(half(65_519.0), 0x7bff);
        assert_eq!(half(65_520.0), 0x7c00);
        assert_eq!(half(f32::MAX), 0x7c00);
        assert_eq!(half(f32::MIN_POSITIVE), 0);
        assert_eq!(half(-0.0), 0x8000);
        assert_eq!(half(2f32.powi(-25)), 0);
        assert_eq!(half(2f32.powi(-25).next_up()), 1);
    }

    #[test]
    fn each_channel_has_its_own_mean_and_scale() {
        let recipe = Recipe::try_new(vec![1.0, 100.0], vec![2.0, 0.5], Precision::F32).unwrap();
        let mut output = vec![9; 3];
        recipe.run(Values::U8(&[0, 255, 3, 0]), &mut output);
        let expected: Vec<u8> = [-2f32, 77.5, 4.0, -50.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(output, expected);
        assert!(Recipe::try_new(vec![], vec![], Precision::F32).is_err());
        assert!(Recipe::try_new(vec![1.0], vec![1.0, 2.0], Precision::F16).is_err());
    }
}
