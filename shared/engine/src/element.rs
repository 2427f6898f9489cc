//! Elements in and out of a tensor's bytes, which need not be aligned.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{DataType, Tensor};

/// A fixed-size element with its little-endian form on the wire.
pub trait Element: Copy {
    /// The protocol's type.
    const DATATYPE: DataType;

    /// Reads one from exactly its size; `None` from any other length.
    fn read(bytes: &[u8]) -> Option<Self>;

    /// Appends its bytes.
    fn write(self, buffer: &mut BytesMut);
}

macro_rules! element {
    ($type:ty, $datatype:ident) => {
        impl Element for $type {
            const DATATYPE: DataType = DataType::$datatype;

            fn read(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(<$type>::from_le_bytes)
            }

            fn write(self, buffer: &mut BytesMut) {
                buffer.put_slice(&self.to_le_bytes());
            }
        }
    };
}

element!(u8, Uint8);
element!(u16, Uint16);
element!(u32, Uint32);
element!(u64, Uint64);
element!(i8, Int8);
element!(i16, Int16);
element!(i32, Int32);
element!(i64, Int64);
element!(f32, Fp32);
element!(f64, Fp64);

impl Tensor {
    /// A tensor of these elements. The caller answers for the shape: [`crate::Signature::check`] refuses a wrong one.
    pub fn of<T: Element>(name: impl Into<String>, shape: &[usize], elements: &[T]) -> Self {
        let mut data = BytesMut::with_capacity(std::mem::size_of_val(elements));
        for element in elements {
            element.write(&mut data);
        }
        Self { name: name.into(), datatype: T::DATATYPE, shape: shape.to_vec(), data: data.freeze() }
    }

    /// A `BYTES` tensor of one axis. A text longer than the 4-byte length can say is cut there.
    pub fn of_bytes<T: AsRef<[u8]>>(name: impl Into<String>, elements: &[T]) -> Self {
        let mut data = BytesMut::new();
        for element in elements {
            let element = element.as_ref();
            let length = u32::try_from(element.len()).unwrap_or(u32::MAX);
            data.put_u32_le(length);
            data.put_slice(element.get(..length as usize).unwrap_or(element));
        }
        Self { name: name.into(), datatype: DataType::Bytes, shape: vec![elements.len()], data: data.freeze() }
    }

    /// The elements, or `None` when the tensor is of another type.
    pub fn elements<T: Element>(&self) -> Option<impl Iterator<Item = T>> {
        let size = T::DATATYPE.size().filter(|_| self.datatype == T::DATATYPE)?;
        Some(self.data.chunks_exact(size).filter_map(T::read))
    }

    /// The elements of a `BYTES` tensor, each a view; `None` when the tensor is of another type or a length prefix lies.
    pub fn bytes_elements(&self) -> Option<Vec<Bytes>> {
        if self.datatype != DataType::Bytes {
            return None;
        }
        let mut elements = Vec::new();
        let mut at = 0;
        while at < self.data.len() {
            let end = element_end(&self.data, at)?;
            elements.push(self.data.slice(at + 4..end));
            at = end;
        }
        Some(elements)
    }
}

/// How many elements the length prefixes count; `None` when one reaches beyond the end. Nothing is allocated.
pub(crate) fn count_bytes_elements(data: &[u8]) -> Option<usize> {
    let (mut at, mut count) = (0, 0);
    while at < data.len() {
        at = element_end(data, at)?;
        count += 1;
    }
    Some(count)
}

/// Where the element that starts at `at` ends.
fn element_end(data: &[u8], at: usize) -> Option<usize> {
    let prefix = data.get(at..at.checked_add(4)?)?;
    let length = usize::try_from(u32::read(prefix)?).ok()?;
    at.checked_add(4)?.checked_add(length).filter(|end| *end <= data.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_elements_that_are_not_aligned() {
        let aligned = Tensor::of("X", &[3], &[1.5f32, -2.0, 3.25]);
        for shift in 0..8 {
            let mut moved = vec![0xFF; shift];
            moved.extend_from_slice(&aligned.data);
            let tensor = Tensor { data: Bytes::from(moved).slice(shift..), ..aligned.clone() };
            assert_eq!(tensor.elements::<f32>().unwrap().collect::<Vec<_>>(), [1.5, -2.0, 3.25]);
            assert!(tensor.elements::<i32>().is_none(), "read as another type");
        }
    }

    #[test]
    fn bytes_elements_are_views() {
        let tensor = Tensor::of_bytes("X", &["one", "", "three"]);
        let elements = tensor.bytes_elements().unwrap();
        assert_eq!(elements, ["one", "", "three"]);
        assert_eq!(elements[0].as_ptr(), tensor.data[4..].as_ptr());
        assert_eq!(count_bytes_elements(&tensor.data), Some(3));
    }

    #[test]
    fn a_lying_length_is_found() {
        for bad in [&[1u8, 0, 0][..], &[2, 0, 0, 0, 7], &[0xFF, 0xFF, 0xFF, 0xFF, 1], &[0, 0, 0, 0, 9]] {
            assert_eq!(count_bytes_elements(bad), None, "{bad:?}");
            let tensor = Tensor { data: Bytes::copy_from_slice(bad), ..Tensor::of_bytes::<&str>("X", &[]) };
            assert!(tensor.bytes_elements().is_none(), "{bad:?}");
        }
    }
}
