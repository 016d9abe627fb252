use std::io::Write;
use std::process::{Command, Stdio};

use super::{Artifact, Home, LIMIT, TooLarge, script, user_data};
use crate::api::{LaunchArtifact, LaunchStatus};

const HOME: Home<'_> = Home {
    cluster_id: "demo",
    agent_uid: "6f1c1f0e-8a39-4d0c-9e50-0f7f0a3b8f11",
    region: "eu-central-1",
};

fn artifact(url: &str) -> Artifact {
    Artifact {
        url: url.into(),
        sha256: "ab".repeat(32),
    }
}

/// Compared with a file beside this one; `KOI_BLESS=1` writes it anew.
fn golden(name: &str, text: &str) {
    let path = format!("{}/src/render/user_data/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("KOI_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    assert_eq!(
        text,
        std::fs::read_to_string(&path).unwrap(),
        "{name}: a changed template needs a new RENDERER"
    );
}

#[test]
fn the_script_is_byte_stable() {
    golden(
        "download.golden.sh",
        &script(Some(&artifact("https://example.org/koi-gateway")), HOME).unwrap(),
    );
    golden("baked.golden.sh", &script(None, HOME).unwrap());
}

#[test]
fn the_shell_can_read_it() {
    for artifact in [None, Some(artifact("https://example.org/it's?a=1&b=$(reboot)"))] {
        let text = script(artifact.as_ref(), HOME).unwrap();
        let mut shell = Command::new("sh")
            .arg("-n")
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        shell.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = shell.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}\n{text}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(!text.contains('@'), "a placeholder is left:\n{text}");
    }
}

#[test]
fn words_of_the_url_reach_no_shell() {
    let url = "https://example.org/it's?a=1&b=$(reboot)";
    let text = script(Some(&artifact(url)), HOME).unwrap();
    let line = text.lines().find(|line| line.starts_with("url=")).unwrap();
    let output = Command::new("sh")
        .arg("-c")
        .arg(format!("{line}; printf %s \"$url\""))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), url);
}

#[test]
fn a_script_that_ec2_would_not_take_is_refused() {
    assert!(
        script(Some(&artifact("https://example.org/koi-gateway")), HOME)
            .unwrap()
            .len()
            < LIMIT / 3
    );
    let long = artifact(&format!("https://example.org/{}", "x".repeat(LIMIT)));
    let Err(TooLarge { size }) = script(Some(&long), HOME) else {
        panic!("taken")
    };
    assert!(size > LIMIT);
}

#[test]
fn a_recorded_launch_renders_to_the_same_script() {
    let artifact = artifact("https://example.org/koi-gateway");
    let recorded = LaunchArtifact {
        url: artifact.url.clone(),
        sha256: artifact.sha256.clone(),
    };
    let launch = LaunchStatus {
        artifact: Some(recorded),
        ..LaunchStatus::default()
    };
    assert_eq!(user_data(&launch, HOME), script(Some(&artifact), HOME));
}

#[test]
fn the_last_byte_that_ec2_takes_is_taken() {
    let with = |letters: usize| {
        script(
            Some(&artifact(&format!("https://example.org/{}", "x".repeat(letters)))),
            HOME,
        )
    };
    let around = with(0).unwrap().len();
    let fits = LIMIT - around;
    assert_eq!(with(fits).unwrap().len(), LIMIT);
    assert_eq!(with(fits + 1), Err(TooLarge { size: LIMIT + 1 }));
}

#[test]
fn the_digest_of_a_script_is_its_sha256() {
    let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(super::sha256("abc"), known);
}
