//! Searches, done by the machine's own `grep` and `find`, which are everywhere and quick; what they may do is bounded here.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::{Outcome, Place, args, text};

/// How long a search may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of what is found.
const MOST_BYTES: u64 = 256 * 1024;

/// Lines of what is found.
const MOST_LINES: usize = 200;

/// Characters of one of them.
const MOST_LINE: usize = 400;

/// Directories that nobody means.
const LEFT_OUT: [&str; 4] = [".git", "node_modules", ".cache", "target"];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Grep {
    pattern: String,
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    glob: Option<String>,
    #[serde(default)]
    ignore_case: bool,
    #[serde(default)]
    literal: bool,
    #[serde(default)]
    context: Option<u32>,
    #[serde(default)]
    limit: Option<usize>,
}

/// Finds lines.
pub(crate) async fn grep(place: &Place, arguments: Value, cancel: CancellationToken) -> Outcome {
    let wish: Grep = match args::read(arguments) {
        Ok(wish) => wish,
        Err(fault) => return Outcome::failed(fault),
    };
    let path = match checked(place, wish.path.as_deref(), &wish.pattern) {
        Ok(path) => path,
        Err(fault) => return Outcome::failed(fault),
    };
    let mut command = Command::new("grep");
    command.args(["-rnHIs", "--color=never", if wish.literal { "-F" } else { "-E" }]);
    command.args(LEFT_OUT.map(|name| format!("--exclude-dir={name}")));
    if wish.ignore_case {
        command.arg("-i");
    }
    if let Some(glob) = &wish.glob {
        command.arg(format!("--include={glob}"));
    }
    if let Some(lines) = wish.context {
        command.arg(format!("--context={}", lines.min(10)));
    }
    command.args(["-e", &wish.pattern, "--"]).arg(relative(place, &path));
    search(place, command, wish.limit, cancel).await
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Find {
    #[serde(alias = "name")]
    pattern: String,
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    limit: Option<usize>,
}

/// Finds files by their names.
pub(crate) async fn find(place: &Place, arguments: Value, cancel: CancellationToken) -> Outcome {
    let wish: Find = match args::read(arguments) {
        Ok(wish) => wish,
        Err(fault) => return Outcome::failed(fault),
    };
    let path = match checked(place, wish.path.as_deref(), &wish.pattern) {
        Ok(path) => path,
        Err(fault) => return Outcome::failed(fault),
    };
    let mut command = Command::new("find");
    command.arg(relative(place, &path)).arg("(");
    for (number, name) in LEFT_OUT.iter().enumerate() {
        if number > 0 {
            command.arg("-o");
        }
        command.args(["-name", name]);
    }
    command.args([")", "-prune", "-o"]);
    // A pattern with a slash is about the whole path.
    if wish.pattern.contains('/') {
        let pattern = wish
            .pattern
            .trim_start_matches("./")
            .replace("**/", "*")
            .replace("**", "*");
        command.args(["-path", &format!("*{pattern}")]);
    } else {
        command.args(["-name", &wish.pattern]);
    }
    command.arg("-print");
    search(place, command, wish.limit, cancel).await
}

fn checked(place: &Place, path: Option<&str>, pattern: &str) -> Result<std::path::PathBuf, String> {
    if pattern.is_empty() || pattern.len() > 4096 || pattern.contains('\0') {
        return Err("pattern must have 1 to 4096 bytes".to_owned());
    }
    let path = place.path(path.unwrap_or("."))?;
    if !path.exists() {
        return Err(format!("there is no {}", place.shown(&path)));
    }
    Ok(path)
}

/// As it is said in results; never something that could pass for an option.
fn relative(place: &Place, path: &Path) -> std::path::PathBuf {
    match path.strip_prefix(&place.workspace) {
        Ok(rest) => Path::new(".").join(rest),
        Err(_) => path.to_owned(),
    }
}

async fn search(place: &Place, mut command: Command, limit: Option<usize>, cancel: CancellationToken) -> Outcome {
    command
        .current_dir(&place.workspace)
        .env_clear()
        .envs([("PATH", "/usr/bin:/bin"), ("LC_ALL", "C.UTF-8")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Outcome::failed(format!("the search cannot be started: {error}")),
    };
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Outcome::failed("the search cannot be read");
    };
    let (mut found, mut fault) = (Vec::new(), Vec::new());
    let (mut stdout, mut stderr) = (stdout.take(MOST_BYTES), stderr.take(4096));
    let reading = async {
        let _ = tokio::join!(stdout.read_to_end(&mut found), stderr.read_to_end(&mut fault));
    };
    let late = tokio::select! {
        () = cancel.cancelled() => return Outcome::failed("Aborted."),
        done = tokio::time::timeout(TIMEOUT, reading) => done.is_err(),
    };
    let full = found.len() as u64 >= MOST_BYTES;
    let _ = child.start_kill();
    let _ = child.wait().await;
    let fault = text::readable(&fault);
    if found.is_empty() && !fault.trim().is_empty() {
        return Outcome::failed(text::short(fault.trim(), 500));
    }
    Outcome::said(told(
        &found,
        limit.unwrap_or(MOST_LINES).clamp(1, MOST_LINES),
        late,
        full,
    ))
}

fn told(found: &[u8], most: usize, late: bool, full: bool) -> String {
    let all = text::readable(found);
    let mut lines = all.lines();
    let mut out = String::new();
    for line in lines.by_ref().take(most) {
        out.push_str(&text::short(line.strip_prefix("./").unwrap_or(line), MOST_LINE));
        out.push('\n');
    }
    let left = lines.count();
    if out.is_empty() {
        out.push_str("Nothing was found.");
    }
    if left > 0 || full {
        out.push_str(&format!(
            "[{left} further lines were left out; search for something narrower]"
        ));
    }
    if late {
        out.push_str(&format!("\n[stopped after {} seconds]", TIMEOUT.as_secs()));
    }
    out
}
