#![allow(clippy::too_many_lines, reason = "a table is read from top to bottom")]

use std::time::Duration;

use super::{NO_CREDENTIALS, Refusal, Retry, TABLE, classify, is_throttle, lines};
use crate::api::Reason;

#[test]
fn codes_mean_what_the_table_says() {
    let cases = [
        ("IdempotentParameterMismatch", "", Reason::Launching, Retry::Soon, false),
        (
            "IdempotentInstanceTerminated",
            "",
            Reason::Replacing,
            Retry::Soon,
            false,
        ),
        ("InvalidInstanceID.NotFound", "", Reason::Launching, Retry::Soon, true),
        (
            "InvalidInstanceID.Malformed",
            "",
            Reason::InvalidSpec,
            Retry::Never,
            true,
        ),
        (
            "InvalidParameterValue",
            "Invalid IAM Instance Profile name",
            Reason::WaitingForIdentity,
            Retry::Soon,
            true,
        ),
        (
            "InvalidParameterValue",
            "IAM Instance Profile has no associated IAM Roles",
            Reason::WaitingForIdentity,
            Retry::Soon,
            true,
        ),
        (
            "InvalidParameterValue",
            "User data is limited to 16384 bytes",
            Reason::UserDataTooLarge,
            Retry::Never,
            true,
        ),
        (
            "InvalidParameterValue",
            "Invalid instance type: t9.huge",
            Reason::InvalidSpec,
            Retry::Never,
            true,
        ),
        (
            "InvalidParameterValue",
            "Invalid value 't9.small' for InstanceType.",
            Reason::InvalidSpec,
            Retry::Never,
            true,
        ),
        (
            "InvalidParameterValue",
            "something new",
            Reason::InvalidSpec,
            Retry::Slow,
            true,
        ),
        (
            "InsufficientInstanceCapacity",
            "",
            Reason::InsufficientCapacity,
            Retry::BackOff,
            true,
        ),
        (
            "InsufficientFreeAddressesInSubnet",
            "",
            Reason::InsufficientCapacity,
            Retry::BackOff,
            true,
        ),
        ("Unsupported", "", Reason::InsufficientCapacity, Retry::BackOff, true),
        ("VcpuLimitExceeded", "", Reason::QuotaExceeded, Retry::Slow, true),
        ("LimitExceeded", "", Reason::QuotaExceeded, Retry::Slow, true),
        ("PendingVerification", "", Reason::QuotaExceeded, Retry::Slow, true),
        ("InvalidAMIID.NotFound", "", Reason::ImageNotFound, Retry::Slow, true),
        (
            "AuthFailure",
            "Not authorized for images: [ami-1]",
            Reason::ImageNotFound,
            Retry::Slow,
            true,
        ),
        (
            "AuthFailure",
            "AWS was not able to validate the provided access credentials",
            Reason::Unauthorized,
            Retry::Slow,
            true,
        ),
        (
            "InvalidSubnetID.NotFound",
            "",
            Reason::SubnetNotFound,
            Retry::Slow,
            true,
        ),
        ("InvalidGroup.NotFound", "", Reason::Repairing, Retry::Soon, true),
        ("InvalidGroup.Duplicate", "", Reason::Repairing, Retry::Soon, true),
        ("InvalidPermission.Duplicate", "", Reason::Repairing, Retry::Soon, true),
        (
            "DependencyViolation",
            "",
            Reason::DependencyViolation,
            Retry::BackOff,
            true,
        ),
        (
            "InvalidSnapshot.NotFound",
            "",
            Reason::SnapshotNotFound,
            Retry::Slow,
            true,
        ),
        ("IncorrectInstanceState", "", Reason::Repairing, Retry::Soon, true),
        (
            "InvalidVolume.ZoneMismatch",
            "",
            Reason::SubnetNotFound,
            Retry::Slow,
            true,
        ),
        (
            "VolumeModificationRateExceeded",
            "",
            Reason::Throttled,
            Retry::Slow,
            true,
        ),
        (
            "IncorrectModificationState",
            "",
            Reason::Throttled,
            Retry::BackOff,
            true,
        ),
        (
            "OperationNotPermitted",
            "",
            Reason::TerminationProtected,
            Retry::Slow,
            true,
        ),
        ("EntityAlreadyExists", "", Reason::WaitingForIdentity, Retry::Soon, true),
        ("NoSuchEntity", "", Reason::WaitingForIdentity, Retry::Soon, true),
        ("DeleteConflict", "", Reason::DependencyViolation, Retry::BackOff, true),
        ("MalformedPolicyDocument", "", Reason::InvalidSpec, Retry::Slow, true),
        ("ConcurrentModification", "", Reason::Throttled, Retry::BackOff, true),
        ("UnauthorizedOperation", "", Reason::Unauthorized, Retry::Slow, true),
        ("AccessDeniedException", "", Reason::Unauthorized, Retry::Slow, true),
        ("ExpiredToken", "", Reason::Unauthorized, Retry::Slow, true),
        ("RequestLimitExceeded", "", Reason::Throttled, Retry::BackOff, true),
        ("ThrottlingException", "", Reason::Throttled, Retry::BackOff, true),
        ("InternalError", "", Reason::CloudUnreachable, Retry::BackOff, false),
        ("", "connection reset", Reason::CloudUnreachable, Retry::BackOff, false),
    ];
    for (code, message, reason, retry, definite) in cases {
        let refusal = classify("RunInstances", code, message);
        assert_eq!(
            (refusal.reason, refusal.retry, refusal.definite),
            (reason, retry, definite),
            "{code} {message}"
        );
    }
}

#[test]
fn unknown_codes_fall_back_safely() {
    let cases = [
        ("FlyingPigLimitExceeded", Reason::QuotaExceeded, Retry::Slow, true),
        ("PigThrottledNow", Reason::Throttled, Retry::BackOff, true),
        ("AccessDeniedForPigs", Reason::Unauthorized, Retry::Slow, true),
        ("InsufficientPigs", Reason::InsufficientCapacity, Retry::BackOff, true),
        ("InvalidPig.NotFound", Reason::InvalidSpec, Retry::Slow, true),
        ("PigsMightFly", Reason::CloudUnreachable, Retry::BackOff, false),
    ];
    for (code, reason, retry, definite) in cases {
        let refusal = classify("RunInstances", code, "");
        assert_eq!(
            (refusal.reason, refusal.retry, refusal.definite),
            (reason, retry, definite),
            "{code}"
        );
    }
}

#[test]
fn the_rate_of_calls_is_refused_with_many_words() {
    for code in [
        "RequestLimitExceeded",
        "Throttling",
        "EC2ThrottledException",
        "PigThrottledNow",
    ] {
        assert!(is_throttle(code), "{code}");
    }
    for code in ["", "VcpuLimitExceeded", "UnauthorizedOperation", "InternalError"] {
        assert!(!is_throttle(code), "{code}");
    }
}

#[test]
fn messages_name_operation_code_and_what_to_do() {
    let refusal = classify(
        "RunInstances",
        "UnauthorizedOperation",
        "You may not do iam:PassRole on resource role/x.",
    );
    assert_eq!(
        refusal.message,
        "RunInstances: UnauthorizedOperation: You may not do iam:PassRole on resource role/x. What to do: allow the operator iam:PassRole \
         on the role of the instance profile."
    );
    let long = classify("RunInstances", "UnauthorizedOperation", &"x".repeat(10_000));
    assert!(long.message.len() < 600, "{}", long.message.len());
    assert!(
        classify("PutBundle", "", "")
            .message
            .starts_with("PutBundle: no answer. What to do: ")
    );
}

/// Tries within a time, the first one at its beginning.
fn tries(refusal: &Refusal, within: Duration) -> u32 {
    let (mut at, mut count) = (Duration::ZERO, 0);
    while at < within {
        count += 1;
        at += refusal.pause(count).unwrap_or(Duration::MAX / 4);
    }
    count
}

#[test]
fn retries_keep_the_promised_bounds() {
    let hour = Duration::from_secs(3_600);
    let denied = classify("RunInstances", "UnauthorizedOperation", "");
    assert!(tries(&denied, hour) <= 12, "{}", tries(&denied, hour));
    assert!(tries(&denied, hour * 10) - tries(&denied, hour * 9) <= 6);
    let capacity = classify("RunInstances", "InsufficientInstanceCapacity", "");
    assert!(tries(&capacity, hour) <= 30, "{}", tries(&capacity, hour));
    assert_eq!(
        tries(&classify("RunInstances", "InvalidInstanceID.Malformed", ""), hour),
        1
    );
}

/// Launches of one agent while nothing has room, as the controller paces them: at once while an offering is left, else by the pauses.
fn launches(offerings: u32, within: Duration) -> u32 {
    let capacity = classify("RunInstances", "InsufficientInstanceCapacity", "");
    let (mut at, mut count, mut refused) = (Duration::ZERO, 0, Vec::new());
    while at < within {
        count += 1;
        refused.push(at);
        let lately = refused
            .iter()
            .filter(|then| at - **then < Duration::from_secs(180))
            .count();
        let left = u32::try_from(lately).unwrap() < offerings;
        let elsewhere = capacity.pause_elsewhere(count).filter(|_| left);
        at += elsewhere.or(capacity.pause(count)).unwrap();
    }
    count
}

#[test]
fn missing_capacity_costs_at_most_30_launches_an_hour_over_all_offerings() {
    let hour = Duration::from_secs(3_600);
    for offerings in [1, 2, 3, 8, 64] {
        let count = launches(offerings, hour);
        assert!(count <= 30, "{offerings} offerings: {count}");
    }
    assert_eq!(launches(6, Duration::from_secs(6)), 6, "all offerings within seconds");
}

#[test]
fn a_denial_names_action_resource_and_reason_and_shows_no_encoded_text() {
    let told = |operation: &str, message: &str| classify(operation, "UnauthorizedOperation", message).message;
    let whole = "You are not authorized to perform this operation. User: arn:aws:sts::1:assumed-role/koi/x is not authorized to perform: \
                 ec2:RunInstances on resource: arn:aws:ec2:us-east-1:1:instance/* because no identity-based policy allows the \
                 ec2:RunInstances action. Encoded authorization failure message: 4GIOHlTkIaWHQD0Q0m6XSnuUMCm-abcdefghijklmn";
    assert_eq!(
        told("RunInstances", whole),
        "RunInstances: UnauthorizedOperation: the operator may not do ec2:RunInstances on arn:aws:ec2:us-east-1:1:instance/* (no \
         identity-based policy allows the ec2:RunInstances action). What to do: allow the operator's role this action; the policy that it \
         needs comes with the chart."
    );
    let scp = "User: x is not authorized to perform: iam:CreateRole on resource: arn:aws:iam::1:role/r with an explicit deny in a service \
               control policy";
    let told_scp = classify("CreateRole", "AccessDenied", scp).message;
    assert!(
        told_scp.contains("iam:CreateRole on arn:aws:iam::1:role/r (explicit deny in a service control policy)"),
        "{told_scp}"
    );
    assert!(told_scp.contains("a policy above the operator's own"), "{told_scp}");
    let own = "User: x is not authorized to perform: iam:CreateRole on resource: arn:aws:iam::1:role/r with an explicit deny in an \
               identity-based policy";
    let told_own = classify("CreateRole", "AccessDenied", own).message;
    assert!(told_own.contains("a policy of the operator's own role"), "{told_own}");
    let bare = "You are not authorized to perform this operation. Encoded authorization failure message: SECRET";
    let named = told("StopInstances", bare);
    assert!(
        named.contains("(ec2:StopInstances)") && !named.contains("SECRET"),
        "{named}"
    );
    for (operation, action) in [
        ("PutParameter", "ssm:PutParameter"),
        ("GetRolePolicy", "iam:GetRolePolicy"),
        ("AddRoleToInstanceProfile", "iam:AddRoleToInstanceProfile"),
        ("AssumeRole", "sts:AssumeRole"),
        ("AssociateIamInstanceProfile", "ec2:AssociateIamInstanceProfile"),
    ] {
        let message = classify(operation, "AccessDenied", "").message;
        assert!(message.contains(action), "{message}");
    }
    let trust = "User: x is not authorized to perform: sts:AssumeRole on resource: arn:aws:iam::2:role/koi";
    let trust = classify("AssumeRole", "AccessDenied", trust).message;
    assert!(
        trust.contains("trust policy") && trust.contains("arn:aws:iam::2:role/koi"),
        "{trust}"
    );
}

#[test]
fn hostile_messages_stay_short_lines() {
    let nasty = format!(
        "not authorized to perform: {}\n\u{1b}[31m on resource: {}",
        "a".repeat(9_000),
        "ß".repeat(9_000)
    );
    for message in [
        nasty.as_str(),
        "not authorized to perform: ",
        "ſ encoded authorization failure message: \u{0}",
        "\u{0}",
    ] {
        let told = classify("RunInstances", "UnauthorizedOperation", message).message;
        assert!(told.chars().count() < 700 && !told.contains(char::is_control), "{told}");
    }
}

#[test]
fn the_table_knows_codes_of_every_service_that_the_operator_calls() {
    let codes: std::collections::BTreeSet<&str> = lines().flat_map(|line| line.codes.iter().copied()).collect();
    assert!(codes.len() >= 40, "{}", codes.len());
    for line in lines() {
        assert!(
            !line.advice.is_empty() && !line.advice.ends_with('.'),
            "{:?}",
            line.codes
        );
        assert_eq!(
            line.pattern,
            line.pattern.to_lowercase(),
            "messages are compared in lower case"
        );
    }
}

#[test]
fn a_profile_that_never_shows_becomes_a_profile_that_is_not_there() {
    let refusal = classify(
        "RunInstances",
        "InvalidParameterValue",
        "Invalid IAM Instance Profile name",
    );
    assert_eq!(
        (refusal.stalls(3), refusal.reason_after(3)),
        (false, Reason::WaitingForIdentity)
    );
    let patience: Duration = (1..=super::SOON_LIMIT).filter_map(|count| refusal.pause(count)).sum();
    assert!(
        patience >= Duration::from_secs(110) && patience <= Duration::from_secs(180),
        "{patience:?}"
    );
    let after = super::SOON_LIMIT + 1;
    assert_eq!(
        (refusal.stalls(after), refusal.reason_after(after)),
        (true, Reason::ProfileNotFound)
    );
}

#[test]
fn no_row_is_hidden_by_an_earlier_one() {
    for (position, row) in TABLE.iter().enumerate() {
        for code in row.codes {
            let first = TABLE.iter().position(|other| {
                other.codes.contains(code) && (other.pattern.is_empty() || row.pattern.contains(other.pattern))
            });
            assert_eq!(first, Some(position), "{code} {:?}", row.pattern);
        }
    }
}

#[test]
fn pauses_grow_as_the_promises_say() {
    let pauses = |code: &str, counts: &[u32]| -> Vec<u64> {
        let refusal = classify("RunInstances", code, "");
        let pause = |count: &u32| refusal.pause(*count).unwrap_or_default().as_secs();
        counts.iter().map(pause).collect()
    };
    assert_eq!(
        pauses("InsufficientInstanceCapacity", &[0, 1, 2, 3, 4, 99]),
        [30, 30, 60, 120, 180, 180]
    );
    assert_eq!(
        pauses("UnauthorizedOperation", &[0, 1, 2, 3, 11, 12, 99]),
        [60, 60, 120, 360, 360, 600, 600]
    );
    assert_eq!(
        pauses("RequestLimitExceeded", &[0, 1, 2, 3, 4, 5, 6, 7, 99]),
        [1, 1, 2, 4, 8, 16, 30, 30, 30]
    );
    assert_eq!(
        pauses("InvalidGroup.NotFound", &[0, 6, 7, 10, 11, 30, 31]),
        [1, 1, 2, 2, 5, 5, 60]
    );
}

#[test]
fn what_should_be_over_soon_stalls_only_when_it_lasts() {
    let stalls = |code: &str, count| classify("RunInstances", code, "").stalls(count);
    assert!(!stalls("InvalidGroup.NotFound", super::SOON_LIMIT));
    assert!(stalls("InvalidGroup.NotFound", super::SOON_LIMIT + 1));
    assert!(!stalls("RequestLimitExceeded", 1000));
    assert!(stalls("UnauthorizedOperation", 1));
    assert!(
        !stalls("VolumeModificationRateExceeded", 1000),
        "nobody has to act, however long it takes"
    );
}

#[test]
fn who_is_not_known_is_not_told_of_an_action_that_he_lacks() {
    let told = |code: &str| classify("DescribeInstances", code, "no").message;
    assert!(
        told("AccessDenied").contains("(ec2:DescribeInstances)"),
        "{}",
        told("AccessDenied")
    );
    for code in ["AuthFailure", "ExpiredToken", super::NO_CREDENTIALS] {
        assert!(!told(code).contains("ec2:"), "{}", told(code));
    }
}

#[test]
fn credentials_may_come_late_and_are_missed_within_the_promised_time() {
    let missing = classify("GetCallerIdentity", super::NO_CREDENTIALS, "");
    let first = (1..).find(|count| missing.stalls(*count)).unwrap();
    let waited: std::time::Duration = (1..first).filter_map(|count| missing.pause(count)).sum();
    // The tries themselves take time as well: that of the chain of providers.
    assert!((5..=15).contains(&waited.as_secs()), "{waited:?}");
}

#[test]
fn credentials_have_a_few_seconds_to_come() {
    let none = Refusal {
        reason: Reason::Unauthorized,
        retry: Retry::Soon,
        ..classify("GetCallerIdentity", NO_CREDENTIALS, "")
    };
    assert_eq!([8, 9, 10].map(|count| none.stalls(count)), [false, true, true]);
}
