//! One page: where it is, what is on it, and what a hand does there.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::frames::{self, Frames, Part};
use super::pipe::{Event, Pipe};
use super::snapshot::{self, Snapshot, Spot};

/// How long a page may take to come.
const LOAD: Duration = Duration::from_secs(20);

/// How long a click has to make the page go elsewhere.
const STIR: Duration = Duration::from_millis(400);

/// How long a download may take.
const DOWNLOAD: Duration = Duration::from_secs(120);

/// Sets what a field holds: fields of text are emptied for what is typed then, a choice is made at once.
const TAKE: &str = "function(text) {
  if (this instanceof HTMLSelectElement) {
    const found = [...this.options].find((o) => o.value === text || o.label.trim() === text.trim());
    if (!found) return 'there is no such choice; there are: ' + [...this.options].slice(0, 50).map((o) => o.label.trim()).join(', ');
    this.value = found.value;
    for (const kind of ['input', 'change']) this.dispatchEvent(new Event(kind, { bubbles: true }));
    return 'chosen';
  }
  if (this.disabled || this.readOnly) return 'it cannot be changed';
  this.focus();
  if (typeof this.select === 'function') this.select();
  else if (this.isContentEditable) getSelection().selectAllChildren(this);
  else return 'it takes no text';
  return 'type';
}";

/// A page that is open.
pub(super) struct Page {
    pipe: Pipe,
    pub(super) target: String,
    session: String,
    /// The page itself, and what it embeds from elsewhere, as they were looked at last.
    pub(super) parts: Vec<Part>,
    /// Sessions of what it embeds, by frame.
    embedded: BTreeMap<String, String>,
    refs: BTreeMap<String, Spot>,
}

/// Where a page is.
pub(super) struct Stand {
    pub(super) url: String,
    pub(super) title: String,
    pub(super) snapshot: Snapshot,
}

fn text_of(value: &Value) -> Result<String, String> {
    let text = value.as_str().map(str::to_owned);
    text.ok_or_else(|| "the browser answers with something else than was asked for".to_owned())
}

impl Page {
    /// A new, empty page.
    pub(super) async fn new(pipe: &Pipe) -> Result<Self, String> {
        let made = pipe
            .call(None, "Target.createTarget", json!({"url": "about:blank"}))
            .await?;
        Self::of(pipe, text_of(&made["targetId"])?).await
    }

    /// A page that is there.
    pub(super) async fn of(pipe: &Pipe, target: String) -> Result<Self, String> {
        let session = frames::attach(pipe, &target).await?;
        Ok(Self {
            pipe: pipe.clone(),
            target,
            parts: vec![Part {
                session: session.clone(),
                owner: None,
            }],
            session,
            embedded: BTreeMap::new(),
            refs: BTreeMap::new(),
        })
    }

    async fn call(&self, method: &str, params: Value) -> Result<Value, String> {
        self.pipe.call(Some(&self.session), method, params).await
    }

    /// Asks about a node where it is.
    async fn call_at(&self, spot: Spot, method: &str, mut params: Value) -> Result<Value, String> {
        let part = self
            .parts
            .get(spot.part)
            .ok_or("the page has changed; take a snapshot")?;
        params["backendNodeId"] = spot.node.into();
        self.pipe.call(Some(&part.session), method, params).await
    }

    /// Goes to an address.
    pub(super) async fn go(&mut self, url: &str) -> Result<(), String> {
        let mut events = self.pipe.events();
        let gone = self.call("Page.navigate", json!({"url": url})).await?;
        match gone["errorText"].as_str() {
            Some("net::ERR_ABORTED") => {
                Err("the page did not come: it is a file to download, or was stopped; use download".to_owned())
            }
            Some(why) => Err(format!("the page did not come: {why}")),
            // Another place on the same page.
            None if gone["loaderId"].is_null() => Ok(()),
            None => {
                self.loaded(&mut events).await;
                Ok(())
            }
        }
    }

    /// One page back.
    pub(super) async fn back(&mut self) -> Result<(), String> {
        let history = self.call("Page.getNavigationHistory", json!({})).await?;
        let at = history["currentIndex"].as_u64().unwrap_or(0);
        let entries = history["entries"].as_array();
        let before = at.checked_sub(1).and_then(|at| entries?.get(usize::try_from(at).ok()?));
        let id = before
            .and_then(|entry| entry["id"].as_i64())
            .ok_or("there is no page before this one")?;
        let mut events = self.pipe.events();
        self.call("Page.navigateToHistoryEntry", json!({"entryId": id})).await?;
        self.loaded(&mut events).await;
        Ok(())
    }

    /// Waits until the page has loaded; one that never does is looked at as it is.
    async fn loaded(&self, events: &mut broadcast::Receiver<Event>) {
        let _ = tokio::time::timeout(
            LOAD.min(self.pipe.patience),
            until(
                events,
                |session| session == self.session,
                &["Page.loadEventFired", "Page.navigatedWithinDocument"],
            ),
        )
        .await;
    }

    /// Something was done: if that leads elsewhere, waits until it is there.
    async fn settled(&self, events: &mut broadcast::Receiver<Event>) {
        let here = |session: &str| self.parts.iter().any(|part| part.session == session);
        let stirs = until(
            events,
            here,
            &[
                "Page.frameStartedNavigating",
                "Page.frameStartedLoading",
                "Page.frameScheduledNavigation",
            ],
        );
        if tokio::time::timeout(STIR, stirs).await.is_ok() {
            let rests = until(events, here, &["Page.loadEventFired", "Page.frameStoppedLoading"]);
            let _ = tokio::time::timeout(LOAD.min(self.pipe.patience), rests).await;
        }
    }

    /// Where it is, and what is on it; numbers of before count no more.
    pub(super) async fn look(&mut self) -> Result<Stand, String> {
        let info = self
            .pipe
            .call(None, "Target.getTargetInfo", json!({"targetId": self.target}))
            .await?;
        let before = std::mem::take(&mut self.embedded);
        let (document, frames) = Frames::look(&self.pipe, &self.session, before).await?;
        (self.parts, self.embedded) = (frames.parts, frames.sessions);
        let snapshot = snapshot::read(&document);
        self.refs.clone_from(&snapshot.refs);
        Ok(Stand {
            url: text_of(&info["targetInfo"]["url"])?,
            title: text_of(&info["targetInfo"]["title"])?,
            snapshot,
        })
    }

    fn node(&self, number: &str) -> Result<Spot, String> {
        let number = number.trim_start_matches(['[', '@']).trim_end_matches(']');
        let known = self.refs.get(number).copied();
        known.ok_or_else(|| {
            format!(
                "there is no {:?} on the page; take a snapshot",
                crate::text::short(number, 32)
            )
        })
    }

    /// Presses on something.
    pub(super) async fn click(&mut self, number: &str) -> Result<(), String> {
        let node = self.node(number)?;
        let mut events = self.pipe.events();
        self.press_on(node).await?;
        self.settled(&mut events).await;
        Ok(())
    }

    async fn press_on(&self, spot: Spot) -> Result<(), String> {
        let gone = |_| "it is not on the page any more, or cannot be seen; take a snapshot".to_owned();
        let around = self.around(spot);
        for spot in around.iter().rev().chain([&spot]) {
            self.call_at(*spot, "DOM.scrollIntoViewIfNeeded", json!({}))
                .await
                .map_err(gone)?;
        }
        let quads = self
            .call_at(spot, "DOM.getContentQuads", json!({}))
            .await
            .map_err(gone)?;
        let corners = numbers(&quads["quads"][0]);
        let [x1, y1, _, _, x2, y2, _, _] = corners[..] else {
            return Err("it has no place on the page that could be pressed on".to_owned());
        };
        let (mut x, mut y) = (f64::midpoint(x1, x2), f64::midpoint(y1, y2));
        // Another process counts from the corner of what it shows.
        for spot in around {
            let model = self.call_at(spot, "DOM.getBoxModel", json!({})).await.map_err(gone)?;
            if let [left, top, ..] = numbers(&model["model"]["content"])[..] {
                (x, y) = (x + left, y + top);
            }
        }
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
            let button = if kind == "mouseMoved" { "none" } else { "left" };
            let event = json!({"type": kind, "x": x, "y": y, "button": button, "clickCount": 1});
            self.call("Input.dispatchMouseEvent", event).await?;
        }
        Ok(())
    }

    /// What embeds the part that a node is in, from there outwards.
    fn around(&self, spot: Spot) -> Vec<Spot> {
        let mut around: Vec<Spot> = Vec::new();
        let mut part = spot.part;
        while let Some((above, node)) = self.parts.get(part).and_then(|part| part.owner) {
            around.push(Spot { part: above, node });
            part = above;
        }
        around
    }

    /// Puts text into something, and sends it off.
    pub(super) async fn fill(&mut self, number: &str, text: &str, submit: bool) -> Result<(), String> {
        let spot = self.node(number)?;
        let mut events = self.pipe.events();
        let object = self.call_at(spot, "DOM.resolveNode", json!({})).await;
        let object = object.map_err(|_| "it is not on the page any more; take a snapshot".to_owned())?;
        let call = json!({
            "objectId": object["object"]["objectId"], "functionDeclaration": TAKE,
            "arguments": [{"value": text}], "returnByValue": true
        });
        let session = self.parts.get(spot.part).map(|part| part.session.as_str());
        let done = self.pipe.call(session, "Runtime.callFunctionOn", call).await?;
        match done["result"]["value"].as_str() {
            Some("type") if text.is_empty() => self.key("Delete").await?,
            Some("type") => drop(self.call("Input.insertText", json!({"text": text})).await?),
            Some("chosen") => {}
            Some(why) => return Err(crate::text::short(why, 500)),
            None => return Err("it takes no text".to_owned()),
        }
        if submit {
            self.key("Enter").await?;
        }
        self.settled(&mut events).await;
        Ok(())
    }

    /// Presses a key.
    pub(super) async fn press(&mut self, key: &str) -> Result<(), String> {
        let mut events = self.pipe.events();
        self.key(key).await?;
        self.settled(&mut events).await;
        Ok(())
    }

    async fn key(&self, key: &str) -> Result<(), String> {
        let (code, text) = match key {
            "Enter" => (13, "\r"),
            "Tab" => (9, ""),
            "Escape" => (27, ""),
            "Backspace" => (8, ""),
            "Delete" => (46, ""),
            "PageUp" => (33, ""),
            "PageDown" => (34, ""),
            "End" => (35, ""),
            "Home" => (36, ""),
            "ArrowLeft" => (37, ""),
            "ArrowUp" => (38, ""),
            "ArrowRight" => (39, ""),
            "ArrowDown" => (40, ""),
            _ => return Err("key must be one of Enter, Tab, Escape, Backspace, Delete, PageUp, PageDown, Home, End, ArrowLeft, ArrowUp, ArrowRight, ArrowDown".to_owned()),
        };
        let down = if text.is_empty() { "rawKeyDown" } else { "keyDown" };
        for kind in [down, "keyUp"] {
            let shown = if kind == "keyUp" { "" } else { text };
            let event = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": shown});
            self.call("Input.dispatchKeyEvent", event).await?;
        }
        Ok(())
    }

    /// A picture of what is seen, or of all of it, in base64.
    pub(super) async fn picture(&self, whole: bool) -> Result<String, String> {
        let mut wish = json!({"format": "jpeg", "quality": 70});
        if whole {
            let size = self.call("Page.getLayoutMetrics", json!({})).await?;
            let (width, height) = (&size["cssContentSize"]["width"], &size["cssContentSize"]["height"]);
            let height = height.as_f64().unwrap_or(900.0).min(6000.0);
            wish["clip"] = json!({"x": 0, "y": 0, "width": width, "height": height, "scale": 1});
            wish["captureBeyondViewport"] = true.into();
        }
        text_of(&self.call("Page.captureScreenshot", wish).await?["data"])
    }

    /// Presses on something, or goes to an address, and waits for the file that comes of it; gives its name and the id under which it was put.
    pub(super) async fn download(
        &mut self,
        number: Option<&str>,
        url: Option<&str>,
    ) -> Result<(String, String), String> {
        let mut events = self.pipe.events();
        match (number, url) {
            (Some(number), _) => self.press_on(self.node(number)?).await?,
            // Its answer is that the navigation was given up.
            (None, Some(url)) => drop(self.call("Page.navigate", json!({"url": url})).await?),
            (None, None) => return Err("ref or url is missing".to_owned()),
        }
        let begun = Instant::now();
        let comes = file(&mut events);
        let patience = DOWNLOAD.saturating_sub(begun.elapsed());
        tokio::time::timeout(patience, comes)
            .await
            .unwrap_or_else(|_| Err("no file came within two minutes".to_owned()))
    }

    /// Closes it.
    pub(super) async fn close(self) {
        let _ = self
            .pipe
            .call(None, "Target.closeTarget", json!({"targetId": self.target}))
            .await;
    }
}

fn numbers(list: &Value) -> Vec<f64> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_f64)
        .collect()
}

/// Waits for one of these to happen in one of these sessions.
async fn until(events: &mut broadcast::Receiver<Event>, here: impl Fn(&str) -> bool, methods: &[&str]) {
    loop {
        match events.recv().await {
            Ok(event) if event.session.as_deref().is_some_and(&here) && methods.contains(&event.method.as_str()) => {
                return;
            }
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// Waits for a file to come.
async fn file(events: &mut broadcast::Receiver<Event>) -> Result<(String, String), String> {
    let mut begun: Option<(String, String)> = None;
    let first = Instant::now();
    loop {
        let patience = if begun.is_some() {
            DOWNLOAD
        } else {
            LOAD.saturating_sub(first.elapsed())
        };
        let next = tokio::time::timeout(patience, events.recv()).await;
        let event = match next {
            Ok(Ok(event)) => event,
            Ok(Err(broadcast::error::RecvError::Lagged(_))) => continue,
            Ok(Err(broadcast::error::RecvError::Closed)) => return Err("the browser has ended".to_owned()),
            Err(_) => return Err("no file came of it".to_owned()),
        };
        let id = event.params["guid"].as_str().unwrap_or_default();
        match (event.method.as_str(), &begun) {
            ("Browser.downloadWillBegin", None) => {
                let name = event.params["suggestedFilename"].as_str().unwrap_or("download");
                begun = Some((name.to_owned(), id.to_owned()));
            }
            ("Browser.downloadProgress", Some(one)) if one.1 == id => match event.params["state"].as_str() {
                Some("completed") => return Ok(one.clone()),
                Some("canceled") => return Err("the download was given up".to_owned()),
                _ => {}
            },
            _ => {}
        }
    }
}
