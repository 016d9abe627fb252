// The stock client with a device of its own: pairs, comes back with its device token, comes as a node that speaks version 3, and makes the
// round trips that a person would. Prints what came back as JSON.
import crypto from "node:crypto";
import { GatewayClient } from "@openclaw/gateway-client";

const [url, token] = process.argv.slice(2);
const fail = (error) => {
  console.error(String(error?.stack ?? error));
  process.exit(1);
};
setTimeout(() => fail("timed out"), 40000);

const raw = (pem) => crypto.createPublicKey(pem).export({ type: "spki", format: "der" }).subarray(-32);
const identity = () => {
  const { publicKey, privateKey } = crypto.generateKeyPairSync("ed25519");
  const publicKeyPem = publicKey.export({ type: "spki", format: "pem" });
  return {
    deviceId: crypto.createHash("sha256").update(raw(publicKeyPem)).digest("hex"),
    publicKeyPem,
    privateKeyPem: privateKey.export({ type: "pkcs8", format: "pem" }),
  };
};
const stored = new Map();
const hostDeps = {
  signDevicePayload: (pem, payload) => crypto.sign(null, Buffer.from(payload), crypto.createPrivateKey(pem)).toString("base64url"),
  publicKeyRawBase64UrlFromPem: (pem) => raw(pem).toString("base64url"),
  loadDeviceAuthToken: ({ deviceId, role }) => stored.get(`${deviceId}|${role}`) ?? null,
  storeDeviceAuthToken: (entry) => stored.set(`${entry.deviceId}|${entry.role}`, entry),
  clearDeviceAuthToken: ({ deviceId, role }) => stored.delete(`${deviceId}|${role}`),
};

const connect = (options) =>
  new Promise((resolve, reject) => {
    const events = [];
    const waiting = [];
    const client = new GatewayClient({
      url,
      hostDeps,
      ...options,
      onConnectError: reject,
      onEvent: (event) => {
        events.push(event);
        for (const waiter of [...waiting]) waiter();
      },
      onHelloOk: (hello) => resolve({ client, hello, events, until }),
    });
    const until = (matches) =>
      new Promise((found) => {
        const look = () => {
          const event = events.find(matches);
          if (!event) return;
          waiting.splice(waiting.indexOf(look), 1);
          found(event);
        };
        waiting.push(look);
        look();
      });
    client.start();
  });

const scopes = ["operator.read", "operator.write", "operator.admin"];
const told = {};

const own = identity();
const first = await connect({ token, deviceIdentity: own, minProtocol: 4, maxProtocol: 4, scopes });
told.paired = typeof first.hello.auth.deviceToken === "string";
first.client.stop();
const second = await connect({ deviceIdentity: own, minProtocol: 4, maxProtocol: 4, scopes });
told.cameBack = second.hello.auth.scopes;
const { client, hello } = second;

const node = await connect({
  token,
  deviceIdentity: identity(),
  clientName: "node-host",
  mode: "node",
  role: "node",
  scopes: [],
  commands: ["echo"],
  minProtocol: 3,
  maxProtocol: 3,
});
told.nodeProtocol = node.hello.protocol;
const answered = node.until((event) => event.event === "node.invoke.request").then(({ payload }) =>
  node.client.request("node.invoke.result", {
    id: payload.id,
    nodeId: payload.nodeId,
    ok: true,
    payloadJSON: payload.paramsJSON,
  }),
);
const nodes = await client.request("node.list", {});
const invoked = await client.request("node.invoke", {
  nodeId: nodes.nodes[0].nodeId,
  command: "echo",
  params: { said: "hello" },
  idempotencyKey: "once",
});
told.invoked = invoked.payload;
await answered;
node.client.stop();

const offers = (...names) => names.every((name) => hello.features.methods.includes(name));
if (offers("cron.add", "cron.list", "cron.run", "cron.runs", "cron.remove")) {
  const job = await client.request("cron.add", {
    name: "round trip",
    schedule: { kind: "every", everyMs: 3600000 },
    sessionTarget: "main",
    wakeMode: "next-heartbeat",
    payload: { kind: "systemEvent", text: "ping" },
  });
  const listed = await client.request("cron.list", { includeDisabled: true });
  const removed = await client.request("cron.remove", { id: job.id ?? job.job?.id });
  told.cron = { listed: listed.jobs.length, total: listed.total, removed: removed.ok === true };
}
if (offers("chat.send", "chat.history")) {
  const sent = await client.request("chat.send", { sessionKey: "main", message: "hello", idempotencyKey: "chat-1" });
  const final = await second.until((event) => event.event === "chat" && event.payload.runId === "chat-1" && event.payload.state === "final");
  const history = await client.request("chat.history", { sessionKey: "main", limit: 10 });
  told.chat = {
    status: sent.status,
    said: final.payload.message.content[0].text,
    roles: history.messages.map((message) => message.role),
  };
}
if (offers("agent", "agent.wait")) {
  const done = await client.request("agent", { message: "again", sessionKey: "main", idempotencyKey: "agent-1" }, { expectFinal: true });
  const waited = await client.request("agent.wait", { runId: done.runId, timeoutMs: 5000 });
  told.agent = { status: done.status, summary: done.summary, waited: waited.status };
}
if (told.chat && offers("sessions.list", "sessions.patch", "sessions.reset", "sessions.delete")) {
  const listed = await client.request("sessions.list", {});
  const key = listed.sessions[0]?.key;
  const patched = await client.request("sessions.patch", { key, label: "mine" });
  const reset = await client.request("sessions.reset", { key });
  told.sessions = { key, patched: patched.ok, fresh: reset.entry.sessionId !== listed.sessions[0].sessionId };
}
const seqs = second.events.map((event) => event.seq).filter((seq) => seq !== undefined);
told.noGap = seqs.every((seq, index) => seq === seqs[0] + index);
console.log(JSON.stringify(told));
client.stop();
process.exit(0);
