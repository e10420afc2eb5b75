// opencode's end of ally-plugins: runs the hook client at each hook, and does what it prints.
// Without an answer a call is denied, a prompt is not sent, and an output is not shown.
import { spawn } from "node:child_process"

const CLIENT = "@CLIENT@"
const MILLISECONDS = 60_000 // the client answers within 50 s

const run = (event, payload) =>
  new Promise((resolve, reject) => {
    const fail = (why) => reject(new Error(`ally-plugins: ${why}`))
    const child = spawn(CLIENT, ["opencode", event], { stdio: ["pipe", "pipe", "pipe"] })
    const timer = setTimeout(() => { child.kill("SIGKILL"); fail("the hook client gave no answer") }, MILLISECONDS)
    const out = [], err = []
    child.stdout.on("data", (part) => out.push(part))
    child.stderr.on("data", (part) => err.push(part))
    child.stdin.on("error", () => {}) // it has ended before it has read: its code says why
    child.on("error", (error) => { clearTimeout(timer); fail(error.message) })
    child.on("close", (code) => {
      clearTimeout(timer)
      try {
        if (code !== 0) throw new Error(Buffer.concat(err).toString() || `the hook client ended with ${code}`)
        const said = JSON.parse(Buffer.concat(out).toString() || "{}")
        if (typeof said !== "object" || said === null || Array.isArray(said)) throw new Error("the answer is no object")
        resolve(said)
      } catch (error) { fail(error.message) }
    })
    child.stdin.end(JSON.stringify(payload))
  })

// In place: opencode goes on with the objects that it has given.
const replace = (output, text) => {
  if ("output" in output) output.output = text
  if (typeof output.metadata?.output === "string") output.metadata.output = text
  if (Array.isArray(output.content)) output.content.splice(0, output.content.length, { type: "text", text })
}

const append = (output, text) => {
  if (Array.isArray(output.content)) output.content.push({ type: "text", text })
  else output.output = `${output.output}\n${text}`
}

export const AllyPlugins = async ({ directory }) => {
  // With its folder: a conversation's prompt may come before the event that says where it is.
  const ask = (event, payload) => run(event, { ...payload, directory })
  return {
    event: async ({ event }) => {
      if (event.type === "session.created" || event.type === "session.idle")
        await ask(`event.${event.type}`, { input: event }).catch(() => {})
    },
    "chat.message": async (input, output) => {
      const said = await ask("chat.message", { input, output })
      if (said.throw !== undefined) throw new Error(said.throw)
      if (said.text === undefined) return
      const parts = output.parts.filter((part) => "text" in part)
      parts.forEach((part, number) => { part.text = number === 0 ? said.text : "" })
    },
    "tool.execute.before": async (input, output) => {
      const said = await ask("tool.execute.before", { input, output })
      if (said.throw !== undefined) throw new Error(said.throw)
      if (said.args === undefined) return
      for (const name of Object.keys(output.args)) delete output.args[name]
      Object.assign(output.args, said.args)
    },
    "tool.execute.after": async (input, output) => {
      const said = await ask("tool.execute.after", { input, output }).catch((error) => ({ output: error.message }))
      if (said.output !== undefined) replace(output, said.output)
      else if (said.append !== undefined) append(output, said.append)
    },
  }
}
