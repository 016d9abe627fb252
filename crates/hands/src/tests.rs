//! Tools against the real machine: real commands, real terminals, real files.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use super::*;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A directory of its own, gone at the end.
struct Scene {
    hands: Arc<Hands>,
    root: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("koi-hands-{}-{number}", std::process::id()));
        fs::create_dir_all(root.join("koi")).unwrap();
        let place = Place {
            workspace: root.join("koi"),
            home: root.clone(),
            user: "ubuntu".to_owned(),
        };
        Self {
            hands: Arc::new(Hands::new(place)),
            root,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join("koi").join(name)
    }

    fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    async fn call(&self, tool: &str, arguments: Value) -> Outcome {
        self.hands
            .perform(wish(tool, arguments), CancellationToken::new())
            .await
    }

    async fn confined(&self, tool: &str, arguments: Value) -> Outcome {
        let wish = Wish {
            confined: true,
            ..wish(tool, arguments)
        };
        self.hands.perform(wish, CancellationToken::new()).await
    }

    async fn ok(&self, tool: &str, arguments: Value) -> String {
        let outcome = self.call(tool, arguments).await;
        assert!(!outcome.is_error, "{}", outcome.text);
        outcome.text
    }

    async fn fails(&self, tool: &str, arguments: Value) -> String {
        let outcome = self.call(tool, arguments).await;
        assert!(outcome.is_error, "{}", outcome.text);
        outcome.text
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn wish(tool: &str, arguments: Value) -> Wish {
    Wish {
        tool: tool.to_owned(),
        arguments,
        session: "s".to_owned(),
        workspace: None,
        timeout_seconds: None,
        confined: false,
    }
}

fn is_alive(pid: &str) -> bool {
    let state = fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    // A zombie is dead.
    state.is_ok_and(|state| {
        !state
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .trim_start()
            .starts_with('Z')
    })
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_give_both_outputs_in_order_and_their_code() {
    let scene = Scene::new();
    let said = scene
        .ok(
            "exec",
            json!({"command": "echo one; echo two >&2; echo three; pwd; exit 3"}),
        )
        .await;
    assert_eq!(
        said,
        format!(
            "one\ntwo\nthree\n{}\n[exit code 3]",
            scene.path("").display().to_string().trim_end_matches('/')
        )
    );
    assert_eq!(scene.ok("exec", json!({"command": "true"})).await, "(no output)");
    assert_eq!(
        scene
            .ok("exec", json!({"command": "cat; echo $X", "env": {"X": "y"}}))
            .await,
        "y"
    );
    assert_eq!(
        scene.ok("exec", json!({"command": "kill -9 $$"})).await,
        "[ended by signal 9]"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_our_own_environment_reaches_a_command() {
    let scene = Scene::new();
    let said = scene
        .ok(
            "exec",
            json!({"command": "env -0 | tr '\\0' '\\n' | cut -d= -f1 | sort | tr '\\n' ' '"}),
        )
        .await;
    assert_eq!(
        said,
        "DEBIAN_FRONTEND GIT_PAGER HOME LANG LOGNAME PAGER PATH PWD SHELL SHLVL SKYKOI_SHELL TERM USER _"
    );
    for name in ["LD_PRELOAD", "PATH", "BASH_ENV", "BASH_FUNC_x%%", "A B", ""] {
        scene
            .fails("exec", json!({"command": "true", "env": {name: "x"}}))
            .await;
    }
    for command in ["", "  ", "a\0b"] {
        scene.fails("exec", json!({"command": command})).await;
    }
    scene
        .fails("exec", json!({"command": "true", "workdir": "nowhere"}))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_out_ends_the_whole_group() {
    let scene = Scene::new();
    let command =
        "trap '' TERM; (trap '' TERM; echo $BASHPID > inner; while :; do sleep 0.05; done) & echo $$ > outer; wait";
    let begun = Instant::now();
    let said = scene
        .fails("exec", json!({"command": command, "timeoutSeconds": 1}))
        .await;
    assert_eq!(said, "[killed: it took longer than 1 seconds]");
    assert!(begun.elapsed() < Duration::from_secs(8));
    for name in ["inner", "outer"] {
        let pid = scene.text(name);
        until("the group to end", || !is_alive(&pid)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_ends_the_command() {
    let scene = Scene::new();
    let cancel = CancellationToken::new();
    let (hands, token) = (Arc::clone(&scene.hands), cancel.clone());
    let wish = wish("exec", json!({"command": "echo $$ > pid; sleep 600"}));
    let call = tokio::spawn(async move { hands.perform(wish, token).await });
    let path = scene.path("pid");
    until("the command to begin", || {
        fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n'))
    })
    .await;
    cancel.cancel();
    assert!(call.await.unwrap().is_error);
    let pid = scene.text("pid");
    until("the command to end", || !is_alive(&pid)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_in_the_background_is_looked_after() {
    let scene = Scene::new();
    let mut exits = scene.hands.exits();
    let said = scene
        .ok(
            "exec",
            json!({"command": "echo begun; read line; echo got $line; exit 2", "background": true}),
        )
        .await;
    assert!(said.starts_with("Runs in the background as session 1 (pid "), "{said}");
    let polled = scene
        .ok(
            "process",
            json!({"action": "poll", "sessionId": "1", "timeoutMs": 10_000}),
        )
        .await;
    assert!(polled.starts_with("begun\n[running for"), "{polled}");
    assert!(
        scene
            .ok("process", json!({"action": "list"}))
            .await
            .contains("echo begun")
    );
    scene
        .ok("process", json!({"action": "submit", "sessionId": "1", "data": "word"}))
        .await;
    let exited = exits.recv().await.unwrap();
    assert_eq!((exited.state.as_str(), exited.session.as_str()), ("exit code 2", "s"));
    until("the last words", || {
        scene.hands.processes.get("1").unwrap().end().is_some()
    })
    .await;
    let polled = scene
        .ok(
            "process",
            json!({"action": "poll", "sessionId": "1", "timeoutMs": 1000}),
        )
        .await;
    assert_eq!(polled, "got word\n[exit code 2]");
    let log = scene.ok("process", json!({"action": "log", "sessionId": "1"})).await;
    assert_eq!(log, "begun\ngot word\n[exit code 2]");
    scene.ok("process", json!({"action": "kill", "sessionId": "1"})).await;
    assert!(
        scene
            .fails("process", json!({"action": "poll", "sessionId": "1"}))
            .await
            .contains("no session 1")
    );
    scene.fails("process", json!({"action": "dance"})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_long_goes_on_in_the_background() {
    let scene = Scene::new();
    let said = scene
        .ok("exec", json!({"command": "echo early; sleep 600", "yieldMs": 300}))
        .await;
    assert!(
        said.starts_with("early\n[still running in the background as session 1 (pid "),
        "{said}"
    );
    let killed = scene.ok("process", json!({"action": "kill", "sessionId": "1"})).await;
    assert_eq!(killed, "Session 1 is gone: killed.");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_command_leaves_behind_does_not_hold_it_up() {
    let scene = Scene::new();
    let begun = Instant::now();
    assert_eq!(
        scene
            .ok("exec", json!({"command": "sleep 600 & echo $! > left; echo done"}))
            .await,
        "done"
    );
    assert!(begun.elapsed() < Duration::from_secs(5));
    let left = scene.text("left");
    assert!(is_alive(&left), "what was sent to the background by & goes on");
    scene.ok("exec", json!({"command": format!("kill {left}")})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_is_a_terminal() {
    let scene = Scene::new();
    let said = scene.ok("exec", json!({"command": "test -t 0 && test -t 1 && tty >/dev/null && stty size && ps -o tty= -p $$ | grep -c pts; printf '\\033[1mbold\\033[0m'", "pty": true})).await;
    assert_eq!(said, "40 120\n1\nbold");
    scene
        .ok(
            "exec",
            json!({"command": "bash --norc -i", "pty": true, "background": true}),
        )
        .await;
    scene
        .ok(
            "process",
            json!({"action": "submit", "sessionId": "2", "data": "echo sum $((40+2))"}),
        )
        .await;
    let (hands, mut seen) = (Arc::clone(&scene.hands), String::new());
    let deadline = Instant::now() + Duration::from_secs(10);
    while !seen.contains("sum 42") {
        assert!(Instant::now() < deadline, "{seen}");
        let poll = wish("process", json!({"action": "poll", "sessionId": "2", "timeoutMs": 500}));
        seen.push_str(&hands.perform(poll, CancellationToken::new()).await.text);
    }
    // What a terminal sends for control-C.
    scene
        .ok("process", json!({"action": "submit", "sessionId": "2", "data": "exit"}))
        .await;
    let running = scene.hands.processes.get("2").unwrap();
    tokio::time::timeout(Duration::from_secs(10), async {
        while running.end().is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_and_hostile_output_is_bounded_and_safe() {
    let scene = Scene::new();
    let said = scene
        .fails("exec", json!({"command": "yes 'line of output'", "timeoutSeconds": 1}))
        .await;
    assert!(said.len() < 40_000 && said.contains("left out"), "{}", said.len());
    let said = scene
        .ok(
            "exec",
            json!({"command": "head -c 300000 /dev/urandom; printf '\\033]0;own\\007\\000x'"}),
        )
        .await;
    assert!(said.chars().all(|c| !c.is_control() || c == '\n' || c == '\t'));
    assert!(said.chars().count() < 40_000);
}

#[tokio::test]
async fn files_are_read_in_parts() {
    let scene = Scene::new();
    scene.put("a.txt", "one\r\ntwo\nthree");
    assert_eq!(scene.ok("read", json!({"path": "a.txt"})).await, "one\ntwo\nthree\n");
    assert_eq!(
        scene
            .ok("read", json!({"file_path": "~/koi/a.txt", "offset": 2, "limit": 1}))
            .await,
        "two\n[lines 2 to 2 of a file of 14 bytes; go on with offset 3]"
    );
    scene.put("long", "x".repeat(5_000_000));
    let long = scene.ok("read", json!({"path": "long"})).await;
    assert_eq!(long.chars().count(), 2000 + 3 + 1);
    scene.put(
        "many",
        (0..5000).map(|number| format!("{number}\n")).collect::<String>(),
    );
    let many = scene.ok("read", json!({"path": "many"})).await;
    assert!(
        many.ends_with("1999\n[lines 1 to 2000 of a file of 23890 bytes; go on with offset 2001]"),
        "{}",
        &many[many.len() - 200..]
    );
    scene.put("empty", "");
    assert_eq!(scene.ok("read", json!({"path": "empty"})).await, "(empty is empty)");
    scene.put("bin", b"\x00\x01");
    scene.put("pic.png", b"\x89PNG\r\n\x1a\nrest of it");
    let picture = scene.call("read", json!({"path": "pic.png"})).await;
    assert_eq!(picture.image.unwrap().mime_type, "image/png");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        scene.path("pipe"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    for (path, why) in [
        ("bin", "bin is no text: 2 bytes of binary data"),
        ("pipe", "pipe is no regular file"),
        ("/dev/zero", "/dev/zero is no regular file"),
        (".", "is a directory; use ls"),
        ("none", "none cannot be read: there is no such file"),
        ("", "path must not be empty"),
    ] {
        let fault = scene.fails("read", json!({"path": path})).await;
        assert!(fault.ends_with(why), "{fault}");
    }
    assert!(
        scene
            .fails("read", json!({"path": "a.txt", "offset": 9}))
            .await
            .contains("only 3 lines")
    );
    assert!(
        scene
            .fails("read", json!({"pth": 1}))
            .await
            .contains("missing field `path`")
    );
}

#[tokio::test]
async fn files_are_written_in_one_step() {
    let scene = Scene::new();
    assert_eq!(
        scene.ok("write", json!({"path": "deep/er/f", "content": "ä"})).await,
        "Wrote 2 bytes to deep/er/f."
    );
    assert_eq!(scene.text("deep/er/f"), "ä");
    scene.put("script", "old");
    fs::set_permissions(
        scene.path("script"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    std::os::unix::fs::symlink("script", scene.path("link")).unwrap();
    scene.ok("write", json!({"path": "link", "content": "new"})).await;
    assert!(scene.path("link").is_symlink());
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(scene.path("script")).unwrap().permissions());
    assert_eq!((scene.text("script").as_str(), mode & 0o777), ("new", 0o755));
    assert!(
        scene
            .fails("write", json!({"path": "deep", "content": ""}))
            .await
            .contains("no regular file")
    );
    assert_eq!(
        fs::read_dir(scene.path("")).unwrap().count(),
        3,
        "nothing is left beside"
    );
    assert_eq!(scene.ok("ls", json!({})).await, "deep/\nlink@\nscript");
    assert!(
        scene
            .fails("ls", json!({"path": "nowhere"}))
            .await
            .contains("no such file")
    );
}

#[tokio::test]
async fn edits_are_made_all_or_none() {
    let scene = Scene::new();
    scene.put("f", "a b a\nc\n");
    let twice = json!({"path": "f", "edits": [{"oldText": "c", "newText": "d"}, {"oldText": "a", "newText": "x"}]});
    assert!(scene.fails("edit", twice).await.contains("is there 2 times"));
    assert_eq!(scene.text("f"), "a b a\nc\n");
    scene
        .ok(
            "edit",
            json!({"path": "f", "old_string": "a", "new_string": "x", "replaceAll": true}),
        )
        .await;
    assert_eq!(scene.text("f"), "x b x\nc\n");
    for (old, new) in [("zzz", "y"), ("", "y"), ("c", "c")] {
        scene
            .fails(
                "edit",
                json!({"path": "f", "edits": [{"oldText": old, "newText": new}]}),
            )
            .await;
    }
    scene.put("dos", "one\r\ntwo\r\n");
    scene
        .ok(
            "edit",
            json!({"path": "dos", "edits": [{"oldText": "one\ntwo", "newText": "1\n2"}]}),
        )
        .await;
    assert_eq!(scene.text("dos"), "1\r\n2\r\n");
    scene.put("latin", b"\xe4");
    assert!(
        scene
            .fails("edit", json!({"path": "latin", "oldText": "a", "newText": "b"}))
            .await
            .contains("no UTF-8")
    );
}

#[tokio::test]
async fn patches_are_looked_at_as_a_whole_first() {
    let scene = Scene::new();
    scene.put("a.py", "def f():\n    return 1\n\ndef g():\n    return 1\n");
    scene.put("gone", "x");
    scene.put("old", "l1\nl2\n");
    let patch = "*** Begin Patch\n*** Add File: new/n.txt\n+hello\n+\n*** Update File: a.py\n@@ def g():\n-    return 1\n+    return 2\n*** Delete File: gone\n*** Update File: old\n*** Move to: moved\n@@\n l1\n-l2\n+l3\n*** End of File\n*** End Patch";
    let said = scene.ok("apply_patch", json!({"input": patch})).await;
    assert_eq!(said, "Added new/n.txt\nUpdated a.py\nDeleted gone\nMoved old to moved");
    assert_eq!(scene.text("a.py"), "def f():\n    return 1\n\ndef g():\n    return 2\n");
    assert_eq!(
        (scene.text("new/n.txt").as_str(), scene.text("moved").as_str()),
        ("hello\n\n", "l1\nl3\n")
    );
    assert!(!scene.path("gone").exists() && !scene.path("old").exists());
    let half = "*** Begin Patch\n*** Delete File: moved\n*** Update File: a.py\n@@\n-no such line\n+x\n*** End Patch";
    assert!(
        scene
            .fails("apply_patch", json!({"input": half}))
            .await
            .contains("nothing was changed")
    );
    assert!(scene.path("moved").exists());
    for bad in [
        "",
        "*** Begin Patch\n*** End Patch",
        "*** Begin Patch\n*** Update File: a.py\n-x",
        "*** Begin Patch\n*** Rename File: a\n*** End Patch",
        "*** Begin Patch\n*** Add File: x\nno plus\n*** End Patch",
        "*** Begin Patch\n*** Add File: a.py\n+x\n*** End Patch",
        "*** Begin Patch\n*** Update File: a.py\n*** End Patch",
    ] {
        scene.fails("apply_patch", json!({"input": bad})).await;
    }
}

#[tokio::test]
async fn searches_find_and_are_bounded() {
    let scene = Scene::new();
    scene.put("src/a.rs", "fn main() {}\nlet x = 1;\n");
    scene.put("src/b.txt", "FN main\n");
    scene.put(".git/c.rs", "fn main\n");
    scene.put("-n", "fn main\n");
    assert_eq!(
        scene.ok("grep", json!({"pattern": "^fn [a-z]+", "glob": "*.rs"})).await,
        "src/a.rs:1:fn main() {}\n"
    );
    assert_eq!(
        scene
            .ok(
                "grep",
                json!({"pattern": "fn main", "ignoreCase": true, "path": "src/b.txt"})
            )
            .await,
        "src/b.txt:1:FN main\n"
    );
    assert_eq!(
        scene.ok("grep", json!({"pattern": "--help"})).await,
        "Nothing was found."
    );
    assert_eq!(
        scene
            .ok("grep", json!({"pattern": "() {", "literal": true, "path": "src"}))
            .await,
        "src/a.rs:1:fn main() {}\n"
    );
    assert!(
        scene
            .fails("grep", json!({"pattern": "("}))
            .await
            .contains("nmatched (")
    );
    assert!(
        scene
            .fails("grep", json!({"pattern": "x", "path": "nowhere"}))
            .await
            .contains("there is no nowhere")
    );
    assert_eq!(scene.ok("find", json!({"pattern": "*.rs"})).await, "src/a.rs\n");
    assert_eq!(
        scene.ok("find", json!({"pattern": "src/**/*.txt"})).await,
        "src/b.txt\n"
    );
    assert_eq!(scene.ok("find", json!({"pattern": "-n"})).await, "-n\n");
    scene.put("many", "x\n".repeat(1000));
    let many = scene
        .ok("grep", json!({"pattern": "x", "path": "many", "limit": 2}))
        .await;
    assert_eq!(
        many,
        "many:1:x\nmany:2:x\n[998 further lines were left out; search for something narrower]"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wishes_over_a_socket() {
    let scene = Scene::new();
    let socket = scene.root.join("socket");
    let stop = CancellationToken::new();
    let serving = tokio::spawn({
        let (socket, hands, stop) = (socket.clone(), Arc::clone(&scene.hands), stop.clone());
        async move { serve::serve(&socket, hands, serve::Askers::All, stop).await }
    });
    until("the socket", || socket.exists()).await;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let watching = tokio::spawn({
        let socket = socket.clone();
        async move { serve::watch(&socket, move |exited| drop(tell.send(exited))).await }
    });
    let ask = |tool: &str, arguments: Value, cancel: &CancellationToken| {
        let (socket, wish, cancel) = (socket.clone(), wish(tool, arguments), cancel.clone());
        async move { serve::ask(&socket, wish, cancel).await }
    };
    let none = CancellationToken::new();
    let said = ask("exec", json!({"command": "echo hi"}), &none).await;
    assert_eq!(said, Outcome::said("hi"));
    assert!(ask("no_such", json!({}), &none).await.is_error);
    // A watcher hears of it; it may come after its command, so it is tried again.
    let deadline = Instant::now() + Duration::from_secs(10);
    let exited = loop {
        ask("exec", json!({"command": "exit 4", "background": true}), &none).await;
        if let Ok(Some(exited)) = tokio::time::timeout(Duration::from_secs(1), told.recv()).await {
            break exited;
        }
        assert!(Instant::now() < deadline);
    };
    assert_eq!(exited.state, "exit code 4");
    // Who hangs up has aborted.
    let cancel = CancellationToken::new();
    let call = tokio::spawn(ask("exec", json!({"command": "echo $$ > pid; sleep 600"}), &cancel));
    let path = scene.path("pid");
    until("the command to begin", || {
        fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n'))
    })
    .await;
    cancel.cancel();
    assert!(call.await.unwrap().is_error);
    let pid = scene.text("pid");
    until("the command to end", || !is_alive(&pid)).await;
    stop.cancel();
    serving.await.unwrap().unwrap();
    watching.abort();
    let gone = ask("ls", json!({}), &none).await;
    assert!(
        gone.is_error && gone.text.contains("skykoi-tools.service"),
        "{}",
        gone.text
    );
}

#[tokio::test]
async fn whoever_sits_behind_the_socket_cannot_fill_who_asks() {
    let scene = Scene::new();
    let socket = scene.root.join("liar");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let lies: [(&[u8], usize); 4] = [
        (b"x", 1 << 20),
        (b"{\"text\":\"", 1),
        (b"\xff\n", 1),
        (b"[[[[[[[[", 1 << 14),
    ];
    tokio::spawn(async move {
        for (lie, times) in lies {
            let (mut stream, _) = listener.accept().await.unwrap();
            for _ in 0..times {
                // It is hung up on.
                if stream.write_all(&lie.repeat(64)).await.is_err() {
                    break;
                }
            }
        }
    });
    for (lie, _) in lies {
        let outcome = serve::ask(&socket, wish("ls", json!({})), CancellationToken::new()).await;
        assert!(
            outcome.is_error && outcome.text.contains("skykoi-tools.service"),
            "{lie:?}: {}",
            outcome.text
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_is_taken_away_comes_back() {
    let scene = Scene::new();
    let socket = scene.root.join("socket");
    let stop = CancellationToken::new();
    let serving = tokio::spawn({
        let (socket, hands, stop) = (socket.clone(), Arc::clone(&scene.hands), stop.clone());
        async move { serve::serve(&socket, hands, serve::Askers::All, stop).await }
    });
    let is_open = || fs::metadata(&socket).is_ok_and(|now| now.mode() & 0o777 == 0o660);
    until("the socket", is_open).await;
    fs::rename(&socket, scene.root.join("taken")).unwrap();
    // Somebody else sits there by then.
    let _other = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let theirs = fs::metadata(&socket).unwrap().ino();
    let is_ours = || fs::metadata(&socket).is_ok_and(|now| now.ino() != theirs) && is_open();
    until("another socket", is_ours).await;
    let again = wish("exec", json!({"command": "echo again"}));
    assert_eq!(
        serve::ask(&socket, again, CancellationToken::new()).await,
        Outcome::said("again")
    );
    stop.cancel();
    serving.await.unwrap().unwrap();
}

#[test]
fn what_models_are_told_is_short_and_complete() {
    let specs = specs();
    let names: Vec<&str> = specs.iter().map(|spec| spec.name).collect();
    assert_eq!(
        names,
        [
            "exec",
            "process",
            "read",
            "write",
            "edit",
            "apply_patch",
            "grep",
            "find",
            "ls",
            "browser"
        ]
    );
    let size: usize = specs
        .iter()
        .map(|spec| spec.description.len() + spec.schema.to_string().len())
        .sum();
    assert!(size < 5_300, "{size}");
    for spec in specs {
        for name in spec.schema["required"].as_array().unwrap() {
            assert!(spec.schema["properties"].get(name.as_str().unwrap()).is_some());
        }
    }
}

#[test]
fn paths() {
    let place = Place {
        workspace: "/home/u/koi".into(),
        home: "/home/u".into(),
        user: "u".to_owned(),
    };
    for (given, meant) in [
        ("a/./b", "/home/u/koi/a/b"),
        ("../x", "/home/u/x"),
        ("~", "/home/u"),
        ("~/a", "/home/u/a"),
        ("~a", "/home/u/koi/~a"),
        ("/etc/../etc/x", "/etc/x"),
    ] {
        assert_eq!(place.path(given), Ok(Path::new(meant).to_owned()));
    }
    assert_eq!(place.shown(Path::new("/home/u/koi/a")), "a");
    assert!(place.path("a\0").is_err());
}

mod confined {
    use super::*;

    /// Everything that writes, in confinement: inside it works, outside the kernel says no, and reading goes everywhere.
    #[tokio::test]
    async fn writes_stay_in_the_workspace() {
        let scene = Scene::new();
        // Temporary directories are open to all: what is outside of them is at home.
        let home = std::env::var("HOME").unwrap_or_else(|_| "/root".to_owned());
        let outside = std::path::PathBuf::from(home);
        if outside.starts_with("/tmp") {
            return;
        }
        let target = outside.join(format!(".koi-confined-{}", std::process::id()));
        let shown = target.display().to_string();
        for (tool, arguments) in [
            ("exec", json!({"command": format!("echo x > {shown}")})),
            (
                "exec",
                json!({"command": format!("bash -c 'echo x > {shown}'"), "pty": true}),
            ),
            ("write", json!({"path": shown, "content": "x"})),
            (
                "apply_patch",
                json!({"input": format!("*** Begin Patch\n*** Add File: {shown}\n+x\n*** End Patch")}),
            ),
        ] {
            let done = scene.confined(tool, arguments).await;
            assert!(
                done.text.to_lowercase().contains("permission denied"),
                "{tool}: {}",
                done.text
            );
            assert!(!target.exists(), "{tool}");
        }
        let done = scene
            .confined(
                "exec",
                json!({"command": "echo inside > a; cat a; test -r /etc/passwd && echo reads"}),
            )
            .await;
        assert_eq!(done.text, "inside\nreads");
        assert!(
            !scene
                .confined("write", json!({"path": "b", "content": "x"}))
                .await
                .is_error
        );
        // Privileges are not gained, and the thread of the next call is free.
        let done = scene
            .confined("exec", json!({"command": "grep NoNewPrivs /proc/self/status"}))
            .await;
        assert_eq!(done.text, "NoNewPrivs:\t1");
        let free = scene.call("write", json!({"path": shown, "content": "x"})).await;
        assert!(!free.is_error, "{}", free.text);
        std::fs::remove_file(&target).unwrap();
    }

    /// Links in the workspace lead a confined tool nowhere, by whatever way it goes through them.
    #[tokio::test]
    async fn links_lead_nowhere() {
        let scene = Scene::new();
        let Some(outside) = Outside::new("links") else { return };
        let there = outside.0.display();
        std::os::unix::fs::symlink(&outside.0, scene.path("way")).unwrap();
        fs::write(outside.0.join("old"), "as it was").unwrap();
        std::os::unix::fs::symlink(outside.0.join("old"), scene.path("end")).unwrap();
        let refused = [
            ("write", json!({"path": "way/new", "content": "x"})),
            ("write", json!({"path": "end", "content": "x"})),
            ("edit", json!({"path": "end", "oldText": "was", "newText": "is"})),
            (
                "apply_patch",
                json!({"input": "*** Begin Patch\n*** Delete File: way/old\n*** End Patch"}),
            ),
            ("exec", json!({"command": "echo x > way/new"})),
            ("exec", json!({"command": ": > end"})),
            (
                "exec",
                json!({"command": format!("mv a {there}/new || ln a {there}/new")}),
            ),
            ("exec", json!({"command": "cd way && mkdir new"})),
            ("exec", json!({"command": "unshare -Ur sh -c 'echo x > way/new'"})),
            (
                "exec",
                json!({"command": format!("ln -s {there} another && echo x > another/new")}),
            ),
        ];
        scene.put("a", "mine");
        for (tool, arguments) in refused {
            let done = scene.confined(tool, arguments.clone()).await;
            let failed = done.is_error || done.text.contains("[exit code");
            assert!(failed, "{tool} {arguments}: {}", done.text);
        }
        let left: Vec<_> = fs::read_dir(&outside.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["old"]);
        assert_eq!(fs::read_to_string(outside.0.join("old")).unwrap(), "as it was");
    }

    /// A directory that no confined tool may write to; none where the home is a temporary one.
    struct Outside(PathBuf);

    impl Outside {
        fn new(name: &str) -> Option<Self> {
            let home = PathBuf::from(std::env::var("HOME").unwrap_or_else(|_| "/root".to_owned()));
            let path = home.join(format!(".koi-outside-{name}-{}", std::process::id()));
            (!home.starts_with("/tmp")).then(|| {
                fs::create_dir_all(&path).unwrap();
                Self(path)
            })
        }
    }

    impl Drop for Outside {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Asks whoever sits behind the socket for a file, without any bound.
    const ASK: &str = "import json, socket, sys\n\
        s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n\
        wish = {'tool': 'write', 'arguments': {'path': sys.argv[2], 'content': 'x'}, 'session': 's'}\n\
        s.sendall(json.dumps({'perform': wish}).encode() + b'\\n'); s.shutdown(1); print(s.recv(4096).decode())";

    /// The tools' own socket is the way around every bound, for whoever is listened to there.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_confined_asks_for_nothing_more() {
        let scene = Scene::new();
        let Some(outside) = Outside::new("ask") else { return };
        let target = outside.0.join("new");
        scene.put("ask.py", ASK);
        for (askers, open) in [(serve::Askers::All, true), (serve::Askers::Others, false)] {
            let socket = scene.root.join(format!("socket-{open}"));
            let stop = CancellationToken::new();
            let serving = tokio::spawn({
                let (socket, hands, stop) = (socket.clone(), Arc::clone(&scene.hands), stop.clone());
                async move { serve::serve(&socket, hands, askers, stop).await }
            });
            until("the socket", || socket.exists()).await;
            let ask = format!("python3 ask.py {} {}", socket.display(), target.display());
            let done = scene.confined("exec", json!({ "command": ask })).await;
            assert_eq!(target.exists(), open, "{askers:?}: {}", done.text);
            let _ = fs::remove_file(&target);
            // Somebody else is still listened to.
            if rustix::process::getuid().is_root() {
                fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
                fs::set_permissions(&scene.root, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
                let other = format!("setpriv --reuid=12345 --clear-groups {ask}");
                let done = scene.call("exec", json!({ "command": other })).await;
                assert!(target.exists(), "{askers:?}: {}", done.text);
                let _ = fs::remove_file(&target);
            }
            stop.cancel();
            serving.await.unwrap().unwrap();
        }
    }
}
