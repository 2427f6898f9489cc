//! A unary call whose messages are passed on as they are.

use http::header::{CONTENT_TYPE, TE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};
use weft_proto::message::{Message, Received};
use weft_proto::{code_in, status_of};

use crate::Channel;

/// Makes a call on a channel: as a generated client does, but neither message is copied. The answer's metadata holds headers and
/// trailers.
pub async fn unary(
    channel: &Channel,
    path: PathAndQuery,
    request: Request<Message>,
) -> Result<Response<Message>, Status> {
    unary_up_to(channel, path, request, usize::MAX).await
}

/// The same with a server that is not trusted: an answer of more than `longest` bytes, with its prefix, is INTERNAL.
///
/// So is every answer that cannot be read, whatever is wrong with it: other codes would tell of a call that was not made.
pub async fn unary_up_to(
    channel: &Channel,
    path: PathAndQuery,
    request: Request<Message>,
    longest: usize,
) -> Result<Response<Message>, Status> {
    let (metadata, extensions, message) = request.into_parts();
    let mut request = http::Request::new(message.into_body(None));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = path.into();
    *request.headers_mut() = metadata.into_headers();
    *request.extensions_mut() = extensions;
    request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let (parts, body) = channel.send(request).await.map_err(|error| status_of(&error))?.into_parts();
    let mut headers = parts.headers;
    // A refusal needs no body (gRPC calls it "Trailers-Only").
    if code_in(&headers).is_some_and(|code| code != Code::Ok) {
        return Err(told(&headers));
    }
    let mut received = Received::read_up_to(body, longest).await?;
    let trailers = received.trailers.take().unwrap_or_default();
    ended(&headers, &trailers, parts.status)?;
    headers.extend(trailers);
    let message = received.message().map_err(|status| Status::internal(status.message()))?;
    let mut response = Response::new(message);
    *response.metadata_mut() = MetadataMap::from_headers(headers);
    *response.extensions_mut() = parts.extensions;
    Ok(response)
}

/// The status that is among headers.
fn told(headers: &HeaderMap) -> Status {
    Status::from_header_map(headers).unwrap_or_else(|| Status::unknown("no status"))
}

/// How the call ended. Without a status the HTTP status tells (gRPC's `http-grpc-status-mapping.md`).
fn ended(headers: &HeaderMap, trailers: &HeaderMap, http: StatusCode) -> Result<(), Status> {
    let at = [trailers, headers].into_iter().find_map(|headers| Some((headers, code_in(headers)?)));
    let code = match (at, http) {
        (Some((_, Code::Ok)), _) => return Ok(()),
        (Some((headers, _)), _) => return Err(told(headers)),
        (None, StatusCode::BAD_REQUEST) => Code::Internal,
        (None, StatusCode::UNAUTHORIZED) => Code::Unauthenticated,
        (None, StatusCode::FORBIDDEN) => Code::PermissionDenied,
        (None, StatusCode::NOT_FOUND) => Code::Unimplemented,
        (
            None,
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT,
        ) => Code::Unavailable,
        (None, _) => Code::Unknown,
    };
    Err(Status::new(code, format!("the answer has no grpc-status; its HTTP status is {http}")))
}
