// Starts emulate's Slack on loopback: node slack_emulator.mjs URL-OF-ITS-MODULE PORT SEED..
import net from "node:net";

const [module, port, seed] = process.argv.slice(2);
const listen = net.Server.prototype.listen;
// emulate itself listens on all interfaces.
net.Server.prototype.listen = function (...options) {
  return listen.call(this, { port: Number(options[0]), host: "127.0.0.1" }, options.find((each) => typeof each === "function"));
};

const { createEmulator } = await import(module);
await createEmulator({ service: "slack", port: Number(port), baseUrl: `http://127.0.0.1:${port}`, seed: JSON.parse(seed) });
console.log("ready");
