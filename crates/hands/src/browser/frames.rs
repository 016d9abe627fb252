//! Documents that a page embeds. Those of its own process are known to the page's session; one of another site has a process of its own, and a
//! session of its own is opened for it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::pipe::Pipe;
use super::snapshot::{self, Document};

/// Embedded documents that are looked at, and how deep in one another.
const MOST: usize = 24;
const MOST_NESTED: usize = 5;

/// How long all of them may take: one that hangs does not hide the page around it.
const PATIENCE: Duration = Duration::from_secs(8);

/// A session of a page: its own, or that of an embedded document.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) session: String,
    /// What embeds it: a node of another part.
    pub(super) owner: Option<(usize, i64)>,
}

/// Looks at a page and what it embeds.
pub(super) struct Frames {
    pipe: Pipe,
    /// The page itself, and embedded documents with a session of their own.
    pub(super) parts: Vec<Part>,
    /// Their sessions, by frame.
    pub(super) sessions: BTreeMap<String, String>,
    /// Those of the last look.
    before: BTreeMap<String, String>,
    left: usize,
    until: Instant,
}

/// Opens a session for a page or an embedded document.
pub(super) async fn attach(pipe: &Pipe, target: &str) -> Result<String, String> {
    let wish = json!({"targetId": target, "flatten": true});
    let attached = pipe.call(None, "Target.attachToTarget", wish).await?;
    let session = attached["sessionId"].as_str().ok_or("the browser gives no session")?;
    enable(pipe, session).await?;
    Ok(session.to_owned())
}

async fn enable(pipe: &Pipe, session: &str) -> Result<(), String> {
    for domain in ["Page.enable", "DOM.enable", "Accessibility.enable"] {
        pipe.call(Some(session), domain, json!({})).await?;
    }
    Ok(())
}

impl Frames {
    /// Looks at the page of this session; `before` are sessions that were opened for what it embedded the last time.
    pub(super) async fn look(
        pipe: &Pipe,
        session: &str,
        before: BTreeMap<String, String>,
    ) -> Result<(Document, Self), String> {
        let mut frames = Self {
            pipe: pipe.clone(),
            parts: vec![Part {
                session: session.to_owned(),
                owner: None,
            }],
            sessions: BTreeMap::new(),
            before,
            left: MOST,
            until: Instant::now() + PATIENCE,
        };
        let tree = pipe
            .call(Some(session), "Accessibility.getFullAXTree", json!({}))
            .await?;
        let document = frames.document(tree, 0, 0).await;
        Ok((document, frames))
    }

    /// A document, with what it embeds.
    fn document(
        &mut self,
        tree: Value,
        part: usize,
        level: usize,
    ) -> Pin<Box<dyn Future<Output = Document> + Send + '_>> {
        Box::pin(async move {
            let mut embedded = BTreeMap::new();
            for node in snapshot::embedding(&tree) {
                embedded.insert(node, self.embedded(part, node, level + 1).await);
            }
            Document { tree, part, embedded }
        })
    }

    async fn embedded(&mut self, part: usize, node: i64, level: usize) -> Result<Document, String> {
        if self.left == 0 || level > MOST_NESTED {
            return Err("too many documents are embedded here".to_owned());
        }
        self.left -= 1;
        let session = self.session(part)?.to_owned();
        let about = self
            .ask(&session, "DOM.describeNode", json!({"backendNodeId": node}))
            .await?;
        let frame = about["node"]["frameId"].as_str().ok_or("nothing is embedded here")?;
        let wish = json!({ "frameId": frame });
        match self.ask(&session, "Accessibility.getFullAXTree", wish).await {
            Ok(tree) => Ok(self.document(tree, part, level).await),
            // It is another process's.
            Err(_) => {
                let session = self.open(frame).await?;
                let tree = self.ask(&session, "Accessibility.getFullAXTree", json!({})).await?;
                self.parts.push(Part {
                    session,
                    owner: Some((part, node)),
                });
                let own = self.parts.len() - 1;
                Ok(self.document(tree, own, level).await)
            }
        }
    }

    fn session(&self, part: usize) -> Result<&str, String> {
        let part = self.parts.get(part).ok_or("the page has changed meanwhile")?;
        Ok(&part.session)
    }

    /// The session of an embedded document: that of the last look, where it still counts, or a new one.
    async fn open(&mut self, frame: &str) -> Result<String, String> {
        let known = self.before.remove(frame);
        let (pipe, until) = (self.pipe.clone(), self.until);
        let opening = async {
            match known {
                Some(session) if enable(&pipe, &session).await.is_ok() => Ok(session),
                _ => attach(&pipe, frame).await,
            }
        };
        let session = tokio::time::timeout_at(until, opening)
            .await
            .unwrap_or_else(|_| Err(late()))?;
        self.sessions.insert(frame.to_owned(), session.clone());
        Ok(session)
    }

    async fn ask(&self, session: &str, method: &str, params: Value) -> Result<Value, String> {
        let asked = self.pipe.call(Some(session), method, params);
        tokio::time::timeout_at(self.until, asked)
            .await
            .unwrap_or_else(|_| Err(late()))
    }
}

fn late() -> String {
    "it does not answer in time".to_owned()
}
