// A client of npm's `ws`: echoes text and binary of many sizes off the server, and closes with 4003.
import WebSocket from "ws";

const perMessageDeflate = process.argv.includes("deflate") ? { threshold: 0 } : false;
const socket = new WebSocket(process.argv[2], { maxPayload: 64 << 20, perMessageDeflate });
const waiting = [];
const arrived = [];
socket.on("message", (data, isBinary) => {
  const wake = waiting.shift();
  if (wake) wake([data, isBinary]);
  else arrived.push([data, isBinary]);
});
const next = () => (arrived.length ? arrived.shift() : new Promise((wake) => waiting.push(wake)));
const check = (what, fine) => {
  if (!fine) {
    console.error("wrong:", what);
    process.exit(1);
  }
};
await new Promise((resolve, reject) => socket.on("open", resolve).on("error", reject));
for (const size of [0, 1, 125, 126, 65535, 65536, 1 << 20, 4 << 20]) {
  const binary = Buffer.alloc(size, "0123456789abc");
  const text = "añ中".repeat(size / 7);
  socket.send(binary);
  socket.send(text);
  const [first, firstIsBinary] = await next();
  const [second, secondIsBinary] = await next();
  check(`binary of ${size}`, firstIsBinary && first.equals(binary));
  check(`text of ${size}`, !secondIsBinary && second.toString() === text);
}
socket.send("Hel", { fin: false });
socket.ping("now");
await new Promise((pong) => socket.on("pong", pong));
socket.send("lo", { fin: true });
check("fragments", (await next())[0].toString() === "Hello");
const closed = new Promise((resolve) => socket.on("close", (code) => resolve(code)));
socket.close(4003, "node is done");
check("close", (await closed) === 4003);
