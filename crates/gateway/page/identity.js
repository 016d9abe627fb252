// The key of this browser: Ed25519, made here, never readable by anybody, not even by this page.

const BASE = "koi-gateway";

function base() {
  return new Promise((resolve, reject) => {
    const open = indexedDB.open(BASE, 1);
    open.onupgradeneeded = () => open.result.createObjectStore("kept");
    open.onsuccess = () => resolve(open.result);
    open.onerror = () => reject(open.error);
  });
}

async function kept(mode, work) {
  const database = await base();
  try {
    return await new Promise((resolve, reject) => {
      const asked = work(database.transaction("kept", mode).objectStore("kept"));
      asked.onsuccess = () => resolve(asked.result);
      asked.onerror = () => reject(asked.error);
    });
  } finally {
    database.close();
  }
}

const load = (name) => kept("readonly", (store) => store.get(name));
const save = (name, value) => kept("readwrite", (store) => store.put(value, name));
const forget = (name) => kept("readwrite", (store) => store.delete(name));

const base64url = (bytes) => btoa(String.fromCharCode(...new Uint8Array(bytes))).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
const hex = (bytes) => [...new Uint8Array(bytes)].map((byte) => byte.toString(16).padStart(2, "0")).join("");

async function keys() {
  const old = await load("keys");
  if (old) return old;
  const made = await crypto.subtle.generateKey({ name: "Ed25519" }, false, ["sign", "verify"]);
  await save("keys", made);
  return made;
}

/** What the gateway knows this browser by. */
export class Identity {
  static async open() {
    const pair = await keys();
    const raw = await crypto.subtle.exportKey("raw", pair.publicKey);
    return new Identity(pair, base64url(raw), hex(await crypto.subtle.digest("SHA-256", raw)));
  }

  constructor(pair, publicKey, id) {
    Object.assign(this, { pair, publicKey, id });
  }

  /** The proof for one handshake. */
  async prove({ client, role, scopes, secret, challenge }) {
    const facts = ["v3", this.id, client.id, client.mode, role, scopes.join(","), challenge.ts, secret, challenge.nonce, client.platform, ""];
    const signature = await crypto.subtle.sign({ name: "Ed25519" }, this.pair.privateKey, new TextEncoder().encode(facts.join("|")));
    return { id: this.id, publicKey: this.publicKey, signature: base64url(signature), signedAt: challenge.ts, nonce: challenge.nonce };
  }
}

/** The token that the gateway gave to this browser's key; of no use without the key. */
export const deviceToken = { load: () => load("token"), save: (token) => save("token", token), forget: () => forget("token") };
