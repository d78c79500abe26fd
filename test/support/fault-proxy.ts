/**
 * A TCP proxy that misbehaves on command: slow, thin, deaf (half-open: takes everything, passes nothing on) or cut. A fault
 * holds for the connections there are and for new ones, until the next.
 */
import { connect, createServer, type Socket } from 'node:net'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import type { Test } from 'tap'

export interface FaultProxy {
  readonly port: number
  readonly url: string
  /** Passes everything on at once. What a deaf proxy has held back is passed on, too. */
  readonly heal: () => void
  /** Each chunk of answers comes so much later. */
  readonly delay: (ms: number) => void
  /** Nothing passes in either direction, and nobody is told. */
  readonly blackhole: () => void
  /** Answers come byte by byte: so many per second. */
  readonly throttle: (bytesPerSecond: number) => void
  /** Cuts the connections there are with a reset. */
  readonly reset: () => void
  /** New connections are cut at once as well. */
  readonly refuse: () => void
  readonly connections: number
}

type Mode =
  | { readonly kind: 'clear' | 'deaf' | 'refusing' }
  | { readonly kind: 'slow'; readonly ms: number }
  | { readonly kind: 'thin'; readonly bytesPerSecond: number }

interface Pipe {
  readonly pump: () => void
  readonly cut: () => void
}

export async function startFaultProxy(t: Test, targetPort: number): Promise<FaultProxy> {
  const pipes = new Set<Pipe>()
  let mode: Mode = { kind: 'clear' }

  const server = createServer((near) => {
    if (mode.kind === 'refusing') {
      near.resetAndDestroy()
      return
    }
    const far = connect(targetPort, '127.0.0.1')
    const there = flow(near, far, () => mode, false)
    const back = flow(far, near, () => mode, true)
    const pipe: Pipe = {
      pump: () => {
        there()
        back()
      },
      cut: () => {
        pipes.delete(pipe)
        near.resetAndDestroy()
        far.destroy()
      },
    }
    pipes.add(pipe)
    for (const socket of [near, far]) socket.on('error', pipe.cut).on('close', pipe.cut)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo

  function change(next: Mode): void {
    mode = next
    for (const pipe of pipes) pipe.pump()
  }

  function reset(): void {
    for (const pipe of pipes) pipe.cut()
  }

  t.teardown(async () => {
    reset()
    server.close()
    await once(server, 'close')
  })

  return {
    port,
    url: `redis://127.0.0.1:${port}`,
    heal: () => change({ kind: 'clear' }),
    delay: (ms) => change({ kind: 'slow', ms }),
    blackhole: () => change({ kind: 'deaf' }),
    throttle: (bytesPerSecond) => change({ kind: 'thin', bytesPerSecond }),
    reset,
    refuse() {
      change({ kind: 'refusing' })
      reset()
    },
    get connections() {
      return pipes.size
    },
  }
}

/** Passes on what comes from one socket to the other, in order, as the mode of the moment allows. Returns the way to go on. */
function flow(from: Socket, to: Socket, modeNow: () => Mode, isAnswer: boolean): () => void {
  const waiting: { readonly chunk: Buffer; readonly dueAt: number }[] = []
  let timer: NodeJS.Timeout | null = null

  from.on('data', (chunk: Buffer) => {
    const mode = modeNow()
    waiting.push({ chunk, dueAt: performance.now() + (isAnswer && mode.kind === 'slow' ? mode.ms : 0) })
    pump()
  })

  function pump(): void {
    const mode = modeNow()
    if (timer) clearTimeout(timer)
    timer = null
    if (mode.kind === 'deaf') return
    if (mode.kind === 'thin' && isAnswer) return trickle(mode.bytesPerSecond)
    for (let next = waiting[0]; next; next = waiting[0]) {
      const leftMs = mode.kind === 'slow' ? next.dueAt - performance.now() : 0
      if (leftMs > 0) {
        timer = setTimeout(pump, leftMs).unref()
        return
      }
      waiting.shift()
      to.write(next.chunk)
    }
  }

  function trickle(bytesPerSecond: number): void {
    const next = waiting.shift()
    if (!next) return
    const bytes = Math.max(1, Math.floor(bytesPerSecond / 20))
    to.write(next.chunk.subarray(0, bytes))
    if (next.chunk.length > bytes) waiting.unshift({ ...next, chunk: next.chunk.subarray(bytes) })
    timer = setTimeout(pump, 50).unref()
  }

  return pump
}
