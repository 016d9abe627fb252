use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{BundleScope, partition, policy_equal, role_policy, trust_policy};
use crate::observed::Place;

fn place(region: &str) -> Place {
    Place {
        account: "123456789012".into(),
        region: region.into(),
    }
}

fn models(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| format!("amazon-bedrock/{id}")).collect()
}

fn resources(ids: &[&str]) -> Value {
    let text = role_policy(
        "demo",
        &place("us-east-1"),
        &models(ids),
        &BundleScope::Agent("uid".into()),
    );
    let document: Value = serde_json::from_str(&text).unwrap();
    document["Statement"][0]["Resource"].clone()
}

#[test]
fn a_shared_role_reads_the_bundle_of_its_own_instance_alone() {
    let text = role_policy(
        "demo",
        &place("us-east-1"),
        &models(&["us.anthropic.claude-opus-4-6-v1"]),
        &BundleScope::SharedByInstance,
    );
    let expected = json!({
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "InvokeModels",
                "Effect": "Allow",
                "Action": ["bedrock:InvokeModel", "bedrock:InvokeModelWithResponseStream"],
                "Resource": [
                    "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-opus-4-6-v1",
                    "arn:aws:bedrock:*::foundation-model/anthropic.claude-opus-4-6-v1",
                ],
            },
            {
                "Sid": "ReadInferenceProfiles",
                "Effect": "Allow",
                "Action": ["bedrock:GetInferenceProfile"],
                "Resource": ["arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-opus-4-6-v1"],
            },
            {
                "Sid": "ReadOwnBundle",
                "Effect": "Allow",
                "Action": "ssm:GetParameter",
                "Resource": "arn:aws:ssm:us-east-1:123456789012:parameter/koi/demo/*",
                "Condition": {"StringLike": {"ec2:SourceInstanceARN": "*/${aws:ResourceTag/InstanceId}"}},
            },
        ],
    });
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
}

#[test]
fn an_own_role_reads_its_own_path_without_a_condition() {
    let text = role_policy(
        "demo",
        &place("cn-north-1"),
        &BTreeSet::new(),
        &BundleScope::Agent("uid".into()),
    );
    let expected = json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Sid": "ReadOwnBundle",
            "Effect": "Allow",
            "Action": "ssm:GetParameter",
            "Resource": "arn:aws-cn:ssm:cn-north-1:123456789012:parameter/koi/demo/uid/*",
        }],
    });
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
}

#[test]
fn each_kind_of_model_id_is_allowed_by_its_arns() {
    let profile = |name: &str| format!("arn:aws:bedrock:us-east-1:123456789012:inference-profile/{name}");
    let spread = |name: &str| format!("arn:aws:bedrock:*::foundation-model/{name}");
    let cases = [
        ("eu.anthropic.x", vec![profile("eu.anthropic.x"), spread("anthropic.x")]),
        (
            "global.anthropic.x",
            vec![profile("global.anthropic.x"), spread("anthropic.x")],
        ),
        (
            "amazon.nova-lite-v1:0",
            vec!["arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-lite-v1:0".to_owned()],
        ),
        ("us.anthropic.*", vec![profile("us.anthropic.*"), spread("anthropic.*")]),
        ("*", vec![profile("*"), spread("*")]),
        (
            "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc",
            vec![
                "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc".to_owned(),
                spread("*"),
            ],
        ),
    ];
    for (id, expected) in cases {
        assert_eq!(resources(&[id]), json!(expected), "{id}");
    }
}

#[test]
fn partitions_follow_the_region() {
    let cases = [
        ("us-east-1", "aws"),
        ("eu-central-2", "aws"),
        ("cn-north-1", "aws-cn"),
        ("us-gov-west-1", "aws-us-gov"),
        ("us-isob-east-1", "aws-iso-b"),
    ];
    for (region, expected) in cases {
        assert_eq!(partition(region), expected, "{region}");
    }
    assert!(trust_policy("cn-north-1").contains("ec2.amazonaws.com.cn"));
}

#[test]
fn documents_are_compared_by_what_they_say() {
    let ours = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["a:B","a:C"],"Resource":["x"]},{"Effect":"Deny","Action":"d:E","Resource":"y"}]}"#;
    let same = r#"{"Statement":[{"Resource":"y","Action":["d:E"],"Effect":"Deny"},{"Resource":"x","Action":["a:C","a:B"],"Effect":"Allow"}],"Version":"2012-10-17"}"#;
    let encoded: String = same.bytes().map(|byte| format!("%{byte:02X}")).collect();
    assert!(policy_equal(ours, same));
    assert!(policy_equal(ours, &encoded));
    for other in [
        ours.replace("a:C", "a:D"),
        ours.replace("Deny", "Allow"),
        ours.replace("\"x\"", "\"x\",\"z\""),
        "no JSON".into(),
        "%zz".into(),
    ] {
        assert!(!policy_equal(ours, &other), "{other}");
    }
}
