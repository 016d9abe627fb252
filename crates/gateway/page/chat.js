// The conversation of one session: history by pages, what streams in, what is sent.

import { make, rendered, textOf } from "./text.js";

const PAGE = 50;
const AT_END = 80;

const log = document.getElementById("log");
const older = document.getElementById("older");
const text = document.getElementById("text");
const stop = document.getElementById("stop");

export class Chat {
  constructor(gateway) {
    this.gateway = gateway;
    this.live = new Map();
    this.stale = false;
    gateway.on("chat", (event) => event.sessionKey === this.key && this.hear(event));
    gateway.addEventListener("gap", () => this.open(this.key));
    document.getElementById("say").addEventListener("submit", (event) => this.send(event));
    older.addEventListener("click", () => this.page());
    stop.addEventListener("click", () => this.gateway.call("chat.abort", { sessionKey: this.key }).catch((error) => this.note(error.message)));
    text.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        document.getElementById("say").requestSubmit();
      }
    });
    text.addEventListener("input", () => {
      text.style.height = "auto";
      text.style.height = `${text.scrollHeight + 2}px`;
    });
  }

  /** Shows a session from its end. */
  async open(key) {
    this.key = key;
    this.live.clear();
    this.offset = 0;
    document.getElementById("session").textContent = key;
    try {
      const page = await this.fetch(0);
      if (this.key !== key) return;
      log.replaceChildren(...page.messages.map(row).filter(Boolean));
      this.take(page);
      if (page.inFlightRun?.text) this.delta({ runId: page.inFlightRun.runId, message: { content: page.inFlightRun.text } });
    } catch (error) {
      log.replaceChildren(make("li", { "data-role": "error" }, error.message));
    }
    this.down(true);
  }

  fetch(offset) {
    return this.gateway.call("chat.history", { sessionKey: this.key, limit: PAGE, offset });
  }

  take(page) {
    this.offset += page.messages.length;
    older.hidden = !page.hasMore;
  }

  /** Puts the page before in front; what is looked at stays where it is. */
  async page() {
    older.disabled = true;
    try {
      const page = await this.fetch(this.offset);
      const before = log.scrollHeight;
      log.prepend(...page.messages.map(row).filter(Boolean));
      log.scrollTop += log.scrollHeight - before;
      this.take(page);
    } catch (error) {
      this.note(error.message);
    }
    older.disabled = false;
  }

  async send(event) {
    event.preventDefault();
    const message = text.value.trim();
    if (!message) return;
    const shown = make("li", { "data-role": "user" }, ...rendered(message));
    log.append(shown);
    text.value = "";
    text.style.height = "auto";
    this.down(true);
    try {
      await this.gateway.call("chat.send", { sessionKey: this.key, message, idempotencyKey: crypto.randomUUID() });
    } catch (error) {
      shown.remove();
      text.value = message;
      this.note(`Not sent: ${error.message}`);
    }
  }

  hear(event) {
    if (event.state === "delta") return this.delta(event);
    if (event.state === "status") return this.works(event.runId);
    const entry = this.live.get(event.runId);
    this.live.delete(event.runId);
    const final = event.state === "final" ? textOf(event.message) : "";
    if (entry?.due) cancelAnimationFrame(entry.due);
    if (final || !entry?.text) entry?.item?.remove();
    else entry.item?.replaceChildren(...rendered(entry.text));
    entry?.item?.classList.remove("live");
    if (final) log.append(make("li", { "data-role": "assistant" }, ...rendered(final)));
    if (event.state === "aborted") this.note("Stopped.");
    if (event.state === "error") log.append(make("li", { "data-role": "error" }, event.errorMessage ?? "The run failed."));
    this.after();
  }

  /** A run that has nothing to say yet can be stopped too. */
  works(run) {
    const known = this.live.get(run) ?? { text: "", item: null };
    this.live.set(run, known);
    stop.hidden = false;
    return known;
  }

  delta(event) {
    const known = this.works(event.runId);
    known.text = event.replace || event.deltaText == null ? textOf(event.message) || event.deltaText || known.text : known.text + event.deltaText;
    if (!known.item) {
      known.item = make("li", { "data-role": "assistant", class: "live" });
      log.append(known.item);
    }
    // Once for each frame of the screen, however fast the text comes.
    if (!known.due) {
      known.due = requestAnimationFrame(() => {
        known.due = 0;
        known.item.replaceChildren(...rendered(known.text));
        this.after();
      });
    }
  }

  note(words) {
    log.append(make("li", { "data-role": "note" }, words));
    this.after();
  }

  after() {
    stop.hidden = this.live.size === 0;
    this.down(false);
  }

  /** To the end; unless somebody reads further up. */
  down(always) {
    if (always || log.scrollHeight - log.scrollTop - log.clientHeight < AT_END + log.clientHeight / 4) log.scrollTop = log.scrollHeight;
  }
}

function row(message) {
  const words = textOf(message);
  const { role } = message;
  if (role === "user" || role === "assistant") return words ? make("li", { "data-role": role }, ...rendered(words)) : null;
  if (!words) return null;
  if (role === "system") return make("li", { "data-role": "note" }, words);
  return make("li", {}, make("details", {}, make("summary", {}, role === "toolResult" ? `Result of ${message.toolName ?? "a tool"}` : String(role)), make("pre", {}, words)));
}
