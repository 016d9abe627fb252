//! Secrets that are kept in SSM: the set-up reads them with the role that instance metadata gives, and the gateway takes them from memory.
//!
//! The set-up and the gateway are the real ones; instance metadata and SSM are played on a local socket.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use koi_wire::bundle::{Bundle, Owner, Tls, VERSION};
use koi_wire::config::{SecretRef, digest};
use serde_json::{Value, json};

use super::harness::{Gateway, Home, TOKEN, program};

const BUNDLE: &str = "/koi/prod/u-1/i-0abc";
const HOOK: &str = "/koi-shared/hook";
const GONE: &str = "/koi-shared/gone";

/// The two services that a machine asks, on one port.
struct Cloud {
    address: String,
    /// Parameters by name.
    parameters: Arc<Mutex<BTreeMap<String, String>>>,
    /// Requests to SSM whose signature was not by the role.
    strangers: Arc<Mutex<Vec<String>>>,
}

impl Cloud {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let cloud = Self {
            address: format!("http://{}", listener.local_addr().unwrap()),
            parameters: Arc::default(),
            strangers: Arc::default(),
        };
        let (parameters, strangers) = (Arc::clone(&cloud.parameters), Arc::clone(&cloud.strangers));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (parameters, strangers) = (Arc::clone(&parameters), Arc::clone(&strangers));
                std::thread::spawn(move || while serve(&stream, &parameters, &strangers).is_some() {});
            }
        });
        cloud
    }

    fn put(&self, name: &str, value: &str) {
        self.parameters
            .lock()
            .unwrap()
            .insert(name.to_owned(), value.to_owned());
    }

    fn bootstrap(&self, home: &Home) -> String {
        let output = program(&home.0)
            .env_remove("AWS_EC2_METADATA_DISABLED")
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &self.address)
            .env("AWS_ENDPOINT_URL_SSM", &self.address)
            .args(["bootstrap", "--root"])
            .arg(&home.0)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    }
}

/// Answers one request; none when there are no more.
fn serve(
    mut stream: &TcpStream,
    parameters: &Mutex<BTreeMap<String, String>>,
    strangers: &Mutex<Vec<String>>,
) -> Option<()> {
    let mut request = Vec::new();
    let mut piece = [0; 4096];
    let (head, body) = loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                break (head.to_owned(), body.to_owned());
            }
        }
        match stream.read(&mut piece).ok()? {
            0 => return None,
            size => request.extend(&piece[..size]),
        }
    };
    let (status, answer) = if head.to_lowercase().contains("x-amz-target: amazonssm.getparameter") {
        if !head.contains("Credential=ROLEKEYID/") || !head.contains("role-session-token") {
            strangers.lock().unwrap().push(head);
        }
        parameter(&body, &parameters.lock().unwrap())
    } else {
        metadata(head.split(' ').nth(1)?)
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/x-amz-json-1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 600\r\n\
         Content-Length: {}\r\n\r\n{answer}",
        answer.len()
    );
    stream.write_all(answer.as_bytes()).ok()
}

fn parameter(body: &str, parameters: &BTreeMap<String, String>) -> (&'static str, String) {
    let asked: Value = serde_json::from_str(body).unwrap();
    assert_eq!(asked["WithDecryption"], true);
    match parameters.get(asked["Name"].as_str().unwrap()) {
        Some(value) => {
            let parameter = json!({"Name": asked["Name"], "Type": "SecureString", "Value": value});
            ("200 OK", json!({"Parameter": parameter}).to_string())
        }
        None => (
            "400 Bad Request",
            json!({"__type": "AccessDeniedException", "message": "not yours"}).to_string(),
        ),
    }
}

fn metadata(path: &str) -> (&'static str, String) {
    let credentials = json!({
        "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2026-01-01T00:00:00Z", "Expiration": "2999-01-01T00:00:00Z",
        "AccessKeyId": "ROLEKEYID", "SecretAccessKey": "role-secret", "Token": "role-session-token"
    });
    match path {
        "/latest/api/token" => ("200 OK", "a-token".to_owned()),
        "/latest/meta-data/instance-id" => ("200 OK", "i-0abc".to_owned()),
        "/latest/meta-data/iam/security-credentials/" => ("200 OK", "the-role".to_owned()),
        "/latest/meta-data/iam/security-credentials/the-role" => ("200 OK", credentials.to_string()),
        _ => ("404 Not Found", String::new()),
    }
}

fn bundle() -> Bundle {
    let config = json!({
        "gateway": {"mode": "local", "auth": {"token": {"source": "file", "path": "/run/skykoi/token"}}},
        "hooks": {"enabled": true, "token": {"source": "ssm", "name": HOOK}},
        "cron": {"webhookToken": {"source": "ssm", "name": GONE}}
    });
    Bundle {
        version: VERSION,
        min_reader: 1,
        token: TOKEN.into(),
        previous_token: None,
        tls: Tls {
            certificate: "CERT".to_owned(),
            key: "KEY".into(),
        },
        volume_id: "vol-0123456789abcdef0".to_owned(),
        config_sha256: digest::sha256(&config),
        config,
        owner: Owner::default(),
        devices: Vec::new(),
        sudo: false,
    }
}

async fn wake(gateway: &Gateway, token: &str) -> String {
    let body = r#"{"text": "hello", "mode": "next-heartbeat"}"#;
    let head = format!(
        "POST /hooks/wake HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\nContent-Length: {}",
        body.len()
    );
    let answer = gateway.http(&format!("{head}\r\n\r\n{body}")).await;
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_secret_in_ssm_is_read_with_the_role_and_follows_its_parameter() {
    let cloud = Cloud::start();
    let home = Home::new();
    let identity = json!({"agentUid": "u-1", "cluster": "prod", "region": "eu-central-1"});
    fs::create_dir_all(home.path("etc/skykoi")).unwrap();
    fs::write(home.path("etc/skykoi/bootstrap.json"), identity.to_string()).unwrap();
    cloud.put(BUNDLE, &bundle().encode().unwrap());
    cloud.put(HOOK, "first-hook-token-01\n");
    let said = cloud.bootstrap(&home);
    assert!(
        said.contains(&format!(
            "warning: parameter {GONE}: AccessDeniedException: not yours; the config refers to it"
        )),
        "{said}"
    );
    assert!(!said.contains("first-hook-token") && !said.contains(TOKEN), "{said}");
    assert_eq!(*cloud.strangers.lock().unwrap(), Vec::<String>::new());
    let kept = home.path(SecretRef::ssm_file(HOOK).trim_start_matches('/'));
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&kept).unwrap().permissions());
    assert_eq!(
        (fs::read_to_string(&kept).unwrap().as_str(), mode & 0o777),
        ("first-hook-token-01\n", 0o600)
    );

    let root = home.0.display().to_string();
    let gateway = Gateway::run(home, &["--root", &root]);
    assert_eq!(wake(&gateway, "first-hook-token-01").await, "200");
    assert_eq!(wake(&gateway, "other-hook-token-01").await, "401");
    cloud.put(HOOK, "other-hook-token-01");
    cloud.bootstrap(&gateway.home);
    assert_eq!(
        wake(&gateway, "other-hook-token-01").await,
        "200",
        "read anew with each call"
    );
    assert_eq!(wake(&gateway, "first-hook-token-01").await, "401");
}
