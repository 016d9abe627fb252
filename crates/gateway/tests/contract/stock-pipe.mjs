// The stock client as a pipe: one JSON line in for each request, one out for each answer, event, connection and fault. It comes back by itself
// when the connection is lost, as it does for a person.
// usage: node stock-pipe.mjs URL TOKEN [SHA-256 of the certificate]
import readline from "node:readline";
import { GatewayClient } from "@openclaw/gateway-client";

const [url, token, tlsFingerprint] = process.argv.slice(2);
const tell = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const words = (error) => String(error?.message ?? error);

const client = new GatewayClient({
  url,
  token,
  tlsFingerprint,
  minProtocol: 4,
  maxProtocol: 4,
  scopes: ["operator.read", "operator.write", "operator.admin"],
  onConnectError: (error) => tell({ fault: words(error) }),
  onEvent: ({ event, payload }) => tell({ event, payload }),
  onHelloOk: (hello) => tell({ hello }),
  onClose: (code, reason) => tell({ closed: code, reason }),
});
client.start();

for await (const line of readline.createInterface({ input: process.stdin })) {
  const { id, method, params } = JSON.parse(line);
  client.request(method, params).then(
    (payload) => tell({ id, ok: true, payload }),
    (error) => tell({ id, ok: false, error: words(error) }),
  );
}
client.stop();
