use h2::Reason as Code;
use http_body_util::BodyExt as _;
use tokio::net::TcpListener;

use super::*;

/// How a server leaves that has taken a call.
#[derive(Clone, Copy, Debug)]
enum Leaving {
    /// The connection just ends.
    Cut,
    /// GOAWAY with this code, then the connection ends.
    GoAway(Code),
    /// The answer begins, then the connection ends.
    HalfAnswered,
    /// The answer begins, then comes GOAWAY with this code.
    HalfAnsweredGoAway(Code),
}

async fn serve(listener: TcpListener, leaving: Leaving) {
    let (socket, _) = listener.accept().await.expect("a connection");
    let mut connection = h2::server::handshake(socket).await.expect("HTTP/2");
    let (_request, mut respond) = connection.accept().await.expect("a call").expect("in order");
    let mut begin = || {
        let answer = http::Response::builder().header("content-type", "application/grpc").body(()).expect("valid");
        respond.send_response(answer, false).expect("it is waited for")
    };
    // Held until the end: an answer that is dropped is ended by a reset of its own.
    let mut _answer = None;
    match leaving {
        Leaving::Cut => {}
        Leaving::GoAway(code) => connection.abrupt_shutdown(code),
        Leaving::HalfAnswered => _answer = Some(begin()),
        Leaving::HalfAnsweredGoAway(code) => {
            _answer = Some(begin());
            connection.abrupt_shutdown(code);
        }
    }
    // Sends what is to be sent; then the socket is closed.
    let _ = tokio::time::timeout(
        Duration::from_millis(100),
        std::future::poll_fn(|context| connection.poll_closed(context)),
    )
    .await;
}

/// However a connection ends, so does every call on it.
#[tokio::test]
async fn a_call_ends_with_its_connection() {
    for leaving in [
        Leaving::Cut,
        Leaving::GoAway(Code::NO_ERROR),
        Leaving::GoAway(Code::ENHANCE_YOUR_CALM),
        Leaving::HalfAnswered,
        Leaving::HalfAnsweredGoAway(Code::NO_ERROR),
        Leaving::HalfAnsweredGoAway(Code::ENHANCE_YOUR_CALM),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let tasks = Tasks::new();
        let channel = Channel::new(&address, ChannelOptions::default(), &tasks).expect("an address");
        let server = tasks.attach(serve(listener, leaving));
        let call = async {
            let body = Body::new(http_body_util::Full::new(bytes::Bytes::from_static(b"call")));
            let answer = channel.send(Request::post("/service/Method").body(body).expect("valid")).await?;
            answer.into_body().collect().await.map_err(|_| lost())
        };
        // Far longer than it takes: what is tested is whether it ends at all.
        let ended = tokio::time::timeout(Duration::from_secs(20), call).await;
        let outcome = ended.unwrap_or_else(|_| panic!("{leaving:?}: the call never ended"));
        assert!(outcome.is_err(), "{leaving:?}");
        drop(server);
    }
}

/// Answers every call on every connection.
async fn answer_all(listener: TcpListener, tasks: Tasks) {
    let mut connections = Vec::new();
    while let Ok((socket, _)) = listener.accept().await {
        connections.push(tasks.attach(async move {
            let mut connection = h2::server::handshake(socket).await.expect("HTTP/2");
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let answer = http::Response::builder().body(()).expect("valid");
                let _ = respond.send_response(answer, true);
            }
        }));
    }
}

/// A server that was not there at first: when one connection to it stands, no call fails because another waits for its backoff.
#[tokio::test]
async fn one_open_connection_is_enough() {
    // A backoff is drawn, and may be next to none.
    for _ in 0..10 {
        let port = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = port.local_addr().expect("it is bound").to_string();
        drop(port);
        let tasks = Tasks::new();
        let channel = Channel::new(&address, ChannelOptions::default(), &tasks).expect("an address");
        let inner = &channel.inner;
        let failing = inner.slots[1].live(&inner.authority, &inner.options, &tasks).await;
        assert!(failing.is_err(), "nobody listens there");
        let server = tasks.attach(answer_all(TcpListener::bind(&address).await.expect("the port"), tasks.clone()));
        for _ in 0..4 {
            let request = Request::post("/service/Method").body(Body::empty()).expect("valid");
            assert_eq!(channel.send(request).await.map(drop), Ok(()));
        }
        drop(server);
    }
}

/// A gRPC call by hand: the health service's `method`, with an empty request.
async fn ask(
    sender: &mut h2::client::SendRequest<bytes::Bytes>,
    method: &str,
) -> Result<http::Response<h2::RecvStream>, h2::Error> {
    let request = Request::post(format!("http://server/grpc.health.v1.Health/{method}"));
    let request = request.header("content-type", "application/grpc").header("te", "trailers").body(());
    let (answer, mut body) = sender.send_request(request.expect("valid"), false)?;
    body.send_data(bytes::Bytes::from_static(&[0; 5]), true)?;
    answer.await
}

/// A connection that has become old refuses new calls by GOAWAY, which says of each whether it was taken, and ends none.
#[tokio::test]
async fn an_old_connection_takes_no_new_calls_and_ends_none() {
    let (tasks, health) = (Tasks::new(), weft_runtime::Health::default());
    let age = Some(Duration::from_millis(50));
    let options = weft_runtime::ServerOptions { max_connection_age: age, ..Default::default() };
    let server = weft_runtime::Server::bind(options).await.expect("a port");
    let socket = tokio::net::TcpStream::connect(server.address()).await.expect("it listens");
    let api = weft_runtime::Api::new(&health);
    let drain = server.serve(api, weft_telemetry::Scope::disabled(), &tasks).expect("its contracts are whole");
    let (mut sender, connection) = h2::client::handshake(socket).await.expect("HTTP/2");
    let connection = tasks.attach(async move { drop(connection.await) });
    let mut watch = ask(&mut sender, "Watch").await.expect("taken").into_body();
    assert!(watch.data().await.is_some(), "it tells the state at once");
    // As many calls as there is time for: all that leave before GOAWAY came are answered, or told to be untouched.
    let refused = async {
        loop {
            sender = match sender.ready().await {
                Ok(sender) => sender,
                Err(error) => break error,
            };
            match ask(&mut sender, "Check").await {
                Ok(answer) => assert_eq!(answer.status(), http::StatusCode::OK),
                Err(error) => break error,
            }
        }
    };
    let refused = tokio::time::timeout(Duration::from_secs(20), refused).await.expect("it becomes old");
    assert!(refused.is_go_away() && refused.reason() == Some(Code::NO_ERROR), "{refused}");
    health.set("", true);
    let told = tokio::time::timeout(Duration::from_secs(20), watch.data()).await.expect("the call goes on");
    assert!(told.is_some_and(|told| told.is_ok()));
    drop((connection, drain));
}
