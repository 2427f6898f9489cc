//! An exporter that says once when the endpoint is lost and once when it is back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};

/// Whether the endpoint took the last batch; shared by all exporters of the process, since they share the endpoint.
#[derive(Debug, Default)]
pub(super) struct Health {
    lost: AtomicBool,
}

impl Health {
    fn note(&self, result: &OTelSdkResult) {
        match result {
            Ok(()) => {
                if self.lost.swap(false, Ordering::Relaxed) {
                    tracing::info!("telemetry is exported again");
                }
            }
            Err(error) => {
                if !self.lost.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "telemetry cannot be exported and is dropped");
                }
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct Watched<E> {
    exporter: E,
    health: Arc<Health>,
}

impl<E> Watched<E> {
    pub(super) fn new(exporter: E, health: &Arc<Health>) -> Self {
        Self { exporter, health: Arc::clone(health) }
    }
}

impl<E: SpanExporter> SpanExporter for Watched<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        self.health.note(&result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: PushMetricExporter> PushMetricExporter for Watched<E> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let result = self.exporter.export(metrics).await;
        self.health.note(&result);
        result
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}
