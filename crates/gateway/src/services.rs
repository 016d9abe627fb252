//! What does the work behind the methods: sessions, conversations, the schedule. Made before the gateway listens, started when it does,
//! drained before it ends.

use std::sync::Arc;
use std::time::Duration;

use koi_hands::Place;
use koi_wire::config::GatewayConfig;
use tokio::time::Instant;
use tracing::warn;

use crate::agent::tool::ToolBox;
use crate::agent::tools::{self, Desk, Gate, Grounds, Machine, Tools};
use crate::approvals::Approvals;
use crate::conversation::{Conversations, attachment};
use crate::schedule::{self, Clients, Parts, RealMachine, Schedule, SystemResolver, Talk};
use crate::secret::Secrets;
use crate::server::hub::Hub;
use crate::server::{DEFAULT_AGENT, Settings, Shared};
use crate::session::{self, OpenError, SessionKey, Sessions};
use crate::{clock, methods};

/// How often it is looked whether sessions are too old or too many.
const UPKEEP_PAUSE: Duration = Duration::from_secs(3600);

/// How long the index of sessions may take to be written at the end.
const INDEX_TIMEOUT: Duration = Duration::from_secs(1);

/// All of them.
pub(crate) struct Services {
    /// Conversations as they are kept on disk.
    pub(crate) sessions: Sessions,
    /// What is said in them.
    pub(crate) conversations: Conversations,
    /// Jobs by the clock, and heartbeats.
    pub(crate) schedule: Arc<Schedule>,
    /// Conversations, for who waits for a turn.
    pub(crate) talk: Arc<dyn Talk>,
    /// Tools of the agent, which clients may call too.
    pub(crate) tools: Arc<dyn ToolBox>,
    own_tools: Tools,
}

impl Services {
    /// Made from the settings; the hub is where events go.
    ///
    /// # Errors
    /// The state directory cannot be had.
    pub(crate) fn new(settings: &Settings, hub: &Arc<Hub>, approvals: &Arc<Approvals>) -> Result<Self, OpenError> {
        let config = &settings.loaded.config;
        let zone = config
            .agent_defaults()
            .and_then(|defaults| defaults.user_timezone.as_deref());
        let sessions = Sessions::open(session::Settings {
            state_dir: settings.state_dir.clone(),
            agent: DEFAULT_AGENT.to_owned(),
            workspace: settings.workspace.clone(),
            zone: clock::owner_zone(zone, &settings.zone),
            config: config.session.clone(),
        })?;
        methods::announce_sessions(&sessions, hub);
        let desk = Arc::new(Desk::new(sessions.clone(), Arc::clone(&settings.clock)));
        let own_tools = make_tools(settings, hub, approvals, &desk);
        let tools: Arc<dyn ToolBox> = Arc::new(own_tools.clone());
        let conversations = Conversations::assemble(settings, hub, &sessions, &tools);
        let talk: Arc<dyn Talk> = Arc::new(conversations.clone());
        let parts = Parts {
            state_dir: settings.state_dir.clone(),
            workspace: settings.workspace.clone(),
            clock: Arc::clone(&settings.clock),
            talk: Arc::clone(&talk),
            tell: Arc::new(Clients(Arc::clone(hub))),
            secrets: Secrets::new(&settings.root, settings.variables),
            machine: Arc::new(RealMachine),
            resolver: Arc::new(SystemResolver),
        };
        let rules = schedule::Settings::new(&settings.loaded.config, &settings.zone);
        let schedule = Arc::new(Schedule::new(parts, rules));
        desk.connect(&talk, &schedule);
        Ok(Self {
            sessions,
            conversations,
            schedule,
            talk,
            tools,
            own_tools,
        })
    }

    /// Starts what runs on its own: tasks go to `shared.tasks` and end with `shared.stop`.
    pub(crate) fn start(&self, shared: &Arc<Shared>) {
        self.conversations.start();
        shared.tasks.spawn(keep_index(Arc::clone(shared)));
        shared.tasks.spawn(keep_sessions(Arc::clone(shared)));
        shared.tasks.spawn(tell_exits(Arc::clone(shared)));
        let schedule = Arc::clone(&self.schedule);
        shared
            .tasks
            .spawn(schedule.run(shared.stop.clone(), shared.tasks.clone()));
    }

    /// Another config is in force.
    pub(crate) fn configure(&self, before: &GatewayConfig, config: &GatewayConfig, settings: &Settings) {
        let zone = config
            .agent_defaults()
            .and_then(|defaults| defaults.user_timezone.as_deref());
        let zone = clock::owner_zone(zone, &settings.zone);
        self.own_tools.configure(config);
        self.sessions.set_rules(zone, config.session.clone());
        self.conversations.configure(before, config, settings);
        self.schedule.configure(schedule::Settings::new(config, &settings.zone));
    }

    /// How much runs now.
    pub(crate) fn active(&self) -> usize {
        self.conversations.unfinished()
    }

    /// Lets what runs come to an end, for so long at most. Clients are still connected.
    pub(crate) async fn drain(&self, most: Duration) {
        self.conversations.drain(Instant::now() + most).await;
        // Without it the next start reads from the transcripts what changed.
        let written = tokio::time::timeout(INDEX_TIMEOUT, self.sessions.flush()).await;
        if !matches!(written, Ok(Ok(()))) {
            warn!("the index of sessions was not written");
        }
    }
}

fn make_tools(settings: &Settings, hub: &Arc<Hub>, approvals: &Arc<Approvals>, desk: &Arc<Desk>) -> Tools {
    let machine = match &settings.tools_socket {
        Some(socket) => Machine::Behind(socket.clone()),
        None => Machine::here(Place {
            workspace: settings.workspace.clone(),
            home: settings.home.clone(),
            user: "koi".to_owned(),
        }),
    };
    let gate = Gate {
        file: settings.state_dir.join("exec-approvals.json"),
        home: settings.home.clone(),
        approvals: Arc::clone(approvals),
        hub: Arc::clone(hub),
        clock: Arc::clone(&settings.clock),
    };
    Tools::new(
        machine,
        Grounds {
            workspace: settings.workspace.clone(),
            state_dir: settings.state_dir.clone(),
            home: settings.home.clone(),
            secrets: Secrets::new(&settings.root, settings.variables),
            polly: (settings.variables)("AWS_ENDPOINT_URL_POLLY"),
        },
        gate,
        Arc::clone(desk),
        &settings.loaded.config,
    )
}

/// Reads what is known of sessions, then writes the index now and then.
async fn keep_index(shared: Arc<Shared>) {
    let sessions = shared.services.sessions.clone();
    loop {
        if let Err(error) = sessions.flush_or_load().await {
            warn!(%error, "sessions");
        }
        let pause = tokio::time::sleep(sessions.flush_pause());
        if shared.stop.run_until_cancelled(pause).await.is_none() {
            return;
        }
    }
}

/// Tells conversations of their commands that ended in the background.
async fn tell_exits(shared: Arc<Shared>) {
    let (tell, mut told) = tokio::sync::mpsc::channel(64);
    let tools = shared.services.own_tools.clone();
    let watch = tools.exits(tell);
    let hear = async {
        while let Some(exited) = told.recv().await {
            let Some(text) = tools::news(&exited) else { continue };
            let key = Some(exited.session.as_str()).filter(|key| !key.is_empty());
            if let Err(fault) = shared.services.schedule.wake(key, &text, true).await {
                warn!(fault, "the end of a command was not told");
            }
        }
    };
    let both = async { tokio::join!(watch, hear) };
    let _ = shared.stop.run_until_cancelled(both).await;
}

/// Puts away what is too old or too much.
async fn keep_sessions(shared: Arc<Shared>) {
    let pause = || tokio::time::sleep(UPKEEP_PAUSE);
    while shared.stop.run_until_cancelled(pause()).await.is_some() {
        let conversations = shared.services.conversations.clone();
        let busy = move |key: &SessionKey| conversations.is_busy(key.as_str());
        if let Err(error) = shared.services.sessions.maintain(shared.now_ms(), busy).await {
            warn!(%error, "upkeep of sessions");
        }
        let (workspace, now_ms) = (shared.settings.workspace.clone(), shared.now_ms());
        let pruned = tokio::task::spawn_blocking(move || attachment::prune(&workspace, now_ms, attachment::MOST_KEPT));
        if let Ok(Err(error)) = pruned.await {
            warn!(%error, "upkeep of attachments");
        }
    }
}
