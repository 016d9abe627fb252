//! The table: AWS's codes, and patterns of its messages, with what each of them means.

use super::{Retry, TOKEN_MISMATCH, TOKEN_TERMINATED};
use crate::api::Reason;

/// AWS's words for too many calls.
pub(super) const THROTTLES: &[&str] = &[
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

/// AWS's words for a security group that it does not find.
pub const MISSING_GROUP: &[&str] = &[
    "InvalidGroup.NotFound",
    "InvalidGroupId.Malformed",
    "InvalidSecurityGroupID.NotFound",
];

/// Our word for a call that was not made because nobody has credentials for us. They may only be late, as when a node starts.
pub const NO_CREDENTIALS: &str = "NoCredentials";

/// AWS's words for credentials that it does not know or no longer takes.
const CREDENTIALS: &[&str] = &[
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
];

/// Whether a code is about who calls, and not about what is called.
pub(super) fn is_about_credentials(code: &str) -> bool {
    code == NO_CREDENTIALS || CREDENTIALS.contains(&code)
}

/// One row of the table: a class of codes and what it means.
pub(super) struct Row {
    /// Codes, exact.
    pub(super) codes: &'static [&'static str],
    /// A text that the message must contain (lower case); empty: any.
    pub(super) pattern: &'static str,
    /// The reason.
    pub(super) reason: Reason,
    /// The retry class.
    pub(super) retry: Retry,
    /// Whether the call surely had no effect.
    pub(super) definite: bool,
    /// What to do.
    pub(super) advice: &'static str,
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
pub(super) const TABLE: &[Row] = &[
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
        &["TagLimitExceeded"],
        Reason::InvalidSpec,
        Retry::Slow,
        "AWS takes fifty tags, ours among them; name fewer in the plan's tags",
    ),
    row(
        &["InvalidVpcID.NotFound"],
        Reason::SubnetNotFound,
        Retry::Slow,
        "the subnet's VPC is not there; name another subnet",
    ),
    row(
        MISSING_GROUP,
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
    when(
        &["InvalidParameterCombination", "InvalidParameterValue"],
        "instancetype",
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
        "make the agent anew with a snapshot of this region in spec.storage.restoreFrom, which cannot be changed once an agent exists",
    ),
    row(
        &[
            "InvalidKMSKey.InvalidState",
            "InvalidKmsKey.InvalidState",
            "InvalidKmsKey.InvalidKeyState",
            "KmsKeyNotAccessible",
            "KMSKeyNotAccessibleFault",
            "KMSInvalidStateException",
            "InvalidKeyId",
            "EncryptedVolumesNotSupported",
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
        &["InvalidVolume.ZoneMismatch", "VolumeTypeNotAvailableInZone"],
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
        &["VolumeModificationRateExceeded"],
        Reason::Throttled,
        Retry::Slow,
        "EC2 takes one change of a volume in about six hours; it is asked again until then, and the volume is used as it is",
    ),
    row(
        &["IncorrectModificationState"],
        Reason::Throttled,
        Retry::BackOff,
        "the change before it is not done yet",
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
        &[
            "ParameterMaxVersionLimitExceeded",
            "ValidationException",
            "ParameterPatternMismatchException",
            "HierarchyLevelLimitExceededException",
            "UnsupportedParameterType",
        ],
        Reason::ConfigRejected,
        Retry::Slow,
        "SSM does not take the bundle; see the message",
    ),
    // Who we are.
    when(
        &["AccessDenied", "AccessDeniedException"],
        "sts:assumerole",
        Reason::Unauthorized,
        Retry::Slow,
        "allow the operator sts:AssumeRole on the plan's aws.roleArn, and name the operator (and the plan's externalId) in that role's trust policy",
    ),
    row(
        &["RegionDisabledException"],
        Reason::Unauthorized,
        Retry::Slow,
        "switch STS on for this region in the account, or name another region in the plan's aws.region",
    ),
    when(
        &["UnauthorizedOperation", "AccessDenied", "AccessDeniedException"],
        "explicit deny in an identity-based policy",
        Reason::Unauthorized,
        Retry::Slow,
        "a policy of the operator's own role forbids it; take that denial out",
    ),
    when(
        &["UnauthorizedOperation", "AccessDenied", "AccessDeniedException"],
        "explicit deny",
        Reason::Unauthorized,
        Retry::Slow,
        "a policy above the operator's own forbids it (service control policy, permissions boundary); whoever owns it must allow it",
    ),
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
        "allow the operator's role this action; the policy that it needs comes with the chart",
    ),
    row(
        &[NO_CREDENTIALS],
        Reason::Unauthorized,
        Retry::Soon,
        "give the operator credentials: EKS Pod Identity or IRSA for its ServiceAccount, or the chart's aws.credentialsSecret",
    ),
    row(
        CREDENTIALS,
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

/// What the form of an unknown code tells.
pub(super) fn family(code: &str) -> (Reason, Retry, bool, &'static str) {
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
