//! Replicas that fail every call: they are left out, and the metrics of gRFC A91 tell of it.

use std::time::Duration;

use anyhow::Result;
use futures_util::future::join_all;
use weft_proto::inference::ModelInferRequest;
use weft_tests::calls::until;
use weft_tests::mesh::Mesh;

use super::tap::Tap;

const LIMIT: Duration = Duration::from_secs(20);
/// Enough that each of three replicas gets more than the five that eject it, before anything is known of any.
const CALLS: usize = 90;

#[tokio::test(flavor = "multi_thread")]
async fn an_ejection_is_counted_and_so_is_one_too_many() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    let lost = [Tap::losing(&mesh, ("lost-1", "tapped")).await?, Tap::losing(&mesh, ("lost-2", "tapped")).await?];
    let whole = Tap::telling(&mesh, ("whole", "tapped"), Vec::new()).await?;
    caller.wait_ready("tapped").await?;
    let request = ModelInferRequest { model_name: "tapped".into(), ..Default::default() };
    // Of three replicas one may be ejected. How many calls each gets is drawn, so that it may take a few times.
    until("one to be ejected and one to stay for the cap", async || {
        join_all((0..CALLS).map(|_| caller.infer(request.clone(), LIMIT))).await;
        let told = mesh.scrape().await.unwrap_or_default();
        let tells = |metric: &str, label: &str| {
            let name = format!("grpc_lb_outlier_detection_ejections_{metric}_total{{");
            told.lines().any(|line| line.starts_with(&name) && line.contains(label) && !line.ends_with(" 0"))
        };
        tells("enforced", "\"consecutive_failures\"") && tells("unenforced", "\"max_ejection_overflow\"")
    })
    .await?;
    assert!(lost.iter().chain([&whole]).all(|tap| !tap.told("grpc-timeout").is_empty()));
    mesh.stop().await
}
