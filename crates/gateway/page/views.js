// Everything beside the chat: sessions, schedule, health, config. Each view is drawn anew from what the gateway says.

import { make, moment } from "./text.js";

const heads = (...names) => make("tr", {}, ...names.map((name) => make("th", { class: name.startsWith("-") ? "wide" : null, scope: "col" }, name.replace(/^-/, ""))));
const cell = (...content) => make("td", {}, ...content);
const wide = (...content) => make("td", { class: "wide" }, ...content);
const facts = (pairs) => make("dl", {}, ...Object.entries(pairs).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));

/** Asks before something that cannot be taken back. */
async function sure(question) {
  const ask = document.getElementById("ask");
  ask.querySelector("p").textContent = question;
  ask.returnValue = "no";
  ask.showModal();
  await new Promise((resolve) => ask.addEventListener("close", resolve, { once: true }));
  return ask.returnValue === "yes";
}

/** A button whose failure is told beside it. */
function act(label, work, attributes = {}) {
  const button = make("button", { type: "button", ...attributes, onclick: async () => {
    button.disabled = true;
    try {
      await work();
    } catch (error) {
      button.after(make("span", { class: "fault", role: "alert" }, ` ${error.message}`));
    }
    button.disabled = false;
  } }, label);
  return button;
}

export async function sessions(gateway, room, { open, draw }) {
  const { sessions: rows, totalCount } = await gateway.call("sessions.list", { limit: 200 });
  const lines = rows.map((row) => make("tr", {},
    cell(make("button", { type: "button", onclick: () => open(row.key) }, row.label ?? row.displayName ?? row.key)),
    wide(moment(row.updatedAt)),
    wide(String(row.totalTokens ?? "")),
    cell(
      act("Start anew", async () => (await sure(`Start ${row.key} anew? Its history is kept.`)) && (await gateway.call("sessions.reset", { key: row.key }), draw())),
      act("Delete", async () => (await sure(`Delete ${row.key} and its history?`)) && (await gateway.call("sessions.delete", { key: row.key }), draw()), { class: "danger" }),
    )));
  room.replaceChildren(make("p", { class: "bar" }, `${totalCount ?? rows.length} sessions`),
    make("table", {}, make("thead", {}, heads("Session", "-Last used", "-Tokens", "")), make("tbody", {}, ...lines)));
}

function when(schedule) {
  if (schedule.kind === "at") return `at ${moment(Date.parse(schedule.at)) || schedule.at}`;
  if (schedule.kind === "every") return `every ${schedule.everyMs / 60_000} min`;
  return `${schedule.expr ?? schedule.kind}${schedule.tz ? ` (${schedule.tz})` : ""}`;
}

export async function cron(gateway, room, { draw }) {
  const { jobs, total } = await gateway.call("cron.list", { includeDisabled: true, limit: 200 });
  const lines = jobs.map((job) => make("tr", {},
    cell(job.name ?? job.id, make("div", { class: "meta" }, when(job.schedule))),
    wide(job.enabled ? moment(job.state?.nextRunAtMs) : "off"),
    wide(make("span", { class: job.state?.lastRunStatus === "error" ? "bad" : null }, job.state?.lastRunStatus ?? "", " ", moment(job.state?.lastRunAtMs))),
    cell(
      act("Run", async () => { await gateway.call("cron.run", { id: job.id, mode: "force" }); draw(); }),
      act(job.enabled ? "Off" : "On", async () => { await gateway.call("cron.update", { id: job.id, patch: { enabled: !job.enabled } }); draw(); }),
      act("Remove", async () => (await sure(`Remove the job ${job.name ?? job.id}?`)) && (await gateway.call("cron.remove", { id: job.id }), draw()), { class: "danger" }),
    )));
  room.replaceChildren(make("p", { class: "bar" }, `${total ?? jobs.length} jobs`),
    make("table", {}, make("thead", {}, heads("Job", "-Next", "-Last", "")), make("tbody", {}, ...lines)), addition(gateway, draw));
}

function addition(gateway, draw) {
  const field = (id, label, attributes) => [make("label", { for: id }, label), make("input", { id, required: true, ...attributes })];
  const fault = make("p", { class: "fault", role: "alert" });
  const form = make("form", {},
    ...field("job-name", "Name", { maxlength: 100 }),
    ...field("job-expr", "When (minute hour day month weekday)", { placeholder: "0 9 * * 1-5" }),
    ...field("job-text", "What the agent is to do", { placeholder: "Look at the open pull requests and sum them up" }),
    fault, make("button", { type: "submit" }, "Add"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const value = (id) => form.querySelector(`#${id}`).value.trim();
    const tz = Intl.DateTimeFormat().resolvedOptions().timeZone;
    try {
      await gateway.call("cron.add", { name: value("job-name"), enabled: true, schedule: { kind: "cron", expr: value("job-expr"), tz }, sessionTarget: "isolated", wakeMode: "now", payload: { kind: "agentTurn", message: value("job-text") } });
      draw();
    } catch (error) {
      fault.textContent = error.message;
    }
  });
  return make("details", {}, make("summary", {}, "Add a job"), form);
}

const span = (ms) => {
  const minutes = Math.floor(ms / 60_000);
  return minutes < 120 ? `${minutes} min` : minutes < 2880 ? `${Math.floor(minutes / 60)} h` : `${Math.floor(minutes / 1440)} days`;
};

export async function health(gateway, room) {
  const [now, here] = await Promise.all([gateway.call("health"), gateway.call("system-presence")]);
  const clients = here.map((entry) => make("tr", {}, cell(entry.text ?? entry.host ?? entry.mode ?? "client"), wide(entry.platform ?? ""), wide(moment(entry.ts))));
  room.replaceChildren(
    facts({
      State: make("span", { class: now.ok ? "good" : "bad" }, now.ok ? "well" : "not well"),
      ...(now.failing?.length ? { Because: now.failing.join("; ") } : {}),
      Version: now.runtimeVersion ?? gateway.hello.server.version,
      Up: span(now.uptimeMs ?? 0),
      ...(now.heartbeatSeconds ? { Heartbeat: `every ${now.heartbeatSeconds / 60} min` } : {}),
      ...(now.nextWakeAtMs ? { "Awake next": moment(now.nextWakeAtMs) } : {}),
      Scopes: gateway.hello.auth.scopes.join(", "),
    }),
    make("h2", {}, "Connected"), make("table", {}, make("thead", {}, heads("Who", "-Platform", "-Since")), make("tbody", {}, ...clients)));
}

export async function config(gateway, room, { draw }) {
  const now = await gateway.call("config.get", {});
  const area = make("textarea", { id: "config-text", spellcheck: "false" });
  area.value = now.raw ?? JSON.stringify(now.config ?? {}, null, 2);
  const fault = make("p", { class: "fault", role: "alert" }, (now.issues ?? []).map((issue) => issue.message ?? String(issue)).join("\n"));
  const save = act("Save", async () => {
    fault.textContent = "";
    try {
      await gateway.call("config.set", { raw: area.value, baseHash: now.hash });
      draw();
    } catch (error) {
      fault.textContent = error.message;
    }
  });
  room.replaceChildren(
    make("p", { class: "bar" }, now.path ?? ""),
    make("p", { class: "hint" }, "Secrets are shown as placeholders and keep their values. What the operator owns cannot be changed here."),
    make("label", { for: "config-text", class: "away" }, "Config"), area, fault, save, " ", act("Discard", draw));
}
