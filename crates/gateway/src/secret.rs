//! Secrets that the config names: read where they are kept, when they are needed.

use std::path::{Path, PathBuf};

use koi_wire::Redacted;
use koi_wire::config::{Secret, SecretRef};

use crate::hush;
use crate::server::credentials::Variables;

/// Larger files hold no secret of ours.
const MAX_BYTES: u64 = 64 * 1024;

/// Where secrets are kept.
#[derive(Clone, Debug)]
pub(crate) struct Secrets {
    root: PathBuf,
    variables: Variables,
}

impl Secrets {
    /// `root` is in front of absolute paths.
    pub(crate) fn new(root: &Path, variables: Variables) -> Self {
        Self {
            root: root.to_owned(),
            variables,
        }
    }

    /// The secret.
    ///
    /// # Errors
    /// Where it was looked for, and why it is not there.
    pub(crate) fn read(&self, secret: &Secret) -> Result<Redacted, String> {
        let read = self.find(secret)?;
        hush::keep(&read);
        Ok(read)
    }

    fn find(&self, secret: &Secret) -> Result<Redacted, String> {
        let text = match secret {
            Secret::Literal(text) => return Ok(text.clone()),
            Secret::Reference(SecretRef::Env { name }) => {
                (self.variables)(name).ok_or_else(|| format!("the environment has no {name}"))?
            }
            Secret::Reference(SecretRef::File { path }) => self.file(path)?,
            Secret::Reference(SecretRef::Ssm { name }) => self
                .file(&SecretRef::ssm_file(name))
                .map_err(|_| format!("bootstrap could not read the parameter {name}"))?,
        };
        match text.trim() {
            "" => Err("it is empty".to_owned()),
            text => Ok(Redacted::new(text)),
        }
    }

    fn file(&self, path: &str) -> Result<String, String> {
        let file = self.root.join(path.trim_start_matches('/'));
        read(&file).map_err(|error| format!("{path} cannot be read: {error}"))
    }
}

fn read(path: &Path) -> Result<String, String> {
    use std::io::Read;
    let meta = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if !meta.is_file() || meta.len() > MAX_BYTES {
        return Err("is no file of a secret".to_owned());
    }
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    file.take(MAX_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| error.to_string())?;
    Ok(text)
}
