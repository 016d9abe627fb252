//! What a refusal of the cloud means: one table from AWS error codes to reasons, retry classes and advice.

use std::time::Duration;

use crate::api::Reason;

/// When it makes sense to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// The next round: it heals by itself within seconds (read-after-write lag, propagation).
    Soon,
    /// With growing pauses: the cloud is busy or unreachable.
    BackOff,
    /// Minutes apart: people must act, and may do so outside of the cluster (quota, permission).
    Slow,
    /// Not before the wish changes.
    Never,
}

/// A refusal in our terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For the conditions.
    pub reason: Reason,
    /// When to try again.
    pub retry: Retry,
    /// What happened and what to do, for people; names operation and code.
    pub message: String,
    /// AWS's own code, or an empty string when no answer came.
    pub code: String,
    /// Surely nothing came of the call. Otherwise it, or an earlier one with its token, may have had an effect that must be read back.
    pub definite: bool,
}

/// EC2: the same token with other parameters.
pub const TOKEN_MISMATCH: &str = "IdempotentParameterMismatch";
/// EC2: the token belongs to an instance that is terminated.
pub const TOKEN_TERMINATED: &str = "IdempotentInstanceTerminated";

/// After so many refusals in a row a thing that should have healed by itself is called by its name (about two minutes).
pub const SOON_LIMIT: u32 = 30;

impl Refusal {
    /// How long to wait after the `count`th refusal in a row; `None`: until the wish changes.
    ///
    /// The figures keep the promised bounds: at most 12 tries in the first hour and one each 10 minutes later where people must act, at
    /// most 30 an hour where capacity is missing.
    #[must_use]
    pub fn pause(&self, count: u32) -> Option<Duration> {
        let seconds = match self.retry {
            Retry::Never => return None,
            Retry::Soon => soon(count),
            Retry::BackOff if self.reason == Reason::InsufficientCapacity => capacity(count),
            Retry::BackOff => (1_u64 << count.saturating_sub(1).min(5)).min(30),
            Retry::Slow => slow(count),
        };
        Some(Duration::from_secs(seconds))
    }

    /// Whether an agent with this refusal is stalled rather than on its way.
    #[must_use]
    pub fn stalls(&self, count: u32) -> bool {
        match self.retry {
            Retry::Slow | Retry::Never => true,
            Retry::Soon => count > SOON_LIMIT,
            Retry::BackOff => false,
        }
    }

    /// The reason to show after `count` refusals in a row: waiting for a profile ends as a profile that is not there.
    #[must_use]
    pub fn reason_after(&self, count: u32) -> Reason {
        if self.reason == Reason::WaitingForIdentity && self.stalls(count) {
            Reason::ProfileNotFound
        } else {
            self.reason
        }
    }
}

fn soon(count: u32) -> u64 {
    match count {
        0..=6 => 1,
        7..=10 => 2,
        11..=SOON_LIMIT => 5,
        _ => 60,
    }
}

fn capacity(count: u32) -> u64 {
    match count {
        0 | 1 => 30,
        2 => 60,
        3 => 120,
        _ => 150,
    }
}

fn slow(count: u32) -> u64 {
    match count {
        0 | 1 => 60,
        2 => 120,
        3..=11 => 360,
        _ => 600,
    }
}

/// AWS's words for too many calls.
const THROTTLES: &[&str] = &[
    "RequestLimitExceeded",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestThrottled",
    "RequestThrottledException",
    "EC2ThrottledException",
    "TooManyRequestsException",
    "PriorRequestNotComplete",
    "BandwidthLimitExceeded",
    "SlowDown",
];

/// One row of the table: a class of codes and what it means.
struct Row {
    /// Codes, exact.
    codes: &'static [&'static str],
    /// A text that the message must contain (lower case); empty: any.
    pattern: &'static str,
    /// The reason.
    reason: Reason,
    /// The retry class.
    retry: Retry,
    /// Whether the call surely had no effect.
    definite: bool,
    /// What to do.
    advice: &'static str,
}

const fn row(codes: &'static [&'static str], reason: Reason, retry: Retry, advice: &'static str) -> Row {
    Row {
        codes,
        pattern: "",
        reason,
        retry,
        definite: true,
        advice,
    }
}

const fn when(
    codes: &'static [&'static str],
    pattern: &'static str,
    reason: Reason,
    retry: Retry,
    advice: &'static str,
) -> Row {
    Row {
        codes,
        pattern,
        reason,
        retry,
        definite: true,
        advice,
    }
}

const fn unsure(codes: &'static [&'static str], reason: Reason, retry: Retry, advice: &'static str) -> Row {
    Row {
        codes,
        pattern: "",
        reason,
        retry,
        definite: false,
        advice,
    }
}

/// First match wins: rows with a pattern stand before the row of the same code without one.
const TABLE: &[Row] = &[
    // The launch and its token.
    unsure(
        &[TOKEN_MISMATCH],
        Reason::Launching,
        Retry::Soon,
        "the recorded launch is looked up and, if it never happened, recorded anew",
    ),
    unsure(
        &[TOKEN_TERMINATED],
        Reason::Replacing,
        Retry::Soon,
        "the instance of this launch is gone; the next launch replaces it",
    ),
    row(
        &["InvalidInstanceID.NotFound"],
        Reason::Launching,
        Retry::Soon,
        "EC2 does not show the instance yet; it is asked again",
    ),
    row(
        &["InvalidInstanceID.Malformed"],
        Reason::InvalidSpec,
        Retry::Never,
        "the recorded instance id is not one; restore status",
    ),
    when(
        &[
            "InvalidParameterValue",
            "InvalidParameterCombination",
            "InvalidIamInstanceProfileArn.Malformed",
        ],
        "iam instance profile",
        Reason::WaitingForIdentity,
        Retry::Soon,
        "a new instance profile takes seconds to reach EC2; if this lasts, check that the profile exists and holds a role",
    ),
    when(
        &["InvalidParameterValue", "InvalidParameterCombination"],
        "no associated iam role",
        Reason::WaitingForIdentity,
        Retry::Soon,
        "the profile's role takes seconds to reach EC2; if this lasts, check that the profile holds a role",
    ),
    when(
        &["InvalidParameterValue", "InvalidUserData.Malformed"],
        "16384",
        Reason::UserDataTooLarge,
        Retry::Never,
        "user data may have at most 16384 bytes; shorten the artifact URL or bake the image",
    ),
    row(
        &["InvalidUserData.Malformed"],
        Reason::UserDataTooLarge,
        Retry::Never,
        "EC2 does not take the user data",
    ),
    row(
        &[
            "InsufficientInstanceCapacity",
            "InsufficientHostCapacity",
            "InsufficientReservedInstanceCapacity",
            "InsufficientCapacity",
            "InsufficientFreeAddressesInSubnet",
        ],
        Reason::InsufficientCapacity,
        Retry::BackOff,
        "tried again with pauses; another instance type or more subnets in the plan help",
    ),
    row(
        &["Unsupported", "UnsupportedOperation"],
        Reason::InsufficientCapacity,
        Retry::BackOff,
        "this zone does not offer the combination; choose another instance type or subnet",
    ),
    row(
        &[
            "VcpuLimitExceeded",
            "InstanceLimitExceeded",
            "VolumeLimitExceeded",
            "AddressLimitExceeded",
            "MaxSpotInstanceCountExceeded",
            "ResourceCountExceeded",
            "SnapshotLimitExceeded",
            "RulesPerSecurityGroupLimitExceeded",
            "SecurityGroupLimitExceeded",
            "SecurityGroupsPerInterfaceLimitExceeded",
            "SecurityGroupsPerInstanceLimitExceeded",
            "NetworkInterfaceLimitExceeded",
            "TagLimitExceeded",
            "LimitExceeded",
            "LimitExceededException",
            "ParameterLimitExceeded",
        ],
        Reason::QuotaExceeded,
        Retry::Slow,
        "ask AWS for a higher quota, or free something",
    ),
    row(
        &[
            "PendingVerification",
            "OptInRequired",
            "Blocked",
            "AccountDisabled",
            "SubscriptionRequiredException",
        ],
        Reason::QuotaExceeded,
        Retry::Slow,
        "the account may not do this yet; finish its verification with AWS",
    ),
    when(
        &["AuthFailure", "UnauthorizedOperation"],
        "not authorized for images",
        Reason::ImageNotFound,
        Retry::Slow,
        "the account has no right to launch this image; share it, or name another one",
    ),
    row(
        &[
            "InvalidAMIID.NotFound",
            "InvalidAMIID.Unavailable",
            "InvalidAMIID.Malformed",
            "InvalidAMIName.NotFound",
        ],
        Reason::ImageNotFound,
        Retry::Slow,
        "name an image that exists in this region in spec.instance.image",
    ),
    row(
        &[
            "InvalidSubnetID.NotFound",
            "InvalidSubnetID.Malformed",
            "InvalidSubnet",
            "VPCIdNotSpecified",
            "DefaultVpcDoesNotExist",
            "MissingInput",
        ],
        Reason::SubnetNotFound,
        Retry::Slow,
        "name a subnet of this region in the plan's network.subnetIds or in spec.instance.subnetId",
    ),
    row(
        &["InvalidVpcID.NotFound"],
        Reason::SubnetNotFound,
        Retry::Slow,
        "the subnet's VPC is not there; name another subnet",
    ),
    row(
        &[
            "InvalidGroup.NotFound",
            "InvalidGroupId.Malformed",
            "InvalidSecurityGroupID.NotFound",
        ],
        Reason::Repairing,
        Retry::Soon,
        "the security group is not visible (yet); it is looked up, and made again if it is gone",
    ),
    row(
        &["InvalidGroup.Duplicate"],
        Reason::Repairing,
        Retry::Soon,
        "a group of this name is there already; its claim is read and, if it is ours, it is used",
    ),
    row(
        &["InvalidPermission.Duplicate", "InvalidPermission.NotFound"],
        Reason::Repairing,
        Retry::Soon,
        "the rules are read again",
    ),
    row(
        &[
            "DependencyViolation",
            "DeleteConflict",
            "InvalidGroup.InUse",
            "CannotDelete",
        ],
        Reason::DependencyViolation,
        Retry::BackOff,
        "something still uses it; it is tried again until the holder is gone",
    ),
    when(
        &["InvalidParameterCombination", "InvalidParameterValue"],
        "instance type",
        Reason::InvalidSpec,
        Retry::Never,
        "choose an instance type that exists in this region and fits the image",
    ),
    row(
        &["InvalidInstanceType", "InvalidInstanceType.NotFound"],
        Reason::InvalidSpec,
        Retry::Never,
        "choose an instance type that exists in this region in spec.instance.type",
    ),
    row(
        &[
            "InvalidSnapshot.NotFound",
            "InvalidSnapshotID.Malformed",
            "InvalidSnapshotID.NotFound",
        ],
        Reason::SnapshotNotFound,
        Retry::Slow,
        "name a snapshot of this region in spec.storage.restoreFrom",
    ),
    row(
        &[
            "InvalidKMSKey.InvalidState",
            "InvalidKmsKey.InvalidState",
            "KMSKeyNotAccessibleFault",
            "KMSInvalidStateException",
        ],
        Reason::InvalidSpec,
        Retry::Slow,
        "the KMS key of spec.storage.kmsKeyId cannot be used; enable it and allow EC2 to use it",
    ),
    // States in transit.
    row(
        &[
            "IncorrectInstanceState",
            "IncorrectState",
            "VolumeInUse",
            "InvalidVolume.NotFound",
            "InvalidState",
        ],
        Reason::Repairing,
        Retry::Soon,
        "it is in transit; the state is read again",
    ),
    row(
        &["InvalidVolume.ZoneMismatch"],
        Reason::SubnetNotFound,
        Retry::Slow,
        "the data volume never leaves its zone; give the plan a subnet in the volume's zone",
    ),
    row(
        &[
            "SnapshotCreationPerVolumeRateExceeded",
            "ConcurrentSnapshotLimitExceeded",
        ],
        Reason::Throttled,
        Retry::BackOff,
        "tried again when the running snapshots are done",
    ),
    row(
        &["OperationNotPermitted"],
        Reason::TerminationProtected,
        Retry::Slow,
        "the instance is protected against it; take the protection off",
    ),
    // IAM.
    row(
        &["EntityAlreadyExists", "EntityAlreadyExistsException"],
        Reason::WaitingForIdentity,
        Retry::Soon,
        "it is there already and is read again",
    ),
    row(
        &["NoSuchEntity", "NoSuchEntityException"],
        Reason::WaitingForIdentity,
        Retry::Soon,
        "IAM does not show it yet; it is asked again",
    ),
    row(
        &[
            "MalformedPolicyDocument",
            "MalformedPolicyDocumentException",
            "InvalidInput",
            "InvalidInputException",
        ],
        Reason::InvalidSpec,
        Retry::Slow,
        "IAM does not take the document; check the model ids and the permissions boundary of the plan",
    ),
    row(
        &[
            "ConcurrentModification",
            "ConcurrentModificationException",
            "UnmodifiableEntity",
        ],
        Reason::Throttled,
        Retry::BackOff,
        "somebody else changes it at the same time; tried again",
    ),
    // SSM.
    row(
        &["ParameterAlreadyExists"],
        Reason::Repairing,
        Retry::Soon,
        "the parameter is there already and is read again",
    ),
    row(
        &["ParameterNotFound"],
        Reason::Repairing,
        Retry::Soon,
        "the parameter is not there (yet)",
    ),
    row(
        &["TooManyUpdates"],
        Reason::Throttled,
        Retry::BackOff,
        "tried again with pauses",
    ),
    row(
        &["ParameterMaxVersionLimitExceeded", "ValidationException"],
        Reason::ConfigRejected,
        Retry::Slow,
        "SSM does not take the bundle; see the message",
    ),
    // Who we are.
    when(
        &["UnauthorizedOperation", "AccessDenied", "AccessDeniedException"],
        "passrole",
        Reason::Unauthorized,
        Retry::Slow,
        "allow the operator iam:PassRole on the role of the instance profile",
    ),
    row(
        &[
            "UnauthorizedOperation",
            "AccessDenied",
            "AccessDeniedException",
            "UnauthorizedSSMAccess",
            "NotAuthorized",
        ],
        Reason::Unauthorized,
        Retry::Slow,
        "allow the operator's role this action",
    ),
    row(
        &[
            "AuthFailure",
            "ExpiredToken",
            "ExpiredTokenException",
            "RequestExpired",
            "InvalidClientTokenId",
            "InvalidClientTokenIdException",
            "UnrecognizedClientException",
            "SignatureDoesNotMatch",
            "InvalidSignatureException",
            "IncompleteSignature",
            "MissingAuthenticationToken",
            "InvalidAccessKeyId",
        ],
        Reason::Unauthorized,
        Retry::Slow,
        "AWS does not know the operator's credentials; renew them and check the clock",
    ),
    // Busy or broken.
    row(
        THROTTLES,
        Reason::Throttled,
        Retry::BackOff,
        "AWS asks for fewer calls; tried again with pauses",
    ),
    unsure(
        &[
            "InternalError",
            "InternalFailure",
            "InternalServerError",
            "InternalServiceError",
            "ServiceUnavailable",
            "ServiceUnavailableException",
            "Unavailable",
            "ServiceFailure",
            "ServiceFailureException",
            "RequestTimeout",
            "RequestTimeoutException",
            "",
        ],
        Reason::CloudUnreachable,
        Retry::BackOff,
        "tried again with pauses; what it did is read back first",
    ),
];

/// Reads a refusal. `code` is AWS's error code, or empty when no answer came (a timeout, a lost connection).
///
/// A code that the table does not know falls back by its family and, at last, to `CloudUnreachable` with pauses: nothing is concluded
/// from it, the message shows it to people, and the outcome counts as unknown.
#[must_use]
pub fn classify(operation: &str, code: &str, message: &str) -> Refusal {
    let lower = message.to_lowercase();
    let row = TABLE
        .iter()
        .find(|row| row.codes.contains(&code) && lower.contains(row.pattern));
    let (reason, retry, definite, advice) = match row {
        Some(row) => (row.reason, row.retry, row.definite, row.advice),
        None => family(code),
    };
    Refusal {
        reason,
        retry,
        message: sentence(operation, code, message, advice),
        code: code.into(),
        definite,
    }
}

/// Whether AWS refused because of the rate of calls.
#[must_use]
pub fn is_throttle(code: &str) -> bool {
    THROTTLES.contains(&code) || code.contains("Throttl")
}

/// What the form of an unknown code tells.
fn family(code: &str) -> (Reason, Retry, bool, &'static str) {
    let slow = |reason, advice| (reason, Retry::Slow, true, advice);
    if code.ends_with("LimitExceeded") || code.ends_with("QuotaExceeded") {
        slow(Reason::QuotaExceeded, "ask AWS for a higher quota, or free something")
    } else if code.contains("Throttl") {
        (
            Reason::Throttled,
            Retry::BackOff,
            true,
            "AWS asks for fewer calls; tried again with pauses",
        )
    } else if code.starts_with("Unauthorized") || code.starts_with("AccessDenied") {
        slow(Reason::Unauthorized, "allow the operator's role this action")
    } else if code.starts_with("Insufficient") {
        (
            Reason::InsufficientCapacity,
            Retry::BackOff,
            true,
            "tried again with pauses; another type or subnet may help",
        )
    } else if ["Invalid", "Missing", "Malformed", "Validation"]
        .iter()
        .any(|prefix| code.starts_with(prefix))
    {
        slow(
            Reason::InvalidSpec,
            "AWS does not take the request; check the spec and the plan",
        )
    } else {
        (
            Reason::CloudUnreachable,
            Retry::BackOff,
            false,
            "tried again with pauses; what it did is read back first",
        )
    }
}

/// AWS's messages may be long (encoded authorization failures); a condition stays readable.
const MESSAGE_MAX: usize = 400;

fn sentence(operation: &str, code: &str, message: &str, advice: &str) -> String {
    let told: String = message.trim().trim_end_matches('.').chars().take(MESSAGE_MAX).collect();
    let code = if code.is_empty() { "no answer" } else { code };
    if told.is_empty() {
        format!("{operation}: {code}. What to do: {advice}.")
    } else {
        format!("{operation}: {code}: {told}. What to do: {advice}.")
    }
}

#[cfg(test)]
mod tests;
