//! Rollouts as gRPC has them: conversion, no decisions.

use tonic::{Request, Response, Status, async_trait};
use weft_proto::weft::control::v1::rollouts_server::Rollouts;
use weft_proto::weft::control::v1::*;
use weft_runtime::CallExt as _;

use super::{Surface, answer};

#[async_trait]
impl Rollouts for Surface {
    async fn start_rollout(
        &self,
        request: Request<StartRolloutRequest>,
    ) -> Result<Response<StartRolloutResponse>, Status> {
        let deadline = request.call().deadline;
        let outcome = self.0.start_rollout(request.into_inner(), deadline).await;
        answer(outcome, |rollout| StartRolloutResponse { rollout: Some(rollout) })
    }

    async fn get_rollout(&self, request: Request<GetRolloutRequest>) -> Result<Response<GetRolloutResponse>, Status> {
        let outcome = self.0.get_rollout(&request.get_ref().model);
        answer(outcome, |rollout| GetRolloutResponse { rollout: Some(rollout) })
    }

    async fn list_rollouts(&self, _: Request<ListRolloutsRequest>) -> Result<Response<ListRolloutsResponse>, Status> {
        answer(self.0.list_rollouts(), |rollouts| ListRolloutsResponse { rollouts })
    }

    async fn pause_rollout(
        &self,
        request: Request<PauseRolloutRequest>,
    ) -> Result<Response<PauseRolloutResponse>, Status> {
        let deadline = request.call().deadline;
        let outcome = self.0.steer_rollout(&request.get_ref().model, RolloutIntent::Pause, deadline).await;
        answer(outcome, |rollout| PauseRolloutResponse { rollout: Some(rollout) })
    }

    async fn resume_rollout(
        &self,
        request: Request<ResumeRolloutRequest>,
    ) -> Result<Response<ResumeRolloutResponse>, Status> {
        let deadline = request.call().deadline;
        let outcome = self.0.steer_rollout(&request.get_ref().model, RolloutIntent::Unspecified, deadline).await;
        answer(outcome, |rollout| ResumeRolloutResponse { rollout: Some(rollout) })
    }

    async fn promote_rollout(
        &self,
        request: Request<PromoteRolloutRequest>,
    ) -> Result<Response<PromoteRolloutResponse>, Status> {
        let deadline = request.call().deadline;
        let outcome = self.0.steer_rollout(&request.get_ref().model, RolloutIntent::Promote, deadline).await;
        answer(outcome, |rollout| PromoteRolloutResponse { rollout: Some(rollout) })
    }

    async fn abort_rollout(
        &self,
        request: Request<AbortRolloutRequest>,
    ) -> Result<Response<AbortRolloutResponse>, Status> {
        let deadline = request.call().deadline;
        let outcome = self.0.steer_rollout(&request.get_ref().model, RolloutIntent::Abort, deadline).await;
        answer(outcome, |rollout| AbortRolloutResponse { rollout: Some(rollout) })
    }

    async fn undo_rollout(
        &self,
        request: Request<UndoRolloutRequest>,
    ) -> Result<Response<UndoRolloutResponse>, Status> {
        let deadline = request.call().deadline;
        let outcome = self.0.undo_rollout(&request.get_ref().model, deadline).await;
        answer(outcome, |rollout| UndoRolloutResponse { rollout: Some(rollout) })
    }

    async fn delete_rollout(
        &self,
        request: Request<DeleteRolloutRequest>,
    ) -> Result<Response<DeleteRolloutResponse>, Status> {
        let deadline = request.call().deadline;
        let outcome = self.0.delete_rollout(&request.get_ref().model, deadline).await;
        answer(outcome, |()| DeleteRolloutResponse {})
    }
}
