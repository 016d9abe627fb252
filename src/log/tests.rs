use std::io::Write;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::*;

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_json_line_says_whose_round_which_step_and_which_request() {
    let kept = Kept::default();
    let writer = kept.clone();
    tracing::subscriber::with_default(Registry::default().with(json(move || writer.clone())), || {
        let round = tracing::info_span!("reconcile", namespace = "team", agent = "ada", uid = "u-1");
        round.in_scope(|| tracing::warn!(step = "RunInstances", request_id = Some("r-1"), "refused\ntwice"));
    });
    let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    let mut line: Value = serde_json::from_str(&text).unwrap();
    assert!(line.as_object_mut().unwrap().remove("timestamp").is_some());
    let span = json!({ "name": "reconcile", "namespace": "team", "agent": "ada", "uid": "u-1" });
    let expected = json!({
        "level": "WARN", "message": "refused\ntwice", "step": "RunInstances", "request_id": "r-1",
        "target": "koi_operator::log::tests", "span": span,
    });
    assert_eq!(line, expected);
}

#[test]
fn a_library_says_nothing_of_what_it_sends_whatever_is_wished() {
    let kept = Kept::default();
    let writer = kept.clone();
    let layers = Registry::default()
        .with(EnvFilter::new("trace"))
        .with(FilterFn::new(harmless))
        .with(json(move || writer.clone()));
    tracing::subscriber::with_default(layers, || {
        tracing::trace!(target: "tungstenite::protocol", "sent the token");
        tracing::info!(target: "tungstenite::protocol", "closed");
        tracing::debug!(target: "koi_operator_like", "sent the key");
        tracing::trace!(target: "koi_operator::probe", "looked");
    });
    let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("closed") && text.contains("looked"), "{text}");
    assert!(!text.contains("sent"), "{text}");
}

#[cfg(not(feature = "otlp"))]
#[test]
fn a_collector_without_the_feature_is_told_and_not_passed_over() {
    let told = start(LogFormat::Text, None, false, Some("http://collector:4318"));
    assert!(told.is_err_and(|told| told.contains("--features otlp")));
}

#[cfg(feature = "otlp")]
mod with_a_collector {
    use std::io::{BufRead as _, BufReader, Read as _};
    use std::net::TcpListener;

    use super::*;

    /// One request: its first line and its body.
    fn receive(listener: &TcpListener) -> (String, Vec<u8>) {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let (mut first, mut length) = (String::new(), 0);
        reader.read_line(&mut first).unwrap();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if let Some(told) = line.to_lowercase().strip_prefix("content-length:") {
                length = told.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        (&stream).write_all(answer).unwrap();
        (first, body)
    }

    /// In a runtime, as the program is.
    #[tokio::test]
    async fn spans_arrive_at_the_latest_when_the_program_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let collector = format!("http://{}/", listener.local_addr().unwrap());
        let received = std::thread::spawn(move || receive(&listener));
        let (layer, rest) = otlp::layer(&collector).unwrap();
        tracing::subscriber::with_default(Registry::default().with(layer), || {
            let round = tracing::info_span!("reconcile", agent = "ada");
            round.in_scope(|| tracing::info!(step = "RunInstances", "done"));
        });
        drop(rest);
        let (first, body) = received.join().unwrap();
        assert_eq!(first.trim(), "POST /v1/traces HTTP/1.1");
        for word in ["koi-operator", "reconcile", "ada", "RunInstances"] {
            let there = body.windows(word.len()).any(|part| part == word.as_bytes());
            assert!(there, "{word} in {}", String::from_utf8_lossy(&body));
        }
    }

    #[tokio::test]
    async fn a_collector_that_is_away_does_not_hold_up_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let collector = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let (layer, rest) = otlp::layer(&collector).unwrap();
        tracing::subscriber::with_default(Registry::default().with(layer), || {
            tracing::info_span!("reconcile").in_scope(|| tracing::info!("done"));
        });
        let began = std::time::Instant::now();
        drop(rest);
        assert!(
            began.elapsed() < std::time::Duration::from_secs(6),
            "{:?}",
            began.elapsed()
        );
    }
}
