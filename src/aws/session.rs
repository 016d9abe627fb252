//! A session in another account: credentials of a role that the operator assumes, made anew before they run out.
//!
//! One that is refused is not asked for again by every call that needs it: the refusal stands for its pause, and each call is told the
//! same.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, future};
use tokio::time::Instant;

use super::error::ask;
use crate::cloud::CloudError;

/// How sessions are called in CloudTrail.
const NAME: &str = "koi-operator";
/// Where the credentials come from, for the SDK's own log lines.
const SOURCE: &str = "KoiAssumedRole";
/// The longest time between two tries.
const LONGEST: Duration = Duration::from_secs(600);

/// The provider of one role's credentials.
pub(super) struct Session(Arc<Role>);

struct Role {
    sts: aws_sdk_sts::Client,
    role_arn: String,
    external_id: Option<String>,
    refused: Mutex<Option<Refused>>,
}

/// A refusal that still stands.
struct Refused {
    error: CloudError,
    count: u32,
    until: Instant,
}

impl Session {
    /// `sts`: of the operator's own identity.
    pub(super) fn new(sts: aws_sdk_sts::Client, role_arn: String, external_id: Option<String>) -> Self {
        Self(Arc::new(Role {
            sts,
            role_arn,
            external_id,
            refused: Mutex::new(None),
        }))
    }

    /// In a task of its own: credentials are asked for in the middle of another call, and two calls within each other need more stack than
    /// a thread has.
    async fn assume(&self) -> provider::Result {
        let role = Arc::clone(&self.0);
        match tokio::spawn(async move { role.assume().await }).await {
            Ok(done) => done,
            Err(error) => Err(CredentialsError::provider_error(error)),
        }
    }
}

impl Role {
    async fn assume(&self) -> provider::Result {
        if let Some(error) = self.standing() {
            return Err(CredentialsError::provider_error(error));
        }
        let call = self
            .sts
            .assume_role()
            .role_arn(&self.role_arn)
            .role_session_name(NAME)
            .set_external_id(self.external_id.clone());
        let answer = match ask("AssumeRole", || call.send()).await {
            Ok(answer) => answer,
            Err(error) => {
                self.keep(error.clone());
                return Err(CredentialsError::provider_error(error));
            }
        };
        *self.lock() = None;
        let Some(made) = answer.credentials else {
            return Err(CredentialsError::invalid_configuration(CloudError::unintelligible(
                "AssumeRole",
                "the answer holds no credentials",
            )));
        };
        let expires = SystemTime::try_from(made.expiration).ok();
        let token = Some(made.session_token);
        Ok(Credentials::new(
            made.access_key_id,
            made.secret_access_key,
            token,
            expires,
            SOURCE,
        ))
    }

    fn standing(&self) -> Option<CloudError> {
        let now = Instant::now();
        let refused = self.lock();
        let standing = refused.as_ref().filter(|refused| now < refused.until)?;
        Some(standing.error.clone())
    }

    fn keep(&self, error: CloudError) {
        let mut refused = self.lock();
        let count = refused.as_ref().map_or(0, |refused| refused.count).saturating_add(1);
        let pause = error.refusal().pause(count);
        *refused = Some(Refused {
            error,
            count,
            until: Instant::now() + pause.unwrap_or(LONGEST),
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Refused>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("role_arn", &self.0.role_arn)
            .finish_non_exhaustive()
    }
}

impl ProvideCredentials for Session {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.assume())
    }
}
