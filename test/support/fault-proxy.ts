/**
 * A TCP proxy that misbehaves on command: slow, thin, sliced, deaf (half-open: takes everything, passes nothing on), cut in
 * the middle, slow to close. A fault holds for the connections there are and for new ones, until the next.
 */
import { connect, createServer, type Socket } from 'node:net'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import type { Scope } from './scope.ts'

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
  /** Answers come in pieces of so many bytes, each in a packet of its own. */
  readonly slice: (bytes: number) => void
  /** After so many bytes of answers a connection is closed, properly. */
  readonly limit: (bytes: number) => void
  /** The end of a connection is passed on so much later. */
  readonly closeSlowly: (ms: number) => void
  /** Cuts the connections there are with a reset. */
  readonly reset: () => void
  /** New connections are cut at once as well. */
  readonly refuse: () => void
  /** New connections lead to this port. */
  readonly lead: (port: number) => void
  readonly connections: number
}

type Mode =
  | { readonly kind: 'clear' | 'deaf' | 'refusing' }
  | { readonly kind: 'slow' | 'lingering'; readonly ms: number }
  | { readonly kind: 'thin'; readonly bytesPerSecond: number }
  | { readonly kind: 'sliced' | 'limited'; readonly bytes: number }

interface Pipe {
  readonly pump: () => void
  readonly cut: () => void
}

export async function startFaultProxy(t: Scope, firstPort: number): Promise<FaultProxy> {
  let targetPort = firstPort
  const pipes = new Set<Pipe>()
  let mode: Mode = { kind: 'clear' }

  const server = createServer({ allowHalfOpen: true, noDelay: true }, (near) => {
    if (mode.kind === 'refusing') {
      near.resetAndDestroy()
      return
    }
    const far = connect({ port: targetPort, host: '127.0.0.1', allowHalfOpen: true })
    const there = flow(near, far, () => mode, false)
    const back = flow(far, near, () => mode, true)
    const pipe: Pipe = {
      pump: () => {
        there()
        back()
      },
      cut: () => {
        pipes.delete(pipe)
        // Node cannot reset what is being ended, and would leave it open.
        if (near.writableEnded) near.destroy()
        else near.resetAndDestroy()
        far.destroy()
      },
    }
    pipes.add(pipe)
    for (const socket of [near, far]) {
      socket.on('error', pipe.cut)
      socket.on('close', () => {
        if (near.destroyed && far.destroyed) pipes.delete(pipe)
      })
    }
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
    slice: (bytes) => change({ kind: 'sliced', bytes }),
    limit: (bytes) => change({ kind: 'limited', bytes }),
    closeSlowly: (ms) => change({ kind: 'lingering', ms }),
    reset,
    refuse() {
      change({ kind: 'refusing' })
      reset()
    },
    lead: (port) => void (targetPort = port),
    get connections() {
      return pipes.size
    },
  }
}

interface Waiting {
  /** Null = the end. */
  readonly chunk: Buffer | null
  readonly cameAt: number
}

/** Passes on what comes from one socket to the other, in order, as the mode of the moment allows. Returns the way to go on. */
function flow(from: Socket, to: Socket, modeNow: () => Mode, isAnswer: boolean): () => void {
  const waiting: Waiting[] = []
  let timer: NodeJS.Timeout | null = null
  let passedBytes = 0

  function take(chunk: Buffer | null): void {
    waiting.push({ chunk, cameAt: performance.now() })
    pump()
  }
  from.on('data', take)
  from.on('end', () => take(null))

  function pump(): void {
    const mode = modeNow()
    if (timer) clearTimeout(timer)
    timer = null
    if (mode.kind === 'deaf') return
    if (mode.kind === 'thin' && isAnswer) return trickle(Math.max(1, Math.floor(mode.bytesPerSecond / 20)), 50)
    if (mode.kind === 'sliced' && isAnswer) return trickle(mode.bytes, 1)
    for (let next = waiting[0]; next; next = waiting[0]) {
      const leftMs = next.cameAt + delayOf(mode, next) - performance.now()
      if (leftMs > 0) {
        timer = setTimeout(pump, leftMs).unref()
        return
      }
      waiting.shift()
      if (mode.kind === 'limited' && isAnswer && next.chunk) passUpTo(mode.bytes, next.chunk)
      else pass(next.chunk)
    }
  }

  function delayOf(mode: Mode, { chunk }: Waiting): number {
    if (mode.kind === 'lingering') return chunk ? 0 : mode.ms
    return mode.kind === 'slow' && isAnswer ? mode.ms : 0
  }

  function pass(chunk: Buffer | null): void {
    if (to.writableEnded || to.destroyed) return
    if (!chunk) {
      to.end()
      return
    }
    passedBytes += chunk.length
    to.write(chunk)
  }

  function passUpTo(bytes: number, chunk: Buffer): void {
    pass(chunk.subarray(0, Math.max(0, bytes - passedBytes)))
    if (passedBytes < bytes) return
    pass(null)
    from.destroy()
  }

  function trickle(bytes: number, everyMs: number): void {
    const next = waiting.shift()
    if (!next) return
    pass(next.chunk && next.chunk.subarray(0, bytes))
    if (next.chunk && next.chunk.length > bytes) waiting.unshift({ ...next, chunk: next.chunk.subarray(bytes) })
    timer = setTimeout(pump, everyMs).unref()
  }

  return pump
}
