//! Connections to those that jobs call, and calls on them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::uri::PathAndQuery;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use weft_client::{Channel, ChannelOptions, prepare, unary_up_to, within};
use weft_proto::message::Message;
use weft_proto::status_of;
use weft_runtime::Tasks;
use weft_telemetry::TraceContext;
use weft_types::{Deadline, Error, Result, SystemClock};

/// Addresses to which connections are kept. Beyond, those that were not used for longest are let go of.
const MAX_CHANNELS: usize = 64;
/// Foreign servers take pings that come more often than every five minutes for an attack (gRFC A8).
const FOREIGN_PINGS: Duration = Duration::from_secs(600);

/// Channels by address.
pub(super) struct Channels {
    options: ChannelOptions,
    tasks: Tasks,
    /// Held for a look, never across an await.
    kept: Mutex<Kept>,
}

/// Channels by address, each with when it was last used, counted in uses.
#[derive(Default)]
struct Kept {
    uses: u64,
    channels: BTreeMap<String, (u64, Channel)>,
}

/// What a call is: where to, with what, until when, and beneath which span.
pub(super) struct Exchange<'a> {
    pub(super) path: PathAndQuery,
    pub(super) headers: HeaderMap,
    pub(super) message: Bytes,
    pub(super) deadline: Deadline,
    pub(super) trace: &'a TraceContext,
    /// Bytes of the answer.
    pub(super) longest: usize,
}

impl Channels {
    /// For routers.
    pub(super) fn of_mesh(tasks: Tasks) -> Self {
        Self::new(ChannelOptions { connections: 1, ..ChannelOptions::default() }, tasks)
    }

    /// For services outside the mesh.
    pub(super) fn outside(tasks: Tasks) -> Self {
        let options = ChannelOptions {
            connections: 1,
            connect_timeout: Duration::from_secs(5),
            keepalive_interval: FOREIGN_PINGS,
            keepalive_timeout: Duration::from_secs(20),
            silence_limit: FOREIGN_PINGS,
        };
        Self::new(options, tasks)
    }

    fn new(options: ChannelOptions, tasks: Tasks) -> Self {
        Self { options, tasks, kept: Mutex::default() }
    }

    /// The channel to an address.
    pub(super) fn to(&self, address: &str) -> Result<Channel> {
        // A map of channels is whole at any point: a panic elsewhere cannot have left it half changed.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.uses += 1;
        let now = kept.uses;
        if let Some((used, channel)) = kept.channels.get_mut(address) {
            *used = now;
            return Ok(channel.clone());
        }
        if kept.channels.len() >= MAX_CHANNELS {
            let oldest = kept.channels.iter().min_by_key(|(_, (used, _))| *used).map(|(address, _)| address.clone());
            // Calls that are under way on it hold it open.
            oldest.and_then(|address| kept.channels.remove(&address));
        }
        let channel = Channel::new(address, self.options.clone(), &self.tasks)?;
        kept.channels.insert(address.to_owned(), (now, channel.clone()));
        Ok(channel)
    }
}

/// Makes a unary call.
pub(super) async fn exchange(channel: &Channel, exchange: Exchange<'_>) -> Result<Response<Bytes>, Status> {
    let Exchange { path, mut headers, message, deadline, trace, longest } = exchange;
    prepare(&mut headers, deadline, trace, SystemClock::now()).map_err(|error| status_of(&error))?;
    let mut request = Request::new(Message::of(message));
    *request.metadata_mut() = MetadataMap::from_headers(headers);
    let answer = within(deadline, unary_up_to(channel, path, request, longest)).await?;
    Ok(answer.map(Message::into_payload))
}

/// The path of a method.
pub(super) fn path(service: &str, method: &str) -> Result<PathAndQuery, Status> {
    let path = format!("/{service}/{method}").parse();
    path.map_err(|_| status_of(&Error::invalid("method", "must be package.Service/Method")))
}
