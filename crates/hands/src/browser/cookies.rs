//! Cookies, over the end of the browser. It writes its own every half a minute, forgets those that are meant for one sitting, and under a
//! deadline nobody knows what it still wrote; that it rests is no wish of the user, who stays signed in.

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::fs::{self, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::pipe::Pipe;

/// The file, in the profile.
const NAME: &str = "koi-cookies.json";

/// Bytes of it: as many as a browser keeps, and more.
const MOST: u64 = 32 * 1024 * 1024;

/// Where they are kept while no browser runs.
pub(super) fn file(profile: &Path) -> PathBuf {
    profile.join(NAME)
}

/// Writes down what a browser knows.
pub(super) async fn keep(pipe: &Pipe, file: &Path) -> Result<(), String> {
    let known = pipe.call(None, "Storage.getCookies", json!({})).await?;
    let text = known["cookies"].to_string();
    write(file, text.as_bytes())
        .await
        .map_err(|fault| format!("{}: {fault}", file.display()))
}

/// Gives them to a browser that has just begun. What is kept is there for one start: after a crash the browser's own are newer.
pub(super) async fn give_back(pipe: &Pipe, file: &Path) -> Result<(), String> {
    let text = match read(file).await {
        Ok(text) => text,
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(fault) => return Err(format!("{}: {fault}", file.display())),
    };
    let _ = fs::remove_file(file).await;
    let kept: Vec<Value> = serde_json::from_slice(&text).map_err(|fault| format!("{}: {fault}", file.display()))?;
    if kept.is_empty() {
        return Ok(());
    }
    let all = pipe.call(None, "Storage.setCookies", json!({"cookies": kept})).await;
    if all.is_ok() || !pipe.is_open() {
        return all.map(drop);
    }
    // One that it does not take is no reason to lose the others.
    for cookie in kept {
        let _ = pipe
            .call(None, "Storage.setCookies", json!({"cookies": [cookie]}))
            .await;
    }
    Ok(())
}

/// Whoever has these is signed in: nobody else on the machine reads them, and they are whole or not there.
async fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = file.with_extension("new");
    let _ = fs::remove_file(&new).await;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut out = OpenOptions::from(options).open(&new).await?;
    out.write_all(bytes).await?;
    out.sync_all().await?;
    fs::rename(&new, file).await
}

async fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let opened = fs::File::open(file).await?;
    opened.take(MOST).read_to_end(&mut bytes).await?;
    Ok(bytes)
}
