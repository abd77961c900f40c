// An echo server of npm's `ws`; prints its port. A text "close 4001 words" asks it to close so.
import { WebSocketServer } from "ws";

const perMessageDeflate = process.argv.includes("deflate") ? { threshold: 0 } : false;
const server = new WebSocketServer({ host: "127.0.0.1", port: 0, maxPayload: 64 << 20, perMessageDeflate });
server.on("listening", () => console.log(server.address().port));
server.on("connection", (socket) => {
  socket.on("message", (data, isBinary) => {
    const [word, code, ...reason] = isBinary ? [] : data.toString().slice(0, 100).split(" ");
    if (word === "close") socket.close(Number(code), reason.join(" "));
    else socket.send(data, { binary: isBinary });
  });
});
