//! The messages of `weft.example.v1`, as `tests/proto` declares them; a test calls the service by its descriptors, so that they agree.

/// See the contract.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PublishRequest {
    /// At most 1 KiB.
    #[prost(string, tag = "1")]
    pub text: String,
}

/// See the contract.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PublishResponse {
    /// From 1.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// As it was published.
    #[prost(string, tag = "2")]
    pub text: String,
}

/// A request of an undo or a probe, or the answer to a plan or about held calls.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Empty {}

/// See the contract.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct RetractResponse {
    /// Whether there was an entry.
    #[prost(bool, optional, tag = "1")]
    pub retracted: Option<bool>,
}

/// See the contract.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ProbeResponse {
    /// Whether there is an entry.
    #[prost(bool, optional, tag = "1")]
    pub done: Option<bool>,
    /// Where there is.
    #[prost(message, optional, tag = "2")]
    pub output: Option<PublishResponse>,
}

/// How a call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum FaultKind {
    /// Refused.
    Unspecified = 0,
    /// No effect, and it is known.
    Refuse = 1,
    /// Nothing until the caller gives up.
    Hang = 2,
    /// The process ends before the effect.
    CrashBefore = 3,
    /// The process ends after the effect.
    CrashAfter = 4,
    /// The effect, and UNAVAILABLE.
    Unknown = 5,
    /// No effect, and UNAVAILABLE.
    Unavailable = 6,
    /// It stands still before the effect.
    HoldBefore = 7,
    /// It stands still after the effect.
    HoldAfter = 8,
    /// A probe's answer that tells nothing.
    Silent = 9,
}

/// See the contract.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Fault {
    /// Empty means every step.
    #[prost(string, tag = "1")]
    pub step: String,
    /// `action`, `undo` or `probe`.
    #[prost(string, tag = "2")]
    pub direction: String,
    /// How.
    #[prost(enumeration = "FaultKind", tag = "3")]
    pub kind: i32,
    /// 0 means one.
    #[prost(uint32, tag = "4")]
    pub times: u32,
}

/// See the contract.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PlanRequest {
    /// At most 1,024.
    #[prost(message, repeated, tag = "1")]
    pub faults: Vec<Fault>,
}

/// See the contract.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct AccountRequest {
    /// Of keys.
    #[prost(string, tag = "1")]
    pub prefix: String,
    /// Adds every effect.
    #[prost(bool, tag = "2")]
    pub effects: bool,
}

/// See the contract.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AccountResponse {
    /// Calls of jobs.
    #[prost(uint64, tag = "1")]
    pub deliveries: u64,
    /// Entries that were published.
    #[prost(uint64, tag = "2")]
    pub actions: u64,
    /// Entries that were retracted.
    #[prost(uint64, tag = "3")]
    pub undos: u64,
    /// In their order, where they were asked for.
    #[prost(message, repeated, tag = "4")]
    pub effects: Vec<Effect>,
    /// In no order.
    #[prost(message, repeated, tag = "5")]
    pub fired: Vec<Fired>,
}

/// See the contract.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Fired {
    /// The call's idempotency key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// As in the plan.
    #[prost(string, tag = "2")]
    pub direction: String,
    /// As in the plan.
    #[prost(enumeration = "FaultKind", tag = "3")]
    pub kind: i32,
    /// How many calls.
    #[prost(uint32, tag = "4")]
    pub times: u32,
}

/// See the contract.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct HeldRequest {
    /// How many.
    #[prost(uint32, tag = "1")]
    pub calls: u32,
}

/// See the contract.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Effect {
    /// The call's idempotency key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// `action` or `undo`.
    #[prost(string, tag = "2")]
    pub direction: String,
    /// Of the call.
    #[prost(uint32, tag = "3")]
    pub attempt: u32,
    /// Of the call.
    #[prost(uint64, tag = "4")]
    pub epoch: u64,
}
