/** One question to the admin port of the proxy that runs with these settings, with its token and under its certificate. */
import type { Config } from '../config/schema.ts'
import { getText } from '../world/http-client.ts'
import type { Io } from './io.ts'

const PATIENCE_MS = 30_000

interface Asked {
  /** Host and port, for messages. */
  readonly at: string
  /** Null = nobody answers there. */
  readonly answer: { readonly status: number; readonly text: string } | null
}

export async function askAdmin(
  { host, port, tls, token }: Config['admin'],
  target: string,
  accept: string,
  { readFile }: Pick<Io, 'readFile'>,
): Promise<Asked> {
  const at = `${host.includes(':') ? `[${host}]` : host}:${port}`
  const answer = await getText(`http${tls ? 's' : ''}://${at}${target}`, {
    headers: { accept, ...(token ? { authorization: `Bearer ${token.reveal()}` } : {}) },
    certificate: tls ? readFile(tls.cert) : null,
    timeoutMs: PATIENCE_MS,
  }).catch(() => null)
  return { at, answer }
}
