//! The files that say who may connect: tokens and paired devices. Looked at again when they change, so that a rotation needs no
//! restart.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use koi_wire::Redacted;
use koi_wire::bundle::PairedDevice;
use koi_wire::config::{Auth, Secret, SecretRef};

use super::handshake::{Learned, LearnedDevice};

/// Tokens shorter than this are no tokens, wherever they come from.
const MIN_TOKEN_CHARS: usize = 16;

/// Reads environment variables; handed in, since only `main` sees the environment.
pub(crate) type Variables = fn(&str) -> Option<String>;

/// Who may connect.
pub(crate) struct Credentials {
    tokens: Vec<Source>,
    paired: Option<Watched<Vec<PairedDevice>>>,
    learned_path: PathBuf,
    learned: Learned,
}

/// Where a token comes from.
enum Source {
    Fixed(Option<Redacted>),
    File(Watched<Option<Redacted>>),
}

/// A file whose content is read again when it changes.
struct Watched<T> {
    path: PathBuf,
    seen: Option<(u64, i64, i64, u64)>,
    value: T,
    read: fn(&[u8]) -> T,
}

impl<T: Default> Watched<T> {
    fn new(path: &Path, read: fn(&[u8]) -> T) -> Self {
        Self {
            path: path.to_owned(),
            seen: None,
            value: T::default(),
            read,
        }
    }

    fn current(&mut self) -> &T {
        let mark = fs::metadata(&self.path)
            .ok()
            .map(|meta| (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len()));
        if mark != self.seen || mark.is_none() {
            // Marked with what was seen before reading: a change in between is found the next time.
            self.seen = mark;
            self.value = fs::read(&self.path)
                .map(|bytes| (self.read)(&bytes))
                .unwrap_or_default();
        }
        &self.value
    }
}

impl Credentials {
    /// From the config, from `paired.json` beside the token's file, and from `devices.json` in the state directory.
    ///
    /// Who comes paired is said by whoever wrote the token, and nowhere else: never by a file of the data volume, which outlives the
    /// machine.
    pub(crate) fn new(auth: Option<&Auth>, root: &Path, state_dir: &Path, variables: Variables) -> Self {
        let secrets = auth
            .into_iter()
            .flat_map(|auth| [auth.token.as_ref(), auth.previous_token.as_ref()])
            .flatten();
        let source = |secret: &Secret| match secret {
            Secret::Literal(token) => Source::Fixed(token_of(token.expose())),
            Secret::Reference(SecretRef::Env { name }) => {
                Source::Fixed(variables(name).and_then(|text| token_of(&text)))
            }
            Secret::Reference(SecretRef::File { path }) => {
                Source::File(Watched::new(&root.join(path.trim_start_matches('/')), |bytes| {
                    token_of(std::str::from_utf8(bytes).ok()?)
                }))
            }
        };
        let learned_path = state_dir.join("devices.json");
        let learned = fs::read(&learned_path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Self {
            tokens: secrets.map(source).collect(),
            paired: auth.and_then(token_directory).map(|directory| {
                let path = root.join(directory.strip_prefix("/").unwrap_or(directory));
                Watched::new(&path.join("paired.json"), |bytes| {
                    serde_json::from_slice(bytes).unwrap_or_default()
                })
            }),
            learned_path,
            learned,
        }
    }

    /// The tokens that are accepted now.
    pub(crate) fn tokens(&mut self) -> Vec<Redacted> {
        let current = |source: &mut Source| match source {
            Source::Fixed(token) => token.clone(),
            Source::File(file) => file.current().clone(),
        };
        self.tokens.iter_mut().filter_map(current).collect()
    }

    /// The devices that came paired.
    pub(crate) fn paired(&mut self) -> Vec<PairedDevice> {
        self.paired
            .as_mut()
            .map(|paired| paired.current().clone())
            .unwrap_or_default()
    }

    /// The devices that were paired since.
    pub(crate) fn learned(&self) -> &Learned {
        &self.learned
    }

    /// Remembers a device, on disk too.
    ///
    /// # Errors
    /// When it cannot be written; it is remembered until the end of the process all the same.
    pub(crate) fn learn(&mut self, device: LearnedDevice) -> std::io::Result<()> {
        self.learned.insert(device.id.clone(), device);
        let text = serde_json::to_vec_pretty(&self.learned)?;
        crate::file::replace(&self.learned_path, &text, 0o600)
    }
}

/// Where the token's file is, when it is in a file.
fn token_directory(auth: &Auth) -> Option<&Path> {
    match auth.token.as_ref()? {
        Secret::Reference(SecretRef::File { path }) => Path::new(path).parent(),
        _ => None,
    }
}

fn token_of(text: &str) -> Option<Redacted> {
    let token = text.trim();
    (token.chars().count() >= MIN_TOKEN_CHARS).then(|| Redacted::new(token))
}

#[cfg(test)]
mod tests {
    use koi_wire::name::Scope;

    use super::*;

    fn auth(directory: &Path) -> Auth {
        let file = |name: &str| {
            let path = directory.join(name).display().to_string();
            Some(Secret::Reference(SecretRef::File { path }))
        };
        Auth {
            token: file("token"),
            previous_token: file("previous"),
            ..Auth::default()
        }
    }

    fn shown(credentials: &mut Credentials) -> Vec<String> {
        credentials
            .tokens()
            .iter()
            .map(|token| token.expose().to_owned())
            .collect()
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_removed_one_counts_as_none() {
        let directory = crate::file::tests::Scratch::new("credentials");
        let mut credentials = Credentials::new(Some(&auth(&directory)), Path::new("/"), &directory, |_| None);
        assert_eq!(shown(&mut credentials), Vec::<String>::new());
        fs::write(directory.join("token"), "first-token-1234567\n").unwrap();
        assert_eq!(shown(&mut credentials), ["first-token-1234567"]);
        crate::file::replace(&directory.join("token"), b"other-token-1234567", 0o600).unwrap();
        fs::write(directory.join("previous"), "first-token-1234567").unwrap();
        assert_eq!(shown(&mut credentials), ["other-token-1234567", "first-token-1234567"]);
        fs::remove_file(directory.join("previous")).unwrap();
        assert_eq!(shown(&mut credentials), ["other-token-1234567"]);
        fs::write(directory.join("token"), "short").unwrap();
        assert_eq!(shown(&mut credentials), Vec::<String>::new(), "a short token is none");
    }

    #[test]
    fn who_comes_paired_is_said_beside_the_token_and_not_on_the_volume() {
        let (volume, memory) = (
            crate::file::tests::Scratch::new("volume"),
            crate::file::tests::Scratch::new("memory"),
        );
        let device = PairedDevice {
            public_key: "A".repeat(43),
            scopes: vec![Scope::Admin],
            name: None,
        };
        let text = serde_json::to_vec(&[&device]).unwrap();
        fs::write(volume.join("paired.json"), &text).unwrap();
        let mut credentials = Credentials::new(Some(&auth(&memory)), Path::new("/"), &volume, |_| None);
        assert_eq!(credentials.paired(), vec![]);
        fs::write(memory.join("paired.json"), &text).unwrap();
        assert_eq!(credentials.paired(), vec![device]);
        let literal = Auth {
            token: Some(Secret::Literal("literal-token-1234".into())),
            ..Auth::default()
        };
        assert_eq!(
            Credentials::new(Some(&literal), Path::new("/"), &volume, |_| None).paired(),
            vec![]
        );
    }

    #[test]
    fn learned_devices_survive_a_restart() {
        let directory = crate::file::tests::Scratch::new("learned");
        let device = LearnedDevice {
            id: "d".to_owned(),
            public_key: "k".to_owned(),
            scopes: vec![Scope::Read],
            paired_at_ms: 1,
            client_id: "cli".to_owned(),
        };
        Credentials::new(None, Path::new("/"), &directory, |_| None)
            .learn(device.clone())
            .unwrap();
        let again = Credentials::new(None, Path::new("/"), &directory, |_| None);
        assert_eq!(again.learned().get("d"), Some(&device));
    }
}
