//! Contracts: the generated code, the descriptor set that reflection serves, and the crossing between wire and domain.

pub mod codec;
pub mod frame;
pub mod message;
pub mod orca;
mod status;
mod time;

pub use status::{DOMAIN, PUSHBACK, code_in, drop_unreadable_details, error_of, forbids_retry, status_of};
pub use time::{duration, from_duration, from_timestamp, timestamp};

/// The encoded `google.protobuf.FileDescriptorSet` of every contract, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("gen/descriptors.bin");

#[expect(
    missing_docs,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated from the contracts, which are the place for prose"
)]
#[path = "gen/tree.rs"]
mod generated;

pub use generated::{inference, weft};

/// The standard health protocol, with `List`.
pub use generated::grpc::health::v1 as health;

#[expect(
    unreachable_pub,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::default_constructed_unit_structs,
    reason = "generated; named for use just below"
)]
mod raw_generated {
    include!("gen/raw/inference.GRPCInferenceService.rs");
}

/// The inference service with `ModelInfer` and `ModelStreamInfer` over whole, undecoded messages.
pub mod raw {
    pub use crate::raw_generated::g_r_p_c_inference_service_client::GRPCInferenceServiceClient as InferenceClient;
    pub use crate::raw_generated::g_r_p_c_inference_service_server::GRPCInferenceService as Inference;
    pub use crate::raw_generated::g_r_p_c_inference_service_server::GRPCInferenceServiceServer as InferenceServer;
}
