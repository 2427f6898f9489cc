//! The real exporter of `weft-telemetry` against the real service over HTTP/2 on the loopback address.

#![expect(clippy::expect_used, reason = "a test fails by panicking, in its set-up as well")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tonic::service::Routes;
use tonic::{Code, Request};
use tower::ServiceExt as _;
use weft_metrics::{Options, Service};
use weft_proto::weft::metrics::v1::metrics_server::Metrics;
use weft_proto::weft::metrics::v1::{GetTraceRequest, SummaryRequest};
use weft_telemetry::{Options as TelemetryOptions, SnapshotState, Telemetry};
use weft_types::SystemClock;

async fn serve(service: &Service) -> SocketAddr {
    let routes =
        Routes::new(service.otlp_metrics()).add_service(service.otlp_traces()).add_service(service.otlp_logs());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    #[expect(clippy::disallowed_methods, reason = "a test's own server, which ends with the test's runtime")]
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(routes.clone().prepare());
            tokio::spawn(async move {
                let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}

fn telemetry(address: SocketAddr) -> Telemetry {
    let options = TelemetryOptions {
        endpoint: Some(format!("http://{address}")),
        // Nothing leaves by itself within the test: what arrives was flushed.
        interval: Duration::from_secs(3600),
        sample_ratio: 1.0,
        ..TelemetryOptions::default()
    };
    Telemetry::new(options).expect("a valid endpoint")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_two_services_of_one_process_record_arrives() {
    let service = Service::new(&Options::default(), Arc::new(SystemClock));
    let telemetry = telemetry(serve(&service).await);
    let router = telemetry.scope("router", "r-1").expect("an exporter");
    let worker = telemetry.scope("worker", "w-1").expect("an exporter");

    let trace = {
        let mut server = router.start_server("inference.GRPCInferenceService/ModelInfer", None);
        server.set("weft.deadline_remaining_ms", 200);
        let client = router.start_client("ModelInfer", Some(server.context()));
        let mut execute = worker.start_server("ModelInfer", Some(client.context()));
        execute.fail("cancelled");
        server.context().trace_id()
    };
    router.metrics().record_server_call(
        "inference.GRPCInferenceService/ModelInfer",
        Code::Ok,
        Duration::from_millis(3),
    );
    let state = SnapshotState { revision: 42, age: Duration::from_millis(1500), retained: 7, undecodable: 3 };
    router.metrics().observe_snapshot(move || state);
    let digits =
        worker.metrics().model(&"digits".parse().expect("a name"), weft_types::Version::new(1).expect("not zero"));
    for milliseconds in 1..=100 {
        digits.record_call(Code::Ok, Duration::from_millis(milliseconds));
        digits.record_queue(Duration::from_micros(100));
        digits.record_compute(Duration::from_millis(milliseconds));
    }
    digits.record_call(Code::DeadlineExceeded, Duration::from_millis(200));
    digits.record_batch(8);
    digits.record_stopped(Duration::from_millis(2));
    digits.record_wasted(Duration::from_millis(250));
    let in_flight = router
        .metrics()
        .model(&"digits".parse().expect("a name"), weft_types::Version::new(1).expect("not zero"))
        .in_flight();
    telemetry.flush(Duration::from_secs(30)).await;

    let request = Request::new(SummaryRequest::default());
    let models = service.summary(request).await.expect("valid").into_inner().models;
    let [summary] = models.as_slice() else { panic!("{models:?}") };
    assert_eq!((summary.model.as_str(), summary.version, summary.calls, summary.sources), ("digits", 1, 101, 1));
    assert_eq!(summary.errors.get("DEADLINE_EXCEEDED"), Some(&1));
    assert_eq!(summary.mean_batch, 8.0);
    for (found, exact) in
        [(&summary.p50, 0.051), (&summary.p90, 0.091), (&summary.p99, 0.100), (&summary.queue_p99, 0.0001)]
    {
        let found = found.as_ref().and_then(weft_proto::from_duration).expect("calls").as_secs_f64();
        assert!((found / exact - 1.0).abs() <= 0.05, "{found} for {exact}");
    }

    let spans =
        service.get_trace(Request::new(GetTraceRequest { trace_id: trace })).await.expect("kept").into_inner().spans;
    let shown: Vec<_> = spans.iter().map(|span| (span.service.as_str(), span.instance.as_str())).collect();
    assert_eq!(shown, [("router", "r-1"), ("router", "r-1"), ("worker", "w-1")]);
    assert_eq!(spans[1].parent_span_id, spans[0].span_id);
    assert_eq!(spans[2].parent_span_id, spans[1].span_id);
    assert_eq!(spans[0].attributes["weft.deadline_remaining_ms"], "200");
    assert_eq!(spans[2].error, "cancelled");

    let response = service
        .http()
        .oneshot(axum::http::Request::get("/metrics").body(axum::body::Body::empty()).expect("a request"));
    let response = response.await.expect("a page");
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let page = response.into_body().collect().await.expect("a body").to_bytes();
    let page = String::from_utf8(page.to_vec()).expect("text");
    for line in [
        r#"weft_wasted_compute_seconds_total{instance="w-1",model="digits",service="worker",version="1"} 0.25"#,
        r#"weft_work_stopped_total{instance="w-1",model="digits",service="worker",version="1"} 1"#,
        r#"weft_cancel_to_stop_seconds_count{instance="w-1",model="digits",service="worker",version="1"} 1"#,
        r#"weft_router_in_flight{instance="r-1",model="digits",service="router",version="1"} 1"#,
        r#"weft_snapshot_revision{instance="r-1",service="router"} 42"#,
        r#"weft_snapshot_age_seconds{instance="r-1",service="router"} 1.5"#,
        r#"weft_snapshot_retained{instance="r-1",service="router"} 7"#,
        r#"weft_snapshot_undecodable{instance="r-1",service="router"} 3"#,
        r#"nv_inference_request_success{model="digits",version="1"} 100"#,
        r#"nv_inference_request_failure{model="digits",version="1"} 1"#,
        r#"nv_inference_count{model="digits",version="1"} 8"#,
        "# TYPE rpc_server_call_duration_seconds histogram",
    ] {
        assert!(page.lines().any(|held| held == line), "{line} is not in\n{page}");
    }

    // A second flush adds only what is new, and the guard's drop is seen.
    drop(in_flight);
    digits.record_wasted(Duration::from_millis(250));
    telemetry.shutdown(Duration::from_secs(30)).await;
    let page = service.prometheus();
    for line in [
        r#"weft_wasted_compute_seconds_total{instance="w-1",model="digits",service="worker",version="1"} 0.5"#,
        r#"weft_router_in_flight{instance="r-1",model="digits",service="router",version="1"} 0"#,
        r#"nv_inference_request_success{model="digits",version="1"} 100"#,
    ] {
        assert!(page.lines().any(|held| held == line), "{line} is not in\n{page}");
    }
}
