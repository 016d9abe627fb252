use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// Names with the addresses that they have, one answer after the other.
struct Names(Mutex<Vec<Vec<SocketAddr>>>);

impl Resolve for Names {
    fn resolve<'a>(&'a self, _host: &'a str, _port: u16) -> BoxFuture<'a, std::io::Result<Vec<SocketAddr>>> {
        let next = self.0.lock().unwrap().remove(0);
        Box::pin(async move { Ok(next) })
    }
}

fn names(answers: &[&[&str]]) -> Names {
    let parse = |texts: &&[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    Names(Mutex::new(answers.iter().map(parse).collect()))
}

fn target(text: &str) -> Target {
    Target::parse(text).unwrap()
}

#[test]
fn only_addresses_that_can_be_called_are_taken() {
    for bad in [
        "",
        "example.com",
        "/path",
        "ftp://example.com/",
        "https://user:pass@example.com/",
        "https://",
        "file:///etc/passwd",
        "https://a b/",
    ] {
        assert!(Target::parse(bad).is_err(), "{bad}");
    }
    assert!(Target::parse(&format!("https://example.com/{}", "x".repeat(3000))).is_err());
    let expected = Target {
        tls: true,
        host: "2001:db8::1".to_owned(),
        port: 8443,
        authority: "[2001:db8::1]:8443".to_owned(),
        path: "/a?b=c".to_owned(),
    };
    assert_eq!(target("https://[2001:db8::1]:8443/a?b=c"), expected);
}

#[test]
fn places_inside_are_told_from_those_outside() {
    let inside = [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "198.18.0.1",
        "192.0.2.1",
        "192.0.0.170",
        "240.0.0.1",
        "::1",
        "::",
        "fe80::1",
        "fd00:ec2::254",
        "fc00::1",
        "ff02::1",
        "::ffff:169.254.169.254",
        "::ffff:10.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "2001::1",
        "2001:db8::1",
        "::127.0.0.1",
        "3fff::1",
    ];
    for text in inside {
        assert!(!is_public(text.parse().unwrap()), "{text}");
    }
    for text in [
        "1.1.1.1",
        "52.95.110.1",
        "2606:4700::1111",
        "::ffff:1.1.1.1",
        "64:ff9b::101:101",
        "100.128.0.1",
    ] {
        assert!(is_public(text.parse().unwrap()), "{text}");
    }
}

#[tokio::test]
async fn what_leads_inside_is_refused_however_it_is_written() {
    let policy = Policy::default();
    for text in ["http://127.0.0.1/", "http://[::1]/", "http://localhost/"] {
        let names = names(&[&["127.0.0.1:80"]]);
        let refused = post(&target(text), &policy, &names, None, String::new()).await;
        assert!(matches!(refused, Err(WebhookError::Inside(_))), "{text}: {refused:?}");
    }
    // One good address does not make up for a bad one.
    let mixed = names(&[&["1.1.1.1:80", "10.0.0.1:80"]]);
    let refused = post(&target("http://rebind.example/"), &policy, &mixed, None, String::new()).await;
    assert!(matches!(refused, Err(WebhookError::Inside(_))), "{refused:?}");
    let none = names(&[&[]]);
    let refused = post(&target("http://nowhere.example/"), &policy, &none, None, String::new()).await;
    assert!(matches!(refused, Err(WebhookError::Unknown(_))), "{refused:?}");
}

#[tokio::test]
async fn no_list_allows_what_a_cloud_tells_a_machine_of_itself() {
    let allowed = ["169.254.169.254", "fd00:ec2::254", "metadata.example", "both.example"];
    let policy = Policy {
        allowed_hosts: allowed.map(str::to_owned).to_vec(),
        ..Policy::default()
    };
    for (text, resolved) in [
        ("http://169.254.169.254/latest", "1.1.1.1:80"),
        ("http://[fd00:ec2::254]/", "1.1.1.1:80"),
        ("http://[::ffff:169.254.169.254]/latest", "1.1.1.1:80"),
        ("http://metadata.example/", "169.254.170.2:80"),
        ("http://metadata.example/", "[fe80::1]:80"),
        ("http://both.example/", "[64:ff9b::a9fe:a9fe]:80"),
    ] {
        let names = names(&[&[resolved]]);
        let refused = pin(&target(text), &policy, &names).await;
        assert!(matches!(refused, Err(WebhookError::Machine(_))), "{text}: {refused:?}");
    }
}

#[tokio::test]
async fn the_address_that_was_looked_at_is_the_one_that_is_called() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let mut seen = Vec::new();
        for status in ["204 No Content", "302 Found\r\nLocation: http://127.0.0.1/"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let mut length = 0;
            while !String::from_utf8_lossy(&request[..length]).ends_with("{\"a\":1}") {
                length += stream.read(&mut request[length..]).await.unwrap();
            }
            seen.push(String::from_utf8_lossy(&request[..length]).to_lowercase());
            stream
                .write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes())
                .await
                .unwrap();
        }
        seen
    });
    let policy = Policy {
        allowed_hosts: vec!["Inner.example:7".to_owned()],
        ..Policy::default()
    };
    // The second look-up would lead elsewhere; there is none.
    let names = Names(Mutex::new(vec![vec![address], vec![address]]));
    let token = Redacted::new("secret-token");
    let call = async |path: &str| {
        let target = target(&format!("http://inner.example:7{path}"));
        post(&target, &policy, &names, Some(&token), "{\"a\":1}".to_owned()).await
    };
    call("/hook?x=1").await.unwrap();
    let answer = call("/moved").await;
    assert!(
        matches!(answer, Err(WebhookError::Answer(_, 302))),
        "a redirect is not followed: {answer:?}"
    );
    assert_eq!(names.0.lock().unwrap().len(), 0);
    let seen = serving.await.unwrap();
    assert!(seen[0].starts_with("post /hook?x=1 http/1.1\r\n"), "{}", seen[0]);
    assert!(seen[0].contains("\r\nhost: inner.example:7\r\n"), "{}", seen[0]);
    assert!(
        seen[0].contains("\r\nauthorization: bearer secret-token\r\n"),
        "{}",
        seen[0]
    );
}

#[tokio::test]
async fn a_place_that_says_nothing_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let policy = Policy {
        allowed_hosts: vec!["127.0.0.1".to_owned()],
        patience: Duration::from_millis(50),
    };
    let names = names(&[]);
    let target = target(&format!("http://{address}/"));
    let answer = post(&target, &policy, &names, None, String::new()).await;
    assert!(matches!(answer, Err(WebhookError::Slow(_))), "{answer:?}");
}
