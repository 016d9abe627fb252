use super::*;

fn claim() -> Claim {
    Claim {
        cluster_id: "demo".into(),
        agent_uid: "uid-1".into(),
        namespace: "team".into(),
        name: "ada".into(),
    }
}

#[test]
fn a_claim_is_the_installation_and_the_agent_together() {
    let with = |cluster: &str, uid: &str| {
        BTreeMap::from([
            (TAG_CLUSTER.to_owned(), cluster.to_owned()),
            (TAG_AGENT_UID.to_owned(), uid.to_owned()),
        ])
    };
    assert!(claim().matches(&with("demo", "uid-1")));
    assert!(claim().matches(&claim().tags(&BTreeMap::new())));
    for tags in [
        with("demo", "uid-2"),
        with("other", "uid-1"),
        with("", ""),
        BTreeMap::new(),
    ] {
        assert!(!claim().matches(&tags), "{tags:?}");
    }
    let shared = shared_tags("demo", &BTreeMap::from([("team".to_owned(), "x".to_owned())]));
    assert!(!claim().matches(&shared));
    assert_eq!((shared[TAG_CLUSTER].as_str(), shared["team"].as_str()), ("demo", "x"));
}

#[test]
fn a_launch_tag_reads_back_and_anything_else_does_not() {
    assert_eq!(parse_launch_tag(&launch_tag(12, 3)), Some((12, 3)));
    for text in [
        "",
        "1",
        "1-",
        "-1",
        "a-b",
        "1-2-x",
        "0-1",
        "1-0",
        "1000000001-1",
        "9223372036854775807-1",
    ] {
        assert_eq!(parse_launch_tag(text), None, "{text}");
    }
}

#[test]
fn a_token_tells_whose_launch_it_was() {
    let token = client_token("uid-1", 2, 5);
    assert!(token.len() <= 64 && token.is_ascii());
    assert!(is_token_of("uid-1", &token));
    assert_eq!(parse_client_token("uid-1", &token), Some((2, 5)));
    assert!(!is_token_of("uid-2", &token));
    let bare = token.trim_end_matches("-2-5");
    for other in ["", "koi-", bare, &format!("{bare}-"), &format!("{bare}-x-y")] {
        assert!(!is_token_of("uid-1", other), "{other}");
    }
}

#[test]
fn roles_begin_with_the_installation_and_are_one_for_each_agent() {
    let role = agent_role("demo", "uid-1");
    assert_eq!(agent_role_prefix("demo"), "koi-demo-");
    assert!(
        role.starts_with("koi-demo-") && role.len() == "koi-demo-".len() + 20,
        "{role}"
    );
    assert_ne!(role, agent_role("demo", "uid-2"));
    assert!(agent_role(&"x".repeat(63), "uid-1").len() <= 64);
}

#[test]
fn names_of_parameters_read_back() {
    let name = bundle_parameter("demo", "uid-1", "i-1");
    assert_eq!(name, "/koi/demo/uid-1/i-1");
    assert!(name.starts_with(&parameter_folder("demo")));
    assert_eq!(
        parse_bundle_parameter("demo", &name),
        Some(("uid-1".into(), "i-1".into()))
    );
    for other in [
        owner_parameter("demo"),
        bundle_parameter("demo2", "uid-1", "i-1"),
        bundle_parameter("demo", "", "i-1"),
        bundle_parameter("demo", "uid-1", "x"),
        format!("{name}/more"),
    ] {
        assert_eq!(parse_bundle_parameter("demo", &other), None, "{other}");
    }
    assert_eq!(tls_name("uid-1"), "uid-1.koi.internal");
    assert_eq!(token_secret("ada"), "ada-gateway");
}

#[test]
fn names_fit_into_what_aws_allows_and_stay_apart() {
    let cluster = "c".repeat(63);
    let role = agent_role(&cluster, "uid-1");
    assert_eq!(role.len(), 4 + 24 + 1 + 20, "IAM allows 64: {role}");
    assert_eq!(role, agent_role(&cluster, "uid-1"));
    // What was cut off counts as well.
    let longer = format!("{}d", "c".repeat(62));
    assert_eq!(agent_role_prefix(&cluster), agent_role_prefix(&longer));
    assert_ne!(role, agent_role(&longer, "uid-1"));
    assert_ne!(role, agent_role(&cluster, "uid-2"));
    let token = client_token("9f2c1c1e-5a3f-4a52-8f3e-0d6c2f3b7a11", i64::MAX, i64::MAX);
    assert!(token.len() <= 64 && token.is_ascii(), "EC2 allows 64: {token}");
    assert!(security_group(&cluster, &short_hash(&["rules"], 10)).len() <= 255);
    assert_ne!(short_hash(&["a", "b"], 20), short_hash(&["ab", ""], 20));
}

#[test]
fn an_image_id_is_one_of_ec2s_two_forms() {
    for id in ["ami-0123abcd", "ami-0123456789abcdef0"] {
        assert!(is_image_id(id), "{id}");
    }
    for text in [
        "",
        "ami-",
        "0123abcd",
        "ami-0123abcg",
        "ami-0123ABCD",
        "ami-0123abc",
        "ami-0123456789abcdef",
        "ami-0123456789abcdefg",
        "snap-0123abcd",
    ] {
        assert!(!is_image_id(text), "{text}");
    }
}

#[test]
fn what_agents_share_is_found_by_its_name() {
    assert_eq!(parameter_folder("demo"), "/koi/demo");
    assert!(bundle_parameter("demo", "uid-1", "i-1").starts_with("/koi/demo/"));
    assert_eq!(security_group("demo", "abc123"), "koi-demo-abc123");
}
