//! The server: one port on loopback for HTTP and WebSocket, and its end.

pub(crate) mod admission;
pub(crate) mod api;
pub(crate) mod credentials;
mod crowd;
mod gate;
pub(crate) mod handshake;
mod http;
pub(crate) mod hub;
pub(crate) mod limiter;
pub(crate) mod outbox;
mod page;
pub(crate) mod params;
pub(crate) mod peer;
pub(crate) mod recent;
mod reload;
mod socket;
pub(crate) mod standing;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::tz::TimeZone;
use koi_wire::config::GatewayConfig;
use koi_wire::frame::{ErrorShape, PresenceEntry, TICK_INTERVAL_MS};
use koi_wire::health::Health;
use koi_wire::name::{close, code, event};
use serde_json::json;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use self::admission::Admission;
use self::api::Counters;
use self::credentials::{Credentials, Variables};
use self::crowd::Crowd;
use self::handshake::{Close, Closed};
use self::hub::{Audience, Hub};
use self::limiter::{Limiter, Limits};
use self::outbox::Broadcast;
use self::peer::{Network, Trust};
use self::recent::Recent;
use self::reload::Live;
use crate::approvals::Approvals;
use crate::clock::Clock;
use crate::config::Loaded;
use crate::methods::Answer;
use crate::nodes::Nodes;
use crate::secret::Secrets;
use crate::services::Services;
use crate::session::OpenError;
use crate::skills::Shelf;
use crate::suspension::Suspension;

/// The version that this binary tells of itself.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The agent that answers when nobody names one.
pub(crate) const DEFAULT_AGENT: &str = "main";

/// How long a client may take to send its HTTP request, and to authenticate.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the end may take in all, in seconds. The unit is written with it: what comes below fits into it, with time to spare.
pub(crate) const STOP_SECONDS: u64 = 45;

/// How long the end may take before sockets are cut.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// How long what runs may go on before that. What is not done by then goes on after the next start.
const SERVICES_TIMEOUT: Duration = Duration::from_secs(30);

const _: () = assert!(SERVICES_TIMEOUT.as_secs() + DRAIN_TIMEOUT.as_secs() + 5 < STOP_SECONDS);

/// How long it takes to be back, the supervisor's pause included.
const RESTART_MS: u64 = 2500;

/// Between two presence events, so that a crowd that comes at once is told about once.
const PRESENCE_PAUSE: Duration = Duration::from_millis(250);

/// How long what was found out about health counts.
const HEALTH_LIFE_MS: i64 = 1000;

/// How often health is told unasked.
const HEALTH_INTERVAL: Duration = Duration::from_secs(60);

// Phases of a server's life.
const STARTING: u8 = 0;
const RUNNING: u8 = 1;
const STOPPING: u8 = 2;

/// What a server is made of.
pub(crate) struct Settings {
    /// The config in force.
    pub(crate) loaded: Loaded,
    /// Overrides the config's port; 0 lets the system choose.
    pub(crate) port: Option<u16>,
    /// Where the gateway keeps its state.
    pub(crate) state_dir: PathBuf,
    /// In front of absolute paths of secrets; `/` but for machines that are directories.
    pub(crate) root: PathBuf,
    /// Where the agent's files are.
    pub(crate) workspace: PathBuf,
    /// Where tools are performed; in this process when it is none.
    pub(crate) tools_socket: Option<PathBuf>,
    /// Where the agent's user is at home.
    pub(crate) home: PathBuf,
    /// Where the wish for a new bundle is put; none where nobody would take it.
    pub(crate) refresh_file: Option<PathBuf>,
    /// The clock.
    pub(crate) clock: Arc<dyn Clock>,
    /// Environment variables that secrets may refer to.
    pub(crate) variables: Variables,
    /// Name of the machine, for the presence list.
    pub(crate) host: String,
    /// Time zone of the machine.
    pub(crate) zone: TimeZone,
}

impl Settings {
    /// The skills of the agent, as this config has them.
    pub(crate) fn shelf(&self, config: &GatewayConfig) -> Shelf {
        Shelf::new(&self.workspace, &self.state_dir, &self.home, config)
    }
}

/// Why a server does not start.
#[derive(Debug, Error)]
pub(crate) enum StartError {
    /// Somebody else has the port.
    #[error("cannot listen on {address}: {source}; is another gateway running? choose another port with --port")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Sessions cannot be kept.
    #[error(transparent)]
    Sessions(#[from] OpenError),
}

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) hub: Arc<Hub>,
    /// What does the work behind the methods.
    pub(crate) services: Services,
    pub(crate) admission: Admission,
    /// Answers by idempotency key, for methods that take one.
    pub(crate) recent: Recent<Answer>,
    /// Whether the gateway is held still.
    pub(crate) suspension: Suspension,
    /// Somebody wants it started anew.
    pub(crate) restart: Arc<Notify>,
    /// Commands that wait for somebody to allow them.
    pub(crate) approvals: Arc<Approvals>,
    /// Held while the file of what is allowed for good is changed.
    pub(crate) approvals_file: Mutex<()>,
    /// Held while the file of skills that are turned off is changed.
    pub(crate) skills_file: Mutex<()>,
    /// Nodes, and what they are asked to do.
    pub(crate) nodes: Nodes,
    /// Requests over plain HTTP.
    pub(crate) counters: Counters,
    /// The config in force.
    pub(crate) live: Live,
    /// Held while the config file is changed.
    pub(crate) config_file: Mutex<()>,
    pub(crate) boot_id: String,
    pub(crate) started_ms: i64,
    trust: Trust,
    pub(crate) credentials: Mutex<Credentials>,
    saving: tokio::sync::Mutex<()>,
    crowd: Crowd,
    phase: AtomicU8,
    limiter: Mutex<Limiter>,
    strangers: Mutex<HashMap<IpAddr, usize>>,
    seeded: Notify,
    known_health: Mutex<Option<Health>>,
    /// Done when the gateway stops.
    pub(crate) stop: CancellationToken,
    /// What is waited for at the end.
    pub(crate) tasks: TaskTracker,
}

/// A server that listens.
pub(crate) struct Server {
    shared: Arc<Shared>,
    listeners: Vec<TcpListener>,
}

impl Server {
    /// Begins to listen, on 127.0.0.1 and, where the machine has it, on [::1].
    ///
    /// # Errors
    /// [`StartError`].
    pub(crate) async fn bind(settings: Settings) -> Result<Self, StartError> {
        let configured = settings.loaded.config.gateway.as_ref().and_then(|gateway| gateway.port);
        let port = settings.port.or(configured).unwrap_or(koi_wire::DEFAULT_PORT);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let first = TcpListener::bind(address)
            .await
            .map_err(|source| StartError::Bind { address, source })?;
        let port = first.local_addr().map_or(port, |address| address.port());
        let mut listeners = vec![first];
        match TcpListener::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await {
            Ok(second) => listeners.push(second),
            Err(error) => info!(%error, "not listening on [::1]"),
        }
        Ok(Self {
            shared: Arc::new(Shared::new(settings)?),
            listeners,
        })
    }

    /// Where it listens.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect()
    }

    /// Whoever holds this can ask for a look at the config file.
    pub(crate) fn look_handle(&self) -> Arc<Notify> {
        self.shared.look_handle()
    }

    /// Serves until `stop` is done, then says goodbye to everybody.
    pub(crate) async fn serve(self, stop: impl Future<Output = ()>) {
        let shared = self.shared;
        shared.tasks.spawn(Arc::clone(&shared).tell_time());
        shared.tasks.spawn(Arc::clone(&shared).tell_presence());
        shared.tasks.spawn(Arc::clone(&shared).tell_health());
        shared.tasks.spawn(Arc::clone(&shared).watch_credentials());
        shared.tasks.spawn(Arc::clone(&shared).watch_config());
        for trouble in lock(&shared.credentials).troubles() {
            error!("nobody can connect with a token: {trouble}; it is read again when that changes");
        }
        for weakness in lock(&shared.credentials).weaknesses() {
            warn!("weak secret: {weakness}");
        }
        shared.services.start(&shared);
        shared.phase.store(RUNNING, Ordering::Relaxed);
        // Last: who comes earlier waits in the listener's queue instead of being sent away.
        for listener in self.listeners {
            shared.tasks.spawn(accept(Arc::clone(&shared), listener));
        }
        let reason = tokio::select! {
            () = stop => "gateway stopping",
            () = shared.restart.notified() => "gateway restarting",
        };
        shared.phase.store(STOPPING, Ordering::Relaxed);
        shared.say_goodbye(reason).await;
    }
}

impl Shared {
    fn new(settings: Settings) -> Result<Self, OpenError> {
        let gateway = settings.loaded.config.gateway.as_ref();
        let proxies = gateway
            .and_then(|gateway| gateway.trusted_proxies.as_ref())
            .into_iter()
            .flatten();
        let origins = gateway.and_then(|gateway| gateway.control_ui.as_ref()?.allowed_origins.clone());
        let auth = gateway.and_then(|gateway| gateway.auth.as_ref());
        let started_ms = settings.clock.now_ms();
        let entry = PresenceEntry {
            ts: started_ms,
            host: Some(settings.host.clone()),
            version: Some(VERSION.to_owned()),
            platform: Some(std::env::consts::OS.to_owned()),
            mode: Some("gateway".to_owned()),
            reason: Some("self".to_owned()),
            text: Some(format!("Gateway: {} (koi-gateway {VERSION})", settings.host)),
            ..PresenceEntry::default()
        };
        let hub = Arc::new(Hub::new(entry));
        let approvals = Arc::new(Approvals::default());
        Ok(Self {
            services: Services::new(&settings, &hub, &approvals)?,
            admission: Admission::new(),
            nodes: Nodes::default(),
            suspension: Suspension::default(),
            restart: Arc::default(),
            live: Live::new(settings.loaded.clone()),
            config_file: Mutex::default(),
            counters: Counters::default(),
            approvals,
            approvals_file: Mutex::default(),
            skills_file: Mutex::default(),
            recent: Recent::default(),
            hub,
            boot_id: uuid::Uuid::new_v4().to_string(),
            started_ms,
            trust: Trust {
                proxies: proxies.filter_map(|text| Network::parse(text)).collect(),
                origins: origins.unwrap_or_default(),
            },
            saving: tokio::sync::Mutex::default(),
            crowd: Crowd::default(),
            phase: AtomicU8::new(STARTING),
            credentials: Mutex::new(Credentials::new(
                gateway,
                &settings.root,
                &settings.state_dir,
                settings.variables,
            )),
            limiter: Mutex::new(Limiter::new(Limits::from_config(
                auth.and_then(|auth| auth.rate_limit.as_ref()),
            ))),
            strangers: Mutex::default(),
            seeded: Notify::new(),
            known_health: Mutex::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            settings,
        })
    }

    /// What keeps the gateway from taking anybody, if something does.
    fn closed(&self) -> Option<Closed> {
        match self.phase.load(Ordering::Relaxed) {
            STARTING => Some(Closed::Starting),
            STOPPING => Some(Closed::Stopping),
            _ => None,
        }
    }

    /// Is the control page to be seen?
    fn serves_page(&self) -> bool {
        let loaded = self.config();
        let gateway = loaded.config.gateway.as_ref();
        gateway
            .and_then(|gateway| gateway.control_ui.as_ref()?.enabled)
            .unwrap_or(true)
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.settings.clock.now_ms()
    }

    pub(crate) fn uptime_ms(&self) -> u64 {
        u64::try_from(self.now_ms() - self.started_ms).unwrap_or(0)
    }

    /// May new work begin?
    ///
    /// # Errors
    /// The error that whoever wanted to begin it is told.
    #[allow(dead_code, reason = "whoever begins work asks this")]
    pub(crate) fn may_begin(&self) -> Result<(), ErrorShape> {
        let reason = match (self.closed(), self.suspension.current(self.now_ms())) {
            (Some(Closed::Starting), _) => "startup-sidecars",
            (Some(Closed::Stopping), _) => "gateway-restarting",
            (None, Some(_)) => "gateway-suspending",
            (None, None) => return Ok(()),
        };
        let mut error = ErrorShape::new(code::UNAVAILABLE, "the gateway takes no new work now");
        error.details = Some(json!({"reason": reason}));
        error.retryable = Some(true);
        error.retry_after_ms = Some(500);
        Err(error)
    }

    /// How the gateway is. What files say about it is looked up once a second at most.
    pub(crate) fn health(&self) -> Health {
        let now_ms = self.now_ms();
        let mut known = lock(&self.known_health);
        let health = match known
            .take()
            .filter(|health| (0..HEALTH_LIFE_MS).contains(&(now_ms - health.ts)))
        {
            Some(health) => health,
            None => self.look_after_health(now_ms),
        };
        *known = Some(health.clone());
        // What is known without a look is as it is now.
        let schedule = &self.services.schedule;
        Health {
            ts: now_ms,
            uptime_ms: self.uptime_ms(),
            heartbeat_seconds: schedule.heartbeat_seconds(),
            next_wake_at_ms: schedule.next_wake().at_ms,
            ..health
        }
    }

    fn look_after_health(&self, now_ms: i64) -> Health {
        let failing = self.failing();
        let next_wake = self.services.schedule.next_wake();
        Health {
            usage: self.services.sessions.spent(),
            ok: failing.is_empty(),
            ts: now_ms,
            duration_ms: 0,
            runtime_version: VERSION.to_owned(),
            config_sha256: self.config().sha256.clone(),
            config_restart_sha256: koi_wire::config::restart_sha256(&self.config().document),
            workspace_seeded: crate::seed::is_done(&self.settings.state_dir),
            uptime_ms: self.uptime_ms(),
            failing,
            default_agent_id: DEFAULT_AGENT.to_owned(),
            heartbeat_seconds: self.services.schedule.heartbeat_seconds(),
            next_wake_at_ms: next_wake.at_ms,
            warnings: self.warnings(),
        }
    }

    /// Where secrets of the config are kept.
    fn secrets(&self) -> Secrets {
        Secrets::new(&self.settings.root, self.settings.variables)
    }

    /// What a person ought to look at.
    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.services.schedule.complaints();
        warnings.extend(self.config_warnings());
        warnings
    }

    /// Asks for a start, from wherever.
    fn restart_handle(&self) -> Arc<Notify> {
        Arc::clone(&self.restart)
    }

    /// What keeps the gateway from doing its work.
    pub(crate) fn failing(&self) -> Vec<String> {
        let mut failing = Vec::new();
        if lock(&self.credentials).tokens().is_empty() {
            failing.push("gateway.auth.token: cannot be read".to_owned());
        }
        if !self.settings.workspace.is_dir() {
            failing.push(format!(
                "agents.defaults.workspace: {} is not a directory",
                self.settings.workspace.display()
            ));
        }
        failing.extend(self.services.conversations.fault());
        failing
    }

    /// The workspace was seeded: health says so from now on.
    pub(crate) fn workspace_seeded(&self) {
        *lock(&self.known_health) = None;
        self.seeded.notify_one();
    }

    async fn tell_time(self: Arc<Self>) {
        let mut interval = tokio::time::interval(Duration::from_millis(TICK_INTERVAL_MS));
        interval.tick().await;
        while self.stop.run_until_cancelled(interval.tick()).await.is_some() {
            let payload = json!({"ts": self.now_ms()}).to_string();
            self.hub.tell(Audience::Everyone, Broadcast::new(event::TICK, payload));
        }
    }

    async fn tell_presence(self: Arc<Self>) {
        while self
            .stop
            .run_until_cancelled(self.hub.presence_changed())
            .await
            .is_some()
        {
            tokio::time::sleep(PRESENCE_PAUSE).await;
            self.hub.broadcast_presence();
        }
    }

    async fn tell_health(self: Arc<Self>) {
        let due = async || {
            tokio::select! {
                () = tokio::time::sleep(HEALTH_INTERVAL) => {}
                () = self.seeded.notified() => {}
            }
        };
        while self.stop.run_until_cancelled(due()).await.is_some() {
            self.hub.health_changed();
            let payload = json!(self.health()).to_string();
            let state = Some(self.hub.state_version());
            let broadcast = Broadcast {
                state,
                ..Broadcast::new(event::HEALTH, payload)
            };
            self.hub.tell(Audience::Everyone, broadcast);
        }
    }

    async fn say_goodbye(&self, reason: &str) {
        let clients = self.hub.len();
        info!(clients, "stopping");
        self.services.drain(SERVICES_TIMEOUT).await;
        let mut payload = json!({"reason": reason});
        if reason == "gateway restarting" {
            payload["restartExpectedMs"] = RESTART_MS.into();
        }
        self.hub
            .tell(Audience::Everyone, Broadcast::new(event::SHUTDOWN, payload.to_string()));
        self.hub.close_all(&Close::new(close::RESTART, "service restart"));
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(DRAIN_TIMEOUT, self.tasks.wait()).await.is_err() {
            warn!(left = self.tasks.len(), "connections were cut");
        }
    }
}

/// Locks what cannot be left half changed by a panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    while let Some(accepted) = shared.stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, address)) => {
                shared.tasks.spawn(connection(Arc::clone(&shared), stream, address));
            }
            Err(error) => {
                // Out of file descriptors: connections end sooner or later, spinning does not help.
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, address: SocketAddr) {
    let _ = stream.set_nodelay(true);
    let stop = shared.stop.clone();
    let spot = shared.crowd.enter();
    let busy = Arc::new(AtomicBool::new(false));
    let service = service_fn(|request| {
        let (shared, busy) = (Arc::clone(&shared), Arc::clone(&busy));
        async move {
            busy.store(true, Ordering::Relaxed);
            let answer = if api::wants(&shared, &request) {
                api::answer(&shared, address.ip(), request).await
            } else {
                http::answer(&shared, address.ip(), request).map(BodyExt::boxed_unsync)
            };
            busy.store(false, Ordering::Relaxed);
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE_TIMEOUT)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(serving);
    tokio::select! {
        // A client that goes away in the middle of a request is its own business.
        _ = serving.as_mut() => {}
        () = spot.cut.cancelled() => {}
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            // Who has not even asked yet is not waited for.
            if busy.load(Ordering::Relaxed) {
                let _ = serving.await;
            }
        }
    }
}
