use h2::Reason as Code;
use http_body_util::BodyExt as _;
use tokio::net::TcpListener;

use super::*;

mod late;

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

/// Pieces of a request, counted as they are taken; it does not end.
struct Endless {
    piece: bytes::Bytes,
    left: usize,
    taken: Arc<AtomicUsize>,
}

impl http_body::Body for Endless {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
        if self.left == 0 {
            return Poll::Pending;
        }
        self.left -= 1;
        self.taken.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Some(Ok(http_body::Frame::data(self.piece.clone()))))
    }
}

/// A request whose messages do not end goes on for as long as somebody waits for its answer.
#[tokio::test]
async fn a_request_ends_with_the_interest_in_its_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (address, tasks) = (listener.local_addr().expect("it is bound").to_string(), Tasks::new());
    let channel = Channel::new(&address, ChannelOptions::default(), &tasks).expect("an address");
    let (told, ended) = tokio::sync::oneshot::channel();
    let server = tasks.attach(async move {
        let (socket, _) = listener.accept().await.expect("a connection");
        let mut connection = h2::server::handshake(socket).await.expect("HTTP/2");
        let (request, mut respond) = connection.accept().await.expect("a call").expect("in order");
        let mut stream = respond.send_response(http::Response::new(()), false).expect("it is waited for");
        let reset = async {
            let mut body = request.into_body();
            assert_eq!(body.data().await.expect("a piece").expect("whole").len(), 3);
            poll_fn(|context| stream.poll_reset(context)).await
        };
        tokio::select! {
            reset = reset => drop(told.send(reset.ok())),
            _ = poll_fn(|context| connection.poll_closed(context)) => {}
        }
    });
    let body = Endless { piece: bytes::Bytes::from_static(b"abc"), left: 1, taken: Arc::default() };
    let answer = channel.send(Request::post("/service/Method").body(body).expect("valid")).await.expect("it begins");
    drop(answer);
    assert_eq!(ended.await.expect("the server lives"), Some(Code::CANCEL));
    drop(server);
}

/// Of a request that is longer than the window of its stream, no more is taken than there is room for, and a little.
#[tokio::test]
async fn a_long_request_waits_for_room() {
    const PIECE: usize = 256 << 10;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (address, tasks) = (listener.local_addr().expect("it is bound").to_string(), Tasks::new());
    let channel = Channel::new(&address, ChannelOptions::default(), &tasks).expect("an address");
    // It reads as much as the first window lets through, makes no room until it is told to, and answers when it has read all.
    let (full, is_full) = tokio::sync::oneshot::channel();
    let (go_on, may_go_on) = tokio::sync::oneshot::channel::<()>();
    let server = tasks.attach(async move {
        let (socket, _) = listener.accept().await.expect("a connection");
        let mut connection = h2::server::handshake(socket).await.expect("HTTP/2");
        let (request, mut respond) = connection.accept().await.expect("a call").expect("in order");
        let answered = async {
            let (mut body, mut length) = (request.into_body(), 0);
            while length < 65_535 {
                length += body.data().await.expect("more").expect("whole").len();
            }
            full.send(()).expect("it is waited for");
            let _ = may_go_on.await;
            body.flow_control().release_capacity(length).expect("it has come");
            while length < 64 * PIECE {
                let data = body.data().await.expect("more").expect("whole");
                length += data.len();
                body.flow_control().release_capacity(data.len()).expect("it has come");
            }
            respond.send_response(http::Response::new(()), true).expect("it is waited for");
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = answered => {}
            _ = poll_fn(|context| connection.poll_closed(context)) => {}
        }
    });
    let taken = Arc::new(AtomicUsize::new(0));
    let body = Endless { piece: vec![7; PIECE].into(), left: 64, taken: Arc::clone(&taken) };
    let call = channel.send(Request::post("/service/Method").body(body).expect("valid"));
    let looks = async {
        is_full.await.expect("the server lives");
        let taken = taken.load(Ordering::Relaxed);
        drop(go_on);
        taken
    };
    let (answer, taken_then) = tokio::join!(call, looks);
    assert!(taken_then <= 8, "{taken_then} pieces were taken");
    assert_eq!(answer.map(drop), Ok(()));
    assert_eq!(taken.load(Ordering::Relaxed), 64);
    drop(server);
}

/// A server that takes calls and says nothing, not even to pings, is as good as gone.
#[tokio::test]
async fn a_connection_that_does_not_answer_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (address, tasks) = (listener.local_addr().expect("it is bound").to_string(), Tasks::new());
    let (keepalive_interval, keepalive_timeout) = (Duration::from_millis(50), Duration::from_millis(50));
    let options = ChannelOptions { keepalive_interval, keepalive_timeout, ..ChannelOptions::default() };
    let channel = Channel::new(&address, options, &tasks).expect("an address");
    let server = tasks.attach(async move {
        let (socket, _) = listener.accept().await.expect("a connection");
        let mut connection = h2::server::handshake(socket).await.expect("HTTP/2");
        let _call = connection.accept().await;
        std::future::pending::<()>().await;
    });
    let request = Request::post("/service/Method").body(Body::empty()).expect("valid");
    let ended = tokio::time::timeout(Duration::from_secs(20), channel.send(request)).await.expect("it ends");
    assert_eq!(ended.map(drop).map_err(|error| error.reason()), Err(Reason::WorkerLost));
    drop(server);
}

/// Answers one call with a failure whose details are no base64: in its headers, and after some of its body.
async fn fail_oddly(listener: TcpListener, at_once: bool) {
    let (socket, _) = listener.accept().await.expect("a connection");
    let mut connection = h2::server::handshake(socket).await.expect("HTTP/2");
    let (_request, mut respond) = connection.accept().await.expect("a call").expect("in order");
    let status = |headers: &mut http::HeaderMap| {
        headers.insert("grpc-status", http::HeaderValue::from_static("3"));
        headers.insert("grpc-status-details-bin", http::HeaderValue::from_static("not_base64!"));
    };
    let mut answer = http::Response::builder().header("content-type", "application/grpc").body(()).expect("valid");
    if at_once {
        status(answer.headers_mut());
    }
    let mut body = respond.send_response(answer, at_once).expect("it is waited for");
    if !at_once {
        let mut trailers = http::HeaderMap::new();
        status(&mut trailers);
        body.send_trailers(trailers).expect("it is waited for");
    }
    let _ = std::future::poll_fn(|context| connection.poll_closed(context)).await;
}

/// tonic panics on a status whose details are no base64: none may reach it.
#[tokio::test]
async fn a_peers_odd_status_is_a_failure_and_no_panic() {
    for at_once in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let tasks = Tasks::new();
        let channel = Channel::new(&address, ChannelOptions::default(), &tasks).expect("an address");
        let _server = tasks.attach(fail_oddly(listener, at_once));
        let request = tonic::Request::new(weft_proto::message::Message::of(bytes::Bytes::new()));
        let call = crate::unary(&channel, PathAndQuery::from_static("/service/Method"), request);
        let answer = tokio::time::timeout(Duration::from_secs(20), call).await.expect("it ends");
        assert_eq!(answer.expect_err("it fails").code(), tonic::Code::InvalidArgument, "{at_once}");
    }
}

/// A process that stands still still has its connections accepted, by its machine: nothing is sent on them.
#[tokio::test]
async fn a_connection_is_ready_once_the_other_side_has_answered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (address, tasks) = (listener.local_addr().expect("it is bound").to_string(), Tasks::new());
    let options =
        ChannelOptions { connections: 1, connect_timeout: Duration::from_millis(50), ..ChannelOptions::default() };
    let channel = Channel::new(&address, options, &tasks).expect("an address");
    let request = Request::post("/service/Method").body(Body::empty()).expect("valid");
    let ended = tokio::time::timeout(Duration::from_secs(20), channel.send(request)).await.expect("it ends");
    assert_eq!(ended.map(drop).map_err(|error| error.reason()), Err(Reason::NoReadyReplica));
    assert_eq!(channel.state(), ChannelState::TransientFailure);
    drop(listener);
}

/// A server that stands still for a while is told from one that takes long, and from one that has gone.
#[tokio::test]
async fn a_server_that_stands_still_is_silent_until_it_goes_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (address, tasks) = (listener.local_addr().expect("it is bound").to_string(), Tasks::new());
    let options = ChannelOptions {
        silence_limit: Duration::from_millis(10),
        keepalive_timeout: Duration::from_secs(600),
        ..ChannelOptions::default()
    };
    let channel = Channel::new(&address, options, &tasks).expect("an address");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (go_on, goes_on) = tokio::sync::oneshot::channel::<()>();
    let (answer, may_answer) = tokio::sync::oneshot::channel::<()>();
    let server = tasks.attach(async move {
        let (socket, _) = listener.accept().await.expect("a connection");
        let mut connection = h2::server::handshake(socket).await.expect("HTTP/2");
        let (_request, mut respond) = connection.accept().await.expect("a call").expect("in order");
        // It answers pings while it takes long.
        tokio::select! {
            _ = stopped => {}
            _ = poll_fn(|context| connection.poll_closed(context)) => return,
        }
        let _ = goes_on.await;
        tokio::select! {
            _ = may_answer => {}
            _ = poll_fn(|context| connection.poll_closed(context)) => return,
        }
        respond.send_response(http::Response::new(()), true).expect("it is waited for");
        let _ = poll_fn(|context| connection.poll_closed(context)).await;
    });
    let call = channel.send(Request::post("/service/Method").body(Body::empty()).expect("valid"));
    let looks = async {
        let is = async |silent: bool| {
            while channel.is_silent() != silent {
                tokio::task::yield_now().await;
            }
        };
        is(false).await;
        drop(stop);
        is(true).await;
        drop(go_on);
        is(false).await;
        drop(answer);
    };
    let (answered, ()) = tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(call, looks) })
        .await
        .expect("silence is seen, and its end");
    assert_eq!(answered.map(drop), Ok(()));
    drop(server);
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
        let failing = inner.slots[1].live(&inner.peer).await;
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
