/** TCP probes of connections that wait, as the kernel counts them down: only Linux tells. */
import { readFileSync } from 'node:fs'
import t from 'tap'
import { createSimulator, instant } from '../../src/simulator/simulator.ts'
import { aProxy, request } from '../support/proxy.ts'

interface Probed {
  readonly localPort: number
  readonly remotePort: number
  readonly inSeconds: number
}

/** Of IPv4 connections whose next timer is a probe; see proc(5), `/proc/net/tcp`. */
function probes(): readonly Probed[] {
  const lines = readFileSync('/proc/net/tcp', 'utf8').trim().split('\n').slice(1)
  return lines.flatMap((line) => {
    const [, local = '', remote = '', , , timer = ''] = line.trim().split(/\s+/)
    const [kind, ticks = ''] = timer.split(':')
    const portOf = (address: string): number => Number.parseInt(address.split(':')[1] ?? '', 16)
    const inSeconds = Number.parseInt(ticks, 16) / 100
    return kind === '02' ? [{ localPort: portOf(local), remotePort: portOf(remote), inSeconds }] : []
  })
}

/** The kernel drops a part of thousands of probes at the same moment, and after ten lost ones it ends a call that was paid for. */
void t.test('keep-alive probes of idle connections are spread over time, on both sides', async (t) => {
  const sim = createSimulator({ latency: instant })
  const { url: upstream } = await sim.start()
  t.teardown(() => sim.close())
  const proxy = await aProxy(t, '', { upstream })
  const prompts = Array.from({ length: 8 }, (_, number) => `question ${number}`)
  for (const prompt of prompts) sim.script({ prompt }, ['hold'])
  const answers = prompts.map((prompt) =>
    request(undefined, `${proxy.url}/scrapers/chatgpt?${new URLSearchParams({ prompt }).toString()}`),
  )
  await Promise.all(prompts.map((prompt) => sim.received(1, { prompt })))

  const [ours, upstreams] = [proxy.url, upstream].map((url) => Number(new URL(url).port))
  const sides = [probes().filter(({ localPort }) => localPort === ours)]
  sides.push(probes().filter(({ remotePort }) => remotePort === upstreams))
  for (const side of sides) {
    t.equal(side.length, prompts.length)
    t.ok(
      side.every(({ inSeconds }) => inSeconds > 10 && inSeconds < 61),
      'neither often nor never',
    )
    t.equal(new Set(side.map(({ inSeconds }) => Math.round(inSeconds))).size, prompts.length, 'each has its own moment')
  }

  for (const prompt of prompts) sim.release({ prompt })
  for (const { status } of await Promise.all(answers)) t.equal(status, 200)
})
