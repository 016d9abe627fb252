//! Wishes over a socket: one connection for each, a line of JSON there and a line back. Who hangs up has aborted.
//!
//! On an instance the gateway runs as a user of its own, and tools in a process of the agent's user. The two trust each other with nothing:
//! the one sends what the model wants, the other sends what came of it.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::{Exited, Hands, Outcome, Wish};

/// Bytes of a wish: files are written whole.
const MOST: u64 = 48 * 1024 * 1024;

/// Bytes of an answer: some words, and a picture. Whoever sits behind the socket may be anybody who is the agent's user.
const MOST_ANSWER: u64 = 4 * 1024 * 1024;

/// How often it is looked whether the socket is still there, and how long one waits when nobody can be let in.
const LOOK: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);

/// Wishes at the same time.
const MOST_AT_ONCE: usize = 64;

/// What one side says first.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Hello {
    /// Do this.
    Perform(Wish),
    /// Say when commands of the background end.
    Watch,
}

/// Who is listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Askers {
    /// Whoever can open the socket.
    All,
    /// Other users alone. What this process starts runs as its own user, and could otherwise ask here for what it may not do itself: a command
    /// that is held to the workspace would ask for one that is not.
    Others,
}

impl Askers {
    /// Is it one of them? The kernel says who it is.
    fn include(self, stream: &UnixStream) -> bool {
        match self {
            Self::All => true,
            Self::Others => stream
                .peer_cred()
                .is_ok_and(|peer| peer.uid() != rustix::process::getuid().as_raw()),
        }
    }
}

/// Serves until it is stopped.
///
/// # Errors
/// The socket cannot be had.
pub async fn serve(socket: &Path, hands: Arc<Hands>, askers: Askers, stop: CancellationToken) -> io::Result<()> {
    let (mut listener, mut own) = bind(socket)?;
    let places = Arc::new(Semaphore::new(MOST_AT_ONCE));
    let mut look = tokio::time::interval(LOOK);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
            _ = look.tick() => {
                // The directory is the agent's, who may take the socket away, or put another one there.
                if inode(socket).ok() != Some(own) {
                    (listener, own) = bind(socket)?;
                }
                continue;
            }
        };
        let Ok((stream, _)) = accepted else {
            // Too many files, for instance: asked again at once it would be the same.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        if !askers.include(&stream) {
            continue;
        }
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            break;
        };
        let hands = Arc::clone(&hands);
        tokio::spawn(async move {
            // Who does not speak properly is hung up on.
            let _ = attend(stream, &hands).await;
            drop(place);
        });
    }
    hands.close().await;
    let _ = fs::remove_file(socket);
    Ok(())
}

/// Listens at a path, whatever is there, for the own user and the own group; tells which file that is.
fn bind(socket: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o660))?;
    Ok((listener, inode(socket)?))
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let about = fs::symlink_metadata(path)?;
    Ok((about.dev(), about.ino()))
}

async fn attend(stream: UnixStream, hands: &Hands) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader.take(MOST));
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).await?;
    match serde_json::from_slice(&line)? {
        Hello::Perform(wish) => {
            let cancel = CancellationToken::new();
            let work = hands.perform(wish, cancel.clone());
            tokio::pin!(work);
            let mut rest = [0; 1];
            let outcome = tokio::select! {
                outcome = &mut work => outcome,
                // Nothing more is to come: the other side hung up.
                _ = reader.read(&mut rest) => {
                    cancel.cancel();
                    work.await
                }
            };
            tell(&mut writer, &outcome).await
        }
        Hello::Watch => {
            let mut exits = hands.exits();
            tell(&mut writer, &"watching").await?;
            loop {
                match exits.recv().await {
                    Ok(exited) => tell(&mut writer, &exited).await?,
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return Ok(()),
                }
            }
        }
    }
}

async fn tell<T: Serialize>(writer: &mut (impl AsyncWrite + Unpin), what: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    writer.write_all(&line).await?;
    writer.flush().await
}

/// Has a wish performed behind a socket.
pub async fn ask(socket: &Path, wish: Wish, cancel: CancellationToken) -> Outcome {
    let asked = asking(socket, wish);
    tokio::select! {
        biased;
        () = cancel.cancelled() => Outcome::failed("Aborted."),
        answer = asked => answer.unwrap_or_else(|error| Outcome::failed(format!(
            "the tools of this machine do not answer ({error}); is skykoi-tools.service running?"
        ))),
    }
}

async fn asking(socket: &Path, wish: Wish) -> io::Result<Outcome> {
    let (reader, mut writer) = UnixStream::connect(socket).await?.into_split();
    tell(&mut writer, &Hello::Perform(wish)).await?;
    let mut line = Vec::new();
    BufReader::new(reader.take(MOST_ANSWER))
        .read_until(b'\n', &mut line)
        .await?;
    // Half a line is no answer.
    if line.pop() != Some(b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&line)?)
}

/// Tells of commands of the background that end behind a socket, until the other side goes away.
///
/// # Errors
/// Those of the socket; none when it was closed in order.
pub async fn watch(socket: &Path, mut told: impl FnMut(Exited)) -> io::Result<()> {
    let (reader, mut writer) = UnixStream::connect(socket).await?.into_split();
    tell(&mut writer, &Hello::Watch).await?;
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        // What one line may have is bounded each time anew.
        let mut bounded = (&mut reader).take(MOST_ANSWER);
        if bounded.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        if let Ok(exited) = serde_json::from_slice(&line) {
            told(exited);
        }
    }
}
