//! The services of one server.

use std::convert::Infallible;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tonic::server::NamedService;
use tonic::service::Routes;
use tower::Service;
use weft_proto::DESCRIPTORS;

use crate::Health;
use crate::body::RequestBody;
use crate::methods::Methods;

/// Reflection describes itself, in both versions: old tools know the second one only.
const REFLECTION: [&[u8]; 2] =
    [tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET, tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET];
const REFLECTION_NAMES: [&str; 2] = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];

/// Answers one method. A failure is an answer, too.
type Handler =
    Arc<dyn Fn(http::Request<RequestBody>) -> BoxFuture<'static, http::Response<tonic::body::Body>> + Send + Sync>;

/// What answers a server's calls.
pub(crate) struct Answers {
    pub(crate) routes: Routes,
    direct: Option<(&'static str, Handler)>,
}

impl Answers {
    /// What answers the method at this path without the way through the routes.
    pub(crate) fn direct(&self, path: &str) -> Option<&Handler> {
        self.direct.as_ref().filter(|(own, _)| *own == path).map(|(_, handler)| handler)
    }
}

/// Collects a server's services; health and reflection are always among them.
pub struct Api {
    routes: axum::Router,
    names: Vec<&'static str>,
    descriptors: Vec<&'static [u8]>,
    direct: Option<(&'static str, Handler)>,
}

impl Api {
    /// Only health and, once built, reflection.
    pub fn new(health: &Health) -> Self {
        let (routes, descriptors) = (Routes::default().into_axum_router(), vec![DESCRIPTORS]);
        Self { routes, names: Vec::new(), descriptors, direct: None }.with(health.server())
    }

    /// Adds a service.
    #[must_use]
    pub fn with<S>(self, service: S) -> Self
    where
        S: Service<http::Request<tonic::body::Body>, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
        S::Response: axum::response::IntoResponse,
        S::Future: Send + 'static,
    {
        self.forward(S::NAME, service)
    }

    /// Sends every method below `name` to `service`, which need not know the methods.
    #[must_use]
    pub fn forward<S>(mut self, name: &'static str, service: S) -> Self
    where
        S: Service<http::Request<tonic::body::Body>, Error = Infallible> + Clone + Send + Sync + 'static,
        S::Response: axum::response::IntoResponse,
        S::Future: Send + 'static,
    {
        self.routes = self.routes.route_service(&format!("/{name}/{{*rest}}"), over_tonic(service));
        self.names.push(name);
        self
    }

    /// Answers the method at this path by `handler`, whatever service has it: for the one that most calls are of.
    #[must_use]
    pub fn answer(
        mut self,
        path: &'static str,
        handler: impl Fn(http::Request<RequestBody>) -> BoxFuture<'static, http::Response<tonic::body::Body>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.direct = Some((path, Arc::new(handler)));
        self
    }

    /// Sends every call of a service that is not here to `service`.
    #[must_use]
    pub fn otherwise<S>(mut self, service: S) -> Self
    where
        S: Service<http::Request<tonic::body::Body>, Error = Infallible> + Clone + Send + Sync + 'static,
        S::Response: axum::response::IntoResponse,
        S::Future: Send + 'static,
    {
        self.routes = self.routes.fallback_service(over_tonic(service));
        self
    }

    /// Adds contracts from another crate to reflection.
    #[must_use]
    pub fn describe(mut self, descriptors: &'static [u8]) -> Self {
        self.descriptors.push(descriptors);
        self
    }

    /// The finished routes. Reflection lists what this server serves, under its v1 and v1alpha names.
    pub(crate) fn build(self) -> Result<(Answers, Methods), tonic_reflection::server::Error> {
        let builder = || {
            let mut builder = tonic_reflection::server::Builder::configure().include_reflection_service(false);
            for descriptors in self.descriptors.iter().chain(&REFLECTION) {
                builder = builder.register_encoded_file_descriptor_set(descriptors);
            }
            for name in self.names.iter().chain(&REFLECTION_NAMES) {
                builder = builder.with_service_name(*name);
            }
            builder
        };
        let (v1, v1alpha) = (builder().build_v1()?, builder().build_v1alpha()?);
        let methods = Methods::of(self.descriptors.iter().chain(&REFLECTION));
        let routes = Routes::from(self.routes).add_service(v1).add_service(v1alpha).prepare();
        Ok((Answers { routes, direct: self.direct }, methods))
    }
}

type OfAxum = http::Request<axum::body::Body>;
type OfTonic = http::Request<tonic::body::Body>;

/// The same service over the body that axum has.
fn over_tonic<S: Service<OfTonic>>(service: S) -> tower::util::MapRequest<S, fn(OfAxum) -> OfTonic> {
    tower::ServiceExt::map_request(service, |request| request.map(tonic::body::Body::new))
}
