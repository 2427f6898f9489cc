//! Desired state, as operators apply it.

use std::time::Duration;

use anyhow::Result;
use tonic::Code;
use weft_proto::error_of;
use weft_proto::weft::control::v1::models_client::ModelsClient;
use weft_proto::weft::control::v1::routes_client::RoutesClient;
use weft_proto::weft::control::v1::{ApplyModelRequest, ApplyRouteRequest, GetModelRequest, Model, Route, RouteTarget};
use weft_tests::calls::{beside, identity, until};
use weft_tests::mesh::Mesh;

const LIMIT: Duration = Duration::from_secs(20);

fn target(model: &str, weight: u32) -> RouteTarget {
    RouteTarget { model: model.into(), weight, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_leads_to_its_targets_by_weight() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    for model in ["identity", "fail"] {
        caller.wait_ready(model).await?;
    }
    let mut routes = RoutesClient::new(caller.channel.clone());
    let mut apply = async |targets: Vec<RouteTarget>| {
        let route = Some(Route { name: "public".into(), targets, ..Default::default() });
        routes.apply_route(ApplyRouteRequest { route }).await
    };
    apply(vec![target("identity", 1), target("fail", 0)]).await?;
    let mut request = identity(4);
    request.model_name = "public".into();
    until("the route", async || caller.infer(request.clone(), LIMIT).await.is_ok()).await?;
    for _ in 0..20 {
        assert_eq!(caller.infer(request.clone(), LIMIT).await?.into_inner().model_name, "identity");
    }
    let refused = apply(vec![target("identity", 1), target("../x", 1)]).await.expect_err("a bad name");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(error_of(&refused).field(), Some("route.targets[1].model"), "{refused}");
    mesh.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_to_a_model_that_is_coming_is_held_until_it_is_ready() -> Result<()> {
    let mesh = Mesh::start(&["--scheduler-auto", "false"]).await?;
    let caller = mesh.caller()?;
    let held = beside({
        let caller = caller.clone();
        async move { caller.infer(identity(4), LIMIT).await }
    });
    let mut models = ModelsClient::new(caller.channel.clone());
    let model = Model { name: "identity".into(), replicas: 1, ..Model::default() };
    until("the scheduler", async || models.apply_model(ApplyModelRequest { model: Some(model.clone()) }).await.is_ok())
        .await?;
    held.outcome().await??;
    let view =
        models.get_model(GetModelRequest { name: "identity".into() }).await?.into_inner().model.unwrap_or_default();
    assert!(view.applied);
    assert_eq!(view.replicas.len(), 1);
    mesh.stop().await?;
    Ok(())
}
