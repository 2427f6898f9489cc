//! What a graph takes and gives.
#![expect(unsafe_code, reason = "whether a shape is known at all is told by the runtime's C interface only")]

use std::ptr;

use ort::AsPointer as _;
use ort::session::Session;
use ort::sys::{OrtSession, OrtStatusPtr, OrtTypeInfo};
use ort::value::{Outlet, TensorElementType, ValueType};
use weft_engine::{DataType, Error, Port, Signature, batching};

use super::value::checked;
use crate::protocol::Load;

const TYPES: [(TensorElementType, DataType); 14] = [
    (TensorElementType::Bool, DataType::Bool),
    (TensorElementType::Uint8, DataType::Uint8),
    (TensorElementType::Uint16, DataType::Uint16),
    (TensorElementType::Uint32, DataType::Uint32),
    (TensorElementType::Uint64, DataType::Uint64),
    (TensorElementType::Int8, DataType::Int8),
    (TensorElementType::Int16, DataType::Int16),
    (TensorElementType::Int32, DataType::Int32),
    (TensorElementType::Int64, DataType::Int64),
    (TensorElementType::Float16, DataType::Fp16),
    (TensorElementType::Bfloat16, DataType::Bf16),
    (TensorElementType::Float32, DataType::Fp32),
    (TensorElementType::Float64, DataType::Fp64),
    (TensorElementType::String, DataType::Bytes),
];

/// The runtime's type for one of the protocol's.
pub(super) fn element_type(datatype: DataType) -> Option<TensorElementType> {
    TYPES.iter().find(|(_, known)| *known == datatype).map(|(element, _)| *element)
}

/// The protocol's type for one of the runtime's.
pub(super) fn datatype(element: TensorElementType) -> Option<DataType> {
    TYPES.iter().find(|(known, _)| *known == element).map(|(_, datatype)| *datatype)
}

/// The session's inputs and outputs as the port has them.
pub(super) fn signature(session: &Session, load: &Load, instances: usize) -> Result<Signature, Error> {
    let signature = Signature {
        platform: "onnxruntime_onnx".to_owned(),
        inputs: ports(session, session.inputs(), ort::api().SessionGetInputTypeInfo)?,
        outputs: ports(session, session.outputs(), ort::api().SessionGetOutputTypeInfo)?,
        max_batch_size: usize::try_from(load.max_batch_size).unwrap_or(usize::MAX),
        concurrency: instances,
    };
    batching::check_axes(&signature)?;
    Ok(signature)
}

/// The runtime's function that describes an input, or an output.
type Describe = unsafe extern "system" fn(*const OrtSession, usize, *mut *mut OrtTypeInfo) -> OrtStatusPtr;

fn ports(session: &Session, outlets: &[Outlet], describe: Describe) -> Result<Vec<Port>, Error> {
    if outlets.len() > batching::MAX_PORTS {
        return Err(Error::Load(format!("the graph has more than {} inputs or outputs", batching::MAX_PORTS)));
    }
    outlets.iter().enumerate().map(|(at, outlet)| port(outlet, has_shape(session, at, describe)?)).collect()
}

fn port(outlet: &Outlet, has_shape: bool) -> Result<Port, Error> {
    let name = outlet.name();
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        return Err(Error::Load(format!("'{name}' is not a tensor")));
    };
    let unknown = || Error::Load(format!("'{name}' has an element type that this engine does not run"));
    let port = Port::new(name, datatype(*ty).ok_or_else(unknown)?, shape);
    Ok(if has_shape { port } else { Port { shape: None, ..port } })
}

/// Whether the graph says anything of a shape; without, the crate shows it as that of a scalar.
fn has_shape(session: &Session, at: usize, describe: Describe) -> Result<bool, Error> {
    let (api, mut info, mut tensor) = (ort::api(), ptr::null_mut(), ptr::null());
    // SAFETY: the session lives, and the runtime writes a description that is ours to release, or refuses the place.
    checked(unsafe { describe(session.ptr(), at, &mut info) })?;
    // SAFETY: the description was just made; what is told of a tensor is a part of it, and null for what is none.
    unsafe {
        let told = checked((api.CastTypeInfoToTensorInfo)(info, &mut tensor));
        let known = told.map(|()| tensor.is_null() || (api.TensorTypeAndShape_HasShape)(tensor));
        (api.ReleaseTypeInfo)(info);
        known
    }
}
