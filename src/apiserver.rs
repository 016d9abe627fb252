//! The way to the API server: as kube makes it, but that connections which nobody uses are closed.
//!
//! Kube's own client keeps as many as were ever needed at once until somebody needs one again: after a busy minute, dozens at a dozen
//! kilobytes each.

use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, TryFutureExt as _};
use http::{HeaderMap, Request, Response};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use kube::{Client, Config, Error};
use tower::retry::RetryLayer;
use tower::timeout::TimeoutLayer;
use tower::{BoxError, Service, ServiceBuilder};
use tower_http::classify::ServerErrorsFailureClass;
use tower_http::timeout::TimeoutBody;
use tower_http::trace::TraceLayer;
use tracing::Span;
use tracing::field::Empty;

/// For so long a connection waits for its next request.
const IDLE: Duration = Duration::from_secs(10);
/// An answer begins within this: webhooks, which the API server waits for, have half a minute. A connection whose other end is gone without a
/// word would otherwise be waited on for as long as TCP does.
const ANSWERS: Duration = Duration::from_secs(40);
/// And so soon it goes on. A watch, which is silent while nothing happens, goes on within this: the API server ends it after five minutes at most.
const GOES_ON: Duration = Duration::from_secs(310);

/// A client for the cluster that the surroundings name: `KUBECONFIG`, or the pod's ServiceAccount.
///
/// # Errors
/// When they name none, or one that cannot be used.
pub async fn infer() -> Result<Client, Error> {
    client(Config::infer().await.map_err(Error::InferConfig)?, IDLE, ANSWERS)
}

/// A client that closes connections which were not used for so long, and waits so long for an answer to begin.
///
/// # Errors
/// When the configuration cannot be used: a certificate, a key, a proxy.
fn client(mut config: Config, idle: Duration, answers: Duration) -> Result<Client, Error> {
    config.read_timeout.get_or_insert(GOES_ON);
    if config.proxy_url.is_some() {
        // Kube knows which proxies it supports.
        return Client::try_from(config);
    }
    let mut tcp = HttpConnector::new();
    // The scheme is TLS's matter.
    tcp.enforce_http(false);
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let http: legacy::Client<_, Body> = legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(idle)
        .build(connector);
    let retries = config
        .default_retry
        .then(|| RetryLayer::new(RetryPolicy::server_retry()));
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(retries)
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .layer(
            TraceLayer::new_for_http()
                .make_span_with(span)
                .on_request(|_: &Request<Body>, _: &Span| tracing::debug!("requesting"))
                .on_response(answered)
                .on_body_chunk(())
                .on_eos(|_: Option<&HeaderMap>, _: Duration, _: &Span| tracing::debug!("stream closed"))
                .on_failure(failed),
        )
        .layer(TimeoutLayer::new(answers))
        .layer_fn(|way| Flowing { way, answers })
        .map_err(BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}

/// A way on which an answer that has begun goes on, or is given up: who waits for it holds up its agent.
#[derive(Clone)]
struct Flowing<S> {
    way: S,
    answers: Duration,
}

impl<S, B> Service<Request<Body>> for Flowing<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = Response<TimeoutBody<B>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.way.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        let pause = if is_watch { GOES_ON } else { self.answers };
        let answer = self.way.call(request);
        answer
            .map_ok(move |answer| answer.map(|body| TimeoutBody::new(pause, body)))
            .boxed()
    }
}

/// A request in traces, by OpenTelemetry's names.
fn span(request: &Request<Body>) -> Span {
    let name = request.extensions().get::<&'static str>().unwrap_or(&"HTTP");
    tracing::debug_span!(
        "HTTP",
        http.method = %request.method(),
        http.url = %request.uri(),
        http.status_code = Empty,
        otel.name = name,
        otel.kind = "client",
        otel.status_code = Empty,
    )
}

fn answered<B>(response: &Response<B>, _: Duration, span: &Span) {
    let status = response.status();
    span.record("http.status_code", status.as_u16());
    if status.is_client_error() || status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
}

fn failed(failure: ServerErrorsFailureClass, _: Duration, span: &Span) {
    span.record("otel.status_code", "ERROR");
    match failure {
        ServerErrorsFailureClass::StatusCode(status) => {
            span.record("http.status_code", status.as_u16());
            tracing::error!("the API server failed with status {status}");
        }
        // Whoever asked says what that means; here it would be a line for each request while the API server is away.
        ServerErrorsFailureClass::Error(error) => tracing::debug!("the API server cannot be asked: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::{Barrier, watch};

    use super::*;

    const AT_ONCE: usize = 8;

    /// Answers watches with their beginning, and everything else when so many ask at once.
    async fn serve(stream: TcpStream, together: Arc<Barrier>, open: watch::Sender<usize>) {
        open.send_modify(|open| *open += 1);
        let mut stream = BufReader::new(stream);
        let (mut line, mut watches) = (String::new(), false);
        while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
            watches |= line.contains("watch=true");
            let is_end = line == "\r\n";
            line.clear();
            if !is_end {
                continue;
            }
            let answer = if watches {
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n"
            } else {
                together.wait().await;
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
            };
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        open.send_modify(|open| *open -= 1);
    }

    #[tokio::test]
    async fn connections_that_nobody_uses_are_closed_and_watches_live_on() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (open, mut seen) = watch::channel(0);
        let together = Arc::new(Barrier::new(AT_ONCE));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&together), open.clone()));
            }
        });
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = client(
            Config::new(address.parse().unwrap()),
            Duration::from_millis(100),
            ANSWERS,
        )
        .unwrap();
        let ask = |path: &str| {
            let (client, request) = (client.clone(), Request::get(path).body(Vec::new()).unwrap());
            async move { client.request_text(request).await }
        };
        let watched = tokio::spawn(ask("/api/v1/secrets?watch=true"));
        let all = async {
            seen.wait_for(|open| *open == 1).await.unwrap();
            for _ in 0..2 {
                let answers = futures::future::join_all((0..AT_ONCE).map(|_| ask("/version"))).await;
                assert!(
                    answers
                        .iter()
                        .all(|answer| answer.as_ref().is_ok_and(|text| text == "{}"))
                );
                assert_eq!(*seen.borrow(), AT_ONCE + 1);
                seen.wait_for(|open| *open == 1).await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(30), all).await.unwrap();
        assert!(!watched.is_finished(), "the watch goes on");
    }

    #[tokio::test]
    async fn who_is_not_answered_asks_another_way() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let served = tokio::spawn(async move {
            // The first connection is never answered on.
            let silent = listener.accept().await.unwrap().0;
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) && !line.ends_with("\r\n\r\n") {}
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
            stream.write_all(answer.as_bytes()).await.unwrap();
            drop(silent);
        });
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let config = Config::new(address.parse().unwrap());
        let client = client(config, IDLE, Duration::from_millis(200)).unwrap();
        let ask = || client.request_text(Request::get("/version").body(Vec::new()).unwrap());
        assert!(ask().await.is_err());
        assert_eq!(ask().await.unwrap(), "{}");
        served.await.unwrap();
    }

    /// Answers every request with the first half of two characters.
    async fn half_an_answer(stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
            if line.ends_with("\r\n\r\n") {
                let begun = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{";
                stream.write_all(begun.as_bytes()).await.unwrap();
                line.clear();
            }
        }
    }

    #[tokio::test]
    async fn an_answer_that_does_not_go_on_is_given_up_and_a_watch_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(half_an_answer(stream));
            }
        });
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let config = Config::new(address.parse().unwrap());
        let client = client(config, IDLE, Duration::from_millis(200)).unwrap();
        let ask = |path: &str| client.request_text(Request::get(path).body(Vec::new()).unwrap());
        let mut watched = std::pin::pin!(ask("/api/v1/secrets?watch=true"));
        let ends = async {
            tokio::select! {
                answer = ask("/version") => answer.is_err(),
                answer = watched.as_mut() => panic!("the watch ended: {answer:?}"),
            }
        };
        let given_up = tokio::time::timeout(Duration::from_secs(30), ends).await;
        assert_eq!(given_up, Ok(true), "long before the connection itself is given up");
        // The watch began before that, and is waited for still.
        assert!(futures::poll!(watched).is_pending());
    }
}
