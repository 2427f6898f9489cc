//! Metadata, configuration and statistics of models, asked of the workers that hold them.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use tonic::{Response, Status};
use weft_client::{Channel, outgoing, within};
use weft_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use weft_proto::inference::*;
use weft_proto::status_of;
use weft_runtime::Call;
use weft_types::{Error, Reason, Result, SystemClock};

use crate::Router;
use crate::choose::choose;
use crate::dispatch::Chosen;
use crate::identify::names;
use crate::route::{Routed, route};
use crate::rules::Marks;

type Client = GrpcInferenceServiceClient<Channel>;

impl Router {
    pub(crate) async fn model_metadata_of(
        &self,
        call: &Call,
        mut request: ModelMetadataRequest,
    ) -> Result<ModelMetadataResponse, Status> {
        let chosen = self.ready(&request.name, &request.version)?;
        (request.name, request.version) = chosen.names();
        let request = outgoing(request, call.deadline, &call.trace).map_err(|error| status_of(&error))?;
        within(call.deadline, self.client(&chosen).model_metadata(request)).await.map(Response::into_inner)
    }

    pub(crate) async fn model_config_of(
        &self,
        call: &Call,
        mut request: ModelConfigRequest,
    ) -> Result<ModelConfigResponse, Status> {
        let chosen = self.ready(&request.name, &request.version)?;
        (request.name, request.version) = chosen.names();
        let request = outgoing(request, call.deadline, &call.trace).map_err(|error| status_of(&error))?;
        within(call.deadline, self.client(&chosen).model_config(request)).await.map(Response::into_inner)
    }

    /// The figures of one model, or of all, added up over the workers.
    pub(crate) async fn model_statistics_of(
        &self,
        call: &Call,
        mut request: ModelStatisticsRequest,
    ) -> Result<ModelStatisticsResponse, Status> {
        if !request.name.is_empty() {
            let chosen = self.ready(&request.name, &request.version)?;
            request.name = chosen.model;
        }
        let table = self.inner.table.load();
        let channels: Vec<Channel> = table.hosts.values().map(|host| host.endpoint.channel.clone()).collect();
        let asked = channels.into_iter().map(|channel| {
            let outgoing = outgoing(request.clone(), call.deadline, &call.trace);
            async move {
                let mut client = Client::new(channel);
                let request = outgoing.map_err(|error| status_of(&error))?;
                within(call.deadline, client.model_statistics(request)).await.map(Response::into_inner)
            }
        });
        // A worker that does not hold the model says so, and one that has just gone has no figures: neither spoils the rest.
        let told = join_all(asked).await.into_iter().flatten().flat_map(|told| told.model_stats);
        let mut merged: BTreeMap<(String, String), ModelStatistics> = BTreeMap::new();
        for statistics in told {
            match merged.entry((statistics.name.clone(), statistics.version.clone())) {
                std::collections::btree_map::Entry::Vacant(entry) => drop(entry.insert(statistics)),
                std::collections::btree_map::Entry::Occupied(mut entry) => add(entry.get_mut(), statistics),
            }
        }
        Ok(ModelStatisticsResponse { model_stats: merged.into_values().collect() })
    }

    /// A replica that is ready now: questions about a model do not wait for it to load.
    fn ready(&self, name: &str, version: &str) -> Result<Chosen, Status> {
        let draw = || -> Result<Chosen> {
            let (name, version) = names(name, version)?;
            let table = self.inner.table.load();
            if let Routed::Ready(target) = route(&table, name.as_str(), version, &Marks::default(), SystemClock::now())?
                && let Some(permit) = choose(&target.ready.replicas, &[], None)
            {
                return Ok(Chosen::of(target, permit));
            }
            Err(Error::new(Reason::NoReadyReplica, format!("model '{name}' is not ready")))
        };
        draw().map_err(|error| status_of(&error))
    }

    fn client(&self, chosen: &Chosen) -> Client {
        Client::new(chosen.permit.endpoint().channel.clone())
    }
}

fn add(sum: &mut ModelStatistics, other: ModelStatistics) {
    sum.last_inference = sum.last_inference.max(other.last_inference);
    sum.inference_count += other.inference_count;
    sum.execution_count += other.execution_count;
    if let (Some(sum), Some(other)) = (&mut sum.inference_stats, &other.inference_stats) {
        let pairs = [
            (&mut sum.success, &other.success),
            (&mut sum.fail, &other.fail),
            (&mut sum.queue, &other.queue),
            (&mut sum.compute_input, &other.compute_input),
            (&mut sum.compute_infer, &other.compute_infer),
            (&mut sum.compute_output, &other.compute_output),
        ];
        pairs.into_iter().for_each(|(sum, other)| add_duration(sum, other.as_ref()));
    }
    for batch in other.batch_stats {
        match sum.batch_stats.iter_mut().find(|known| known.batch_size == batch.batch_size) {
            Some(known) => {
                add_duration(&mut known.compute_input, batch.compute_input.as_ref());
                add_duration(&mut known.compute_infer, batch.compute_infer.as_ref());
                add_duration(&mut known.compute_output, batch.compute_output.as_ref());
            }
            None => sum.batch_stats.push(batch),
        }
    }
}

fn add_duration(sum: &mut Option<StatisticDuration>, other: Option<&StatisticDuration>) {
    if let Some(other) = other {
        let sum = sum.get_or_insert_default();
        sum.count += other.count;
        sum.ns += other.ns;
    }
}
