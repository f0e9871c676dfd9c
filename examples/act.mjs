// Ask for an action from JavaScript, by fetch: in Node 18 or later, and as it is in a browser.
//
//   node examples/act.mjs http://127.0.0.1:8000

const address = globalThis.process?.argv[2] ?? "http://127.0.0.1:8000";

/** Return the action for a state, or the fallback if the service gives none within the deadline. */
async function act(state, { seq, deadline = 1000, fallback = 0 }) {
  try {
    const answer = await fetch(`${address}/act`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ state, seq }),
      signal: AbortSignal.timeout(deadline), // milliseconds
    });
    const body = await answer.json();
    if (!answer.ok) throw new Error(body.detail ?? `status ${answer.status}`);
    if (body.seq !== seq) throw new Error("an answer to another request");
    return body.action;
  } catch (error) {
    // fetch says "fetch failed" alone; its cause says what did.
    console.error(`the fallback decides: ${address}: ${error.cause?.message || error.cause?.code || error.message}`);
    return fallback;
  }
}

console.log("action", await act([0, 0, 0.05, 0], { seq: 1 }));
console.log("action", await act([0, 0, -0.05, 0], { seq: 2, fallback: 1 }));
console.log("action", await act([1, 2, 3], { seq: 3, fallback: 1 }));
