// Connects with the stock client of the protocol family, asks a few things, and prints what came back as JSON.
import { GatewayClient } from "@openclaw/gateway-client";

const [url, token] = process.argv.slice(2);
const events = [];
const fail = (error) => {
  console.error(String(error?.message ?? error));
  process.exit(1);
};
setTimeout(() => fail("timed out"), 15000);

const client = new GatewayClient({
  url,
  token,
  minProtocol: 4,
  maxProtocol: 4,
  scopes: ["operator.read", "operator.admin"],
  onConnectError: fail,
  onEvent: (event) => {
    if (!events.includes(event.event)) events.push(event.event);
  },
  onHelloOk: async (hello) => {
    try {
      const unknown = await client.request("no.such.method", {}).catch((error) => error.message);
      const health = await client.request("health", {});
      await client.request("status", {});
      const presence = await client.request("system-presence");
      while (events.length === 0) await new Promise((resolve) => setTimeout(resolve, 10));
      console.log(
        JSON.stringify({
          protocol: hello.protocol,
          scopes: hello.auth.scopes,
          health,
          presence: presence.length,
          unknown,
          events,
        }),
      );
      client.stop();
      process.exit(0);
    } catch (error) {
      fail(error);
    }
  },
});
client.start();
