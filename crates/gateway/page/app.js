// The page: a door for those who have no key yet, and five rooms.

import { Chat } from "./chat.js";
import { Identity, deviceToken } from "./identity.js";
import * as views from "./views.js";
import { Gateway } from "./wire.js";

const at = (id) => document.getElementById(id);
const VIEWS = ["chat", "sessions", "cron", "health", "config"];
/** Views that are drawn anew when the gateway says that something of theirs changed. */
const STALE = { "sessions.changed": "sessions", cron: "cron", health: "health", presence: "health" };

class App {
  constructor(gateway) {
    this.gateway = gateway;
    this.chat = new Chat(gateway);
    gateway.addEventListener("state", ({ detail }) => this.state(detail));
    for (const [event, view] of Object.entries(STALE)) gateway.on(event, () => this.view === view && this.draw());
    for (const button of document.querySelectorAll("nav button")) button.addEventListener("click", () => (location.hash = button.dataset.view));
    addEventListener("hashchange", () => this.show());
    at("login").addEventListener("submit", (event) => this.enter(event));
  }

  enter(event) {
    event.preventDefault();
    at("fault").textContent = "";
    const token = at("token").value.trim();
    at("token").value = "";
    this.gateway.start(token);
  }

  async state({ state, reason }) {
    at("state").dataset.state = state;
    at("state").textContent = { connecting: "connecting", ready: "connected", refused: "signed out", lost: "connection lost, trying again" }[state];
    if (state === "refused") {
      // A token of the device that is no longer good would only be refused again.
      await deviceToken.forget();
      this.door(reason);
    }
    if (state === "ready") this.ready();
  }

  door(reason = "") {
    at("rooms").hidden = true;
    at("door").hidden = false;
    at("fault").textContent = reason;
    at("token").focus();
  }

  ready() {
    at("door").hidden = true;
    at("rooms").hidden = false;
    const { snapshot } = this.gateway.hello;
    this.gateway.call("agent.identity.get", {}).then(({ name }) => name && (at("title").textContent = document.title = name)).catch(() => {});
    this.gateway.call("sessions.subscribe", {}).catch(() => {});
    this.chat.open(this.chat.key ?? snapshot.sessionDefaults.mainSessionKey);
    this.show();
  }

  show() {
    this.view = VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "chat";
    for (const view of VIEWS) at(view).hidden = view !== this.view;
    for (const button of document.querySelectorAll("nav button")) {
      if (button.dataset.view === this.view) button.setAttribute("aria-current", "page");
      else button.removeAttribute("aria-current");
    }
    this.draw();
  }

  async draw() {
    const draw = views[this.view];
    if (!draw || this.gateway.state !== "ready") return;
    const room = at(this.view);
    // What is being written is not taken away.
    if (room.contains(document.activeElement) && document.activeElement.matches("input, textarea") && document.activeElement.value) return;
    try {
      await draw(this.gateway, room, { draw: () => this.redraw(), open: (key) => this.open(key) });
    } catch (error) {
      room.replaceChildren(Object.assign(document.createElement("p"), { className: "fault", textContent: error.message }));
    }
  }

  redraw() {
    document.activeElement?.blur();
    return this.draw();
  }

  open(key) {
    this.chat.open(key);
    location.hash = "chat";
  }
}

async function begin() {
  if (!globalThis.crypto?.subtle || !globalThis.indexedDB) {
    at("state").textContent = "This page needs https (or localhost) and a browser that keeps keys.";
    return;
  }
  const app = new App(new Gateway(await Identity.open()));
  if (await deviceToken.load()) app.gateway.start();
  else {
    at("state").textContent = "signed out";
    app.door();
  }
}

begin().catch((error) => (at("state").textContent = `This browser cannot open the page: ${error.message}`));
