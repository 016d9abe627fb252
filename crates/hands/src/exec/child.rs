//! One command: a process group of its own, its output, its end.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use tokio::process::{Child, Command};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::output::Output;
use crate::{Place, confine};

/// How long a group has between the wish and the order to end.
const GRACE: Duration = Duration::from_secs(2);

/// What is to be run.
pub(super) struct Order<'a> {
    pub(super) command: &'a str,
    pub(super) directory: &'a Path,
    pub(super) environment: Vec<(&'a str, &'a str)>,
    pub(super) pty: bool,
    /// Something will be written to it.
    pub(super) talks: bool,
    pub(super) timeout: Duration,
    /// It may write there only.
    pub(super) confined: Option<&'a Place>,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) code: Option<i32>,
    signal: Option<i32>,
    why: Why,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Why {
    #[default]
    ByItself,
    TimedOut(u64),
    Killed,
}

impl End {
    pub(super) fn is_success(&self) -> bool {
        self.code == Some(0) && self.why == Why::ByItself
    }

    /// Not of its own will.
    pub(super) fn is_unnatural(&self) -> bool {
        self.why != Why::ByItself
    }
}

impl fmt::Display for End {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.why, self.code, self.signal) {
            (Why::TimedOut(seconds), ..) => write!(out, "killed: it took longer than {seconds} seconds"),
            (Why::Killed, ..) => write!(out, "killed"),
            (Why::ByItself, Some(code), _) => write!(out, "exit code {code}"),
            (Why::ByItself, None, Some(signal)) => write!(out, "ended by signal {signal}"),
            (Why::ByItself, None, None) => write!(out, "ended"),
        }
    }
}

/// A command that runs, or has ended.
pub(crate) struct Running {
    pid: Pid,
    begun: Instant,
    output: Arc<Mutex<Output>>,
    news: Arc<Notify>,
    eof: CancellationToken,
    kill: CancellationToken,
    end: watch::Receiver<Option<End>>,
    input: Option<Mutex<File>>,
}

/// The two ends of a command's output, and what it is written to with.
struct Ends {
    ours: File,
    input: Option<File>,
}

impl Running {
    /// Starts a command.
    pub(super) fn start(order: &Order<'_>) -> Result<Arc<Self>, String> {
        let fault = |error: std::io::Error| format!("the command cannot be started: {error}");
        let (mut command, mut ends) = if order.pty { in_terminal(order) } else { in_pipe(order) }.map_err(fault)?;
        command
            .current_dir(order.directory)
            .env_clear()
            .envs(order.environment.iter().copied())
            .kill_on_drop(false);
        let mut child = match order.confined {
            Some(place) => {
                let runtime = tokio::runtime::Handle::current();
                // Whatever a confined thread starts is confined too.
                confine::within(place, || {
                    let _entered = runtime.enter();
                    command.spawn()
                })?
                .map_err(fault)?
            }
            None => command.spawn().map_err(fault)?,
        };
        // It holds the other ends; what it does not close never ends.
        drop(command);
        if let Some(stdin) = child.stdin.take() {
            ends.input = Some(stdin.into_owned_fd().map_err(fault)?.into());
        }
        let pid = child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
            .ok_or("the command cannot be started: it has no number")?;
        let (tell, end) = watch::channel(None);
        let running = Arc::new(Self {
            pid,
            begun: Instant::now(),
            output: Arc::default(),
            news: Arc::default(),
            eof: CancellationToken::new(),
            kill: CancellationToken::new(),
            end,
            input: ends.input.map(Mutex::new),
        });
        running.listen(ends.ours).map_err(fault)?;
        tokio::spawn(look_after(child, pid, running.kill.clone(), order.timeout, tell));
        Ok(running)
    }

    fn listen(&self, mut ours: File) -> std::io::Result<()> {
        let (output, news, eof) = (Arc::clone(&self.output), Arc::clone(&self.news), self.eof.clone());
        let listen = move || {
            let mut buffer = vec![0; 16 * 1024];
            // A terminal whose other side is closed gives a fault instead of an end.
            while let Ok(count @ 1..) = ours.read(&mut buffer) {
                lock(&output).push(buffer.get(..count).unwrap_or_default());
                news.notify_waiters();
            }
            eof.cancel();
        };
        std::thread::Builder::new().name("output".to_owned()).spawn(listen)?;
        Ok(())
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    pub(super) fn output(&self) -> MutexGuard<'_, Output> {
        lock(&self.output)
    }

    /// Done when something is printed after this was called.
    pub(super) fn news(&self) -> Notified<'_> {
        self.news.notified()
    }

    /// Done when nothing more can be printed.
    pub(super) async fn silent(&self) {
        self.eof.cancelled().await;
    }

    /// Done when the command has ended.
    pub(super) async fn ended(&self) {
        let _ = self.end.clone().wait_for(Option::is_some).await;
    }

    pub(crate) fn end(&self) -> Option<End> {
        *self.end.borrow()
    }

    pub(super) fn kill(&self) {
        self.kill.cancel();
    }

    pub(super) fn state(&self) -> String {
        match self.end() {
            Some(end) => end.to_string(),
            None => format!("running for {} s", self.begun.elapsed().as_secs()),
        }
    }

    /// Writes to it.
    pub(super) async fn write(self: &Arc<Self>, data: String) -> Result<String, String> {
        let this = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || {
            let Some(input) = &this.input else {
                return Err("it reads nothing: start it with background or pty to write to it".to_owned());
            };
            let mut input = lock(input);
            let done = input.write_all(data.as_bytes()).and_then(|()| input.flush());
            done.map(|()| format!("Wrote {} bytes.", data.len()))
                .map_err(|error| format!("it cannot be written to: {error}"))
        });
        written
            .await
            .unwrap_or_else(|_| Err("it cannot be written to".to_owned()))
    }
}

/// A group of its own that prints into a pipe.
fn in_pipe(order: &Order<'_>) -> std::io::Result<(Command, Ends)> {
    let (ours, theirs) = std::io::pipe()?;
    let mut command = Command::new("/bin/bash");
    command
        .args(["--noprofile", "--norc", "-c", order.command])
        .process_group(0)
        .stdin(if order.talks { Stdio::piped() } else { Stdio::null() })
        .stdout(theirs.try_clone()?)
        .stderr(theirs);
    let ours = File::from(OwnedFd::from(ours));
    Ok((command, Ends { ours, input: None }))
}

/// A session of its own with a terminal.
fn in_terminal(order: &Order<'_>) -> std::io::Result<(Command, Ends)> {
    let ours = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::pty::grantpt(&ours)?;
    rustix::pty::unlockpt(&ours)?;
    let name = rustix::pty::ptsname(&ours, Vec::new())?;
    let theirs = rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    let size = Winsize {
        ws_row: 40,
        ws_col: 120,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&theirs, size)?;
    let mut command = Command::new("setsid");
    command
        .args(["--ctty", "/bin/bash", "--noprofile", "--norc", "-c", order.command])
        .stdin(theirs.try_clone()?)
        .stdout(theirs.try_clone()?)
        .stderr(theirs);
    let ours = File::from(ours);
    let input = Some(ours.try_clone()?);
    Ok((command, Ends { ours, input }))
}

/// Sees to it that the command ends, and tells how.
async fn look_after(
    mut child: Child,
    group: Pid,
    kill: CancellationToken,
    timeout: Duration,
    tell: watch::Sender<Option<End>>,
) {
    let why = tokio::select! {
        biased;
        status = child.wait() => {
            tell.send_replace(Some(end(status.ok(), Why::ByItself)));
            return;
        }
        () = kill.cancelled() => Why::Killed,
        () = tokio::time::sleep(timeout) => Why::TimedOut(timeout.as_secs()),
    };
    let _ = kill_process_group(group, Signal::TERM);
    let status = tokio::time::timeout(GRACE, child.wait()).await;
    // Whoever of the group is left after its head ended too.
    let _ = kill_process_group(group, Signal::KILL);
    let status = match status {
        Ok(status) => status,
        Err(_) => child.wait().await,
    };
    tell.send_replace(Some(end(status.ok(), why)));
}

fn end(status: Option<ExitStatus>, why: Why) -> End {
    End {
        code: status.and_then(|status| status.code()),
        signal: status.and_then(|status| status.signal()),
        why,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
