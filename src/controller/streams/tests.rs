use std::sync::Mutex;

use serde_json::{Value, json};

use super::*;

fn plan(name: &str, spec: &Value) -> Checked<KoiPlan> {
    let object =
        json!({ "apiVersion": "skykoi.io/v1alpha1", "kind": "KoiPlan", "metadata": { "name": name }, "spec": spec });
    serde_json::from_value(object).unwrap()
}

fn told(event: &watcher::Event<KoiPlan>) -> String {
    use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
    match event {
        Init => "begin".to_owned(),
        InitApply(plan) => format!("listed {}", plan.name_any()),
        InitDone => "end".to_owned(),
        Apply(plan) => format!("changed {}", plan.name_any()),
        Delete(plan) => format!("gone {}", plan.name_any()),
    }
}

#[tokio::test]
async fn a_plan_that_makes_no_sense_counts_as_gone_and_is_told_and_the_others_go_on() {
    use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
    let (sound, broken) = (json!({}), json!({ "default": "yes, please" }));
    let events = [
        Init,
        InitApply(plan("a", &sound)),
        InitApply(plan("b", &broken)),
        InitApply(plan("c", &broken)),
        InitDone,
        Apply(plan("a", &broken)),
        Apply(plan("b", &sound)),
        Delete(plan("c", &broken)),
    ];
    let troubles = Troubles::default();
    let seen: Vec<String> = valid(futures::stream::iter(events.map(Ok)), &troubles)
        .map_ok(|event| told(&event))
        .try_collect()
        .await
        .unwrap();
    assert_eq!(seen, ["begin", "listed a", "end", "gone a", "changed b", "gone c"]);
    let report = troubles.report().unwrap();
    assert!(report.starts_with("KoiPlan/a: is not valid"), "{report}");
    assert!(
        !report.contains("KoiPlan/b") && !report.contains("KoiPlan/c"),
        "{report}"
    );
}

#[tokio::test]
async fn a_plan_that_went_while_the_watch_was_broken_is_told_no_more() {
    use watcher::Event::{Init, InitApply, InitDone};
    let broken = json!({ "default": "yes, please" });
    let events = [
        Init,
        InitApply(plan("a", &broken)),
        InitApply(plan("b", &broken)),
        InitDone,
        Init,
        InitApply(plan("b", &broken)),
        InitDone,
    ];
    let troubles = Troubles::default();
    troubles.malformed("other/a", "odd");
    let events = valid(futures::stream::iter(events.map(Ok)), &troubles);
    assert_eq!(events.try_collect::<Vec<_>>().await.unwrap().len(), 4);
    let told = ["KoiPlan/a", "KoiPlan/b", "other/a"].map(|object| troubles.of(object).is_some());
    assert_eq!(told, [false, true, true]);
}

#[test]
fn what_nobody_reads_is_not_kept() {
    let mut metadata: ObjectMeta = serde_json::from_value(json!({
        "name": "a", "uid": "u", "resourceVersion": "7",
        "annotations": { LAST_APPLIED: "the whole object", "skykoi.io/paused": "true" },
        "managedFields": [{ "manager": "kubectl", "operation": "Apply" }],
    }))
    .unwrap();
    trim(&mut metadata);
    let kept =
        json!({ "name": "a", "uid": "u", "resourceVersion": "7", "annotations": { "skykoi.io/paused": "true" } });
    assert_eq!(serde_json::to_value(metadata).unwrap(), kept);
}

#[test]
fn an_agent_is_looked_at_for_what_people_change_and_for_status_in_its_time() {
    let agent = |change: Value| {
        let mut object = json!({
            "apiVersion": "skykoi.io/v1alpha1", "kind": "KoiAgent", "spec": {},
            "metadata": { "name": "a", "uid": "u", "generation": 1, "resourceVersion": "7" },
        });
        merge(&mut object, change);
        sight(&serde_json::from_value(object).unwrap())
    };
    let as_it_was = agent(json!({}));
    let version = json!({ "metadata": { "resourceVersion": "8", "labels": { "a": "b" }, "managedFields": [] } });
    assert_eq!(agent(version), as_it_was);
    for status in [
        json!({ "observedGeneration": 1 }),
        json!({ "observedGeneration": 1, "volume": { "id": "vol-1" } }),
    ] {
        let seen = agent(json!({ "status": status }));
        assert_eq!(seen.urgent, as_it_was.urgent, "{status}");
        assert_ne!(seen.whole, as_it_was.whole, "{status}");
    }
    for theirs in [
        json!({ "generation": 2 }),
        json!({ "uid": "another" }),
        json!({ "annotations": { "skykoi.io/paused": "true" } }),
        json!({ "deletionTimestamp": "2026-11-20T10:00:00Z" }),
        json!({ "finalizers": ["skykoi.io/cloud"] }),
    ] {
        assert_ne!(
            agent(json!({ "metadata": theirs })).urgent,
            as_it_was.urgent,
            "{theirs}"
        );
    }
}

fn merge(target: &mut Value, change: Value) {
    match (target, change) {
        (Value::Object(target), Value::Object(change)) => {
            for (key, value) in change {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
        (target, change) => *target = change,
    }
}

/// What a script answers to the next request: a list, lines of a watch, or a status.
type Reply = (u16, String);

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message })
}

fn list(version: &str, names: &[&str]) -> Reply {
    let items: Vec<Value> = names.iter().map(|name| object(name, version)).collect();
    let list = json!({ "kind": "KoiPlanList", "apiVersion": "skykoi.io/v1alpha1", "metadata": { "resourceVersion": version }, "items": items });
    (200, list.to_string())
}

fn object(name: &str, version: &str) -> Value {
    json!({ "apiVersion": "skykoi.io/v1alpha1", "kind": "KoiPlan", "metadata": { "name": name, "resourceVersion": version }, "spec": {} })
}

/// An API server that gives one answer after the other, then none.
async fn api_server(replies: Vec<Reply>) -> (Client, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (replies, noted) = (Arc::new(Mutex::new(replies.into_iter())), Arc::clone(&asked));
    let answer = move |uri: axum::http::Uri| {
        let reply = replies.lock().unwrap().next();
        let is_watch = uri.query().is_some_and(|query| query.contains("watch=true"));
        noted
            .lock()
            .unwrap()
            .push(if is_watch { "watch" } else { "list" }.to_owned());
        async move {
            let Some((code, text)) = reply else {
                return std::future::pending().await;
            };
            (axum::http::StatusCode::from_u16(code).unwrap(), text)
        }
    };
    let app = axum::Router::new().fallback(answer);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = Client::try_from(kube::Config::new(address.parse().unwrap())).unwrap();
    (client, asked)
}

#[tokio::test]
async fn an_expired_watch_a_lost_right_and_a_kind_that_was_gone_are_survived() {
    let line = |kind: &str, object: &Value| format!("{}\n", json!({ "type": kind, "object": object }));
    let lost = "koiplans.skykoi.io is forbidden: User \"koi\" cannot watch resource \"koiplans\"";
    let (client, asked) = api_server(vec![
        (503, "the API server starts".to_owned()),
        list("10", &["a", "b"]),
        (
            200,
            line("ERROR", &status(410, "Expired", "too old resource version: 10 (20)")),
        ),
        list("20", &["b", "c"]),
        (403, status(403, "Forbidden", lost).to_string()),
        (404, "404 page not found\n".to_owned()),
        (200, line("ADDED", &object("d", "41"))),
    ])
    .await;
    let (wiring, stores) = Wiring::new(None);
    let events = watcher(Api::<KoiPlan>::all(client), watcher::Config::default().any_semantic());
    let mut plans = Box::pin(watched(events, kept_in(wiring.plans), &wiring.seen));
    let (mut told, mut reports) = (Vec::new(), BTreeSet::new());
    let all = async {
        while told.last().is_none_or(|name| name != "d") {
            let seen = plans.next().await.unwrap();
            reports.extend(stores.troubles.report());
            if let Ok(plan) = seen {
                told.push(plan.name_any());
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.unwrap();
    let names: BTreeSet<String> = stores.plans.state().iter().map(|plan| plan.name_any()).collect();
    assert_eq!(names, ["b", "c", "d"].map(ToOwned::to_owned).into(), "{told:?}");
    let reports: Vec<&String> = reports.iter().collect();
    assert!(
        reports.len() == 2 && reports[0].contains("cannot watch resource \"koiplans\""),
        "{reports:?}"
    );
    assert!(reports[1].contains("the kind KoiPlan is not installed"), "{reports:?}");
    assert_eq!(stores.troubles.report(), None, "all of it is over");
    let expected = ["list", "list", "watch", "list", "watch", "watch", "watch"];
    assert_eq!(asked.lock().unwrap()[..7], expected);
}

#[test]
fn a_watch_begins_again_within_seconds_however_long_it_was_broken() {
    let pauses: Vec<Duration> = pace().take(50).collect();
    assert_eq!(pauses.len(), 50, "it never gives up");
    assert!(pauses[0] <= 2 * BROKEN.0, "{pauses:?}");
    let longest = pauses.iter().max().unwrap();
    assert!((BROKEN.1..=2 * BROKEN.1).contains(longest), "{pauses:?}");
}
