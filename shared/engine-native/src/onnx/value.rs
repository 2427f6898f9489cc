//! The runtime's values, through its C interface: the crate's own can neither stand in foreign memory as outputs nor hold all types.

use std::ffi::c_char;
use std::ptr::{self, NonNull};

use ort::AsPointer as _;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::sys::{ONNXTensorElementDataType as Kind, OrtStatusPtr, OrtTensorTypeAndShapeInfo, OrtValue};
use ort::value::TensorElementType;
use weft_engine::{DataType, Error};

use super::describe::{datatype, element_type};
use crate::protocol::TensorRef;

/// The longest text of the runtime that is handed on.
const MAX_PROBLEM_CHARS: usize = 300;

/// The runtime's verdict on a call.
pub(super) fn checked(status: OrtStatusPtr) -> Result<(), Error> {
    // SAFETY: the runtime returned it, and nobody else has it.
    unsafe { ort::Error::result_from_status(status) }.map_err(|error| Error::Run(presentable(&error.to_string())))
}

/// The runtime's words in one line of bounded length, without the places in its own source that it names.
pub(super) fn presentable(text: &str) -> String {
    let (before, after) = text.split_once("Status Message: ").unwrap_or(("", text));
    // `[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : what is wrong`
    let reason = after
        .rsplit_once("[ONNXRuntimeError] : ")
        .map_or(after, |(_, coded)| coded.splitn(3, " : ").nth(2).unwrap_or(coded));
    let reason = reason.strip_prefix('/').and_then(|path| path.split_once(") ")).map_or(reason, |(_, words)| words);
    let text = [before.trim_start_matches("Non-zero status code returned while running ").trim(), reason].join(" ");
    text.trim().chars().map(|char| if char.is_control() { ' ' } else { char }).take(MAX_PROBLEM_CHARS).collect()
}

/// A tensor of the runtime.
#[derive(Debug)]
pub(super) struct Value(NonNull<OrtValue>);

impl Value {
    /// A tensor in memory of ours.
    ///
    /// # Safety
    /// The memory must be there, and be nobody else's to write, for as long as the value is used.
    pub(super) unsafe fn over(kind: DataType, shape: &[u64], part: *mut u8, length: u64) -> Result<Self, Error> {
        let info = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::CPUOutput);
        let info = info.map_err(|error| Error::Run(presentable(&error.to_string())))?;
        let (shape, kind) = (axes(shape)?, kind_of(kind)?);
        let length = usize::try_from(length).map_err(|_| unfit())?;
        let mut value = ptr::null_mut();
        let create = ort::api().CreateTensorWithDataAsOrtValue;
        // SAFETY: the shape has the length that is told; the runtime copies it, and refuses memory that is too short for it.
        checked(unsafe { create(info.ptr(), part.cast(), length, shape.as_ptr(), shape.len(), kind, &mut value) })?;
        // SAFETY: the runtime has just made it.
        unsafe { Self::owned(value) }.ok_or_else(nothing)
    }

    /// A tensor of texts, each after its length as a 4-byte little-endian number. The runtime keeps copies.
    pub(super) fn of_texts(shape: &[u64], mut texts: &[u8]) -> Result<Self, Error> {
        let axes = axes(shape)?;
        let mut value = ptr::null_mut();
        let (allocator, kind) = (Allocator::default(), kind_of(DataType::Bytes)?);
        let create = ort::api().CreateTensorAsOrtValue;
        // SAFETY: the shape has the length that is told, and the default allocator lives as long as the runtime.
        checked(unsafe { create(allocator.ptr().cast_mut(), axes.as_ptr(), axes.len(), kind, &mut value) })?;
        // SAFETY: the runtime has just made it.
        let value = unsafe { Self::owned(value) }.ok_or_else(nothing)?;
        for at in 0..elements(shape)? {
            let text = next_text(&mut texts).ok_or_else(unfit)?;
            let mut target: *mut c_char = ptr::null_mut();
            let resize = ort::api().GetResizedStringTensorElementBuffer;
            // SAFETY: the index is within the shape; the runtime makes room for the length that is told.
            checked(unsafe { resize(value.0.as_ptr(), at, text.len(), &mut target) })?;
            if !text.is_empty() && !target.is_null() {
                // SAFETY: the runtime has made room for so many bytes there.
                unsafe { ptr::copy_nonoverlapping(text.as_ptr(), target.cast(), text.len()) };
            }
        }
        Ok(value)
    }

    /// Takes over a value of the runtime, if there is one.
    ///
    /// # Safety
    /// It must be one that the runtime made, or null, and nobody else's.
    pub(super) unsafe fn owned(value: *mut OrtValue) -> Option<Self> {
        NonNull::new(value).map(Self)
    }

    /// For the runtime to read.
    pub(super) fn pointer(&self) -> *const OrtValue {
        self.0.as_ptr()
    }

    /// Gives up the value; [`Self::owned`] takes it over again.
    pub(super) fn into_pointer(self) -> *mut OrtValue {
        let value = self.0.as_ptr();
        std::mem::forget(self);
        value
    }

    /// Type, shape and bytes, as the output of this place. It has no offset yet.
    pub(super) fn describe(&self, port: u32) -> Result<TensorRef, Error> {
        let info = Info::of(self)?;
        let kind = datatype(info.element()?).ok_or_else(|| Error::Run("an output has an unknown type".to_owned()))?;
        let shape = info.shape()?;
        let elements = elements(&shape)?;
        let length = match kind.size() {
            Some(size) => elements.checked_mul(size),
            None => elements.checked_mul(4).zip(Some(self.text_bytes(elements)?)).and_then(|(a, b)| a.checked_add(b)),
        };
        let length = length.ok_or_else(unfit)? as u64;
        Ok(TensorRef { port, datatype: kind.as_str().to_owned(), shape, offset: 0, length })
    }

    /// Copies the elements as they cross the wire. The target has the length that [`Self::describe`] told.
    pub(super) fn copy_to(&self, target: &mut [u8]) -> Result<(), Error> {
        if target.is_empty() {
            return Ok(());
        }
        let info = Info::of(self)?;
        if info.element()? == TensorElementType::String {
            return self.copy_texts(elements(&info.shape()?)?, target);
        }
        let mut source = ptr::null_mut();
        // SAFETY: the runtime writes where the elements begin.
        checked(unsafe { (ort::api().GetTensorMutableData)(self.0.as_ptr(), &mut source) })?;
        if source.is_null() {
            return Err(nothing());
        }
        // SAFETY: the tensor has as many bytes as its type and shape say, which is what the target was made for.
        unsafe { ptr::copy_nonoverlapping(source.cast::<u8>(), target.as_mut_ptr(), target.len()) };
        Ok(())
    }

    /// The bytes of all texts, without their lengths.
    fn text_bytes(&self, elements: usize) -> Result<usize, Error> {
        let mut length = 0;
        if elements > 0 {
            // SAFETY: the runtime writes a number, or refuses.
            checked(unsafe { (ort::api().GetStringTensorDataLength)(self.0.as_ptr(), &mut length) })?;
        }
        Ok(length)
    }

    fn copy_texts(&self, elements: usize, target: &mut [u8]) -> Result<(), Error> {
        let mut texts = vec![0u8; self.text_bytes(elements)?];
        let mut starts = vec![0usize; elements];
        let (read, value) = (ort::api().GetStringTensorContent, self.0.as_ptr());
        // SAFETY: both arrays have the lengths that are told.
        checked(unsafe { read(value, texts.as_mut_ptr().cast(), texts.len(), starts.as_mut_ptr(), starts.len()) })?;
        let ends = starts.iter().skip(1).copied().chain([texts.len()]);
        let mut rest = target;
        for (start, end) in starts.iter().copied().zip(ends) {
            let text = texts.get(start..end).ok_or_else(unfit)?;
            let length = u32::try_from(text.len()).map_err(|_| unfit())?;
            let (prefix, later) = rest.split_first_chunk_mut::<4>().ok_or_else(unfit)?;
            *prefix = length.to_le_bytes();
            let (body, later) = later.split_at_mut_checked(text.len()).ok_or_else(unfit)?;
            body.copy_from_slice(text);
            rest = later;
        }
        Ok(())
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nobody uses it any more.
        unsafe { (ort::api().ReleaseValue)(self.0.as_ptr()) };
    }
}

/// A value's type and shape.
struct Info(*mut OrtTensorTypeAndShapeInfo);

impl Info {
    fn of(value: &Value) -> Result<Self, Error> {
        let mut info = ptr::null_mut();
        // SAFETY: the runtime makes a description that is ours, or refuses a value that is no tensor.
        checked(unsafe { (ort::api().GetTensorTypeAndShape)(value.pointer(), &mut info) })?;
        Ok(Self(info))
    }

    fn element(&self) -> Result<TensorElementType, Error> {
        let mut kind = Kind::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
        // SAFETY: the runtime writes one of its types. Graphs whose outputs have others were refused when they were loaded.
        checked(unsafe { (ort::api().GetTensorElementType)(self.0, &mut kind) })?;
        Ok(kind.into())
    }

    fn shape(&self) -> Result<Vec<u64>, Error> {
        let mut count = 0;
        // SAFETY: the runtime writes a number.
        checked(unsafe { (ort::api().GetDimensionsCount)(self.0, &mut count) })?;
        let mut axes = vec![0i64; count];
        // SAFETY: the array has the length that is told.
        checked(unsafe { (ort::api().GetDimensions)(self.0, axes.as_mut_ptr(), axes.len()) })?;
        axes.into_iter().map(u64::try_from).collect::<Result<_, _>>().map_err(|_| unfit())
    }
}

impl Drop for Info {
    fn drop(&mut self) {
        // SAFETY: it is ours.
        unsafe { (ort::api().ReleaseTensorTypeAndShapeInfo)(self.0) };
    }
}

fn kind_of(datatype: DataType) -> Result<Kind, Error> {
    element_type(datatype).map(Kind::from).ok_or_else(nothing)
}

fn axes(shape: &[u64]) -> Result<Vec<i64>, Error> {
    shape.iter().map(|axis| i64::try_from(*axis)).collect::<Result<_, _>>().map_err(|_| unfit())
}

fn elements(shape: &[u64]) -> Result<usize, Error> {
    let elements = shape.iter().try_fold(1u64, |product, axis| product.checked_mul(*axis));
    elements.and_then(|elements| usize::try_from(elements).ok()).ok_or_else(unfit)
}

/// The next text; what comes after it is left.
fn next_text<'a>(texts: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (prefix, rest) = texts.split_first_chunk::<4>()?;
    let (text, rest) = rest.split_at_checked(u32::from_le_bytes(*prefix) as usize)?;
    *texts = rest;
    Some(text)
}

fn unfit() -> Error {
    Error::Run("a tensor's sizes do not fit together".to_owned())
}

fn nothing() -> Error {
    Error::Run("the runtime made nothing".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtimes_words_are_shown_without_its_paths() {
        let long = "Non-zero status code returned while running NonZero node. Name:'make Y' Status Message: /src/core/op_kernel.cc:87 \
                    virtual OrtValue* OpKernelContext::OutputMLValue(int, const TensorShape&) [ONNXRuntimeError] : 2 : INVALID_ARGUMENT : The output is odd\n";
        assert_eq!(presentable(long), "NonZero node. Name:'make Y' The output is odd");
        let gather = "Non-zero status code returned while running Gather node. Name:'pick' Status Message: indices element out of data bounds";
        assert_eq!(presentable(gather), "Gather node. Name:'pick' indices element out of data bounds");
        assert_eq!(presentable("Protobuf parsing failed."), "Protobuf parsing failed.");
        assert_eq!(presentable(&"x".repeat(999)).len(), MAX_PROBLEM_CHARS);
    }
}
