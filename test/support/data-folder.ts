/** The data folder of real processes: asking until a budget is spent, looking at what they say of it, and a volume that can be hurt. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import { createSimulator, instant } from '../../src/simulator/simulator.ts'
import { type Running, startProxy } from './process.ts'
import { type Answer, request } from './proxy.ts'

export const TEAM = { 'x-api-key': 'team-token-0123456789' }

export async function aScene(t: Test, folder: string, more: readonly string[] = []) {
  const sim = createSimulator({ latency: instant })
  const { url } = await sim.start()
  t.teardown(() => sim.close())
  const sets = [
    `cache.disk.path=${join(folder, 'cache.db')}`,
    'clients.anonymous={}',
    'clients.team={ token: team-token-0123456789, credits: { perDay: 60 } }',
    ...more,
  ]
  let question = 0
  return {
    sim,
    start: (environment?: Record<string, string>) => startProxy(t, url, sets, environment),
    ask: (proxy: Running, headers: Record<string, string> = TEAM, prompt = `question-${(question += 1)}`) =>
      request(undefined, `${proxy.url}/scrapers/chatgpt?prompt=${prompt}`, { headers }),
  }
}

export type Scene = Awaited<ReturnType<typeof aScene>>

/** Asks new questions until one is refused; says how many were answered, and the refusal. */
export async function spend({ ask }: Scene, proxy: Running): Promise<[answered: number, refusal: Answer]> {
  for (let answered = 0; ; answered += 1) {
    const answer = await ask(proxy)
    if (answer.status !== 200) return [answered, answer]
  }
}

export function admin(proxy: Running, path: string): Promise<Answer> {
  return request(undefined, proxy.adminUrl + path)
}

export async function spentOn(proxy: Running, client = 'team'): Promise<unknown> {
  const { clients } = (await admin(proxy, '/status')).json as {
    readonly clients: readonly { readonly name: string; readonly credits_today: number }[]
  }
  return clients.find(({ name }) => name === client)?.credits_today
}

export async function becomesReady(proxy: Running): Promise<void> {
  await proxy.saw(/records file is back/)
  while ((await admin(proxy, '/readyz')).status !== 200) await new Promise(setImmediate)
}

export async function ended(proxy: Running, signal: NodeJS.Signals): Promise<void> {
  proxy.signal(signal)
  await proxy.ended
}

export const refused = { status: 503, headers: { 'retry-after': /^\d+$/ }, json: { code: 'BUDGET_UNAVAILABLE' } }

/** A volume of its own. Null where this user may not mount one. */
export function aVolume(t: Test, size: string): string | null {
  const folder = mkdtempSync(join(tmpdir(), 'one-folder-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', folder], { stdio: 'ignore' })
  } catch {
    return null
  }
  t.teardown(() => execFileSync('umount', ['-l', folder]))
  return folder
}
