//! The files that say who may connect: tokens and paired devices. Looked at again when they change, so that a rotation needs no
//! restart.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use koi_wire::Redacted;
use koi_wire::bundle::PairedDevice;
use koi_wire::config::{Auth, Gateway, Secret, SecretRef};
use koi_wire::device::decode_public_key;
use tracing::warn;

use super::handshake::Credential;
use crate::devices::setup::Setups;
use crate::devices::{Devices, Mark};
use crate::hush;
use crate::methods::Role;

/// Tokens shorter than this are no tokens, wherever they come from.
const MIN_TOKEN_CHARS: usize = 16;

/// Reads environment variables; handed in, since only `main` sees the environment.
pub(crate) type Variables = fn(&str) -> Option<String>;

/// Who may connect.
pub(crate) struct Credentials {
    tokens: Vec<Source>,
    paired: Option<Watched<Vec<PairedDevice>>>,
    devices_path: PathBuf,
    devices: Devices,
    setups: Setups,
    auto_approve: AutoApprove,
}

/// Are devices that have the shared token paired without asking anybody?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AutoApprove {
    local: bool,
    remote: bool,
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
    pub(crate) fn new(gateway: Option<&Gateway>, root: &Path, state_dir: &Path, variables: Variables) -> Self {
        let auth = gateway.and_then(|gateway| gateway.auth.as_ref());
        let pairing = gateway.and_then(|gateway| gateway.nodes.as_ref()?.pairing.as_ref());
        let secrets = auth
            .into_iter()
            .flat_map(|auth| [auth.token.as_ref(), auth.previous_token.as_ref()])
            .flatten();
        let source = |secret: &Secret| match secret {
            Secret::Literal(token) => Source::Fixed(token_of(token.expose())),
            Secret::Reference(SecretRef::Env { name }) => {
                Source::Fixed(variables(name).and_then(|text| token_of(&text)))
            }
            Secret::Reference(SecretRef::File { path }) => watched(root, path),
            Secret::Reference(SecretRef::Ssm { name }) => watched(root, &SecretRef::ssm_file(name)),
        };
        let devices_path = state_dir.join("devices.json");
        Self {
            tokens: secrets.map(source).collect(),
            paired: auth.and_then(token_directory).map(|directory| {
                let path = root.join(directory.strip_prefix("/").unwrap_or(directory));
                Watched::new(&path.join("paired.json"), |bytes| {
                    serde_json::from_slice(bytes).unwrap_or_default()
                })
            }),
            devices: read_devices(&devices_path),
            devices_path,
            setups: Setups::default(),
            auto_approve: AutoApprove {
                local: pairing.and_then(|pairing| pairing.auto_approve_local).unwrap_or(true),
                remote: pairing.and_then(|pairing| pairing.auto_approve_remote).unwrap_or(true),
            },
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
    pub(crate) fn devices(&self) -> &Devices {
        &self.devices
    }

    /// Set-up codes that count.
    pub(crate) fn setups(&self) -> &Setups {
        &self.setups
    }

    /// The same, to be changed.
    pub(crate) fn setups_mut(&mut self) -> &mut Setups {
        &mut self.setups
    }

    /// The devices, to be changed; whoever changes them has them saved.
    pub(crate) fn devices_mut(&mut self) -> &mut Devices {
        &mut self.devices
    }

    /// Is a device that has the shared token paired without asking anybody, when it comes from here, or from elsewhere?
    pub(crate) fn auto_approves(&self, local: bool) -> bool {
        if local {
            self.auto_approve.local
        } else {
            self.auto_approve.remote
        }
    }

    /// Does what a client proved itself with still count?
    pub(crate) fn stand(&mut self, credential: &Credential, device: Option<&str>, role: Role) -> bool {
        match credential {
            Credential::Shared(mark) => self.tokens().iter().any(|token| Mark::of(token) == *mark),
            Credential::Bundle(key) => {
                let keys = self.paired();
                keys.iter()
                    .any(|paired| decode_public_key(&paired.public_key) == Some(*key))
            }
            // A person vouches for it.
            Credential::Setup => device.is_some_and(|device| self.devices.membership(device, role).is_some()),
            Credential::DeviceToken(hash) => {
                let marks: Vec<Mark> = self.tokens().iter().map(Mark::of).collect();
                let membership = device.and_then(|device| self.devices.membership(device, role));
                membership.is_some_and(|membership| membership.stands(&marks) && membership.has_token(hash))
            }
        }
    }

    /// What is to be on disk, and where.
    ///
    /// # Errors
    /// Those of `serde_json`.
    pub(crate) fn to_save(&self) -> Result<(PathBuf, Vec<u8>), serde_json::Error> {
        Ok((self.devices_path.clone(), serde_json::to_vec_pretty(&self.devices)?))
    }

    /// Why nobody can connect with a token, where nobody can: which place was looked at, and what is wrong there.
    pub(crate) fn troubles(&mut self) -> Vec<String> {
        if !self.tokens().is_empty() {
            return Vec::new();
        }
        let trouble = |source: &Source| match source {
            Source::File(file) => no_token(&file.path),
            Source::Fixed(_) => Some(format!(
                "gateway.auth.token: there is none, or it has fewer than {MIN_TOKEN_CHARS} characters; look at the variable that it names"
            )),
        };
        // The one before the last rotation is rarely there.
        self.tokens.iter().take(1).filter_map(trouble).collect()
    }

    /// Secrets that others can read or that can be guessed, in words for people.
    pub(crate) fn weaknesses(&mut self) -> Vec<String> {
        let mut found = Vec::new();
        for source in &mut self.tokens {
            let (place, token) = match source {
                Source::Fixed(token) => ("gateway.auth.token".to_owned(), token.clone()),
                Source::File(file) => (file.path.display().to_string(), file.current().clone()),
            };
            if let Source::File(file) = source
                && let Ok(meta) = fs::metadata(&file.path)
                && meta.mode() & 0o007 != 0
            {
                let mode = meta.mode() & 0o777;
                found.push(format!(
                    "{place}: everybody on this machine can read it (mode {mode:03o}); chmod o= it"
                ));
            }
            if let Some(token) = token
                && is_weak(token.expose())
            {
                found.push(format!(
                    "{place}: the token can be guessed; use 32 random characters or more"
                ));
            }
        }
        found
    }
}

/// Why a file holds no token; none where it does.
fn no_token(path: &Path) -> Option<String> {
    let path_shown = path.display();
    match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some(format!(
            "{path_shown}: is not there; bootstrap writes it, or write a token of {MIN_TOKEN_CHARS} or more characters into it"
        )),
        Err(error) => Some(format!(
            "{path_shown}: cannot be read: {error}; let the gateway's user read it"
        )),
        Ok(bytes) if std::str::from_utf8(&bytes).ok().and_then(token_of).is_none() => Some(format!(
            "{path_shown}: holds no token: {MIN_TOKEN_CHARS} or more characters are needed"
        )),
        Ok(_) => None,
    }
}

/// Short, or of few different characters.
fn is_weak(token: &str) -> bool {
    let different: std::collections::BTreeSet<char> = token.chars().collect();
    token.chars().count() < 24 || different.len() < 8
}

/// The devices of an earlier run. What cannot be read is put aside, not overwritten.
fn read_devices(path: &Path) -> Devices {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Devices::default(),
        Err(error) => {
            warn!(path = %path.display(), %error, "paired devices cannot be read; they must be paired anew");
            return Devices::default();
        }
    };
    serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        let aside = path.with_extension("json.broken");
        warn!(path = %path.display(), %error, aside = %aside.display(), "paired devices make no sense; they must be paired anew");
        let _ = fs::rename(path, aside);
        Devices::default()
    })
}

fn watched(root: &Path, path: &str) -> Source {
    Source::File(Watched::new(&root.join(path.trim_start_matches('/')), |bytes| {
        token_of(std::str::from_utf8(bytes).ok()?)
    }))
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
    let token = (token.chars().count() >= MIN_TOKEN_CHARS).then(|| Redacted::new(token))?;
    hush::keep(&token);
    Some(token)
}

#[cfg(test)]
mod tests {
    use koi_wire::frame::ClientInfo;
    use koi_wire::name::Scope;

    use super::*;
    use crate::devices::{self, Pairing, Voucher};

    fn gateway(directory: &Path) -> Gateway {
        let file = |name: &str| {
            let path = directory.join(name).display().to_string();
            Some(Secret::Reference(SecretRef::File { path }))
        };
        let auth = Auth {
            token: file("token"),
            previous_token: file("previous"),
            ..Auth::default()
        };
        Gateway {
            auth: Some(auth),
            ..Gateway::default()
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
        let mut credentials = Credentials::new(Some(&gateway(&directory)), Path::new("/"), &directory, |_| None);
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
        let mut credentials = Credentials::new(Some(&gateway(&memory)), Path::new("/"), &volume, |_| None);
        assert_eq!(credentials.paired(), vec![]);
        fs::write(memory.join("paired.json"), &text).unwrap();
        assert_eq!(credentials.paired(), vec![device]);
        let literal = Gateway {
            auth: Some(Auth {
                token: Some(Secret::Literal("literal-token-1234".into())),
                ..Auth::default()
            }),
            ..Gateway::default()
        };
        assert_eq!(
            Credentials::new(Some(&literal), Path::new("/"), &volume, |_| None).paired(),
            vec![]
        );
    }

    fn operator() -> Pairing {
        Pairing {
            device_id: "d".to_owned(),
            public_key: "k".to_owned(),
            client: ClientInfo::default(),
            role: Role::Operator,
            scopes: vec![Scope::Read],
            voucher: Voucher::Token(Mark::of(&"first-token-1234567".into())),
        }
    }

    #[test]
    fn devices_survive_a_restart_and_broken_ones_are_put_aside() {
        let directory = crate::file::tests::Scratch::new("devices");
        let open = || Credentials::new(None, Path::new("/"), &directory, |_| None);
        let mut credentials = open();
        credentials.devices_mut().pair(operator(), Some(&"t".into()), 1);
        let (path, text) = credentials.to_save().unwrap();
        crate::file::replace(&path, &text, 0o600).unwrap();
        assert_eq!(open().devices(), credentials.devices());
        fs::write(&path, "{").unwrap();
        assert_eq!(open().devices(), &Devices::default());
        assert!(directory.join("devices.json.broken").exists() && !path.exists());
    }

    #[test]
    fn what_a_client_came_with_ends_with_its_token() {
        let directory = crate::file::tests::Scratch::new("standing");
        fs::write(directory.join("token"), "first-token-1234567").unwrap();
        let mut credentials = Credentials::new(Some(&gateway(&directory)), Path::new("/"), &directory, |_| None);
        let own: Redacted = "device-token".into();
        credentials.devices_mut().pair(operator(), Some(&own), 1);
        let shared = Credential::Shared(Mark::of(&"first-token-1234567".into()));
        let device = Credential::DeviceToken(devices::hash(&own));
        let mut stand = |credential: &Credential| credentials.stand(credential, Some("d"), Role::Operator);
        assert!(stand(&shared) && stand(&device) && !stand(&Credential::Bundle([0; 32])));
        crate::file::replace(&directory.join("token"), b"other-token-1234567", 0o600).unwrap();
        assert!(
            !stand(&shared) && !stand(&device),
            "what vouched for the device is gone"
        );
    }

    #[test]
    fn a_token_that_nobody_has_is_told_with_its_file_and_why() {
        let directory = crate::file::tests::Scratch::new("no-token");
        let mut credentials = Credentials::new(Some(&gateway(&directory)), Path::new("/"), &directory, |_| None);
        let token = directory.join("token");
        let place = token.display().to_string();
        let mut told = || credentials.troubles();
        let missing = told();
        assert!(
            missing.len() == 1 && missing[0].starts_with(&format!("{place}: is not there; ")),
            "{missing:?}"
        );
        fs::write(&token, "short").unwrap();
        assert_eq!(
            told(),
            [format!("{place}: holds no token: 16 or more characters are needed")]
        );
        fs::remove_file(&token).unwrap();
        fs::create_dir(&token).unwrap();
        let unreadable = told();
        assert!(
            unreadable[0].starts_with(&format!("{place}: cannot be read: ")),
            "{unreadable:?}"
        );
        fs::remove_dir(&token).unwrap();
        fs::write(&token, "dH7-kq2Zr9_wLx4Vb8Nm3Ty6Pc1Sf5Gj").unwrap();
        assert_eq!(told(), Vec::<String>::new());
    }

    #[test]
    fn weak_and_open_secrets_are_named() {
        use std::os::unix::fs::PermissionsExt;
        let directory = crate::file::tests::Scratch::new("weak");
        let mut credentials = Credentials::new(Some(&gateway(&directory)), Path::new("/"), &directory, |_| None);
        let token = directory.join("token");
        crate::file::replace(&token, b"dH7-kq2Zr9_wLx4Vb8Nm3Ty6Pc1Sf5Gj", 0o600).unwrap();
        assert_eq!(credentials.weaknesses(), Vec::<String>::new());
        fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).unwrap();
        let found = credentials.weaknesses();
        assert!(found.len() == 1 && found[0].contains("mode 644"), "{found:?}");
        crate::file::replace(&token, b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 0o600).unwrap();
        let found = credentials.weaknesses();
        assert!(
            found.len() == 1 && found[0].contains("guessed") && !found[0].contains("aaaa"),
            "{found:?}"
        );
    }
}
