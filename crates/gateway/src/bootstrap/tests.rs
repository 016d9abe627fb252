use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use koi_wire::bundle::{self, PairedDevice, Tls};
use koi_wire::config::digest;
use koi_wire::name::Scope;
use serde_json::{Value, json};

use super::*;
use crate::file::tests::Scratch;

const VOLUME: &str = "vol-0123456789abcdef0";

/// A machine that is a directory, and that remembers what it was told.
struct Fake {
    root: Scratch,
    bundle: RefCell<Bundle>,
    answers: RefCell<Vec<Failure>>,
    commands: RefCell<Vec<String>>,
    said: RefCell<Vec<String>>,
    active: RefCell<BTreeSet<String>>,
    probe: RefCell<(i32, &'static str)>,
    mounted: Cell<bool>,
    resize_fails: Cell<bool>,
    nginx_enabled: Cell<bool>,
    filter: Cell<bool>,
    slept: Cell<Duration>,
}

/// What nft lists when the rules are in place.
const FILTER: &str = "table inet skykoi {
\tchain output {
\t\ttype filter hook output priority 0; policy accept;
\t\tmeta skuid >= 1000 ip daddr 169.254.169.254 drop
\t\tmeta skuid >= 1000 ip6 daddr fd00:ec2::254 drop
\t}
}
";

fn config() -> Value {
    json!({
        "gateway": {"mode": "local", "auth": {"token": {"source": "file", "path": "/run/skykoi/token"}}},
        "agents": {"defaults": {"workspace": "/home/ubuntu/koi"}}
    })
}

fn bundle() -> Bundle {
    Bundle {
        version: 1,
        min_reader: 1,
        token: "first-token-1234567890".into(),
        previous_token: None,
        tls: Tls {
            certificate: "CERT".to_owned(),
            key: "KEY".into(),
        },
        volume_id: VOLUME.to_owned(),
        config_sha256: digest::sha256(&config()),
        config: config(),
        owner: bundle::Owner {
            display_name: Some("Ada\n# Root".to_owned()),
            email: None,
            time_zone: None,
        },
        devices: vec![PairedDevice {
            public_key: "A".repeat(43),
            scopes: vec![Scope::Admin],
            name: None,
        }],
        sudo: false,
    }
}

impl Fake {
    fn new() -> Self {
        let root = Scratch::new("bootstrap");
        let me = fs::metadata(&*root).unwrap();
        let write = |path: &str, content: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        let (user, group) = (me.uid(), me.gid());
        write(
            "etc/passwd",
            &format!("root:x:{user}:{group}::/root:/bin/sh\nubuntu:x:{user}:{group}::/home/ubuntu:/bin/bash\n"),
        );
        write(
            "etc/sudoers.d/90-cloud-init-users",
            "# all\nubuntu ALL=(ALL) NOPASSWD:ALL\n",
        );
        write("etc/group", "adm:x:4:ubuntu\nlxd:x:116:ubuntu\n");
        write(
            "etc/skykoi/bootstrap.json",
            r#"{"agentUid": "u-1", "cluster": "prod", "region": "us-east-1", "later": 1}"#,
        );
        write("proc/self/mounts", "tmpfs /run tmpfs rw 0 0\n/dev/root / ext4 rw 0 0\n");
        write("etc/nginx/sites-enabled/default", "listen 80;");
        write("dev/nvme1n1", &"\0".repeat(1024));
        fs::create_dir_all(root.join("dev/disk/by-id")).unwrap();
        fs::create_dir_all(root.join("home/ubuntu")).unwrap();
        let fake = Self {
            root,
            bundle: RefCell::new(bundle()),
            answers: RefCell::default(),
            commands: RefCell::default(),
            said: RefCell::default(),
            active: RefCell::default(),
            probe: RefCell::new((2, "")),
            mounted: Cell::new(false),
            resize_fails: Cell::new(false),
            nginx_enabled: Cell::new(true),
            filter: Cell::new(false),
            slept: Cell::new(Duration::ZERO),
        };
        fake.attach();
        fake
    }

    fn link(&self) -> PathBuf {
        self.root
            .join("dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0")
    }

    fn attach(&self) {
        symlink("../../nvme1n1", self.link()).unwrap();
    }

    fn options(&self) -> Options {
        Options {
            root: self.root.to_path_buf(),
            files_only: false,
            patience: Duration::from_secs(60),
        }
    }

    fn bootstrap(&self) -> Result<Vec<&'static str>, Failure> {
        self.commands.borrow_mut().clear();
        self.said.borrow_mut().clear();
        bootstrap(&self.options(), self)
    }

    fn commands(&self) -> Vec<String> {
        let root = self.root.display().to_string();
        self.commands
            .borrow()
            .iter()
            .map(|line| line.replace(&root, ""))
            .collect()
    }

    fn last_words(&self) -> String {
        self.said
            .borrow()
            .last()
            .cloned()
            .unwrap_or_default()
            .replace(&self.root.display().to_string(), "")
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap()
    }

    fn append(&self, path: &str, line: &str) {
        let path = self.root.join(path);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("{text}{line}\n")).unwrap();
    }

    fn obey(&self, words: &[&str]) -> (i32, &'static str) {
        match words {
            ["blkid", ..] => return *self.probe.borrow(),
            ["mkfs.ext4", ..] => *self.probe.borrow_mut() = (0, "TYPE=ext4\n"),
            ["resize2fs", _] if self.resize_fails.get() => return (1, "resize2fs: Operation not permitted"),
            ["resize2fs", _] => return (0, "The filesystem is already 262144 (4k) blocks long.  Nothing to do!"),
            ["mount", "-t", "ext4", "-o", _, _, "/home/ubuntu"] => self.mounted.set(true),
            ["useradd", .., "skykoi"] => {
                let ubuntu = self.read("etc/passwd").lines().last().unwrap().to_owned();
                self.append("etc/passwd", &ubuntu.replace("ubuntu", "skykoi"));
            }
            ["env", .., "install", _, package] => {
                let program = if *package == "nftables" { "nft" } else { package };
                fs::create_dir_all(self.root.join("usr/sbin")).unwrap();
                fs::write(self.root.join("usr/sbin").join(program), "").unwrap();
            }
            ["systemctl", "enable", _, unit] => {
                let wants = self.root.join("etc/systemd/system/sysinit.target.wants");
                fs::create_dir_all(&wants).unwrap();
                let _ = symlink(format!("../{unit}"), wants.join(unit));
            }
            ["gpasswd", "-d", user, group] => {
                let text = self.read("etc/group");
                let gone = text.replace(&format!("{group}:x:116:{user}"), &format!("{group}:x:116:"));
                fs::write(self.root.join("etc/group"), gone).unwrap();
            }
            ["nft", "-f", _] => self.filter.set(true),
            ["nft", _, "list", ..] if !self.filter.get() => return (1, "No such file or directory"),
            ["nft", _, "list", ..] => return (0, FILTER),
            ["systemctl", "is-active", _, unit] => {
                return (if self.active.borrow().contains(*unit) { 0 } else { 3 }, "");
            }
            ["systemctl", "show", .., "skykoi-tools.service"] => return (0, "77\n"),
            ["systemctl", "is-enabled", ..] => return (i32::from(!self.nginx_enabled.get()), ""),
            ["systemctl", "disable", ..] => self.nginx_enabled.set(false),
            ["systemctl", "start" | "restart", unit] => {
                self.active.borrow_mut().insert((*unit).to_owned());
            }
            _ => {}
        }
        (0, "")
    }
}

impl Machine for Fake {
    fn run(&self, command: &Command) -> Result<Output, String> {
        let mut words = vec![command.program.as_str()];
        words.extend(command.arguments.iter().map(String::as_str));
        if !["is-active", "is-enabled", "show"]
            .iter()
            .any(|look| words.contains(look))
        {
            self.commands.borrow_mut().push(words.join(" "));
        }
        let (code, text) = self.obey(&words);
        Ok(Output {
            code,
            text: text.to_owned(),
        })
    }

    fn instance_id(&self) -> Result<String, Failure> {
        Ok("i-0abc".to_owned())
    }

    fn parameter(&self, region: &str, name: &str) -> Result<String, Failure> {
        assert_eq!((region, name), ("us-east-1", "/koi/prod/u-1/i-0abc"));
        match self.answers.borrow_mut().pop() {
            Some(failure) => Err(failure),
            None => Ok(self.bundle.borrow().encode().unwrap()),
        }
    }

    fn ask(&self, server_name: &str, certificate: &str) -> Result<(), String> {
        assert_eq!((server_name, certificate), ("u-1.koi.internal", "CERT"));
        let active = self.active.borrow();
        if active.contains("nginx.service") && active.contains("skykoi-gateway.service") {
            Ok(())
        } else {
            Err("refused".into())
        }
    }

    fn device_number(&self, _device: &Path) -> Option<u64> {
        self.mounted
            .get()
            .then(|| fs::metadata(self.root.join("home/ubuntu")).unwrap().dev())
    }

    fn sleep(&self, pause: Duration) {
        self.slept.set(self.slept.get() + pause);
        if self.slept.get() > Duration::from_secs(5) && !self.link().exists() && self.root.join("attach-later").exists()
        {
            self.attach();
        }
    }

    fn say(&self, line: &str) {
        self.said.borrow_mut().push(line.to_owned());
    }
}

const FIRST_RUN: &str = "\
useradd --system --user-group --no-create-home --home-dir /home/ubuntu/.skykoi --shell /usr/sbin/nologin skykoi
env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 update
env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 install --no-install-recommends nftables
nft -n list table inet skykoi
nft -f /etc/skykoi/metadata.nft
systemctl enable --quiet skykoi-metadata.service
env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 update
env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 install --no-install-recommends nginx
gpasswd -d ubuntu lxd
blkid -p -o export /dev/nvme1n1
mkfs.ext4 -q -m 1 -L koi-data /dev/nvme1n1
mount -t ext4 -o nodev,nosuid,noatime /dev/nvme1n1 /run/skykoi-volume
cp -a /home/ubuntu/. /run/skykoi-volume/
umount /run/skykoi-volume
mount -t ext4 -o nodev,nosuid,noatime /dev/nvme1n1 /home/ubuntu
resize2fs /dev/nvme1n1
systemctl disable --quiet nginx.service
systemctl daemon-reload
nginx -t -q
systemctl start nginx.service
systemctl start skykoi-tools.service
systemctl reset-failed skykoi-gateway.service
systemctl start skykoi-gateway.service
systemctl start skykoi-refresh.path
systemctl start skykoi-refresh.timer";

#[test]
fn the_first_run_does_everything_in_order() {
    let fake = Fake::new();
    let changed = fake.bootstrap().unwrap();
    assert_eq!(fake.commands(), FIRST_RUN.lines().collect::<Vec<_>>());
    let early = EARLY_STEPS.iter().map(|(name, _)| *name);
    let all: Vec<&str> = early
        .chain(STEPS.iter().map(|(name, _)| *name))
        .filter(|name| *name != "answer")
        .collect();
    assert_eq!(changed, all);
    assert_eq!(fake.read("run/skykoi/token"), "first-token-1234567890");
    assert_eq!(fake.read("run/skykoi-tls/tls.key"), "KEY");
    assert!(!fake.root.join("etc/nginx/sites-enabled/default").exists());
    assert!(!fake.root.join("run/skykoi/previous-token").exists());
    let mode = |path: &str| fs::metadata(fake.root.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("home/ubuntu/.skykoi/skykoi.json"), 0o600);
    assert_eq!(
        (mode("home/ubuntu/.skykoi"), mode("run/skykoi"), mode("run/skykoi-tls")),
        (0o700, 0o700, 0o700)
    );
    assert_eq!(
        (mode("home/ubuntu/koi"), mode("home/ubuntu/koi/SOUL.md")),
        (0o2775, 0o664)
    );
    assert!(
        fake.read("home/ubuntu/koi/USER.md").contains("- Name: Ada # Root\n"),
        "one fact is one line"
    );
    let loaded = config::load(&fake.root.join("home/ubuntu/.skykoi/skykoi.json"), |_| None).unwrap();
    assert_eq!(
        loaded.sha256,
        bundle().config_sha256,
        "what the gateway reports is what the operator sent"
    );
}

#[test]
fn the_second_run_changes_nothing() {
    let fake = Fake::new();
    fake.bootstrap().unwrap();
    assert_eq!(fake.bootstrap().unwrap(), Vec::<&str>::new());
    let looks = ["nft -n list table inet skykoi", "resize2fs /dev/nvme1n1"];
    assert_eq!(fake.commands(), looks, "which had nothing to do");
    assert_eq!(fake.last_words(), "done, changed: []");
}

#[test]
fn a_file_system_that_cannot_grow_holds_nothing_up() {
    let fake = Fake::new();
    fake.resize_fails.set(true);
    fake.bootstrap().unwrap();
    let said = fake.said.borrow().join("\n");
    assert!(
        said.contains("warning: /home/ubuntu keeps its size") && said.contains("Operation not permitted"),
        "{said}"
    );
    assert!(fake.active.borrow().contains("skykoi-gateway.service"), "{said}");
}

#[test]
fn tools_are_started_anew_for_what_takes_it_and_left_alone_otherwise() {
    let fake = Fake::new();
    fake.bootstrap().unwrap();
    let restarted = || {
        let changed = fake.bootstrap().unwrap();
        let commands = fake.commands();
        let of = |unit: &str| commands.contains(&format!("systemctl restart {unit}.service"));
        (changed, of("skykoi-tools"), of("skykoi-gateway"))
    };
    fake.bundle.borrow_mut().sudo = true;
    assert_eq!(restarted(), (vec!["sudo", "gateway"], true, false));
    fs::create_dir_all(fake.root.join("proc/77")).unwrap();
    let exe = fake.root.join("proc/77/exe");
    symlink("/usr/local/bin/koi-gateway", &exe).unwrap();
    assert_eq!(restarted(), (vec![], false, false));
    fs::remove_file(&exe).unwrap();
    symlink("/usr/local/bin/koi-gateway (deleted)", &exe).unwrap();
    assert_eq!(restarted(), (vec!["gateway"], true, false));
    fs::remove_file(&exe).unwrap();
    let unit = fake.root.join("etc/systemd/system/skykoi-tools.service");
    fs::write(unit, "[Service]\nExecStart=/older\n").unwrap();
    assert_eq!(restarted(), (vec!["units", "gateway"], true, true));
}

#[test]
fn a_reboot_brings_back_what_lived_in_memory() {
    let fake = Fake::new();
    fake.bootstrap().unwrap();
    fake.active.borrow_mut().clear();
    fake.mounted.set(false);
    fake.filter.set(false);
    fs::remove_dir_all(fake.root.join("run/skykoi")).unwrap();
    fs::write(fake.root.join("proc/self/mounts"), "tmpfs /run tmpfs rw 0 0\n").unwrap();
    let changed = fake.bootstrap().unwrap();
    assert_eq!(
        changed,
        ["metadata", "mount", "layout", "secrets", "devices", "nginx", "gateway"]
    );
    assert!(
        !fake.commands().iter().any(|line| line.starts_with("mkfs")),
        "{:?}",
        fake.commands()
    );
    assert!(fake.commands().contains(&"e2fsck -p /dev/nvme1n1".to_owned()));
}

#[test]
fn a_rotation_touches_only_secrets_and_a_new_config_interrupts_nobody() {
    let fake = Fake::new();
    fake.bootstrap().unwrap();
    fake.bundle.borrow_mut().previous_token = Some("first-token-1234567890".into());
    fake.bundle.borrow_mut().token = "second-token-123456789".into();
    assert_eq!(fake.bootstrap().unwrap(), ["secrets"]);
    assert_eq!(fake.read("run/skykoi/previous-token"), "first-token-1234567890");
    assert!(
        !fake.commands().iter().any(|line| line.contains("restart")),
        "{:?}",
        fake.commands()
    );
    let mut other = config();
    other["cron"] = json!({"enabled": false});
    fake.bundle.borrow_mut().config_sha256 = digest::sha256(&other);
    fake.bundle.borrow_mut().config = other;
    fake.bundle.borrow_mut().previous_token = None;
    assert_eq!(fake.bootstrap().unwrap(), ["secrets", "config", "gateway"]);
    let verbs = |verb: &str| {
        fake.commands()
            .contains(&format!("systemctl {verb} skykoi-gateway.service"))
    };
    assert!(verbs("reload") && !verbs("restart"), "{:?}", fake.commands());
    assert!(!fake.root.join("run/skykoi/previous-token").exists());
    // One that was told to wait for its next start gets one.
    let mut waits = config();
    waits["gateway"]["reload"] = json!({"mode": "off"});
    fake.bundle.borrow_mut().config_sha256 = digest::sha256(&waits);
    fake.bundle.borrow_mut().config = waits;
    assert_eq!(fake.bootstrap().unwrap(), ["config", "gateway"]);
    assert!(verbs("restart"), "{:?}", fake.commands());
}

#[test]
fn metadata_is_closed_before_anything_is_waited_for() {
    let fake = Fake::new();
    *fake.answers.borrow_mut() = vec![Failure::Failed("no bundle".to_owned())];
    assert!(fake.bootstrap().is_err());
    assert!(fake.filter.get(), "{:?}", fake.commands());
    assert!(
        fake.root
            .join("etc/systemd/system/sysinit.target.wants/skykoi-metadata.service")
            .is_symlink(),
        "and on the next boot before any service"
    );
    assert!(!fake.mounted.get());
}

#[test]
fn what_is_not_there_yet_is_waited_for() {
    let fake = Fake::new();
    let denied = || Failure::NotYet("AccessDeniedException: not yet".to_owned());
    *fake.answers.borrow_mut() = vec![
        denied(),
        denied(),
        Failure::NotYet("ParameterNotFound: not yet".to_owned()),
    ];
    fs::remove_file(fake.link()).unwrap();
    fs::write(fake.root.join("attach-later"), "").unwrap();
    fake.bootstrap().unwrap();
    let waited: Vec<String> = fake
        .said
        .borrow()
        .iter()
        .filter(|line| line.contains("waiting"))
        .cloned()
        .collect();
    assert_eq!(waited.len(), 3, "each reason is said once: {waited:?}");
    assert!(
        waited[2].starts_with("step=volume waiting: volume vol-0123456789abcdef0 is not attached"),
        "{}",
        waited[2]
    );
}

#[test]
fn patience_ends() {
    let fake = Fake::new();
    fs::remove_file(fake.link()).unwrap();
    let failure = fake.bootstrap().unwrap_err();
    assert!(matches!(failure, Failure::NotYet(_)));
    assert!(
        fake.last_words()
            .starts_with("step=volume failed: volume vol-0123456789abcdef0 is not attached: no /dev/disk/by-id/nvme-")
    );
    assert!(fake.slept.get() < Duration::from_secs(120));
}

#[test]
fn a_volume_with_anything_on_it_is_never_formatted() {
    let table = [
        ((0, "TYPE=xfs\n"), "has a xfs file system"),
        ((0, "PTTYPE=gpt\n"), "has a gpt partition table"),
        (
            (8, "ambivalent result"),
            "blkid -p -o export /dev/nvme1n1 exited with 8: ambivalent result",
        ),
        ((4, ""), "exited with 4"),
    ];
    for (probe, expected) in table {
        let fake = Fake::new();
        *fake.probe.borrow_mut() = probe;
        assert!(matches!(fake.bootstrap(), Err(Failure::Failed(_))));
        assert!(fake.last_words().contains(expected), "{}", fake.last_words());
        assert!(
            !fake
                .commands()
                .iter()
                .any(|line| line.starts_with("mkfs") || line.starts_with("mount"))
        );
    }
    let fake = Fake::new();
    fs::write(
        fake.root.join("dev/nvme1n1"),
        [vec![0; 1024], vec![1], vec![0; 1024]].concat(),
    )
    .unwrap();
    assert!(fake.bootstrap().is_err());
    assert!(
        fake.last_words().contains("data that no known file system explains"),
        "{}",
        fake.last_words()
    );
}

#[test]
fn data_in_the_middle_is_seen() {
    const MIB: u64 = 1024 * 1024;
    // The copy of a superblock in an ext4 with small blocks, one with usual blocks, and data that begins after 5 MiB.
    for (at, bytes) in [
        (8 * MIB + 1024 + 56, vec![0x53, 0xef]),
        (128 * MIB + 56, vec![0x53, 0xef]),
        (5 * MIB, vec![7; 4 * 1024 * 1024]),
    ] {
        let fake = Fake::new();
        let device = fs::File::options()
            .write(true)
            .open(fake.root.join("dev/nvme1n1"))
            .unwrap();
        device.set_len(300 * MIB).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&device, &bytes, at).unwrap();
        assert!(fake.bootstrap().is_err());
        assert!(
            fake.last_words().contains("data that no known file system explains"),
            "{}",
            fake.last_words()
        );
        assert!(!fake.commands().iter().any(|line| line.starts_with("mkfs")));
    }
}

#[test]
fn a_volume_that_was_used_gets_no_skeleton() {
    let fake = Fake::new();
    *fake.probe.borrow_mut() = (0, "TYPE=ext4\n");
    fs::create_dir_all(fake.root.join("run/skykoi-volume/koi")).unwrap();
    fake.bootstrap().unwrap();
    assert!(
        !fake.commands().iter().any(|line| line.starts_with("cp ")),
        "{:?}",
        fake.commands()
    );
}

#[test]
fn a_config_that_this_gateway_refuses_does_not_replace_the_old_one() {
    let fake = Fake::new();
    fake.bootstrap().unwrap();
    let before = fake.read("home/ubuntu/.skykoi/skykoi.json");
    let bad = json!({"gateway": {"mode": "local", "prot": 1, "auth": {"token": "0123456789abcdef"}}});
    fake.bundle.borrow_mut().config_sha256 = digest::sha256(&bad);
    fake.bundle.borrow_mut().config = bad;
    assert!(fake.bootstrap().is_err());
    assert!(
        fake.last_words()
            .starts_with("step=config failed: the bundle's config is refused: "),
        "{}",
        fake.last_words()
    );
    assert!(
        fake.last_words()
            .contains("gateway.prot: unknown key, did you mean \"port\"?"),
        "{}",
        fake.last_words()
    );
    assert_eq!(fake.read("home/ubuntu/.skykoi/skykoi.json"), before);
}

#[test]
fn sites_of_the_image_are_moved_aside() {
    let fake = Fake::new();
    fs::create_dir_all(fake.root.join("etc/nginx/conf.d")).unwrap();
    fs::write(fake.root.join("etc/nginx/sites-enabled/other"), "listen 8080;").unwrap();
    fs::write(fake.root.join("etc/nginx/conf.d/app.conf"), "server { listen 80; }").unwrap();
    fs::write(fake.root.join("etc/nginx/conf.d/gzip.conf"), "gzip on;").unwrap();
    fake.bootstrap().unwrap();
    for (from, to) in [("sites-enabled/other", "other"), ("conf.d/app.conf", "app.conf")] {
        let line = format!("mv -f /etc/nginx/{from} /etc/nginx/{to}.aside");
        assert!(fake.commands().contains(&line), "{:?}", fake.commands());
    }
    assert!(!fake.commands().iter().any(|line| line.contains("gzip.conf")));
}

#[test]
fn sudo_is_taken_away_and_given_when_the_bundle_says_so() {
    let fake = Fake::new();
    fake.bootstrap().unwrap();
    assert_eq!(fake.read("etc/sudoers.d/90-cloud-init-users"), "# all\n");
    assert_eq!(fake.read("etc/group"), "adm:x:4:ubuntu\nlxd:x:116:\n");
    let ours = fake.root.join("etc/sudoers.d/91-skykoi");
    assert!(!ours.exists());
    fake.bundle.borrow_mut().sudo = true;
    assert_eq!(fake.bootstrap().unwrap(), ["sudo", "gateway"]);
    assert_eq!(fs::read_to_string(&ours).unwrap(), "ubuntu ALL=(ALL) NOPASSWD:ALL\n");
    assert_eq!(fs::metadata(&ours).unwrap().permissions().mode() & 0o7777, 0o440);
    fake.bundle.borrow_mut().sudo = false;
    assert_eq!(fake.bootstrap().unwrap(), ["sudo", "gateway"]);
    assert!(!ours.exists());
}

#[test]
fn the_home_lets_its_user_move_nothing_of_the_gateway() {
    let fake = Fake::new();
    fake.bootstrap().unwrap();
    let mode = fs::metadata(fake.root.join("home/ubuntu"))
        .unwrap()
        .permissions()
        .mode()
        & 0o7777;
    assert_eq!(mode, 0o1770, "sticky, and not the user's own");
}

#[test]
fn links_in_the_place_of_our_directories_are_moved_aside() {
    let fake = Fake::new();
    let outside = fake.root.join("outside");
    fs::create_dir_all(&outside).unwrap();
    for name in ["koi", ".skykoi"] {
        symlink(&outside, fake.root.join("home/ubuntu").join(name)).unwrap();
    }
    fake.bootstrap().unwrap();
    assert_eq!(
        fs::read_dir(&outside).unwrap().count(),
        0,
        "nothing went through a link"
    );
    let mode = fs::metadata(&outside).unwrap().permissions().mode();
    assert_ne!(mode & 0o7777, 0o2775);
    let said = fake.said.borrow().join("\n");
    assert!(
        said.contains("warning: /home/ubuntu/.skykoi was a symbolic link: moved aside to skykoi.aside-"),
        "{said}"
    );
    assert!(said.contains("warning: /home/ubuntu/koi was a symbolic link: moved aside to koi.aside-"));
    assert!(fake.read("home/ubuntu/.skykoi/skykoi.json").contains("gateway"));
    assert_eq!(fake.bootstrap().unwrap(), Vec::<&str>::new());
}

#[test]
fn links_in_the_place_of_our_files_are_replaced() {
    let fake = Fake::new();
    fake.bootstrap().unwrap();
    let outside = fake.root.join("outside");
    fs::write(&outside, "theirs").unwrap();
    let config = fake.root.join("home/ubuntu/.skykoi/skykoi.json");
    fs::remove_file(&config).unwrap();
    symlink(&outside, &config).unwrap();
    symlink(&outside, fake.root.join("home/ubuntu/.skykoi/.skykoi.json.given")).unwrap();
    assert_eq!(fake.bootstrap().unwrap(), ["config", "gateway"]);
    assert_eq!(fs::read_to_string(&outside).unwrap(), "theirs");
    assert!(!fs::symlink_metadata(&config).unwrap().is_symlink());
}

#[test]
fn secrets_are_not_written_to_a_disk() {
    let fake = Fake::new();
    fs::write(fake.root.join("proc/self/mounts"), "/dev/root / ext4 rw 0 0\n").unwrap();
    assert!(fake.bootstrap().is_err());
    assert!(
        fake.last_words()
            .starts_with("step=secrets failed: /run is not a tmpfs")
    );
}

#[test]
fn nothing_secret_is_said() {
    let fake = Fake::new();
    fake.bootstrap().unwrap();
    let said = fake.said.borrow().join("\n");
    assert!(!said.contains("first-token") && !said.contains("KEY"), "{said}");
}

#[test]
fn a_machine_that_is_a_directory_gets_files_only() {
    let fake = Fake::new();
    let options = Options {
        files_only: true,
        ..fake.options()
    };
    assert_eq!(bootstrap(&options, &fake).unwrap(), FILES_ONLY);
    assert_eq!(bootstrap(&options, &fake).unwrap(), Vec::<&str>::new());
    assert_eq!(fake.commands(), Vec::<String>::new());
}

#[test]
fn who_this_is_must_be_plain() {
    let fake = Fake::new();
    let cases = [
        ("", "EOF while parsing a value; "),
        ("{}", ": missing field `cluster`; "),
        (
            "{\"cluster\": \"c\",\n  \"agentUid\": 7}",
            ": agentUid: invalid type: integer `7`, expected a string; ",
        ),
        (
            r#"{"agentUid": "../x", "cluster": "c", "region": "r"}"#,
            ": agentUid: must be of letters, digits and -; ",
        ),
    ];
    for (bad, told) in cases {
        fs::write(fake.root.join("etc/skykoi/bootstrap.json"), bad).unwrap();
        assert!(fake.bootstrap().is_err());
        let words = fake.last_words();
        let wanted = format!("{told}user data writes this file");
        assert!(
            words.starts_with("step=identity failed: /etc/skykoi/bootstrap.json:") && words.contains(&wanted),
            "{words}"
        );
    }
}
