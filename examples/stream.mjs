// Ask for actions over one WebSocket: in Node 22 or later, and as it is in a browser.
//
//   node examples/stream.mjs http://127.0.0.1:8000
//
// Answers come in the order of the messages, and each names the seq that it answers: an answer that
// is no longer awaited is dropped.

if (globalThis.WebSocket === undefined) {
  console.error(`stream.mjs needs Node 22 or newer, for its WebSocket; this is ${process.version}`);
  process.exit(1);
}
const address = globalThis.process?.argv[2] ?? "http://127.0.0.1:8000";
const stream = new WebSocket(`${address.replace(/^http/, "ws")}/act/stream`);
const awaited = new Map();
let seq = 0;

stream.onmessage = ({ data }) => {
  const answer = JSON.parse(data);
  awaited.get(answer.seq)?.(answer);
};

/** Return the action for a state, or the fallback after the deadline (milliseconds). */
function act(state, { deadline = 1000, fallback = 0 } = {}) {
  const mine = ++seq;
  return new Promise((resolve) => {
    const finish = (action) => {
      clearTimeout(timer);
      awaited.delete(mine);
      resolve(action);
    };
    const timer = setTimeout(() => finish(fallback), deadline);
    awaited.set(mine, (answer) => finish(answer.action ?? fallback));
    stream.send(JSON.stringify({ state, seq: mine }));
  });
}

const isOpen = await new Promise((resolve) => {
  stream.onopen = () => resolve(true);
  stream.onerror = () => resolve(false);
});
if (!isOpen) {
  console.error(`no stream at ${address}; is the service there, and does it ask for a key?`);
  process.exit(1);
}
console.log("action", await act([0, 0, 0.05, 0]));
console.log("action", await act([0, 0, -0.05, 0], { fallback: 1 }));
console.log("action", await act([1, 2, 3], { fallback: 1 })); // a problem holds no action
stream.close();
