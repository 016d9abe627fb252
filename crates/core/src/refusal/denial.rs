//! Denials: which action on which resource AWS does not allow, read from its message.
//!
//! AWS says it in one sentence, `User: <arn> is not authorized to perform: <action> on resource: <arn> because <why>`, and EC2 adds the
//! whole decision as an encoded text that nobody can read without a further permission: that is left out.

/// What AWS denies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Denial {
    /// For example `ec2:RunInstances`.
    pub(super) action: String,
    /// An ARN, if the message names one.
    pub(super) resource: Option<String>,
    /// Why, in AWS's words: which kind of policy lacks or denies it.
    pub(super) because: Option<String>,
}

/// Longer words than AWS's are not AWS's.
const WORD_MAX: usize = 300;
const ENCODED: &str = "encoded authorization failure message";

/// Reads a message; `None` when it names no action.
pub(super) fn read(message: &str) -> Option<Denial> {
    let text = readable(message);
    let (_, rest) = text.split_once("not authorized to perform: ")?;
    let action = word(rest)?;
    let resource = rest.split_once(" on resource: ").and_then(|(_, rest)| word(rest));
    let because = rest
        .split_once(" because ")
        .or_else(|| rest.split_once(" with an "))
        .map(|(_, why)| why.trim().trim_end_matches('.').to_owned())
        .filter(|why| !why.is_empty());
    Some(Denial {
        action,
        resource,
        because,
    })
}

/// The message without what only machines can read.
pub(super) fn readable(message: &str) -> &str {
    let lower = message.to_ascii_lowercase();
    match lower.find(ENCODED) {
        Some(start) => message.get(..start).unwrap_or(message).trim_end(),
        None => message,
    }
}

/// The action that an operation needs, for messages that do not name it.
pub(super) fn action(operation: &str) -> String {
    let service = match operation {
        "AssumeRole" | "GetCallerIdentity" => "sts",
        _ if operation.ends_with("Parameter") || operation.ends_with("Parameters") => "ssm",
        _ if operation.contains("IamInstanceProfile") => "ec2",
        _ if operation.contains("Role") || operation.contains("InstanceProfile") => "iam",
        _ => "ec2",
    };
    format!("{service}:{operation}")
}

fn word(text: &str) -> Option<String> {
    let word = text.split_whitespace().next()?.trim_end_matches(['.', ',']);
    (!word.is_empty()).then(|| word.chars().take(WORD_MAX).collect())
}
