//! One turn of the agent for somebody who waits for it over HTTP.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::mpsc;

use super::{Refusal, refuse};
use crate::conversation::attachment::{self, NotTaken, Sent};
use crate::conversation::{Attachment, End, Inbound, Outcome, Refused};
use crate::server::Shared;

/// How often it is looked what has been said.
const LOOK: Duration = Duration::from_millis(50);

/// How long one wait may take before it is asked for anew.
const WAIT: Duration = Duration::from_secs(600);

/// News of a turn.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum News {
    /// More of the text.
    Delta(String),
    /// It is over.
    End(Box<Outcome>),
    /// Nobody knows it any more.
    Lost,
}

/// Hands a message in, with the pictures that come with it; the id of its run.
pub(super) async fn begin(shared: &Shared, mut inbound: Inbound, pictures: Vec<Sent>) -> Result<String, Refusal> {
    shared
        .may_begin()
        .map_err(|error| refuse(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &error.message))?;
    let came_before = shared
        .services
        .conversations
        .progress(&inbound.idempotency_key)
        .is_some();
    if !came_before {
        inbound.attachments = stored(shared, pictures).await?;
    }
    let files = inbound.attachments.clone();
    let accepted = shared.services.talk.submit(inbound, false).await;
    if accepted.is_err() && !files.is_empty() {
        let workspace = shared.settings.workspace.clone();
        let _ = tokio::task::spawn_blocking(move || attachment::discard(&workspace, &files)).await;
    }
    accepted
        .map(|accepted| accepted.run_id)
        .map_err(|refused| match refused {
            Refused::Invalid(message) => refuse(StatusCode::BAD_REQUEST, "invalid_request_error", &message),
            Refused::Full { .. } => refuse(StatusCode::TOO_MANY_REQUESTS, "rate_limited", &refused.to_string()),
            Refused::Draining | Refused::Disk(_) => {
                refuse(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &refused.to_string())
            }
        })
}

/// Puts pictures into files.
async fn stored(shared: &Shared, pictures: Vec<Sent>) -> Result<Vec<Attachment>, Refusal> {
    if pictures.len() > attachment::MOST {
        let message = format!("at most {} pictures may come with one message", attachment::MOST);
        return Err(refuse(StatusCode::BAD_REQUEST, "invalid_request_error", &message));
    }
    let taken = attachment::take_in(&shared.settings.workspace, pictures).await;
    taken.map_err(|why| match why {
        NotTaken::Wrong(wrong) => refuse(StatusCode::BAD_REQUEST, "invalid_request_error", &wrong),
        NotTaken::Disk(_) | NotTaken::CutOff => {
            refuse(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &why.to_string())
        }
    })
}

/// Waits for the end of a turn.
pub(super) async fn end(shared: &Shared, run: &str) -> Result<Outcome, Refusal> {
    let began = shared.now_ms();
    loop {
        if let Some(outcome) = shared.services.talk.wait(run, WAIT).await {
            return Ok(outcome);
        }
        // A wait that ends at once was for a run that nobody knows.
        if shared.now_ms() - began < 1000 {
            return Err(refuse(
                StatusCode::INTERNAL_SERVER_ERROR,
                "server_error",
                "the run is not known",
            ));
        }
    }
}

/// What a turn says, as it says it. The turn goes on when nobody listens any more.
pub(super) fn follow(shared: &Arc<Shared>, key: String, run: String) -> mpsc::Receiver<News> {
    let (sender, receiver) = mpsc::channel(64);
    let listened = Arc::clone(shared);
    shared.tasks.spawn(async move {
        let shared = listened;
        let talk = &shared.services.talk;
        let mut sent = String::new();
        let ended = async { end(&shared, &run).await };
        tokio::pin!(ended);
        let last = loop {
            tokio::select! {
                outcome = &mut ended => break outcome,
                () = shared.stop.cancelled() => return,
                () = sender.closed() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let said = talk.said(&key).filter(|(running, _)| *running == run);
            if let Some((_, said)) = said
                && let Some(more) = said.strip_prefix(sent.as_str()).filter(|more| !more.is_empty())
            {
                let news = News::Delta(more.to_owned());
                sent.clone_from(&said);
                if sender.send(news).await.is_err() {
                    return;
                }
            }
        };
        let Ok(outcome) = last else {
            let _ = sender.send(News::Lost).await;
            return;
        };
        // What was not seen on the way; a text that came out otherwise is given as it is.
        let text = outcome.text.clone().unwrap_or_default();
        let rest = match text.strip_prefix(sent.as_str()) {
            Some(rest) => rest.to_owned(),
            None if sent.is_empty() => text,
            None => String::new(),
        };
        if !rest.is_empty() {
            let _ = sender.send(News::Delta(rest)).await;
        }
        let _ = sender.send(News::End(Box::new(outcome))).await;
    });
    receiver
}

/// Why a turn did not go to its end, where it did not.
pub(super) fn failure(outcome: &Outcome) -> Option<String> {
    match &outcome.end {
        End::Final { .. } => None,
        End::Aborted { stop_reason } => Some(format!("the run was stopped: {stop_reason}")),
        End::Error { message, .. } => Some(message.clone()),
    }
}
