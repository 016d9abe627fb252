//! From the SDK's errors to ours: AWS's code and request id, and how far the call came.

use std::error::Error;
use std::future::Future;

use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_types::error::display::DisplayErrorContext;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use aws_sdk_ec2::config::http::HttpResponse;
use aws_sdk_ec2::error::SdkError;
use aws_sdk_ec2::operation::RequestId;
use koi_core::refusal::NO_CREDENTIALS;

use crate::budget;
use crate::cloud::{Answer, CloudError, ErrorKind};

/// Where AWS says which request it was; an agent's round tells whose it was.
const REQUEST_ID: &str = "x-amzn-requestid";
/// Errors are short, and lists tell their id first.
const BEGINNING: usize = 4096;

/// Makes one call in its turn and puts its error into our words. Every call to AWS goes through here. `call` is made into a future on the
/// heap: the SDK's are of 17 to 30 KB, and every future that waits for one would be as large.
pub(super) async fn ask<O, E, F>(operation: &'static str, call: impl FnOnce() -> F + Send) -> Answer<O>
where
    E: Error + ProvideErrorMetadata + Send + Sync + 'static,
    F: Future<Output = Result<O, SdkError<E, HttpResponse>>> + Send,
{
    let call = async { Box::pin(call()).await.map_err(|error| told(operation, &error)) };
    budget::called(operation, call).await
}

/// Takes a refusal with one of these codes as "done": the goal of the call is met already.
pub(super) fn met<T: Default>(answer: Answer<T>, codes: &[&str]) -> Answer<T> {
    match answer {
        Err(error) if codes.contains(&error.code.as_str()) => Ok(T::default()),
        other => other,
    }
}

fn told<E>(operation: &'static str, error: &SdkError<E, HttpResponse>) -> CloudError
where
    E: Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    let kind = match error {
        SdkError::ServiceError(_) => ErrorKind::Refused,
        SdkError::ConstructionFailure(_) => ErrorKind::NotSent,
        SdkError::ResponseError(_) => ErrorKind::Unintelligible,
        _ => ErrorKind::Unreachable,
    };
    // Credentials that could not be had tell more than the call that needed them.
    if let Some(refused) = cause::<CloudError>(error) {
        return refused.clone();
    }
    if let Some(CredentialsError::CredentialsNotLoaded(_)) = cause(error) {
        return no_credentials(operation);
    }
    let service = error.as_service_error();
    CloudError {
        operation,
        code: service
            .and_then(ProvideErrorMetadata::code)
            .unwrap_or_default()
            .to_owned(),
        message: service
            .and_then(ProvideErrorMetadata::message)
            .map_or_else(|| DisplayErrorContext(error).to_string(), ToOwned::to_owned),
        request_id: service
            .and_then(|error| error.meta().request_id())
            .or_else(|| error.request_id())
            .map(ToOwned::to_owned)
            .or_else(|| error.raw_response().and_then(request_id)),
        kind,
    }
}

/// AWS's id of a request: from the header, else from the beginning of the answer, where EC2, IAM and STS tell it, too.
pub(super) fn request_id(response: &HttpResponse) -> Option<String> {
    if let Some(told) = response.headers().get(REQUEST_ID) {
        return Some(told.to_owned());
    }
    let body = response.body().bytes()?;
    let text = String::from_utf8_lossy(body.get(..BEGINNING).unwrap_or(body));
    let (_, rest) = ["<RequestID>", "<RequestId>", "<requestId>"]
        .iter()
        .find_map(|tag| text.split_once(tag))?;
    let (id, _) = rest.split_once('<')?;
    let plain = id.len() <= 128 && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    plain.then(|| id.to_owned())
}

/// Nobody has credentials for us: the call was never made.
fn no_credentials(operation: &'static str) -> CloudError {
    CloudError {
        operation,
        code: NO_CREDENTIALS.to_owned(),
        message: "neither the environment nor a profile, a web identity, Pod Identity or instance metadata has any"
            .to_owned(),
        request_id: None,
        kind: ErrorKind::NotSent,
    }
}

/// An error of this kind within one of the SDK's.
fn cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut inner = error.source();
    while let Some(error) = inner {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        inner = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: &str) -> CloudError {
        CloudError {
            operation: "DeleteVolume",
            code: code.into(),
            message: "no".into(),
            request_id: Some("r-1".into()),
            kind: ErrorKind::Refused,
        }
    }

    #[test]
    fn a_goal_that_is_met_already_is_success_and_nothing_else_is() {
        assert_eq!(
            met::<()>(Err(refused("InvalidVolume.NotFound")), &["InvalidVolume.NotFound"]),
            Ok(())
        );
        assert_eq!(
            met::<()>(Err(refused("VolumeInUse")), &["InvalidVolume.NotFound"]),
            Err(refused("VolumeInUse"))
        );
        assert_eq!(met(Ok(3), &[]), Ok(3));
    }

    #[test]
    fn a_call_without_credentials_says_so_and_not_that_the_cloud_is_away() {
        use aws_sdk_sts::operation::get_caller_identity::GetCallerIdentityError;
        use aws_smithy_runtime_api::client::result::ConnectorError;
        let missing = CredentialsError::not_loaded("no providers in chain");
        let error = SdkError::<GetCallerIdentityError, HttpResponse>::dispatch_failure(ConnectorError::other(
            missing.into(),
            None,
        ));
        let told = told("GetCallerIdentity", &error);
        assert_eq!((told.code.as_str(), told.kind), (NO_CREDENTIALS, ErrorKind::NotSent));
    }

    #[test]
    fn the_text_names_operation_code_and_request() {
        assert_eq!(
            refused("VolumeInUse").to_string(),
            "DeleteVolume: VolumeInUse: no (request r-1)"
        );
    }
}
