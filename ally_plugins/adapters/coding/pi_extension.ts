// pi's end of ally-plugins: runs the hook client at each event, and does what it prints.
// Without an answer a call is denied, a prompt is not sent, and an output is not shown.
import { spawn } from "node:child_process"
import { randomUUID } from "node:crypto"

const CLIENT = "@CLIENT@"
const MILLISECONDS = 60_000 // the client answers within 50 s

const ask = (event: string, payload: unknown): Promise<any> =>
  new Promise((resolve, reject) => {
    const fail = (why: string) => reject(new Error(`ally-plugins: ${why}`))
    const child = spawn(CLIENT, ["pi", event], { stdio: ["pipe", "pipe", "pipe"] })
    const timer = setTimeout(() => { child.kill("SIGKILL"); fail("the hook client gave no answer") }, MILLISECONDS)
    const out: Buffer[] = [], err: Buffer[] = []
    child.stdout.on("data", (part: Buffer) => out.push(part))
    child.stderr.on("data", (part: Buffer) => err.push(part))
    child.stdin.on("error", () => {}) // it has ended before it has read: its code says why
    child.on("error", (error: Error) => { clearTimeout(timer); fail(error.message) })
    child.on("close", (code: number | null) => {
      clearTimeout(timer)
      try {
        if (code !== 0) throw new Error(Buffer.concat(err).toString() || `the hook client ended with ${code}`)
        const said = JSON.parse(Buffer.concat(out).toString() || "{}")
        if (typeof said !== "object" || said === null || Array.isArray(said)) throw new Error("the answer is no object")
        resolve(said)
      } catch (error: any) { fail(error.message) }
    })
    child.stdin.end(JSON.stringify(payload))
  })

const textOf = (messages: any[] | undefined): string => {
  const last = (messages ?? []).filter((each) => each.role === "assistant").at(-1)
  const parts = Array.isArray(last?.content) ? last.content : []
  return typeof last?.content === "string" ? last.content : parts.map((part: any) => part.text ?? "").join("")
}

export default function (pi: any) {
  const own = randomUUID() // where pi does not say which session it is
  const about = (ctx: any) => ({ session_id: ctx?.sessionManager?.getSessionId?.() || own, cwd: ctx?.cwd || process.cwd() })
  const send = (said: any) => {
    if (said.send === undefined) return
    pi.sendMessage({ customType: "ally-plugins", content: said.send, display: true }, { deliverAs: said.as })
  }

  for (const name of ["session_start", "session_shutdown"])
    pi.on(name, async (event: any, ctx: any) => {
      await ask(name, { type: name, reason: event.reason, ...about(ctx) }).catch(() => {})
    })
  pi.on("input", async (event: any, ctx: any) => {
    const { text, source } = event
    const said = await ask("input", { type: "input", text, source, ...about(ctx) })
      .catch((error) => ({ return: { action: "handled" }, notify: error.message }))
    if (said.notify !== undefined) ctx?.ui?.notify?.(said.notify, "error")
    return said.return
  })
  pi.on("tool_call", async (event: any, ctx: any) => {
    const { toolName, toolCallId, input } = event
    const said = await ask("tool_call", { type: "tool_call", toolName, toolCallId, input, ...about(ctx) })
    if (said.args !== undefined) {
      for (const name of Object.keys(input)) delete input[name]
      Object.assign(input, said.args)
    }
    return said.return
  })
  pi.on("tool_result", async (event: any, ctx: any) => {
    const { toolName, toolCallId, input, content, structuredContent, isError } = event
    const payload = { type: "tool_result", toolName, toolCallId, input, content, structuredContent, isError, ...about(ctx) }
    const said = await ask("tool_result", payload)
      .catch((error) => ({ return: { content: [{ type: "text", text: error.message }] } }))
    send(said)
    return said.return
  })
  pi.on("agent_end", async (event: any, ctx: any) => {
    const payload = { type: "agent_end", text: textOf(event.messages), ...about(ctx) }
    send(await ask("agent_end", payload).catch(() => ({})))
  })
}
