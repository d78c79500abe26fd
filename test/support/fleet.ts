/** Several replicas of the real program that share one Redis and one simulated vendor. */
import http from 'node:http'
import type { Test } from 'tap'
import { createSimulator, instant, type Simulator } from '../../src/simulator/simulator.ts'
import { type Running, startProxy } from './process.ts'
import { type Answer, request } from './proxy.ts'

/** The header of the client that `CLIENTS` names. */
export const TEAM = { 'x-api-key': 'team-token-0123456789' }
const CLIENTS = ['clients.anonymous={}', 'clients.team.token=team-token-0123456789']

export interface Fleet {
  readonly sim: Simulator
  readonly replicas: readonly Running[]
  /** Asks the replica of that number, counted round. */
  readonly ask: (replica: number, prompt: string, headers?: Record<string, string>) => Promise<Answer>
}

/** All of them see Redis. They are stopped with the test. */
export async function aFleet(t: Test, size: number, sets: readonly string[]): Promise<Fleet> {
  const sim = createSimulator({ latency: instant })
  const { url } = await sim.start()
  t.teardown(() => sim.close())
  const all = ['upstream.maxConcurrent=2000', ...CLIENTS, ...sets]
  const replicas = await Promise.all(Array.from({ length: size }, () => startProxy(t, url, all)))
  await Promise.all(replicas.map((replica) => replica.saw(/"msg":"redis is up"/)))
  const agent = new http.Agent({ keepAlive: true, maxSockets: 400 })
  t.teardown(() => agent.destroy())

  function ask(replica: number, prompt: string, headers: Record<string, string> = {}): Promise<Answer> {
    const { url } = replicas[replica % size] as Running
    return request(agent, `${url}/scrapers/chatgpt?${new URLSearchParams({ prompt }).toString()}`, { headers })
  }

  return { sim, replicas, ask }
}

/** How often the vendor was asked this. */
export function callsFor(sim: Simulator, prompt: string): number {
  return sim.requests.filter((one) => one.prompt === prompt).length
}
