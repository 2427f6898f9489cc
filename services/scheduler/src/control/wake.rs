//! A call waits for a model without a replica: told to whoever leads.

use std::sync::{Mutex, PoisonError};

use weft_client::{Channel, ChannelOptions, outgoing, within};
use weft_proto::error_of;
use weft_proto::weft::scheduler::v1::WakeModelRequest;
use weft_proto::weft::scheduler::v1::scheduler_client::SchedulerClient;
use weft_runtime::{Call, Tasks};
use weft_types::{Error, Reason, Result, SystemClock};

use super::{check, unknown};
use crate::Inner;

/// The way to the leader, kept while that is the same.
#[derive(Default)]
pub(crate) struct ToLeader(Mutex<Option<Channel>>);

impl ToLeader {
    fn channel(&self, address: &str, tasks: &Tasks) -> Result<Channel> {
        // It is replaced whole.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = kept.as_ref().filter(|channel| channel.address() == address) {
            return Ok(channel.clone());
        }
        let options = ChannelOptions { connections: 1, ..ChannelOptions::default() };
        let channel = Channel::new(address, options, tasks)?;
        *kept = Some(channel.clone());
        Ok(channel)
    }
}

impl Inner {
    /// Sees to it that a model which follows demand has a replica. Another model has what was asked for, and nothing changes.
    pub(crate) async fn wake_model(&self, request: WakeModelRequest, call: &Call) -> Result<()> {
        let name = check::name("model", &request.model)?;
        let snapshot = self.snapshot()?;
        if self.epoch().is_none() {
            let leader = snapshot.leader.as_ref().filter(|_| !request.passed_on);
            let leader =
                leader.map(|record| record.value.address.as_str()).filter(|address| *address != self.options.address);
            let leader =
                leader.ok_or_else(|| Error::new(Reason::NoReadyReplica, "no scheduler leads at the moment"))?;
            return self.pass_on(leader, request, call).await;
        }
        let record = snapshot.models.get(&name).ok_or_else(|| unknown("desired state of model", &name))?;
        if record.value.autoscaling.is_some() {
            self.scaling.wake(name, SystemClock::now());
        }
        Ok(())
    }

    async fn pass_on(&self, leader: &str, request: WakeModelRequest, call: &Call) -> Result<()> {
        let channel = self.to_leader.channel(leader, &self.tasks)?;
        let span = self.scope.start_client("weft.scheduler.v1.Scheduler/WakeModel", Some(&call.trace));
        let request = outgoing(WakeModelRequest { passed_on: true, ..request }, call.deadline, span.context())?;
        let woken = within(call.deadline, SchedulerClient::new(channel).wake_model(request)).await;
        woken.map(drop).map_err(|status| {
            // Its words are a scheduler's, for a caller of a scheduler.
            let error = error_of(&status);
            tracing::debug!(leader, %error, "the leader was not reached");
            error
        })
    }
}
