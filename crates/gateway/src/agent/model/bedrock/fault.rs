//! What went wrong, in our classes and in words that say what to do.

use aws_sdk_bedrockruntime::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_bedrockruntime::operation::converse_stream::ConverseStreamError;
use aws_sdk_bedrockruntime::types::error::ConverseStreamOutputError;

use super::super::{Fault, FaultClass};

/// The longest words of the provider that we repeat.
const MOST: usize = 600;

/// A question was not taken.
pub(super) fn of_call<R: std::fmt::Debug>(model: &str, error: &SdkError<ConverseStreamError, R>) -> Fault {
    match error {
        SdkError::ServiceError(said) => of_service(model, said.err().code(), said.err().message()),
        SdkError::TimeoutError(_) => Fault::new(
            FaultClass::Stalled,
            "Amazon Bedrock did not begin to answer in time".to_owned(),
        ),
        error => of_transport(&shown(&DisplayErrorContext(error).to_string())),
    }
}

/// An answer broke off.
pub(super) fn of_stream<R: std::fmt::Debug>(error: &SdkError<ConverseStreamOutputError, R>) -> Fault {
    match error {
        SdkError::ServiceError(said) => {
            let words = shown(said.err().message().unwrap_or("no reason given"));
            match said.err() {
                ConverseStreamOutputError::ThrottlingException(_) => throttled(&words),
                ConverseStreamOutputError::ValidationException(_) => of_validation("", &words),
                ConverseStreamOutputError::ServiceUnavailableException(_)
                | ConverseStreamOutputError::InternalServerException(_) => not_ready(&words),
                _ => Fault::new(FaultClass::Cut, format!("the model's answer broke off: {words}")),
            }
        }
        error => Fault::new(
            FaultClass::Cut,
            format!(
                "the model's answer was cut off: {}",
                shown(&DisplayErrorContext(error).to_string())
            ),
        ),
    }
}

fn of_service(model: &str, code: Option<&str>, words: Option<&str>) -> Fault {
    let words = shown(words.unwrap_or("no reason given"));
    match code.unwrap_or_default() {
        "ThrottlingException" | "TooManyRequestsException" | "ServiceQuotaExceededException" => throttled(&words),
        "ServiceUnavailableException"
        | "InternalServerException"
        | "ModelNotReadyException"
        | "ModelTimeoutException"
        | "ModelErrorException" => not_ready(&words),
        "ModelStreamErrorException" => Fault::new(FaultClass::Cut, words),
        "AccessDeniedException" => denied(model, &words),
        "ResourceNotFoundException" => Fault::new(
            FaultClass::Denied,
            format!("Amazon Bedrock does not know {model} in this region: {words}"),
        ),
        "ValidationException" => of_validation(model, &words),
        "UnrecognizedClientException"
        | "ExpiredTokenException"
        | "InvalidSignatureException"
        | "IncompleteSignature" => Fault::new(
            FaultClass::Denied,
            format!("AWS does not accept the credentials of this instance: {words}"),
        ),
        code => Fault::new(FaultClass::Other, format!("Amazon Bedrock: {code} {words}")),
    }
}

fn throttled(words: &str) -> Fault {
    Fault::new(
        FaultClass::Throttled,
        format!("Amazon Bedrock takes no more requests at the moment: {words}"),
    )
}

fn not_ready(words: &str) -> Fault {
    Fault::new(FaultClass::NotReady, format!("the model is not ready: {words}"))
}

/// Which grant is missing, and where.
fn denied(model: &str, words: &str) -> Fault {
    let after = |mark: &str| {
        let rest = words.split_once(mark)?.1;
        let end = rest.find(|c: char| c.is_whitespace()).unwrap_or(rest.len());
        Some(rest.get(..end)?.trim_end_matches([',', '.']).to_owned())
    };
    let text = match (after("to perform: "), after("on resource: ")) {
        (Some(action), resource) => format!(
            "the role of this instance lacks {action} on {}: add it to the role's policy ({words})",
            resource.unwrap_or_else(|| model.to_owned())
        ),
        _ if words.contains("access to the model") => format!(
            "this AWS account has no access to {model}: request it in the Bedrock console under model access ({words})"
        ),
        _ => format!(
            "the role of this instance needs bedrock:InvokeModelWithResponseStream on {model} and on the models behind it ({words})"
        ),
    };
    Fault::new(FaultClass::Denied, text)
}

fn of_validation(model: &str, words: &str) -> Fault {
    let small = words.to_ascii_lowercase();
    let too_long = [
        "too long",
        "too many input tokens",
        "context window",
        "context limit",
        "maximum context",
        "exceeds the maximum number of tokens",
        "exceed context",
        "input length",
    ];
    if too_long.iter().any(|mark| small.contains(mark)) {
        return Fault::new(
            FaultClass::TooLong,
            format!("the conversation does not fit into the model's context: {words}"),
        );
    }
    if small.contains("on-demand throughput") || small.contains("inference profile") {
        return Fault::new(
            FaultClass::Denied,
            format!("{model} is only served through an inference profile, for instance us.{model}: {words}"),
        );
    }
    if small.contains("model identifier is invalid") {
        return Fault::new(FaultClass::Denied, format!("there is no model {model}: {words}"));
    }
    Fault::new(
        FaultClass::Other,
        format!("Amazon Bedrock does not take the request: {words}"),
    )
}

/// Nothing that the service said.
fn of_transport(words: &str) -> Fault {
    let small = words.to_ascii_lowercase();
    if small.contains("credentials") || small.contains("identity") {
        return Fault::new(
            FaultClass::Denied,
            format!(
                "there are no AWS credentials: the instance needs an instance profile, and IMDS has to answer ({words})"
            ),
        );
    }
    Fault::new(
        FaultClass::NotReady,
        format!("Amazon Bedrock cannot be reached: {words}"),
    )
}

/// The provider's words, made safe: bounded, one line.
fn shown(words: &str) -> String {
    let line: String = words
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MOST)
        .collect();
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_grant_is_named() {
        let words = "User: arn:aws:sts::111122223333:assumed-role/skykoi/i-1 is not authorized to perform: \
                     bedrock:InvokeModelWithResponseStream on resource: \
                     arn:aws:bedrock:us-east-1:111122223333:inference-profile/us.anthropic.claude-opus-4-6-v1 because no \
                     identity-based policy allows the action";
        let fault = of_service("m", Some("AccessDeniedException"), Some(words));
        assert_eq!(fault.class, FaultClass::Denied);
        let start = "the role of this instance lacks bedrock:InvokeModelWithResponseStream on \
                     arn:aws:bedrock:us-east-1:111122223333:inference-profile/us.anthropic.claude-opus-4-6-v1: add it";
        assert!(fault.message.starts_with(start), "{}", fault.message);
    }

    #[test]
    fn classes_of_faults() {
        let cases = [
            ("ThrottlingException", "Too many tokens", FaultClass::Throttled),
            ("ModelNotReadyException", "", FaultClass::NotReady),
            ("InternalServerException", "", FaultClass::NotReady),
            (
                "AccessDeniedException",
                "You don't have access to the model",
                FaultClass::Denied,
            ),
            ("ResourceNotFoundException", "end of life", FaultClass::Denied),
            (
                "ValidationException",
                "Input is too long for requested model.",
                FaultClass::TooLong,
            ),
            (
                "ValidationException",
                "prompt is too long: 210000 tokens > 200000 maximum",
                FaultClass::TooLong,
            ),
            (
                "ValidationException",
                "Invocation of model ID x with on-demand throughput isn\u{2019}t supported.",
                FaultClass::Denied,
            ),
            ("ValidationException", "messages.1: wrong", FaultClass::Other),
            ("ExpiredTokenException", "", FaultClass::Denied),
            ("Strange", "\u{1b}[31mwords", FaultClass::Other),
        ];
        for (code, words, class) in cases {
            let fault = of_service("anthropic.x", Some(code), Some(words));
            assert_eq!(fault.class, class, "{code} {words}");
            assert!(!fault.message.contains('\u{1b}'));
        }
        assert_eq!(
            of_transport("the credential provider had no credentials").class,
            FaultClass::Denied
        );
        assert_eq!(of_transport("connection refused").class, FaultClass::NotReady);
    }
}
