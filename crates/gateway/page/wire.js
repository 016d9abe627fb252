// The protocol: one socket, requests by id, events by name, again and again until somebody says stop.

import { deviceToken } from "./identity.js";

const CLIENT = { id: "webchat-ui", version: "1", platform: "web", mode: "webchat" };
const SCOPES = ["operator.read", "operator.write", "operator.admin", "operator.approvals", "operator.pairing"];
const PATIENCE = 30_000;
const LONGEST_PAUSE = 30_000;

/** An answer that says no. */
export class Refusal extends Error {
  constructor(shape) {
    super(shape?.message ?? "refused");
    this.code = shape?.code;
    this.details = shape?.details ?? {};
    this.retryable = shape?.retryable === true;
  }
}

/** Events: `state` {state, reason}, `frame:NAME` (detail is the payload), `gap`. */
export class Gateway extends EventTarget {
  constructor(identity) {
    super();
    this.identity = identity;
    this.waiting = new Map();
    this.pause = 1000;
    this.hello = null;
  }

  /** Connects and stays connected; `token` is the shared one, for a browser that has none of its own yet. */
  async start(token) {
    clearTimeout(this.again);
    this.token = token;
    this.socket?.close();
    this.open();
  }

  open() {
    this.tell("connecting");
    const address = new URL(location.href);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    address.hash = address.search = "";
    const socket = new WebSocket(address);
    this.socket = socket;
    this.seq = 0;
    socket.onmessage = ({ data }) => this.socket === socket && this.take(JSON.parse(data));
    socket.onclose = (close) => this.socket === socket && this.lost(close);
  }

  tell(state, reason = "") {
    this.state = state;
    this.dispatchEvent(new CustomEvent("state", { detail: { state, reason } }));
  }

  take(frame) {
    if (frame.type === "res") return this.answer(frame);
    if (frame.event === "connect.challenge") return this.greet(frame.payload).catch((error) => this.refused(error));
    if (frame.seq) {
      if (this.seq && frame.seq > this.seq + 1) this.dispatchEvent(new Event("gap"));
      this.seq = frame.seq;
    }
    this.dispatchEvent(new CustomEvent(`frame:${frame.event}`, { detail: frame.payload }));
  }

  answer(frame) {
    const entry = this.waiting.get(frame.id);
    if (!entry) return;
    this.waiting.delete(frame.id);
    clearTimeout(entry.timer);
    if (frame.ok) entry.resolve(frame.payload);
    else entry.reject(new Refusal(frame.error));
  }

  async greet(challenge) {
    const own = this.token ? undefined : await deviceToken.load();
    const secret = this.token ?? own ?? "";
    const device = await this.identity.prove({ client: CLIENT, role: "operator", scopes: SCOPES, secret, challenge });
    const auth = this.token ? { token: this.token } : own ? { deviceToken: own } : {};
    const timeZone = Intl.DateTimeFormat().resolvedOptions().timeZone;
    this.hello = await this.call("connect", { minProtocol: 4, maxProtocol: 4, client: { ...CLIENT, timeZone }, role: "operator", scopes: SCOPES, auth, device });
    if (this.hello.auth.deviceToken) await deviceToken.save(this.hello.auth.deviceToken);
    this.token = undefined;
    this.pause = 1000;
    this.tell("ready");
  }

  refused(error) {
    // "Not now" is no refusal: the socket closes and is opened again.
    if (error.retryable || !(error instanceof Refusal)) return;
    this.final = true;
    this.tell("refused", error.message);
  }

  lost(close) {
    for (const { reject, timer } of this.waiting.values()) {
      clearTimeout(timer);
      reject(new Error("the connection was lost"));
    }
    this.waiting.clear();
    if (this.final) {
      this.final = false;
      return;
    }
    this.tell("lost", close.reason);
    this.again = setTimeout(() => this.open(), this.pause * (0.75 + Math.random() / 2));
    this.pause = Math.min(this.pause * 2, LONGEST_PAUSE);
  }

  /** Asks, and waits for the answer. */
  call(method, params = null) {
    const id = crypto.randomUUID();
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.waiting.delete(id);
        reject(new Error(`${method}: no answer within ${PATIENCE / 1000} s`));
      }, PATIENCE);
      this.waiting.set(id, { resolve, reject, timer });
      if (this.socket.readyState !== WebSocket.OPEN) return this.answer({ id, ok: false, error: { message: "not connected" } });
      this.socket.send(JSON.stringify({ type: "req", id, method, params }));
    });
  }

  /** Hears an event of the protocol. */
  on(name, hear) {
    this.addEventListener(`frame:${name}`, ({ detail }) => hear(detail));
  }
}
