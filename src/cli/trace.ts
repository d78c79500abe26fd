/** `trace ID`: the trail of a request, by the `X-Request-Id` of its answer, asked of the proxy that runs with these settings. */
import { askAdmin } from './ask-admin.ts'
import type { Io } from './io.ts'
import { readSettings, type Wanted, withoutKey } from './settings.ts'

interface TraceWanted extends Wanted {
  readonly id: string
}

/** Resolves to the exit code: 1 when there is no such trail, or nobody to ask. */
export async function runTrace(wanted: TraceWanted, io: Io): Promise<number> {
  // Who looks does not ask upstream.
  const { config } = readSettings(wanted, withoutKey(io))
  const target = `/requests?${new URLSearchParams({ id: wanted.id }).toString()}`
  const { at, answer } = await askAdmin(config.admin, target, 'text/plain', io)
  if (answer?.status === 200) {
    io.stdout(answer.text)
    return 0
  }
  io.stderr(
    answer
      ? `${reasonIn(answer.text)}\n`
      : `No proxy answers at ${at}: start it, or give the settings it runs with by --config or --set admin.port=N.\n`,
  )
  return 1
}

/** The sentence of a refusal. */
function reasonIn(text: string): string {
  try {
    const { detail } = JSON.parse(text) as { readonly detail?: unknown }
    return typeof detail === 'string' ? detail : text
  } catch {
    return text
  }
}
