//! The adapter against an endpoint of our own: which requests leave, with whose key, and what their answers become.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use aws_credential_types::Credentials;
use axum::Router;
use axum::extract::Query;
use axum::http::{HeaderMap, StatusCode, Uri};
use tokio::net::TcpListener;

use super::*;
use crate::cloud::ErrorKind;

const OWN_KEY: &str = "AKIAOPERATOR";

/// One request as the endpoint saw it.
#[derive(Clone, Debug)]
struct Seen {
    /// The access key that signed it.
    key: String,
    parameters: BTreeMap<String, String>,
}

impl Seen {
    fn get(&self, name: &str) -> &str {
        self.parameters.get(name).map_or("", String::as_str)
    }

    fn action(&self) -> &str {
        self.get("Action")
    }

    /// How many values the filter of this number has.
    fn values(&self, filter: usize) -> usize {
        let begin = format!("Filter.{filter}.Value.");
        self.parameters.keys().filter(|name| name.starts_with(&begin)).count()
    }
}

type Script = Box<dyn Fn(&Seen) -> (u16, String) + Send + Sync>;

/// An endpoint that answers by a script and remembers who asked for what.
#[derive(Clone)]
struct Endpoint {
    script: Arc<Script>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Endpoint {
    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn answer(&self, headers: &HeaderMap, body: &str) -> (StatusCode, String) {
        let uri: Uri = format!("/?{body}").parse().unwrap();
        let parameters = Query::try_from_uri(&uri).unwrap();
        let signed = headers.get("authorization").unwrap().to_str().unwrap();
        let key = signed.split_once("Credential=").unwrap().1.split('/').next().unwrap();
        let seen = Seen {
            key: key.to_owned(),
            parameters: parameters.0,
        };
        let (status, text) = (self.script)(&seen);
        self.seen.lock().unwrap().push(seen);
        (StatusCode::from_u16(status).unwrap(), text)
    }
}

/// The adapter with its endpoint. The endpoint ends with the test's runtime.
async fn aws(script: impl Fn(&Seen) -> (u16, String) + Send + Sync + 'static) -> (Aws, Endpoint, Arc<Metrics>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let endpoint = Endpoint {
        script: Arc::new(Box::new(script)),
        seen: Arc::default(),
    };
    let answering = endpoint.clone();
    let answer = move |headers: HeaderMap, body: String| {
        let answer = answering.answer(&headers, &body);
        async move { answer }
    };
    let app = Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(listener, app).await });
    let config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("eu-central-1"))
        .endpoint_url(format!("http://{address}"))
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts())
        .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
            OWN_KEY, "secret", None, None, "test",
        )))
        .build();
    let metrics = Arc::new(Metrics::new("1").unwrap());
    (Aws::new(&config, &metrics), endpoint, metrics)
}

/// A page of DescribeInstances.
fn page(ids: &[&str], next: &str) -> (u16, String) {
    let items: String = ids
        .iter()
        .map(|id| format!("<item><instancesSet><item><instanceId>{id}</instanceId></item></instancesSet></item>"))
        .collect();
    let next = if next.is_empty() {
        String::new()
    } else {
        format!("<nextToken>{next}</nextToken>")
    };
    let text = format!(
        "<DescribeInstancesResponse><requestId>r</requestId><reservationSet>{items}</reservationSet>{next}</DescribeInstancesResponse>"
    );
    (200, text)
}

fn ids(found: &[Folded<Instance>]) -> Vec<&str> {
    found.iter().map(Folded::id).collect()
}

/// What EC2 says against a call.
fn no(code: &str, message: &str) -> (u16, String) {
    let error = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
    (
        403,
        format!("<Response><Errors>{error}</Errors><RequestID>r-7</RequestID></Response>"),
    )
}

/// What STS says against a call.
fn no_of_sts(code: &str, message: &str) -> (u16, String) {
    let error = format!("<Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>");
    (
        403,
        format!("<ErrorResponse>{error}<RequestId>r-8</RequestId></ErrorResponse>"),
    )
}

#[tokio::test]
async fn a_sweep_takes_pages_of_a_thousand_to_the_last_one() {
    let (aws, endpoint, _) = aws(|seen| match seen.get("NextToken") {
        "" => page(&["i-1", "i-2"], "two"),
        // A page may be empty and still have a successor.
        "two" => page(&[], "three"),
        "three" => page(&["i-3"], ""),
        other => panic!("asked for page {other}"),
    })
    .await;
    assert_eq!(ids(&aws.instances("c").await.unwrap()), ["i-1", "i-2", "i-3"]);
    let asked: Vec<_> = endpoint.seen();
    let asked: Vec<_> = asked
        .iter()
        .map(|seen| (seen.action(), seen.get("MaxResults"), seen.get("Filter.1.Value.1")))
        .collect();
    assert_eq!(asked, [("DescribeInstances", "1000", "c"); 3]);
}

#[tokio::test]
async fn a_page_that_fails_is_no_short_list() {
    let (aws, ..) = aws(|seen| match seen.get("NextToken") {
        "" => page(&["i-1"], "two"),
        _ => no("RequestLimitExceeded", "too fast"),
    })
    .await;
    let error = aws.instances("c").await.unwrap_err();
    let expected = CloudError {
        operation: "DescribeInstances",
        code: "RequestLimitExceeded".into(),
        message: "too fast".into(),
        request_id: Some("r-7".into()),
        kind: ErrorKind::Refused,
    };
    assert_eq!(error, expected);
}

#[tokio::test]
async fn agents_in_transit_and_lost_ids_are_asked_for_together() {
    let (aws, endpoint, _) = aws(|_| page(&[], "")).await;
    let many: Vec<String> = (0..450).map(|n| format!("n-{n}")).collect();
    aws.instances_of("c", &many).await.unwrap();
    aws.instances_by_id(&many).await.unwrap();
    let asked: Vec<_> = endpoint
        .seen()
        .iter()
        .map(|seen| (seen.get("Filter.1.Name").to_owned(), seen.values(1), seen.values(2)))
        .collect();
    let by_claim = |values| ("tag:skykoi:cluster".to_owned(), 1, values);
    let by_id = |values| ("instance-id".to_owned(), values, 0);
    let expected = [
        by_claim(200),
        by_claim(200),
        by_claim(50),
        by_id(200),
        by_id(200),
        by_id(50),
    ];
    assert_eq!(asked, expected);
}

#[tokio::test]
async fn a_call_is_sent_once_and_counted_by_what_became_of_it() {
    let (aws, endpoint, metrics) = aws(|_| {
        (
            503,
            "<Response><Errors><Error><Code>RequestLimitExceeded</Code></Error></Errors></Response>".into(),
        )
    })
    .await;
    aws.stop("i-1").await.unwrap_err();
    assert_eq!(endpoint.seen().len(), 1, "nobody but the planner repeats a call");
    let counted = "koi_aws_requests_total{operation=\"StopInstances\",result=\"throttled\",service=\"ec2\"} 1";
    assert!(metrics.text().contains(counted), "{}", metrics.text());
    let timed = "koi_aws_request_duration_seconds_count{operation=\"StopInstances\",service=\"ec2\"} 1";
    assert!(metrics.text().contains(timed), "{}", metrics.text());
}

/// STS lets us take the role of the one account and not that of the other.
fn accounts(seen: &Seen) -> (u16, String) {
    match (seen.action(), seen.get("RoleArn")) {
        ("AssumeRole", "arn:aws:iam::2:role/koi") => (
            200,
            "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ASIATHERE</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
             <SessionToken>t</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
                .to_owned(),
        ),
        ("AssumeRole", role) => no_of_sts(
            "AccessDenied",
            &format!("User: koi is not authorized to perform: sts:AssumeRole on resource: {role}"),
        ),
        _ => page(&[if seen.key == OWN_KEY { "i-here" } else { "i-there" }], ""),
    }
}

fn wish(role: &str) -> CloudWish {
    CloudWish {
        role_arn: Some(role.to_owned()),
        external_id: Some("x-1".to_owned()),
        ..CloudWish::default()
    }
}

#[tokio::test]
async fn each_account_is_a_session_of_its_own_and_a_broken_one_is_its_own_trouble() {
    let (own, endpoint, _) = aws(accounts).await;
    assert!(own.elsewhere(&CloudWish::default()).is_none(), "that is here");
    let there = own.elsewhere(&wish("arn:aws:iam::2:role/koi")).unwrap();
    let broken = own.elsewhere(&wish("arn:aws:iam::3:role/koi")).unwrap();
    for _ in 0..3 {
        assert_eq!(ids(&there.instances("c").await.unwrap()), ["i-there"]);
        let error = broken.instances("c").await.unwrap_err();
        assert_eq!((error.operation, error.code.as_str()), ("AssumeRole", "AccessDenied"));
        assert!(error.message.contains("arn:aws:iam::3:role/koi"), "{error}");
        assert_eq!(ids(&own.instances("c").await.unwrap()), ["i-here"]);
    }
    let seen = endpoint.seen();
    let sessions: Vec<_> = seen
        .iter()
        .filter(|seen| seen.action() == "AssumeRole")
        .map(|seen| (seen.key.as_str(), seen.get("RoleArn"), seen.get("ExternalId")))
        .collect();
    let expected = [
        (OWN_KEY, "arn:aws:iam::2:role/koi", "x-1"),
        (OWN_KEY, "arn:aws:iam::3:role/koi", "x-1"),
    ];
    assert_eq!(
        sessions, expected,
        "one that works is kept, one that is refused is not asked for at each call"
    );
    let keys: Vec<_> = seen
        .iter()
        .filter(|seen| seen.action() != "AssumeRole")
        .map(|seen| seen.key.as_str())
        .collect();
    assert_eq!(keys, ["ASIATHERE", OWN_KEY, "ASIATHERE", OWN_KEY, "ASIATHERE", OWN_KEY]);
}
