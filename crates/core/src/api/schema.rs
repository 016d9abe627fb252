//! OpenAPI fragments of fields: bounds, and CEL rules whose messages say what is allowed.
//!
//! Rules are CEL rather than `pattern`, because a failed pattern shows people a regular expression and a failed rule a
//! sentence. They sit on the field itself wherever possible, so that the API server names the exact path. Every bound also
//! keeps the estimated cost of the rules inside the API server's budget.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// One CEL rule.
fn rule(expression: &str, message: &str) -> Value {
    json!({ "rule": expression, "message": message, "reason": "FieldValueInvalid" })
}

/// A rule that guards a regular expression over the whole value.
fn form(pattern: &str, message: &str) -> Value {
    rule(&format!("self.matches({})", literal(pattern)), message)
}

/// A CEL string literal; JSON's escapes are a subset of CEL's.
fn literal(text: &str) -> String {
    Value::from(text).to_string()
}

/// A rule that reports below the object that it sits on.
pub(super) fn rule_at(path: &str, expression: &str, message: &str) -> Value {
    json!({ "rule": expression, "message": message, "reason": "FieldValueInvalid", "fieldPath": path })
}

/// A rule of an object as a whole.
pub(super) fn object_rule(expression: &str, message: &str) -> Value {
    rule(expression, message)
}

/// A string of at most `max` characters that satisfies all rules.
fn text(max: u32, rules: &[Value]) -> Schema {
    let mut schema = json_schema!({ "type": "string", "maxLength": max });
    if !rules.is_empty() {
        schema.insert("x-kubernetes-validations".into(), rules.into());
    }
    schema
}

/// An unordered list without duplicates: two owners of parts of it can live side by side under server-side apply.
fn set(max: u32, items: &Schema) -> Schema {
    json_schema!({ "type": "array", "x-kubernetes-list-type": "set", "maxItems": max, "items": items })
}

/// A list whose order means something and which holds each value once.
fn ordered(max: u32, items: &Schema) -> Schema {
    let once = rule("self.all(x, self.exists_one(y, y == x))", "each entry may appear once");
    json_schema!({
        "type": "array", "x-kubernetes-list-type": "atomic", "maxItems": max, "items": items,
        "x-kubernetes-validations": [once],
    })
}

/// Defines the functions that `#[schemars(schema_with = "...")]` names.
macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident = $schema:expr;)*) => {
        $($(#[$doc])* pub(super) fn $name(_: &mut SchemaGenerator) -> Schema { $schema })*
    };
}

fields! {
    /// CIDR blocks that may reach port 443.
    cidrs = set(50, &cidr_text());
    /// Name of a cluster-scoped or namespaced object.
    object_name = text(253, &[form(
        r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$",
        "must be an object name: lower case letters, digits, '-' and '.', at most 253 characters",
    )]);
    /// A name for people, one line.
    display_name = text(128, &[form(
        r"^[^\x00-\x1f\x7f-\x{9f}\x{2028}\x{2029}\x{202a}-\x{202e}\x{2066}-\x{2069}]+$",
        "must be one line of text, at most 128 characters, without control characters",
    )]);
    /// An e-mail address: nothing in it that people cannot see.
    email = text(254, &[form(
        r"^[^@\p{Cc}\p{Cf}\p{Z}]+@[^@\p{Cc}\p{Cf}\p{Z}]+$",
        "must be an e-mail address: name@domain, without blanks and invisible characters",
    )]);
    /// An IANA time zone.
    time_zone = text(64, &[form(
        r"^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}$",
        "must be an IANA time zone name such as Europe/Zurich or UTC",
    )]);
    /// A model id.
    model_id = model_text();
    /// Models to fall back to, in order.
    model_ids = ordered(8, &model_text());
    /// An instance type.
    instance_type = text(32, &[form(r"^[a-z][a-z0-9-]*\.[a-z0-9-]+$", "must be an EC2 instance type such as t3.small or m7i.large")]);
    /// An image id.
    image_id = text(21, &[form(&aws_id("ami"), "must be an AMI id: ami- and 8 or 17 hex digits")]);
    /// An SSM parameter that holds an image id.
    ssm_parameter = text(512, &[form(
        r"^/[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$",
        "must be the name of an SSM parameter that holds an AMI id: it starts with '/', letters, digits and '_.-' between slashes",
    )]);
    /// A subnet id.
    subnet_id = subnet_text();
    /// Subnets in order of preference.
    subnet_ids = ordered(16, &subnet_text());
    /// Security groups of the operator.
    security_group_ids = set(16, &text(20, &[form(&aws_id("sg"), "must be a security group id: sg- and 8 or 17 hex digits")]));
    /// A snapshot id.
    snapshot_id = text(22, &[form(&aws_id("snap"), "must be a snapshot id: snap- and 8 or 17 hex digits")]);
    /// A KMS key.
    kms_key = text(512, &[form(
        r"^(arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:(key|alias)/[A-Za-z0-9/_-]+|alias/[A-Za-z0-9/_-]+|mrk-[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$",
        "must be a KMS key: its id (UUID or mrk-...), its ARN, alias/<name> or the ARN of an alias",
    )]);
    /// A version of the gateway.
    version = text(64, &[form(
        r"^[0-9A-Za-z][0-9A-Za-z.+_-]*$",
        "must be a version such as 0.3.1: letters, digits and '.+_-', at most 64 characters",
    )]);
    /// Overrides of the gateway's configuration.
    gateway_config = config_object();
    /// Workspace files by name.
    workspace_files = files_map();
    /// A duration of days at most.
    idle_after = duration("1m", "720h", "must be a duration between 1m and 720h such as 30m or 1h30m");
    /// A duration of hours at most.
    boot_deadline = duration("1s", "24h", "must be a duration between 1s and 24h such as 10m or 90s");
}

fields! {
    /// An AWS region.
    region = text(32, &[form(r"^[a-z]{2,4}(-[a-z]+)+-[0-9]{1,2}$", "must be an AWS region such as us-east-1 or eu-central-2")]);
    /// ARN of an IAM role.
    role_arn = text(612, &[form(
        r"^arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9_+=,.@/-]+$",
        "must be the ARN of an IAM role: arn:aws:iam::<12 digits>:role/<name>",
    )]);
    /// External id of a trust policy.
    external_id = text(1224, &[form(
        r"^[A-Za-z0-9_+=,.@:/-]{2,}$",
        "must be an external id as STS takes it: 2 to 1224 letters, digits and '_+=,.@:/-'",
    )]);
    /// ARN of an IAM policy.
    policy_arn = text(612, &[form(
        r"^arn:aws[a-z-]*:iam::([0-9]{12}|aws):policy/[A-Za-z0-9_+=,.@/-]+$",
        "must be the ARN of an IAM policy: arn:aws:iam::<12 digits>:policy/<name>",
    )]);
    /// Name of an instance profile.
    profile_name = text(128, &[form(
        r"^[A-Za-z0-9_+=,.@-]+$",
        "must be the name (not the ARN) of an instance profile: letters, digits and '_+=,.@-'",
    )]);
    /// Instance types or prefixes.
    instance_type_patterns = set(64, &text(32, &[form(
        r"^[a-z][a-z0-9-]*\.([a-z0-9-]+|[a-z0-9-]*\*)$",
        "must be an EC2 instance type such as t3.small, or a family such as t3.*",
    )]));
    /// Model ids or prefixes.
    model_patterns = set(64, &text(256, &[form(
        r"^amazon-bedrock/[A-Za-z0-9._:/-]*\*?$",
        "must be amazon-bedrock/<model or inference profile>, or a prefix of it that ends in '*'",
    )]));
    /// Names of tools or prefixes.
    tool_patterns = set(128, &text(64, &[form(
        r"^([A-Za-z][A-Za-z0-9_.:-]*\*?|\*)$",
        "must be the name of a tool, or a prefix that ends in '*'",
    )]));
    /// Keys of the gateway's configuration.
    config_keys = set(128, &text(256, &[form(
        r"^[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z][A-Za-z0-9_-]*)*$",
        "must be a path into the gateway's configuration, keys joined by dots: agents.defaults.model",
    )]));
    /// Tags of the plan.
    tags = tag_map();
    /// Where the gateway's binary is.
    artifact_url = text(1024, &[
        form(
            r"^https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?/[A-Za-z0-9._~%+=@:,/&?-]+$",
            "must be an https:// or http:// URL of a file: no user name, no fragment, and only letters, digits and '._~%+=@:,/&?-' after the host",
        ),
        rule(
            "!self.contains('X-Amz-Signature=') && !self.contains('Signature=')",
            "must be a URL without a signature: a signed URL is a secret and expires; use a public or network-restricted one",
        ),
    ]);
    /// SHA-256, hex.
    sha256 = text(64, &[form("^[0-9a-f]{64}$", "must be a SHA-256 checksum: 64 hex digits in lower case")]);
    /// A number or a percentage.
    max_concurrent = json_schema!({
        "x-kubernetes-int-or-string": true, "maxLength": 4,
        "x-kubernetes-validations": [rule(
            "string(self).matches('^([0-9]|[1-9][0-9]|100)%$') \
             || string(self).matches('^([0-9]|[1-9][0-9]{1,2}|1000)$') && self == int(string(self))",
            "must be a number of agents from 0 to 1000, or a percentage from 0% to 100%",
        )],
    });
    /// A label selector with bounds.
    label_selector = selector_object();
}

// Status is written by the operator alone: bounds, but no rules that cost time on each write.
fields! {
    /// A short word or id.
    status_word = text(128, &[]);
    /// A name, an ARN or an address.
    status_name = text(2048, &[]);
    /// A sentence for people.
    status_message = text(4096, &[]);
    /// SHA-256, hex.
    status_sha256 = text(64, &[]);
    /// Ids.
    status_ids = json_schema!({ "type": "array", "x-kubernetes-list-type": "set", "maxItems": 16, "items": text(64, &[]) });
    /// Ordered names.
    status_names = json_schema!({ "type": "array", "x-kubernetes-list-type": "atomic", "maxItems": 64, "items": text(2048, &[]) });
    /// CIDR blocks.
    status_cidrs = json_schema!({
        "type": "array", "x-kubernetes-list-type": "set", "maxItems": 100, "items": { "type": "string", "maxLength": 43 },
    });
    /// Tags as sent to the cloud.
    status_tags = json_schema!({
        "type": "object", "maxProperties": 50, "additionalProperties": { "type": "string", "maxLength": 256 },
    });
    /// A moment.
    time = json_schema!({ "type": "string", "format": "date-time" });
    /// Conditions, one for each type.
    conditions = condition_list();
}

/// The form of an EC2 id.
fn aws_id(kind: &str) -> String {
    format!("^{kind}-([0-9a-f]{{8}}|[0-9a-f]{{17}})$")
}

fn subnet_text() -> Schema {
    text(
        24,
        &[form(
            &aws_id("subnet"),
            "must be a subnet id: subnet- and 8 or 17 hex digits",
        )],
    )
}

fn model_text() -> Schema {
    text(
        256,
        &[form(
            r"^amazon-bedrock/[A-Za-z0-9][A-Za-z0-9._:/-]*$",
            "must be amazon-bedrock/ and a Bedrock model id, inference profile id or inference profile ARN",
        )],
    )
}

fn cidr_text() -> Schema {
    let host_bits = json!({
        "rule": "!isCIDR(self) || cidr(self).masked() == cidr(self)",
        "message": "must be a CIDR block without host bits",
        "messageExpression": "'the address has bits outside of the prefix; the network is %s'.format([string(cidr(self).masked())])",
        "reason": "FieldValueInvalid",
    });
    text(
        43,
        &[
            rule(
                "isCIDR(self)",
                "must be a CIDR block such as 203.0.113.0/24 or 2001:db8::/32; one host is a /32 or a /128",
            ),
            host_bits,
        ],
    )
}

/// A Kubernetes duration string inside of bounds. One rule, so that a wrong form gives one message.
fn duration(least: &str, most: &str, message: &str) -> Schema {
    let shape = r"self.matches('^([0-9]+(\\.[0-9]+)?(ms|s|m|h))+$')";
    let range = format!("duration(self) >= duration('{least}') && duration(self) <= duration('{most}')");
    text(32, &[rule(&format!("{shape} && {range}"), message)])
}

/// Paths of the gateway's configuration that the operator writes: what would be declared there is refused by name.
fn config_object() -> Schema {
    let owned = |key: &str| {
        rule_at(
            &format!(".{key}"),
            &format!("!has(self.{key})"),
            &format!("gateway.{key} must be left out: the operator sets it"),
        )
    };
    json_schema!({
        "type": "object", "maxProperties": 64, "x-kubernetes-preserve-unknown-fields": true,
        "properties": {
            "gateway": {
                "type": "object", "maxProperties": 64, "x-kubernetes-preserve-unknown-fields": true,
                "description": "Settings of the gateway's own server. The operator owns auth, bind, mode, port and trustedProxies.",
                "properties": {
                    "auth": {
                        "type": "object", "maxProperties": 64, "x-kubernetes-preserve-unknown-fields": true,
                        "description": "Refused: the operator writes it.",
                    },
                    "bind": { "type": "string", "maxLength": 64, "description": "Refused: the operator writes it." },
                    "mode": { "type": "string", "maxLength": 64, "description": "Refused: the operator writes it." },
                    "port": {
                        "type": "integer", "format": "int32", "minimum": 0, "maximum": 65535,
                        "description": "Refused: the operator writes it.",
                    },
                    "trustedProxies": {
                        "type": "array", "maxItems": 64, "items": { "type": "string", "maxLength": 64 },
                        "description": "Refused: the operator writes it.",
                    },
                },
                "x-kubernetes-validations": [owned("auth"), owned("bind"), owned("mode"), owned("port"), owned("trustedProxies")],
            },
        },
    })
}

fn files_map() -> Schema {
    let name = "^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$";
    let good = format!("k.size() <= 128 && k.matches('{name}')");
    let names = json!({
        "rule": format!("self.all(k, {good})"),
        "message": "file names must be relative paths",
        "messageExpression": format!(
            "'not a file name: \"' + self.filter(k, !({good}))[0] + '\"; allowed are relative paths of at most 128 letters, digits \
             and ._- whose parts do not start with a dot or a dash'"
        ),
        "reason": "FieldValueInvalid",
    });
    let total = rule(
        "self.map(k, bytes(self[k]).size()).sum() <= 524288",
        "must have at most 524288 bytes (512 KiB) in all files together",
    );
    json_schema!({
        "type": "object", "maxProperties": 32,
        "additionalProperties": { "type": "string", "maxLength": 131_072 },
        "x-kubernetes-validations": [names, total],
    })
}

fn tag_map() -> Schema {
    let key = "^[A-Za-z0-9+=._:@-]{1,128}$";
    let keys = json!({
        "rule": format!("self.all(k, k.matches('{key}'))"),
        "message": "tag keys must be letters, digits and +-=._:@",
        "messageExpression": format!(
            "'not a tag key: \"' + self.filter(k, !k.matches('{key}'))[0] + '\"; allowed are 1 to 128 letters, digits and +-=._:@ \
             (instance metadata refuses slashes and spaces)'"
        ),
        "reason": "FieldValueInvalid",
    });
    let reserved = json!({
        "rule": "self.all(k, !k.lowerAscii().startsWith('aws:') && !k.lowerAscii().startsWith('skykoi:'))",
        "message": "tag keys must not start with aws: or skykoi:, which are reserved for AWS and for the operator's claim tags",
        "reason": "FieldValueForbidden",
    });
    let taken = json!({
        "rule": "!('Name' in self) && !('InstanceId' in self)",
        "message": "tag keys must not be Name or InstanceId, which the operator writes for each agent",
        "reason": "FieldValueForbidden",
    });
    json_schema!({
        "type": "object", "maxProperties": 40,
        "additionalProperties": text(256, &[form(
            r"^[\p{L}\p{N} +=._:/@-]*$",
            "must be a tag value: at most 256 letters, digits, spaces and +-=._:/@",
        )]),
        "x-kubernetes-validations": [keys, reserved, taken],
    })
}

/// What Kubernetes takes for a label's key, and for its value.
const LABEL_KEY: &str = "^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$";
const LABEL_VALUE: &str = "^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$";

fn selector_object() -> Schema {
    let label_value = text(
        63,
        &[form(
            LABEL_VALUE,
            "must be a label value: at most 63 letters, digits and '-_.', and at both ends a letter or a digit",
        )],
    );
    let label_key = "letters, digits and '-_.', at most 63 of them, after a domain and '/' where there is one";
    let keys = json!({
        "rule": format!("self.all(k, k.matches('{LABEL_KEY}'))"),
        "message": "label keys must be such as namespaces can have",
        "messageExpression": format!(
            "'not a label key: \"' + self.filter(k, !k.matches('{LABEL_KEY}'))[0] + '\"; no namespace can have it. Allowed are {}'",
            label_key.replace('\'', "\\'"),
        ),
        "reason": "FieldValueInvalid",
    });
    let key = {
        let mut key = text(317, &[form(LABEL_KEY, &format!("must be a label key: {label_key}"))]);
        key.insert("minLength".into(), 1.into());
        key.insert("description".into(), "The label's key.".into());
        key
    };
    json_schema!({
        "type": "object", "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchLabels": {
                "type": "object", "maxProperties": 16, "additionalProperties": label_value,
                "description": "Labels that the namespace must have, with these values.",
                "x-kubernetes-validations": [keys],
            },
            "matchExpressions": {
                "type": "array", "maxItems": 16, "x-kubernetes-list-type": "atomic",
                "description": "Conditions on labels; all of them must hold.",
                "items": {
                    "type": "object", "required": ["key", "operator"],
                    "properties": {
                        "key": key,
                        "operator": {
                            "type": "string", "enum": ["In", "NotIn", "Exists", "DoesNotExist"],
                            "description": "How the label is compared with the values.",
                        },
                        "values": {
                            "type": "array", "maxItems": 32, "x-kubernetes-list-type": "atomic", "items": label_value,
                            "description": "Values for In and NotIn (at least one); empty for Exists and DoesNotExist.",
                        },
                    },
                    "x-kubernetes-validations": [rule_at(
                        ".values",
                        "(self.operator in ['In', 'NotIn']) == (has(self.values) && self.values.size() > 0)",
                        "values are required for In and NotIn, and not allowed for Exists and DoesNotExist",
                    )],
                },
            },
        },
    })
}

fn condition_list() -> Schema {
    json_schema!({
        "type": "array", "maxItems": 32, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object", "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": { "type": "string", "minLength": 1, "maxLength": 316, "description": "What the condition is about, CamelCase." },
                "status": { "type": "string", "enum": ["True", "False", "Unknown"], "description": "Whether the condition holds." },
                "reason": {
                    "type": "string", "minLength": 1, "maxLength": 1024, "description": "Why, as one CamelCase word for machines.",
                },
                "message": { "type": "string", "maxLength": 32768, "description": "Why, and what to do, for people." },
                "lastTransitionTime": { "type": "string", "format": "date-time", "description": "When the status last changed." },
                "observedGeneration": {
                    "type": "integer", "format": "int64", "minimum": 0,
                    "description": "The metadata.generation that the condition is about.",
                },
            },
        },
    })
}
