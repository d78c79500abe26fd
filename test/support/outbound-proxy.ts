/** tinyproxy, as an outbound proxy: it asks for a name and a password, and lets calls to any port through. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import { start } from './process.ts'
import { freePort, until } from './redis.ts'

export interface OutboundProxy {
  readonly url: string
  /** With name and password. */
  readonly withCredentials: string
}

export const PROXY_PASSWORD = 'canary-proxy-password'

export function outboundProxyAt(host: string, port: number): OutboundProxy {
  return { url: `http://${host}:${port}`, withCredentials: `http://operator:${PROXY_PASSWORD}@${host}:${port}` }
}

/** `port`: one that is free; it cannot choose one by itself. */
export async function startOutboundProxy(t: Test, host: string, port?: number): Promise<OutboundProxy> {
  const chosen = port ?? (await freePort())
  const folder = mkdtempSync(join(tmpdir(), 'tinyproxy-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const file = join(folder, 'tinyproxy.conf')
  const lines = [`Port ${chosen}`, `Listen ${host}`, 'Timeout 600', `BasicAuth operator ${PROXY_PASSWORD}`]
  writeFileSync(file, `${lines.join('\n')}\n`)
  const program = start(t, 'tinyproxy', ['-d', '-c', file])
  let isOver = false
  void program.ended.then(() => (isOver = true))
  await until(async () => {
    if (isOver) throw new Error(`tinyproxy has ended: ${program.stdout()}${program.stderr()}`)
    return isOpen(chosen, host)
  })
  return outboundProxyAt(host, chosen)
}

function isOpen(port: number, host: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ port, host })
    socket.once('error', () => resolve(false))
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
  })
}
